use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    path::Path,
    sync::Mutex,
};

use bywash_common::{
    config::{Encoder, RingConfig},
    record::Origin,
    ring::{AgentRing, SEGMENT_DIR, Weight},
    units::ByteSize,
};
use serde_json::Value;

use super::*;
use crate::{
    delivery::{Message, SendError, Ticket, testing::TestRing},
    spool::Log,
};

#[path = "expiry_tests.rs"]
mod expiry_tests;
#[path = "line_tests.rs"]
mod line_tests;
#[path = "long_tests.rs"]
mod long_tests;

impl TestRing {
    fn push(&self, path: &[u8], data: &[u8], part: (u32, u32)) {
        let write = Write {
            path,
            pid: 1,
            uid: 0,
            gid: 0,
            time_ns: now_ns(),
            command: b"cat ",
            offset: 100,
            handle: 1,
            origin: Origin::Write,
            part: part.0,
            parts: part.1,
        };
        self.push_write(&write, data);
    }

    fn push_write(&self, write: &Write<'_>, data: &[u8]) {
        let mut description = Vec::new();
        write.encode_into(&mut description);
        self.push_raw(&[&description, data]);
    }

    fn push_raw(&self, slices: &[&[u8]]) {
        self.agent.producer.push(Kind::Write, slices, Weight { bytes: 1, time_ns: 1 }).unwrap();
    }
}

/// Event id, key and payload.
type Sent = (String, String, Vec<u8>);

/// What a [`Script`]ed sink was given.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<Sent>>>);

impl Taken {
    fn payloads(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().iter().map(|(_, _, payload)| payload.clone()).collect()
    }

    fn events(&self) -> Vec<Value> {
        self.payloads().iter().map(|payload| serde_json::from_slice(payload).unwrap()).collect()
    }
}

#[derive(Clone, Debug)]
enum Answer {
    Full,
    Refuse,
    /// Taken, and never reported.
    Silence,
    /// Taken and delivered, as everything is after the script's end.
    Deliver,
}

/// Long enough to spool what a test leaves.
const SPOOL_TIME: Duration = Duration::from_secs(60);

/// Answers as the script says, and after its end takes and delivers everything. Asks for a stop once it was idle.
struct Script {
    answers: VecDeque<Answer>,
    taken: Taken,
    frontier: Arc<Frontier>,
    stop: Stop,
    limit_bytes: usize,
    /// So often it is idle before it asks for a stop.
    idles: u32,
}

