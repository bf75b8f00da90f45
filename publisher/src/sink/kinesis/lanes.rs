//! What waits to be sent to one stream, in an order that failures cannot upset.
//!
//! A lane holds the records of one partition key, or, with aggregation, of one slice of the hash space. It is in one
//! of three places: *ready*, in the order in which its oldest record arrived; *held* until a moment, after a failure; or
//! *out*, with a request on its way that holds records of it. Only a ready lane gives records away, so that of each
//! lane one request at most is out; what comes back goes to its front.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    aggregate::Packer,
    record::Record,
    retry::{BACK_OFF_MAX, back_off},
    slices::Slices,
};

/// How long lanes that become ready at different times gather to share a request, at most, while another request is on its
/// way: many small requests carry no more than a few large ones.
const GATHER_MAX: Duration = Duration::from_millis(20);

/// What a request may hold, and when it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Only one record of a lane in a request.
    pub strict_order: bool,
    /// Pack what a lane holds into one record.
    pub aggregate: bool,
    /// The most records in a request; as many are sent at once.
    pub batch_records: usize,
    /// The most bytes in a request, unless it is a single record; as many are sent at once.
    pub batch_bytes: usize,
    /// The most bytes of a record, partition key included.
    pub record_bytes: usize,
    /// How long a record may wait for others.
    pub flush_interval: Duration,
}

/// A record of a request: one of ours, or several that are packed together.
#[derive(Debug)]
pub struct Entry {
    lane: Arc<str>,
    /// The slice of the hash space that its partition key falls into.
    pub slice: usize,
    /// The explicit hash key, where it is not the partition key that decides.
    pub hash_key: Option<Arc<str>>,
    /// What it holds; never empty.
    pub records: Vec<Record>,
    /// The records packed into one, if they are several.
    packed: Option<Vec<u8>>,
}

impl Entry {
    /// The partition key that Kinesis is told.
    pub fn partition_key(&self) -> &str {
        self.records.first().map_or("", |record| &record.partition_key)
    }

    /// The data that Kinesis is given.
    pub fn data(&self) -> &[u8] {
        match (&self.packed, self.records.first()) {
            (Some(packed), _) => packed,
            (None, Some(record)) => &record.data,
            (None, None) => &[],
        }
    }

    /// The bytes that count against Kinesis' limits.
    pub fn bytes(&self) -> usize {
        self.partition_key().len() + self.data().len()
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is settled: delivered or refused.
    Done,
    /// It is to be sent again, as soon as the shard or the stream lets it.
    Again,
    /// It is to be sent again after its lane's own back-off.
    AgainLater,
    /// Each of its records is to be sent again by itself.
    AgainAlone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready(u64),
    Held(Instant, u64),
    Out,
}

struct Lane {
    queue: VecDeque<Record>,
    bytes: usize,
    slice: usize,
    place: Place,
    failures: u32,
    held_until: Option<Instant>,
}

/// How much could be sent right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    records: usize,
    bytes: usize,
}

/// The lanes of a stream.
pub struct Lanes {
    limits: Limits,
    lanes: HashMap<Arc<str>, Lane>,
    /// By the arrival of the oldest record.
    ready: BTreeMap<u64, Arc<str>>,
    /// By the moment that ends the hold.
    held: BTreeMap<(Instant, u64), Arc<str>>,
    load: Load,
    slices: Slices,
    /// The slices that are to take the place of those, once nothing is out: a lane's order holds over the change.
    next_slices: Option<Slices>,
    /// Until when each slice is held.
    slices_held: Vec<Option<Instant>>,
    /// The explicit hash key of each slice, where it decides.
    hash_keys: Vec<Arc<str>>,
    arrivals: u64,
    /// Since when something is ready that was not taken.
    ready_since: Option<Instant>,
    /// Nothing waits for others any more.
    is_flushing: bool,
}

