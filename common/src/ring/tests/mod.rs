//! The ring over real shared memory.

mod damage;
mod peers;
mod property;
mod replace;
mod strangers;
mod withheld;

use std::{fs, os::unix::fs::FileExt, path::PathBuf, sync::atomic};

use crate::{
    config::Config,
    record::{Loss, LossReason},
    units::ByteSize,
};

use super::*;

/// A ring's name that no other test has; its objects are removed at the end.
struct TestRing(RingConfig);

impl TestRing {
    fn new() -> Self {
        static NEXT: atomic::AtomicU32 = atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, atomic::Ordering::Relaxed);
        let name = format!("bywash-test-{}-{number}", std::process::id());
        Self(RingConfig { name, size: ByteSize(CAPACITY_MIN), ..Config::default().ring })
    }

    fn agent(&self) -> AgentRing {
        AgentRing::open(&self.0).unwrap()
    }

    fn publisher(&self) -> PublisherRing {
        PublisherRing::attach(&self.0.name, None).unwrap()
    }

    fn object(&self, end: &str) -> PathBuf {
        PathBuf::from(SEGMENT_DIR).join(format!("{}.{end}", self.0.name))
    }

    fn objects(&self) -> Vec<String> {
        let listing = fs::read_dir(SEGMENT_DIR).unwrap().flatten();
        let mut names: Vec<String> = listing.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.retain(|name| name.strip_prefix(&self.0.name).is_some_and(|rest| rest.starts_with('.')));
        names.sort();
        names
    }
}

impl Drop for TestRing {
    fn drop(&mut self) {
        for object in self.objects() {
            drop(fs::remove_file(PathBuf::from(SEGMENT_DIR).join(object)));
        }
    }
}

fn weight(bytes: usize) -> Weight {
    Weight { bytes: bytes as u64, time_ns: 1 }
}

/// Everything that is there to read.
fn drain(consumer: &mut Consumer) -> Vec<(Entry, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut payload = Vec::new();
    while let Some(entry) = consumer.next(&mut payload).unwrap() {
        seen.push((entry, payload.clone()));
    }
    seen
}

/// What the sequence numbers say that were noted before the records were committed.
#[test]
fn a_successor_knows_which_records_were_committed() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let noted = std::cell::RefCell::new(Vec::new());
    let note = |sequence| noted.borrow_mut().push(sequence);
    agent.producer.push_noted(Kind::Write, &[b"short"], weight(5), &note).unwrap();
    let long = vec![1; agent.producer.payload_max()];
    agent.producer.push_noted(Kind::Write, &[&long], weight(long.len()), &note).unwrap();
    // Reserved, never committed: the process is gone.
    let reservation = agent.producer.reserve(&[8, 8], weight(16)).unwrap();
    noted.borrow_mut().push(reservation.first_sequence());
    std::mem::forget(reservation);
    let uuid = agent.uuid();
    drop(agent);
    let successor = ring.agent();
    let committed = |sequence: u64| successor.had_committed(uuid, sequence);
    assert_eq!(noted.take().into_iter().map(committed).collect::<Vec<_>>(), [true, true, false].map(Some));
    // Numbers that were noted and not committed are given again.
    successor.producer.push(Kind::Write, &[b"next"], weight(4)).unwrap();
    assert_eq!(successor.had_committed(uuid, 2), Some(false));
    assert_eq!(successor.had_committed([0; 16], 0), None, "another ring");
}

/// An agent that dies while it announces a loss: the announcement is void, and stays so however far the tail gets.
#[test]
fn an_announcement_that_never_became_visible_is_made_again() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.count_loss(LossReason::RingFull, weight(7));
    // Reserved with the announcement in front, never committed: the process is gone.
    std::mem::forget(agent.producer.reserve(&[8], weight(8)).unwrap());
    drop(agent);
    let agent = ring.agent();
    for i in 0..10 {
        agent.producer.push(Kind::Write, &[&[i; 100]], weight(100)).unwrap();
    }
    drop(agent);
    // The tail is past the one to which the void announcement was bound.
    let agent = ring.agent();
    agent.producer.announce_losses();
    let seen = drain(&mut ring.publisher().consumer);
    let losses: Vec<Loss> =
        seen.iter().filter(|(e, _)| e.kind == Kind::Lost).map(|(_, p)| Loss::decode(p).unwrap().0).collect();
    assert_eq!(losses.iter().map(|l| (l.events, l.bytes)).collect::<Vec<_>>(), [(1, 7)]);
    assert_eq!(seen.len(), 11);
}

