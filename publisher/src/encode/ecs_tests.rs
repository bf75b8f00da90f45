use bywash_common::config::Encoder;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::encode::{Part, cuts};

fn config(fields: &[(&str, &str)], tags: &[&str]) -> EventConfig {
    EventConfig {
        encoder: Encoder::Ecs,
        fields: fields.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        tags: tags.iter().map(ToString::to_string).collect(),
        loss_topic: None,
    }
}

fn event<'a>() -> WriteEvent<'a> {
    let command = b"/usr/local/bin/redis-server ";
    WriteEvent {
        path: b"/var/log/redis_6380.log",
        writer: Some(Writer { pid: 1262, uid: 0, gid: 7, user: "root", group: "lp", command }),
        unattributed: false,
        time_ns: 1_410_445_149_000_000_001,
        offset: 5,
        event_id: "8c5e-42",
        sequence: 42,
        part: None,
        piece: None,
        message: b"hello world",
    }
}

fn encoded(event: &WriteEvent<'_>) -> Value {
    let mut out = Vec::new();
    Ecs::new(&config(&[("hostname", "test")], &["mytag"]), "box").write(event, &mut out);
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

fn decoded(value: &Value) -> Vec<u8> {
    base64_simd::STANDARD.decode_to_vec(value.as_str().unwrap()).unwrap()
}

#[test]
fn a_write_has_the_schemas_fields() {
    let time = "2014-09-11T14:19:09.000000001Z";
    let expected = json!({
        "@timestamp": time, "@version": "1", "message": "hello world",
        "ecs": {"version": "8.17.0"},
        "event": {"id": "8c5e-42", "sequence": 42, "created": time, "kind": "event",
                  "category": ["file"], "type": ["change"], "action": "write"},
        "file": {"path": "/var/log/redis_6380.log"},
        "process": {"pid": 1262, "command_line": "/usr/local/bin/redis-server"},
        "user": {"id": "0", "name": "root"}, "group": {"id": "7", "name": "lp"},
        "host": {"name": "box"}, "tags": ["mytag"], "labels": {"hostname": "test"},
        "bywash": {"version": env!("CARGO_PKG_VERSION"), "offset": 5},
    });
    let out = encoded(&event());
    assert_eq!(out, expected);
    // The order too.
    assert_eq!(out.to_string(), expected.to_string());
}

#[test]
fn what_is_not_text_is_kept_beside() {
    let writer = event().writer.map(|writer| Writer { command: b"cat \xff ", ..writer });
    let out = encoded(&WriteEvent { message: b"a\xffb\n", path: b"/p\xfe", writer, ..event() });
    assert_eq!((&out["message"], &out["file"]["path"]), (&json!("a\u{fffd}b\n"), &json!("/p\u{fffd}")));
    assert_eq!(out["process"]["command_line"], "cat \u{fffd}");
    assert_eq!(decoded(&out["bywash"]["message_base64"]), b"a\xffb\n");
    assert_eq!(decoded(&out["bywash"]["path_base64"]), b"/p\xfe");
    assert_eq!(decoded(&out["bywash"]["command_line_base64"]), b"cat \xff");
}

#[test]
fn a_write_of_nobody_names_nobody_and_parts_are_numbered() {
    let part = |index, count| Some(Part { index, count });
    let unknown = WriteEvent { writer: None, unattributed: true, ..event() };
    let out = encoded(&WriteEvent { part: part(1, 3), piece: part(0, 2), ..unknown });
    for key in ["process", "user", "group"] {
        assert_eq!(out.get(key), None, "{key}");
    }
    let expected = json!({"version": env!("CARGO_PKG_VERSION"), "offset": 5, "part": 1, "parts": 3,
                          "piece": 0, "pieces": 2, "unattributed": true});
    assert_eq!(out["bywash"], expected);
}

#[test]
fn a_loss_is_an_error_of_the_pipeline() {
    let loss = LossEvent {
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
    assert!(Ecs::new(&config(&[], &["t"]), "").loss(&loss, &mut out));
    let out: Value = serde_json::from_slice(&out).unwrap();
    let (first, last) = ("1970-01-01T00:00:01.000000000Z", "1970-01-01T00:00:02.500000000Z");
    let expected = json!({
        "@timestamp": last, "@version": "1",
        "message": "3 writes (40 bytes) were lost: the ring was full",
        "ecs": {"version": "8.17.0"},
        "event": {"id": "u-7", "sequence": 7, "created": last, "kind": "pipeline_error",
                  "category": ["file"], "type": ["info"], "action": "lost"},
        "tags": ["t", "_lost"], "labels": {},
        "bywash": {"version": env!("CARGO_PKG_VERSION"),
                   "lost": {"reason": "ring_full", "events": 3, "bytes": 40, "first": first, "last": last}},
    });
    assert_eq!(out, expected);
}

/// The text, and the exact bytes if they are something else.
fn assert_says(text: &Value, beside: Option<&Value>, bytes: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(text, &json!(String::from_utf8_lossy(bytes)));
    match beside {
        Some(beside) => prop_assert_eq!(decoded(beside), bytes),
        None => prop_assert!(std::str::from_utf8(bytes).is_ok()),
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_comes_in_what_leaves_parses_and_says_the_same(
        (path, command, message) in any::<(Vec<u8>, Vec<u8>, Vec<u8>)>(),
        (user, group, field, tag) in any::<(String, String, String, String)>(),
        (pid, uid, gid, time_ns, offset, sequence) in any::<(u32, u32, u32, u64, u64, u64)>(),
    ) {
        let event = WriteEvent {
            path: &path,
            writer: Some(Writer { pid, uid, gid, user: &user, group: &group, command: &command }),
            unattributed: false, time_ns, offset, event_id: &tag, sequence, part: None, piece: None,
            message: &message,
        };
        let mut out = Vec::new();
        Ecs::new(&config(&[(&field, &tag)], &[&tag]), &user).write(&event, &mut out);
        let out: Value = serde_json::from_slice(&out).unwrap();
        let ours = &out["bywash"];
        assert_says(&out["message"], ours.get("message_base64"), &message)?;
        assert_says(&out["file"]["path"], ours.get("path_base64"), &path)?;
        let command = command.strip_suffix(b" ").unwrap_or(&command);
        assert_says(&out["process"]["command_line"], ours.get("command_line_base64"), command)?;
        prop_assert_eq!(
            [&out["process"]["pid"], &ours["offset"], &out["event"]["sequence"], &out["event"]["id"]],
            [&json!(pid), &json!(offset), &json!(sequence), &json!(tag)]
        );
        prop_assert_eq!(&out["user"], &json!({"id": uid.to_string(), "name": user}));
        prop_assert_eq!(&out["group"], &json!({"id": gid.to_string(), "name": group}));
        prop_assert_eq!(&out["labels"][&field], &json!(tag));
        let tags: Vec<&str> = [&*tag].into_iter().chain(is_cut(&path).then_some(PATH_CUT_TAG)).collect();
        prop_assert_eq!(&out["tags"], &json!(tags));
    }

    #[test]
    fn parts_fit_and_together_are_the_whole(
        message in prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
        room_bytes in 64_usize..200,
    ) {
        let mut encoder = Ecs::new(&config(&[], &[]), "box");
        let mut scratch = Vec::new();
        let event = WriteEvent { message: &message, ..event() };
        let no_room = cuts(&mut encoder, &event, 0, &mut scratch);
        let limit_bytes = no_room.err().map_or(0, |e| e.overhead_bytes) + room_bytes;
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
    let cut = encoded(&WriteEvent { path: b"/d/x//7/f", ..event() });
    assert_eq!((&cut["file"]["path"], &cut["tags"]), (&json!("/d/x//7/f"), &json!(["mytag", "_path_cut"])));
}
