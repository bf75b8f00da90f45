//! The same events by serde_json's serializer, from structures that borrow everything.

use bywash_common::config::{Encoder as Format, EventConfig};
use publisher::encode::WriteEvent;
use serde_json::{Map, Value, json};

/// Makes the events of a JSON format.
pub struct Encoder {
    format: Format,
    fields: Value,
    tags: Value,
    host: String,
    base64: [String; 2],
}

impl Encoder {
    /// Nothing for a format that is not JSON.
    pub fn new(config: &EventConfig) -> Option<Self> {
        let fields = config.fields.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        matches!(config.encoder, Format::LogstashBase64 | Format::Logstash | Format::Ecs).then(|| Self {
            format: config.encoder,
            fields: Value::Object(fields),
            tags: json!(config.tags),
            host,
            base64: Default::default(),
        })
    }

    /// Appends an event.
    pub fn write(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>) {
        let writer = event.writer.expect("a writer");
        let path = std::str::from_utf8(event.path).expect("UTF-8");
        let (seconds, nanoseconds) = (event.time_ns / 1_000_000_000, event.time_ns % 1_000_000_000);
        let second = jiff::Timestamp::from_second(seconds.cast_signed()).expect("a time");
        let time = second.strftime("%Y-%m-%dT%H:%M:%S");
        if self.format == Format::Ecs {
            let time = format!("{time}.{nanoseconds:09}Z");
            let command = std::str::from_utf8(writer.command).expect("UTF-8").trim_end();
            let message = std::str::from_utf8(event.message).expect("UTF-8");
            let ecs = Ecs {
                timestamp: &time,
                version: "1",
                message,
                ecs: Version { version: "8.17.0" },
                event: Event {
                    id: event.event_id,
                    sequence: event.sequence,
                    created: &time,
                    kind: "event",
                    category: ["file"],
                    kind_of_change: ["change"],
                    action: "write",
                },
                file: File { path },
                process: Process { pid: writer.pid, command_line: command },
                user: Id { id: &writer.uid.to_string(), name: writer.user },
                group: Id { id: &writer.gid.to_string(), name: writer.group },
                host: Host { name: &self.host },
                tags: &self.tags,
                labels: &self.fields,
                bywash: Bywash { version: env!("CARGO_PKG_VERSION"), offset: event.offset },
            };
            return serde_json::to_writer(out, &ecs).expect("a vector takes it");
        }
        let time = format!("{time}.{:03}+0000", nanoseconds / 1_000_000);
        let (message, command) = if self.format == Format::LogstashBase64 {
            for (text, bytes) in self.base64.iter_mut().zip([event.message, writer.command]) {
                text.clear();
                base64_simd::STANDARD.encode_append(bytes, text);
            }
            (&self.base64[0][..], &self.base64[1][..])
        } else {
            let text = |bytes| std::str::from_utf8(bytes).expect("UTF-8");
            (text(event.message), text(writer.command))
        };
        let logstash = Logstash {
            path,
            pid: writer.pid,
            uid: writer.uid,
            gid: writer.gid,
            message,
            timestamp: &time,
            user: writer.user,
            group: writer.group,
            command,
            version: env!("CARGO_PKG_VERSION"),
            fields: &self.fields,
            tags: &self.tags,
            offset: event.offset,
            event_id: event.event_id,
            sequence: event.sequence,
        };
        serde_json::to_writer(out, &logstash).expect("a vector takes it");
    }
}

#[derive(serde::Serialize)]
struct Logstash<'a> {
    path: &'a str,
    pid: u32,
    uid: u32,
    gid: u32,
    #[serde(rename = "@message")]
    message: &'a str,
    #[serde(rename = "@timestamp")]
    timestamp: &'a str,
    user: &'a str,
    group: &'a str,
    command: &'a str,
    #[serde(rename = "@version")]
    version: &'a str,
    #[serde(rename = "@fields")]
    fields: &'a Value,
    #[serde(rename = "@tags")]
    tags: &'a Value,
    offset: u64,
    event_id: &'a str,
    sequence: u64,
}

#[derive(serde::Serialize)]
struct Ecs<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: &'a str,
    #[serde(rename = "@version")]
    version: &'a str,
    message: &'a str,
    ecs: Version<'a>,
    event: Event<'a>,
    file: File<'a>,
    process: Process<'a>,
    user: Id<'a>,
    group: Id<'a>,
    host: Host<'a>,
    tags: &'a Value,
    labels: &'a Value,
    bywash: Bywash<'a>,
}

#[derive(serde::Serialize)]
struct Version<'a> {
    version: &'a str,
}

#[derive(serde::Serialize)]
struct Event<'a> {
    id: &'a str,
    sequence: u64,
    created: &'a str,
    kind: &'a str,
    category: [&'a str; 1],
    #[serde(rename = "type")]
    kind_of_change: [&'a str; 1],
    action: &'a str,
}

#[derive(serde::Serialize)]
struct File<'a> {
    path: &'a str,
}

#[derive(serde::Serialize)]
struct Process<'a> {
    pid: u32,
    command_line: &'a str,
}

#[derive(serde::Serialize)]
struct Id<'a> {
    id: &'a str,
    name: &'a str,
}

#[derive(serde::Serialize)]
struct Host<'a> {
    name: &'a str,
}

#[derive(serde::Serialize)]
struct Bywash<'a> {
    version: &'a str,
    offset: u64,
}
