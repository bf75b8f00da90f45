//! Whatever bytes are written, under whatever names: each event in JSON parses, and says the same bytes.
//!
//! An input is cut at its first 0xff 0xff: before it is what stands for path, command and names, behind it the message.

#![no_main]
// What a fuzz target says of a broken property, it says by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

// The module by itself: the publisher as a whole would bring its broker clients into the build.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../../publisher/src/delivery/id.rs"]
mod delivery;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../../publisher/src/encode/mod.rs"]
mod encode;

use bywash_common::config::{Config, Encoder, EventConfig};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

use encode::{WriteEvent, Writer, cuts, encoder};

/// What an event may be larger than without its message.
const ROOM_BYTES: usize = 40;

fn text(value: &Value, beside: Option<&Value>) -> Vec<u8> {
    match beside {
        Some(beside) => base64(beside),
        None => value.as_str().unwrap().as_bytes().to_vec(),
    }
}

fn base64(value: &Value) -> Vec<u8> {
    base64_simd::STANDARD.decode_to_vec(value.as_str().unwrap()).unwrap()
}

/// Path and message as a reader gets them.
fn read_back(encoder: Encoder, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let json: Value = serde_json::from_slice(payload).unwrap();
    match encoder {
        Encoder::Ecs => {
            let ours = &json["bywash"];
            (
                text(&json["file"]["path"], ours.get("path_base64")),
                text(&json["message"], ours.get("message_base64")),
            )
        }
        Encoder::Logstash => (
            text(&json["path"], json.get("path_base64")),
            text(&json["@message"], json.get("@message_base64")),
        ),
        _ => (text(&json["path"], json.get("path_base64")), base64(&json["@message"])),
    }
}

fn check(format: Encoder, event: &WriteEvent<'_>) {
    let mut encoder = encoder(&EventConfig { encoder: format, ..Config::default().event });
    let mut out = Vec::new();
    encoder.write(event, &mut out);
    assert_eq!(read_back(format, &out), (event.path.to_vec(), event.message.to_vec()));
    let empty = cuts(&mut *encoder, event, 0, &mut out).err().map_or(0, |e| e.overhead_bytes);
    let Ok(ends) = cuts(&mut *encoder, event, empty + ROOM_BYTES, &mut out) else { return };
    assert_eq!(ends.last().copied().unwrap_or_default(), event.message.len());
    let mut begin = 0;
    for end in ends {
        out.clear();
        encoder.write(&WriteEvent { message: &event.message[begin..end], ..*event }, &mut out);
        assert!(out.len() <= empty + ROOM_BYTES);
        assert_eq!(read_back(format, &out).1, event.message[begin..end]);
        begin = end;
    }
}

fuzz_target!(|input: &[u8]| {
    let cut = input.windows(2).position(|w| w == [0xff; 2]).unwrap_or(input.len());
    let (path, rest) = input.split_at(cut);
    let message = rest.get(2..).unwrap_or_default();
    let name = String::from_utf8_lossy(path);
    let event = WriteEvent {
        path,
        writer: Some(Writer { pid: 1, uid: 2, gid: 3, user: &name, group: &name, command: path }),
        unattributed: false,
        time_ns: message.len() as u64,
        offset: 0,
        event_id: "u-1",
        sequence: 1,
        part: None,
        piece: None,
        message,
    };
    for format in [Encoder::LogstashBase64, Encoder::Logstash, Encoder::Ecs] {
        check(format, &event);
    }
});
