use std::collections::HashSet;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    delivery::{Ticket, testing},
    sink::kinesis::{aggregate::unpack, slices::equal_shards},
};

const LIMITS: Limits = Limits {
    strict_order: true,
    aggregate: false,
    batch_records: 500,
    batch_bytes: 5 << 20,
    record_bytes: 1 << 20,
    flush_interval: Duration::from_secs(5),
};

fn record(number: u64, key: &str, bytes: usize, arrived: Instant) -> Record {
    let mut data = number.to_be_bytes().to_vec();
    data.resize(bytes.max(8), b'x');
    Record {
        ticket: Ticket::from_number(number),
        partition_key: key.to_owned(),
        data,
        id: testing::id(1),
        time_ms: 0,
        arrived,
        arrival: 0,
        alone: false,
    }
}

/// The numbers of the records in a batch.
fn numbers(batch: &[Entry]) -> Vec<u64> {
    batch.iter().flat_map(|entry| &entry.records).map(|record| record.ticket.number()).collect()
}

fn settle_all(lanes: &mut Lanes, batch: Vec<Entry>, disposition: Disposition, now: Instant) {
    lanes.settle(batch.into_iter().map(|entry| (entry, disposition)).collect(), now);
}

#[test]
fn strict_order_sends_one_record_of_a_key_at_a_time() {
    let now = Instant::now();
    let mut lanes = Lanes::new(LIMITS);
    for (number, key) in [(0, "a"), (1, "a"), (2, "b"), (3, "a")] {
        lanes.push(record(number, key, 8, now), now);
    }
    let first = lanes.take(now);
    assert_eq!(numbers(&first), [0, 2]);
    assert!(lanes.take(now).is_empty(), "both keys are out");
    settle_all(&mut lanes, first, Disposition::Again, now);
    let again = lanes.take(now);
    assert_eq!(numbers(&again), [0, 2], "what failed comes before what follows");
    settle_all(&mut lanes, again, Disposition::Done, now);
    let second = lanes.take(now);
    assert_eq!(numbers(&second), [1]);
    settle_all(&mut lanes, second, Disposition::Done, now);
    let third = lanes.take(now);
    assert_eq!(numbers(&third), [3]);
    settle_all(&mut lanes, third, Disposition::Done, now);
    assert!(lanes.is_empty() && lanes.next_due(true).is_none());
}

#[test]
fn relaxed_order_sends_what_fits_and_puts_failures_back_in_order() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Limits { strict_order: false, batch_records: 3, ..LIMITS });
    for number in 0..5 {
        lanes.push(record(number, "a", 8, now), now);
    }
    let batch = lanes.take(now);
    assert_eq!(numbers(&batch), [0, 1, 2]);
    let dispositions = [Disposition::Again, Disposition::Done, Disposition::Again];
    lanes.settle(batch.into_iter().zip(dispositions).collect(), now);
    assert_eq!(numbers(&lanes.take(now)), [0, 2, 3]);
}

#[test]
fn a_request_is_due_when_it_is_full_or_ripe() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Limits { batch_records: 2, batch_bytes: 1000, ..LIMITS });
    lanes.push(record(0, "a", 8, now), now);
    assert!(!lanes.is_due(true, now));
    assert_eq!(lanes.next_due(true), Some(now + LIMITS.flush_interval));
    assert!(lanes.is_due(true, now + LIMITS.flush_interval));
    lanes.push(record(1, "a", 8, now), now);
    assert!(!lanes.is_due(true, now), "the second waits for the first");
    lanes.push(record(2, "b", 8, now), now);
    assert!(lanes.is_due(true, now));
    let batch = lanes.take(now);
    settle_all(&mut lanes, batch, Disposition::Done, now);
    assert!(!lanes.is_due(true, now));
    lanes.push(record(3, "c", 1000, now), now);
    assert!(lanes.is_due(false, now), "enough bytes");
    let mut lanes = Lanes::new(LIMITS);
    lanes.push(record(0, "a", 8, now), now);
    lanes.flush();
    assert!(lanes.is_due(true, now), "at the end nothing waits");
}

#[test]
fn while_a_request_is_on_its_way_what_becomes_ready_gathers_for_a_moment() {
    let begin = Instant::now();
    let now = begin + LIMITS.flush_interval;
    let mut lanes = Lanes::new(LIMITS);
    for (number, key) in [(0, "a"), (1, "a"), (2, "b")] {
        lanes.push(record(number, key, 8, begin), begin);
    }
    let batch = lanes.take(now);
    assert_eq!(numbers(&batch), [0, 2]);
    settle_all(&mut lanes, batch, Disposition::Done, now);
    assert!(lanes.is_due(true, now), "nothing else is on its way");
    assert!(!lanes.is_due(false, now));
    assert_eq!(lanes.next_due(false), Some(now + GATHER_MAX));
    assert!(lanes.is_due(false, now + GATHER_MAX));
}

