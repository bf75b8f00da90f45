//! Counters that both services keep in shared memory, where `status`, metrics and the other service read them.
//!
//! Reading them costs the writer nothing, and they outlive it: what a killed agent had captured is still there.

use std::{os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc};

use super::{
    layout,
    memory::{Mapping, Segments},
};
use crate::sync::{AtomicU64, Ordering};

/// What the agent counts. Each is a place in the data segment; new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum AgentCounter {
    /// The process id of the agent that holds the ring, or held it last.
    Pid = 0,
    /// When that agent started, in nanoseconds since the epoch.
    StartedNs = 1,
    /// Writes that became records.
    CapturedEvents = 2,
    /// Bytes of those writes.
    CapturedBytes = 3,
    /// Writes of shared mappings' pages: captured, but by nobody in particular.
    UnattributedEvents = 4,
    /// Opens for reading and writing of files that others already had open for one of both: stores through shared
    /// mappings of these are not captured, the writes are.
    UncapturedMapperOpens = 5,
    /// Writes to files that are excluded.
    ExcludedEvents = 6,
    /// Bytes of those writes.
    ExcludedBytes = 7,
    /// Which agent in a row this is, of those that took over from one another; the first is 1.
    Generation = 8,
    /// When this agent had taken over, in nanoseconds since the epoch; 0 for a first one.
    HandoverNs = 9,
    /// Why the one before had ended: a [`HandoverReason`].
    HandoverReason = 10,
    /// How long nobody served, in nanoseconds.
    HandoverTookNs = 11,
    /// Files and directories that were open in the overlays and came back.
    HandoverFiles = 12,
    /// Those that did not.
    HandoverFilesLost = 13,
}

/// Why an agent took over from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum HandoverReason {
    /// That one was told to make room: a restart, an upgrade.
    Restart = 1,
    /// It had died.
    Death = 2,
}

impl HandoverReason {
    /// The name under which users meet it in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Death => "death",
        }
    }

    /// The one that a counter says.
    pub fn from_counter(value: u64) -> Option<Self> {
        [Self::Restart, Self::Death].into_iter().find(|reason| *reason as u64 == value)
    }
}

/// What the agent counts for each FIFO, for the first [`FIFO_SLOTS`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum FifoCounter {
    /// Lines, or chunks, that became records; the parts of a long line count one by one.
    Lines = 0,
    /// Bytes of those.
    Bytes = 1,
    /// Lines that the ring had no room for.
    LostLines = 2,
    /// Bytes of those.
    LostBytes = 3,
    /// 1 while there is no FIFO at the path.
    Missing = 4,
}

