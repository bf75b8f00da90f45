//! Events as they are read back: JSON that parses, taken apart.

use serde_json::{Map, Value};

use super::Message;

/// One event in the `logstash_base64` format.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The whole object, its keys in the order in which they came.
    pub json: Map<String, Value>,
    /// The message's key.
    pub key: Option<Vec<u8>>,
    message: Vec<u8>,
}

/// What tells an event from all others: its `event_id`, and which `part` and `piece` of a split write it is, if any.
pub type Identity = (String, Option<u64>, Option<u64>);

/// What a loss event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub reason: String,
    /// Of which file, if of one.
    pub path: Option<String>,
    /// How many writes.
    pub events: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Event {
    /// Takes a message apart.
    ///
    /// # Panics
    /// If it is not a JSON object, or its `@message` is not base64.
    #[track_caller]
    pub fn parse(message: &Message) -> Self {
        let json: Value = serde_json::from_slice(&message.payload)
            .unwrap_or_else(|e| panic!("an event does not parse: {e}: {}", message.text()));
        let Value::Object(json) = json else { panic!("an event is no object: {json}") };
        let mut event = Self { json, key: message.key.clone(), message: Vec::new() };
        if event.json.contains_key("@message") {
            event.message = event.base64("@message");
        }
        event
    }

    /// The value of a key.
    #[track_caller]
    pub fn get(&self, key: &str) -> &Value {
        self.json.get(key).unwrap_or_else(|| panic!("no {key} in {:?}", self.json))
    }

    /// The value of a key that is a string.
    #[track_caller]
    pub fn text(&self, key: &str) -> &str {
        self.get(key).as_str().unwrap_or_else(|| panic!("{key} is no string in {:?}", self.json))
    }

    /// The value of a key that is a whole number.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).as_u64().unwrap_or_else(|| panic!("{key} is no number in {:?}", self.json))
    }

    /// The bytes under a key that is base64.
    #[track_caller]
    pub fn base64(&self, key: &str) -> Vec<u8> {
        let text = self.text(key);
        base64_simd::STANDARD
            .decode_to_vec(text)
            .unwrap_or_else(|e| panic!("{key} is not base64: {e}: {text}"))
    }

    /// `event_id`.
    #[track_caller]
    pub fn id(&self) -> &str {
        self.text("event_id")
    }

    /// What no other event has, and each repetition of this one.
    #[track_caller]
    pub fn identity(&self) -> Identity {
        let number = |key| self.json.contains_key(key).then(|| self.number(key));
        (self.id().to_owned(), number("part"), number("piece"))
    }

    /// `path`.
    #[track_caller]
    pub fn path(&self) -> &str {
        self.text("path")
    }

    /// `offset`.
    #[track_caller]
    pub fn offset(&self) -> u64 {
        self.number("offset")
    }

    /// The written bytes.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// `@tags`.
    pub fn tags(&self) -> Vec<&str> {
        let tags = self.get("@tags").as_array().expect("@tags is a list");
        tags.iter().filter_map(Value::as_str).collect()
    }

    /// What it says was lost, or withheld by a quota, if it is news of that.
    pub fn lost(&self) -> Option<Lost> {
        let lost = self.json.get("lost").or_else(|| self.json.get("withheld"))?;
        let number = |key: &str| lost[key].as_u64().unwrap_or_else(|| panic!("no {key} in {lost}"));
        let reason = lost["reason"].as_str().unwrap_or_else(|| panic!("no reason in {lost}")).to_owned();
        let path = lost["path"].as_str().map(str::to_owned);
        Some(Lost { reason, path, events: number("events"), bytes: number("bytes") })
    }
}
