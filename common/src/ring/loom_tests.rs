//! The protocol under loom: every interleaving of the threads, and every value that a relaxed load may see.
//!
//! Run with `make model`; a model that runs is the code that ships, over loom's memory.

use std::time::Duration;

use loom::thread;

use crate::{
    record::{Loss, LossReason},
    sync::Arc,
};

use super::{Kind, Weight, consumer::Consumer, layout::RECORD_HEADER, memory::Model, producer::Producer};

/// Bytes of a record whose payload is 8 bytes.
const RECORD: usize = RECORD_HEADER as usize + 8;
const WEIGHT: Weight = Weight { bytes: 8, time_ns: 1 };
const FOREVER: Duration = Duration::MAX;

/// Explores with a bound on how often a thread is preempted: loom's advice for models that are too large
/// otherwise; two or three find nearly all bugs.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn ring(records: usize) -> (Arc<Model>, Arc<Producer<Model>>, Consumer<Model>) {
    let memory = Arc::new(Model::new(records * RECORD, (records * RECORD) as u64));
    let producer = Arc::new(Producer::resume(Arc::clone(&memory), "model").unwrap());
    let consumer = Consumer::attach(Arc::clone(&memory));
    (memory, producer, consumer)
}

fn push(producer: &Producer<Model>, value: u64) -> bool {
    producer.push(Kind::Write, &[&value.to_ne_bytes()], WEIGHT).is_ok()
}

/// The way of long records: reserved, copied outside of the lock, committed.
fn push_long(producer: &Producer<Model>, value: u64) -> bool {
    let Ok(reservation) = producer.reserve(&[8], WEIGHT) else { return false };
    reservation.write(0, Kind::Write, &[&value.to_ne_bytes()]);
    reservation.commit();
    true
}

/// Reads until `count` records were there, sleeping when there is none; acknowledges each.
fn drain(consumer: &mut Consumer<Model>, count: usize) -> Vec<(Kind, u64, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut payload = Vec::new();
    while seen.len() < count {
        match consumer.next(&mut payload).unwrap() {
            Some(entry) => {
                seen.push((entry.kind, entry.seq, payload.clone()));
                consumer.acker().ack(entry.end);
            }
            None => consumer.wait(FOREVER),
        }
    }
    seen
}

fn value(payload: &[u8]) -> u64 {
    u64::from_ne_bytes(payload.try_into().unwrap())
}

#[test]
fn one_producer_and_a_sleeping_consumer_lose_no_wake_up() {
    explore(3, || {
        let (_, producer, mut consumer) = ring(4);
        let pushing = thread::spawn(move || assert!(push(&producer, 7) && push_long(&producer, 8)));
        let seen = drain(&mut consumer, 2);
        assert_eq!(seen.iter().map(|(_, seq, p)| (*seq, value(p))).collect::<Vec<_>>(), [(0, 7), (1, 8)]);
        pushing.join().unwrap();
    });
}

/// Two threads that push, each in its way, and a reader that sleeps when there is nothing.
fn two_producers(one: fn(&Producer<Model>, u64) -> bool, two: fn(&Producer<Model>, u64) -> bool) {
    explore(2, move || {
        let (_, producer, mut consumer) = ring(2);
        let other = Arc::clone(&producer);
        let pushing = thread::spawn(move || assert!(one(&other, 7)));
        let also = thread::spawn(move || assert!(two(&producer, 8)));
        let seen = drain(&mut consumer, 2);
        let mut values: Vec<u64> = seen.iter().map(|(_, _, p)| value(p)).collect();
        values.sort_unstable();
        assert_eq!(values, [7, 8]);
        assert_eq!(seen.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), [0, 1]);
        pushing.join().unwrap();
        also.join().unwrap();
    });
}

#[test]
fn two_short_records_are_seen_whole_and_in_sequence() {
    two_producers(push, push);
}

#[test]
fn two_long_records_are_seen_whole_and_in_sequence() {
    two_producers(push_long, push_long);
}

#[test]
fn a_short_and_a_long_record_are_seen_whole_and_in_sequence() {
    two_producers(push, push_long);
}

#[test]
fn many_records_become_visible_together_and_wake_a_sleeper() {
    explore(2, || {
        let (_, producer, mut consumer) = ring(4);
        let other = Arc::clone(&producer);
        let pushing = thread::spawn(move || {
            let reservation = other.reserve_some(&[8, 8], WEIGHT).unwrap();
            for (part, value) in [7u64, 8].into_iter().enumerate() {
                reservation.write(part, Kind::Write, &[&value.to_ne_bytes()]);
            }
            reservation.commit();
        });
        assert!(push(&producer, 9));
        let values: Vec<u64> = drain(&mut consumer, 3).iter().map(|(_, _, p)| value(p)).collect();
        assert!(values == [7, 8, 9] || values == [9, 7, 8], "{values:?}");
        pushing.join().unwrap();
    });
}

