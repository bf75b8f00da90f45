//! One message that cannot be delivered, and why.

use base64_simd::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::delivery::{DeadLetter, NotAnId};

/// A line is none that [`DeadLetter::to_line`] could have made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a dead letter: {0}")]
pub struct InvalidDeadLetter(String);

impl DeadLetter {
    /// The dead letter as a JSON object in one line, newline included: `time`, `reason`, `topic`, `key`, `event_id`,
    /// `event_time`, `payload`. A key or payload that is not UTF-8 is in `key_base64` or `payload_base64` instead.
    pub fn to_line(&self, time: Timestamp) -> Vec<u8> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value.into());
        put("time", format!("{time:.3}"));
        put("reason", self.reason.clone());
        put("topic", self.topic.clone());
        for (name, bytes) in [("key", self.key.as_deref())] {
            if let Some(bytes) = bytes {
                put_bytes(&mut put, name, bytes);
            }
        }
        put("event_id", self.id.to_string());
        if let Some(time) = self.time() {
            put("event_time", format!("{time:.3}"));
        }
        put_bytes(&mut put, "payload", &self.payload);
        let mut line = Value::Object(fields).to_string().into_bytes();
        line.push(b'\n');
        line
    }

    /// Reads what [`Self::to_line`] made, and gives the time in it.
    ///
    /// # Errors
    /// [`InvalidDeadLetter`] if it is something else.
    pub fn from_line(line: &[u8]) -> Result<(Self, String), InvalidDeadLetter> {
        let fields: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| InvalidDeadLetter(error.to_string()))?;
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(InvalidDeadLetter(format!("it has no `{name}`"))),
        };
        let dead_letter = Self {
            topic: text("topic")?,
            key: bytes(&fields, "key")?,
            payload: bytes(&fields, "payload")?
                .ok_or_else(|| InvalidDeadLetter("it has no `payload`".to_owned()))?,
            id: text("event_id")?.parse().map_err(|error: NotAnId| InvalidDeadLetter(error.to_string()))?,
            time_ms: 0,
            reason: text("reason")?,
        };
        let time = text("time")?;
        // Dead letters of versions before have none: they are not much younger than their events.
        let event_time: Timestamp =
            text("event_time").unwrap_or_else(|_| time.clone()).parse().map_err(no_time)?;
        let time_ms = u64::try_from(event_time.as_millisecond()).unwrap_or_default();
        Ok((Self { time_ms, ..dead_letter }, time))
    }

    /// When what it tells of happened. None for what no calendar has.
    fn time(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(i64::try_from(self.time_ms).ok()?).ok()
    }
}

fn no_time(error: jiff::Error) -> InvalidDeadLetter {
    InvalidDeadLetter(format!("its time: {error}"))
}

fn put_bytes(put: &mut impl FnMut(&str, String) -> Option<Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => put(name, text.to_owned()),
        Err(_) => put(&format!("{name}_base64"), STANDARD.encode_to_string(bytes)),
    };
}

fn bytes(fields: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, InvalidDeadLetter> {
    let base64 = format!("{name}_base64");
    match (fields.get(name), fields.get(&base64)) {
        (Some(Value::String(text)), _) => Ok(Some(text.clone().into_bytes())),
        (None, Some(Value::String(text))) => STANDARD
            .decode_to_vec(text)
            .map(Some)
            .map_err(|_| InvalidDeadLetter(format!("its `{base64}` is not base64"))),
        (None, None) => Ok(None),
        _ => Err(InvalidDeadLetter(format!("its `{name}` is no text"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::testing;

    proptest! {
        #[test]
        fn a_dead_letter_is_read_back(
            topic: String, key: Option<Vec<u8>>, payload: Vec<u8>, sequence: u64, reason: String,
            // As far as nanoseconds in 64 bits reach.
            time_ms in 0..u64::MAX / 1_000_000,
        ) {
            let dead_letter = DeadLetter { topic, key, payload, id: testing::id(sequence), time_ms, reason };
            let line = dead_letter.to_line(Timestamp::UNIX_EPOCH);
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert_eq!(DeadLetter::from_line(&line), Ok((dead_letter, "1970-01-01T00:00:00.000Z".to_owned())));
        }

        #[test]
        fn any_line_is_read_or_refused(line: Vec<u8>) {
            let _ = DeadLetter::from_line(&line);
        }
    }

    #[test]
    fn a_dead_letter_of_the_version_before_has_the_time_at_which_it_became_one() {
        let line = br#"{"time":"1970-01-01T00:00:02.500Z","reason":"r","topic":"t","event_id":"00000000-0000-0000-0000-000000000000-1","payload":"p"}"#;
        assert_eq!(DeadLetter::from_line(line).unwrap().0.time_ms, 2_500);
    }

    #[test]
    fn a_person_can_read_it() {
        let dead_letter = DeadLetter {
            topic: "t".to_owned(),
            key: Some(b"/log/\xff".to_vec()),
            payload: b"{\"a\":1}".to_vec(),
            id: testing::id(1),
            time_ms: 1_500,
            reason: "too large".to_owned(),
        };
        let line = String::from_utf8(dead_letter.to_line(Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(
            line,
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"reason\":\"too large\",\"topic\":\"t\",\"key_base64\":\
             \"L2xvZy//\",\"event_id\":\"00000000-0000-0000-0000-000000000000-1\",\"event_time\":\"1970-01-01T00:00:01.500Z\",\"payload\":\"{\\\"a\\\":1}\"}\n"
        );
    }
}
