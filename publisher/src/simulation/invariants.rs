//! The invariants that must hold once a run has come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bywash_common::{record::LossReason, status::PublisherCounter};

use crate::delivery::{DeadLetter, EventId, News, Subject};

use super::{
    content::{self, Cover, Event, PATHS, Piece},
    world::World,
};

/// What has become of what was written, as the broker and the disk have it.
struct Found {
    /// What has arrived.
    arrived: Cover,
    /// What has arrived, or is a dead letter.
    safe: Cover,
    /// What was announced, by the event that says so: reason and writes.
    announced: BTreeMap<EventId, (String, u64)>,
}

impl Found {
    fn announced(&self, reason: &str) -> u64 {
        self.announced.values().filter(|(of, _)| of == reason).map(|(_, events)| events).sum()
    }

    /// The writes that were announced as damaged: some of the records that are missing in the spool may be no writes.
    fn corrupt_writes(&self, world: &World) -> u64 {
        let corrupt = self.announced.iter().filter(|(_, (reason, _))| reason == "corrupt");
        let writes = corrupt.map(|(id, (_, events))| match id.subject {
            Subject::News(News::Gap { first, records: Some(records) }) => {
                let is_write = |seq: &u64| world.agent.number_of(id.ring, *seq).is_some();
                (first..first + records).filter(is_write).count() as u64
            }
            _ => *events,
        });
        writes.sum()
    }
}

/// Compares what was written with what has become of it.
///
/// # Errors
/// What does not hold.
pub fn check(world: &World) -> Result<(), String> {
    let mut found = read_log(world)?;
    let dead_letters = dead_letters(world.dead_letters())?;
    for (_, event) in &dead_letters {
        found.safe.add(*event);
    }
    everything_is_somewhere(world, &found)?;
    losses_are_announced(world, &found)?;
    counters_are_true(world, &found, &dead_letters)
}

/// Reads what the broker has: one id stands for one content, one content has one id, and nothing overtakes what it follows.
fn read_log(world: &World) -> Result<Found, String> {
    let refused: Vec<Piece> = world.broker.refused().into_iter().collect();
    let mut contents: BTreeMap<EventId, Piece> = BTreeMap::new();
    let mut ids: BTreeMap<Piece, EventId> = BTreeMap::new();
    let mut newest = [0; PATHS.len()];
    let (arrived, announced) = (Cover::default(), BTreeMap::new());
    let mut found = Found { arrived, safe: Cover::default(), announced };
    for message in world.broker.log()? {
        let id = message.id;
        let piece = match message.event {
            Event::Bytes(piece) => piece,
            Event::Lost { reason, events } => {
                found.announced.insert(id, (reason, events));
                continue;
            }
        };
        if contents.insert(id, piece).is_some_and(|other| other != piece) {
            return Err(format!("{id} stands for two contents"));
        }
        if let Some(other) = ids.insert(piece, id).filter(|other| *other != id) {
            return Err(format!("one content has two ids: {id} and {other} for {piece:?}"));
        }
        let first_new = found.arrived.missing(piece);
        if found.arrived.add(piece)
            && let Some(first_new) = first_new
        {
            let has_lost_its_place =
                message.is_dead_letter || refused.iter().any(|other| other.meets(&piece));
            if !has_lost_its_place && first_new < newest[piece.file] {
                let (path, newest) = (PATHS[piece.file], newest[piece.file]);
                return Err(format!("an event overtakes: byte {first_new} of {path} behind {newest}; {id}"));
            }
            newest[piece.file] = newest[piece.file].max(piece.end);
        }
    }
    found.safe = found.arrived.clone();
    Ok(found)
}

