//! Lines out of writes. Knows no ring, no configuration and no clock; see the room's documentation for the rules.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bywash_common::record::Write;

use crate::delivery::Stretch;

/// A write is stamped before it is in the ring. That long after the time in which it would have joined a line, with all
/// of the ring read, none that would is still to come.
pub const LATE: Duration = Duration::from_millis(100);
/// How many buffers of lines that were sent are kept for others.
const SPARE_MAX: usize = 64;
/// A buffer that has grown beyond this is not kept.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// What a line may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which a line is cut.
    pub bytes_max: usize,
    /// How long after a line's first write another may still belong to it.
    pub wait: Duration,
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

/// A line, or as much of it as there will be in one event.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a, T> {
    /// The write in which it begins; `offset` is that of the line's first byte.
    pub write: Write<'a>,
    /// The number of the record in which it begins.
    pub sequence: u64,
    /// Which bytes it is; none for all bytes of one record and no others.
    pub stretch: Option<Stretch>,
    /// Its bytes.
    pub message: &'a [u8],
    /// The ticket of the record in which it begins.
    pub ticket: T,
    /// Where it ends, if that is in another record.
    pub end: Option<End<T>>,
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

/// A line that has no end yet.
struct Pending<T> {
    /// Path and command of the write in which it begins.
    path: Vec<u8>,
    command: Vec<u8>,
    /// The rest of that write's description: its texts are empty.
    write: Write<'static>,
    sequence: u64,
    /// Where in that write it begins, and how many bytes that write has.
    begin: usize,
    record_len: usize,
    bytes: Vec<u8>,
    ticket: T,
    end: Option<End<T>>,
    /// The last moment, in the writers' time, at which another write may join.
    until_ns: u64,
    /// From when on nothing can join any more if the ring has been read to its end.
    stale_at: Instant,
}

impl<T: Copy> Pending<T> {
    fn is_continued_by(&self, record: &Record<'_>, limits: Limits) -> bool {
        self.path == record.write.path
            && self.write.offset.checked_add(self.bytes.len() as u64) == Some(record.write.offset)
            && self.bytes.len() < limits.bytes_max
    }

    fn line(&self) -> Line<'_, T> {
        let stretch = Stretch { begin: self.begin, len: self.bytes.len() };
        Line {
            write: Write { path: &self.path, command: &self.command, ..self.write },
            sequence: self.sequence,
            stretch: stretch.unless_all_of(self.record_len),
            message: &self.bytes,
            ticket: self.ticket,
            end: self.end,
        }
    }

    /// Takes the first `len` bytes of a record.
    fn join(&mut self, record: &Record<'_>, len: usize, ticket: T) {
        self.bytes.extend_from_slice(&record.data[..len]);
        self.end = Some(End { ticket, sequence: record.sequence, len });
    }
}

/// Joins writes into lines. `T` stands for a record's delivery; it grows from record to record.
pub struct Joiner<T> {
    /// By handle.
    pending: HashMap<u64, Pending<T>>,
    /// Handles by when their lines began.
    by_age: BTreeMap<T, u64>,
    /// `until_ns` and handle of each.
    by_deadline: BTreeSet<(u64, u64)>,
    /// No pending line is stale before.
    stale_at: Option<Instant>,
    /// When it was last asked for what is stale.
    asked: Option<Instant>,
    /// Where the lines in the current record end.
    cuts: Vec<usize>,
    spare: Vec<Pending<T>>,
}

impl<T: Copy + Ord> Joiner<T> {
    /// A joiner without pending lines.
    pub fn new() -> Self {
        Self {
            pending: HashMap::new(),
            by_age: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            stale_at: None,
            asked: None,
            cuts: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Whether no line waits for its end.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The delivery of the record in which the oldest pending line begins.
    pub fn oldest(&self) -> Option<T> {
        self.by_age.first_key_value().map(|(ticket, _)| *ticket)
    }

    /// Takes a record: `open` is told how many lines begin in it and gives its ticket, then each line that has ended is
    /// sent.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn take<E>(
        &mut self,
        record: &Record<'_>,
        limits: Limits,
        now: Instant,
        open: impl FnOnce(u32) -> T,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pass_time(record.write.time_ns, send)?;
        let handle = record.write.handle;
        let pending = self.pending.get(&handle).filter(|_| record.from == 0);
        let held =
            pending.filter(|line| line.is_continued_by(record, limits)).map_or(0, |line| line.bytes.len());
        if held == 0 {
            self.flush(handle, send)?;
        }
        let mut cuts = std::mem::take(&mut self.cuts);
        cut(record.data, record.from, held, limits.bytes_max, &mut cuts);
        let rest_at = cuts.last().copied().unwrap_or(record.from);
        let pieces = cuts.len() + usize::from(rest_at < record.data.len());
        let begun = pieces - usize::from(held > 0 && pieces > 0);
        let ticket = open(u32::try_from(begun).unwrap_or(u32::MAX));
        let mut begin = record.from;
        for end in &cuts {
            match self.remove(handle) {
                Some(mut line) => {
                    line.join(record, *end, ticket);
                    send(&line.line())?;
                    self.recycle(line);
                }
                None => send(&line_within(record, begin, *end, ticket))?,
            }
            begin = *end;
        }
        self.cuts = cuts;
        if rest_at < record.data.len() {
            self.keep(record, rest_at, limits, now, ticket);
        }
        Ok(())
    }

    /// Sends what nothing stamped `time_ns` or later may join.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn pass_time<E>(
        &mut self,
        time_ns: u64,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(&(until_ns, handle)) = self.by_deadline.first()
            && until_ns < time_ns
        {
            self.flush(handle, send)?;
        }
        Ok(())
    }

