//! `[kafka]`

use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;
use toml::Table;

use crate::{secrets::REDACTED, units::Span};

use super::{
    aws::{self, KafkaAws},
    context::{At, Context, Placed},
    template::{Template, Topic, is_name_byte},
    toml_values::{map, table, text, texts},
    words::words,
};

/// Parts of a librdkafka property's name that say that its value is a secret.
const SECRET_WORDS: [&str; 8] =
    ["password", "secret", "token", "credential", "key.pem", "passphrase", "oauthbearer.config", "ssl_key"];

/// What librdkafka marks as sensitive beside: where secrets are, and for whom. A test of the publisher holds this to
/// librdkafka's own list.
const SENSITIVE: [&str; 4] =
    ["ssl.key.location", "ssl.ca.pem", "sasl.username", "sasl.oauthbearer.assertion.private.key.file"];

/// Headers that the publisher gives each message, or each dead letter.
const GIVEN_HEADERS: [&str; 5] = ["event_id", "encoder", "failed_topic", "failed_reason", "failed_attempts"];
/// The most bytes of all headers of one's own, names and values.
const HEADERS_BYTES_MAX: usize = 16 << 10;

/// Where Kafka is, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// host:port of some brokers of the cluster.
    pub brokers: Vec<String>,
    /// host:port of ZooKeeper servers, the last with the path of the cluster behind it if it has one; the brokers are looked up there.
    pub zookeepers: Vec<String>,
    /// The topic of what no directory gives another.
    pub topic: Topic,
    /// Whether a topic that does not exist is made, as the brokers make one by default.
    pub create_topic: bool,
    /// What decides an event's partition.
    pub key: MessageKey,
    /// How often a reader sees an event.
    pub delivery: Delivery,
    /// Who writes, over restarts; nothing for one that is made of host and ring.
    pub transactional_id: Option<String>,
    /// How long a transaction takes events in before it is committed.
    pub transaction_interval: Span,
    /// Headers of each message, beside those that the publisher gives it.
    pub headers: IndexMap<String, String>,
    /// More librdkafka properties.
    pub properties: IndexMap<String, String>,
    /// How brokers of Amazon MSK are shown who this is.
    pub aws: KafkaAws,
    /// The names of those whose values were read from elsewhere, and are shown nowhere.
    pub referenced: Vec<String>,
}

/// How often a reader sees an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Once, and again under the same id after a crash.
    AtLeastOnce,
    /// Once, for those who read what is committed.
    ExactlyOnce,
}

words!(Delivery:
    "at_least_once" => Delivery::AtLeastOnce,
    "exactly_once" => Delivery::ExactlyOnce);

/// What decides an event's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageKey {
    /// The file's path: its events keep their order.
    Path,
    /// Nothing: events are spread, and their order is lost.
    None,
    /// One key for all.
    Constant(String),
    /// One that the event decides.
    Made(Template),
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["localhost:9092".to_owned()],
            zookeepers: Vec::new(),
            topic: Topic::Named("logs".to_owned()),
            create_topic: false,
            key: MessageKey::Path,
            delivery: Delivery::AtLeastOnce,
            transactional_id: None,
            transaction_interval: Span(Duration::from_millis(100)),
            headers: IndexMap::new(),
            properties: IndexMap::new(),
            aws: KafkaAws::default(),
            referenced: Vec::new(),
        }
    }
}

impl MessageKey {
    /// The key that a text of the configuration stands for.
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub fn parse(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "path" => Self::Path,
            "none" => Self::None,
            _ => Template::parse(&text)?.map_or(Self::Constant(text), Self::Made),
        })
    }
}

/// The section as it stands in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    brokers: Placed<Vec<String>>,
    zookeepers: Placed<Vec<String>>,
    topic: Placed<String>,
    create_topic: Option<bool>,
    key: Placed<String>,
    delivery: Placed<String>,
    transactional_id: Placed<String>,
    transaction_interval: Option<Span>,
    headers: Option<IndexMap<String, At<String>>>,
    properties: Option<IndexMap<String, Property>>,
    aws: Option<aws::Table>,
}

