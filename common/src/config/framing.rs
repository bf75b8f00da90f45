//! What of a directory becomes one event: a write, a line or several lines.

use std::time::Duration;

use toml::Value;

use crate::units::{ByteSize, Span};

use super::{
    context::{Context, Placed},
    multiline::{self, MultilineConfig},
    toml_values::text,
    words::words,
};

/// The longest line that can be asked for: a line is kept in memory until it ends.
const LINE_BYTES_MAX: ByteSize = ByteSize(16 << 20);
/// The longest that a line can be waited for: what was written since stays in the ring.
const LINE_WAIT_MAX: Span = Span(Duration::from_secs(60));

/// `framing`, `line_bytes_max`, `line_wait` and `multiline` of `[[directory]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramingConfig {
    /// What becomes one event.
    pub by: Framing,
    /// After how many bytes a line without a newline is cut, 1 to 16 MiB.
    pub line_bytes_max: ByteSize,
    /// How long after a line's first write another may still belong to it, at most a minute.
    pub line_wait: Span,
    /// Which lines are one event, where several are.
    pub multiline: MultilineConfig,
}

/// What becomes one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Each write.
    #[default]
    Write,
    /// Each line, of as many writes as it takes.
    Line,
    /// Each line with those that go on with it, of as many writes as it takes.
    Multiline,
}

impl Default for FramingConfig {
    fn default() -> Self {
        Self {
            by: Framing::Write,
            // In base64 it still fits into one message of Kafka (1,000,000 bytes) or Kinesis (1 MiB).
            line_bytes_max: ByteSize(256 << 10),
            line_wait: Span(Duration::from_secs(1)),
            multiline: MultilineConfig::default(),
        }
    }
}

/// The keys in the file.
pub(super) struct Keys {
    pub framing: Placed<String>,
    pub line_bytes_max: Placed<ByteSize>,
    pub line_wait: Placed<Span>,
    pub multiline: Option<multiline::Table>,
}

/// Takes over what the section says.
pub(super) fn apply(keys: Keys, to: &mut FramingConfig, context: &mut Context<'_>) {
    context.set(&mut to.by, keys.framing, |word| word.parse());
    if let Some(table) = keys.multiline {
        multiline::apply(table, &mut to.multiline, context);
    }
    context.set(&mut to.line_bytes_max, keys.line_bytes_max, |size| {
        if (1..=LINE_BYTES_MAX.0).contains(&size.0) {
            return Ok(size);
        }
        Err(format!("`{size}` cannot be the length of a line: use 1 byte to {LINE_BYTES_MAX}"))
    });
    context.set(&mut to.line_wait, keys.line_wait, |wait| {
        if wait <= LINE_WAIT_MAX {
            return Ok(wait);
        }
        Err(format!("`{wait}` is too long to wait for the end of a line: use at most {LINE_WAIT_MAX}"))
    });
}

/// The keys, as the file has them.
pub(super) fn print(framing: &FramingConfig) -> [(&'static str, Option<Value>); 4] {
    [
        ("framing", text(framing.by.word())),
        ("line_bytes_max", text(framing.line_bytes_max)),
        ("line_wait", text(framing.line_wait)),
        ("multiline", Some(multiline::print(&framing.multiline))),
    ]
}

impl FramingConfig {
    /// Keys that are set and of no use with this framing, and the way out.
    pub(super) fn useless(&self) -> Option<&'static str> {
        let default = Self::default();
        let is_multiline = self.by == Framing::Multiline;
        if !is_multiline && self.multiline != default.multiline {
            return Some("multiline is of no use without framing = \"multiline\": write that too");
        }
        let has_lines = (self.line_bytes_max, self.line_wait) != (default.line_bytes_max, default.line_wait);
        let instead = "with framing = \"multiline\", line_bytes_max and line_wait are of no use: write multiline.bytes_max and \
                       multiline.timeout";
        (is_multiline && has_lines).then_some(instead)
    }
}

words!(Framing: "write" => Framing::Write, "line" => Framing::Line, "multiline" => Framing::Multiline);
