//! Aggregates fill all shards, however many there are.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bywash_tests::harness::{
    Bywash, Fault, FaultProxy, Kinesis, Settings,
    wait::{self, TIMEOUT},
};

use super::SMALL;
use crate::append;

/// Events with keys of their own, in aggregates.
const SPREAD: Settings = Settings { kinesis: "aggregate = true\npartition_key = \"random\"", ..SMALL };
/// How many events are written between two looks.
const ROUND: usize = 200;

/// Writes until each of that many equal shards has got something.
#[track_caller]
fn assert_fills(bywash: &Bywash, hash_keys: &Mutex<BTreeSet<u128>>, shards: u128) {
    hash_keys.lock().unwrap().clear();
    let width = u128::MAX / shards;
    wait::until(&format!("each of {shards} shards to be filled"), TIMEOUT, || {
        for _ in 0..ROUND {
            append(&bywash.file("f"), b"x\n");
        }
        bywash.drain(TIMEOUT);
        let hash_keys = hash_keys.lock().unwrap();
        let filled: BTreeSet<u128> = hash_keys.iter().map(|key| (key / width).min(shards - 1)).collect();
        if filled.len() as u128 == shards {
            Ok(())
        } else {
            Err(format!("{} have got something", filled.len()))
        }
    });
}

#[test]
fn aggregates_fill_every_shard_also_of_a_stream_that_is_resharded_while_they_are_sent() {
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 100);
    let proxy = FaultProxy::start(&kinesis);
    let hash_keys = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&hash_keys);
    proxy.plan(move |put| {
        seen.lock().unwrap().extend(put.keys.iter().map(|key| key.parse::<u128>().expect("a hash key")));
        Fault::None
    });
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &SPREAD);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.stdout.contains("100 shards"), "{check:?}");
    bywash.start_agent();
    bywash.start_publisher();
    assert_fills(&bywash, &hash_keys, 100);
    kinesis.reshard("logs", 170);
    assert_fills(&bywash, &hash_keys, 170);
}

#[test]
fn without_the_right_to_list_shards_it_is_said_how_many_are_filled() {
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 2);
    let proxy = FaultProxy::start(&kinesis);
    proxy.deny_listing();
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &SPREAD);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.stdout.contains("kinesis:ListShards") && check.stdout.contains("64"), "{check:?}");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x\n");
    bywash.drain(TIMEOUT);
    wait::until("the log to say so", TIMEOUT, || {
        let log = bywash.publisher().log();
        if log.contains("kinesis:ListShards") { Ok(()) } else { Err(log) }
    });
}