/// librdkafka's properties are texts; numbers and booleans may be written as such.
pub(super) struct Property(String);

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(from)? {
            toml::Value::String(text) => Ok(Self(text)),
            toml::Value::Integer(number) => Ok(Self(number.to_string())),
            toml::Value::Boolean(switch) => Ok(Self(switch.to_string())),
            other => Err(serde::de::Error::custom(format_args!(
                "`{other}` is no value of a librdkafka property: write a text, a whole number, true or false"
            ))),
        }
    }
}

impl Section {
    pub(super) fn apply(self, to: &mut KafkaConfig, context: &mut Context) {
        if let (Some(_), Some(zookeepers)) = (&self.brokers, &self.zookeepers)
            && !zookeepers.get_ref().is_empty()
        {
            let message = "`kafka.brokers` says already where the brokers are: keep one of the two";
            context.refuse(zookeepers.span().start, message);
        }
        context.set(&mut to.brokers, self.brokers, checked_brokers);
        context.set(&mut to.zookeepers, self.zookeepers, checked_zookeepers);
        context.set(&mut to.topic, self.topic, checked_route);
        context.set(&mut to.key, self.key, MessageKey::parse);
        context.set(&mut to.delivery, self.delivery, |word| word.parse());
        context.set(&mut to.transactional_id, self.transactional_id, |id| {
            checked_name(id, "cannot be a transactional id").map(Some)
        });
        to.create_topic = self.create_topic.unwrap_or(to.create_topic);
        to.transaction_interval = self.transaction_interval.unwrap_or(to.transaction_interval);
        set_headers(&mut to.headers, self.headers.unwrap_or_default(), context);
        if let Some(table) = self.aws {
            aws::apply(table, &mut to.aws, context);
        }
        let properties = self.properties.unwrap_or_default();
        to.properties = properties.into_iter().map(|(k, v)| (k, v.0)).collect();
    }
}

/// Takes headers over, unless something is wrong with one.
fn set_headers(
    to: &mut IndexMap<String, String>,
    headers: IndexMap<String, At<String>>,
    context: &mut Context,
) {
    let mut bytes = 0;
    for (name, value) in headers {
        let at = value.span().start;
        let value = value.into_inner();
        bytes += name.len() + value.len();
        match checked_header(&name, bytes) {
            Ok(()) => drop(to.insert(name, value)),
            Err(message) => context.refuse(at, message),
        }
    }
}

/// Whether a header can have this name, where all up to it have so many bytes.
fn checked_header(name: &str, bytes: usize) -> Result<(), String> {
    if GIVEN_HEADERS.contains(&name) {
        return Err(format!(
            "`{name}` cannot name a header of one's own: the publisher gives messages one of that name; choose another name"
        ));
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        let name = name.escape_debug();
        return Err(format!(
            "`{name}` cannot name a header: use at least one character, and no control characters"
        ));
    }
    if bytes > HEADERS_BYTES_MAX {
        return Err(format!(
            "with `{name}` the headers have {bytes} bytes, which each message would carry: use at most {HEADERS_BYTES_MAX}"
        ));
    }
    Ok(())
}

impl KafkaConfig {
    /// The secrets among the properties. An address from which tokens come is none.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let properties = self.properties.iter();
        let is_address = |property: &str| property.ends_with(".url");
        properties
            .filter(move |(property, _)| {
                self.referenced.contains(property) || (is_secret(property) && !is_address(property))
            })
            .map(|(_, value)| value.as_str())
    }

    /// The section with its effective values, secrets left out.
    pub(super) fn print(&self) -> Table {
        let key = match &self.key {
            MessageKey::Path => "path",
            MessageKey::None => "none",
            MessageKey::Constant(key) => key,
            MessageKey::Made(template) => template.text(),
        };
        let shown = |(property, value): (&String, &String)| {
            let is_hidden = is_sensitive(property) || self.referenced.contains(property);
            (property.clone(), if is_hidden { REDACTED.to_owned() } else { value.clone() })
        };
        table([
            // One says where the other ones are.
            ("brokers", if self.zookeepers.is_empty() { texts(&self.brokers) } else { None }),
            ("zookeepers", texts(&self.zookeepers)),
            ("topic", text(&self.topic)),
            ("create_topic", Some(self.create_topic.into())),
            ("key", text(key)),
            ("delivery", text(self.delivery.word())),
            ("transactional_id", self.transactional_id.clone().map(Into::into)),
            ("transaction_interval", text(self.transaction_interval)),
            ("headers", map(&self.headers)),
            ("properties", map(&self.properties.iter().map(shown).collect())),
            ("aws", Some(aws::print(&self.aws))),
        ])
    }
}

