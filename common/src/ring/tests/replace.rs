//! Rings that somebody makes useless while an agent writes to them.

use std::sync::Arc;

use crate::{
    record::{Origin, Write},
    status::{AgentCounter, FifoCounter},
};

use super::*;

/// What of a test's ring has been replaced.
struct Replaced {
    now: AgentRing,
    former: Retired,
}

fn push(agent: &AgentRing, data: &[u8], part: (u32, u32)) {
    let write = Write {
        path: b"/a",
        pid: 1,
        uid: 2,
        gid: 3,
        time_ns: 40,
        command: b"",
        offset: 0,
        handle: 1,
        origin: Origin::Write,
        part: part.0,
        parts: part.1,
    };
    let mut description = Vec::new();
    write.encode_into(&mut description);
    agent.producer.push(Kind::Write, &[&description, data], weight(data.len())).unwrap();
    agent.status.add(AgentCounter::CapturedEvents, 1);
}

/// The agent finds its ring broken, and goes on in another.
#[track_caller]
fn replace(agent: &Arc<AgentRing>, what: &str) -> Replaced {
    let error = agent.look().expect_err("it is not found to be broken");
    assert!(matches!(error, RingError::Broken { .. }) && error.to_string().contains(what), "{error}");
    let (now, handover) = agent.succeed().unwrap();
    agent.retire().unwrap();
    Replaced { former: Retired::new(Arc::clone(agent), handover), now }
}

impl Replaced {
    /// Nobody writes to the former one any more.
    fn settle(&mut self) -> Option<(u64, u64)> {
        self.former.settle(&self.now, false).map(|unread| (unread.events, unread.bytes))
    }

    fn lost(&self) -> (u64, u64) {
        let lost = loss::totals(&*self.now.segments)[LossReason::RingGone as usize];
        (lost.1, lost.2)
    }
}

impl TestRing {
    fn remove_names(&self) {
        for object in self.objects() {
            fs::remove_file(PathBuf::from(SEGMENT_DIR).join(object)).unwrap();
        }
    }

    fn cut(&self, end: &str, len: u64) {
        fs::OpenOptions::new().write(true).open(self.object(end)).unwrap().set_len(len).unwrap();
    }

    fn overwrite(&self, end: &str, at: usize, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.object(end)).unwrap();
        file.write_all_at(bytes, at as u64).unwrap();
    }
}

/// The losses that a ring says, without their times.
fn announced(ring: &TestRing) -> Vec<(LossReason, u64, u64)> {
    let mut publisher = ring.publisher();
    let seen = drain(&mut publisher.consumer);
    let losses = seen.iter().filter(|(entry, _)| entry.kind == Kind::Lost);
    losses
        .map(|(_, payload)| Loss::decode(payload).unwrap().0)
        .map(|l| (l.reason, l.events, l.bytes))
        .collect()
}

#[test]
fn of_a_ring_that_is_removed_before_anybody_read_it_the_writes_are_counted_exactly() {
    let ring = TestRing::new();
    let agent = Arc::new(ring.agent());
    push(&agent, &[1; 100], (0, 1));
    push(&agent, &[2; 300], (0, 2));
    push(&agent, &[3; 50], (1, 2));
    agent.look().unwrap();
    ring.remove_names();
    push(&agent, &[4; 7], (0, 1));
    let mut replaced = replace(&agent, "removed");
    drop(agent);
    assert_eq!(replaced.settle(), Some((3, 457)));
    assert_eq!(replaced.lost(), (3, 457));
    assert_eq!(replaced.now.status.snapshot()[AgentCounter::CapturedEvents as usize], 4);
    assert_eq!(ring.objects().len(), 2, "{:?}", ring.objects());
    replaced.now.producer.announce_losses();
    assert_eq!(announced(&ring), [(LossReason::RingGone, 3, 457)]);
}

