//! From an event to the bytes that leave.

mod cache;
mod ecs;
mod event;
mod json;
mod logstash;
mod split;
mod text;
mod timestamp;

use bywash_common::config::{Encoder, EventConfig};

pub use event::{LossEvent, Part, WriteEvent, Writer};
pub use split::cuts;

/// The program's version, as events carry it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The tag of a loss.
const LOST_TAG: &str = "_lost";
/// The tag of a write to a file whose path is too long to be told whole.
const PATH_CUT_TAG: &str = "_path_cut";

/// A format of events. Output is appended, so that callers can reuse one buffer.
pub trait Encode {
    /// Appends a write.
    fn write(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>);

    /// Appends a loss, or returns false if the format has no way to say it.
    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool;

    /// How many of the message's first bytes surely add at most `room_bytes` to a write with an empty message.
    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize;
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
