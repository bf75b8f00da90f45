//! From an event to the bytes that leave.

mod cache;
mod ecs;
mod event;
mod format;
mod json;
mod logstash;
mod split;
mod text;
mod timestamp;

use bywash_common::config::{Encoder, EventConfig};

pub use event::{LossEvent, Part, WriteEvent, Writer};
pub use format::Encode;
pub use split::cuts;

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
