//! The configuration of both services: a TOML file, over it the environment, over that the flags.
//!
//! Precedence, highest first: flag, environment, environment of fifo2kinesis, file, default. Unknown keys and impossible values are errors
//! that name file, line and key.

mod agent;
mod aws;
mod directory;
mod failed;
mod fifo;
mod file;
mod flags;
mod framing;
mod kafka;
mod kinesis;
mod layers;
pub mod legacy;
mod locate;
mod log;
mod metrics;
mod multiline;
mod print;
mod reference;
mod route;
#[cfg(test)]
mod schema;
mod spool;
mod template;
#[cfg(test)]
mod tests;
mod validate;
mod warnings;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use indexmap::IndexMap;

use crate::units::{ByteSize, Span};
use validate::Places;

pub use crate::ring::RingConfig;
pub use agent::{AgentConfig, OnAgentExit};
pub use aws::{AwsIdentity, KafkaAws};
pub use directory::{DirectoryConfig, QuotaConfig, QuotaRule, Submounts};
pub use failed::FailedConfig;
pub use fifo::{EmptyLines, FifoConfig, FifoFraming, OnFull};
pub use flags::ConfigArgs;
pub use framing::{Framing, FramingConfig};
pub use kafka::{Delivery, KafkaConfig, MessageKey, is_sensitive};
pub use kinesis::{
    KinesisConfig, PARTITION_KEY_CHARS_MAX, PartitionKey, RECORD_BYTES_MAX, checked_stream_name,
};
pub use layers::{Layers, Precedence};
pub use locate::Key;
pub use log::{LogConfig, LogLevel};
pub use metrics::MetricsConfig;
pub use multiline::{Boundary, MultilineConfig, Pattern};
pub use spool::{Fsync, SpoolConfig};
pub use template::{NO_VALUE, Piece, Placeholder, Template, Topic, is_name_byte};

/// Where the configuration is looked for unless `--config` says otherwise. That it is missing is no error.
pub const DEFAULT_FILE: &str = "/etc/bywash/bywash.toml";

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The ring between the services.
    pub ring: RingConfig,
    /// How events look.
    pub event: EventConfig,
    /// What fs-agent is mounted over; no path is equal to, above or below another.
    pub directories: Vec<DirectoryConfig>,
    /// What fs-agent reads; no path is there twice.
    pub fifos: Vec<FifoConfig>,
    /// How fs-agent works.
    pub agent: AgentConfig,
    /// How the publisher works.
    pub publisher: PublisherConfig,
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where Kinesis is.
    pub kinesis: KinesisConfig,
    /// What both services log.
    pub log: LogConfig,
    /// What the ring cannot hold waits on disk.
    pub spool: SpoolConfig,
    /// Where messages are kept that can never be delivered.
    pub failed: FailedConfig,
    /// Where the publisher serves what it counts.
    pub metrics: MetricsConfig,
}

/// `[event]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventConfig {
    /// The format.
    pub encoder: Encoder,
    /// Constant fields of each event, in the file's order.
    pub fields: IndexMap<String, String>,
    /// Constant tags of each event.
    pub tags: Vec<String>,
    /// The topic, or stream, of news of losses and of what quotas withhold; none: with the events.
    pub loss_topic: Option<String>,
}

/// The formats of events; docs/events.md shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// fuse_kafka's format: Logstash JSON with message and command in base64.
    LogstashBase64,
    /// The same with message and command as JSON strings.
    Logstash,
    /// Logstash v1 JSON with the Elastic Common Schema's fields.
    Ecs,
    /// `TIMESTAMP: PATH: MESSAGE`.
    Text,
    /// The written bytes alone.
    Raw,
}

/// `[publisher]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherConfig {
    /// Where events go.
    pub sink: Sink,
    /// How long an event may wait for others to be sent with it.
    pub flush_interval: Option<Span>,
    /// The most events in a batch.
    pub batch_records: Option<u32>,
    /// The most bytes in a batch.
    pub batch_bytes: Option<ByteSize>,
    /// How long a stopping publisher tries to deliver what it has read.
    pub shutdown_timeout: Span,
    /// The most events that are read and not yet confirmed.
    pub in_flight_records: u32,
    /// The most bytes of events that are read and not yet confirmed.
    pub in_flight_bytes: ByteSize,
    /// The most topics or streams that templates may name.
    pub topics_max: u32,
    /// The topic or stream of events for which they name one that cannot be used, or one more; none: that of all others.
    pub fallback_topic: Option<String>,
    /// By how many bytes a second what waits in the spool becomes less at most; 0 for no limit.
    pub recovery_bytes_per_second: ByteSize,
    /// How old an event may be when it is sent; older ones are given up. 0 for any age.
    pub age_max: Span,
}

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A Kafka topic.
    Kafka,
    /// A Kinesis stream.
    Kinesis,
    /// Standard output, a line an event.
    Stdout,
}

