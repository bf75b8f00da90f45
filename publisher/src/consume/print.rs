//! An event as people read it: the layout of fuse_kafka's test consumer.

use std::{convert::Infallible, str::FromStr};

use base64_simd::STANDARD as BASE64;
use bywash_common::{config::Encoder, escape::in_lines, output};
use serde_json::{Map, Value};

/// Ends the name of a pseudo field that says how long another one is.
const SIZE_SUFFIX: &str = "_size-added";
/// Ends the name of the key that holds the exact bytes of another one.
const BASE64_SUFFIX: &str = "_base64";
/// The keys that `logstash_base64` encodes.
const BASE64_KEYS: [&str; 2] = ["@message", "command"];
/// Where `ecs` keeps exact bytes, and the key that they belong beside.
const ECS_BESIDE: [(&str, &str); 3] = [
    ("bywash.message_base64", "message_base64"),
    ("bywash.path_base64", "file.path_base64"),
    ("bywash.command_line_base64", "process.command_line_base64"),
];
/// In front of the lines of a text after its first one.
const CONTINUATION: &str = "\n        ";

/// The keys to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<String>);

impl FromStr for Selection {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let keys = text.split([',', ' ']).filter(|key| !key.is_empty());
        Ok(Self(keys.map(str::to_owned).collect()))
    }
}

/// Prints events.
pub struct Printer {
    /// The format of events whose publisher has named none, as fuse_kafka's.
    encoder: Encoder,
    selection: Option<Selection>,
    is_terminal: bool,
}

impl Printer {
    /// A printer to standard output.
    pub fn new(encoder: Encoder, selection: Option<Selection>) -> Self {
        let selection = selection.filter(|selection| !selection.0.is_empty());
        Self { encoder, selection, is_terminal: output::is_terminal() }
    }

    /// Appends an event's lines. `encoder` is the format that its publisher named.
    pub fn print(&self, encoder: Option<&str>, payload: &[u8], out: &mut Vec<u8>) {
        let encoder = encoder.and_then(|word| word.parse().ok()).unwrap_or(self.encoder);
        let parsed = match encoder {
            Encoder::Logstash | Encoder::LogstashBase64 | Encoder::Ecs => serde_json::from_slice(payload),
            // What is text stays text, even if it looks like an event.
            Encoder::Text | Encoder::Raw => Ok(Value::Null),
        };
        out.extend_from_slice(b"event:\n");
        let fields = match parsed {
            Ok(Value::Object(fields)) if encoder == Encoder::Ecs => {
                Fields { fields: flattened(fields), encoder }
            }
            Ok(Value::Object(fields)) => Fields { fields, encoder },
            _ => return self.print_bytes("@message", payload, out),
        };
        match &self.selection {
            Some(Selection(keys)) => {
                for key in keys {
                    self.print_selected(key, &fields, out);
                }
            }
            None => {
                for key in fields.fields.keys().filter(|key| !fields.is_beside(key)) {
                    self.print_field(key, &fields, out);
                }
            }
        }
    }

    fn print_selected(&self, key: &str, fields: &Fields, out: &mut Vec<u8>) {
        let measured = key.strip_suffix(SIZE_SUFFIX).and_then(|name| {
            let size_bytes = fields.bytes(name).or_else(|| fields.bytes(&format!("@{name}")))?.len();
            Some(size_bytes.to_string())
        });
        match measured {
            Some(size) => self.print_bytes(key, size.as_bytes(), out),
            None => self.print_field(key, fields, out),
        }
    }

    fn print_field(&self, key: &str, fields: &Fields, out: &mut Vec<u8>) {
        match fields.fields.get(key) {
            None => {}
            Some(Value::Array(items)) => {
                self.print_key(key, out);
                out.push(b'\n');
                for item in items {
                    out.extend_from_slice(b"        -  ");
                    self.push_text(scalar(item).as_bytes(), out);
                    out.push(b'\n');
                }
            }
            Some(Value::Object(inner)) => {
                self.print_key(key, out);
                out.push(b'\n');
                for (key, value) in inner {
                    out.extend_from_slice(b"         ");
                    self.push_text(key.as_bytes(), out);
                    out.extend_from_slice(b": ");
                    self.push_text(scalar(value).as_bytes(), out);
                    out.push(b'\n');
                }
            }
            Some(Value::String(_)) => self.print_bytes(key, &fields.bytes(key).unwrap_or_default(), out),
            Some(other) => self.print_bytes(key, scalar(other).as_bytes(), out),
        }
    }

    fn print_key(&self, key: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"    ");
        self.push_text(key.as_bytes(), out);
        out.push(b':');
    }

    fn print_bytes(&self, key: &str, bytes: &[u8], out: &mut Vec<u8>) {
        self.print_key(key, out);
        out.push(b' ');
        // `echo` ends with a newline, and a command with a space: neither says anything here.
        self.push_text(bytes.trim_ascii_end(), out);
        out.push(b'\n');
    }

    /// Appends a value's text. A terminal must not obey what someone wrote into a log.
    fn push_text(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.is_terminal {
            out.extend_from_slice(in_lines(bytes, CONTINUATION).to_string().as_bytes());
        } else {
            for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
                out.extend_from_slice(if i == 0 { "" } else { CONTINUATION }.as_bytes());
                out.extend_from_slice(line);
            }
        }
    }
}

/// A parsed event.
struct Fields {
    fields: Map<String, Value>,
    encoder: Encoder,
}