#[test]
fn of_many_records_those_that_fit_are_taken() {
    explore(2, || {
        let (_, producer, mut consumer) = ring(3);
        assert!(push(&producer, 1));
        let reading = thread::spawn(move || {
            let seen = drain(&mut consumer, 2);
            assert_eq!((value(&seen[0].2), value(&seen[1].2)), (1, 2));
            consumer
        });
        let reservation = producer.reserve_some(&[8, 8, 8], WEIGHT).unwrap();
        let taken = reservation.records();
        // The third fits only if the first of all was acknowledged by then.
        assert!(taken == 2 || taken == 3);
        for part in 0..taken {
            reservation.write(part, Kind::Write, &[&(part as u64 + 2).to_ne_bytes()]);
        }
        reservation.commit();
        let mut consumer = reading.join().unwrap();
        let values: Vec<u64> = drain(&mut consumer, taken - 1).iter().map(|(_, _, p)| value(p)).collect();
        assert_eq!(values, [3, 4][..taken - 1]);
    });
}

/// A writer that was told that its write is recorded must be able to rely on it, whenever the agent is killed.
#[test]
fn a_push_that_has_returned_is_visible() {
    explore(2, || {
        let (memory, producer, _) = ring(4);
        let see = |memory: &Arc<Model>, wanted: u64| {
            let mut consumer = Consumer::attach(Arc::clone(memory));
            let mut payload = Vec::new();
            let mut seen = Vec::new();
            while consumer.next(&mut payload).unwrap().is_some() {
                seen.push(value(&payload));
            }
            assert!(seen.contains(&wanted), "{wanted} is not among {seen:?}");
        };
        let (other, also_memory) = (Arc::clone(&producer), Arc::clone(&memory));
        let pushing = thread::spawn(move || {
            assert!(push_long(&other, 7));
            see(&also_memory, 7);
        });
        assert!(push_long(&producer, 8));
        see(&memory, 8);
        assert!(push(&producer, 9));
        see(&memory, 9);
        pushing.join().unwrap();
    });
}

#[test]
fn space_is_reused_only_after_it_was_acknowledged() {
    explore(3, || {
        // Three records wrap around a ring of two; a push that does not fit is tried again.
        let (_, producer, mut consumer) = ring(2);
        let pushing = thread::spawn(move || {
            assert!(push(&producer, 1) && push(&producer, 2));
            // The loss of a refused third push is announced in front of it, and takes the other place.
            push(&producer, 3)
        });
        let mut seen = drain(&mut consumer, 2);
        if pushing.join().unwrap() {
            seen.extend(drain(&mut consumer, 1));
            assert_eq!(value(&seen[2].2), 3);
        }
        assert_eq!((value(&seen[0].2), value(&seen[1].2)), (1, 2));
    });
}

#[test]
fn a_loss_is_announced_once_in_front_of_the_next_record_that_fits() {
    explore(2, || {
        let (_, producer, mut consumer) = ring(2);
        assert!(push(&producer, 1) && push(&producer, 2));
        assert!(!push(&producer, 3));
        let reading = thread::spawn(move || {
            let seen = drain(&mut consumer, 2);
            assert_eq!((value(&seen[0].2), value(&seen[1].2)), (1, 2));
            consumer
        });
        let taken = push(&producer, 4);
        let mut consumer = reading.join().unwrap();
        if !taken {
            assert!(push(&producer, 5));
        }
        let seen = drain(&mut consumer, 2);
        let (loss, _) = Loss::decode(&seen[0].2).unwrap();
        assert_eq!((seen[0].0, loss.reason), (Kind::Lost, LossReason::RingFull));
        assert_eq!(loss.events, if taken { 1 } else { 2 });
        assert_eq!(value(&seen[1].2), if taken { 4 } else { 5 });
    });
}

#[test]
fn a_reservation_that_is_given_up_holds_nobody_up() {
    explore(2, || {
        let (_, producer, mut consumer) = ring(4);
        let other = Arc::clone(&producer);
        let failing = thread::spawn(move || drop(other.reserve(&[8], WEIGHT).unwrap()));
        assert!(push(&producer, 7));
        failing.join().unwrap();
        // The discarded record, the write, and the loss that the discarding was counted as: in front of the write
        // if it came first, and otherwise still to be announced.
        let mut kinds: Vec<Kind> = drain(&mut consumer, 2).iter().map(|(kind, _, _)| *kind).collect();
        if kinds.contains(&Kind::Lost) {
            kinds.extend(drain(&mut consumer, 1).iter().map(|(kind, _, _)| *kind));
        }
        kinds.sort_by_key(|kind| *kind as u8);
        assert!(
            kinds == [Kind::Write, Kind::Discarded] || kinds == [Kind::Write, Kind::Lost, Kind::Discarded]
        );
    });
}

/// The agent dies after any of its steps: whatever the segment holds then is what a new agent goes on from, and
/// the reader never notices. Death is the producer's threads ending without commit and its state being gone.
#[test]
fn an_agent_that_dies_between_reserve_and_commit_leaves_a_whole_prefix() {
    explore(2, || {
        let (memory, producer, mut consumer) = ring(4);
        let dying = thread::spawn(move || {
            assert!(push(&producer, 1));
            // Never committed, never dropped: the process is gone.
            std::mem::forget(producer.reserve(&[8], WEIGHT).unwrap());
        });
        let seen = drain(&mut consumer, 1);
        assert_eq!((seen[0].1, value(&seen[0].2)), (0, 1));
        dying.join().unwrap();
        let successor = Producer::resume(memory, "model").unwrap();
        assert!(push(&successor, 2));
        let seen = drain(&mut consumer, 1);
        assert_eq!((seen[0].1, value(&seen[0].2)), (1, 2));
    });
}
