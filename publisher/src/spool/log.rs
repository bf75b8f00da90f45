//! The directory of segments: what is in it, appending, and removing what is delivered.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bywash_common::{
    clock::now_ns,
    config::{Fsync, SpoolConfig},
    fail_point::FailPoint,
    units::ByteSize,
};
use uuid::Uuid;

use crate::state_dir::{StateDir, StateDirError};

use super::{
    positions::{Mark, Marks, Positions},
    segment::{self, HEADER_BYTES, Header, HeaderError},
};

/// What the names of segments end with.
const SUFFIX: &str = "spool";
/// What the names of segments end with that were put aside.
const DAMAGED: &str = "damaged";

/// The spool cannot be used, or not take something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] StateDirError),
    /// It holds records of another ring.
    #[error(
        "the spool {} holds records of the ring `{found}`, this publisher drains `{wanted}`: have them delivered by \
         a publisher of that ring, or give this one another spool.dir",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The ring's name as found.
        found: String,
        /// The name of this publisher's ring.
        wanted: String,
    },
    /// A segment is of another version.
    #[error("{}: {error}", path.display())]
    Segment {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        error: HeaderError,
    },
    /// It would take more room than it may.
    #[error("the spool {} has reached spool.size_max ({max})", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// `spool.size_max`
        max: ByteSize,
    },
    /// The system said no.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |error| SpoolError::Io { action, path: path.to_owned(), error }
}

/// One segment, as far as it holds good records.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its number: later ones have greater numbers.
    pub number: u64,
    /// The ring whose records it holds.
    pub uuid: Uuid,
    /// Where it is.
    pub path: PathBuf,
    /// Up to here it may be read.
    pub bytes: u64,
    first_seq: u64,
    last_seq: u64,
    last_end: u64,
}

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
    dir: StateDir,
    size_max: u64,
    segment_bytes: u64,
    fsync: Fsync,
    segments: VecDeque<Segment>,
    /// The last segment, if this process has begun it and may go on with it.
    active: Option<File>,
    positions: Positions,
    next_number: u64,
}

impl Log {
    /// Opens the spool of the ring `ring`, and makes it if need be. Damage is said in the log.
    ///
    /// # Errors
    /// A [`SpoolError`] if it cannot be used.
    pub fn open(
        dir: &Path,
        config: &SpoolConfig,
        ring: &str,
        group: Option<&str>,
    ) -> Result<Self, SpoolError> {
        let dir = StateDir::open("spool.dir", dir, group)?;
        let at = dir.path.join("positions");
        let positions = Positions::open(&at, dir.file_mode()).map_err(io_error("open", &at))?;
        let mut log = Self {
            dir,
            size_max: config.size_max.0,
            segment_bytes: config.segment_size.0,
            fsync: config.fsync,
            segments: VecDeque::new(),
            active: None,
            positions,
            next_number: 1,
        };
        log.find_segments()?;
        log.claim(ring)?;
        Ok(log)
    }

