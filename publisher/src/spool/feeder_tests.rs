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

/// A feeder that a test goes through the rounds of.
struct Feeding {
    ring: PublisherRing,
    log: Arc<Mutex<Log>>,
    head: Arc<Head>,
    work: Work,
    _dir: tempfile::TempDir,
}

impl Feeding {
    /// Of a ring, with an empty spool; `high_bytes` as [`Work::new`] takes it.
    fn of(test: &TestRing, high_bytes: u64) -> Self {
        let ring = PublisherRing::attach(&test.name, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), &SpoolConfig::default(), "feeder", None, 1).unwrap();
        let log = Arc::new(Mutex::new(log));
        let head = Arc::new(Head::new(&ring, true));
        let work = Work::new(Arc::clone(&log), &ring, Arc::clone(&head), high_bytes);
        Self { ring, log, head, work, _dir: dir }
    }
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
    let mut feeding = Feeding::of(&test, 0);
    for data in [&b"first"[..], b"DAMAGEME", b"behind"] {
        push(&test, data);
    }
    test.damage(b"DAMAGEME");
    assert!(feeding.work.feed());
    push(&test, b"after");
    assert!(feeding.work.feed());
    assert_eq!(spooled(&feeding.log, feeding.head.delivered()), [Ok(0), Ok(1), Ok(2), Ok(3)]);
}

#[test]
fn what_is_missing_at_the_end_is_in_the_spool_though_nothing_follows() {
    let test = TestRing::new("feeder-end");
    let mut feeding = Feeding::of(&test, 0);
    for data in [&b"first"[..], b"DAMAGEME", b"behind", b"last"] {
        push(&test, data);
    }
    test.damage_header_of(b"DAMAGEME");
    assert!(feeding.work.feed());
    // The last one cannot be read, and the numbers say that two are missing.
    assert_eq!(spooled(&feeding.log, feeding.head.delivered()), [Ok(0), Err(2), Ok(3)]);
}

#[test]
fn damage_that_was_passed_over_and_announced_does_not_stop_it() {
    let test = TestRing::new("feeder-passed");
    let mut feeding = Feeding::of(&test, 0);
    push(&test, b"first");
    push(&test, b"DAMAGEME");
    test.damage(b"DAMAGEME");
    // As the drain does: the first record is delivered, then the news of the damage.
    let mut consumer = feeding.ring.consumer.another();
    let first = consumer.next(&mut Vec::new()).unwrap().unwrap();
    feeding.head.deliver(first.end, Some(1));
    consumer.next(&mut Vec::new()).unwrap_err();
    consumer.skip_damage();
    feeding.head.deliver(consumer.position(), None);
    push(&test, b"after");
    assert!(feeding.work.feed());
    assert_eq!(spooled(&feeding.log, feeding.head.delivered()), [Ok(2)]);
}

#[test]
fn whoever_sleeps_has_shown_that_nothing_is_left() {
    let test = TestRing::new("feeder");
    let mut feeding = Feeding::of(&test, u64::MAX);
    let former = uuid::Uuid::from_u128(1);
    for seq in 0..RACES {
        let mut batch = Batch::default();
        batch.push(&Record { kind: Kind::Write, seq, end: (seq + 1) * 64, payload: b"late" });
        feeding.log.lock().unwrap().append(former, &batch).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| feeding.log.lock().unwrap().forget(former).unwrap());
            while feeding.work.round() != Some(IDLE_WAIT) {}
        });
        assert_eq!(
            feeding.ring.status.snapshot()[PublisherCounter::SpoolRecords as usize],
            0,
            "in race {seq}"
        );
    }
}
