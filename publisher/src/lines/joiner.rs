//! Lines out of writes, and events of several lines. Knows no ring, no configuration's file and no clock; see the room's
//! documentation for the rules.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bywash_common::record::Write;

use super::{
    line::{Limits, Line, Record},
    pending::{Held, Pending},
};

/// A write is stamped before it is in the ring. That long after the time in which it would have joined a line, with all
/// of the ring read, none that would is still to come.
pub const LATE: Duration = Duration::from_millis(100);
/// How many buffers of lines that were sent are kept for others.
const SPARE_MAX: usize = 64;
/// A buffer that has grown beyond this is not kept.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// Joins writes into events. `T` stands for a record's delivery; it grows from record to record.
pub struct Joiner<T> {
    /// By handle.
    held: HashMap<u64, Held<T>>,
    /// Handles by when what they hold began.
    by_age: BTreeMap<T, u64>,
    /// `until_ns` and handle of each.
    by_deadline: BTreeSet<(u64, u64)>,
    /// Nothing that is held is stale before.
    stale_at: Option<Instant>,
    /// When it was last asked for what is stale.
    asked: Option<Instant>,
    /// Where the lines in the current record end.
    cuts: Vec<usize>,
    spare: Vec<Pending<T>>,
}

impl<T: Copy + Ord> Joiner<T> {
    /// A joiner that holds nothing.
    pub fn new() -> Self {
        Self {
            held: HashMap::new(),
            by_age: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            stale_at: None,
            asked: None,
            cuts: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Whether nothing waits for more.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The delivery of the record in which the oldest of what is held begins.
    pub fn oldest(&self) -> Option<T> {
        self.by_age.first_key_value().map(|(ticket, _)| *ticket)
    }

    /// Takes a record: `open` is told how many lines begin in it and gives its ticket, then each event that has ended is
    /// sent.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn take<E>(
        &mut self,
        record: &Record<'_>,
        limits: &Limits,
        now: Instant,
        open: impl FnOnce(u32) -> T,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pass_time(record.write.time_ns, send)?;
        let handle = record.write.handle;
        let mut held = self.remove(handle).unwrap_or_else(|| Held::none(limits, now));
        if record.from > 0 || !held.is_before(record) {
            self.end(held, send)?;
            held = Held::none(limits, now);
        }
        let begun = held.line_bytes();
        let mut cuts = std::mem::take(&mut self.cuts);
        cut(record.data, record.from, begun, limits.bytes_max, &mut cuts);
        let rest_at = cuts.last().copied().unwrap_or(record.from);
        let pieces = cuts.len() + usize::from(rest_at < record.data.len());
        let ticket = open(u32::try_from(pieces - usize::from(begun > 0 && pieces > 0)).unwrap_or(u32::MAX));
        let mut begin = record.from;
        for end in &cuts {
            match held.line.take() {
                Some(mut line) => {
                    line.join(record, *end, ticket);
                    self.add(&mut held, &line.line(), send)?;
                    self.recycle(line);
                }
                None => self.add(&mut held, &line_within(record, begin, *end, ticket), send)?,
            }
            begin = *end;
        }
        self.cuts = cuts;
        // A line's time begins with it, that of several with each write.
        let mut is_renewed = limits.several.is_some();
        if rest_at < record.data.len() {
            match &mut held.line {
                Some(line) => line.join(record, record.data.len(), ticket),
                None => {
                    let rest = line_within(record, rest_at, record.data.len(), ticket);
                    held.line = Some(Pending::begin(&rest, self.spare.pop()));
                    is_renewed = true;
                }
            }
        }
        if is_renewed {
            let wait_ns = u64::try_from(limits.wait.as_nanos()).unwrap_or(u64::MAX);
            held.until_ns = record.write.time_ns.saturating_add(wait_ns);
            held.stale_at = now + limits.wait + LATE;
        }
        self.keep(handle, held);
        Ok(())
    }

    /// Takes a line that has ended: an event, or one of several that are.
    fn add<E>(
        &mut self,
        held: &mut Held<T>,
        line: &Line<'_, T>,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        if held.limits.several.is_none() {
            return send(line);
        }
        match held.add(line, || self.spare.pop()) {
            Some(event) => self.send(event, send),
            None => Ok(()),
        }
    }

    /// Sends all that is held of a handle as it is.
    fn end<E>(
        &mut self,
        mut held: Held<T>,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(line) = held.line.take() {
            self.add(&mut held, &line.line(), send)?;
            self.recycle(line);
        }
        match held.event.take() {
            Some(event) => self.send(event, send),
            None => Ok(()),
        }
    }

    fn send<E>(
        &mut self,
        event: Pending<T>,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        send(&event.line())?;
        self.recycle(event);
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
        let is_stale = |handle: &u64| self.held.get(handle).is_some_and(|held| held.stale_at <= then);
        let stale: Vec<u64> = self.by_age.values().copied().filter(is_stale).collect();
        for handle in stale {
            self.flush(handle, send)?;
        }
        self.stale_at = self.held.values().map(|held| held.stale_at).min();
        Ok(())
    }

    /// Sends the oldest of what is held as it is.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn flush_oldest<E>(&mut self, send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>) -> Result<(), E> {
        match self.by_age.first_key_value() {
            Some((_, handle)) => self.flush(*handle, send),
            None => Ok(()),
        }
    }

    /// Sends what is held of the handle as it is, if there is something.
    ///
    /// # Errors
    /// What `send` gives.
    pub fn flush<E>(
        &mut self,
        handle: u64,
        send: &mut impl FnMut(&Line<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.remove(handle) {
            Some(held) => self.end(held, send),
            None => Ok(()),
        }
    }

    fn remove(&mut self, handle: u64) -> Option<Held<T>> {
        let held = self.held.remove(&handle)?;
        if let Some(ticket) = held.ticket() {
            self.by_age.remove(&ticket);
        }
        self.by_deadline.remove(&(held.until_ns, handle));
        Some(held)
    }

    fn keep(&mut self, handle: u64, held: Held<T>) {
        let Some(ticket) = held.ticket() else { return };
        self.by_age.insert(ticket, handle);
        self.by_deadline.insert((held.until_ns, handle));
        self.stale_at = Some(self.stale_at.map_or(held.stale_at, |at| at.min(held.stale_at)));
        self.held.insert(handle, held);
    }

    fn recycle(&mut self, line: Pending<T>) {
        if self.spare.len() < SPARE_MAX && line.bytes.capacity() <= SPARE_BYTES_MAX {
            self.spare.push(line);
        }
    }
}

/// A line that begins and ends in one record.
fn line_within<'a, T>(record: &Record<'a>, begin: usize, end: usize, ticket: T) -> Line<'a, T> {
    let offset = record.write.offset.saturating_add(begin as u64);
    Line {
        write: Write { offset, part: 0, parts: 1, ..*record.write },
        sequence: record.sequence,
        begin,
        record_len: record.data.len(),
        message: &record.data[begin..end],
        ticket,
        end: None,
        joined: &[],
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
