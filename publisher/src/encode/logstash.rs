//! fuse_kafka's events: Logstash JSON of version 0, with a few keys of ours behind the seed's.
//!
//! Keys, in this order; those in brackets appear only where they say something:
//!
//! | key | value |
//! |---|---|
//! | `path` | what is not UTF-8 is replaced by U+FFFD, see `path_base64` |
//! | \[`pid`, `uid`, `gid`\] | numbers; absent if it is not known who wrote |
//! | `@message` | base64 in `logstash_base64`, text in `logstash` |
//! | \[`@message_base64`\] | `logstash` only: the exact bytes, where they are not UTF-8 |
//! | `@timestamp` | `2014-09-11T14:19:09.000+0000` |
//! | \[`user`, `group`\] | names |
//! | \[`command`\] | as `@message` |
//! | \[`command_base64`\] | as `@message_base64` |
//! | `@version`, `@fields`, `@tags` | constants of the configuration |
//! | `offset`, `event_id`, `sequence` | where in the file, which event, which record |
//! | \[`part`, `parts`\] | of a write that was split; `parts` of a FIFO's long line is in the last one alone |
//! | \[`piece`, `pieces`\] | of an agent's part that was split again |
//! | \[`unattributed`\] | `true`: a shared mapping's pages |
//! | \[`path_base64`\] | the exact path, where it is not UTF-8 |
//!
//! A loss has `@message` (a sentence), `@timestamp` (of the last lost write), `@version`, `@fields`, `@tags` with
//! `_lost` added, `event_id`, \[`sequence`\] and `lost`.

use bywash_common::config::EventConfig;

use super::{Encode, LossEvent, Part, VERSION, WriteEvent, json, timestamp::TimestampWriter};

/// The tag of a loss.
const LOST_TAG: &str = "_lost";

/// Bytes that `,"@message_base64":""` and base64's padding add, rounded up.
const BESIDE_BYTES: usize = 24;
/// The most that a byte of no valid UTF-8 becomes: an escape in the text, and 4/3 beside it, rounded up.
const BYTES_PER_BYTE_MAX: usize = json::ESCAPED_BYTES_MAX + 2;

/// How bytes that may be anything stand in the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// In base64, as fuse_kafka sends them.
    Base64,
    /// As text; the base64 beside it where they are not UTF-8.
    Text,
}

/// The encoder of both `logstash` and `logstash_base64`.
pub struct Logstash {
    style: Style,
    time: TimestampWriter,
    /// `,"@version":...,"@fields":...,"@tags":...`
    constants: Vec<u8>,
    /// The same with the tag of a loss.
    loss_constants: Vec<u8>,
}

impl Logstash {
    /// An encoder with the configuration's fields and tags.
    pub fn new(config: &EventConfig, style: Style) -> Self {
        let tags: Vec<&str> = config.tags.iter().map(String::as_str).collect();
        let loss_tags = [&tags[..], &[LOST_TAG]].concat();
        Self {
            style,
            time: TimestampWriter::new(),
            constants: constants(config, &tags),
            loss_constants: constants(config, &loss_tags),
        }
    }

    /// Appends `,"KEY":` and the bytes in this encoder's style; in text that is not UTF-8, the base64 behind it.
    fn push_any(&self, key: &str, bytes: &[u8], out: &mut Vec<u8>) {
        push_key(key, out);
        match self.style {
            Style::Base64 => json::push_base64(bytes, out),
            Style::Text => {
                if !json::push_bytes(bytes, out) {
                    push_base64_beside(key, bytes, out);
                }
            }
        }
    }

    fn push_time(&mut self, key: &str, time_ns: u64, out: &mut Vec<u8>) {
        push_key(key, out);
        out.push(b'"');
        self.time.push(time_ns, out);
        out.push(b'"');
    }
}