    /// Sends what has waited long enough. To be called when the ring has been read to its end, each time after another look
    /// at it: what was stale at the last call has then been waited for in vain, however long this process did not look.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn flush_stale<E>(
        &mut self,
        now: Instant,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(then) = self.asked.replace(now) else { return Ok(()) };
        if self.stale_at.is_none_or(|at| at > then) {
            return Ok(());
        }
        let is_stale = |handle: &u64| self.pending.get(handle).is_some_and(|line| line.stale_at <= then);
        let stale: Vec<u64> = self.by_age.values().copied().filter(is_stale).collect();
        for handle in stale {
            self.flush(handle, send)?;
        }
        self.stale_at = self.pending.values().map(|line| line.stale_at).min();
        Ok(())
    }

    /// Sends the oldest pending line as it is.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn flush_oldest<E>(&mut self, send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>) -> Result<(), E> {
        match self.by_age.first_key_value() {
            Some((_, handle)) => self.flush(*handle, send),
            None => Ok(()),
        }
    }

    /// Sends the handle's pending line as it is, if there is one.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn flush<E>(
        &mut self,
        handle: u64,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(line) = self.remove(handle) else { return Ok(()) };
        send(&line.line())?;
        self.recycle(line);
        Ok(())
    }

    fn remove(&mut self, handle: u64) -> Option<Pending<T>> {
        let line = self.pending.remove(&handle)?;
        self.by_age.remove(&line.ticket);
        self.by_deadline.remove(&(line.until_ns, handle));
        Some(line)
    }

    /// Keeps the record's bytes from `begin` on, behind those that they continue.
    fn keep(&mut self, record: &Record<'_>, begin: usize, limits: Limits, now: Instant, ticket: T) {
        let handle = record.write.handle;
        if let Some(line) = self.pending.get_mut(&handle) {
            return line.join(record, record.data.len(), ticket);
        }
        let rest = &record.data[begin..];
        let wait_ns = u64::try_from(limits.wait.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = record.write.time_ns.saturating_add(wait_ns);
        let stale_at = now + limits.wait + LATE;
        let (mut path, mut command, mut bytes) = match self.spare.pop() {
            Some(spare) => (spare.path, spare.command, spare.bytes),
            None => (Vec::new(), Vec::new(), Vec::new()),
        };
        for (buffer, content) in
            [(&mut path, record.write.path), (&mut command, record.write.command), (&mut bytes, rest)]
        {
            buffer.clear();
            buffer.extend_from_slice(content);
        }
        let Write { pid, uid, gid, time_ns, origin, .. } = *record.write;
        let offset = record.write.offset.saturating_add(begin as u64);
        let write = Write {
            path: &[],
            pid,
            uid,
            gid,
            time_ns,
            command: &[],
            offset,
            handle,
            origin,
            part: 0,
            parts: 1,
        };
        self.by_age.insert(ticket, handle);
        self.by_deadline.insert((until_ns, handle));
        self.stale_at = Some(self.stale_at.map_or(stale_at, |at| at.min(stale_at)));
        let line = Pending {
            path,
            command,
            write,
            sequence: record.sequence,
            begin,
            record_len: record.data.len(),
            bytes,
            ticket,
            end: None,
            until_ns,
            stale_at,
        };
        self.pending.insert(handle, line);
    }

    fn recycle(&mut self, line: Pending<T>) {
        if self.spare.len() < SPARE_MAX && line.bytes.capacity() <= SPARE_BYTES_MAX {
            self.spare.push(line);
        }
    }
}

/// A line that begins and ends in one record.
fn line_within<'a, T>(record: &Record<'a>, begin: usize, end: usize, ticket: T) -> Line<'a, T> {
    let message = &record.data[begin..end];
    let offset = record.write.offset.saturating_add(begin as u64);
    Line {
        write: Write { offset, part: 0, parts: 1, ..*record.write },
        sequence: record.sequence,
        stretch: Stretch { begin, len: message.len() }.unless_all_of(record.data.len()),
        message,
        ticket,
        end: None,
    }
}

/// Where the lines in `data` from `begin` on end, the first of which has `held` bytes already: behind each newline, and
/// where a line has `bytes_max` bytes.
fn cut(data: &[u8], mut begin: usize, mut held: usize, bytes_max: usize, cuts: &mut Vec<usize>) {
    cuts.clear();
    loop {
        let room = bytes_max.saturating_sub(held).max(1);
        let window = &data[begin..data.len().min(begin + room)];
        match memchr::memchr(b'\n', window) {
            Some(at) => begin += at + 1,
            None if window.len() == room => begin += room,
            None => return,
        }
        cuts.push(begin);
        held = 0;
    }
}
