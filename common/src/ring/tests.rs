//! The ring over real shared memory: a property model, and what each peer may do to the other.

use std::{collections::VecDeque, fs, os::unix::fs::FileExt, path::PathBuf, sync::atomic};

use proptest::prelude::*;

use crate::{
    config::{Config, RingConfig},
    record::{Loss, LossReason},
    status::{AgentCounter, Listening, ListeningKind},
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

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<usize>),
    PushSome(Vec<usize>),
    GiveUp(usize),
    Read(usize),
    Ack(usize),
    Announce,
    RestartAgent,
    RestartPublisher,
}

fn step() -> impl Strategy<Value = Step> {
    let max = CAPACITY_MIN as usize / 8 - 24;
    let len = prop_oneof![4 => 0..300usize, 2 => 0..=max, 1 => Just(max), 1 => Just(max + 1)];
    prop_oneof![
        8 => prop::collection::vec(len.clone(), 1..4).prop_map(Step::Push),
        4 => prop::collection::vec(len, 1..40).prop_map(Step::PushSome),
        1 => (0..300usize).prop_map(Step::GiveUp),
        4 => (0..20usize).prop_map(Step::Read),
        4 => (0..20usize).prop_map(Step::Ack),
        1 => Just(Step::Announce),
        1 => Just(Step::RestartAgent),
        1 => Just(Step::RestartPublisher),
    ]
}

/// What the ring must hold: the records that are not acknowledged, and the losses that are not announced.
#[derive(Default)]
struct Expected {
    records: VecDeque<(Kind, Vec<u8>)>,
    /// How many of them the publisher has read.
    read: usize,
    /// Events and bytes by reason.
    losses: [(u64, u64); 3],
    pushes: u8,
}

impl Expected {
    /// A record goes in; all losses so far are announced in front of it.
    fn announce(&mut self) {
        for reason in LossReason::ALL {
            let (events, bytes) = std::mem::take(&mut self.losses[reason as usize]);
            if events > 0 {
                let loss = Loss { reason, events, bytes, first_ns: 1, last_ns: 1 };
                self.records.push_back((Kind::Lost, loss.encode()));
            }
        }
    }

    fn lose(&mut self, reason: LossReason, events: usize, bytes: usize) {
        let sum = &mut self.losses[reason as usize];
        *sum = (sum.0 + events as u64, sum.1 + bytes as u64);
    }
}

