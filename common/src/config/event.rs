//! `[event]`: how events look.

use indexmap::IndexMap;

use super::words::words;

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

impl Default for EventConfig {
    fn default() -> Self {
        Self { encoder: Encoder::LogstashBase64, fields: IndexMap::new(), tags: Vec::new(), loss_topic: None }
    }
}

words!(Encoder:
    "logstash_base64" => Encoder::LogstashBase64,
    "logstash" => Encoder::Logstash,
    "ecs" => Encoder::Ecs,
    "text" => Encoder::Text,
    "raw" => Encoder::Raw);
