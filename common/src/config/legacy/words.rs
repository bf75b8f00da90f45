//! fifo2kinesis's words for values of today's keys.

use crate::config::{kinesis::PartitionKey, publisher::Sink};

/// What a partition key meant to it: any text was one key for all, and none another key for each event.
pub fn partition_key(text: String) -> Result<PartitionKey, String> {
    match text.as_str() {
        "" => Ok(PartitionKey::Random),
        "random" => Err("`random` was one key for all in fifo2kinesis, and is another for each event here: leave it out for \
                         that, or write another word for one key"
            .to_owned()),
        _ => PartitionKey::parse(text),
    }
}

/// The sink that a flush handler is.
pub fn sink_of(handler: &str) -> Result<Sink, String> {
    match handler {
        "kinesis" => Ok(Sink::Kinesis),
        "logger" => Ok(Sink::Stdout),
        _ => Err(format!("`{handler}` is neither `kinesis` nor `logger`")),
    }
}
