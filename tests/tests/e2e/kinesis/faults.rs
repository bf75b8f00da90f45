//! Requests that fail in part, as a whole, late, or after all: nothing is lost, nothing overtakes.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bywash_tests::harness::{Fault, Settings, wait::TIMEOUT};

use super::{IMPATIENT, Lines, SMALL, start};

const THROTTLED: &str = "ProvisionedThroughputExceededException";
const INTERNAL: &str = "InternalFailure";

#[test]
fn records_that_fail_wherever_in_a_request_are_sent_again_alone_and_in_order() {
    let (kinesis, proxy, bywash) = start(&SMALL);
    let covered = Arc::new(Mutex::new(BTreeSet::new()));
    let sent = Arc::new(Mutex::new(HashMap::<Vec<u8>, (usize, usize)>::new()));
    let (plan_covered, plan_sent) = (Arc::clone(&covered), Arc::clone(&sent));
    let mut puts = 0;
    let mut puts_of_size = HashMap::<usize, usize>::new();
    proxy.plan(move |put| {
        puts += 1;
        let size = put.keys.len();
        let of_size = puts_of_size.entry(size).or_default();
        // Of requests of one size, the next one fails at the next place; then all from it on; with either reason.
        let (round, place) = (*of_size / size, *of_size % size);
        *of_size += 1;
        let places: Vec<usize> = if round % 2 == 0 { vec![place] } else { (place..size).collect() };
        let code = if puts % 2 == 0 { THROTTLED } else { INTERNAL };
        let fails = puts < 120;
        let mut sent = plan_sent.lock().unwrap();
        for (i, data) in put.data.iter().enumerate() {
            let (times, failures) = sent.entry(data.clone()).or_default();
            *times += 1;
            *failures += usize::from(fails && places.contains(&i));
        }
        if !fails {
            return Fault::None;
        }
        plan_covered.lock().unwrap().insert((size, place));
        Fault::Records(places, code)
    });
    let lines = Lines::new(12, 15);
    lines.write(&bywash);
    let duplicates = lines.assert_arrive(&bywash, &mut kinesis.read("logs"));
    assert_eq!(duplicates, 0, "what was taken is not sent again");
    bywash.drain(TIMEOUT);
    for (times, failures) in sent.lock().unwrap().values() {
        assert_eq!(*times, failures + 1, "once more than it failed");
    }
    let covered = covered.lock().unwrap();
    assert!((0..5).all(|place| covered.contains(&(5, place))), "{covered:?}");
}

#[test]
fn in_relaxed_order_only_what_failed_is_sent_again_too() {
    let relaxed = Settings { kinesis: "strict_order = false", ..SMALL };
    let (kinesis, proxy, mut bywash) = start(&relaxed);
    proxy.allow_shared_requests();
    bywash.publisher().terminate(TIMEOUT);
    Lines::new(3, 40).write(&bywash);
    let mut puts = 0;
    proxy.plan(move |put| {
        puts += 1;
        if puts > 20 { Fault::None } else { Fault::Records(vec![puts % put.keys.len()], INTERNAL) }
    });
    bywash.start_publisher();
    let events = kinesis.read("logs").events(120);
    assert_eq!(events.len(), 120, "all, and each once");
    let seen = proxy.seen();
    assert!(seen.records >= 140 && seen.puts * 2 <= seen.records, "requests hold several: {seen:?}");
}

#[test]
fn requests_that_fail_as_a_whole_are_sent_again() {
    let (kinesis, proxy, bywash) = start(&IMPATIENT);
    let mut faults = VecDeque::from([
        Fault::Call(400, THROTTLED, "slow down"),
        Fault::None,
        Fault::Call(500, INTERNAL, "it failed"),
        Fault::Call(503, "ServiceUnavailable", "later"),
        Fault::None,
        Fault::Call(400, "SomethingNew", "nobody knows"),
        Fault::Cut,
        Fault::None,
        Fault::Stall,
        Fault::Stall,
        Fault::Cut,
    ]);
    proxy.plan(move |_| faults.pop_front().unwrap_or(Fault::None));
    let lines = Lines::new(12, 10);
    lines.write(&bywash);
    lines.assert_arrive(&bywash, &mut kinesis.read("logs"));
}

#[test]
fn requests_whose_answer_is_lost_come_twice_under_the_same_ids() {
    let (kinesis, proxy, bywash) = start(&IMPATIENT);
    let lost_answers = [Fault::TakenThenError, Fault::TakenThenCut, Fault::TakenThenStall];
    let mut faults = VecDeque::from([&lost_answers[..], &[Fault::None], &lost_answers].concat());
    proxy.plan(move |_| faults.pop_front().unwrap_or(Fault::None));
    let lines = Lines::new(12, 10);
    lines.write(&bywash);
    let duplicates = lines.assert_arrive(&bywash, &mut kinesis.read("logs"));
    assert!(duplicates > 0, "they were taken");
}

// Guarantee: G4
#[test]
fn slow_answers_that_overtake_each_other_keep_each_keys_order() {
    let (kinesis, proxy, bywash) = start(&SMALL);
    let mut puts = 0_u64;
    proxy.plan(move |_| {
        puts += 1;
        // Every other is slow: the next ones are answered before it.
        Fault::Slow(Duration::from_millis(if puts % 2 == 1 { 60 } else { puts % 7 }))
    });
    let lines = Lines::new(30, 10);
    lines.write(&bywash);
    let duplicates = lines.assert_arrive(&bywash, &mut kinesis.read("logs"));
    assert_eq!(duplicates, 0);
    assert!(proxy.seen().at_once_max > 2);
}

#[test]
fn a_key_that_is_throttled_for_long_keeps_its_order_and_does_not_stop_the_others() {
    let (kinesis, proxy, bywash) = start(&SMALL);
    let throttled = Arc::new(Mutex::new(bywash.file("f0").display().to_string()));
    let plan_throttled = Arc::clone(&throttled);
    proxy.plan(move |put| {
        let key = plan_throttled.lock().unwrap();
        let places = put.keys.iter().enumerate().filter(|(_, k)| **k == *key).map(|(i, _)| i).collect();
        Fault::Records(places, THROTTLED)
    });
    let lines = Lines::new(4, 5);
    lines.write(&bywash);
    let mut reader = kinesis.read("logs");
    let others = reader.events(15);
    assert!(others.iter().all(|event| !event.path().ends_with("f0")), "it is throttled");
    throttled.lock().unwrap().clear();
    assert_eq!(lines.assert_arrive(&bywash, &mut reader), 0);
}
