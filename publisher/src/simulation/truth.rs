//! What must hold once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::delivery::EventId;

use super::{
    broker::marker,
    world::{POISON_EVERY, World},
};

/// What the broker was told of losses: by reason, events.
type Losses = BTreeMap<String, u64>;

/// Compares what was written with what has become of it.
///
/// # Errors
/// What does not hold.
pub fn check(world: &World) -> Result<(), String> {
    let log = world.broker.log();
    let mut contents: BTreeMap<EventId, &[u8]> = BTreeMap::new();
    let mut ids: BTreeMap<u64, EventId> = BTreeMap::new();
    let mut arrived: BTreeSet<u64> = BTreeSet::new();
    let mut announced: BTreeMap<EventId, (String, u64)> = BTreeMap::new();
    let mut newest: BTreeMap<&[u8], u64> = BTreeMap::new();
    for event in &log {
        let id = event.id;
        if let Some(other) = contents.insert(id, &event.payload)
            && other != event.payload
            // The time of news is that of their making.
            && marker(&event.payload).is_some() == marker(other).is_some()
            && marker(&event.payload).is_some()
        {
            return Err(format!("{id} stands for two contents"));
        }
        let Some(number) = marker(&event.payload) else {
            let value: Value = serde_json::from_slice(&event.payload).map_err(|error| error.to_string())?;
            let reason = value["lost"]["reason"].as_str().ok_or("an event that is neither")?.to_owned();
            announced.insert(id, (reason, value["lost"]["events"].as_u64().unwrap_or(0)));
            continue;
        };
        if let Some(other) = ids.insert(number, id)
            && other != id
        {
            return Err(format!("write {number} has two ids: {id} and {other}"));
        }
        if arrived.insert(number) && !event.is_letter && !world.broker.has_refused(number) {
            let newest = newest.entry(&event.key).or_insert(number);
            if *newest > number {
                return Err(format!("write {number} arrives behind {newest} of the same file"));
            }
            *newest = number;
        }
    }
    let kept: Vec<u64> = world.letters().iter().filter_map(|line| marker(line)).collect();
    let mut losses = Losses::new();
    for (reason, events) in announced.values() {
        *losses.entry(reason.clone()).or_default() += events;
    }
    everything_is_somewhere(world, &arrived, &kept, &losses, &announced)
}

fn everything_is_somewhere(
    world: &World,
    arrived: &BTreeSet<u64>,
    kept: &[u64],
    losses: &Losses,
    announced: &BTreeMap<EventId, (String, u64)>,
) -> Result<(), String> {
    let kept_once: BTreeSet<u64> = kept.iter().copied().collect();
    let captured = |number: &u64| world.written[*number as usize].is_captured;
    let missing: Vec<u64> = (0..world.written.len() as u64)
        .filter(captured)
        .filter(|number| !arrived.contains(number) && !kept_once.contains(number))
        .filter(|number| !world.forgotten.contains(number))
        .collect();
    let of = |reason: &str| losses.get(reason).copied().unwrap_or(0);
    if missing.len() as u64 > of("undeliverable") {
        return Err(format!("writes are nowhere: {missing:?}; losses that were announced: {losses:?}"));
    }
    // What an operator can make possible is never lost for want of room.
    if let Some(number) = missing.iter().find(|number| !number.is_multiple_of(POISON_EVERY)) {
        return Err(format!("write {number} was announced as undeliverable, and is not"));
    }
    // A batch that was not synced when the power was cut may be there in parts. What is not there is lost, with the ring.
    let lost = world.forgotten.iter().filter(|number| !arrived.contains(number)).count() as u64;
    if of("corrupt") > lost {
        return Err(format!("a loss was announced, and there is none: {announced:?}"));
    }
    let uncaptured = world.written.iter().filter(|written| !written.is_captured).count() as u64;
    if world.forgets_losses() {
        return Ok(());
    }
    if of("ring_full") != uncaptured {
        return Err(format!("{uncaptured} writes found no room, and {} were announced", of("ring_full")));
    }
    Ok(())
}
