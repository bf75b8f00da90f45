use bywash_common::config::Encoder;
use indexmap::IndexMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::encode::{Part, Writer, cuts};

fn config(fields: &[(&str, &str)], tags: &[&str]) -> EventConfig {
    EventConfig {
        encoder: Encoder::LogstashBase64,
        fields: fields.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<IndexMap<_, _>>(),
        tags: tags.iter().map(ToString::to_string).collect(),
        loss_topic: None,
    }
}

/// The example of the seed's README.
fn seed_event<'a>() -> WriteEvent<'a> {
    let command = b"/usr/local/bin/redis-server ";
    WriteEvent {
        path: b"/var/log/redis_6380.log",
        writer: Some(Writer { pid: 1262, uid: 0, gid: 0, user: "root", group: "root", command }),
        unattributed: false,
        time_ns: 1_410_445_149_000_000_000,
        offset: 0,
        event_id: "8c5e-42",
        sequence: 42,
        part: None,
        piece: None,
        message: b"hello world",
    }
}

fn encoded(style: Style, event: &WriteEvent<'_>) -> Value {
    let fields = [("first_field", "first_value"), ("second_field", "second_value")];
    let mut out = Vec::new();
    Logstash::new(&config(&fields, &["mytag"]), style).write(event, &mut out);
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn decoded(value: &Value) -> Vec<u8> {
    base64_simd::STANDARD.decode_to_vec(value.as_str().unwrap()).unwrap()
}

#[test]
fn the_seeds_example_comes_out_key_for_key_in_its_order() {
    let out = encoded(Style::Base64, &seed_event());
    let expected = json!({
        "path": "/var/log/redis_6380.log", "pid": 1262, "uid": 0, "gid": 0,
        "@message": "aGVsbG8gd29ybGQ=",
        "@timestamp": "2014-09-11T14:19:09.000+0000", "user": "root", "group": "root",
        "command": "L3Vzci9sb2NhbC9iaW4vcmVkaXMtc2VydmVyIA==",
        "@version": env!("CARGO_PKG_VERSION"),
        "@fields": { "first_field": "first_value", "second_field": "second_value" },
        "@tags": ["mytag"],
        "offset": 0, "event_id": "8c5e-42", "sequence": 42,
    });
    assert_eq!(out, expected);
    assert_eq!(keys(&out), keys(&expected));
}

#[test]
fn text_is_text_and_bytes_are_beside_it() {
    let out = encoded(Style::Text, &seed_event());
    assert_eq!(out["@message"], "hello world");
    assert_eq!(out["command"], "/usr/local/bin/redis-server ");
    assert!(!keys(&out).contains(&"@message_base64"));

    let out = encoded(Style::Text, &WriteEvent { message: b"a\xffb\n", path: b"/p\xfe", ..seed_event() });
    assert_eq!((&out["@message"], &out["path"]), (&json!("a\u{fffd}b\n"), &json!("/p\u{fffd}")));
    assert_eq!(decoded(&out["@message_base64"]), b"a\xffb\n");
    assert_eq!(decoded(&out["path_base64"]), b"/p\xfe");
    assert_eq!(keys(&out)[4..6], ["@message", "@message_base64"]);
    assert_eq!(keys(&out).last(), Some(&"path_base64"));
}

#[test]
fn an_unattributed_write_names_nobody() {
    let out = encoded(Style::Base64, &WriteEvent { writer: None, unattributed: true, ..seed_event() });
    let expected = [
        "path",
        "@message",
        "@timestamp",
        "@version",
        "@fields",
        "@tags",
        "offset",
        "event_id",
        "sequence",
        "unattributed",
    ];
    assert_eq!(keys(&out), expected);
    assert_eq!(out["unattributed"], true);
}

#[test]
fn a_loss_is_an_event() {
    let event = LossEvent {
        reason: "ring_full",
        path: None,
        events: 3,
        bytes: 40,
        first_ns: 1_000_000_000,
        last_ns: 2_500_000_000,
        event_id: "u-7",
        sequence: Some(7),
    };
    let mut out = Vec::new();
    assert!(Logstash::new(&config(&[("h", "x")], &["t"]), Style::Base64).loss(&event, &mut out));
    let out: Value = serde_json::from_slice(&out).unwrap();
    let expected = ["@message", "@timestamp", "@version", "@fields", "@tags", "event_id", "sequence", "lost"];
    assert_eq!(keys(&out), expected);
    assert_eq!(decoded(&out["@message"]), b"3 writes (40 bytes) were lost: the ring was full");
    assert_eq!(out["@timestamp"], "1970-01-01T00:00:02.500+0000");
    assert_eq!(out["@tags"], json!(["t", "_lost"]));
    assert_eq!(
        out["lost"],
        json!({"reason": "ring_full", "events": 3, "bytes": 40,
               "first": "1970-01-01T00:00:01.000+0000", "last": "1970-01-01T00:00:02.500+0000"})
    );
}

fn style() -> impl Strategy<Value = Style> {
    prop_oneof![Just(Style::Base64), Just(Style::Text)]
}

proptest! {
    #[test]
    fn whatever_comes_in_what_leaves_parses_and_says_the_same(
        style in style(),
        (path, command, message) in any::<(Vec<u8>, Vec<u8>, Vec<u8>)>(),
        (user, group, field, tag) in any::<(String, String, String, String)>(),
        (pid, uid, gid, time_ns, offset, sequence) in any::<(u32, u32, u32, u64, u64, u64)>(),
    ) {
        let event = WriteEvent {
            path: &path,
            writer: Some(Writer { pid, uid, gid, user: &user, group: &group, command: &command }),
            unattributed: false, time_ns, offset, event_id: "u-1", sequence, part: None, piece: None,
            message: &message,
        };
        let mut out = Vec::new();
        Logstash::new(&config(&[(&field, &tag)], &[&tag]), style).write(&event, &mut out);
        let out: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(&out["path"], &json!(String::from_utf8_lossy(&path)));
        for (key, bytes) in [("@message", &message), ("command", &command)] {
            match (style, out.get(format!("{key}_base64"))) {
                (Style::Base64, _) => prop_assert_eq!(&decoded(&out[key]), bytes),
                (Style::Text, Some(beside)) => prop_assert_eq!(&decoded(beside), bytes),
                (Style::Text, None) => prop_assert_eq!(out[key].as_str().unwrap().as_bytes(), &bytes[..]),
            }
        }
        prop_assert_eq!(
            [&out["pid"], &out["uid"], &out["gid"], &out["offset"], &out["sequence"]],
            [&json!(pid), &json!(uid), &json!(gid), &json!(offset), &json!(sequence)]
        );
        prop_assert_eq!([&out["user"], &out["group"]], [&json!(user), &json!(group)]);
        prop_assert_eq!(&out["@fields"][&field], &json!(tag));
        let tags: Vec<&str> = [&*tag].into_iter().chain(is_cut(&path).then_some(PATH_CUT_TAG)).collect();
        prop_assert_eq!(&out["@tags"], &json!(tags));
    }

    #[test]
    fn parts_fit_and_together_are_the_whole(
        style in style(),
        message in prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
        room_bytes in 64_usize..200,
    ) {
        let mut encoder = Logstash::new(&config(&[], &[]), style);
        let mut scratch = Vec::new();
        let event = WriteEvent { message: &message, ..seed_event() };
        let no_room = cuts(&mut encoder, &event, 0, &mut scratch);
        let overhead_bytes = no_room.err().map_or(0, |e| e.overhead_bytes);
        let limit_bytes = overhead_bytes + room_bytes;
        let ends = cuts(&mut encoder, &event, limit_bytes, &mut scratch).unwrap();
        let mut begin = 0;
        for (i, end) in ends.iter().enumerate() {
            let part = Some(Part { index: i as u32, count: ends.len() as u32 });
            scratch.clear();
            let message = &message[begin..*end];
            encoder.write(&WriteEvent { message, offset: begin as u64, part, ..event }, &mut scratch);
            prop_assert!(scratch.len() <= limit_bytes, "{} > {limit_bytes}", scratch.len());
            begin = *end;
        }
        prop_assert_eq!(begin, message.len());
    }
}

#[test]
fn a_path_that_was_cut_is_tagged() {
    let cut = encoded(Style::Base64, &WriteEvent { path: b"/d/x//7/f", ..seed_event() });
    assert_eq!((&cut["path"], &cut["@tags"]), (&json!("/d/x//7/f"), &json!(["mytag", "_path_cut"])));
}
