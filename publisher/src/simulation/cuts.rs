//! The spool alone under kills and power cuts, step by step: whole runs seldom come by here.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use bywash_common::{config::SpoolConfig, ring::Kind};
use uuid::Uuid;

use crate::{
    disk::{Access, Disk},
    faults::{Fault, testing::put_back},
    spool::{Batch, Log, Mark, Record},
};

use super::{
    disk::SimulatedDisk,
    quiet_kills,
    random::{Random, Weather},
};

const STREAM: Uuid = Uuid::from_u128(1);
/// More than a delivery takes.
const STEPS_MAX: u64 = 16;
/// What a power cut leaves of what was not synced is up to the seed.
const SEEDS: u64 = 40;

fn open(disk: &SimulatedDisk) -> Log {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open_on(disk, Path::new("/spool"), Access::own(0o600), &SpoolConfig::default(), "ring", 1).unwrap()
}

/// Delivers all that is in a spool, killed at a step; then does so again, and power is cut. Gives whether the next start takes
/// what was delivered for lost.
fn is_missed(kill_at: u64, seed: u64) -> bool {
    let random = Random::new(seed, false);
    let disk = SimulatedDisk::new(random.clone(), 1 << 20);
    let mut log = open(&disk);
    log.append(STREAM, &batch(0)).unwrap();
    log.sync().unwrap();
    let delivered = Mark { uuid: STREAM, end: 64, next_seq: 1 };
    random.set_kill(Some(kill_at));
    // It ends well where the step does not come.
    drop(catch_unwind(AssertUnwindSafe(|| log.deliver(delivered).unwrap())));
    random.set_kill(None);
    drop(log);
    open(&disk).deliver(delivered).unwrap();
    disk.cut_power();
    let log = open(&disk);
    log.streams().contains(&STREAM) && log.is_empty()
}

fn batch(seq: u64) -> Batch {
    let mut batch = Batch::default();
    batch.push(&Record { kind: Kind::Write, seq, end: 64 * (seq + 1), payload: b"a record" });
    batch
}

/// How far a stream goes in its last segment, and how far it is delivered.
fn known(log: &Log) -> (Option<u64>, Option<u64>) {
    let last = log.segment(STREAM, 0).and_then(|segment| segment.last);
    (last.map(|last| last.end), log.delivered(STREAM).map(|mark| mark.end))
}

/// Has a disk in trouble take a batch and a mark, and the next process take up what it finds of both; then power is cut. Gives
/// whether that takes back what the process has found.
fn is_found_in_vain(seed: u64) -> bool {
    let random = Random::new(seed, false);
    let disk = SimulatedDisk::new(random.clone(), 1 << 20);
    let mut log = open(&disk);
    log.append(STREAM, &batch(0)).unwrap();
    random.set_weather(Weather { disk_errors: 500, ..Weather::default() });
    // What they say does not matter: the process ends.
    drop(log.append(STREAM, &batch(1)));
    drop(log.deliver(Mark { uuid: STREAM, end: 64, next_seq: 1 }).and_then(|()| log.sync()));
    random.set_weather(Weather::default());
    drop(log);
    let found = known(&open(&disk));
    disk.cut_power();
    let left = known(&open(&disk));
    left.0 < found.0 || left.1 < found.1
}

#[test]
fn what_a_process_finds_outlasts_a_power_cut_though_a_sync_had_failed() {
    let first_in_vain = || (0..SEEDS * STEPS_MAX).find(|seed| is_found_in_vain(*seed));
    assert_eq!(first_in_vain(), None);
    for fault in [Fault::MarksSyncedAlone, Fault::BatchSyncedAlone] {
        put_back(Some(fault));
        let in_vain = first_in_vain();
        put_back(None);
        assert!(in_vain.is_some(), "{fault:?} is not found");
    }
}

fn first_missed() -> Option<(u64, u64)> {
    let all = (0..STEPS_MAX).flat_map(|step| (0..SEEDS).map(move |seed| (step, seed)));
    all.into_iter().find(|(step, seed)| is_missed(*step, *seed))
}

#[test]
fn what_is_delivered_is_not_missed_after_a_kill_and_a_power_cut() {
    quiet_kills();
    assert_eq!(first_missed(), None);
    for fault in [Fault::RemovedBeforeMark, Fault::MarksUnsyncedAtStart] {
        put_back(Some(fault));
        let missed = first_missed();
        put_back(None);
        assert!(missed.is_some(), "{fault:?} is not found");
    }
}
