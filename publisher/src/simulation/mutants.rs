//! Faults of the past, put back one at a time: is each found?

use std::time::{Duration, Instant};

use crate::faults::{Fault, testing::put_back};

use super::{plan::Plan, quiet_kills};

/// Each fault, and a seed that finds it; none where minutes of looking did not, and a test of its own does: in [`super::cuts`], of
/// the spool, and of its marks.
const FAULTS: &[(Fault, Option<u64>)] = &[
    (Fault::ForgottenBeforeMark, Some(181)),
    (Fault::RemovedBeforeMark, Some(494)),
    (Fault::MarksBeforeDisk, None),
    (Fault::AppendUnsynced, Some(9)),
    (Fault::BatchUnsyncedAtStart, Some(230)),
    (Fault::MarksUnsyncedAtStart, None),
    (Fault::MarksSyncedAlone, None),
    (Fault::BatchSyncedAlone, None),
    (Fault::ErrorsAreDamage, Some(22)),
    (Fault::GenerationsStay, Some(245)),
    (Fault::MendableIsLost, Some(23)),
    (Fault::DeadLettersNotHeld, None),
    (Fault::DeadLettersOvertake, Some(1_175_295)),
    (Fault::DeadLetterKeptTwice, Some(6)),
    (Fault::DeadLettersUnsynced, Some(0)),
    (Fault::PartsShareIds, Some(0)),
    (Fault::DeadLettersCountAsDelivered, Some(6)),
    (Fault::LossesCountAsDelivered, Some(52)),
    (Fault::DamageUnannounced, Some(40)),
    (Fault::EndUnannounced, Some(26_632)),
    (Fault::DeliveredStreamMissing, None),
];

/// So many seeds are tried, from the one on that has found a fault before.
const SEEDS_MAX: u64 = 100;
/// So long a fault is looked for, unless `SIMULATE_SECONDS` says otherwise.
const SECONDS: u64 = 120;

/// The first seed that finds a fault, and what it says.
fn find(fault: Fault, seeds: impl IntoIterator<Item = u64>) -> Option<(u64, String)> {
    put_back(Some(fault));
    let found = seeds.into_iter().find_map(|seed| Some((seed, Plan::of(seed).run(false).0.err()?)));
    put_back(None);
    found
}

#[test]
fn each_fault_is_found_where_it_was_found_before() {
    quiet_kills();
    let found_before = FAULTS.iter().filter_map(|(fault, seed)| Some((*fault, (*seed)?)));
    let survives = |(fault, seed): &(Fault, u64)| find(*fault, *seed..seed + SEEDS_MAX).is_none();
    let survivors: Vec<_> = found_before.filter(survives).collect();
    assert!(survivors.is_empty(), "not found any more (`make mutants` looks on): {survivors:?}");
}

/// Prints the table.
#[test]
#[ignore = "takes minutes: make mutants"]
fn table() {
    quiet_kills();
    let time = Duration::from_secs(super::number("SIMULATE_SECONDS").unwrap_or(SECONDS));
    let mut survivors: Vec<&Fault> = Vec::new();
    println!("| fault | seed that finds it | as |\n|---|---|---|");
    let only = super::text("SIMULATE_FAULT");
    for (fault, before) in FAULTS {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|name| name == format!("{fault:?}"))) {
            continue;
        }
        let begun = Instant::now();
        match find(*fault, (0..).take_while(|_| begun.elapsed() < time)) {
            Some((seed, error)) => {
                let error: String = error.chars().take(100).collect();
                println!("| {fault:?} | {seed} | {error} |");
            }
            None => {
                println!("| {fault:?} | none | |");
                survivors.extend(before.map(|_| fault));
            }
        }
    }
    assert!(survivors.is_empty(), "not found in {time:?} each: {survivors:?}");
}
