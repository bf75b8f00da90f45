//! From an event to the bytes that leave.

mod cache;
mod early;
#[cfg(test)]
mod early_tests;
mod ecs;
mod event;
mod format;
mod json;
mod logstash;
mod split;
mod text;
mod timestamp;

use bywash_common::config::{Config, Encoder, EventConfig, Sink};

pub use cache::Cache;
pub use early::Early;
pub use event::{LossEvent, Part, WriteEvent, Writer};
pub use format::{Encode, Form};
pub use split::cuts;

/// The encoder of news where they have a topic of their own; none where they go with the events.
pub fn news_encoder(config: &Config) -> Option<Box<dyn Encode>> {
    // Standard output is one for all.
    let has_topics = config.publisher.sink != Sink::Stdout;
    config.event.loss_topic.as_ref().filter(|_| has_topics)?;
    Some(Box::new(logstash::Logstash::new(&config.event, logstash::Style::Text)))
}

/// The encoder that the configuration asks for.
pub fn encoder(config: &EventConfig) -> Box<dyn Encode> {
    match config.encoder {
        Encoder::LogstashBase64 => Box::new(logstash::Logstash::new(config, logstash::Style::Base64)),
        Encoder::Logstash => Box::new(logstash::Logstash::new(config, logstash::Style::Text)),
        Encoder::Ecs => Box::new(ecs::Ecs::new(config, &ecs::host_name())),
        Encoder::Text => Box::new(text::Text::new()),
        Encoder::Raw => Box::new(text::Raw),
    }
}
