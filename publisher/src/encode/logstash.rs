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
//! A write to a path that was cut ([`bywash_common::record::PATH_CUT`]) has `_path_cut` added to `@tags`.
//! A loss has `@message` (a sentence), `@timestamp` (of the last lost write), `@version`, `@fields`, `@tags` with
//! `_lost` added, `event_id`, \[`sequence`\] and `lost`. What a quota withholds is no loss: it has `_withheld` and `withheld`.

use bywash_common::{config::EventConfig, record::is_cut};

use super::{
    cache::Cache,
    event::{LossEvent, WriteEvent},
    format::{Encode, Form, LOST_TAG, PATH_CUT_TAG, VERSION, WITHHELD_TAG},
    json,
    timestamp::TimestampWriter,
};

/// How bytes that may be anything stand in the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// In base64, as fuse_kafka sends them.
    Base64,
    /// As text; the base64 beside it where they are not UTF-8.
    Text,
}

/// The parts of an event that its file and writer decide.
struct Made {
    /// Up to the message's opening quote.
    head: Vec<u8>,
    /// From behind the time, its quote included, to the offset's key.
    middle: Vec<u8>,
    /// What comes last.
    end: Vec<u8>,
}

/// The encoder of both `logstash` and `logstash_base64`.
pub struct Logstash {
    style: Style,
    time: TimestampWriter,
    cache: Cache<Made>,
    /// `,"@version":...,"@fields":...,"@tags":...`
    constants: Vec<u8>,
    /// The same with the tag of a path that was cut.
    cut_constants: Vec<u8>,
    /// The same with the tag of a loss.
    loss_constants: Vec<u8>,
    /// The same with the tag of what a quota withholds.
    withheld_constants: Vec<u8>,
}

impl Logstash {
    /// An encoder with the configuration's fields and tags.
    pub fn new(config: &EventConfig, style: Style) -> Self {
        let tags: Vec<&str> = config.tags.iter().map(String::as_str).collect();
        let with = |tag| constants(config, &[&tags[..], &[tag]].concat());
        Self {
            style,
            time: TimestampWriter::new(),
            cache: Cache::default(),
            constants: constants(config, &tags),
            cut_constants: with(PATH_CUT_TAG),
            loss_constants: with(LOST_TAG),
            withheld_constants: with(WITHHELD_TAG),
        }
    }

    /// What the event's file and writer become, made once.
    fn made(&mut self, event: &WriteEvent<'_>) -> &Made {
        self.cache.get(event, || {
            let constants = if is_cut(event.path) { &self.cut_constants } else { &self.constants };
            made(self.style, event, constants)
        })
    }

    fn push_time(&mut self, key: &str, time_ns: u64, out: &mut Vec<u8>) {
        json::push_key(key, out);
        out.push(b'"');
        self.time.push(time_ns, out);
        out.push(b'"');
    }
}

impl Encode for Logstash {
    fn form(&self) -> Form {
        match self.style {
            Style::Base64 => Form::Base64,
            Style::Text => Form::Json,
        }
    }

    fn head(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.made(event).head);
    }

    fn tail(&mut self, event: &WriteEvent<'_>, is_exact: bool, out: &mut Vec<u8>) {
        out.push(b'"');
        if !is_exact {
            json::push_base64_beside("@message", event.message, out);
        }
        out.extend_from_slice(b",\"@timestamp\":\"");
        self.time.push(event.time_ns, out);
        let made = self.made(event);
        out.extend_from_slice(&made.middle);
        json::push_number_at("offset", event.offset, out);
        json::push_text_at("event_id", event.event_id, out);
        json::push_number_at("sequence", event.sequence, out);
        json::push_part(["part", "parts"], event.part, out);
        json::push_part(["piece", "pieces"], event.piece, out);
        if event.unattributed {
            out.extend_from_slice(b",\"unattributed\":true");
        }
        out.extend_from_slice(&made.end);
    }

    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        push_any(self.style, "@message", event.sentence().as_bytes(), out);
        out[begin] = b'{';
        self.push_time("@timestamp", event.last_ns, out);
        let constants = if event.is_withheld() { &self.withheld_constants } else { &self.loss_constants };
        out.extend_from_slice(constants);
        json::push_text_at("event_id", event.event_id, out);
        if let Some(sequence) = event.sequence {
            json::push_number_at("sequence", sequence, out);
        }
        let fate: &[u8] =
            if event.is_withheld() { b",\"withheld\":{\"reason\":" } else { b",\"lost\":{\"reason\":" };
        out.extend_from_slice(fate);
        json::push_str(event.reason, out);
        if let Some(path) = event.path {
            json::push_key("path", out);
            if !json::push_bytes(path, out) {
                json::push_base64_beside("path", path, out);
            }
        }
        json::push_number_at("events", event.events, out);
        json::push_number_at("bytes", event.bytes, out);
        self.push_time("first", event.first_ns, out);
        self.push_time("last", event.last_ns, out);
        out.extend_from_slice(b"}}");
        true
    }

    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize {
        match self.style {
            Style::Base64 => message.len().min(room_bytes / 4 * 3),
            Style::Text => json::fitting(message, room_bytes),
        }
    }
}

/// Appends `,"KEY":` and the bytes in the style; in text that is not UTF-8, the base64 behind it.
fn push_any(style: Style, key: &str, bytes: &[u8], out: &mut Vec<u8>) {
    json::push_key(key, out);
    match style {
        Style::Base64 => json::push_base64(bytes, out),
        Style::Text => {
            if !json::push_bytes(bytes, out) {
                json::push_base64_beside(key, bytes, out);
            }
        }
    }
}

/// What an event's file and writer become.
fn made(style: Style, event: &WriteEvent<'_>, constants: &[u8]) -> Made {
    let (mut head, mut middle, mut end) = (b"{\"path\":".to_vec(), b"\"".to_vec(), Vec::new());
    if !json::push_bytes(event.path, &mut head) {
        json::push_base64_beside("path", event.path, &mut end);
    }
    end.push(b'}');
    if let Some(writer) = &event.writer {
        json::push_number_at("pid", writer.pid.into(), &mut head);
        json::push_number_at("uid", writer.uid.into(), &mut head);
        json::push_number_at("gid", writer.gid.into(), &mut head);
        json::push_text_at("user", writer.user, &mut middle);
        json::push_text_at("group", writer.group, &mut middle);
        push_any(style, "command", writer.command, &mut middle);
    }
    json::push_key("@message", &mut head);
    head.push(b'"');
    middle.extend_from_slice(constants);
    Made { head, middle, end }
}

fn constants(config: &EventConfig, tags: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    json::push_text_at("@version", VERSION, &mut out);
    json::push_key("@fields", &mut out);
    json::push_list(b"{}", config.fields.iter(), &mut out, |(key, value), out| {
        json::push_str(key, out);
        out.push(b':');
        json::push_str(value, out);
    });
    json::push_key("@tags", &mut out);
    json::push_list(b"[]", tags.iter(), &mut out, |tag, out| json::push_str(tag, out));
    out
}

#[cfg(test)]
#[path = "logstash_tests.rs"]
mod tests;