/// The ring's name unless `ring.name` says otherwise.
const DEFAULT_RING: &str = "bywash";
/// Where the publisher keeps what outlasts it, unless it is told otherwise.
const STATE_DIR: &str = "/var/lib/bywash";

/// Where a ring's spool and dead letters are by default: each ring's publisher has its own, so that any number of them run
/// side by side.
fn default_state_dir(ring: &str) -> PathBuf {
    let dir = PathBuf::from(STATE_DIR);
    if ring == DEFAULT_RING { dir } else { dir.join("rings").join(ring) }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ring: RingConfig { name: DEFAULT_RING.to_owned(), size: ByteSize(64 << 20), group: None },
            event: EventConfig {
                encoder: Encoder::LogstashBase64,
                fields: IndexMap::new(),
                tags: Vec::new(),
                loss_topic: None,
            },
            directories: Vec::new(),
            fifos: Vec::new(),
            agent: AgentConfig::default(),
            publisher: PublisherConfig {
                sink: Sink::Kafka,
                flush_interval: None,
                batch_records: None,
                batch_bytes: None,
                shutdown_timeout: Span(Duration::from_secs(10)),
                in_flight_records: 100_000,
                in_flight_bytes: ByteSize(64 << 20),
                topics_max: 256,
                fallback_topic: None,
                recovery_bytes_per_second: ByteSize(0),
                age_max: Span(Duration::ZERO),
            },
            kafka: KafkaConfig::default(),
            kinesis: KinesisConfig::default(),
            log: LogConfig::default(),
            spool: SpoolConfig::default(),
            failed: FailedConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

/// A closed set of words in the configuration.
macro_rules! words {
    ($type:ty: $($word:literal => $value:expr),+) => {
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(format!(
                        "`{text}` is none of {}", [$(concat!("`", $word, "`")),+].join(", ")
                    )),
                }
            }
        }
        impl $type {
            /// All words of the configuration that stand for one.
            #[cfg(test)]
            pub(crate) const WORDS: &[&'static str] = &[$($word),+];

            /// The word that stands for it in the configuration.
            pub fn word(self) -> &'static str {
                [$(($word, $value)),+].into_iter().find(|(_, v)| *v == self).map_or("", |(w, _)| w)
            }
        }
    };
}

use words;

words!(Encoder:
    "logstash_base64" => Encoder::LogstashBase64,
    "logstash" => Encoder::Logstash,
    "ecs" => Encoder::Ecs,
    "text" => Encoder::Text,
    "raw" => Encoder::Raw);
words!(Sink: "kafka" => Sink::Kafka, "kinesis" => Sink::Kinesis, "stdout" => Sink::Stdout);
words!(Framing: "write" => Framing::Write, "line" => Framing::Line, "multiline" => Framing::Multiline);
words!(LogLevel:
    "error" => LogLevel::Error,
    "warn" => LogLevel::Warn,
    "info" => LogLevel::Info,
    "debug" => LogLevel::Debug,
    "trace" => LogLevel::Trace);

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{origin}: {key}{}{message}", if key.is_empty() { "" } else { ": " })]
pub struct Problem {
    /// Where the value comes from.
    pub origin: Origin,
    /// The key, dotted; empty where the text is no TOML and names none.
    pub key: String,
    /// What is wrong, with the value, and the way out.
    pub message: String,
}

/// A value that can be read, and that what works with it cannot use.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {message}")]
pub struct Unusable {
    /// The key.
    pub key: Key,
    /// Why, and the way out.
    pub message: String,
}