/// Whether the value of a librdkafka property is left out where the configuration is shown.
pub fn is_sensitive(property: &str) -> bool {
    is_secret(property) || SENSITIVE.contains(&property.to_ascii_lowercase().as_str())
}

fn is_secret(property: &str) -> bool {
    let property = property.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| property.contains(word))
}

/// The protocols that librdkafka takes in front of a broker (its `rd_kafka_secproto_names`).
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

pub(super) fn checked_brokers(brokers: Vec<String>) -> Result<Vec<String>, String> {
    if brokers.is_empty() {
        return Err("no brokers: give at least one host:port".to_owned());
    }
    for broker in &brokers {
        let address = match broker.split_once("://") {
            Some((protocol, address)) if PROTOCOLS.contains(&&*protocol.to_ascii_lowercase()) => address,
            Some((protocol, _)) => {
                let known = PROTOCOLS.join(", ");
                return Err(format!(
                    "`{broker}` is not a broker: {protocol} is none of {known}; use host:port"
                ));
            }
            None => broker,
        };
        if !is_address(address, "9092") {
            return Err(format!(
                "`{broker}` is not a broker: use host:port, with an IPv6 address in brackets"
            ));
        }
    }
    Ok(brokers)
}

/// Whether a text is `host:port`, or a host where `port` is understood.
fn is_address(text: &str, port: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, port),
        Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or_default()),
        None => text.rsplit_once(':').unwrap_or((text, port)),
    };
    let is_bracketed = text.starts_with('[');
    let fits =
        |c: char| !c.is_whitespace() && !c.is_control() && !"/[]@,".contains(c) && (c != ':' || is_bracketed);
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && host.chars().all(fits) && is_port
}

/// As fuse_kafka takes them: `host:port`, and `/path` behind the last one where the cluster does not lie at the top.
pub(super) fn checked_zookeepers(zookeepers: Vec<String>) -> Result<Vec<String>, String> {
    let last = zookeepers.len().saturating_sub(1);
    for (i, server) in zookeepers.iter().enumerate() {
        let (address, path) = server.split_once('/').map_or((&server[..], None), |(a, p)| (a, Some(p)));
        if !is_address(address, "2181") || path == Some("") {
            return Err(format!("`{server}` is not a ZooKeeper server: use host:port or host:port/path"));
        }
        if path.is_some() && i != last {
            return Err(format!("`{server}`: the path belongs behind the last server, and holds for all"));
        }
    }
    Ok(zookeepers)
}

/// The most bytes of a topic's name.
pub(super) const TOPIC_BYTES_MAX: usize = 249;

/// The characters and length that Kafka allows (`org.apache.kafka.common.internals.Topic`).
pub(super) fn checked_topic(topic: String) -> Result<String, String> {
    checked_name(topic, "cannot name a topic")
}

/// The topic of events, be it one that they decide.
pub(super) fn checked_route(topic: String) -> Result<Topic, String> {
    Topic::parse(topic)?.checked(checked_topic)
}

/// The same of another name; `refusal` says what it cannot be.
fn checked_name(name: String, refusal: &str) -> Result<String, String> {
    let fits = (1..=TOPIC_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_name_byte)
        && name != "."
        && name != "..";
    if fits {
        Ok(name)
    } else {
        Err(format!("`{name}` {refusal}: use 1 to 249 letters, digits, `.`, `_` or `-`"))
    }
}