#[test]
fn no_request_is_larger_than_allowed_but_for_a_single_record() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Limits { batch_bytes: 1000, ..LIMITS });
    for (number, bytes) in [(0, 600), (1, 300), (2, 200), (3, 5000)] {
        lanes.push(record(number, &number.to_string(), bytes, now), now);
    }
    assert_eq!(numbers(&lanes.take(now)), [0, 1]);
    assert_eq!(numbers(&lanes.take(now)), [2]);
    assert_eq!(numbers(&lanes.take(now)), [3]);
}

#[test]
fn a_held_slice_holds_its_lanes_and_no_others() {
    let now = Instant::now();
    let until = now + Duration::from_secs(1);
    let mut lanes = Lanes::new(LIMITS);
    lanes.push(record(0, "a", 8, now), now);
    lanes.push(record(1, "b", 8, now), now);
    lanes.hold(lanes.slices().slice_of("a"), Some(until));
    assert_eq!(numbers(&lanes.take(now)), [1]);
    assert_eq!(lanes.next_due(true), Some(until));
    lanes.push(record(2, "a", 8, now), now);
    assert!(lanes.take(now).is_empty());
    assert_eq!(numbers(&lanes.take(until)), [0]);
}

#[test]
fn a_lane_that_fails_by_itself_backs_off_by_itself() {
    let now = Instant::now();
    let mut lanes = Lanes::new(LIMITS);
    lanes.push(record(0, "a", 8, now), now);
    lanes.push(record(1, "b", 8, now), now);
    let batch = lanes.take(now);
    lanes.settle(batch.into_iter().zip([Disposition::AgainLater, Disposition::Again]).collect(), now);
    assert_eq!(numbers(&lanes.take(now)), [1]);
    let due = lanes.next_due(true).unwrap();
    assert!(due > now && due <= now + BACK_OFF_MAX);
    assert_eq!(numbers(&lanes.take(due)), [0]);
}

#[test]
fn what_was_rejected_together_is_sent_alone() {
    let now = Instant::now();
    for limits in [LIMITS, Limits { strict_order: false, ..LIMITS }, Limits { aggregate: true, ..LIMITS }] {
        let mut lanes = Lanes::new(limits);
        for number in 0..3 {
            lanes.push(record(number, "k", 8, now), now);
        }
        lanes.push(record(3, "other", 8, now), now);
        let mut sent = Vec::new();
        let batch = lanes.take(now);
        let rejected = numbers(&batch);
        settle_all(&mut lanes, batch, Disposition::AgainAlone, now);
        while !lanes.is_empty() {
            let batch = lanes.take(now);
            let batch_numbers = numbers(&batch);
            let has_rejected = batch_numbers.iter().any(|number| rejected.contains(number));
            assert!(!has_rejected || batch_numbers.len() == 1, "{batch_numbers:?} of {rejected:?}");
            sent.extend(batch_numbers);
            settle_all(&mut lanes, batch, Disposition::Done, now);
        }
        sent.sort_unstable();
        assert_eq!(sent, [0, 1, 2, 3]);
    }
}

#[test]
fn an_aggregate_holds_a_slices_records_up_to_a_records_size() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Limits { aggregate: true, record_bytes: 1000, ..LIMITS });
    for number in 0..100 {
        lanes.push(record(number, "k", 100, now), now);
    }
    let mut seen = Vec::new();
    while !lanes.is_empty() {
        let batch = lanes.take(now);
        assert_eq!(batch.len(), 1, "one record of a slice at a time");
        assert!(batch[0].bytes() <= 1000, "{}", batch[0].bytes());
        assert!(batch[0].records.len() >= 8 || seen.len() > 90);
        let unpacked = unpack(batch[0].data()).unwrap();
        seen.extend(unpacked.iter().map(|u| u64::from_be_bytes(u.data[..8].try_into().unwrap())));
        settle_all(&mut lanes, batch, Disposition::Done, now);
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[test]
fn the_hash_space_is_cut_otherwise_when_nothing_is_out() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Limits { aggregate: true, batch_records: 1, ..LIMITS });
    lanes.flush();
    for number in 0..400 {
        lanes.push(record(number, &number.to_string(), 8, now), now);
    }
    let out = lanes.take(now);
    let slices = Slices::of(&equal_shards(100)).unwrap();
    assert!(!lanes.cut(slices.clone(), now) && !lanes.is_due(true, now) && lanes.next_due(true).is_none());
    assert_eq!(lanes.slices(), &Slices::equal());
    let first = numbers(&out);
    assert!(lanes.settle(out.into_iter().map(|entry| (entry, Disposition::Again)).collect(), now));
    assert_eq!(lanes.slices(), &slices);
    assert!(lanes.is_due(true, now));
    let mut shards = HashSet::new();
    let mut seen = Vec::new();
    while !lanes.is_empty() {
        let batch = lanes.take(now);
        shards.insert(slices.shard_of(batch[0].slice).unwrap());
        seen.extend(numbers(&batch));
        settle_all(&mut lanes, batch, Disposition::Done, now);
    }
    assert_eq!(seen[0], first[0], "the oldest is first again");
    assert!(shards.len() > 90, "{} shards of 100 got something of 400 keys", shards.len());
    seen.sort_unstable();
    assert_eq!(seen, (0..400).collect::<Vec<_>>());
    assert!(!lanes.cut(slices, now), "there is nothing to change");
}

