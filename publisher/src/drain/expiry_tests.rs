//! `publisher.age_max`.

use bywash_common::units::Span;

use super::*;

fn config(encoder: Encoder) -> Config {
    let mut config = Config::default();
    config.event.encoder = encoder;
    config.publisher.age_max = Span(Duration::from_secs(3600));
    config
}

fn push(ring: &TestRing, time_ns: u64, data: &[u8]) {
    let write = Write {
        path: b"/f",
        pid: 1,
        uid: 0,
        gid: 0,
        time_ns,
        command: b"cat ",
        offset: 0,
        handle: 1,
        origin: Origin::Write,
        part: 0,
        parts: 1,
    };
    ring.push_write(&write, data);
}

/// Drains with such an age: gives each event's id behind the ring's uuid, and what it says.
fn drain_aged(ring: &TestRing, encoder: Encoder, answers: Vec<Answer>) -> (Vec<(String, Value)>, u64) {
    let (taken, used_bytes) =
        drain_configured(config(encoder), DeadLetters::without(), ring, usize::MAX, answers);
    let sent = taken.0.lock().unwrap().clone();
    let said = |payload: &[u8]| {
        let event: Value = serde_json::from_slice(payload).unwrap_or_default();
        if event["lost"].is_null() { event["@message"].clone() } else { event["lost"].clone() }
    };
    (sent.iter().map(|(id, _, payload)| (id[37..].to_owned(), said(payload))).collect(), used_bytes)
}

fn expired(ring: &TestRing) -> [u64; 2] {
    let ring = bywash_common::ring::inspect(&ring.name).unwrap();
    [PublisherCounter::TooOldEvents, PublisherCounter::TooOldBytes].map(|counter| ring.publisher(counter))
}

#[test]
fn what_is_too_old_is_told_of_together_in_its_place_and_counted_and_what_is_not_is_sent() {
    let ring = TestRing::new("age");
    let hour_ago = now_ns() - 3_700_000_000_000;
    for (time_ns, data) in [(now_ns(), "a"), (5, "bb"), (hour_ago, "ccc"), (now_ns(), "d"), (7, "eeee")] {
        push(&ring, time_ns, data.as_bytes());
    }
    let (sent, used_bytes) = drain_aged(&ring, Encoder::Logstash, Vec::new());
    let ids: Vec<&str> = sent.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["0", "too_old.1.0+2", "3", "too_old.4.0+1"]);
    assert_eq!((&sent[0].1, &sent[2].1), (&"a".into(), &"d".into()));
    let lost = &sent[1].1;
    assert_eq!((&lost["reason"], &lost["events"], &lost["bytes"]), (&"too_old".into(), &2.into(), &5.into()));
    assert_eq!(sent[3].1["events"], 1);
    assert_eq!((used_bytes, expired(&ring), counted(&ring)), (0, [3, 9], [2, 0, 0, 0]));
}

#[test]
fn until_the_news_are_delivered_what_is_too_old_stays_and_is_given_up_again_under_the_same_id() {
    let ring = TestRing::new("age-kill");
    for data in ["a", "bb", "ccc"] {
        push(&ring, 5, data.as_bytes());
    }
    let (first, used_bytes) = drain_aged(&ring, Encoder::Logstash, vec![Answer::Silence]);
    assert!(used_bytes > 0);
    assert_eq!(expired(&ring), [0, 0]);
    let (second, used_bytes) = drain_aged(&ring, Encoder::Logstash, Vec::new());
    assert_eq!((used_bytes, expired(&ring), counted(&ring)), (0, [3, 6], [0; 4]));
    assert_eq!((first.len(), &first), (1, &second));
}

#[test]
fn news_of_what_is_too_old_that_nobody_takes_end_nothing_and_are_counted_once() {
    let ring = TestRing::new("age-refused");
    push(&ring, 5, b"a");
    push(&ring, now_ns(), b"b");
    let (sent, used_bytes) = drain_aged(&ring, Encoder::Logstash, vec![Answer::Refuse]);
    assert_eq!((sent.len(), &sent[0].1, used_bytes), (1, &"b".into(), 0));
    assert_eq!((expired(&ring), counted(&ring)), ([1, 1], [1, 0, 0, 0]));
    let raw = TestRing::new("age-raw");
    push(&raw, 5, b"a");
    push(&raw, now_ns(), b"b");
    let (sent, used_bytes) = drain_aged(&raw, Encoder::Raw, Vec::new());
    assert_eq!((sent.len(), used_bytes, expired(&raw)), (1, 0, [1, 1]));
}
