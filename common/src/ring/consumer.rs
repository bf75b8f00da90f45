//! The publisher's side: read what is visible, acknowledge what is delivered.
//!
//! Nothing that the segment says is believed: each value is taken once, checked, and used from the copy.

use std::time::Duration;

use crate::{
    fail_point::FailPoint,
    sync::{Arc, Ordering, fence},
};

use super::{
    entry::{DamagedRange, Entry, Skipped},
    kind::Kind,
    layout::{self, ALIGN, CHUNK, Checksum, RECORD_HEADER, RecordHeader},
    memory::Memory,
};

/// How long a consumer that has just read something looks away before it asks to be woken. Under load it then meets many
/// records at once, and no writer pays for waking it: the system call, and the start of a halted processor.
const NAP: Duration = Duration::from_micros(200);
/// The capacity in bytes from which on a ring holds what comes during a nap, at a gigabyte a second.
const NAP_CAPACITY_MIN: u64 = 1 << 20;

/// So many damaged records in a row are passed over one by one.
const DAMAGED_MAX: usize = 64;

/// Payloads of fewer bytes are fetched as fast without being asked for.
const CHUNKED_BYTES_MIN: usize = 512;
/// Payloads of more bytes are copied in one piece: the processor's own string copy, which fetches ahead itself, is then
/// faster than chunks (128 KiB: 7.7 us at once, 9.9 us by 16 KiB).
const CHUNKED_BYTES_MAX: usize = 16 << 10;
/// Bytes that are copied, and then checksummed, at a time.
const COPY_OUT_CHUNK: usize = 2 << 10;
/// So far ahead of what is copied the processor is asked to fetch: records of 4 KiB take 320 ns with it, 450 without.
const AHEAD_BYTES: u64 = 8 << 10;

/// What is wrong with the bytes at the read position.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The tail cannot be true.
    #[error("the tail {tail} does not fit the position {position} and the capacity {capacity}")]
    Tail {
        /// The tail as read.
        tail: u64,
        /// Where the reader is.
        position: u64,
        /// Bytes of the record area.
        capacity: u64,
    },
    /// The agent's side, or another process, has cut a segment short.
    #[error("a segment of the ring was cut short by another process")]
    Truncated,
    /// The length of a record or padding cannot be true.
    #[error("a record at position {position} says that it is {len} bytes long")]
    Length {
        /// Where the record begins.
        position: u64,
        /// What its header says.
        len: u32,
    },
    /// The kind of a record is none.
    #[error("the record at position {position} is of the unknown kind {kind}")]
    Kind {
        /// Where the record begins.
        position: u64,
        /// What its header says.
        kind: u8,
    },
    /// A record is not the one that is due.
    #[error("the record at position {position} has the sequence number {found} instead of {expected}")]
    Sequence {
        /// Where the record begins.
        position: u64,
        /// What its header says.
        found: u64,
        /// What is due.
        expected: u64,
    },
    /// The bytes are not those that were written.
    #[error("the record at position {position} has a wrong checksum")]
    Checksum {
        /// Where the record begins.
        position: u64,
    },
}

/// Whoever takes payloads as they come out of the ring, piece by piece, so that their bytes are read once.
pub trait Follow {
    /// So many bytes of a long payload come at a time.
    const PIECE_BYTES: usize;

    /// A record begins: what was taken of another is of no use any more.
    fn begin(&mut self);

    /// More of a write's payload has been appended to `payload`, and `left` bytes are still to come. What is taken away from
    /// `payload` is not in it when the record is given. Short payloads come without this being called.
    ///
    /// The bytes are a copy that nobody else writes to. Whether they are those that were put into the ring is not known before
    /// [`Consumer::next_followed`] gives the record; if it gives an error, they were not.
    fn came(&mut self, payload: &mut Vec<u8>, left: usize);
}

/// Nobody.
impl Follow for () {
    const PIECE_BYTES: usize = CHUNK;

    fn begin(&mut self) {}

    fn came(&mut self, _: &mut Vec<u8>, _: usize) {}
}

/// The reading end of a ring.
pub struct Consumer<M> {
    memory: Arc<M>,
    position: u64,
    /// The tail as last read: what lies in front of it need not be asked for again.
    tail: u64,
    /// The number that the next record must have; unknown until the first one was read.
    next_seq: Option<u64>,
    waits: u32,
    /// Something was read since the last wait.
    is_busy: bool,
}

/// The handle with which delivered records are given back to the agent; see [`Consumer::acker`].
pub struct Acker<M>(Arc<M>);