/// The events of dead letters, with their ids.
fn dead_letters(lines: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<(EventId, Piece)>, String> {
    let mut dead_letters = Vec::new();
    for line in lines {
        let (dead_letter, _) = DeadLetter::from_line(&line).map_err(|error| error.to_string())?;
        if let Event::Bytes(piece) = content::read(&dead_letter.payload)? {
            dead_letters.push((dead_letter.id, piece));
        }
    }
    Ok(dead_letters)
}

fn everything_is_somewhere(world: &World, found: &Found) -> Result<(), String> {
    let damaged = &world.agent.damaged;
    let poisoned = world.broker.poisoned();
    let mut undeliverable = BTreeSet::new();
    let (mut missing, mut by_damage, mut expired) = (String::new(), 0, 0);
    for (number, written) in world.agent.written.iter().enumerate() {
        let Some((ring, _)) = written.record else { continue };
        let Some(at) = found.safe.missing(written.piece) else { continue };
        if world.agent.forgotten.contains(&number) {
            continue;
        }
        let poison: Vec<&Piece> = poisoned.iter().filter(|piece| piece.file == written.piece.file).collect();
        let is_poison = |at: u64| poison.iter().any(|piece| (piece.begin..piece.end).contains(&at));
        if damaged.writes.contains(&number) || damaged.rings.contains(&ring) {
            // Damage may be where nobody looks.
            by_damage += u64::from(!is_poison(at));
            continue;
        }
        // An event that is announced in place of another one stands for the write in which that begins.
        let begins = poison.iter().filter(|piece| piece.meets(&written.piece)).map(|piece| piece.begin);
        match is_poison(at) {
            // Or poison: neither can be told by what is missing.
            _ if world.sizes.age_max > 0 => expired += 1,
            true => undeliverable.extend(begins.map(|begin| (written.piece.file, begin))),
            false => drop(write!(missing, " {number} (byte {at} of {})", PATHS[written.piece.file])),
        }
    }
    // Of several writes that are one event, one is announced.
    let announced = found.announced("too_old");
    let given_up = announced + found.announced("undeliverable");
    if expired > 0 && given_up == 0 || announced > 0 && world.sizes.age_max == 0 {
        return Err(format!("{expired} writes were too old, and {announced} were announced"));
    }
    if !missing.is_empty() {
        return Err(format!("writes are nowhere:{missing}; announced: {:?}", found.announced));
    }
    if !undeliverable.is_empty() && found.announced("undeliverable") == 0 {
        return Err(format!("{undeliverable:?} are nowhere, and nobody says so"));
    }
    // What was given up as too old may have been damaged afterwards, or lie in a ring that was: what is missing does not tell. A
    // write is one event or several, a line may be several writes.
    by_damage = match announced {
        0 => by_damage,
        _ if world.has_joined_lines => 0,
        events => by_damage.saturating_sub(events),
    };
    if by_damage > 0 && !found.announced.values().any(|(reason, _)| reason == "corrupt") {
        return Err(format!("{by_damage} writes are gone with the ring's damage, and nobody says so"));
    }
    // Where it is known which records those are, each is counted.
    if damaged.rings.is_empty() && by_damage > found.announced("corrupt") {
        let announced = found.announced("corrupt");
        return Err(format!(
            "{by_damage} writes are gone with the ring's damage, {announced} were announced"
        ));
    }
    Ok(())
}

fn losses_are_announced(world: &World, found: &Found) -> Result<(), String> {
    let agent = &world.agent;
    // A batch that was not synced when the power was cut may be there in parts. What is not there is lost, with the ring, which
    // alone knew what of it had been delivered already.
    let forgotten = agent.forgotten.len() as u64;
    if !agent.damaged.is_any && found.corrupt_writes(world) > forgotten {
        return Err(format!("a loss was announced, and there is none: {:?}", found.announced));
    }
    let uncaptured = agent.written.iter().filter(|written| written.record.is_none()).count() as u64;
    let announced = found.announced("ring_full");
    if announced > uncaptured {
        return Err(format!("{uncaptured} writes found no room, and {announced} were announced"));
    }
    let may_miss = world.has_forgotten_losses || agent.damaged.has_news || !agent.damaged.rings.is_empty();
    if !may_miss && announced < uncaptured {
        return Err(format!("{uncaptured} writes found no room, and {announced} were announced"));
    }
    if !may_miss && agent.generations == 0 {
        let losses = agent.look().ok_or("there is no ring")?.losses;
        let said =
            losses.iter().find(|(reason, ..)| *reason == LossReason::RingFull).map_or(0, |loss| loss.1);
        if said != uncaptured {
            return Err(format!("{uncaptured} writes found no room, and status says {said}"));
        }
    }
    Ok(())
}

/// What `status` and the metrics say is what has happened.
fn counters_are_true(world: &World, found: &Found, dead_letters: &[(EventId, Piece)]) -> Result<(), String> {
    let agent = &world.agent;
    let counted = agent.count();
    let of = |counter: PublisherCounter| counted.get(&(counter as usize)).copied().unwrap_or(0);
    let delivered = of(PublisherCounter::DeliveredEvents);
    let dead_lettered = of(PublisherCounter::DeadLetteredEvents);
    let lost = of(PublisherCounter::UndeliverableEvents);
    let passed = of(PublisherCounter::PassedOverEvents);
    let old = of(PublisherCounter::TooOldEvents);
    let captured = agent.written.iter().filter(|written| written.record.is_some()).count() as u64;
    let says = |what: &str, says: u64, is: u64| match says == is {
        true => Ok(()),
        false => Err(format!("status says {says} {what}, and it is {is}")),
    };
    let is_killed = world.random.kills() > 0;
    if world.has_forgotten_losses || agent.damaged.is_any {
        return Ok(());
    }
    let at_their_end = delivered + dead_lettered + lost + passed + old;
    // How far a former ring's records are delivered is noted in the spool, a moment later and if the disk works: what is sent again
    // counts again.
    if (is_killed || !world.is_calm) && agent.generations > 0 && at_their_end > captured {
        return Ok(());
    }
    says("writes at their end", at_their_end, captured)?;
    let kept = self::dead_letters(world.disk.dead_letters_ever())?;
    let number_of = |id: &EventId| id.sequence().and_then(|sequence| agent.number_of(id.ring, sequence));
    let ever_dead_lettered: BTreeSet<usize> = kept.iter().filter_map(|(id, _)| number_of(id)).collect();
    let announced: BTreeSet<usize> = found
        .announced
        .keys()
        .filter(|id| matches!(id.subject, Subject::News(News::Undeliverable { .. })))
        .filter_map(number_of)
        .collect();
    if dead_lettered > ever_dead_lettered.len() as u64 || lost > announced.len() as u64 {
        return Err(format!(
            "status says {dead_lettered} dead letters' writes of {}, {lost} undeliverable of {}",
            ever_dead_lettered.len(),
            announced.len()
        ));
    }
    // Of several events of a write one may be a dead letter, and another too old: then the write counts as that.
    if is_killed || !world.is_calm || old > 0 {
        return Ok(());
    }
    says("undeliverable writes", lost, announced.len() as u64)?;
    says("dead letters' writes", dead_lettered, ever_dead_lettered.difference(&announced).count() as u64)?;
    says("dead letters", of(PublisherCounter::DeadLetters), world.disk.dead_letters_ever().len() as u64)?;
    let left = of(PublisherCounter::DeadLetters).saturating_sub(of(PublisherCounter::RedeliveredDeadLetters));
    says("dead letters left", left, dead_letters.len() as u64)?;
    let messages: BTreeSet<&EventId> = dead_letters.iter().map(|(id, _)| id).collect();
    says("dead letters left", left, messages.len() as u64)?;
    if dead_lettered + lost + passed + old == 0 {
        let written = agent.written.iter().filter(|written| written.record.is_some());
        let bytes = written.map(|written| written.piece.end - written.piece.begin).sum();
        says("delivered bytes", of(PublisherCounter::DeliveredBytes), bytes)?;
    }
    Ok(())
}