/// What the publisher counts. Each is a place in the consumer segment; new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum PublisherCounter {
    /// The process id of the publisher that holds the ring, or held it last.
    Pid = 0,
    /// When that publisher started, in nanoseconds since the epoch.
    StartedNs = 1,
    /// Records read from the ring, those that a restart reads again included.
    ReadEvents = 2,
    /// Records whose delivery the sink has confirmed.
    DeliveredEvents = 3,
    /// Bytes of captured data in them.
    DeliveredBytes = 4,
    /// Messages that the sink has refused for good.
    FailedMessages = 5,
    /// When the last delivery was confirmed, in nanoseconds since the epoch.
    LastDeliveryNs = 6,
    /// When the oldest record that is not acknowledged was captured, in nanoseconds since the epoch; 0 for none.
    OldestUnackedNs = 7,
    /// Times that the ring's content was impossible and reading went on behind it.
    CorruptSkips = 8,
    /// Records handed to the sink and not confirmed.
    InFlightEvents = 9,
    /// The sequence number that follows the last acknowledged record's.
    AckedSequence = 10,
    /// `DeliveredEvents` when this publisher started.
    StartDeliveredEvents = 11,
    /// `DeliveredBytes` when this publisher started.
    StartDeliveredBytes = 12,
    /// Refused messages that were kept as dead letters.
    DeadLetters = 13,
    /// Bytes that the spool takes on disk.
    SpoolBytes = 14,
    /// Records in the spool that are not known to be delivered.
    SpoolRecords = 15,
    /// Times that the spool could not take records.
    SpoolErrors = 16,
    /// Records that were in the spool and cannot be read.
    SpoolLost = 17,
    /// Up to where in the ring everything is delivered; the head may be behind it if the spool has what is before.
    DeliveredEnd = 18,
    /// Dead letters that were delivered after all.
    RedeliveredDeadLetters = 19,
    /// Records that became dead letters, with all or some of their messages.
    DeadLetteredEvents = 20,
    /// Records that the sink has refused for good and that could not be kept: an event says that they are lost.
    UndeliverableEvents = 21,
    /// Records that needed no delivery: it was done before, by a publisher before this one.
    PassedOverEvents = 22,
    /// Records that an operator has discarded (`publisher discard`).
    DiscardedEvents = 23,
    /// Bytes of captured data in them.
    DiscardedBytes = 24,
    /// When the first of those was captured that no event has told of, in nanoseconds since the epoch.
    DiscardedFirstNs = 25,
    /// When the last one was.
    DiscardedLastNs = 26,
    /// How many of them an event has told of.
    DiscardedToldEvents = 27,
    /// How many bytes of them.
    DiscardedToldBytes = 28,
    /// By how many bytes a second what waits in the spool becomes less at most; 0 for no limit.
    RecoveryBytesPerSecond = 29,
    /// Records that were given up for their age (`publisher.age_max`), with all or some of their messages.
    TooOldEvents = 30,
    /// Bytes of captured data in them.
    TooOldBytes = 31,
}

/// Where the publisher's last warning stands, behind its counters and some that may come, in words: its number, when that was,
/// its length, its text.
const WARNING_AT: usize = 384;
const WARNING_TEXT_AT: usize = WARNING_AT + 3;
/// The most bytes of it; what is longer is cut.
pub const WARNING_BYTES_MAX: usize = 480;
const _: () = assert!(PUBLISHER_COUNTERS <= WARNING_AT);
const _: () = assert!(WARNING_TEXT_AT * 8 + WARNING_BYTES_MAX <= layout::COUNTERS_LEN);

/// For how many FIFOs there are counters of their own.
pub const FIFO_SLOTS: usize = 88;
const FIFO_COUNTERS: usize = FifoCounter::Missing as usize + 1;
/// Behind the agent's counters and some that may come.
const FIFO_COUNTERS_AT: usize = 64;

const AGENT_COUNTERS: usize = AgentCounter::HandoverFilesLost as usize + 1;
const PUBLISHER_COUNTERS: usize = PublisherCounter::TooOldBytes as usize + 1;
const _: () = assert!(AGENT_COUNTERS <= FIFO_COUNTERS_AT);
const _: () = assert!((FIFO_COUNTERS_AT + FIFO_SLOTS * FIFO_COUNTERS) * 8 <= layout::COUNTERS_LEN);

/// What kind of thing the agent listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListeningKind {
    /// An overlay over a directory.
    Directory,
    /// A FIFO, and the place of its counters if there are any.
    Fifo {
        /// Below [`FIFO_SLOTS`].
        slot: Option<usize>,
    },
    /// A directory that would have an overlay if the agent did not sleep.
    AsleepDirectory,
}

impl ListeningKind {
    /// The name under which users meet it in `status` and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Fifo { .. } => "fifo",
            Self::AsleepDirectory => "asleep",
        }
    }
}

/// One thing that the agent listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// An overlay or a FIFO.
    pub kind: ListeningKind,
    /// Where it is.
    pub path: PathBuf,
}

/// The agent's counters and listening table.
#[derive(Clone)]
pub struct AgentStatus(Arc<Segments>);

/// The publisher's counters.
#[derive(Clone)]
pub struct PublisherStatus(Arc<Segments>);

