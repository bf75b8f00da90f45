//! However a payload comes in pieces, the event is the one that is made of all of it.

use bywash_common::{
    config::{Config, Encoder, EventConfig},
    record::{Origin, Write},
};
use proptest::prelude::*;

use super::{Early, Form, WriteEvent, encoder};

fn write(path: &[u8]) -> Write<'_> {
    Write {
        path,
        pid: 1,
        uid: 0,
        gid: 0,
        time_ns: 7,
        command: b"",
        offset: 3,
        handle: 9,
        origin: Origin::Mapping,
        part: 0,
        parts: 1,
    }
}

fn event<'a>(path: &'a [u8], message: &'a [u8]) -> WriteEvent<'a> {
    WriteEvent {
        path,
        writer: None,
        unattributed: true,
        time_ns: 7,
        offset: 3,
        event_id: "u-1",
        sequence: 1,
        part: None,
        piece: None,
        message,
    }
}

/// Feeds a record in pieces of these lengths, over and over; gives what is left of the payload.
fn feed(early: &mut Early, record: &[u8], lens: &[usize]) -> Vec<u8> {
    early.begin();
    let (mut payload, mut rest) = (Vec::new(), record);
    let mut lens = lens.iter().cycle();
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.len().min(*lens.next().unwrap()));
        payload.extend_from_slice(piece);
        early.came(&mut payload, more.len(), |_, _| true);
        rest = more;
    }
    payload
}

fn messages() -> impl Strategy<Value = Vec<u8>> {
    let texts = prop::collection::vec(
        prop_oneof![Just("a"), Just("\""), Just("é"), Just("😀"), Just("\u{1}")],
        0..200,
    );
    prop_oneof![
        texts.prop_map(|texts| texts.concat().into_bytes()),
        any::<Vec<u8>>(),
        // A text that is none in the end.
        (any::<String>(), any::<Vec<u8>>()).prop_map(|(text, bytes)| [text.into_bytes(), bytes].concat()),
    ]
}

proptest! {
    #[test]
    fn an_event_in_pieces_is_the_event_of_the_whole(
        format in prop::sample::select(&[
            Encoder::LogstashBase64, Encoder::Logstash, Encoder::Ecs, Encoder::Text, Encoder::Raw,
        ][..]),
        records in prop::collection::vec((messages(), 0..5000_usize), 1..4),
        lens in prop::collection::vec(1..50_usize, 1..5),
    ) {
        let config = EventConfig { encoder: format, ..Config::default().event };
        let mut encoder = encoder(&config);
        let mut early = Early::new(encoder.form());
        for (message, path_bytes) in records {
            let path = [b"/".to_vec(), vec![b'p'; path_bytes.min(4000)]].concat();
            let mut record = Vec::new();
            write(&path).encode_into(&mut record);
            record.extend_from_slice(&message);
            let payload = feed(&mut early, &record, &lens);
            let (decoded, left) = Write::decode(&payload).unwrap();
            prop_assert_eq!(decoded, write(&path));
            let mut whole = Vec::new();
            encoder.write(&event(&path, &message), &mut whole);
            match early.message_bytes() {
                None => prop_assert_eq!(left, &message[..]),
                Some(bytes) => {
                    prop_assert_eq!((bytes, left), (message.len(), &b""[..]));
                    prop_assert_eq!(early.take_back(), message);
                    let (mut head, mut tail) = (Vec::new(), Vec::new());
                    encoder.head(&event(&path, b""), &mut head);
                    encoder.tail(&event(&path, b""), true, &mut tail);
                    prop_assert_eq!(early.encoded_bytes() + head.len() + tail.len(), whole.len());
                    prop_assert_eq!(early.event(&head, &tail), &whole[..]);
                }
            }
        }
    }
}

#[test]
fn what_does_not_go_early_stays_in_the_payload() {
    let mut record = Vec::new();
    write(b"/f").encode_into(&mut record);
    record.extend_from_slice(b"message");
    let mut early = Early::new(Form::Base64);
    early.begin();
    let mut payload = record.clone();
    early.came(&mut payload, 0, |write, bytes| write.path != b"/f" || bytes != 7);
    assert_eq!((payload, early.message_bytes()), (record, None));
}
