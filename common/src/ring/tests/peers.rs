//! What each peer may do to the other, and what it is told.

use crate::status::{AgentCounter, FIFO_SLOTS, FifoCounter, Listening, ListeningKind, PublisherCounter};

use super::*;

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
fn what_a_publisher_has_counted_is_gone_on_with_in_the_next_generation() {
    let ring = TestRing::new();
    let delivered =
        |ring: &TestRing| inspect(&ring.0.name).unwrap().publisher(PublisherCounter::DeliveredEvents);
    let agent = ring.agent();
    let publisher = ring.publisher();
    publisher.status.add(PublisherCounter::DeliveredEvents, 5);
    drop((agent, publisher));
    // Two begin while no publisher is there.
    for factor in [2, 3] {
        drop(
            AgentRing::open(&RingConfig { size: ByteSize(factor * CAPACITY_MIN), ..ring.0.clone() }).unwrap(),
        );
    }
    let agent = AgentRing::open(&RingConfig { size: ByteSize(3 * CAPACITY_MIN), ..ring.0.clone() }).unwrap();
    agent.remove_drained().unwrap();
    assert_eq!(delivered(&ring), 5);
    assert_eq!(ring.objects().len(), 4, "one that nobody has drained goes, and what was counted stays");
    for more in 1..3 {
        let publisher = ring.publisher();
        publisher.status.add(PublisherCounter::DeliveredEvents, 1);
        drop(publisher);
        agent.remove_drained().unwrap();
        assert_eq!((delivered(&ring), ring.objects().len()), (5 + more, 2));
    }
}

#[test]
fn losses_that_a_generation_has_not_announced_are_announced_in_the_next() {
    let ring = TestRing::new();
    let agent = ring.agent();
    while agent.producer.push(Kind::Write, &[&[0; 4000]], weight(5)).is_ok() {}
    drop(agent);
    let larger = RingConfig { size: ByteSize(2 * CAPACITY_MIN), ..ring.0.clone() };
    let agent = AgentRing::open(&larger).unwrap();
    agent.producer.push(Kind::Write, &[b"new"], weight(3)).unwrap();
    let kinds_of = |publisher: &mut PublisherRing| -> Vec<Kind> {
        let seen = drain(&mut publisher.consumer);
        publisher.consumer.acker().ack(seen.last().unwrap().0.end);
        seen.iter().map(|(entry, _)| entry.kind).collect()
    };
    let mut publisher = ring.publisher();
    assert!(!kinds_of(&mut publisher).contains(&Kind::Lost));
    drop(publisher);
    let mut publisher = ring.publisher();
    assert_eq!(kinds_of(&mut publisher), [Kind::Lost, Kind::Write]);
    assert_eq!(inspect(&ring.0.name).unwrap().losses[LossReason::RingFull as usize].1, 1);
}

#[test]
fn a_publisher_that_drains_an_older_generation_is_seen_there() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"old"], weight(3)).unwrap();
    drop(agent);
    let publisher = ring.publisher();
    publisher.status.set(PublisherCounter::InFlightEvents, 7);
    let larger = RingConfig { size: ByteSize(2 * CAPACITY_MIN), ..ring.0.clone() };
    let _agent = AgentRing::open(&larger).unwrap();
    let seen = inspect(&ring.0.name).unwrap();
    assert!(seen.publisher_running);
    assert_eq!(seen.publisher(PublisherCounter::Pid), u64::from(std::process::id()));
    assert_eq!((seen.publisher(PublisherCounter::InFlightEvents), seen.used_records), (7, 1));
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
fn what_a_killed_agent_left_half_made_is_removed() {
    let ring = TestRing::new();
    let leftovers = [ring.object("1.ring.tmp"), ring.object("1.ack.tmp")];
    for leftover in &leftovers {
        fs::write(leftover, b"half").unwrap();
    }
    let _agent = ring.agent();
    assert_eq!(ring.objects().len(), 2, "{:?}", ring.objects());
}

/// How often agents begin at once.
const RACES: usize = 100;

#[test]
fn of_agents_that_begin_at_once_one_makes_the_ring_and_the_others_are_refused() {
    for race in 0..RACES {
        let ring = TestRing::new();
        if race % 2 == 1 {
            fs::write(ring.object("1.ring.tmp"), b"half").unwrap();
        }
        let start = std::sync::Barrier::new(4);
        let begin = || {
            start.wait();
            AgentRing::open(&ring.0)
        };
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused = opened.iter().filter(|o| matches!(o, Err(RingError::AgentHolds { .. }))).count();
        assert_eq!(refused, 3, "{:?}", opened.iter().map(|o| o.as_ref().err()).collect::<Vec<_>>());
        assert_eq!(ring.objects().len(), 2, "{:?}", ring.objects());
        drop(ring.publisher());
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
    let message = agent.look().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("cut it short"), "{message}");
    drop((agent, publisher));
    let agent = ring.agent();
    assert!(agent.look().is_ok());
    agent.producer.push(Kind::Write, &[b"y"], weight(1)).unwrap();
    assert_eq!(drain(&mut ring.publisher().consumer)[0].1, b"y");
}

#[test]
fn status_sees_roles_counters_listening_table_and_fill() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let listening_table = vec![
        Listening { kind: ListeningKind::Directory, path: "/var/log".into() },
        Listening { kind: ListeningKind::Fifo { slot: Some(FIFO_SLOTS - 1) }, path: "/run/a b".into() },
        Listening { kind: ListeningKind::Fifo { slot: None }, path: "/run/c".into() },
    ];
    agent.status.set_listening_table(&listening_table);
    agent.status.add(AgentCounter::CapturedEvents, 3);
    agent.status.add_fifo(FIFO_SLOTS - 1, FifoCounter::Missing, 1);
    agent.producer.push(Kind::Write, &[&[0; 100]], weight(100)).unwrap();
    assert!(agent.producer.push(Kind::Write, &[&vec![0; CAPACITY_MIN as usize]], weight(5)).is_err());
    let seen = inspect(&ring.0.name).unwrap();
    assert_eq!((seen.agent_running, seen.publisher_running), (true, false));
    assert_eq!(seen.fifo(FIFO_SLOTS - 1, FifoCounter::Missing), 1);
    assert_eq!(seen.fifo(FIFO_SLOTS - 1, FifoCounter::LostBytes), 0);
    assert_eq!((seen.listening_table, seen.used), (listening_table, 128));
    assert_eq!(seen.losses[LossReason::TooLarge as usize], (LossReason::TooLarge, 1, 5));
    let publisher = ring.publisher();
    drop(agent);
    let seen = inspect(&ring.0.name).unwrap();
    assert_eq!((seen.agent_running, seen.publisher_running), (false, true));
    assert_eq!(seen.agent(AgentCounter::CapturedEvents), 3);
    drop(publisher);
}

#[test]
fn what_the_listening_table_has_no_room_for_is_counted() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let fifo =
        |i| Listening { kind: ListeningKind::Fifo { slot: None }, path: format!("/run/{i:020}").into() };
    let listening_table: Vec<Listening> = (0..1500).map(fifo).collect();
    agent.status.set_listening_table(&listening_table);
    let seen = inspect(&ring.0.name).unwrap();
    assert!(
        seen.listening_table.len() > 700
            && seen.listening_table == listening_table[..seen.listening_table.len()]
    );
    assert_eq!(seen.listening_table.len() + seen.unlisted, listening_table.len());
    agent.status.set_listening_table(&listening_table[..10]);
    assert_eq!(inspect(&ring.0.name).unwrap().unlisted, 0);
}
