//! What a stock pipeline expects: Logstash JSON of version 1 with the fields of the Elastic Common Schema.
//!
//! Keys, in this order; those in brackets appear only where they say something:
//!
//! | key | value |
//! |---|---|
//! | `@timestamp` | when the bytes were in the file, RFC 3339, UTC, nanoseconds |
//! | `@version` | `"1"` |
//! | `message` | text; what is not UTF-8 is replaced by U+FFFD, see `bywash.message_base64` |
//! | `ecs.version` | of the schema |
//! | `event.id`, \[`event.sequence`\] | which event, which record |
//! | `event.created` | as `@timestamp`: the agent sees a write as it happens |
//! | `event.kind`, `event.category`, `event.type`, `event.action` | `event`, `["file"]`, `["change"]`, `write` |
//! | `file.path` | see `bywash.path_base64` |
//! | \[`process.pid`, `process.command_line`\] | absent, as all below, if it is not known who wrote |
//! | \[`user.id`, `user.name`, `group.id`, `group.name`\] | ids are strings in this schema |
//! | \[`host.name`\] | this machine's |
//! | `tags`, `labels` | `event.tags` and `event.fields` of the configuration |
//! | `bywash.version`, `bywash.offset` | the program, and where in the file |
//! | \[`bywash.part`, `parts`, `piece`, `pieces`, `unattributed`\] | as in the `logstash` formats |
//! | \[`bywash.message_base64`, `path_base64`, `command_line_base64`\] | the exact bytes, where they are not UTF-8 |
//!
//! A write to a path that was cut ([`bywash_common::record::PATH_CUT`]) has `_path_cut` added to `tags`.
//! What a quota withholds is no loss: it has `event.kind` `event`, `event.action` `withheld`, the tag `_withheld`, and
//! `bywash.withheld` with the same keys as `bywash.lost`.
//! A loss has `event.kind` `pipeline_error`, `event.type` `["info"]`, `event.action` `lost`, a sentence as message, the tag `_lost`,
//! and `bywash.lost` with `reason`, `events`, `bytes`, `first` and `last`; it has no process, user and group, and a file only if it is of one
//! file.

use bywash_common::{config::EventConfig, record::is_cut};

use super::{
    cache::Cache,
    event::{LossEvent, WriteEvent, Writer},
    format::{Encode, Form, LOST_TAG, PATH_CUT_TAG, VERSION, WITHHELD_TAG},
    json,
    timestamp::TimestampWriter,
};

/// The schema's version that the fields are taken from; all of them are in every version since 1.5.
const ECS_VERSION: &str = "8.17.0";

/// The parts of an event that its file and writer decide.
struct Made {
    /// From the event's kind to the offset's key.
    middle: Vec<u8>,
    /// What comes last.
    end: Vec<u8>,
}

/// The encoder of `ecs`.
pub struct Ecs {
    time: TimestampWriter,
    cache: Cache<Made>,
    /// From `host` to the offset's key.
    constants: Vec<u8>,
    /// The same with the tag of a path that was cut.
    cut_constants: Vec<u8>,
    /// From `host` to the loss's key.
    loss_constants: Vec<u8>,
    /// The same for what a quota withholds.
    withheld_constants: Vec<u8>,
}

/// This machine's name (proc_sys_kernel(5)); empty if it cannot be read.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim_end().to_owned()
}

impl Ecs {
    /// An encoder with the configuration's fields and tags.
    pub fn new(config: &EventConfig, host: &str) -> Self {
        let tags: Vec<&str> = config.tags.iter().map(String::as_str).collect();
        let with = |tag, key| constants(config, host, &[&tags[..], &[tag]].concat(), key);
        Self {
            time: TimestampWriter::new(),
            cache: Cache::default(),
            constants: constants(config, host, &tags, "offset"),
            cut_constants: with(PATH_CUT_TAG, "offset"),
            loss_constants: with(LOST_TAG, "lost"),
            withheld_constants: with(WITHHELD_TAG, "withheld"),
        }
    }

    /// Appends everything up to the message's key.
    fn begin(&mut self, time_ns: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"@timestamp\":\"");
        self.time.push_rfc3339(time_ns, out);
        out.extend_from_slice(b"\",\"@version\":\"1\",\"message\":");
    }

    /// Appends the schema's version and the event's identity.
    fn push_identity(&mut self, event_id: &str, sequence: Option<u64>, time_ns: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"ecs\":{\"version\":\"");
        out.extend_from_slice(ECS_VERSION.as_bytes());
        out.extend_from_slice(b"\"},\"event\":{\"id\":");
        json::push_str(event_id, out);
        if let Some(sequence) = sequence {
            json::push_number_at("sequence", sequence, out);
        }
        out.extend_from_slice(b",\"created\":\"");
        self.time.push_rfc3339(time_ns, out);
        out.push(b'"');
    }
}

impl Encode for Ecs {
    fn form(&self) -> Form {
        Form::Json
    }

    fn head(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>) {
        self.begin(event.time_ns, out);
        out.push(b'"');
    }

