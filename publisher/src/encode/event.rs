//! What an event is, whatever it is encoded as: a record of the ring, with its names resolved.

use bywash_common::record::{LossReason, Origin, Write};

/// Who wrote. A store through a shared mapping does not say, nor does a FIFO.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The process.
    pub pid: u32,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The user's name, or its number as text where it has none.
    pub user: &'a str,
    /// The group's name, or its number as text where it has none.
    pub group: &'a str,
    /// The arguments, each followed by a space.
    pub command: &'a [u8],
}

impl<'a> Writer<'a> {
    /// Who `write` is by, with the names of its user and group.
    pub fn of(write: &Write<'a>, user: &'a str, group: &'a str) -> Self {
        Self { pid: write.pid, uid: write.uid, gid: write.gid, user, group, command: write.command }
    }
}

/// One of several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which one, from 0.
    pub index: u32,
    /// How many there are; 0 where that is not known yet.
    pub count: u32,
}

/// A captured write, or a part of one.
///
/// A write too large for one message becomes several events, told apart by `part`. Where the agent had to split it
/// too, its parts are records of their own: then `part` is the agent's, and `piece` tells the events of one such record
/// apart. `event_id` is unique in any case.
#[derive(Clone, Copy, Debug)]
pub struct WriteEvent<'a> {
    /// The absolute path that the writer saw, any bytes.
    pub path: &'a [u8],
    /// Who wrote, if known.
    pub writer: Option<Writer<'a>>,
    /// The kernel wrote a shared mapping's pages back: nobody knows who stored into them.
    pub unattributed: bool,
    /// When, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// Where in the file `message` begins.
    pub offset: u64,
    /// The same whenever this event is sent.
    pub event_id: &'a str,
    /// The record's number in the ring.
    pub sequence: u64,
    /// Which part of the write this is, if it was split.
    pub part: Option<Part>,
    /// Which piece of the agent's part this is, if that had to be split again.
    pub piece: Option<Part>,
    /// The bytes that were written.
    pub message: &'a [u8],
}

impl<'a> WriteEvent<'a> {
    /// Of a record with its number in the ring, and of `message`, which is all of its bytes that this event is about.
    pub fn of(
        write: &Write<'a>,
        writer: Option<Writer<'a>>,
        (event_id, sequence): (&'a str, u64),
        message: &'a [u8],
    ) -> Self {
        let agent_part = Part { index: write.part, count: write.parts };
        Self {
            path: write.path,
            writer,
            unattributed: write.origin == Origin::Mapping,
            time_ns: write.time_ns,
            offset: write.offset,
            event_id,
            sequence,
            part: (write.parts != 1).then_some(agent_part),
            piece: None,
            message,
        }
    }
}

/// Writes that will not arrive.
#[derive(Clone, Copy, Debug)]
pub struct LossEvent<'a> {
    /// Why: a [`bywash_common::record::LossReason`]'s name, `corrupt`, `undeliverable` or `discarded_by_operator`.
    pub reason: &'a str,
    /// The file that it is about, where it is about one.
    pub path: Option<&'a [u8]>,
    /// How many writes; 0 where nobody can tell.
    pub events: u64,
    /// How many bytes.
    pub bytes: u64,
    /// When the first was written, in nanoseconds since the epoch.
    pub first_ns: u64,
    /// When the last was written, in nanoseconds since the epoch.
    pub last_ns: u64,
    /// The same whenever this event is sent.
    pub event_id: &'a str,
    /// The number of the record that says so, or that cannot be delivered.
    pub sequence: Option<u64>,
}

impl LossEvent<'_> {
    /// Whether a quota withholds them, as the operator wants it: they are no loss, and are not called so.
    pub fn is_withheld(&self) -> bool {
        self.reason == LossReason::Quota.name()
    }

    /// What a person is told.
    pub fn sentence(&self) -> String {
        let why = match self.reason {
            "ring_full" => "the ring was full",
            "too_large" => "they are larger than the ring takes",
            "discarded" => "the agent failed while it copied them",
            "ring_gone" => "the ring that held them was cut short, damaged or removed",
            "corrupt" => "the ring's content was damaged",
            "quota" => "faster than the quota of their file",
            "undeliverable" => "the sink refuses them for good",
            "too_old" => "they were older than publisher.age_max when they would have been sent",
            "discarded_by_operator" => "an operator discarded them (publisher discard)",
            other => other,
        };
        let of = self.path.map_or(String::new(), |path| format!(" to {}", String::from_utf8_lossy(path)));
        match self.events {
            0 => format!("an unknown number of writes ({} bytes in the ring) was lost: {why}", self.bytes),
            events => {
                let fate = if self.is_withheld() { "withheld" } else { "lost" };
                format!("{events} writes ({} bytes){of} were {fate}: {why}", self.bytes)
            }
        }
    }
}