#[test]
fn what_is_given_up_is_all_that_waits() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Limits { batch_records: 1, ..LIMITS });
    for (number, key) in [(0, "a"), (1, "b"), (2, "a"), (3, "c")] {
        lanes.push(record(number, key, 8, now), now);
    }
    let out = lanes.take(now);
    let given_up: Vec<u64> = lanes.give_up().iter().map(|record| record.ticket.number()).collect();
    assert_eq!((numbers(&out), given_up), (vec![0], vec![1, 2, 3]));
    assert!(!lanes.is_empty() && !lanes.is_due(true, now) && lanes.next_due(true).is_none());
    settle_all(&mut lanes, out, Disposition::Done, now);
    assert!(lanes.is_empty());
    lanes.push(record(4, "a", 8, now), now);
    assert_eq!(numbers(&lanes.take(now)), [4]);
}

/// What may become of entries, one after the other.
fn dispositions() -> impl Strategy<Value = Vec<u8>> {
    vec(0..4_u8, 0..2000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever fails however often: everything is delivered once, nothing of a key is out twice at a time, and nothing
    /// overtakes what it should follow.
    #[test]
    fn nothing_is_lost_doubled_or_overtaken(
        keys in vec((0..12_u8, 8..400_usize), 1..150),
        dispositions in dispositions(),
        strict_order: bool,
        aggregate: bool,
        out_max in 1..4_usize,
        cuts in vec(option::weighted(0.2, 1..300_usize), 0..60),
    ) {
        let limits = Limits { strict_order, aggregate, batch_records: 7, batch_bytes: 1500, record_bytes: 900, ..LIMITS };
        let mut now = Instant::now();
        let mut lanes = Lanes::new(limits);
        lanes.flush();
        let mut dispositions = dispositions.into_iter();
        let mut cuts = cuts.into_iter();
        let mut waiting = keys.iter().enumerate();
        let mut out: Vec<Vec<Entry>> = Vec::new();
        let mut delivered = Vec::new();
        loop {
            for (number, (key, bytes)) in waiting.by_ref().take(5) {
                lanes.push(record(number as u64, &format!("key {key}"), *bytes, now), now);
            }
            if let Some(Some(shards)) = cuts.next() {
                lanes.cut(Slices::of(&equal_shards(shards)).unwrap(), now);
            }
            while out.len() < out_max && lanes.is_due(true, now) {
                let batch = lanes.take(now);
                if batch.is_empty() {
                    break;
                }
                prop_assert!(batch.len() <= 7);
                prop_assert!(batch.len() == 1 || batch.iter().map(Entry::bytes).sum::<usize>() <= 1500);
                let names: HashSet<_> = batch.iter().map(|entry| &entry.lane).collect();
                prop_assert!(!(strict_order || aggregate) || names.len() == batch.len());
                let others: HashSet<_> = out.iter().flatten().map(|entry| &entry.lane).collect();
                prop_assert!(names.is_disjoint(&others));
                out.push(batch);
            }
            if out.is_empty() {
                if lanes.is_empty() && waiting.len() == 0 {
                    break;
                }
                now += BACK_OFF_MAX;
                continue;
            }
            // The youngest first, which is the worst order.
            let batch = out.pop().unwrap();
            let fated: Vec<_> = batch
                .into_iter()
                .map(|entry| {
                    let disposition = match dispositions.next() {
                        Some(1) => Disposition::Again,
                        Some(2) => Disposition::AgainLater,
                        Some(3) => Disposition::AgainAlone,
                        _ => Disposition::Done,
                    };
                    if disposition == Disposition::Done {
                        delivered.extend(entry.records.iter().map(|r| (r.partition_key.clone(), r.ticket.number())));
                    }
                    (entry, disposition)
                })
                .collect();
            lanes.settle(fated, now);
        }
        prop_assert_eq!(lanes.load, Load::default());
        let mut all: Vec<_> = delivered.iter().map(|(_, number)| *number).collect();
        if strict_order || aggregate {
            for (key, _) in &keys {
                let of_key: Vec<_> = delivered.iter().filter(|(k, _)| *k == format!("key {key}")).collect();
                prop_assert!(of_key.is_sorted());
            }
        }
        all.sort_unstable();
        prop_assert_eq!(all, (0..keys.len() as u64).collect::<Vec<_>>());
    }
}