/// The number of the record at a position, where nothing was read before.
fn first_seq(position: u64) -> Option<u64> {
    (position == 0).then_some(0)
}

impl<M: Memory> Consumer<M> {
    /// Begins to read at the shared head: what was not acknowledged is read again.
    pub(crate) fn attach(memory: Arc<M>) -> Self {
        let position = memory.head().load(Ordering::Acquire);
        // A waiter's word that a killed consumer left odd would cost a wake-up; and a new wait must differ.
        let waits = (memory.waiter().load(Ordering::Relaxed) | 1).wrapping_add(1);
        memory.waiter().store(waits, Ordering::Relaxed);
        Self { memory, position, tail: position, next_seq: first_seq(position), waits, is_busy: false }
    }

    /// Begins to read at a position, and leaves no trace of that. It must never [`Self::wait`].
    pub(crate) fn look_from(memory: Arc<M>, position: u64) -> Self {
        Self { memory, position, tail: position, next_seq: None, waits: 0, is_busy: false }
    }

    /// Reads the next record's payload into `payload`, whatever that held, or gives none if all is read.
    ///
    /// # Errors
    /// A [`ReadError`] if the segment's content is impossible; nothing is consumed, see [`Self::skip_to_tail`].
    pub fn next(&mut self, payload: &mut Vec<u8>) -> Result<Option<Entry>, ReadError> {
        self.next_followed(payload, &mut ())
    }

    /// As [`Self::next`], and `follow` sees the payload of a write as it comes.
    ///
    /// # Errors
    /// As [`Self::next`] says.
    pub fn next_followed<F: Follow>(
        &mut self,
        payload: &mut Vec<u8>,
        follow: &mut F,
    ) -> Result<Option<Entry>, ReadError> {
        let capacity = self.memory.capacity();
        loop {
            if self.position == self.tail {
                // SYNC tail: pairs with the release store in `Producer::publish`.
                let tail = self.memory.data_word(layout::TAIL).load(Ordering::Acquire);
                if !self.memory.is_intact() {
                    return Err(ReadError::Truncated);
                }
                if !self.is_tail(tail) {
                    return Err(ReadError::Tail { tail, position: self.position, capacity });
                }
                if tail == self.position {
                    return Ok(None);
                }
                self.tail = tail;
                self.is_busy = true;
            }
            match self.take_record(payload, follow) {
                // Where memory is missing, zeros are read.
                Err(_) if !self.memory.is_intact() => return Err(ReadError::Truncated),
                Ok(None) => {}
                taken => return taken,
            }
        }
    }

    /// Whether a tail can be true.
    fn is_tail(&self, tail: u64) -> bool {
        let ahead = tail.checked_sub(self.position);
        tail.is_multiple_of(ALIGN) && ahead.is_some_and(|ahead| ahead <= self.memory.capacity())
    }

    /// Reads the record at the position, or passes a padding or discarded record and gives none.
    fn take_record<F: Follow>(
        &mut self,
        payload: &mut Vec<u8>,
        follow: &mut F,
    ) -> Result<Option<Entry>, ReadError> {
        let position = self.position;
        let capacity = self.memory.capacity();
        let offset = position % capacity;
        let available = (self.tail - position).min(capacity - offset);
        let mut bytes = [0; RECORD_HEADER as usize];
        let read = if available >= RECORD_HEADER {
            self.memory.read(offset, &mut bytes)
        } else {
            // A padding may be shorter than a header; the rest then stays zero, and is not looked at.
            self.memory.read(offset, &mut bytes[..usize::try_from(available).unwrap_or(0)])
        };
        read.map_err(|_| ReadError::Length { position, len: 0 })?;
        let header = RecordHeader::decode(&bytes);
        let bad_len = ReadError::Length { position, len: header.len };
        let len = u64::from(header.len);
        if header.kind == Kind::PADDING {
            if len != capacity - offset || len > available {
                return Err(bad_len);
            }
            self.position += len;
            return Ok(None);
        }
        if len < RECORD_HEADER
            || len.next_multiple_of(ALIGN) > available
            || len > self.memory.record_len_max()
        {
            return Err(bad_len);
        }
        let kind = Kind::from_byte(header.kind).ok_or(ReadError::Kind { position, kind: header.kind })?;
        if let Some(expected) = self.next_seq.filter(|seq| *seq != header.seq) {
            return Err(ReadError::Sequence { position, found: header.seq, expected });
        }
        payload.clear();
        follow.begin();
        let mut crc = header.mark();
        if kind != Kind::Discarded {
            let payload_len = usize::try_from(len - RECORD_HEADER).map_err(|_| bad_len.clone())?;
            let readable = available - RECORD_HEADER;
            let from = offset + RECORD_HEADER;
            let sum = match kind {
                Kind::Write => self.copy_out(from, payload_len, readable, payload, follow),
                _ => self.copy_out(from, payload_len, readable, payload, &mut ()),
            };
            crc ^= sum.ok_or(bad_len)?;
        }
        if !self.memory.is_intact() {
            return Err(ReadError::Truncated);
        }
        if crc != header.crc {
            return Err(ReadError::Checksum { position });
        }
        self.position += len.next_multiple_of(ALIGN);
        self.next_seq = Some(header.seq.wrapping_add(1));
        FailPoint::RecordRead.reach();
        Ok(Some(Entry { kind, seq: header.seq, end: self.position }))
    }