#[test]
fn a_record_that_reaches_beyond_the_tail_is_refused_whatever_its_checksum() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[&[1; 100]], weight(100)).unwrap();
    agent.producer.push(Kind::Write, &[&[2; 100]], weight(100)).unwrap();
    let mut publisher = ring.publisher();
    let file = fs::OpenOptions::new().read(true).write(true).open(ring.object("1.ring")).unwrap();
    let mut payload = vec![0; 300];
    file.read_exact_at(&mut payload, layout::RECORDS as u64 + layout::RECORD_HEADER).unwrap();
    let mut header = layout::RecordHeader { len: 324, kind: Kind::Write as u8, seq: 0, crc: 0 };
    header.crc = layout::checksum(&payload) ^ header.mark();
    file.write_all_at(&header.encode(), layout::RECORDS as u64).unwrap();
    let read = publisher.consumer.next(&mut Vec::new());
    assert_eq!(read, Err(ReadError::Length { position: 0, len: 324 }));
}

#[test]
fn a_record_out_of_sequence_is_refused_whatever_its_checksum() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let mut publisher = ring.publisher();
    for payload in [[1; 100], [2; 100]] {
        agent.producer.push(Kind::Write, &[&payload], weight(100)).unwrap();
    }
    let position = publisher.consumer.next(&mut Vec::new()).unwrap().unwrap().end;
    let mut header = layout::RecordHeader { len: 124, kind: Kind::Write as u8, seq: 7, crc: 0 };
    header.crc = layout::checksum(&[2; 100]) ^ header.mark();
    let file = fs::OpenOptions::new().write(true).open(ring.object("1.ring")).unwrap();
    file.write_all_at(&header.encode(), layout::RECORDS as u64 + position).unwrap();
    let read = publisher.consumer.next(&mut Vec::new());
    assert_eq!(read, Err(ReadError::Sequence { position, found: 7, expected: 1 }));
}

#[test]
fn a_waiter_at_its_largest_value_does_not_overflow() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let file = fs::OpenOptions::new().write(true).open(ring.object("1.ack")).unwrap();
    file.write_all_at(&u32::MAX.to_ne_bytes(), layout::WAITER as u64).unwrap();
    let mut publisher = ring.publisher();
    publisher.consumer.wait(std::time::Duration::from_millis(1));
    agent.producer.push(Kind::Write, &[b"x"], weight(1)).unwrap();
    assert_eq!(drain(&mut publisher.consumer).len(), 1);
}

#[test]
fn a_record_that_ends_with_the_area_is_followed_by_one_at_its_beginning() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let mut publisher = ring.publisher();
    // 32 bytes each: they fill the area to its last byte, without a padding.
    for lap in 0..3u64 {
        for _ in 0..CAPACITY_MIN / 32 {
            agent.producer.push(Kind::Write, &[&lap.to_ne_bytes()], weight(8)).unwrap();
        }
        let seen = drain(&mut publisher.consumer);
        assert!(seen.iter().all(|(_, p)| **p == lap.to_ne_bytes()));
        publisher.consumer.acker().ack(seen.last().unwrap().0.end);
        assert_eq!((seen.len() as u64, publisher.is_drained()), (CAPACITY_MIN / 32, true));
    }
}

#[test]
fn a_wait_ends_with_a_push_and_not_before_its_time_without() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let mut publisher = ring.publisher();
    let nap = std::time::Duration::from_millis(20);
    let start = std::time::Instant::now();
    publisher.consumer.wait(nap);
    assert!(start.elapsed() >= nap);
    let long = std::time::Duration::from_secs(60);
    std::thread::scope(|scope| {
        scope.spawn(|| agent.producer.push(Kind::Write, &[b"x"], weight(1)));
        publisher.consumer.wait(long);
    });
    assert!(start.elapsed() < long);
    assert_eq!(drain(&mut publisher.consumer).len(), 1);
}