impl Unusable {
    /// A key whose parts hold no dots, and why.
    pub fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// Where a value of the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, from 1.
    File(PathBuf, usize),
    /// A flag.
    Flag(&'static str),
    /// The environment variable that stands for a flag.
    Environment(&'static str),
    /// An environment variable that stands for no flag of its own.
    Variable(&'static str),
    /// Nobody has set it.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Environment(flag) => {
                write!(f, "BYWASH_{}", flag.to_ascii_uppercase().replace('-', "_"))
            }
            Self::Variable(name) => write!(f, "{name}"),
            Self::Default => write!(f, "default"),
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// What the file and the flags say is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}

impl Config {
    /// Reads the file, the environment and the flags that `args` holds.
    ///
    /// # Errors
    /// A [`ConfigError`] with everything that is wrong.
    pub fn load(args: &ConfigArgs) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut config = Self::default();
        let seed = legacy::fifo2kinesis::flags(|name| std::env::var_os(name), &mut problems);
        // A FIFO that is named otherwise takes the place of the variable's.
        let is_seed = args.names_fifo_as_fifo2kinesis() || args.fifo.is_empty() && seed.fifo_name.is_some();
        if is_seed {
            legacy::fifo2kinesis::set_defaults(&mut config);
        }
        let path = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let mut text = String::new();
        match std::fs::read_to_string(&path) {
            Ok(read) if legacy::is_fuse_kafka(&path, &read) => {
                legacy::apply(&path, &read, &mut config, &mut problems);
            }
            Ok(read) => {
                text = read;
                file::apply(&path, &text, &mut config, &mut problems);
            }
            Err(error) if args.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ConfigError::Unreadable { path, error }),
        }
        seed.apply(&mut config, true, &mut problems);
        args.apply(&mut config, is_seed, &mut problems);
        validate::check(&config, &Places { args, file: &path, text: &text }, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Puts what the properties for Kafka refer to in its place (`${NAME}`, `${file:PATH}`, `${credential:NAME}`): for whoever
    /// needs it.
    ///
    /// # Errors
    /// A [`ConfigError`] with every reference that leads nowhere.
    pub fn resolve(&mut self, args: &ConfigArgs) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        Self::with_places(args, |places| {
            for (name, value) in &mut self.kafka.properties {
                match reference::resolve(value) {
                    Ok(Some(resolved)) => {
                        *value = resolved;
                        self.kafka.referenced.push(name.clone());
                    }
                    Ok(None) => {}
                    Err(message) => {
                        let key = Key::from("kafka.properties").with(name);
                        problems.push(places.of_unusable(&Unusable { key, message }));
                    }
                }
            }
        });
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Whether what the services write, and the FIFOs, lie outside of watched directories and those beside each other, by where
    /// their paths lead. Asks nobody below a watched directory, whose overlay may hang.
    ///
    /// # Errors
    /// A [`ConfigError`] with everything that is wrong.
    pub fn check_where_paths_lead(&self, args: &ConfigArgs) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        Self::with_places(args, |places| validate::check_leads(self, places, &mut problems));
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Where a path stands that a key is set to, and the key: `FILE:LINE: KEY`, or a flag in place of file and line. None where
    /// it cannot be found.
    pub fn place_of(args: &ConfigArgs, key: &str, path: &Path) -> Option<String> {
        Self::with_places(args, |places| validate::place_of(places, key, path))
    }

    /// What cannot be used, with the file and line, flag or variable that it comes from.
    pub fn placed(args: &ConfigArgs, unusable: &Unusable) -> ConfigError {
        ConfigError::Wrong(vec![Self::with_places(args, |places| places.of_unusable(unusable))])
    }

    fn with_places<T>(args: &ConfigArgs, ask: impl FnOnce(&Places<'_>) -> T) -> T {
        let file = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        // Only to say a line.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        ask(&Places { args, file: &file, text: &text })
    }

    /// The ring that `args`, and the configuration file as far as it is TOML, name: also where something else in it is
    /// wrong. None if that cannot be told.
    pub fn ring_name(args: &ConfigArgs) -> Option<String> {
        if let Some(ring) = &args.ring {
            return Some(ring.clone());
        }
        let default = || Some(Self::default().ring.name);
        let path = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if args.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return default();
            }
            Err(_) => return None,
        };
        let file: toml::Table = text.parse().ok()?;
        match file.get("ring").and_then(|ring| ring.get("name")) {
            None => default(),
            Some(name) => name.as_str().map(str::to_owned),
        }
    }

    /// The transactional id, which this publisher keeps over restarts and no other has.
    pub fn transactional_id(&self) -> String {
        self.kafka.transactional_id.clone().unwrap_or_else(|| {
            // proc_sys_kernel(5)
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("bywash-{}-{}", host.trim_end(), self.ring.name)
        })
    }

    /// The effective configuration as TOML, secrets left out.
    pub fn print(&self) -> String {
        print::print(self)
    }

    /// The keys, dotted, whose values are not the same in `new`; of sections that repeat, and where only a secret differs,
    /// the section.
    pub fn changed_keys(&self, new: &Self) -> Vec<String> {
        print::changed_keys(self, new)
    }
}