impl Sink for Script {
    fn payload_bytes_max(&self, _: usize) -> usize {
        self.limit_bytes
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        match self.answers.pop_front() {
            Some(Answer::Full) => return Err(SendError::Full),
            Some(Answer::Refuse) => return Err(SendError::Refused("poison".to_owned())),
            Some(Answer::Silence) => {}
            Some(Answer::Deliver) | None => self.frontier.settle(ticket, Outcome::Delivered),
        }
        let key = String::from_utf8_lossy(message.key.unwrap_or_default()).into_owned();
        self.taken.0.lock().unwrap().push((message.event_id.to_owned(), key, message.payload.to_vec()));
        Ok(())
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn push(&mut self) -> Result<(), SinkError> {
        self.idles = self.idles.saturating_sub(1);
        if self.idles == 0 {
            self.stop.request();
        }
        Ok(())
    }

    fn close(self: Box<Self>, _: Instant) {}
}

/// Drains the ring until it is empty.
fn drain(ring: &TestRing, limit_bytes: usize, encoder: Encoder, answers: Vec<Answer>) -> (Taken, u64) {
    drain_with(DeadLetters::without(), ring, limit_bytes, encoder, answers)
}

fn drain_with(
    dead_letters: DeadLetters,
    ring: &TestRing,
    limit_bytes: usize,
    encoder: Encoder,
    answers: Vec<Answer>,
) -> (Taken, u64) {
    let mut config = Config::default();
    config.event.encoder = encoder;
    drain_configured(config, dead_letters, ring, limit_bytes, answers)
}

fn drain_configured(
    config: Config,
    dead_letters: DeadLetters,
    ring: &TestRing,
    limit_bytes: usize,
    answers: Vec<Answer>,
) -> (Taken, u64) {
    drain_until((1, None), config, dead_letters, ring, limit_bytes, answers)
}

/// Drains the ring, and the spool if there is a directory for one, until the sink was idle so often.
fn drain_until(
    (idles, spool): (u32, Option<&Path>),
    mut config: Config,
    dead_letters: DeadLetters,
    ring: &TestRing,
    limit_bytes: usize,
    answers: Vec<Answer>,
) -> (Taken, u64) {
    config.ring.name = ring.name.clone();
    let stop = Stop::default();
    let attached = attach(&ring.name, &stop).unwrap().unwrap();
    let open = |dir| Log::open(dir, &config.spool, &ring.name, None, 1).unwrap();
    let log = spool.map(|dir| Arc::new(Mutex::new(open(dir))));
    let input = Input::open(attached, log, 50).unwrap();
    let frontier = Arc::new(Frontier::new(bounds(&config), input.ledger()));
    let taken = Taken::default();
    let sink = Script {
        answers: answers.into(),
        taken: taken.clone(),
        frontier: Arc::clone(&frontier),
        stop: stop.clone(),
        limit_bytes,
        idles,
    };
    let names = Names::of_the_system().unwrap();
    let mut drain = Drain::new(&config, input, Box::new(sink), frontier, names, stop, dead_letters);
    drain.run().unwrap();
    let (used_bytes, _) = drain.input.ring.fill();
    drain.finish(Duration::ZERO, spool.map_or(Duration::ZERO, |_| SPOOL_TIME));
    (taken, used_bytes)
}

#[test]
fn records_become_events_in_order_under_stable_ids() {
    let ring = TestRing::new("order");
    for i in 0..20 {
        ring.push(format!("/log/{}", i % 3).as_bytes(), format!("line {i}").as_bytes(), (0, 1));
    }
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Logstash, vec![Answer::Full, Answer::Full]);
    assert_eq!(used_bytes, 0);
    for (i, event) in taken.events().iter().enumerate() {
        assert_eq!(event["@message"], format!("line {i}"));
        assert_eq!(event["sequence"], i);
        assert_eq!((&event["user"], &event["offset"]), (&"root".into(), &100.into()));
        let (id, key, _) = &taken.0.lock().unwrap()[i];
        assert_eq!(event["event_id"], **id);
        assert!(id.ends_with(&format!("-{i}")), "{id}");
        assert_eq!(*key, format!("/log/{}", i % 3));
    }
    assert_eq!(taken.payloads().len(), 20);
}

#[test]
fn what_was_not_confirmed_is_sent_again_under_the_same_id() {
    let ring = TestRing::new("again");
    for i in 0..5 {
        ring.push(b"/f", &[b'0' + i], (0, 1));
    }
    let (first, used_bytes) = drain(&ring, usize::MAX, Encoder::LogstashBase64, vec![Answer::Silence]);
    assert!(used_bytes > 0);
    let (second, used_bytes) = drain(&ring, usize::MAX, Encoder::LogstashBase64, vec![]);
    assert_eq!(used_bytes, 0);
    assert_eq!(first.payloads(), second.payloads());
}

#[test]
fn a_large_write_is_sent_in_parts_that_fit() {
    let ring = TestRing::new("parts");
    let data: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
    ring.push(b"/f", &data, (0, 1));
    ring.push(b"/f", &data, (1, 3));
    let (taken, used_bytes) = drain(&ring, 2000, Encoder::LogstashBase64, vec![]);
    assert_eq!(used_bytes, 0);
    assert!(taken.payloads().iter().all(|p| p.len() <= 2000));
    for (sequence, keys) in [(0, ["part", "parts"]), (1, ["piece", "pieces"])] {
        let events: Vec<Value> = taken.events().into_iter().filter(|e| e["sequence"] == sequence).collect();
        let mut whole = Vec::new();
        for (i, event) in events.iter().enumerate() {
            assert_eq!(event["offset"], 100 + whole.len());
            assert_eq!((&event[keys[0]], &event[keys[1]]), (&i.into(), &events.len().into()));
            whole.extend(base64_simd::STANDARD.decode_to_vec(event["@message"].as_str().unwrap()).unwrap());
        }
        assert_eq!(whole, data);
        assert!(events.len() > 5);
    }
    assert!(taken.events().iter().filter(|e| e["sequence"] == 1).all(|e| e["part"] == 1 && e["parts"] == 3));
    let ids: BTreeSet<String> = taken.events().iter().map(|e| e["event_id"].to_string()).collect();
    assert_eq!(ids.len(), taken.events().len(), "each part has an id of its own");
}

