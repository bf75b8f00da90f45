//! What the overlays have written becomes records in the ring.
//!
//! Nothing here fails or delays a write: what the ring cannot take is counted there and announced in-band.

mod commands;
mod live;
mod process;
mod quota;
#[cfg(test)]
mod quota_tests;
mod source;
#[cfg(test)]
mod tests;
mod timed_calls;

use std::{cell::RefCell, sync::Arc};

use arc_swap::Guard;
use bywash_common::{
    clock::now_ns,
    record::{LossReason, Origin, Write},
    ring::{AgentRing, Kind, Producer, Weight},
    status::{AgentCounter, Listening},
};

use crate::state::{
    journal::{self, RecordId},
    verdict::{self, RecordVerdict},
};

use commands::Commands;
use live::Live;
pub use quota::FileId;
pub use source::Source;

/// How much longer the description of a part may be than that of the whole: the offset, the part's number and the
/// count of parts, each at most 9 bytes as bincode's variable-length integers.
const PART_SLACK_BYTES: usize = 3 * 9;

/// Who wrote, as the kernel says it.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// The writing thread; 0 if it is in a process namespace that this process does not see.
    pub thread: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// Bytes that are in a file.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The file's absolute path.
    pub path: &'a [u8],
    /// Who wrote them; nobody in particular where the kernel wrote a mapping's pages back.
    pub writer: Option<Writer>,
    /// Where they begin.
    pub offset: u64,
    /// The handle they came through.
    pub handle: u64,
    /// They.
    pub data: &'a [u8],
}

thread_local! {
    /// The encoded description; kept so that a write needs no allocation for it.
    static DESCRIPTION: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The way into the ring; the overlays share it.
pub struct Capture {
    live: Live,
    commands: Commands,
}

impl Capture {
    /// Puts records into `ring`.
    pub fn new(ring: AgentRing) -> Self {
        Self { live: Live::new(ring), commands: Commands::default() }
    }

    /// As [`Self::new`], for [`crate::bench_support`]: when command lines are read again does not depend on the clock.
    pub fn measured(ring: AgentRing) -> Self {
        Self { live: Live::new(ring), commands: Commands::unchanging() }
    }

    /// The longest write in bytes that the ring takes for sure once it is empty: half of what it holds. Descriptions of
    /// parts, and what is left free where it wraps round, take up room as well.
    pub fn write_bytes_max(&self) -> u64 {
        self.ring().producer.fill().1 / 2
    }

    /// The ring of now: to be asked for again for each write.
    pub fn ring(&self) -> Guard<Arc<AgentRing>> {
        self.live.ring()
    }

    /// Puts `event` into the ring, or counts it as lost; neither if a predecessor has done so for the same request.
    pub fn record(&self, event: &Event<'_>) {
        let ring = self.ring();
        if let Some(before) = journal::cut_short() {
            let is_committed =
                before.recording.and_then(|record| ring.had_committed(record.ring, record.sequence));
            if verdict::record(&before, is_committed) == RecordVerdict::Recorded {
                return;
            }
        }
        let time_ns = now_ns();
        let process = event.writer.map(|writer| self.commands.process_of(writer.thread, writer.uid));
        let write = Write {
            path: event.path,
            pid: process.as_ref().map_or(0, |process| process.pid),
            uid: event.writer.map_or(0, |writer| writer.uid),
            gid: event.writer.map_or(0, |writer| writer.gid),
            time_ns,
            command: process.as_ref().map_or(&[], |process| &process.command),
            offset: event.offset,
            handle: event.handle,
            origin: if event.writer.is_some() { Origin::Write } else { Origin::Mapping },
            part: 0,
            parts: 1,
        };
        if push(&ring, &write, event.data) {
            let status = &ring.status;
            status.add(AgentCounter::CapturedEvents, 1);
            status.add(AgentCounter::CapturedBytes, event.data.len() as u64);
            if write.origin == Origin::Mapping {
                status.add(AgentCounter::UnattributedEvents, 1);
            }
        }
        journal::recorded();
    }

    /// Counts an open whose shared mappings are not captured.
    pub fn count_uncaptured_mapper(&self) {
        self.ring().status.add(AgentCounter::UncapturedMapperOpens, 1);
    }

    /// Counts a write to a file that is excluded.
    fn count_excluded(&self, bytes: u64) {
        let ring = self.ring();
        ring.status.add(AgentCounter::ExcludedEvents, 1);
        ring.status.add(AgentCounter::ExcludedBytes, bytes);
    }

    /// What is to be done now and then; for the ring see [`Live::tidy`].
    pub fn tidy(&self) {
        self.commands.tidy();
        self.live.tidy();
    }

    /// What is to be done at the end.
    pub fn finish(&self) {
        self.live.tidy();
        self.live.say_what_is_left();
    }

    /// Says what the agent listens to.
    pub fn set_listening_table(&self, listening_table: &[Listening]) {
        self.live.set_listening_table(listening_table);
    }
}

/// Whether the ring took the write.
fn push(ring: &AgentRing, write: &Write<'_>, data: &[u8]) -> bool {
    let producer = &ring.producer;
    let note = |sequence| journal::recording(RecordId { ring: ring.uuid(), sequence });
    let weight = Weight { bytes: data.len() as u64, time_ns: write.time_ns };
    DESCRIPTION.with_borrow_mut(|description| {
        description.clear();
        write.encode_into(description);
        if description.len() + data.len() <= producer.payload_max() {
            return producer.push_noted(Kind::Write, &[description, data], weight, &note).is_ok();
        }
        push_in_parts(producer, write, data, description.len(), &note)
    })
}

/// Puts a write that is longer than a record into as many as it takes, all or none.
fn push_in_parts(
    producer: &Producer,
    write: &Write<'_>,
    data: &[u8],
    description_len: usize,
    note: &impl Fn(u64),
) -> bool {
    let weight = Weight { bytes: data.len() as u64, time_ns: write.time_ns };
    let room = producer.payload_max().saturating_sub(description_len + PART_SLACK_BYTES);
    if room == 0 {
        producer.count_loss(LossReason::TooLarge, weight);
        return false;
    }
    let parts = u32::try_from(data.len().div_ceil(room)).unwrap_or(u32::MAX);
    let described: Vec<(Vec<u8>, &[u8])> = (0..parts)
        .zip(data.chunks(room))
        .map(|(part, chunk)| {
            let offset = write.offset + u64::from(part) * room as u64;
            let mut description = Vec::with_capacity(description_len + PART_SLACK_BYTES);
            Write { offset, part, parts, ..*write }.encode_into(&mut description);
            (description, chunk)
        })
        .collect();
    let lens: Vec<usize> =
        described.iter().map(|(description, chunk)| description.len() + chunk.len()).collect();
    let Ok(reservation) = producer.reserve(&lens, weight) else { return false };
    note(reservation.first_sequence());
    for (part, (description, chunk)) in described.iter().enumerate() {
        reservation.write(part, Kind::Write, &[description, chunk]);
    }
    reservation.commit();
    true
}
