use bywash_common::{config::SpoolConfig, ring::Weight};

use super::*;
use crate::{
    delivery::testing::TestRing,
    spool::{Item, Mark, Reader},
};

/// So often the last record is delivered while the feeder looks.
const RACES: u64 = 200;

fn push(ring: &TestRing, data: &[u8]) {
    ring.agent.producer.push(Kind::Write, &[data], Weight { bytes: 1, time_ns: 1 }).unwrap();
}

/// What the spool holds behind a mark: numbers of records, and how many are missing in front of them.
fn spooled(log: &Mutex<Log>, delivered: Mark) -> Vec<Result<u64, u64>> {
    let mut reader = Reader::new(delivered.uuid, delivered.known_seq());
    let mut payload = Vec::new();
    let mut all = Vec::new();
    while let Some(item) = reader.next(log, delivered.end, None, &mut payload).unwrap() {
        all.push(match item {
            Item::Record(entry) => Ok(entry.seq),
            Item::Gap { records, .. } => Err(records),
        });
    }
    all
}

#[test]
fn damage_in_the_ring_does_not_stop_it() {
    let test = TestRing::new("feeder-damage");
    let ring = PublisherRing::attach(&test.name, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), &SpoolConfig::default(), "feeder", None, 1).unwrap();
    let log = Arc::new(Mutex::new(log));
    let head = Arc::new(Head::new(&ring, true));
    let mut work = Work::new(Arc::clone(&log), &ring, Arc::clone(&head), 0);
    for data in [&b"first"[..], b"DAMAGEME", b"behind"] {
        push(&test, data);
    }
    test.damage(b"DAMAGEME");
    assert!(work.feed());
    push(&test, b"after");
    assert!(work.feed());
    assert_eq!(spooled(&log, head.delivered()), [Ok(0), Ok(1), Ok(2), Ok(3)]);
}

#[test]
fn damage_that_was_passed_over_and_announced_does_not_stop_it() {
    let test = TestRing::new("feeder-passed");
    let ring = PublisherRing::attach(&test.name, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), &SpoolConfig::default(), "feeder", None, 1).unwrap();
    let log = Arc::new(Mutex::new(log));
    let head = Arc::new(Head::new(&ring, true));
    let mut work = Work::new(Arc::clone(&log), &ring, Arc::clone(&head), 0);
    push(&test, b"first");
    push(&test, b"DAMAGEME");
    test.damage(b"DAMAGEME");
    // As the drain does: the first record is delivered, then the news of the damage.
    let mut consumer = ring.consumer.another();
    let first = consumer.next(&mut Vec::new()).unwrap().unwrap();
    head.deliver(first.end, Some(1));
    consumer.next(&mut Vec::new()).unwrap_err();
    consumer.skip_damage();
    head.deliver(consumer.position(), None);
    push(&test, b"after");
    assert!(work.feed());
    assert_eq!(spooled(&log, head.delivered()), [Ok(2)]);
}

#[test]
fn whoever_sleeps_has_shown_that_nothing_is_left() {
    let ring = TestRing::new("feeder");
    let ring = PublisherRing::attach(&ring.name, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), &SpoolConfig::default(), "feeder", None, 1).unwrap();
    let log = Arc::new(Mutex::new(log));
    let former = uuid::Uuid::from_u128(1);
    let mut work = Work::new(Arc::clone(&log), &ring, Arc::new(Head::new(&ring, true)), u64::MAX);
    for seq in 0..RACES {
        let mut batch = Batch::default();
        batch.push(&Record { kind: Kind::Write, seq, end: (seq + 1) * 64, payload: b"late" });
        log.lock().unwrap().append(former, &batch).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| log.lock().unwrap().forget(former).unwrap());
            while work.round() != Some(IDLE_WAIT) {}
        });
        assert_eq!(ring.status.snapshot()[PublisherCounter::SpoolRecords as usize], 0, "in race {seq}");
    }
}