impl Lane {
    /// What it would add to a request.
    fn load(&self, limits: &Limits) -> Load {
        if limits.aggregate {
            return Load { records: 1, bytes: self.bytes.min(limits.record_bytes) };
        }
        if limits.strict_order {
            return Load { records: 1, bytes: self.queue.front().map_or(0, Record::bytes) };
        }
        Load { records: self.queue.len(), bytes: self.bytes }
    }

    fn pop(&mut self) -> Option<Record> {
        let record = self.queue.pop_front()?;
        self.bytes -= record.bytes();
        Some(record)
    }
}

impl Lanes {
    /// Without anything.
    pub fn new(limits: Limits) -> Self {
        let slices = Slices::equal();
        Self {
            limits,
            slices_held: vec![None; slices.count()],
            hash_keys: if limits.aggregate { slices.hash_keys() } else { Vec::new() },
            slices,
            next_slices: None,
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            held: BTreeMap::new(),
            load: Load::default(),
            arrivals: 0,
            ready_since: None,
            is_flushing: false,
        }
    }

    /// From now on everything is sent as soon as it may.
    pub fn flush(&mut self) {
        self.is_flushing = true;
    }

    /// Whether nothing waits and nothing is out.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Takes a record.
    pub fn push(&mut self, mut record: Record, now: Instant) {
        self.arrivals += 1;
        record.arrival = self.arrivals;
        let packed = self.limits.aggregate.then(|| self.slices.slice_of(&record.partition_key));
        let name = packed.map_or(record.partition_key.as_str(), |slice| &self.hash_keys[slice]);
        if let Some(lane) = self.lanes.get_mut(name) {
            let before = lane.load(&self.limits);
            lane.bytes += record.bytes();
            lane.queue.push_back(record);
            if let Place::Ready(_) = lane.place {
                let after = lane.load(&self.limits);
                self.load.records += after.records - before.records;
                self.load.bytes += after.bytes - before.bytes;
            }
            return;
        }
        let name: Arc<str> = packed.map_or_else(|| name.into(), |slice| Arc::clone(&self.hash_keys[slice]));
        let lane = Lane {
            bytes: record.bytes(),
            slice: packed.unwrap_or_else(|| self.slices.slice_of(&record.partition_key)),
            queue: VecDeque::from([record]),
            place: Place::Out,
            failures: 0,
            held_until: None,
        };
        self.lanes.insert(Arc::clone(&name), lane);
        self.release(name, now);
    }

    /// Takes everything out that waits, in the order of arrival: it is given up.
    pub fn give_up(&mut self) -> Vec<Record> {
        let mut given_up = Vec::new();
        for lane in self.lanes.values_mut() {
            given_up.extend(lane.queue.drain(..));
            lane.bytes = 0;
        }
        self.lanes.retain(|_, lane| lane.place == Place::Out);
        self.ready.clear();
        self.held.clear();
        self.load = Load::default();
        given_up.sort_by_key(|record| record.arrival);
        given_up
    }

    /// Holds what falls into a slice until a moment, or lets it go.
    pub fn hold(&mut self, slice: usize, until: Option<Instant>) {
        if let Some(held) = self.slices_held.get_mut(slice) {
            *held = until;
        }
    }

    /// Cuts the hash space otherwise from now on, or as soon as what is out has come back: until then nothing more goes out.
    /// Gives whether that is done already; [`Self::settle`] does it otherwise.
    pub fn cut(&mut self, slices: Slices, now: Instant) -> bool {
        self.next_slices = Some(slices).filter(|slices| *slices != self.slices);
        self.cut_if_idle(now)
    }

    /// The slices that the hash space is cut into.
    pub fn slices(&self) -> &Slices {
        &self.slices
    }

    fn cut_if_idle(&mut self, now: Instant) -> bool {
        if self.lanes.values().any(|lane| lane.place == Place::Out) {
            return false;
        }
        let Some(slices) = self.next_slices.take() else { return false };
        let waiting = self.give_up();
        self.slices_held = vec![None; slices.count()];
        self.hash_keys = if self.limits.aggregate { slices.hash_keys() } else { Vec::new() };
        self.slices = slices;
        for record in waiting {
            self.push(record, now);
        }
        true
    }

