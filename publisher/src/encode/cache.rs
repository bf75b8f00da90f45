//! What an event says of its file and writer, encoded once: most writes come from the same few.

use super::event::{WriteEvent, Writer};

/// Files and writers that are remembered. Each takes 30 KiB at most, with a path and a command at their longest.
const SLOTS: usize = 64;

/// A file and a writer of it, and what a format makes of them.
struct Slot<T> {
    path: Vec<u8>,
    writer: Option<Owner>,
    made: T,
}

/// A [`Writer`] that is kept.
struct Owner {
    pid: u32,
    uid: u32,
    gid: u32,
    user: String,
    group: String,
    command: Vec<u8>,
}

/// Remembers what was made of a file and a writer.
pub struct Cache<T> {
    slots: Box<[Option<Slot<T>>]>,
}

impl<T> Default for Cache<T> {
    /// A cache that remembers nothing.
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| None).collect() }
    }
}

impl<T> Cache<T> {
    /// What `make` makes, or made before, of the event's path and writer.
    pub fn get(&mut self, event: &WriteEvent<'_>, make: impl FnOnce() -> T) -> &T {
        let slot = &mut self.slots[place(event)];
        if !slot.as_ref().is_some_and(|slot| slot.is_of(event)) {
            *slot = None;
        }
        let new = || Slot { path: event.path.to_vec(), writer: event.writer.map(Owner::of), made: make() };
        &slot.get_or_insert_with(new).made
    }
}

/// Files of one directory differ at their ends, as numbered ones do.
fn place(event: &WriteEvent<'_>) -> usize {
    let last = event.path.last_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
    let pid = event.writer.map_or(0, |writer| u64::from(writer.pid));
    // Fibonacci hashing: the upper bits depend on all.
    let mixed = (last ^ pid << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize % SLOTS
}

impl<T> Slot<T> {
    fn is_of(&self, event: &WriteEvent<'_>) -> bool {
        let is_writer = match (&self.writer, &event.writer) {
            (Some(owner), Some(writer)) => owner.is(writer),
            (None, None) => true,
            _ => false,
        };
        is_writer && self.path == event.path
    }
}

impl Owner {
    fn of(writer: Writer<'_>) -> Self {
        let Writer { pid, uid, gid, user, group, command } = writer;
        Self { pid, uid, gid, user: user.to_owned(), group: group.to_owned(), command: command.to_vec() }
    }

    fn is(&self, writer: &Writer<'_>) -> bool {
        (self.pid, self.uid, self.gid) == (writer.pid, writer.uid, writer.gid)
            && self.user == writer.user
            && self.group == writer.group
            && self.command == writer.command
    }
}

#[cfg(test)]
mod tests {
    use bywash_common::config::{Config, Encoder, EventConfig};
    use proptest::prelude::*;

    use super::*;
    use crate::encode::encoder;

    const PATHS: [&[u8]; 3] = [b"/f", b"/log/\xff", b"/log/a.log"];
    const NAMES: [&str; 2] = ["root", "\"q\""];
    const COMMANDS: [&[u8]; 2] = [b"cat ", b"\xfe"];

    proptest! {
        /// Few enough that the same ones come back, and that slots are shared.
        #[test]
        fn what_is_remembered_is_what_would_be_made(
            choices in prop::collection::vec((0..3_usize, 0..2_usize, 0..2_usize, 0..3_u32, any::<bool>()), 1..50),
        ) {
            for format in [Encoder::LogstashBase64, Encoder::Logstash, Encoder::Ecs] {
                let config = EventConfig { encoder: format, ..Config::default().event };
                let mut remembering = encoder(&config);
                for (path, name, command, number, is_known) in &choices {
                    let (user, command) = (NAMES[*name], COMMANDS[*command]);
                    let writer = Writer { pid: *number, uid: *number, gid: 0, user, group: "g", command };
                    let event = WriteEvent {
                        path: PATHS[*path],
                        writer: is_known.then_some(writer),
                        unattributed: !is_known,
                        time_ns: 0,
                        offset: 0,
                        event_id: "u-1",
                        sequence: 1,
                        part: None,
                        piece: None,
                        message: b"m",
                    };
                    let (mut one, mut other) = (Vec::new(), Vec::new());
                    remembering.write(&event, &mut one);
                    encoder(&config).write(&event, &mut other);
                    prop_assert_eq!(one, other);
                }
            }
        }
    }
}