/// Runs the steps on a real ring and on the model, and compares what is read.
fn run(steps: &[Step]) {
    let ring = TestRing::new();
    let mut agent = Some(ring.agent());
    let mut publisher = Some(ring.publisher());
    let mut expected = Expected::default();
    let mut ends: VecDeque<u64> = VecDeque::new();
    let mut next_seq = 0;
    for step in steps.iter().chain([&Step::Announce, &Step::Read(usize::MAX)]) {
        let producer = &agent.as_ref().unwrap().producer;
        match step {
            Step::Push(lens) => {
                expected.pushes = expected.pushes.wrapping_add(1);
                let payloads: Vec<Vec<u8>> = lens.iter().map(|len| vec![expected.pushes; *len]).collect();
                let bytes = lens.iter().sum();
                let (used, capacity) = producer.fill();
                match producer.reserve(lens, weight(bytes)) {
                    Ok(reservation) => {
                        for (i, payload) in payloads.iter().enumerate() {
                            reservation.write(i, Kind::Write, &[payload]);
                        }
                        reservation.commit();
                        expected.announce();
                        expected.records.extend(payloads.into_iter().map(|p| (Kind::Write, p)));
                    }
                    Err(Lost(reason)) => {
                        // The most that the records, their paddings and announcements can take.
                        let wanted: usize = lens.iter().map(|len| 2 * (len + 32)).sum::<usize>() + 3 * 128;
                        let too_large = lens.iter().any(|len| *len > producer.payload_max());
                        assert_eq!(reason == LossReason::TooLarge, too_large);
                        assert!(
                            too_large || used + wanted as u64 > capacity,
                            "refused at {used} for {lens:?}"
                        );
                        expected.lose(reason, 1, bytes);
                    }
                }
            }
            Step::PushSome(lens) => {
                expected.pushes = expected.pushes.wrapping_add(1);
                let payloads: Vec<Vec<u8>> = lens.iter().map(|len| vec![expected.pushes; *len]).collect();
                let (used, capacity) = producer.fill();
                let reservation = producer.reserve_some(lens, weight(0));
                let taken = reservation.as_ref().map_or(0, Reservation::records);
                if let Some(next) = lens.get(taken).filter(|len| **len <= producer.payload_max()) {
                    let wanted: usize = lens[..taken].iter().map(|len| len + 32).sum();
                    let most = wanted + 2 * (next + 32) + 3 * 128 + capacity as usize / 8;
                    assert!(used as usize + most > capacity as usize, "{taken} of {lens:?} at {used}");
                }
                if let Some(reservation) = reservation {
                    for (i, payload) in payloads[..taken].iter().enumerate() {
                        reservation.write(i, Kind::Write, &[payload]);
                    }
                    reservation.commit();
                    expected.announce();
                    expected.records.extend(payloads[..taken].iter().map(|p| (Kind::Write, p.clone())));
                }
                let (events, bytes) = (lens.len() - taken, lens[taken..].iter().sum());
                if events > 0 {
                    producer.count_losses(LossReason::RingFull, events as u64, weight(bytes));
                    expected.lose(LossReason::RingFull, events, bytes);
                }
            }
            Step::GiveUp(len) => match producer.reserve(&[*len], weight(*len)) {
                Ok(reservation) => {
                    drop(reservation);
                    expected.announce();
                    expected.records.push_back((Kind::Discarded, Vec::new()));
                    expected.lose(LossReason::Discarded, 1, *len);
                }
                Err(Lost(reason)) => expected.lose(reason, 1, *len),
            },
            Step::Announce => {
                let before = producer.fill().0;
                producer.announce_losses();
                if producer.fill().0 > before {
                    expected.announce();
                }
            }
            Step::Read(count) => {
                let mut payload = Vec::new();
                for _ in 0..*count {
                    let Some(entry) = publisher.as_mut().unwrap().consumer.next(&mut payload).unwrap() else {
                        break;
                    };
                    assert_eq!(entry.seq, next_seq + expected.read as u64);
                    assert_eq!((entry.kind, &payload), {
                        let (kind, payload) = &expected.records[expected.read];
                        (*kind, payload)
                    });
                    expected.read += 1;
                    ends.push_back(entry.end);
                }
            }
            Step::Ack(count) => {
                let count = (*count).min(expected.read);
                if let Some(end) = ends.drain(..count).next_back() {
                    publisher.as_ref().unwrap().consumer.acker().ack(end);
                    expected.records.drain(..count);
                    expected.read -= count;
                    next_seq += count as u64;
                }
            }
            Step::RestartAgent => {
                agent = None;
                agent = Some(agent.unwrap_or_else(|| ring.agent()));
            }
            Step::RestartPublisher => {
                publisher = None;
                publisher = Some(publisher.unwrap_or_else(|| ring.publisher()));
                ends.clear();
                expected.read = 0;
            }
        }
    }
    assert_eq!(expected.read, expected.records.len(), "not all was read");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_written_or_a_loss_that_says_so(steps in prop::collection::vec(step(), 1..120)) {
        run(&steps);
    }

    /// Whatever a hostile agent writes into its segment, the reader gives an error or records, and ends.
    #[test]
    fn any_bytes_in_the_data_segment_are_an_error_or_records(
        noise in prop::collection::vec((0usize..4096, any::<u64>()), 1..40),
        tail in prop_oneof![any::<u64>(), (0..CAPACITY_MIN * 2).prop_map(|t| t / 8 * 8)],
    ) {
        let ring = TestRing::new();
        let agent = ring.agent();
        for i in 0..20 {
            agent.producer.push(Kind::Write, &[&[i; 100]], weight(100)).unwrap();
        }
        let mut publisher = ring.publisher();
        let file = fs::OpenOptions::new().write(true).open(ring.object("1.ring")).unwrap();
        for (at, value) in noise {
            file.write_all_at(&value.to_ne_bytes(), layout::RECORDS as u64 + at as u64).unwrap();
        }
        file.write_all_at(&tail.to_ne_bytes(), layout::TAIL as u64).unwrap();
        let mut payload = Vec::new();
        // Each record takes at least 24 bytes, so more than that many would be a loop.
        for _ in 0..=CAPACITY_MIN / 24 {
            match publisher.consumer.next(&mut payload) {
                Ok(Some(entry)) => {
                    let written = payload.len() == 100 && payload.iter().all(|byte| *byte == payload[0]);
                    prop_assert!(entry.kind != Kind::Write || written, "noise was taken for a record");
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    publisher.consumer.skip_to_tail();
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "the reader does not come to an end");
    }

    /// Whatever a hostile publisher writes into its segment, the agent goes on and hands nothing out twice.
    #[test]
    fn any_head_is_believed_only_where_it_can_be_true(heads in prop::collection::vec(any::<u64>(), 1..20)) {
        let ring = TestRing::new();
        let agent = ring.agent();
        let mut publisher = ring.publisher();
        let file = fs::OpenOptions::new().write(true).open(ring.object("1.ack")).unwrap();
        let mut pushed = 0u64;
        while agent.producer.push(Kind::Write, &[&pushed.to_ne_bytes()], weight(8)).is_ok() {
            pushed += 1;
        }
        for head in heads {
            // What cannot be true: beyond the tail.
            let head = head | (1 << 63);
            file.write_all_at(&head.to_ne_bytes(), layout::HEAD as u64).unwrap();
            prop_assert!(agent.producer.push(Kind::Write, &[&[0; 8]], weight(8)).is_err());
        }
        let values: Vec<u64> =
            drain(&mut publisher.consumer).iter().map(|(_, p)| u64::from_ne_bytes(p[..].try_into().unwrap())).collect();
        prop_assert_eq!(values, (0..pushed).collect::<Vec<_>>());
    }
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
        seen.iter().filter(|(e, _)| e.kind == Kind::Lost).map(|(_, p)| Loss::decode(p).unwrap()).collect();
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
fn a_second_agent_and_a_second_publisher_are_refused_by_name() {
    let ring = TestRing::new();
    let _agent = ring.agent();
    let _publisher = ring.publisher();
    let message = AgentRing::open(&ring.0).err().map(|e| e.to_string()).unwrap_or_default();
    let pid = format!("pid {}", std::process::id());
    assert!(message.contains("held by another fs-agent") && message.contains(&pid), "{message}");
    let again = PublisherRing::attach(&ring.0.name, None);
    let message = again.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("held by another publisher") && message.contains(&pid), "{message}");
}

#[test]
fn a_publisher_without_a_ring_is_told_so() {
    let ring = TestRing::new();
    let missing = PublisherRing::attach(&ring.0.name, None).err();
    assert!(matches!(missing, Some(RingError::Missing { .. })), "{missing:?}");
}

#[test]
fn another_size_begins_a_new_generation_and_the_old_one_is_drained_first() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"old"], weight(3)).unwrap();
    drop(agent);
    let larger = RingConfig { size: ByteSize(2 * CAPACITY_MIN), ..ring.0.clone() };
    let agent = AgentRing::open(&larger).unwrap();
    agent.producer.push(Kind::Write, &[b"new"], weight(3)).unwrap();
    agent.remove_drained().unwrap();
    let mut publisher = ring.publisher();
    let old_uuid = publisher.uuid;
    assert!(publisher.has_successor().unwrap());
    let seen = drain(&mut publisher.consumer);
    assert_eq!(seen.iter().map(|(_, p)| &p[..]).collect::<Vec<_>>(), [b"old"]);
    assert!(!publisher.is_drained());
    publisher.consumer.acker().ack(seen[0].0.end);
    assert!(publisher.is_drained());
    drop(publisher);
    let mut publisher = ring.publisher();
    assert_ne!(publisher.uuid, old_uuid);
    assert_eq!(drain(&mut publisher.consumer)[0].1, b"new");
    agent.remove_drained().unwrap();
    assert_eq!(ring.objects().len(), 2, "{:?}", ring.objects());
}