#[test]
fn whoever_writes_to_the_former_ring_at_the_last_moment_is_waited_for_and_counted() {
    let ring = TestRing::new();
    let agent = Arc::new(ring.agent());
    ring.remove_names();
    let mut replaced = replace(&agent, "removed");
    let writer = Arc::clone(&agent);
    drop(agent);
    assert_eq!(replaced.settle(), None);
    push(&writer, &[1; 100], (0, 1));
    writer.producer.count_loss(LossReason::TooLarge, weight(5));
    writer.status.set_fifo(3, FifoCounter::Missing, 1);
    drop(writer);
    assert_eq!(replaced.settle(), Some((1, 100)));
    assert_eq!(replaced.now.status.snapshot()[AgentCounter::CapturedEvents as usize], 1);
    assert_eq!(replaced.now.status.fifo(3, FifoCounter::Missing), 1);
    replaced.now.producer.announce_losses();
    assert_eq!(announced(&ring), [(LossReason::TooLarge, 1, 5), (LossReason::RingGone, 1, 100)]);
}

#[test]
fn what_an_attached_publisher_still_reads_is_not_lost_and_the_rest_is_counted_when_it_lets_go() {
    let ring = TestRing::new();
    let agent = Arc::new(ring.agent());
    let mut publisher = ring.publisher();
    for i in 0..10 {
        push(&agent, &[i; 10], (0, 1));
    }
    ring.remove_names();
    let mut replaced = replace(&agent, "removed");
    drop(agent);
    assert_eq!(replaced.settle(), None, "a publisher has it");
    assert!(publisher.has_successor().unwrap());
    let seen = drain(&mut publisher.consumer);
    publisher.consumer.acker().ack(seen[3].0.end);
    assert_eq!(replaced.settle(), None, "a publisher has it");
    drop(publisher);
    assert_eq!(replaced.settle(), Some((6, 60)));
    replaced.now.producer.announce_losses();
    assert_eq!(announced(&ring), [(LossReason::RingGone, 6, 60)]);
}

#[test]
fn a_former_ring_that_is_read_to_its_end_costs_nothing() {
    let ring = TestRing::new();
    let agent = Arc::new(ring.agent());
    let mut publisher = ring.publisher();
    push(&agent, b"x", (0, 1));
    ring.remove_names();
    let mut replaced = replace(&agent, "removed");
    drop(agent);
    let seen = drain(&mut publisher.consumer);
    publisher.consumer.acker().ack(seen[0].0.end);
    assert!(publisher.is_drained());
    assert_eq!(replaced.settle(), Some((0, 0)));
    replaced.now.producer.announce_losses();
    drop(publisher);
    assert_eq!(announced(&ring), []);
}

#[test]
fn of_a_ring_that_is_cut_short_all_that_is_not_acknowledged_is_counted() {
    for len in [0, 4096, layout::RECORDS as u64] {
        let ring = TestRing::new();
        let agent = Arc::new(ring.agent());
        for i in 0..10 {
            push(&agent, &[i; 10], (0, 1));
        }
        let mut publisher = ring.publisher();
        let seen = drain(&mut publisher.consumer);
        publisher.status.set(crate::status::PublisherCounter::AckedSequence, 4);
        publisher.consumer.acker().ack(seen[3].0.end);
        agent.look().unwrap();
        ring.cut("1.ring", len);
        for _ in 0..5 {
            push(&agent, &[9; 10], (0, 1));
        }
        let mut replaced = replace(&agent, "cut it short");
        drop(agent);
        assert_eq!(publisher.consumer.next(&mut Vec::new()), Err(ReadError::Truncated));
        assert_eq!(replaced.settle(), None, "what it has read may still be delivered");
        publisher.status.set(crate::status::PublisherCounter::AckedSequence, 6);
        publisher.consumer.acker().ack(seen[5].0.end);
        drop(publisher);
        assert_eq!(replaced.settle().map(|(events, _)| events), Some(9), "cut to {len} bytes");
        let captured = replaced.now.status.snapshot()[AgentCounter::CapturedEvents as usize];
        assert_eq!(captured, 15, "cut to {len} bytes");
        assert_eq!(ring.objects().len(), 2, "{:?}", ring.objects());
    }
}

