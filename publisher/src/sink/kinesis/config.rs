//! What the configuration says of requests, and what Kinesis could not do.

use std::time::Duration;

use bywash_common::{
    config::{Config, RECORD_BYTES_MAX, Unusable, checked_stream_name},
    units::ByteSize,
};

use super::lanes::Limits;

/// The most records in a request (API reference, `PutRecords`).
const REQUEST_RECORDS_MAX: u32 = 500;
/// The most bytes of a request to a stream with the default limits, partition keys included.
const REQUEST_BYTES: u64 = 5 << 20;
/// How long a record waits for others unless `publisher.flush_interval` says otherwise.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Checks what can be checked without reaching for AWS.
///
/// # Errors
/// An [`Unusable`] that names what is wrong.
pub fn check(config: &Config) -> Result<(), Unusable> {
    limits(config).map(drop)
}

/// What a request may hold, and when it is sent.
///
/// # Errors
/// An [`Unusable`] that names what is wrong.
pub fn limits(config: &Config) -> Result<Limits, Unusable> {
    let refuse = |key: &str, message: String| Err(Unusable::new(key, message));
    let (publisher, kinesis) = (&config.publisher, &config.kinesis);
    if kinesis.stream_name.text().is_empty() {
        return refuse(
            "kinesis.stream_name",
            "it is not set: name the stream that takes the events".to_owned(),
        );
    }
    let own = config.own_topics().filter_map(|(key, topic)| Some((key, topic.named()?)));
    let losses = config.event.loss_topic.as_deref().map(|topic| ("event.loss_topic", topic));
    for (key, topic) in own.chain(losses) {
        if let Err(message) = checked_stream_name(topic.to_owned()) {
            return refuse(key, message);
        }
    }
    let batch_records = publisher.batch_records.unwrap_or(REQUEST_RECORDS_MAX);
    if batch_records > REQUEST_RECORDS_MAX {
        let message = format!(
            "`{batch_records}` is too large: a request to Kinesis holds {REQUEST_RECORDS_MAX} at most"
        );
        return refuse("publisher.batch_records", message);
    }
    let default = ByteSize(REQUEST_BYTES).max(kinesis.record_bytes_max);
    let batch_bytes = publisher.batch_bytes.unwrap_or(default);
    if batch_bytes > RECORD_BYTES_MAX {
        let message =
            format!("`{batch_bytes}` is too large: a request to Kinesis holds {RECORD_BYTES_MAX} at most");
        return refuse("publisher.batch_bytes", message);
    }
    let size = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    Ok(Limits {
        strict_order: kinesis.strict_order,
        aggregate: kinesis.aggregate,
        batch_records: batch_records as usize,
        batch_bytes: size(batch_bytes),
        record_bytes: size(kinesis.record_bytes_max),
        flush_interval: publisher.flush_interval.map_or(FLUSH_INTERVAL, |span| span.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config.kinesis.stream_name = "s".into();
        config
    }

    fn refused(config: &Config, words: &[&str]) {
        let message = limits(config).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }

    #[test]
    fn a_stream_must_be_named() {
        refused(&Config::default(), &["kinesis.stream_name", "not set"]);
    }

    #[test]
    fn a_request_is_no_larger_than_kinesis_takes() {
        let default = limits(&config()).unwrap();
        assert_eq!(
            (default.batch_records, default.batch_bytes, default.record_bytes),
            (500, 5 << 20, 1 << 20)
        );
        let mut large = config();
        large.kinesis.record_bytes_max = ByteSize(10 << 20);
        assert_eq!(limits(&large).unwrap().batch_bytes, 10 << 20);
        let mut config = config();
        config.publisher.batch_records = Some(501);
        refused(&config, &["publisher.batch_records", "`501`", "500"]);
        config.publisher.batch_records = None;
        config.publisher.batch_bytes = Some(ByteSize(11 << 20));
        refused(&config, &["publisher.batch_bytes", "11MiB", "10MiB"]);
    }
}