    /// Whether there are segments in a directory.
    pub fn holds_any(dir: &Path) -> bool {
        let Ok(listing) = fs::read_dir(dir) else { return false };
        listing.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == SUFFIX))
    }

    fn find_segments(&mut self) -> Result<(), SpoolError> {
        let dir = &self.dir.path;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((number, suffix)) = name.split_once('.') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            self.next_number = self.next_number.max(number + 1);
            if suffix == SUFFIX {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        for number in numbers {
            self.find_segment(number)?;
        }
        Ok(())
    }

    fn find_segment(&mut self, number: u64) -> Result<(), SpoolError> {
        let path = self.path(number);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        match examine(number, path.clone(), &bytes) {
            Ok(Some(segment)) => {
                let rest = bytes.len() as u64 - segment.bytes;
                if rest > 0 {
                    let path = path.display();
                    tracing::warn!("{path}: the last {rest} bytes are no whole record and are passed over");
                }
                self.segments.push_back(segment);
            }
            Ok(None) => fs::remove_file(&path).map_err(io_error("remove", &path))?,
            Err(error @ HeaderError::Version(_)) => return Err(SpoolError::Segment { path, error }),
            Err(error @ HeaderError::Damaged) => {
                let aside = path.with_extension(DAMAGED);
                tracing::error!("{}: {error}; it is put aside as {}", path.display(), aside.display());
                fs::rename(&path, &aside).map_err(io_error("rename", &path))?;
            }
        }
        Ok(())
    }

    /// Makes it the spool of the ring, unless it holds another ring's records.
    fn claim(&self, ring: &str) -> Result<(), SpoolError> {
        let path = self.dir.path.join("ring");
        let found = fs::read_to_string(&path).unwrap_or_default();
        if found == ring {
            return Ok(());
        }
        if !self.segments.is_empty() && !found.is_empty() {
            let (path, wanted) = (self.dir.path.clone(), ring.to_owned());
            return Err(SpoolError::Foreign { path, found, wanted });
        }
        fs::write(&path, ring).map_err(io_error("write", &path))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.path.join(format!("{number:020}.{SUFFIX}"))
    }

    /// The rings whose records are in the spool, or were and are lost, oldest first.
    pub fn streams(&self) -> Vec<Uuid> {
        let mut streams: Vec<Uuid> = self.segments.iter().map(|segment| segment.uuid).collect();
        streams.dedup();
        let Marks { delivered, spooled } = self.positions.marks;
        let is_behind = spooled.uuid != delivered.uuid || spooled.end > delivered.end;
        if !spooled.uuid.is_nil() && is_behind && !streams.contains(&spooled.uuid) {
            streams.push(spooled.uuid);
        }
        streams
    }

    /// Where the spool's records of a stream end. What is missing before it is lost.
    pub fn spooled(&self, uuid: Uuid) -> Option<Mark> {
        let last = self.segments.iter().rfind(|segment| segment.uuid == uuid);
        let last =
            last.map(|last| Mark { uuid, end: last.last_end, next_seq: last.last_seq.wrapping_add(1) });
        let said = Some(self.positions.marks.spooled).filter(|mark| mark.uuid == uuid);
        last.into_iter().chain(said).max_by_key(|mark| mark.end)
    }

    /// Up to where a stream is known to be delivered.
    pub fn delivered(&self, uuid: Uuid) -> Option<Mark> {
        Some(self.positions.marks.delivered).filter(|mark| mark.uuid == uuid)
    }

    /// The first segment of a stream behind the one with this number, or that one itself.
    pub fn segment(&self, uuid: Uuid, from: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.uuid == uuid && segment.number >= from)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Records that are not known to be delivered.
    pub fn records(&self) -> u64 {
        let delivered = self.positions.marks.delivered;
        let count = |segment: &Segment| {
            let is_begun = segment.uuid == delivered.uuid;
            let first = if is_begun { segment.first_seq.max(delivered.next_seq) } else { segment.first_seq };
            (segment.last_seq.wrapping_add(1)).saturating_sub(first)
        };
        self.segments.iter().map(count).sum()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Appends records of one stream. When this returns they are there for good, as far as `spool.fsync` says.
    ///
    /// # Errors
    /// A [`SpoolError`]; none of them then counts as spooled.
    pub fn append(&mut self, uuid: Uuid, batch: &Batch) -> Result<(), SpoolError> {
        let (Some(mark), Some((first_seq, last_seq, last_end))) = (batch.mark(uuid), batch.range) else {
            return Ok(());
        };
        if self.bytes() + batch.bytes.len() as u64 + HEADER_BYTES as u64 > self.size_max {
            return Err(SpoolError::Full { path: self.dir.path.clone(), max: ByteSize(self.size_max) });
        }
        let goes_on = |last: &Segment| last.uuid == uuid && last.bytes < self.segment_bytes;
        if self.active.is_none() || !self.segments.back().is_some_and(goes_on) {
            self.begin(uuid, first_seq)?;
        }
        let (Some(file), Some(segment)) = (&self.active, self.segments.back_mut()) else { return Ok(()) };
        let written = file.write_all_at(&batch.bytes, segment.bytes).and_then(|()| {
            FailPoint::SpoolWritten.reach();
            if self.fsync == Fsync::Always { file.sync_data() } else { Ok(()) }
        });
        if let Err(error) = written {
            let path = segment.path.clone();
            self.give_up_active();
            return Err(SpoolError::Io { action: "write to", path, error });
        }
        segment.bytes += batch.bytes.len() as u64;
        (segment.last_seq, segment.last_end) = (last_seq, last_end);
        FailPoint::SpoolSynced.reach();
        let marks = Marks { spooled: mark, ..self.positions.marks };
        self.write_positions(marks)
    }

    /// Begins a segment; its header is as durable as its first records are.
    fn begin(&mut self, uuid: Uuid, first_seq: u64) -> Result<(), SpoolError> {
        self.active = None;
        let number = self.next_number;
        let path = self.path(number);
        let header = Header { uuid, number, created_ns: now_ns() };
        let made = (|| {
            let mut options = OpenOptions::new();
            let file = options.create_new(true).write(true).mode(self.dir.file_mode()).open(&path)?;
            std::os::unix::fs::fchown(&file, None, self.dir.group)?;
            file.write_all_at(&header.encode(), 0)?;
            if self.fsync == Fsync::Always {
                File::open(&self.dir.path)?.sync_all()?;
            }
            Ok(file)
        })();
        let file = made.map_err(|error| {
            drop(fs::remove_file(&path));
            SpoolError::Io { action: "create", path: path.clone(), error }
        })?;
        self.next_number += 1;
        self.active = Some(file);
        let bytes = HEADER_BYTES as u64;
        let last_seq = first_seq.wrapping_sub(1);
        self.segments.push_back(Segment { number, uuid, path, bytes, first_seq, last_seq, last_end: 0 });
        Ok(())
    }

    /// After a failed write nobody knows what is behind the last good record: cut it off, and never go on there.
    fn give_up_active(&mut self) {
        let (Some(file), Some(segment)) = (self.active.take(), self.segments.back()) else { return };
        // Where this fails too the rest is passed over when it is read.
        drop(file.set_len(segment.bytes));
        if segment.last_end == 0 {
            drop(fs::remove_file(&segment.path));
            self.segments.pop_back();
        }
    }

    /// Notes how far records are delivered, and removes the segments that hold nothing else.
    ///
    /// # Errors
    /// A [`SpoolError`]; what is noted again costs no more than a second delivery.
    pub fn deliver(&mut self, mark: Mark) -> Result<(), SpoolError> {
        if mark.end > 0 && mark != self.positions.marks.delivered {
            self.write_positions(Marks { delivered: mark, ..self.positions.marks })?;
            FailPoint::SpoolDelivered.reach();
        }
        let is_done = |first: &Segment| first.uuid == mark.uuid && first.last_end <= mark.end;
        if self.fsync == Fsync::Always && self.segments.front().is_some_and(is_done) {
            // Otherwise a power cut could take the mark back, and what is removed would count as lost.
            self.sync()?;
        }
        while self.segments.front().is_some_and(is_done) {
            self.remove_first()?;
        }
        Ok(())
    }

    /// Removes everything that is left of a stream in front of all others.
    ///
    /// # Errors
    /// A [`SpoolError`] if the system says no.
    pub fn forget(&mut self, uuid: Uuid) -> Result<(), SpoolError> {
        if self.positions.marks.spooled.uuid == uuid {
            let delivered = self.positions.marks.spooled;
            self.write_positions(Marks { delivered, ..self.positions.marks })?;
        }
        while self.segments.front().is_some_and(|first| first.uuid == uuid) {
            self.remove_first()?;
        }
        Ok(())
    }

    fn remove_first(&mut self) -> Result<(), SpoolError> {
        let Some(first) = self.segments.pop_front() else { return Ok(()) };
        if self.segments.is_empty() {
            self.active = None;
        }
        match fs::remove_file(&first.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &first.path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Has the disk hold both marks.
    ///
    /// # Errors
    /// A [`SpoolError`] if the system says no.
    pub fn sync(&self) -> Result<(), SpoolError> {
        self.positions.sync().map_err(io_error("write to", &self.dir.path))
    }

    fn write_positions(&mut self, marks: Marks) -> Result<(), SpoolError> {
        self.positions.write(marks).map_err(io_error("write to", &self.dir.path))
    }
}

/// What a segment holds; nothing if no record in it is good.
fn examine(number: u64, path: PathBuf, bytes: &[u8]) -> Result<Option<Segment>, HeaderError> {
    // Made, and not yet written to.
    if bytes.is_empty() {
        return Ok(None);
    }
    let Header { uuid, .. } = Header::decode(bytes)?;
    let mut found: Option<Segment> = None;
    let mut at = HEADER_BYTES;
    while let Some((start, record)) = segment::next(bytes, at) {
        at = start + segment::record_bytes(record.payload.len());
        let segment = found.get_or_insert_with(|| Segment {
            number,
            uuid,
            path: path.clone(),
            bytes: 0,
            first_seq: record.seq,
            last_seq: 0,
            last_end: 0,
        });
        segment.bytes = at.min(bytes.len()) as u64;
        (segment.last_seq, segment.last_end) = (record.seq, record.end);
    }
    Ok(found)
}