    /// When [`Self::is_due`] may come true without anything else happening.
    pub fn next_due(&self, is_idle: bool) -> Option<Instant> {
        if self.next_slices.is_some() {
            return None;
        }
        let ripe = self.ripe_at(is_idle);
        let released = self.held.first_key_value().map(|((until, _), _)| *until);
        ripe.into_iter().chain(released).min()
    }

    /// Whether a request should be sent now: there is enough for one, or the oldest record has waited long enough.
    /// `is_idle` says that no other request is on its way.
    pub fn is_due(&mut self, is_idle: bool, now: Instant) -> bool {
        self.end_holds(now);
        if self.next_slices.is_some() {
            return false;
        }
        self.load.records >= self.limits.batch_records
            || self.load.bytes >= self.limits.batch_bytes
            || self.ripe_at(is_idle).is_some_and(|at| at <= now)
    }

    /// When what is ready has waited long enough for others.
    fn ripe_at(&self, is_idle: bool) -> Option<Instant> {
        let (oldest, ready_since) = (self.oldest_ready()?, self.ready_since?);
        let interval = if self.is_flushing { Duration::ZERO } else { self.limits.flush_interval };
        let gathered =
            if is_idle { ready_since } else { ready_since + GATHER_MAX.min(self.limits.flush_interval) };
        Some(gathered.max(oldest + interval))
    }

    /// Takes a request's records out, the oldest first.
    pub fn take(&mut self, now: Instant) -> Vec<Entry> {
        self.end_holds(now);
        self.ready_since = Some(now);
        let mut batch = Vec::new();
        let mut left_bytes = self.limits.batch_bytes;
        while batch.len() < self.limits.batch_records {
            let Some(name) = self.ready.first_key_value().map(|(_, name)| Arc::clone(name)) else { break };
            let Some(lane) = self.lanes.get(&name) else { break };
            if self.slices_held[lane.slice].is_some_and(|until| until > now) {
                self.unready(&name);
                self.release(name, now);
                continue;
            }
            let Some(front) = lane.queue.front() else { break };
            if !batch.is_empty() && (front.alone || front.bytes() > left_bytes) {
                break;
            }
            let is_alone = front.alone;
            self.unready(&name);
            let room = self.limits.batch_records - batch.len();
            self.take_from(name, room, &mut left_bytes, &mut batch);
            if is_alone {
                break;
            }
        }
        batch
    }

    /// Moves what may go from a lane into the batch. The first record is known to fit.
    fn take_from(&mut self, name: Arc<str>, room: usize, left_bytes: &mut usize, batch: &mut Vec<Entry>) {
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        let slice = lane.slice;
        if self.limits.aggregate {
            let hash_key = Arc::clone(&self.hash_keys[slice]);
            let (records, packed) = pack(lane, &hash_key, self.limits.record_bytes.min(*left_bytes));
            let entry = Entry { lane: name, slice, hash_key: Some(hash_key), records, packed };
            *left_bytes = left_bytes.saturating_sub(entry.bytes());
            return batch.push(entry);
        }
        let room = if self.limits.strict_order { 1 } else { room };
        for taken in 0..room {
            let fits = lane.queue.front().is_some_and(|r| r.bytes() <= *left_bytes && !r.alone);
            if taken > 0 && !fits {
                break;
            }
            let Some(record) = lane.pop() else { break };
            *left_bytes = left_bytes.saturating_sub(record.bytes());
            let is_alone = record.alone;
            let (lane, records) = (Arc::clone(&name), vec![record]);
            batch.push(Entry { lane, slice, hash_key: None, records, packed: None });
            if is_alone {
                break;
            }
        }
    }