#[test]
fn whatever_is_done_to_a_ring_is_found_and_mended() {
    type Damage = fn(&TestRing);
    let damages: [(Damage, &str, (u64, u64)); 6] = [
        (|ring| fs::remove_file(ring.object("1.ack")).unwrap(), "removed", (1, 5)),
        (|ring| fs::remove_file(ring.object("1.ring")).unwrap(), "removed", (1, 5)),
        (|ring| ring.cut("1.ack", 4096), "cut it short", (2, 0)),
        (|ring| ring.overwrite("1.ring", 0x20, b"garbage"), "header was overwritten", (1, 5)),
        (|ring| ring.overwrite("1.ack", 0, b"garbage"), "header was overwritten", (1, 5)),
        (|ring| ring.overwrite("1.ack", layout::HEAD, &u64::MAX.to_ne_bytes()), "contradict", (1, 5)),
    ];
    for (damage, what, (events, bytes)) in damages {
        let ring = TestRing::new();
        let agent = Arc::new(ring.agent());
        push(&agent, b"one", (0, 2));
        push(&agent, b"tw", (1, 2));
        agent.look().unwrap();
        damage(&ring);
        let mut replaced = replace(&agent, what);
        drop(agent);
        let lost = replaced.settle().unwrap();
        // Where the records cannot be told from those that were read, bytes are those of the ring.
        assert!(lost.0 == events && (bytes == 0 || lost.1 == bytes), "{what}: {lost:?}");
        push(&replaced.now, b"two", (0, 1));
        let mut publisher = ring.publisher();
        let seen = drain(&mut publisher.consumer);
        assert!(seen.iter().any(|(_, payload)| payload.ends_with(b"two")), "{what}");
        assert_eq!(ring.objects().len(), 2, "{what}: {:?}", ring.objects());
    }
}

#[test]
fn an_announcement_that_went_with_the_ring_is_made_again_and_none_twice() {
    let ring = TestRing::new();
    let agent = Arc::new(ring.agent());
    agent.producer.count_loss(LossReason::RingFull, weight(7));
    agent.producer.announce_losses();
    let mut publisher = ring.publisher();
    let seen = drain(&mut publisher.consumer);
    publisher.consumer.acker().ack(seen[0].0.end);
    drop(publisher);
    // One is announced and read, one is announced, one is not.
    agent.producer.count_losses(LossReason::RingFull, 2, weight(20));
    agent.producer.announce_losses();
    agent.producer.count_losses(LossReason::TooLarge, 4, weight(40));
    ring.remove_names();
    let mut replaced = replace(&agent, "removed");
    drop(agent);
    assert_eq!(replaced.settle(), Some((0, 0)));
    let Replaced { now, .. } = replaced;
    // Neither does an agent forget it that is killed now.
    let totals = loss::totals(&*now.segments);
    assert_eq!(totals[LossReason::RingFull as usize], (LossReason::RingFull, 3, 27));
    now.producer.announce_losses();
    drop(now);
    ring.agent().producer.announce_losses();
    assert_eq!(announced(&ring), [(LossReason::RingFull, 2, 20), (LossReason::TooLarge, 4, 40)]);
}

#[test]
fn an_agent_that_is_killed_after_it_has_replaced_its_ring_announces_nothing_twice() {
    let ring = TestRing::new();
    let agent = Arc::new(ring.agent());
    agent.producer.count_loss(LossReason::RingFull, weight(7));
    agent.producer.announce_losses();
    agent.producer.count_loss(LossReason::Discarded, weight(8));
    ring.remove_names();
    drop(replace(&agent, "removed"));
    drop(agent);
    ring.agent().producer.announce_losses();
    assert_eq!(announced(&ring), [(LossReason::Discarded, 1, 8)]);
}