#[test]
fn a_damaged_ring_is_left_for_inspection_and_a_new_one_is_made() {
    let ring = TestRing::new();
    drop(ring.agent());
    let file = fs::OpenOptions::new().write(true).open(ring.object("1.ring")).unwrap();
    file.write_all_at(b"garbage", 0x20).unwrap();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"x"], weight(1)).unwrap();
    let mut publisher = ring.publisher();
    assert_eq!(drain(&mut publisher.consumer).len(), 1);
}

/// Makes the generation as a program of another layout version would have: the version comes before the checksum.
fn set_version(ring: &TestRing, generation: u32, version: u32) {
    for role in ["ring", "ack"] {
        let object = ring.object(&format!("{generation}.{role}"));
        let file = fs::OpenOptions::new().write(true).open(object).unwrap();
        file.write_all_at(&version.to_ne_bytes(), 0x08).unwrap();
    }
}

#[test]
fn an_agent_of_another_version_begins_beside_the_old_ring_which_is_drained_first() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"old"], weight(3)).unwrap();
    drop(agent);
    // To the agent that now starts, the old ring is of a version that it does not know.
    set_version(&ring, 1, VERSION - 1);
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"new"], weight(3)).unwrap();
    agent.remove_drained().unwrap();
    assert_eq!(ring.objects().len(), 4, "what cannot be read is not thrown away");
    drop(agent);
    // To the publisher of the old version, it is the other way round.
    set_version(&ring, 1, VERSION);
    set_version(&ring, 2, VERSION + 1);
    let mut publisher = ring.publisher();
    let seen = drain(&mut publisher.consumer);
    assert_eq!(seen.iter().map(|(_, p)| &p[..]).collect::<Vec<_>>(), [b"old"]);
    publisher.consumer.acker().ack(seen[0].0.end);
    drop(publisher);
    let refused = PublisherRing::attach(&ring.0.name, None).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        refused.contains(&format!("version {}", VERSION + 1)) && refused.contains("publisher"),
        "{refused}"
    );
}