#[test]
fn parts_that_are_cut_elsewhere_have_other_ids() {
    let ring = TestRing::new("recut");
    ring.push(b"/f", &[b'x'; 10_000], (0, 1));
    let mut content = HashMap::new();
    for limit_bytes in [2000, 3000] {
        let (taken, _) = drain(&ring, limit_bytes, Encoder::Logstash, vec![Answer::Silence; 100]);
        for event in taken.events() {
            let bytes = (event["offset"].clone(), event["@message"].clone());
            let former = content.insert(event["event_id"].to_string(), bytes.clone());
            assert!(former.is_none_or(|former| former == bytes), "one id for two contents: {event}");
        }
    }
    assert!(content.len() > 8);
}

#[test]
fn a_write_that_will_never_be_taken_becomes_a_loss_event_in_its_place() {
    let ring = TestRing::new("poison");
    ring.push(b"/f", b"bad", (0, 1));
    ring.push(b"/f", b"good", (0, 1));
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Logstash, vec![Answer::Refuse]);
    assert_eq!(used_bytes, 0);
    let events = taken.events();
    assert_eq!(events[0]["lost"]["reason"], "undeliverable");
    assert_eq!((&events[0]["lost"]["events"], &events[0]["lost"]["bytes"]), (&1.into(), &3.into()));
    assert_eq!((&events[0]["sequence"], &events[1]["@message"]), (&0.into(), &"good".into()));
    assert_eq!(events[0]["event_id"], format!("{}-0.undeliverable", ring_uuid(&ring)));
    assert_eq!(counted(&ring), [1, 0, 1, 0]);
}

#[test]
fn a_write_that_will_never_be_taken_becomes_a_dead_letter_and_the_rest_goes_on() {
    let ring = TestRing::new("dead-letter");
    ring.push(b"/f", b"bad", (0, 1));
    ring.push(b"/f", b"good", (0, 1));
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.failed.dir = Some(dir.path().to_owned());
    let dead_letters = DeadLetters::open(&config).unwrap();
    let (taken, used_bytes) =
        drain_with(dead_letters, &ring, usize::MAX, Encoder::Logstash, vec![Answer::Refuse]);
    assert_eq!(used_bytes, 0);
    let messages: Vec<Value> = taken.events().iter().map(|event| event["@message"].clone()).collect();
    assert_eq!(messages, ["good"]);
    assert_eq!(counted(&ring), [1, 1, 0, 0]);
    let dead_letters = dir.path().read_dir().unwrap().flatten().map(|entry| entry.path());
    let [file] =
        &dead_letters.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect::<Vec<_>>()[..]
    else {
        panic!("one file was expected");
    };
    let dead_letter: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!((&dead_letter["reason"], &dead_letter["topic"]), (&"poison".into(), &"logs".into()));
    assert_eq!(
        (&dead_letter["key"], &dead_letter["event_id"]),
        (&"/f".into(), &format!("{}-0", ring_uuid(&ring)).into())
    );
    let payload: Value = serde_json::from_str(dead_letter["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload["@message"], "bad");
}

/// Records that are counted as delivered, as dead letters, as lost and as passed over.
fn counted(ring: &TestRing) -> [u64; 4] {
    use PublisherCounter as Counter;
    let ring = bywash_common::ring::inspect(&ring.name).unwrap();
    [
        Counter::DeliveredEvents,
        Counter::DeadLetteredEvents,
        Counter::UndeliverableEvents,
        Counter::PassedOverEvents,
    ]
    .map(|counter| ring.publisher(counter))
}

fn ring_uuid(ring: &TestRing) -> String {
    bywash_common::ring::inspect(&ring.name).unwrap().uuid.to_string()
}

#[test]
fn a_write_whose_description_alone_is_too_large_is_lost_aloud() {
    let ring = TestRing::new("tiny");
    ring.push(&[b'x'; 3000], b"data", (0, 1));
    let (taken, used_bytes) = drain(&ring, 1000, Encoder::Logstash, vec![]);
    assert_eq!(used_bytes, 0);
    assert_eq!(taken.events()[0]["lost"]["reason"], "undeliverable");
}

#[test]
fn losses_and_damage_are_events_and_raw_stays_clean() {
    let ring = TestRing::new("loss");
    let loss = Loss {
        reason: bywash_common::record::LossReason::RingFull,
        events: 3,
        bytes: 40,
        first_ns: 1,
        last_ns: 2,
    };
    let push = || {
        ring.agent.producer.push(Kind::Lost, &[&loss.encode()], Weight { bytes: 0, time_ns: 0 }).unwrap();
        ring.push_raw(&[b"\xff\xff\xff not a description"]);
        ring.push(b"/f", b"data", (0, 1));
    };
    push();
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Logstash, vec![]);
    assert_eq!(used_bytes, 0);
    let reasons: Vec<Value> = taken.events().iter().map(|e| e["lost"]["reason"].clone()).collect();
    assert_eq!(reasons, ["ring_full".into(), "corrupt".into(), Value::Null]);

    push();
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Raw, vec![]);
    assert_eq!((taken.payloads(), used_bytes), (vec![b"data".to_vec()], 0));
}

