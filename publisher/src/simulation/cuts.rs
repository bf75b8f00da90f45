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

use super::{disk::SimulatedDisk, fate::Fate, quiet_kills};

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
    let fate = Fate::new(seed, false);
    let disk = SimulatedDisk::new(fate.clone(), 1 << 20);
    let mut log = open(&disk);
    let mut batch = Batch::default();
    batch.push(&Record { kind: Kind::Write, seq: 0, end: 64, payload: b"a record" });
    log.append(STREAM, &batch).unwrap();
    log.sync().unwrap();
    let delivered = Mark { uuid: STREAM, end: 64, next_seq: 1 };
    fate.set_kill(Some(kill_at));
    // It ends well where the step does not come.
    drop(catch_unwind(AssertUnwindSafe(|| log.deliver(delivered).unwrap())));
    fate.set_kill(None);
    drop(log);
    open(&disk).deliver(delivered).unwrap();
    disk.cut_power();
    let log = open(&disk);
    log.streams().contains(&STREAM) && log.is_empty()
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
