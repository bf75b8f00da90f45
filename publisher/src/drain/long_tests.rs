//! Writes that are long enough to be encoded as they come out of the ring.

use bywash_common::config::Framing;

use super::*;

/// More than comes out of the ring at a time.
const LONG_BYTES: usize = 5_000;

fn long_text() -> String {
    "a \"line\" of log, with ünïcode 😀\n".chars().cycle().take(LONG_BYTES).collect()
}

/// The bytes that events of JSON hold together, parts in order.
fn messages(taken: &Taken, key: &str) -> Vec<u8> {
    let decode = |text: &Value| base64_simd::STANDARD.decode_to_vec(text.as_str().unwrap()).unwrap();
    let message = |event: &Value| match (&event[format!("{key}_base64")], &event["bywash"]["message_base64"])
    {
        (Value::Null, Value::Null) => event[key].as_str().unwrap().as_bytes().to_vec(),
        (Value::Null, beside) | (beside, _) => decode(beside),
    };
    taken.events().iter().flat_map(message).collect()
}

/// In one piece, and cut by a sink that takes a little less than the event is, and much less.
#[test]
fn a_long_write_arrives_as_it_was_written_in_every_format_and_however_it_is_cut() {
    let text = long_text().into_bytes();
    let binary = [&text[..], b"\xff\xc3", &text[..]].concat();
    for limit_bytes in [usize::MAX, text.len() / 3 * 4 + 50, text.len() + 100, text.len() / 2] {
        for data in [&text, &binary] {
            let sent = |encoder| {
                let ring = TestRing::new("long");
                ring.push(b"/f", data, (0, 1));
                let (taken, used_bytes) = drain(&ring, limit_bytes, encoder, vec![Answer::Full]);
                assert_eq!(used_bytes, 0);
                taken
            };
            for (encoder, key) in [(Encoder::Logstash, "@message"), (Encoder::Ecs, "message")] {
                assert!(messages(&sent(encoder), key) == *data, "{encoder:?} by {limit_bytes}");
            }
            assert!(sent(Encoder::Raw).payloads().concat() == *data, "raw by {limit_bytes}");
            let decode = |event: &Value| {
                base64_simd::STANDARD.decode_to_vec(event["@message"].as_str().unwrap()).unwrap()
            };
            let in_base64 = sent(Encoder::LogstashBase64).events();
            assert!(in_base64.iter().flat_map(decode).eq(data.iter().copied()), "base64 by {limit_bytes}");
        }
    }
}

#[test]
fn nothing_of_a_long_write_leaves_that_is_damaged_in_its_middle() {
    let ring = TestRing::new("long-damage");
    let text = long_text();
    ring.push(b"/f", [&text, "DAMAGEME", &text].concat().as_bytes(), (0, 1));
    ring.damage(b"DAMAGEME");
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::LogstashBase64, vec![]);
    let [news] = &taken.events()[..] else { panic!("one event was expected") };
    assert_eq!((&news["lost"]["reason"], used_bytes), (&"corrupt".into(), 0));
}

/// Long or not, a write to a directory of lines is joined with others, and one beside it is not.
#[test]
fn long_writes_become_lines_where_lines_are_wanted() {
    let ring = TestRing::new("long-lines");
    let mut config = Config::default();
    config.event.encoder = Encoder::Logstash;
    let mut directory = bywash_common::config::DirectoryConfig::at("/lines".into());
    directory.framing.by = Framing::Line;
    config.directories.push(directory);
    let half = "x".repeat(LONG_BYTES);
    let lines = |offset| Write {
        path: b"/lines/f",
        pid: 1,
        uid: 0,
        gid: 0,
        time_ns: now_ns(),
        command: b"",
        offset,
        handle: 1,
        origin: Origin::Write,
        part: 0,
        parts: 1,
    };
    ring.push_write(&lines(0), half.as_bytes());
    ring.push_write(&Write { path: b"/other", handle: 2, ..lines(0) }, half.as_bytes());
    ring.push_write(&lines(LONG_BYTES as u64), b"y\n");
    let (taken, _) = drain_configured(config, DeadLetters::without(), &ring, usize::MAX, vec![]);
    let mut lens: Vec<(String, usize)> = taken
        .events()
        .iter()
        .map(|event| (event["path"].to_string(), event["@message"].as_str().unwrap().len()))
        .collect();
    lens.sort_unstable();
    assert_eq!(lens, [("\"/lines/f\"".into(), LONG_BYTES + 2), ("\"/other\"".into(), LONG_BYTES)]);
}