#[test]
fn a_tail_that_cannot_be_true_is_said_once_and_costs_nothing() {
    let ring = TestRing::new("tail");
    ring.push(b"/f", b"before", (0, 1));
    let (taken, _) = drain(&ring, usize::MAX, Encoder::Logstash, vec![]);
    assert_eq!(taken.events().len(), 1);
    ring.push(b"/f", b"not read yet", (0, 1));
    ring.move_tail(1);
    let mut config = Config::default();
    config.event.encoder = Encoder::Logstash;
    let (taken, _) = drain_until((3, None), config, DeadLetters::without(), &ring, usize::MAX, vec![]);
    let [news] = &taken.events()[..] else { panic!("one event was expected: {:?}", taken.events()) };
    assert_eq!((&news["lost"]["reason"], &news["lost"]["bytes"]), (&"corrupt".into(), &0.into()));
    // The agent says with each write where the tail is.
    ring.push(b"/f", b"after", (0, 1));
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Logstash, vec![]);
    let messages: Vec<Value> = taken.events().iter().map(|event| event["@message"].clone()).collect();
    assert_eq!((messages, used_bytes), (vec!["not read yet".into(), "after".into()], 0));
}

#[test]
fn a_damaged_record_is_announced_once_by_its_number_and_the_rest_goes_on() {
    let ring = TestRing::new("part");
    for data in [&b"first"[..], b"DAMAGEME", b"behind"] {
        ring.push(b"/f", data, (0, 1));
    }
    ring.damage(b"DAMAGEME");
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Logstash, vec![]);
    let ids: Vec<String> =
        taken.events().iter().map(|e| e["event_id"].as_str().unwrap()[37..].to_owned()).collect();
    assert_eq!((&ids[..], used_bytes), (&["0".to_owned(), "1.corrupt".to_owned(), "2".to_owned()][..], 0));
    assert_eq!(taken.events()[1]["lost"]["events"], 1);
    ring.push(b"/f", b"after", (0, 1));
    let (taken, used_bytes) = drain(&ring, usize::MAX, Encoder::Logstash, vec![]);
    assert_eq!((taken.events().len(), &taken.events()[0]["@message"], used_bytes), (1, &"after".into(), 0));
}

#[test]
fn a_newer_ring_is_seen_even_under_the_same_number() {
    let ring = TestRing::new("newer");
    let attached = attach(&ring.name, &Stop::default()).unwrap().unwrap();
    assert!(!attach::is_superseded(&ring.name, &attached));
    let TestRing { name, .. } = &ring;
    for role in ["ring", "ack"] {
        std::fs::remove_file(format!("{SEGMENT_DIR}/{name}.1.{role}")).unwrap();
    }
    let config = RingConfig { name: name.clone(), size: ByteSize(1 << 20), group: None };
    let _again = AgentRing::open(&config).unwrap();
    assert!(attach::is_superseded(name, &attached));
}
