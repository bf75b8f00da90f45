//! The directory of segments: what is in it, appending, and removing what is delivered.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bywash_common::{
    clock::now_ns,
    config::{Fsync, SpoolConfig},
    fail_point::FailPoint,
    ring::SelectiveAck,
    units::ByteSize,
};
use uuid::Uuid;

use crate::{
    disk::{self, Access, Disk, Open, Stored, SystemDisk},
    faults::Fault,
    state_dir::StateDir,
};

use super::{
    error::{SpoolError, io_error},
    find::{self, DAMAGED, Last, Segment},
    positions::{self, Mark, Marks, Positions},
    segment::{self, HEADER_BYTES, Header},
    selective_acks::SelectiveAckFile,
};

/// The file that holds the ring's name.
const RING: &str = "ring";

/// Records that are appended together.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    range: Option<(u64, u64, u64)>,
}

impl Batch {
    /// Adds a record.
    pub fn push(&mut self, record: &segment::Record<'_>) {
        segment::push(record, &mut self.bytes);
        let first = self.range.map_or(record.seq, |(first, ..)| first);
        self.range = Some((first, record.seq, record.end));
    }

    /// Bytes that it will take.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The number of the first record.
    pub fn first_seq(&self) -> Option<u64> {
        self.range.map(|(first, ..)| first)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.range = None;
    }

    /// The mark behind the last record, if there is one.
    pub fn mark(&self, uuid: Uuid) -> Option<Mark> {
        self.range.map(|(_, last, end)| Mark { uuid, end, next_seq: last.wrapping_add(1) })
    }
}

/// The segments of a spool, oldest first.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Of files that are made.
    access: Access,
    size_max: u64,
    segment_bytes: u64,
    fsync: Fsync,
    segments: VecDeque<Segment>,
    /// Bytes of damaged files that are kept aside.
    aside_bytes: u64,
    /// The last segment, if this process has begun it and may go on with it.
    active: Option<Box<dyn Stored>>,
    positions: Positions,
    ahead: SelectiveAckFile,
    next_number: u64,
    /// Locks the directory, where that is a real one.
    _state: Option<StateDir>,
}

impl Log {
    /// Opens the spool of the ring `ring`, and makes it if need be, at the `tries`-th try. Damage is said in the log.
    ///
    /// # Errors
    /// A [`SpoolError`] if it cannot be used.
    pub fn open(
        dir: &Path,
        config: &SpoolConfig,
        ring: &str,
        group: Option<&str>,
        tries: u32,
    ) -> Result<Self, SpoolError> {
        let state = StateDir::open("spool.dir", dir, group)?;
        let access = Access { mode: state.file_mode(), owner: None, group: state.group };
        let log = Self::open_on(Arc::new(SystemDisk), &state.path, access, config, ring, tries)?;
        Ok(Self { _state: Some(state), ..log })
    }

