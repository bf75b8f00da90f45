//! Where the next record comes from: the spool while that has it, the ring behind.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bywash_common::{
    ring::{Consumer, Entry, Follow, PublisherRing, ReadError},
    status::PublisherCounter,
};
use uuid::Uuid;

use crate::{
    rate::LogRate,
    spool::{Head, Item, Log, Mark, Reader, SpoolError},
};

/// At most one line about a disk that does not give what is in the spool in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A record; its payload is in the caller's buffer.
    Record(Entry),
    /// Records are missing in the spool.
    Gap {
        /// The number of the first of them.
        first_seq: u64,
        /// How many.
        records: u64,
        /// The position in front of them.
        end: u64,
    },
    /// There is nothing more at the moment.
    Nothing,
    /// What comes next waits in the spool, and is to be asked for again after this time (`publisher.recovery_bytes_per_second`).
    RateLimited(Duration),
    /// The disk does not give what comes next, which is whole as far as is known: it is to be asked again.
    Blocked,
    /// Nor will there be: the stream is one of a ring that is gone.
    End,
}

/// Reads one stream after the other: those of former rings, which only the spool has, then the ring's.
pub struct Source {
    head: Arc<Head>,
    spool: Option<Spool>,
    /// Streams of former rings that are to be read before the ring.
    old: VecDeque<Uuid>,
    /// Where in the stream that is read the last record ended.
    position: u64,
    /// The number of the next record, if it is known.
    next_seq: Option<u64>,
}

struct Spool {
    log: Arc<Mutex<Log>>,
    reader: Reader,
    log_rate: LogRate,
}

impl Spool {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&mut self, error: &SpoolError) {
        if let Some(others) = self.log_rate.pass() {
            tracing::error!("{error}: it is tried again, and what follows waits{others}");
        }
    }
}

impl Source {
    /// A source of what is not delivered, of the ring and of those before it.
    pub fn new(ring: &PublisherRing, head: Arc<Head>, log: Option<Arc<Mutex<Log>>>) -> Self {
        let position = ring.consumer.position();
        let mut source = Self { head, spool: None, old: VecDeque::new(), position, next_seq: None };
        let Some(log) = log else {
            // A publisher with a spool may have been killed.
            for counter in
                [PublisherCounter::DeliveredEnd, PublisherCounter::SpoolBytes, PublisherCounter::SpoolRecords]
            {
                ring.status.set(counter, 0);
            }
            return source;
        };
        {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            source.old = log.streams().into_iter().filter(|uuid| *uuid != ring.uuid).collect();
            resume(ring, &source.head, &mut log);
            if !log.is_empty() {
                let (records, bytes) = (log.records(), log.bytes());
                tracing::info!("the spool holds {records} records ({bytes} bytes), which are sent first");
            }
        }
        let (reader, log_rate) = (Reader::new(ring.uuid, None), LogRate::new(LOG_INTERVAL));
        source.spool = Some(Spool { log, reader, log_rate });
        source.begin();
        source
    }

    /// Turns to the first stream that is left.
    fn begin(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        let start = match self.old.front() {
            Some(old) => {
                let start = spool.log().delivered(*old).unwrap_or(Mark { uuid: *old, ..Mark::default() });
                self.head.deliver_old(Some(start));
                start
            }
            None => {
                self.head.deliver_old(None);
                self.head.delivered()
            }
        };
        (self.position, self.next_seq) = (start.end, start.known_seq());
        spool.reader = Reader::new(start.uuid, self.next_seq);
    }

    /// Turns to the ring that has taken this one's place. What is not delivered of this one is all in the spool, and is one
    /// more former ring's stream from now on.
    pub fn overtake(&mut self, ring: &PublisherRing, head: Arc<Head>) {
        let Some(spool) = &self.spool else { return };
        let (mark, ahead) = self.head.oldest();
        head.deliver_old(Some(mark));
        head.tell_ahead(mark.end, &ahead);
        resume(ring, &head, &mut spool.log());
        self.old.push_back(self.head.uuid());
        self.head = head;
    }

    /// The stream that is read.
    pub fn stream(&self) -> Uuid {
        self.old.front().copied().unwrap_or(self.head.uuid())
    }

    /// The position behind what was read last, in that stream.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The former ring whose stream is read, if it is one's.
    pub fn old_stream(&self) -> Option<Uuid> {
        self.old.front().copied()
    }

    /// Gives a former ring's stream up, all of which is delivered, and turns to the next. Gives whether that was possible:
    /// as long as the disk does not let it go, it is to be tried again.
    pub fn next_stream(&mut self) -> bool {
        if let (Some(done), Some(spool)) = (self.old.front(), &mut self.spool) {
            let forgotten = spool.log().forget(*done);
            if let Err(error) = forgotten {
                spool.say(&error);
                return false;
            }
        }
        self.old.pop_front();
        self.begin();
        true
    }

