//! The agent, what programs write, and what becomes of memory.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs::{File, remove_file},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use bywash_common::{
    config::RingConfig,
    record::{Origin, Write},
    ring::{AgentRing, Inspected, Kind, PublisherRing, SEGMENT_DIR, Weight, inspect},
    status::PublisherCounter,
    units::ByteSize,
};
use uuid::Uuid;

use crate::clock::{self, simulated};

use super::{
    content::{self, PATHS, Piece},
    random::Random,
};

/// Where records begin in a ring's first object, and where its tail is; its head in the second. As the ring's documentation
/// says.
const RECORDS: u64 = 0x8000;
const TAIL: u64 = 0x80;
const HEAD: u64 = 0x80;
/// Bytes in front of a record's payload.
const RECORD_HEADER: u64 = 24;

/// A write that a program was told of.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// What was written.
    pub piece: Piece,
    /// Which record it is; none where the ring had no room for it.
    pub record: Option<(Uuid, u64)>,
}

/// What may be lost by damage.
#[derive(Debug, Default)]
pub struct Damaged {
    /// Numbers of writes.
    pub writes: BTreeSet<usize>,
    /// All that was written behind them to these rings, as well.
    pub rings: BTreeSet<Uuid>,
    /// An announcement of losses may be lost.
    pub has_news: bool,
    /// Somebody has damaged a ring.
    pub is_any: bool,
}

/// Where records lie between two positions, and their numbers, and whether there is nothing else.
fn records(data: &File, capacity: u64, head: u64, tail: u64) -> (bool, Vec<(Range<u64>, u64)>) {
    let (mut records, mut at) = (Vec::new(), head);
    while at < tail {
        let mut header = [0; RECORD_HEADER as usize];
        let left = (capacity - at % capacity).min(RECORD_HEADER) as usize;
        if data.read_exact_at(&mut header[..left], RECORDS + at % capacity).is_err() {
            return (false, records);
        }
        let len = u64::from(u32::from_ne_bytes(header[..4].try_into().unwrap()));
        let end = at + len.next_multiple_of(8);
        let is_padding = header[4] == 0;
        if len < 8 || end > tail || !is_padding && Kind::from_byte(header[4]).is_none() {
            return (false, records);
        }
        if !is_padding {
            records.push((at..end, u64::from_ne_bytes(header[8..16].try_into().unwrap())));
        }
        at = end;
    }
    (true, records)
}

/// Opens a ring that no agent has: one that is dropped has let go of it.
fn open(config: &RingConfig) -> AgentRing {
    AgentRing::open(config).expect("a ring that no agent has")
}

/// The agent with its rings.
pub struct Agent {
    random: Random,
    config: RingConfig,
    ring: Option<AgentRing>,
    begin: Instant,
    ends: [u64; PATHS.len()],
    pub written: Vec<Written>,
    /// Numbers of writes that were in a ring alone when the machine lost its memory.
    pub forgotten: BTreeSet<usize>,
    pub damaged: Damaged,
    /// How often another generation was begun.
    pub generations: u64,
    numbers: BTreeMap<(Uuid, u64), usize>,
    /// What publishers had counted when the machine lost its memory.
    pub counted: BTreeMap<usize, u64>,
}

static RUNS: AtomicU64 = AtomicU64::new(0);

/// What is counted.
pub const COUNTERS: [PublisherCounter; 8] = [
    PublisherCounter::DeliveredEvents,
    PublisherCounter::DeliveredBytes,
    PublisherCounter::DeadLetteredEvents,
    PublisherCounter::UndeliverableEvents,
    PublisherCounter::PassedOverEvents,
    PublisherCounter::TooOldEvents,
    PublisherCounter::DeadLetters,
    PublisherCounter::RedeliveredDeadLetters,
];