impl Fields {
    /// The exact bytes of a text.
    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        let text = self.fields.get(key)?.as_str()?;
        let beside = || self.fields.get(&format!("{key}{BASE64_SUFFIX}"))?.as_str();
        let is_encoded = self.encoder == Encoder::LogstashBase64 && BASE64_KEYS.contains(&key);
        let encoded = if is_encoded { Some(text) } else { beside() };
        let decoded = encoded.and_then(|encoded| {
            // fuse_kafka's own example lacks the padding.
            let bare = encoded.trim_end_matches('=');
            base64_simd::STANDARD_NO_PAD.decode_to_vec(bare).or_else(|_| BASE64.decode_to_vec(encoded)).ok()
        });
        Some(decoded.unwrap_or_else(|| text.as_bytes().to_vec()))
    }

    /// Whether a key only holds the exact bytes of another one, which is printed with them.
    fn is_beside(&self, key: &str) -> bool {
        key.strip_suffix(BASE64_SUFFIX).is_some_and(|name| self.fields.contains_key(name))
    }
}

/// An event of the Elastic Common Schema with dotted names, as people write them, and the exact bytes beside what they are of.
fn flattened(event: Map<String, Value>) -> Map<String, Value> {
    let mut flat = Map::new();
    let mut rest: Vec<(String, Value)> = event.into_iter().rev().collect();
    while let Some((name, value)) = rest.pop() {
        match value {
            Value::Object(inner) => {
                rest.extend(inner.into_iter().rev().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => {
                let place = ECS_BESIDE.iter().find(|(ours, _)| *ours == name).map(|(_, beside)| *beside);
                flat.insert(place.map_or(name, str::to_owned), value);
            }
        }
    }
    flat
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The event of the seed's quickstart.
    const SEED: &str = r#"{"group":"users","uid":1497,"@tags":["test"],"@fields":{"hostname":"test"},
        "@timestamp":"2014-10-03T09:07:04.000+0000","pid":6485,"gid":604,"command":"YmFzaCAtYyBlY2hvICJmb28iIA==",
        "@message":"Zm9vCg==","path":"/tmp/fuse-kafka-test/bar","@version":"0.1.3","user":"yazgoo"}"#;

    fn printed(select: Option<&str>, encoder: Option<&str>, payload: &[u8], is_terminal: bool) -> String {
        let selection = select.map(|s| s.parse().unwrap());
        let printer = Printer { is_terminal, ..Printer::new(Encoder::LogstashBase64, selection) };
        let mut out = Vec::new();
        printer.print(encoder, payload, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_seeds_quickstart_looks_as_it_did() {
        let expected = "event:
    group: users
    uid: 1497
    @tags:
        -  test
    @fields:
         hostname: test
    @timestamp: 2014-10-03T09:07:04.000+0000
    pid: 6485
    gid: 604
    command: bash -c echo \"foo\"
    @message: foo
    path: /tmp/fuse-kafka-test/bar
    @version: 0.1.3
    user: yazgoo
";
        assert_eq!(printed(None, None, SEED.as_bytes(), false), expected);
    }

    #[test]
    fn keys_and_sizes_can_be_selected() {
        let expected = "event:\n    message_size-added: 4\n    path: /tmp/fuse-kafka-test/bar\n";
        for select in ["message_size-added path", "message_size-added,path", "@message_size-added, path,none"]
        {
            let out = printed(Some(select), None, SEED.as_bytes(), false);
            assert_eq!(out.replace('@', ""), expected, "{select}");
        }
    }

    #[test]
    fn text_stays_text_and_bytes_beside_it_win() {
        let event = br#"{"@message":"Zm9v","command":"x \ufffd","command_base64":"eCD/"}"#;
        let mut out = Vec::new();
        let printer = Printer { is_terminal: false, ..Printer::new(Encoder::LogstashBase64, None) };
        printer.print(Some("logstash"), event, &mut out);
        assert_eq!(out, b"event:\n    @message: Zm9v\n    command: x \xff\n");
    }

    #[test]
    fn ecs_has_dotted_names_and_exact_bytes() {
        let event = br#"{"message":"x \ufffd","event":{"id":"u-1","category":["file"]},"file":{"path":"/f"},
                         "labels":{"a":"b"},"bywash":{"offset":0,"message_base64":"eCD/"}}"#;
        let mut out = Vec::new();
        let printer = Printer { is_terminal: false, ..Printer::new(Encoder::Ecs, None) };
        printer.print(None, event, &mut out);
        let expected =
            b"event:\n    message: x \xff\n    event.id: u-1\n    event.category:\n        -  file\n    \
                         file.path: /f\n    labels.a: b\n    bywash.offset: 0\n";
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
        let selected = printed(Some("message_size-added file.path"), Some("ecs"), event, false);
        assert_eq!(selected, "event:\n    message_size-added: 3\n    file.path: /f\n");
    }

    #[test]
    fn a_terminal_does_not_get_control_characters() {
        let event = "{\"@message\":\"\\u001b[31mred\\n\\ttab\\u009b\"}";
        let out = printed(None, Some("logstash"), event.as_bytes(), true);
        assert_eq!(out, "event:\n    @message: \\u{1b}[31mred\n        \ttab\\u{9b}\n");
    }

    #[test]
    fn what_is_no_event_is_printed_as_it_is() {
        let out = printed(None, Some("raw"), b"{\"@message\":\"x\"}\n", false);
        assert_eq!(out, "event:\n    @message: {\"@message\":\"x\"}\n");
        assert_eq!(printed(None, None, b"no json", false), "event:\n    @message: no json\n");
    }
}