impl Encode for Logstash {
    fn write(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"path\":");
        let path_is_utf8 = json::push_bytes(event.path, out);
        if let Some(writer) = &event.writer {
            push_number("pid", writer.pid.into(), out);
            push_number("uid", writer.uid.into(), out);
            push_number("gid", writer.gid.into(), out);
        }
        self.push_any("@message", event.message, out);
        self.push_time("@timestamp", event.time_ns, out);
        if let Some(writer) = &event.writer {
            push_text("user", writer.user, out);
            push_text("group", writer.group, out);
            self.push_any("command", writer.command, out);
        }
        out.extend_from_slice(&self.constants);
        push_number("offset", event.offset, out);
        push_text("event_id", event.event_id, out);
        push_number("sequence", event.sequence, out);
        push_part(["part", "parts"], event.part, out);
        push_part(["piece", "pieces"], event.piece, out);
        if event.unattributed {
            out.extend_from_slice(b",\"unattributed\":true");
        }
        if !path_is_utf8 {
            push_base64_beside("path", event.path, out);
        }
        out.push(b'}');
    }

    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        self.push_any("@message", event.sentence().as_bytes(), out);
        out[begin] = b'{';
        self.push_time("@timestamp", event.last_ns, out);
        out.extend_from_slice(&self.loss_constants);
        push_text("event_id", event.event_id, out);
        if let Some(sequence) = event.sequence {
            push_number("sequence", sequence, out);
        }
        out.extend_from_slice(b",\"lost\":{\"reason\":");
        json::push_str(event.reason, out);
        if let Some(path) = event.path {
            push_key("path", out);
            if !json::push_bytes(path, out) {
                push_base64_beside("path", path, out);
            }
        }
        push_number("events", event.events, out);
        push_number("bytes", event.bytes, out);
        self.push_time("first", event.first_ns, out);
        self.push_time("last", event.last_ns, out);
        out.extend_from_slice(b"}}");
        true
    }

    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize {
        match (self.style, std::str::from_utf8(message)) {
            (Style::Base64, _) => message.len().min(room_bytes / 4 * 3),
            // A cut between characters keeps each part UTF-8.
            (Style::Text, Ok(text)) => {
                let mut used_bytes = 0;
                let end = text.char_indices().find(|(at, c)| {
                    let bytes = &message[*at..*at + c.len_utf8()];
                    used_bytes += bytes.iter().map(|b| json::escaped_len(*b)).sum::<usize>();
                    used_bytes > room_bytes
                });
                end.map_or(message.len(), |(at, _)| at)
            }
            (Style::Text, Err(_)) => {
                message.len().min(room_bytes.saturating_sub(BESIDE_BYTES) / BYTES_PER_BYTE_MAX)
            }
        }
    }
}

fn constants(config: &EventConfig, tags: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    push_text("@version", VERSION, &mut out);
    push_key("@fields", &mut out);
    push_list(b"{}", config.fields.iter(), &mut out, |(key, value), out| {
        json::push_str(key, out);
        out.push(b':');
        json::push_str(value, out);
    });
    push_key("@tags", &mut out);
    push_list(b"[]", tags.iter(), &mut out, |tag, out| json::push_str(tag, out));
    out
}

fn push_list<T>(
    brackets: &[u8; 2],
    items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    push: impl Fn(T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push(item, out);
    }
    out.push(brackets[1]);
}

/// Appends `,"KEY":`. Keys are ours and need no escapes.
fn push_key(key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn push_number(key: &str, number: u64, out: &mut Vec<u8>) {
    push_key(key, out);
    json::push_number(number, out);
}

fn push_text(key: &str, text: &str, out: &mut Vec<u8>) {
    push_key(key, out);
    json::push_str(text, out);
}

fn push_base64_beside(key: &str, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"_base64\":");
    json::push_base64(bytes, out);
}

fn push_part(keys: [&str; 2], part: Option<Part>, out: &mut Vec<u8>) {
    if let Some(Part { index, count }) = part {
        push_number(keys[0], index.into(), out);
        if count > 0 {
            push_number(keys[1], count.into(), out);
        }
    }
}

#[cfg(test)]
#[path = "logstash_tests.rs"]
mod tests;