    /// Opens the spool in a directory of a disk, which nobody else uses.
    ///
    /// # Errors
    /// A [`SpoolError`] if it cannot be used.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        access: Access,
        config: &SpoolConfig,
        ring: &str,
        tries: u32,
    ) -> Result<Self, SpoolError> {
        let at = dir.join(positions::FILE);
        let positions = Positions::open(&*disk, &at, access).map_err(io_error("open", &at))?;
        let at = dir.join("ahead");
        let ahead = SelectiveAckFile::open(&*disk, &at, access).map_err(io_error("open", &at))?;
        let found = find::segments(&*disk, dir, access, &positions.marks(), tries)?;
        let log = Self {
            disk,
            dir: dir.to_owned(),
            access,
            size_max: config.size_max.0,
            segment_bytes: config.segment_size.0,
            fsync: config.fsync,
            segments: found.segments,
            aside_bytes: found.aside_bytes,
            active: None,
            positions,
            ahead,
            next_number: found.next_number,
            _state: None,
        };
        log.claim(ring)?;
        Ok(log)
    }

    /// Whether there are segments in a directory, as far as the system says.
    pub fn holds_any(dir: &Path) -> bool {
        match find::names(&SystemDisk, dir) {
            Ok(names) => !names.is_empty(),
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied),
        }
    }

    /// Makes it the spool of the ring, unless it holds another ring's records.
    fn claim(&self, ring: &str) -> Result<(), SpoolError> {
        let path = self.dir.join(RING);
        let found = match self.disk.open(&path, Open::Read).and_then(|file| disk::read_all(&*file)) {
            Ok(name) => String::from_utf8_lossy(&name).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        if found == ring {
            return Ok(());
        }
        if !self.segments.is_empty() && !found.is_empty() {
            let (path, wanted) = (self.dir.clone(), ring.to_owned());
            return Err(SpoolError::Foreign { path, found, wanted });
        }
        disk::replace(&*self.disk, &path, ring.as_bytes(), self.access, || {})
            .map_err(io_error("write", &path))
    }

    /// The disk that it is on.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Whether it takes records at all (`spool.size_max` is not 0).
    pub fn takes_records(&self) -> bool {
        self.size_max > 0
    }

    fn path(&self, number: u64) -> PathBuf {
        find::path(&self.dir, number)
    }

    /// The rings whose records are in the spool, or were and are lost, oldest first.
    pub fn streams(&self) -> Vec<Uuid> {
        let mut streams: Vec<Uuid> = self.segments.iter().map(|segment| segment.uuid).collect();
        streams.dedup();
        let Marks { delivered, spooled } = self.positions.marks();
        let is_behind = spooled.uuid != delivered.uuid || spooled.end > delivered.end;
        if !spooled.uuid.is_nil() && is_behind && !streams.contains(&spooled.uuid) {
            streams.push(spooled.uuid);
        }
        streams
    }

    /// Where the spool's records of a stream end. What is missing before it is lost.
    pub fn spooled(&self, uuid: Uuid) -> Option<Mark> {
        let last = self.segments.iter().rfind(|segment| segment.uuid == uuid);
        let last = last.and_then(|segment| segment.last);
        let last = last.map(|Last { seq, end }| Mark { uuid, end, next_seq: seq.wrapping_add(1) });
        let said = Some(self.positions.marks().spooled).filter(|mark| mark.uuid == uuid);
        last.into_iter().chain(said).max_by_key(|mark| mark.end)
    }

    /// What of a stream's records behind the delivered mark is delivered.
    pub fn ahead(&mut self, uuid: Uuid) -> Vec<SelectiveAck> {
        match self.delivered(uuid) {
            Some(mark) => self.ahead.of(uuid, mark.end).to_vec(),
            None => Vec::new(),
        }
    }

    /// Notes what of the records behind a mark is delivered. To be called before [`Self::deliver`] with that mark.
    ///
    /// # Errors
    /// A [`SpoolError`]; what is not noted costs no more than a second delivery.
    pub fn note_ahead(&mut self, mark: Mark, ahead: &[SelectiveAck]) -> Result<(), SpoolError> {
        self.ahead.write(mark.uuid, mark.end, ahead).map_err(io_error("write to", &self.dir))
    }

    /// Up to where a stream is known to be delivered.
    pub fn delivered(&self, uuid: Uuid) -> Option<Mark> {
        Some(self.positions.marks().delivered).filter(|mark| mark.uuid == uuid)
    }

    /// The first segment of a stream behind the one with this number, or that one itself.
    pub fn segment(&self, uuid: Uuid, from: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.uuid == uuid && segment.number >= from)
    }

    /// Bytes on disk of what is to be delivered.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Records that are not known to be delivered.
    pub fn records(&self) -> u64 {
        let delivered = self.positions.marks().delivered;
        let count = |(i, segment): (usize, &Segment)| {
            let follows = self.segments.get(i + 1).filter(|next| next.uuid == segment.uuid);
            let end = match (segment.last, follows) {
                (Some(last), _) => last.seq.wrapping_add(1),
                (None, Some(next)) => next.first_seq,
                (None, None) => segment.first_seq,
            };
            let is_begun = segment.uuid == delivered.uuid;
            let first = if is_begun { segment.first_seq.max(delivered.next_seq) } else { segment.first_seq };
            end.saturating_sub(first)
        };
        self.segments.iter().enumerate().map(count).sum()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Something in a segment was passed over: it is kept aside once the rest of it is delivered. Gives whether that is news.
    pub fn note_damage(&mut self, number: u64) -> bool {
        let segment = self.segments.iter_mut().find(|segment| segment.number == number);
        segment.is_some_and(|segment| !std::mem::replace(&mut segment.is_damaged, true))
    }

    /// A segment that is not gone on with has been read to its end; `last` is none if no record in it was good.
    pub fn note_end(&mut self, number: u64, last: Option<Last>) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number) {
            let none = Last { seq: segment.first_seq.wrapping_sub(1), end: 0 };
            segment.last.get_or_insert(last.unwrap_or(none));
        }
    }

    /// Appends records of one stream. When this returns they are there for good, as far as `spool.fsync` says.
    ///
    /// # Errors
    /// A [`SpoolError`]; none of them then counts as spooled.
    pub fn append(&mut self, uuid: Uuid, batch: &Batch) -> Result<(), SpoolError> {
        let (Some(mark), Some((first_seq, last_seq, last_end))) = (batch.mark(uuid), batch.range) else {
            return Ok(());
        };
        let is_there =
            |segment: &Segment| segment.uuid == uuid && segment.last.is_some_and(|last| last.end >= last_end);
        if !self.segments.back().is_some_and(is_there) {
            self.append_bytes(uuid, first_seq, &batch.bytes)?;
            if let Some(segment) = self.segments.back_mut() {
                segment.bytes += batch.bytes.len() as u64;
                segment.last = Some(Last { seq: last_seq, end: last_end });
            }
            FailPoint::SpoolSynced.reach();
        }
        self.write_positions(Marks { spooled: mark, ..self.positions.marks() })
    }

    fn append_bytes(&mut self, uuid: Uuid, first_seq: u64, bytes: &[u8]) -> Result<(), SpoolError> {
        let taken = self.bytes() + self.aside_bytes;
        if taken + bytes.len() as u64 + HEADER_BYTES as u64 > self.size_max {
            let max = ByteSize(self.size_max);
            return Err(SpoolError::Full { path: self.dir.clone(), max });
        }
        let goes_on = |last: &Segment| last.uuid == uuid && last.bytes < self.segment_bytes;
        if self.active.is_none() || !self.segments.back().is_some_and(goes_on) {
            self.begin(uuid, first_seq)?;
        }
        let (Some(file), Some(segment)) = (&self.active, self.segments.back()) else { return Ok(()) };
        let written = disk::write_all_at(&**file, bytes, segment.bytes).and_then(|()| {
            FailPoint::SpoolWritten.reach();
            let syncs = self.fsync == Fsync::Always && !Fault::AppendUnsynced.is_back();
            if syncs { file.sync() } else { Ok(()) }
        });
        let Err(error) = written else { return Ok(()) };
        let path = segment.path.clone();
        self.give_up_active();
        Err(SpoolError::Io { action: "write to", path, error })
    }

    /// Begins a segment; its header is as durable as its first records are.
    fn begin(&mut self, uuid: Uuid, first_seq: u64) -> Result<(), SpoolError> {
        self.active = None;
        let number = self.next_number;
        // Whatever becomes of it: what cannot be removed below keeps its name.
        self.next_number += 1;
        let path = self.path(number);
        let header = Header { uuid, number, created_ns: now_ns() };
        let made = (|| {
            let file = self.disk.open(&path, Open::CreateNew(self.access))?;
            disk::write_all_at(&*file, &header.encode(), 0)?;
            if self.fsync == Fsync::Always {
                self.disk.sync_dir(&self.dir)?;
            }
            Ok(file)
        })();
        let file = made.map_err(|error| {
            drop(self.disk.remove(&path));
            SpoolError::Io { action: "create", path: path.clone(), error }
        })?;
        self.active = Some(file);
        let bytes = HEADER_BYTES as u64;
        let segment = Segment { number, uuid, path, bytes, first_seq, last: None, is_damaged: false };
        self.segments.push_back(segment);
        Ok(())
    }

    /// After a failed write nobody knows what is behind the last good record: cut it off, and never go on there.
    fn give_up_active(&mut self) {
        let (Some(file), Some(segment)) = (self.active.take(), self.segments.back()) else { return };
        // Where this fails too the rest is passed over when it is read.
        drop(file.set_len(segment.bytes));
        if segment.last.is_none() {
            drop(self.disk.remove(&segment.path));
            self.segments.pop_back();
        }
    }

    /// Notes how far records are delivered, and removes the segments that hold nothing else.
    ///
    /// # Errors
    /// A [`SpoolError`]; what is noted again costs no more than a second delivery.
    pub fn deliver(&mut self, mark: Mark) -> Result<(), SpoolError> {
        let Marks { delivered, spooled } = self.positions.marks();
        if mark.end > 0 && mark != delivered {
            // All of the stream before is delivered: otherwise it would be the one that is spoken of. What was in the spool of it
            // must not count as missing.
            let is_done = delivered.uuid == spooled.uuid
                && delivered.end >= spooled.end
                && !Fault::DeliveredStreamMissing.is_back();
            let spooled = if is_done && mark.uuid != spooled.uuid { mark } else { spooled };
            self.write_positions(Marks { delivered: mark, spooled })?;
            FailPoint::SpoolDelivered.reach();
        }
        // Nobody reads segments of a stream that is delivered to its end, so that nobody finds out where each of them ends.
        let is_all = self.spooled(mark.uuid).is_some_and(|spooled| spooled.end <= mark.end);
        let is_done = |first: &Segment| {
            first.uuid == mark.uuid && (is_all || first.last.is_some_and(|last| last.end <= mark.end))
        };
        if self.segments.front().is_some_and(is_done) && !Fault::RemovedBeforeMark.is_back() {
            self.rely_on_marks()?;
        }
        while self.segments.front().is_some_and(is_done) {
            self.remove_first()?;
        }
        Ok(())
    }

    /// Removes everything that is left of a stream in front of all others, all of which is delivered.
    ///
    /// # Errors
    /// A [`SpoolError`] if the system says no: it is to be called again.
    pub fn forget(&mut self, uuid: Uuid) -> Result<(), SpoolError> {
        if let Some(delivered) = self.spooled(uuid) {
            if self.delivered(uuid).is_none_or(|noted| noted.end < delivered.end) {
                self.write_positions(Marks { delivered, ..self.positions.marks() })?;
            }
            if !Fault::ForgottenBeforeMark.is_back() {
                self.rely_on_marks()?;
            }
        }
        while self.segments.front().is_some_and(|first| first.uuid == uuid) {
            self.remove_first()?;
        }
        // What a power cut brings back would be another stream's from now on.
        if self.fsync == Fsync::Always {
            self.disk.sync_dir(&self.dir).map_err(io_error("sync", &self.dir))?;
        }
        Ok(())
    }

    /// Removes the first segment, or keeps it aside.
    fn remove_first(&mut self) -> Result<(), SpoolError> {
        let Some(first) = self.segments.front() else { return Ok(()) };
        let removed = if first.is_damaged {
            let aside = first.path.with_extension(DAMAGED);
            tracing::error!(
                "{}: what is damaged of it is kept aside as {}",
                first.path.display(),
                aside.display()
            );
            self.disk.rename(&first.path, &aside).inspect(|()| self.aside_bytes += first.bytes)
        } else {
            self.disk.remove(&first.path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &first.path)(error));
            }
            _ => self.segments.pop_front(),
        };
        if self.segments.is_empty() {
            self.active = None;
        }
        Ok(())
    }

    /// What the marks say is not taken back from now on, as far as `spool.fsync` says: otherwise a power cut could take them
    /// back, and what is removed would count as lost.
    ///
    /// # Errors
    /// A [`SpoolError`] if the system says no.
    pub fn rely_on_marks(&mut self) -> Result<(), SpoolError> {
        match self.fsync {
            Fsync::Always => self.sync(),
            Fsync::Never => {
                self.positions.keep();
                Ok(())
            }
        }
    }

    /// Has the disk hold both marks.
    ///
    /// # Errors
    /// A [`SpoolError`] if the system says no.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        let synced = self.ahead.sync().and_then(|()| self.positions.sync());
        synced.map_err(io_error("write to", &self.dir))
    }

    fn write_positions(&mut self, marks: Marks) -> Result<(), SpoolError> {
        self.positions.write(marks).map_err(io_error("write to", &self.dir))
    }
}