impl Agent {
    /// An agent with a ring of so many bytes.
    pub fn new(random: Random, ring_bytes: u64) -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("bywash-test-{}-sim{run}", process::id());
        let config = RingConfig { name, size: ByteSize(ring_bytes), group: None };
        let ring = open(&config);
        Self {
            random,
            config,
            ring: Some(ring),
            begin: clock::now(),
            ends: [0; PATHS.len()],
            written: Vec::new(),
            forgotten: BTreeSet::new(),
            damaged: Damaged::default(),
            generations: 0,
            numbers: BTreeMap::new(),
            counted: BTreeMap::new(),
        }
    }

    /// The ring's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    fn ring(&self) -> &AgentRing {
        self.ring.as_ref().expect("an agent")
    }

    /// A program writes.
    pub fn write(&mut self, bytes: usize) {
        let number = self.written.len();
        let file = self.random.below(PATHS.len() as u64) as usize;
        let (begin, len) = (self.ends[file], bytes.max(1));
        let piece = Piece { file, begin, end: begin + len as u64 };
        self.ends[file] = piece.end;
        let data = content::bytes(file, begin, len);
        let since = u64::try_from(clock::now().duration_since(self.begin).as_nanos()).unwrap();
        let write = Write {
            path: PATHS[file].as_bytes(),
            pid: 1,
            uid: 0,
            gid: 0,
            time_ns: simulated::BEGIN_NS + since + number as u64,
            command: b"",
            offset: begin,
            handle: file as u64 + 1,
            origin: Origin::Write,
            part: 0,
            parts: 1,
        };
        let mut description = Vec::new();
        write.encode_into(&mut description);
        let weight = Weight { bytes: len as u64, time_ns: write.time_ns };
        let noted = Cell::new(None);
        let slices: [&[u8]; 2] = [&description, &data];
        let ring = self.ring();
        let pushed = ring.producer.push_noted(Kind::Write, &slices, weight, &|seq| noted.set(Some(seq)));
        let uuid = Uuid::from_bytes(ring.uuid());
        let record = pushed.ok().and(noted.get()).map(|sequence| (uuid, sequence));
        match record {
            Some(record) => drop(self.numbers.insert(record, number)),
            None => self.random.note(|| format!("write {number} finds no room")),
        }
        self.written.push(Written { piece, record });
    }

    /// The write that a record is.
    pub fn number_of(&self, ring: Uuid, sequence: u64) -> Option<usize> {
        self.numbers.get(&(ring, sequence)).copied()
    }

    /// What an agent does now and then: says what did not fit, and removes what is of no more use.
    pub fn tick(&self) {
        self.ring().producer.announce_losses();
        self.ring().remove_drained().expect("generations that can be removed");
    }

    /// Another generation.
    pub fn begin_generation(&mut self) {
        self.ring = None;
        self.generations += 1;
        self.config.size = ByteSize(self.config.size.0 + 8192);
        self.ring = Some(open(&self.config));
        self.tick();
    }

    /// The ring as others see it.
    pub fn look(&self) -> Option<Inspected> {
        inspect(&self.config.name).ok()
    }

    /// What publishers have counted, what was before a loss of memory included.
    pub fn count(&self) -> BTreeMap<usize, u64> {
        let mut counted = self.counted.clone();
        let Some(seen) = self.look() else { return counted };
        for counter in COUNTERS {
            *counted.entry(counter as usize).or_default() += seen.publisher(counter);
        }
        counted
    }

    /// The rings go. `is_sudden` says whether what they held may be lost with them.
    pub fn lose_memory(&mut self, is_sudden: bool) {
        self.counted = self.count();
        if is_sudden {
            self.forget();
        }
        self.ring = None;
        self.remove_rings();
        self.ring = Some(open(&self.config));
    }

    fn forget(&mut self) {
        let mut payload = Vec::new();
        // Nobody will ever know what became of these.
        self.forgotten.extend(&self.damaged.writes);
        let is_damaged = |((ring, _), _): &(&(Uuid, u64), &usize)| self.damaged.rings.contains(ring);
        self.forgotten.extend(self.numbers.iter().filter(is_damaged).map(|(_, number)| *number));
        // One generation after the other.
        while let Ok(mut ring) = PublisherRing::attach(&self.config.name, None) {
            loop {
                match ring.consumer.next(&mut payload) {
                    Ok(Some(entry)) => self.forgotten.extend(self.number_of(ring.uuid, entry.seq)),
                    Ok(None) => break,
                    Err(_) => {
                        let begin = ring.consumer.position();
                        if ring.consumer.skip_damage().end(begin) == begin {
                            break;
                        }
                    }
                }
            }
            let end = ring.consumer.position();
            let is_newest = !ring.has_successor().unwrap_or(false);
            ring.consumer.acker().ack(end);
            if is_newest {
                break;
            }
        }
    }

    fn object(&self, generation: u32, role: &str) -> PathBuf {
        format!("{SEGMENT_DIR}/{}.{generation}.{role}", self.config.name).into()
    }

    /// Removes all generations.
    pub fn remove_rings(&self) {
        let last = self.look().map_or(0, |seen| seen.generation).max(1);
        for generation in 1..=last + 1 {
            for role in ["ring", "ack"] {
                drop(remove_file(self.object(generation, role)));
            }
        }
    }

    /// A bit of the newest ring changes, in what is not delivered.
    pub fn damage(&mut self, of_1000: u64) {
        let Some(seen) = self.look() else { return };
        let open = |role| File::options().read(true).write(true).open(self.object(seen.generation, role));
        let (Ok(data), Ok(ack)) = (open("ring"), open("ack")) else { return };
        let word = |file: &File, at| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).map(|()| u64::from_ne_bytes(bytes)).unwrap_or(0)
        };
        let (head, tail) = (word(&ack, HEAD), word(&data, TAIL));
        if head == tail {
            return;
        }
        let at = head + (tail - head) * of_1000.min(999) / 1000;
        let place = RECORDS + at % seen.capacity;
        let mut byte = [0];
        if data.read_exact_at(&mut byte, place).is_err() {
            return;
        }
        let (is_whole, records) = records(&data, seen.capacity, head, tail);
        let hit = records.iter().find(|(range, _)| range.contains(&at));
        let in_payload = hit.is_some_and(|(range, _)| at - range.start >= RECORD_HEADER);
        self.damaged.is_any = true;
        let behind = records.iter().filter(|(range, _)| range.end > at);
        for (_, sequence) in behind.take(if in_payload && is_whole { 1 } else { usize::MAX }) {
            match self.number_of(seen.uuid, *sequence) {
                Some(number) => drop(self.damaged.writes.insert(number)),
                None => self.damaged.has_news = true,
            }
        }
        if !in_payload || !is_whole {
            self.damaged.rings.insert(seen.uuid);
        }
        byte[0] ^= 1 << self.random.below(8);
        data.write_all_at(&byte, place).expect("a byte of the ring");
        let what = if in_payload { "a record's bytes" } else { "a record's header, or between records" };
        self.random.note(|| format!("damage at {at} between {head} and {tail}: {what}"));
    }

    /// The agent ends.
    pub fn end(&mut self) {
        self.ring = None;
        self.remove_rings();
    }
}