    /// Copies a payload out; gives the checksum of the copy, or none if it does not lie in the record area. `readable` bytes
    /// from `from` on are committed: the next records' are fetched while the checksum is made, and no others, whose
    /// places are being written.
    fn copy_out<F: Follow>(
        &self,
        from: u64,
        len: usize,
        readable: u64,
        payload: &mut Vec<u8>,
        follow: &mut F,
    ) -> Option<u32> {
        if len < CHUNKED_BYTES_MIN {
            self.memory.read_append(from, len, payload).ok()?;
            return Some(layout::checksum(payload));
        }
        let piece = if len > CHUNKED_BYTES_MAX { F::PIECE_BYTES } else { COPY_OUT_CHUNK };
        // What is copied in one piece is fetched ahead by the processor itself.
        let is_fetched = piece < CHUNK;
        payload.reserve(len);
        let mut checksum = Checksum::new();
        let mut done = 0;
        while done < len {
            let chunk = piece.min(len - done);
            let ahead = done as u64 + AHEAD_BYTES;
            if is_fetched && ahead + chunk as u64 <= readable {
                self.memory.will_read(from + ahead, chunk);
            }
            let kept = payload.len();
            self.memory.read_append(from + done as u64, chunk, payload).ok()?;
            checksum.update(payload.get(kept..)?);
            done += chunk;
            follow.came(payload, len - done);
        }
        Some(checksum.finish())
    }

    /// Gives up on what lies before the tail as it is now, after a [`ReadError`]: reading goes on with the
    /// record that is written next. Returns the bytes that were passed over: none where the tail itself is damaged, which says
    /// nothing of where records are.
    pub fn skip_to_tail(&mut self) -> u64 {
        let tail = self.memory.data_word(layout::TAIL).load(Ordering::Acquire);
        let tail = if self.is_tail(tail) { tail } else { self.tail };
        let skipped = tail - self.position;
        self.position = tail;
        self.tail = tail;
        self.next_seq = None;
        skipped
    }

    /// Gives up on what is damaged at the position, after a [`ReadError`]. That is one record if its header is as it must be but
    /// for the checksum, and headers lead from it to a record that is whole and has the number that follows, or to the tail:
    /// reading goes on behind it. Otherwise it is everything before the tail, see [`Self::skip_to_tail`]: nothing else says
    /// where records begin. To look for a place where a checksum holds would find records that somebody has written into a file.
    pub fn skip_damage(&mut self) -> Skipped {
        let damaged = self.plausible_header().filter(|header| self.is_followed(header));
        let Some(RecordHeader { len, kind, seq, .. }) = damaged else {
            return Skipped::Range(self.skip_range());
        };
        let kind = Kind::from_byte(kind).unwrap_or(Kind::Write);
        let end = self.position + u64::from(len).next_multiple_of(ALIGN);
        self.seek(end, Some(seq.wrapping_add(1)));
        Skipped::Record(Entry { kind, seq, end })
    }

    fn skip_range(&mut self) -> DamagedRange {
        let first_seq = self.next_seq;
        let bytes = self.skip_to_tail();
        // More records than there was room for were not there.
        let (first, room) = first_seq.map_or((0, self.tail), |first| (first, bytes));
        let is_possible = |seq: &u64| (first..=first + room / RECORD_HEADER).contains(seq);
        DamagedRange { bytes, first_seq, seq_behind: self.seq_behind_tail().filter(is_possible) }
    }

    /// The number of the record that the agent writes behind the tail, as this was read last, unless the tail has moved since.
    fn seq_behind_tail(&self) -> Option<u64> {
        let word = |at| self.memory.data_word(at).load(Ordering::Acquire);
        let slot = |i| layout::COMMIT_SLOTS + i * layout::COMMIT_SLOT_LEN;
        let at = (0..2).map(slot).find(|at| word(*at) == self.tail)?;
        // SYNC commit slot: before the slot is written to again the tail has moved.
        let seq = word(at + 8);
        (word(layout::TAIL) == self.tail).then_some(seq)
    }

