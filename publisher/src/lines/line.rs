//! What is joined, what comes of it, and its limits.

use std::{sync::Arc, time::Duration};

use bywash_common::{config::Boundary, record::Write};

use crate::delivery::Stretch;

/// What an event may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which it is cut.
    pub bytes_max: usize,
    /// How long another write may still belong to it: after a line's first write, or, where an event has several lines, after
    /// its last one.
    pub wait: Duration,
    /// Which lines are one event, where several are.
    pub several: Option<Arc<Several>>,
}

/// Which lines are one event.
#[derive(Debug, PartialEq, Eq)]
pub struct Several {
    /// Which lines go on with the one before them.
    pub boundary: Boundary,
    /// The most lines.
    pub lines_max: usize,
}

/// One write as it was read from the ring.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its description.
    pub write: &'a Write<'a>,
    /// Its bytes, at least one.
    pub data: &'a [u8],
    /// Where the bytes begin that are not delivered; before its end.
    pub from: usize,
    /// Its number in the ring.
    pub sequence: u64,
}

/// A line, or as much of it as there will be in one event; or several that are one event.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a, T> {
    /// The write in which it begins; `offset` is that of the first byte.
    pub write: Write<'a>,
    /// The number of the record in which it begins.
    pub sequence: u64,
    /// Where in that record, and how many bytes that has.
    pub begin: usize,
    pub record_len: usize,
    /// Its bytes.
    pub message: &'a [u8],
    /// The ticket of the record in which it begins.
    pub ticket: T,
    /// Where it ends, if that is in another record.
    pub end: Option<End<T>>,
    /// For each further line of the event, the ticket of the record in which that begins: it was told of a message that will
    /// not be sent.
    pub joined: &'a [T],
}

impl<T> Line<'_, T> {
    /// Which bytes it is; none for all bytes of one record and no others.
    pub fn stretch(&self) -> Option<Stretch> {
        Stretch { begin: self.begin, len: self.message.len() }.unless_all_of(self.record_len)
    }
}

/// Where a line ends that was written in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<T> {
    /// The ticket of the last record that it is in.
    pub ticket: T,
    /// That record's number.
    pub sequence: u64,
    /// How many of that record's bytes belong to it.
    pub len: usize,
}
