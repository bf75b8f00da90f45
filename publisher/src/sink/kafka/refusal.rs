//! What is wrong with a librdkafka property of the configuration's.

use bywash_common::config::{Key, Unusable};

/// The table of the properties.
pub const PROPERTIES: &str = "kafka.properties";

/// What is wrong with a librdkafka property.
pub fn wrong(property: &str, message: impl Into<String>) -> Unusable {
    Unusable { key: Key::from(PROPERTIES).with(property), message: message.into() }
}

/// Another key says the same.
pub fn set_twice(property: &str, key: &str) -> Unusable {
    wrong(property, format!("`{key}` sets it already: keep one of the two"))
}