    /// Whether what follows a damaged record shows that it ends where its header says, and has the number that that says.
    fn is_followed(&self, header: &RecordHeader) -> bool {
        let mut follower =
            Self { tail: self.tail, ..Self::look_from(Arc::clone(&self.memory), self.position) };
        let (mut damaged, mut payload) = (*header, Vec::new());
        for _ in 0..DAMAGED_MAX {
            follower.position += u64::from(damaged.len).next_multiple_of(ALIGN);
            follower.next_seq = Some(damaged.seq.wrapping_add(1));
            let next = loop {
                if follower.position == follower.tail {
                    // It is the last one, and ends where the tail says so; its number is right if it was expected, or the
                    // agent says so.
                    let behind = follower.next_seq;
                    return self.next_seq.is_some()
                        || behind.is_some() && follower.seq_behind_tail() == behind;
                }
                match follower.take_record(&mut payload, &mut ()) {
                    Ok(Some(_)) => return true,
                    // A padding comes between.
                    Ok(None) => {}
                    Err(_) => break follower.plausible_header(),
                }
            };
            match next {
                Some(header) => damaged = header,
                None => return false,
            }
        }
        false
    }

    /// The header at the position, if only its checksum is wrong.
    fn plausible_header(&self) -> Option<RecordHeader> {
        let capacity = self.memory.capacity();
        let offset = self.position % capacity;
        let available = self.tail.checked_sub(self.position)?.min(capacity - offset);
        if available < RECORD_HEADER {
            return None;
        }
        let mut bytes = [0; RECORD_HEADER as usize];
        self.memory.read(offset, &mut bytes).ok()?;
        let header = RecordHeader::decode(&bytes);
        let len = u64::from(header.len);
        let fits = len >= RECORD_HEADER
            && len.next_multiple_of(ALIGN) <= available
            && len <= self.memory.record_len_max();
        let is_due = self.next_seq.is_none_or(|seq| seq == header.seq);
        (fits && is_due && Kind::from_byte(header.kind).is_some()).then_some(header)
    }

    /// Turns to another position, the end of a record. Nothing between the shared head and the tail is lost by that.
    /// `next_seq` is the number that the next record must have, if that is known.
    pub fn seek(&mut self, position: u64, next_seq: Option<u64>) {
        self.position = position;
        self.tail = position;
        self.next_seq = next_seq;
    }

    /// Another reader of the same ring, from the shared head on. It must never [`Self::wait`]: there is one waiter.
    pub fn another(&self) -> Self {
        let memory = Arc::clone(&self.memory);
        let position = memory.head().load(Ordering::Acquire);
        let next_seq = first_seq(position);
        Self { memory, position, tail: position, next_seq, waits: self.waits, is_busy: false }
    }

    /// Sleeps until there may be something to read, at most for `timeout`. Call it once [`Self::next`] has
    /// given none. Right after something was read it is a nap of 200 us, which nothing ends sooner.
    pub fn wait(&mut self, timeout: Duration) {
        let is_busy = std::mem::take(&mut self.is_busy);
        if cfg!(not(loom)) && is_busy && self.memory.capacity() >= NAP_CAPACITY_MIN {
            return std::thread::sleep(NAP.min(timeout));
        }
        let waiter = self.memory.waiter();
        let waiting = self.waits | 1;
        waiter.store(waiting, Ordering::Relaxed);
        // SYNC sleep: pairs with the fence in `Producer::wake_consumer`.
        fence(Ordering::SeqCst);
        if self.memory.data_word(layout::TAIL).load(Ordering::Relaxed) == self.position {
            self.memory.wait(waiting, timeout);
        }
        self.waits = waiting.wrapping_add(1);
        waiter.store(self.waits, Ordering::Relaxed);
    }

    /// Where the next record will be read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// A handle that can move the shared head from another thread.
    pub fn acker(&self) -> Acker<M> {
        Acker(Arc::clone(&self.memory))
    }
}

impl<M: Memory> Acker<M> {
    /// Gives everything up to `end` (an [`Entry::end`]) back to the agent. Never call it with less than before.
    pub fn ack(&self, end: u64) {
        // SYNC consumer-head: pairs with the acquire load in `Producer::refresh_head`.
        FailPoint::DeliveryReported.reach();
        self.0.head().store(end, Ordering::Release);
        FailPoint::HeadMoved.reach();
    }
}