    /// Takes a request's records back that are not done, and lets their lanes go on. Gives whether the hash space is cut
    /// otherwise from now on.
    pub fn settle(&mut self, batch: Vec<(Entry, Disposition)>, now: Instant) -> bool {
        let mut names: Vec<Arc<str>> = Vec::with_capacity(batch.len());
        // The last first, so that each lane's front is in order again.
        for (entry, disposition) in batch.into_iter().rev() {
            let Entry { lane: name, records, .. } = entry;
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            match disposition {
                Disposition::Done => lane.failures = 0,
                Disposition::Again | Disposition::AgainAlone => {}
                // Several of one lane are one failure.
                Disposition::AgainLater if lane.held_until > Some(now) => {}
                Disposition::AgainLater => {
                    lane.failures += 1;
                    lane.held_until = Some(now + back_off(lane.failures, BACK_OFF_MAX));
                }
            }
            if disposition != Disposition::Done {
                for mut record in records.into_iter().rev() {
                    record.alone |= disposition == Disposition::AgainAlone;
                    lane.bytes += record.bytes();
                    lane.queue.push_front(record);
                }
            }
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        for name in names {
            self.release(name, now);
        }
        self.next_slices.is_some() && self.cut_if_idle(now)
    }

    fn oldest_ready(&self) -> Option<Instant> {
        let (_, name) = self.ready.first_key_value()?;
        self.lanes.get(name)?.queue.front().map(|record| record.arrived)
    }

    /// Puts a lane that is out where it belongs now; one without records ceases to be.
    fn release(&mut self, name: Arc<str>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        if lane.place != Place::Out {
            return;
        }
        let Some(arrival) = lane.queue.front().map(|record| record.arrival) else {
            self.lanes.remove(&name);
            return;
        };
        let held = lane.held_until.max(self.slices_held[lane.slice]).filter(|until| *until > now);
        match held {
            Some(until) => {
                self.arrivals += 1;
                lane.place = Place::Held(until, self.arrivals);
                self.held.insert((until, self.arrivals), name);
            }
            None => {
                lane.place = Place::Ready(arrival);
                let load = lane.load(&self.limits);
                self.load.records += load.records;
                self.load.bytes += load.bytes;
                if self.ready.is_empty() {
                    self.ready_since = Some(now);
                }
                self.ready.insert(arrival, name);
            }
        }
    }

    /// Takes a lane out of the ready ones.
    fn unready(&mut self, name: &str) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if let Place::Ready(arrival) = lane.place {
            let load = lane.load(&self.limits);
            self.load.records -= load.records;
            self.load.bytes -= load.bytes;
            self.ready.remove(&arrival);
            lane.place = Place::Out;
        }
    }

    fn end_holds(&mut self, now: Instant) {
        while let Some(first) = self.held.first_entry().filter(|first| first.key().0 <= now) {
            let name = first.remove();
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.place = Place::Out;
                self.release(name, now);
            }
        }
    }
}

/// Takes as many records out of a lane as an aggregate of at most `bytes_max` holds, and at least one; several are
/// packed.
fn pack(lane: &mut Lane, hash_key: &str, bytes_max: usize) -> (Vec<Record>, Option<Vec<u8>>) {
    let mut packer = Packer::new(hash_key);
    let mut records: Vec<Record> = Vec::new();
    while let Some(front) = lane.queue.front() {
        let is_alone = front.alone;
        // The aggregate itself has the partition key of its first record.
        let outer_key = records.first().map_or(&front.partition_key, |first| &first.partition_key);
        let bytes = outer_key.len() + packer.bytes_with(&front.partition_key, &front.data);
        if !records.is_empty() && (is_alone || bytes > bytes_max) {
            break;
        }
        packer.add(&front.partition_key, &front.data);
        records.extend(lane.pop());
        if is_alone {
            break;
        }
    }
    let packed = (records.len() > 1).then(|| packer.finish());
    (records, packed)
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
