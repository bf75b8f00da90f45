//! The effective configuration as TOML, for `check --print`.

use indexmap::IndexMap;
use toml::{Table, Value};

use super::{Config, MessageKey, agent, directory};

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// Parts of a librdkafka property's name that say that its value is a secret.
const SECRET_WORDS: [&str; 5] = ["password", "secret", "token", "credential", "key.pem"];

fn is_secret(property: &str) -> bool {
    let property = property.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| property.contains(word)) || property == "sasl.oauthbearer.config"
}

/// A table of the pairs whose value is there.
pub(super) fn table<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Table {
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

pub(super) fn texts(list: &[String]) -> Option<Value> {
    Some(list.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>().into())
}

pub(super) fn map(pairs: &IndexMap<String, String>, redact: bool) -> Option<Value> {
    let shown =
        |key: &str, value: &str| if redact && is_secret(key) { REDACTED.into() } else { Value::from(value) };
    Some(Value::Table(pairs.iter().map(|(key, value)| (key.clone(), shown(key, value))).collect()))
}

pub(super) fn text(value: impl ToString) -> Option<Value> {
    Some(value.to_string().into())
}

pub(super) fn print(config: &Config) -> String {
    let Config { ring, event, directories, agent, publisher, kafka } = config;
    let key = match &kafka.key {
        MessageKey::Path => "path",
        MessageKey::None => "none",
        MessageKey::Constant(text) => text,
    };
    let whole = table([
        (
            "ring",
            Some(Value::Table(table([
                ("name", text(&ring.name)),
                ("size", text(ring.size)),
                ("group", ring.group.clone().map(Value::from)),
            ]))),
        ),
        (
            "event",
            Some(Value::Table(table([
                ("encoder", text(event.encoder.word())),
                ("fields", map(&event.fields, false)),
                ("tags", texts(&event.tags)),
            ]))),
        ),
        ("directory", Some(directories.iter().map(directory::print).collect::<Vec<_>>().into())),
        ("agent", Some(agent::print(agent))),
        (
            "publisher",
            Some(Value::Table(table([
                ("sink", text(publisher.sink.word())),
                ("flush_interval", publisher.flush_interval.and_then(text)),
                ("batch_records", publisher.batch_records.map(|n| i64::from(n).into())),
                ("batch_bytes", publisher.batch_bytes.and_then(text)),
                ("shutdown_timeout", text(publisher.shutdown_timeout)),
                ("in_flight_records", Some(i64::from(publisher.in_flight_records).into())),
                ("in_flight_bytes", text(publisher.in_flight_bytes)),
            ]))),
        ),
        (
            "kafka",
            Some(Value::Table(table([
                ("brokers", texts(&kafka.brokers)),
                ("topic", text(&kafka.topic)),
                ("key", text(key)),
                ("properties", map(&kafka.properties, true)),
            ]))),
        ),
    ]);
    toml::to_string_pretty(&whole).unwrap_or_default()
}