    fn tail(&mut self, event: &WriteEvent<'_>, is_exact: bool, out: &mut Vec<u8>) {
        out.push(b'"');
        self.push_identity(event.event_id, Some(event.sequence), event.time_ns, out);
        let made = self.cache.get(event, || {
            made(event, if is_cut(event.path) { &self.cut_constants } else { &self.constants })
        });
        out.extend_from_slice(&made.middle);
        json::push_number(event.offset, out);
        json::push_part(["part", "parts"], event.part, out);
        json::push_part(["piece", "pieces"], event.piece, out);
        if event.unattributed {
            out.extend_from_slice(b",\"unattributed\":true");
        }
        if !is_exact {
            json::push_base64_beside("message", event.message, out);
        }
        out.extend_from_slice(&made.end);
    }

    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool {
        self.begin(event.last_ns, out);
        json::push_str(&event.sentence(), out);
        self.push_identity(event.event_id, event.sequence, event.last_ns, out);
        let fate: &[u8] = if event.is_withheld() {
            b",\"kind\":\"event\",\"category\":[\"file\"],\"type\":[\"info\"],\"action\":\"withheld\"}"
        } else {
            b",\"kind\":\"pipeline_error\",\"category\":[\"file\"],\"type\":[\"info\"],\"action\":\"lost\"}"
        };
        out.extend_from_slice(fate);
        let mut path_is_utf8 = true;
        if let Some(path) = event.path {
            out.extend_from_slice(b",\"file\":{\"path\":");
            path_is_utf8 = json::push_bytes(path, out);
            out.push(b'}');
        }
        let constants = if event.is_withheld() { &self.withheld_constants } else { &self.loss_constants };
        out.extend_from_slice(constants);
        out.extend_from_slice(b"{\"reason\":");
        json::push_str(event.reason, out);
        json::push_number_at("events", event.events, out);
        json::push_number_at("bytes", event.bytes, out);
        for (key, time_ns) in [("first", event.first_ns), ("last", event.last_ns)] {
            json::push_key(key, out);
            out.push(b'"');
            self.time.push_rfc3339(time_ns, out);
            out.push(b'"');
        }
        out.push(b'}');
        if let Some(path) = event.path.filter(|_| !path_is_utf8) {
            json::push_base64_beside("path", path, out);
        }
        out.extend_from_slice(b"}}");
        true
    }

    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize {
        json::fitting(message, room_bytes)
    }
}

/// What an event's file and writer become.
fn made(event: &WriteEvent<'_>, constants: &[u8]) -> Made {
    let (mut middle, mut end) = (Vec::new(), Vec::new());
    middle.extend_from_slice(b",\"kind\":\"event\",\"category\":[\"file\"],\"type\":[\"change\"]");
    middle.extend_from_slice(b",\"action\":\"write\"},\"file\":{\"path\":");
    if !json::push_bytes(event.path, &mut middle) {
        json::push_base64_beside("path", event.path, &mut end);
    }
    middle.push(b'}');
    if let Some(writer) = &event.writer
        && !push_writer(writer, &mut middle)
    {
        json::push_base64_beside("command_line", command_line(writer), &mut end);
    }
    middle.extend_from_slice(constants);
    end.extend_from_slice(b"}}");
    Made { middle, end }
}

/// Appends who wrote; returns whether the command line is UTF-8.
fn push_writer(writer: &Writer<'_>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(b",\"process\":{\"pid\":");
    json::push_number(writer.pid.into(), out);
    json::push_key("command_line", out);
    let is_utf8 = json::push_bytes(command_line(writer), out);
    for (key, id, name) in
        [(&b"},\"user\""[..], writer.uid, writer.user), (b"},\"group\"", writer.gid, writer.group)]
    {
        out.extend_from_slice(key);
        out.extend_from_slice(b":{\"id\":\"");
        json::push_number(id.into(), out);
        out.extend_from_slice(b"\",\"name\":");
        json::push_str(name, out);
    }
    out.push(b'}');
    is_utf8
}

/// The arguments with spaces between; the last one's space is fuse_kafka's alone.
fn command_line<'a>(writer: &Writer<'a>) -> &'a [u8] {
    writer.command.strip_suffix(b" ").unwrap_or(writer.command)
}

/// `,"host":{...},"tags":[...],"labels":{...},"bywash":{"version":"...","KEY":`
fn constants(config: &EventConfig, host: &str, tags: &[&str], key: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if !host.is_empty() {
        out.extend_from_slice(b",\"host\":{\"name\":");
        json::push_str(host, &mut out);
        out.push(b'}');
    }
    json::push_key("tags", &mut out);
    json::push_list(b"[]", tags.iter(), &mut out, |tag, out| json::push_str(tag, out));
    json::push_key("labels", &mut out);
    json::push_list(b"{}", config.fields.iter(), &mut out, |(key, value), out| {
        json::push_str(key, out);
        out.push(b':');
        json::push_str(value, out);
    });
    out.extend_from_slice(b",\"bywash\":{\"version\":");
    json::push_str(VERSION, &mut out);
    json::push_key(key, &mut out);
    out
}

#[cfg(test)]
#[path = "ecs_tests.rs"]
mod tests;