impl AgentStatus {
    pub(crate) fn new(segments: Arc<Segments>) -> Self {
        Self(segments)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.0.data.word(layout::AGENT_COUNTERS + index * 8)
    }

    /// Adds to a counter.
    pub fn add(&self, counter: AgentCounter, n: u64) {
        self.word(counter as usize).fetch_add(n, Ordering::Relaxed);
    }

    /// Sets a counter.
    pub fn set(&self, counter: AgentCounter, value: u64) {
        self.word(counter as usize).store(value, Ordering::Relaxed);
    }

    fn fifo_word(&self, slot: usize, counter: FifoCounter) -> Option<&AtomicU64> {
        (slot < FIFO_SLOTS).then(|| self.word(FIFO_COUNTERS_AT + slot * FIFO_COUNTERS + counter as usize))
    }

    /// Adds to a FIFO's counter.
    pub fn add_fifo(&self, slot: usize, counter: FifoCounter, n: u64) {
        if let Some(word) = self.fifo_word(slot, counter) {
            word.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Sets a FIFO's counter.
    pub fn set_fifo(&self, slot: usize, counter: FifoCounter, value: u64) {
        if let Some(word) = self.fifo_word(slot, counter) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// A FIFO's counter; 0 for one without.
    pub fn fifo(&self, slot: usize, counter: FifoCounter) -> u64 {
        self.fifo_word(slot, counter).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Has a FIFO's counters begin at 0.
    pub fn clear_fifo(&self, slot: usize) {
        for counter in FifoCounter::ALL {
            self.set_fifo(slot, counter, 0);
        }
    }

    /// All counters and those of FIFOs: everything on the page.
    pub(crate) fn page(&self) -> Vec<u64> {
        (0..layout::COUNTERS_LEN / 8).map(|i| self.word(i).load(Ordering::Relaxed)).collect()
    }

    /// Has the page say what another one says.
    pub(crate) fn set_page(&self, page: &[u64]) {
        for (i, value) in page.iter().enumerate().take(layout::COUNTERS_LEN / 8) {
            self.word(i).store(*value, Ordering::Relaxed);
        }
    }

    /// Adds what another page has got between `then` and `now`.
    pub(crate) fn add_since(&self, then: &[u64], now: &[u64]) {
        for (i, (then, now)) in then.iter().zip(now).enumerate().take(layout::COUNTERS_LEN / 8) {
            if now != then {
                self.word(i).fetch_add(now.wrapping_sub(*then), Ordering::Relaxed);
            }
        }
    }

    /// All counters, in their order.
    pub fn snapshot(&self) -> Vec<u64> {
        (0..AGENT_COUNTERS).map(|i| self.word(i).load(Ordering::Relaxed)).collect()
    }

    /// Says what the agent listens to. What does not fit into the segment's 24 KiB is left out, and how many that are is said.
    pub fn set_listening_table(&self, listening_table: &[Listening]) {
        let mut text = Vec::new();
        let mut unlisted = 0;
        for listening in listening_table {
            let mut line = match listening.kind {
                ListeningKind::Directory => b"d".to_vec(),
                ListeningKind::Fifo { slot } => format!("f{}", slot.unwrap_or(FIFO_SLOTS)).into_bytes(),
                ListeningKind::AsleepDirectory => b"z".to_vec(),
            };
            line.extend_from_slice(listening.path.as_os_str().as_bytes());
            line.push(0);
            if text.len() + line.len() <= LISTENING_TABLE_TEXT_MAX - UNLISTED_LINE_MAX {
                text.extend_from_slice(&line);
            } else {
                unlisted += 1;
            }
        }
        if unlisted > 0 {
            text.extend_from_slice(format!("+{unlisted}/\0").as_bytes());
        }
        let data = &self.0.data;
        let version = data.word(layout::LISTENING_TABLE).load(Ordering::Relaxed);
        // Odd while it changes: a reader that sees that, or another version afterwards, looks again.
        data.word(layout::LISTENING_TABLE).store(version | 1, Ordering::Release);
        data.word(layout::LISTENING_TABLE + 8).store(text.len() as u64, Ordering::Release);
        let written = data.write(layout::LISTENING_TABLE + LISTENING_TABLE_HEADER, &text);
        debug_assert!(written.is_ok());
        data.word(layout::LISTENING_TABLE).store((version | 1).wrapping_add(1), Ordering::Release);
    }
}

impl FifoCounter {
    /// All of them, in their order.
    pub const ALL: [Self; FIFO_COUNTERS] =
        [Self::Lines, Self::Bytes, Self::LostLines, Self::LostBytes, Self::Missing];
}

const LISTENING_TABLE_HEADER: usize = 16;
const LISTENING_TABLE_TEXT_MAX: usize = layout::LISTENING_TABLE_LEN - LISTENING_TABLE_HEADER;
/// Kept free for the line that says how many are left out.
const UNLISTED_LINE_MAX: usize = 24;
/// How often a reader looks again while the listening table changes under it.
const LISTENING_TABLE_TRIES: usize = 100;

/// What the agent says that it listens to, as far as there is room for it in shared memory.
#[derive(Debug, Default)]
pub(crate) struct ListeningTable {
    pub listed: Vec<Listening>,
    /// How many more there are.
    pub unlisted: usize,
}

/// What the agent says that it listens to.
pub(crate) fn read_listening_table(segments: &Segments) -> ListeningTable {
    (0..LISTENING_TABLE_TRIES).find_map(|_| try_listening_table(&segments.data)).unwrap_or_default()
}

fn try_listening_table(data: &Mapping) -> Option<ListeningTable> {
    let version = data.word(layout::LISTENING_TABLE).load(Ordering::Acquire);
    if version & 1 == 1 {
        return None;
    }
    let len = usize::try_from(data.word(layout::LISTENING_TABLE + 8).load(Ordering::Acquire)).ok()?;
    let mut text = vec![0; len.min(LISTENING_TABLE_TEXT_MAX)];
    data.read(layout::LISTENING_TABLE + LISTENING_TABLE_HEADER, &mut text).ok()?;
    if data.word(layout::LISTENING_TABLE).load(Ordering::Acquire) != version {
        return None;
    }
    let mut unlisted = 0;
    let lines = text.split(|b| *b == 0).filter_map(|line| {
        // Paths are absolute: the kind ends where the path begins.
        let (kind, path) = line.split_at(line.iter().position(|b| *b == b'/')?);
        let kind = match kind.split_first()? {
            (b'd', []) => ListeningKind::Directory,
            (b'f', digits) => {
                let slot = std::str::from_utf8(digits).ok()?.parse().ok()?;
                ListeningKind::Fifo { slot: Some(slot).filter(|slot| *slot < FIFO_SLOTS) }
            }
            (b'z', []) => ListeningKind::AsleepDirectory,
            (b'+', digits) => {
                unlisted = std::str::from_utf8(digits).ok()?.parse().ok()?;
                return None;
            }
            _ => return None,
        };
        Some(Listening { kind, path: PathBuf::from(std::ffi::OsStr::from_bytes(path)) })
    });
    let listed = lines.collect();
    Some(ListeningTable { listed, unlisted })
}

impl PublisherStatus {
    pub(crate) fn new(segments: Arc<Segments>) -> Self {
        Self(segments)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.0.ack.word(layout::PUBLISHER_COUNTERS + index * 8)
    }

    /// Adds to a counter.
    pub fn add(&self, counter: PublisherCounter, n: u64) {
        self.word(counter as usize).fetch_add(n, Ordering::Relaxed);
    }

    /// Sets a counter.
    pub fn set(&self, counter: PublisherCounter, value: u64) {
        self.word(counter as usize).store(value, Ordering::Relaxed);
    }

    /// Whether a publisher has ever been at work on this generation: then it has gone on with the counters of those before.
    pub(super) fn is_begun(&self) -> bool {
        self.get(PublisherCounter::StartedNs) > 0
    }

    /// A process begins to count.
    pub(super) fn begin(&self, pid: u32, now_ns: u64) {
        use PublisherCounter::*;
        self.set(Pid, pid.into());
        self.set(StartDeliveredEvents, self.get(DeliveredEvents));
        self.set(StartDeliveredBytes, self.get(DeliveredBytes));
        self.set(StartedNs, now_ns);
    }

    fn get(&self, counter: PublisherCounter) -> u64 {
        self.word(counter as usize).load(Ordering::Relaxed)
    }

    /// Goes on with what publishers have counted on a former generation. To be called before anything is counted on this one: as
    /// often as it is done again, it comes to the same.
    pub(super) fn carry_on(&self, former: &Self) {
        use PublisherCounter::*;
        for counter in [
            ReadEvents,
            DeliveredEvents,
            DeliveredBytes,
            FailedMessages,
            CorruptSkips,
            DeadLetters,
            SpoolErrors,
            SpoolLost,
            RedeliveredDeadLetters,
            DeadLetteredEvents,
            UndeliverableEvents,
            PassedOverEvents,
            TooOldEvents,
            TooOldBytes,
            LastDeliveryNs,
            DiscardedEvents,
            DiscardedBytes,
            DiscardedToldEvents,
            DiscardedToldBytes,
            DiscardedFirstNs,
            DiscardedLastNs,
        ] {
            self.set(counter, former.get(counter));
        }
        self.set_start(former);
    }

    /// The process that counts here began to count on a former generation.
    pub(super) fn set_start(&self, former: &Self) {
        use PublisherCounter::*;
        for counter in [StartedNs, StartDeliveredEvents, StartDeliveredBytes, RecoveryBytesPerSecond] {
            self.set(counter, former.get(counter));
        }
    }

    /// Shows the publisher's last warning to who looks at the ring.
    pub fn set_warning(&self, at_ns: u64, text: &str) {
        let mut bytes = [0; WARNING_BYTES_MAX];
        let cut = text.floor_char_boundary(WARNING_BYTES_MAX);
        bytes[..cut].copy_from_slice(&text.as_bytes()[..cut]);
        let number = self.word(WARNING_AT).load(Ordering::Relaxed) | 1;
        // Odd while it changes: a reader that sees that, or another number afterwards, shows none.
        self.word(WARNING_AT).store(number, Ordering::Release);
        self.word(WARNING_AT + 1).store(at_ns, Ordering::Release);
        self.word(WARNING_AT + 2).store(cut as u64, Ordering::Release);
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            let word = word.try_into().map_or(0, u64::from_ne_bytes);
            self.word(WARNING_TEXT_AT + i).store(word, Ordering::Release);
        }
        self.word(WARNING_AT).store(number.wrapping_add(1), Ordering::Release);
    }

    /// The publisher's last warning and when that was, in nanoseconds since the epoch.
    pub fn warning(&self) -> Option<(u64, String)> {
        let number = self.word(WARNING_AT).load(Ordering::Acquire);
        let at_ns = self.word(WARNING_AT + 1).load(Ordering::Acquire);
        let len = usize::try_from(self.word(WARNING_AT + 2).load(Ordering::Acquire)).ok()?;
        let words =
            (0..WARNING_BYTES_MAX / 8).map(|i| self.word(WARNING_TEXT_AT + i).load(Ordering::Acquire));
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).take(len).collect();
        let is_whole =
            number > 0 && number & 1 == 0 && self.word(WARNING_AT).load(Ordering::Acquire) == number;
        is_whole.then(|| (at_ns, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// All counters, in their order.
    pub fn snapshot(&self) -> Vec<u64> {
        (0..PUBLISHER_COUNTERS).map(|i| self.word(i).load(Ordering::Relaxed)).collect()
    }
}
