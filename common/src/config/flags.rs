//! The flags and environment variables of both programs that stand for keys of the file.

use std::path::PathBuf;

use crate::units::{ByteSize, Span};

use super::{Config, DirectoryConfig, Encoder, Origin, Problem, Sink, file, kafka};

/// Flags that replace what the configuration file says. Both programs take them all, so that one set of
/// variables can stand in both services' environment.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// The configuration file [default: /etc/bywash/bywash.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "BYWASH_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// A directory to mount an overlay on; may be given more than once
    #[arg(long, value_name = "DIR", env = "BYWASH_DIRECTORY", global = true)]
    pub directory: Vec<PathBuf>,
    /// The ring's name in shared memory [default: bywash]
    #[arg(long, value_name = "NAME", env = "BYWASH_RING", global = true)]
    pub ring: Option<String>,
    /// The ring's size [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "BYWASH_RING_SIZE", global = true)]
    pub ring_size: Option<ByteSize>,
    /// Where events go: kafka, kinesis or stdout [default: kafka]
    #[arg(long, value_name = "SINK", env = "BYWASH_SINK", global = true)]
    pub sink: Option<String>,
    /// Kafka brokers, host:port with commas between [default: localhost:9092]
    #[arg(long, value_name = "LIST", env = "BYWASH_BROKERS", value_delimiter = ',', global = true)]
    pub brokers: Vec<String>,
    /// The Kafka topic [default: logs]
    #[arg(long, value_name = "TOPIC", env = "BYWASH_TOPIC", global = true)]
    pub topic: Option<String>,
    /// The events' format: logstash_base64, logstash, text or raw [default: logstash_base64]
    #[arg(long, value_name = "FORMAT", env = "BYWASH_ENCODER", global = true)]
    pub encoder: Option<String>,
    /// How long an event may wait to be sent with others, such as 5s or 200ms
    #[arg(long, value_name = "TIME", env = "BYWASH_FLUSH_INTERVAL", global = true)]
    pub flush_interval: Option<Span>,
    /// The most events in a batch
    #[arg(long, value_name = "N", env = "BYWASH_BUFFER_QUEUE_LIMIT", global = true)]
    pub buffer_queue_limit: Option<u32>,
}

impl ConfigArgs {
    /// Takes over what the flags say.
    pub(super) fn apply(&self, config: &mut Config, problems: &mut Vec<Problem>) {
        let mut refuse = |flag: &'static str, key: &str, message: String| {
            problems.push(Problem { origin: Origin::Flag(flag), key: key.to_owned(), message });
        };
        macro_rules! set {
            ($flag:literal, $key:literal, $value:expr, $to:expr, $check:expr) => {
                if let Some(value) = $value {
                    match $check(value) {
                        Ok(value) => $to = value,
                        Err(message) => refuse($flag, $key, message),
                    }
                }
            };
        }
        if !self.directory.is_empty() {
            config.directories.clear();
            for path in &self.directory {
                let new = DirectoryConfig::at(path.clone());
                config.add_directory(new, |message| refuse("directory", "directory.path", message));
            }
        }
        set!("ring", "ring.name", self.ring.clone(), config.ring.name, file::checked_ring_name);
        set!("ring-size", "ring.size", self.ring_size, config.ring.size, file::checked_ring_size);
        set!("sink", "publisher.sink", self.sink.as_deref(), config.publisher.sink, |s: &str| s
            .parse::<Sink>());
        let brokers = (!self.brokers.is_empty()).then(|| self.brokers.clone());
        set!("brokers", "kafka.brokers", brokers, config.kafka.brokers, kafka::checked_brokers);
        set!("topic", "kafka.topic", self.topic.clone(), config.kafka.topic, kafka::checked_topic);
        let encoder = self.encoder.as_deref();
        set!("encoder", "event.encoder", encoder, config.event.encoder, |s: &str| s.parse::<Encoder>());
        if self.flush_interval.is_some() {
            config.publisher.flush_interval = self.flush_interval;
        }
        let limit = self.buffer_queue_limit;
        set!("buffer-queue-limit", "publisher.batch_records", limit, config.publisher.batch_records, |n| {
            file::positive(n).map(Some)
        });
    }
}