    /// Whether what comes next is in the spool.
    pub fn is_in_spool(&self) -> bool {
        self.spool.is_some() && (!self.old.is_empty() || self.head.spooled_end() > self.position)
    }

    /// What comes next. `follow` sees what comes out of the ring; what it has taken of a record that comes out of the spool
    /// is void.
    ///
    /// # Errors
    /// A [`ReadError`] if the ring's content is impossible.
    pub fn next(
        &mut self,
        ring: &mut Consumer,
        payload: &mut Vec<u8>,
        follow: &mut impl Follow,
    ) -> Result<Taken, ReadError> {
        if self.spool.is_none() {
            let Some(entry) = ring.next_followed(payload, follow)? else { return Ok(Taken::Nothing) };
            (self.position, self.next_seq) = (entry.end, Some(entry.seq.wrapping_add(1)));
            return Ok(Taken::Record(entry));
        }
        let is_old = !self.old.is_empty();
        loop {
            if is_old || self.head.spooled_end() > self.position {
                follow.begin();
                return Ok(self.next_spooled(payload, is_old));
            }
            if self.position < self.head.start() {
                // Another publisher has delivered what is between the spool's end and the head.
                (self.position, self.next_seq) = (self.head.start(), None);
            }
            if ring.position() < self.position {
                ring.seek(self.position, self.next_seq);
            }
            let read = ring.next_followed(payload, follow);
            if self.head.spooled_end() > self.position {
                // The agent may have written here since: the spool has it.
                continue;
            }
            let Some(entry) = read? else { return Ok(Taken::Nothing) };
            (self.position, self.next_seq) = (entry.end, Some(entry.seq.wrapping_add(1)));
            return Ok(Taken::Record(entry));
        }
    }

    fn next_spooled(&mut self, payload: &mut Vec<u8>, is_old: bool) -> Taken {
        let Some(spool) = &mut self.spool else { return Taken::Nothing };
        match spool.reader.next(&spool.log, self.position, self.next_seq, payload) {
            Err(error) => {
                spool.say(&error);
                Taken::Blocked
            }
            Ok(Some(Item::Record(entry))) => {
                (self.position, self.next_seq) = (entry.end, Some(entry.seq.wrapping_add(1)));
                Taken::Record(entry)
            }
            Ok(Some(Item::Gap { first_seq, records })) => {
                self.next_seq = Some(first_seq + records);
                Taken::Gap { first_seq, records, end: self.position }
            }
            Ok(None) => {
                let uuid = spool.reader.uuid();
                let spooled = if is_old { spool.log().spooled(uuid) } else { Some(self.head.spooled()) };
                let Some(missing) = spooled.filter(|spooled| spooled.end > self.position) else {
                    return Taken::End;
                };
                // What was there behind the last good record, or all of it.
                let first_seq = self.next_seq.unwrap_or(missing.next_seq);
                let end = self.position;
                (self.position, self.next_seq) = (missing.end, missing.known_seq());
                Taken::Gap { first_seq, records: missing.next_seq.saturating_sub(first_seq), end }
            }
        }
    }

    /// Turns to the position behind damage in the ring, and to the number that follows, if that is known.
    pub fn pass(&mut self, position: u64, next_seq: Option<u64>) {
        (self.position, self.next_seq) = (position, next_seq);
        if let Some(spool) = &mut self.spool {
            // What is missing there is announced.
            spool.reader = Reader::new(spool.reader.uuid(), next_seq);
        }
    }
}

/// Has the head know what the spool holds of its ring.
pub fn resume(ring: &PublisherRing, head: &Head, log: &mut Log) {
    let Some(spooled) = log.spooled(ring.uuid) else { return };
    let noted = log.delivered(ring.uuid).unwrap_or(Mark { uuid: ring.uuid, ..Mark::default() });
    let delivered = last_delivered(ring, noted);
    if delivered.end < spooled.end {
        head.resume(delivered);
        return head.spool(spooled);
    }
    // What cannot be removed now is once more of this ring is delivered.
    let is_oldest = log.streams().first().is_none_or(|first| *first == ring.uuid);
    if is_oldest && let Err(error) = log.deliver(delivered) {
        tracing::warn!("{error}: what is delivered of the spool stays there for now");
    }
}

/// How far the ring's stream is delivered: what the spool has noted is a moment old if the publisher was killed, and what
/// the ring says in memory is not. A publisher without the spool says nothing there: what it has delivered is behind the
/// spool's end.
fn last_delivered(ring: &PublisherRing, noted: Mark) -> Mark {
    let end = ring.status.snapshot()[PublisherCounter::DeliveredEnd as usize];
    if noted.end < end { Mark { end, next_seq: 0, ..noted } } else { noted }
}