#[test]
fn a_ring_of_an_earlier_boot_is_left_behind_and_still_drained() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"old"], weight(3)).unwrap();
    drop(agent);
    for (role, magic) in [("ring", layout::MAGIC_DATA), ("ack", layout::MAGIC_ACK)] {
        let object = ring.object(&format!("1.{role}"));
        let file = fs::OpenOptions::new().read(true).write(true).open(object).unwrap();
        let mut bytes = [0; layout::HEADER_LEN];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut header = layout::Header::decode("r", magic, &bytes).unwrap();
        header.boot_id = [0xbb; 16];
        file.write_all_at(&header.encode(), 0).unwrap();
    }
    let _agent = ring.agent();
    let mut publisher = ring.publisher();
    assert!(publisher.has_successor().unwrap());
    assert_eq!(drain(&mut publisher.consumer)[0].1, b"old");
}

#[test]
fn a_ring_of_another_owner_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give a file away");
        return;
    }
    let ring = TestRing::new();
    drop(ring.agent());
    std::os::unix::fs::chown(ring.object("1.ring"), Some(12345), None).unwrap();
    let refused = AgentRing::open(&ring.0).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("uid 12345"), "{refused}");
    let refused = PublisherRing::attach(&ring.0.name, None).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("uid 12345"), "{refused}");
    assert!(PublisherRing::attach(&ring.0.name, Some(12345)).is_ok());
}

#[test]
fn what_a_killed_agent_left_half_made_is_removed() {
    let ring = TestRing::new();
    // No process can have this id: it is over the kernel's largest, 2^22.
    let leftover = ring.object("4194305.tmp-ring");
    fs::write(&leftover, b"half").unwrap();
    let _agent = ring.agent();
    assert!(!leftover.exists());
}

#[test]
fn nobody_but_the_owner_may_open_a_ring() {
    use std::os::unix::fs::PermissionsExt;
    let ring = TestRing::new();
    let _agent = ring.agent();
    for end in ["1.ring", "1.ack"] {
        let mode = fs::metadata(ring.object(end)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{end}");
    }
}

#[test]
fn a_segment_that_a_peer_cuts_short_is_an_error_on_both_sides_and_kills_neither() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"x"], weight(1)).unwrap();
    let mut publisher = ring.publisher();
    for end in ["1.ring", "1.ack"] {
        fs::OpenOptions::new().write(true).open(ring.object(end)).unwrap().set_len(0).unwrap();
    }
    let read = publisher.consumer.next(&mut Vec::new());
    assert_eq!(read, Err(ReadError::Truncated));
    publisher.consumer.wait(std::time::Duration::from_millis(1));
    for _ in 0..10_000 {
        let _ = agent.producer.push(Kind::Write, &[&[0; 100]], weight(100));
    }
    let message = agent.check_intact().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("cut it short"), "{message}");
    drop((agent, publisher));
    let agent = ring.agent();
    assert!(agent.check_intact().is_ok());
    agent.producer.push(Kind::Write, &[b"y"], weight(1)).unwrap();
    assert_eq!(drain(&mut ring.publisher().consumer)[0].1, b"y");
}

#[test]
fn status_sees_roles_counters_roster_and_fill() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let roster = vec![
        Listening { kind: ListeningKind::Directory, path: "/var/log".into() },
        Listening { kind: ListeningKind::Fifo, path: "/run/a b".into() },
    ];
    agent.status.set_roster(&roster);
    agent.status.add(AgentCounter::CapturedEvents, 3);
    agent.producer.push(Kind::Write, &[&[0; 100]], weight(100)).unwrap();
    assert!(agent.producer.push(Kind::Write, &[&vec![0; CAPACITY_MIN as usize]], weight(5)).is_err());
    let seen = inspect(&ring.0.name).unwrap();
    assert_eq!((seen.agent_running, seen.publisher_running), (true, false));
    assert_eq!((seen.roster, seen.used), (roster, 128));
    assert_eq!(seen.losses[LossReason::TooLarge as usize], (LossReason::TooLarge, 1, 5));
    let publisher = ring.publisher();
    drop(agent);
    let seen = inspect(&ring.0.name).unwrap();
    assert_eq!((seen.agent_running, seen.publisher_running), (false, true));
    assert_eq!(seen.agent(AgentCounter::CapturedEvents), 3);
    drop(publisher);
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
