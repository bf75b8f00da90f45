//! The configuration of both services: a TOML file, over it the environment, over that the flags.
//!
//! Precedence, highest first: flag, environment, environment of fifo2kinesis, file, default. Unknown keys and impossible values are errors
//! that name file, line and key.

mod agent;
mod aws;
mod context;
mod directory;
mod effective;
mod event;
mod failed;
mod fifo;
mod file;
mod flags;
mod framing;
mod kafka;
mod kinesis;
mod layers;
pub mod legacy;
mod load;
mod locate;
mod log;
mod metrics;
mod multiline;
mod places;
mod print;
mod problem;
mod publisher;
mod reference;
mod route;
#[cfg(test)]
mod schema;
mod spool;
mod template;
#[cfg(test)]
mod tests;
mod toml_values;
mod validate;
mod warnings;
mod words;

pub use crate::ring::RingConfig;
pub use agent::{AgentConfig, OnAgentExit};
pub use aws::{AwsIdentity, KafkaAws};
pub use directory::{DirectoryConfig, QuotaConfig, QuotaRule, Submounts};
pub use effective::Config;
pub use event::{Encoder, EventConfig};
pub use failed::FailedConfig;
pub use fifo::{EmptyLines, FifoConfig, FifoFraming, OnFull};
pub use flags::{ConfigArgs, DEFAULT_FILE};
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
pub use problem::{ConfigError, Origin, Problem, Unusable};
pub use publisher::{PublisherConfig, Sink};
pub use spool::{Fsync, SpoolConfig};
pub use template::{NO_VALUE, Piece, Placeholder, Template, Topic, is_name_byte};
