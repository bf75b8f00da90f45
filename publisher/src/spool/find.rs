//! What a publisher before this one has left in the spool's directory.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    delivery::Class,
    disk::{self, Access, Disk, Open},
    faults::Fault,
};

use super::{
    error::{SpoolError, io_error},
    positions::Marks,
    segment::{self, HEADER_BYTES, Header, HeaderError},
};

/// What the names of segments end with.
pub const SUFFIX: &str = "spool";
/// What the names of segments end with that were put aside.
pub const DAMAGED: &str = "damaged";
/// So much of a segment is read to find its first record; all of it where that is not enough.
const BEGINNING_BYTES: usize = 64 << 10;

/// Where a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The record's number.
    pub seq: u64,
    /// Its end in its ring.
    pub end: u64,
}

/// One segment.
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
    /// The number of its first good record.
    pub first_seq: u64,
    /// Its last good record; none as long as nobody has read that far.
    pub last: Option<Last>,
    /// Something in it was passed over, so that it is kept aside once the rest is delivered.
    pub is_damaged: bool,
}

/// What was found.
pub struct Found {
    /// The segments, oldest first.
    pub segments: VecDeque<Segment>,
    /// Bytes of what was put aside, now or before.
    pub aside_bytes: u64,
    /// A number that no file has, nor any greater one.
    pub next_number: u64,
}

/// The names of segments in a directory, oldest first.
///
/// # Errors
/// What the system says.
pub fn names(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<String>> {
    let suffix = format!(".{SUFFIX}");
    let mut names = disk.list(dir)?;
    names.retain(|name| name.ends_with(&suffix));
    names.sort();
    Ok(names)
}

/// The path of a segment.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{SUFFIX}"))
}

/// Finds the segments in a directory. Of each the beginning is read; of the last one of each ring, all, since where that
/// ends no other says.
///
/// # Errors
/// A [`SpoolError`] if the system says no, or a segment is of another version.
pub fn segments(
    disk: &dyn Disk,
    dir: &Path,
    access: Access,
    marks: &Marks,
    tries: u32,
) -> Result<Found, SpoolError> {
    let mut found = Found { segments: VecDeque::new(), aside_bytes: 0, next_number: 1 };
    let mut numbers = Vec::new();
    for name in disk.list(dir).map_err(io_error("list", dir))? {
        let Some((number, suffix)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        found.next_number = found.next_number.max(number.saturating_add(1));
        if suffix == SUFFIX {
            numbers.push(number);
        } else if suffix == DAMAGED {
            let path = dir.join(&name);
            let bytes = disk.open(&path, Open::Read).and_then(|file| file.bytes());
            found.aside_bytes += bytes.map_err(io_error("examine", &path))?;
        }
    }
    numbers.sort_unstable();
    let mut search = Search { disk, access, tries, found };
    // Behind the last good segment: damaged, or what a crash has left of one whose records the ring has.
    let mut doubtful: Vec<(PathBuf, String)> = Vec::new();
    for number in numbers {
        let path = path(dir, number);
        match search.begin(number, &path)? {
            Beginning::Segment(segment) => {
                search.found.segments.push_back(segment);
                for (path, why) in doubtful.drain(..) {
                    search.put_aside(&path, &why)?;
                }
            }
            Beginning::Empty => disk.remove(&path).map_err(io_error("remove", &path))?,
            Beginning::Damaged(why) => doubtful.push((path, why)),
            Beginning::Gone => {}
        }
    }
    search.find_ends(marks)?;
    for (path, why) in doubtful {
        if search.misses_some(marks) {
            search.put_aside(&path, &why)?;
        } else {
            disk.remove(&path).map_err(io_error("remove", &path))?;
        }
    }
    if search.found.aside_bytes > 0 {
        let (bytes, dir) = (search.found.aside_bytes, dir.display());
        tracing::warn!("{dir}: damaged files (*.{DAMAGED}) take {bytes} bytes of spool.size_max");
    }
    Ok(search.found)
}

struct Search<'a> {
    disk: &'a dyn Disk,
    access: Access,
    tries: u32,
    found: Found,
}

/// What a segment begins with.
enum Beginning {
    Segment(Segment),
    /// It was made, and nothing was written to it.
    Empty,
    Damaged(String),
    Gone,
}

impl Search<'_> {
    /// Reads the beginning of a segment.
    fn begin(&self, number: u64, path: &Path) -> Result<Beginning, SpoolError> {
        let read = self.disk.open(path, Open::Read).and_then(|file| {
            let mut beginning = vec![0; BEGINNING_BYTES];
            let read = disk::read_up_to_at(&*file, &mut beginning, 0)?;
            beginning.truncate(read);
            Ok((file.bytes()?, beginning, file))
        });
        let (bytes, beginning, file) = match read {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Beginning::Gone),
            Err(error) => return self.judge(path, error).map(Beginning::Damaged),
        };
        if bytes == 0 {
            return Ok(Beginning::Empty);
        }
        let uuid = match Header::decode(&beginning) {
            Ok(header) => header.uuid,
            Err(error @ HeaderError::Version(_)) => {
                return Err(SpoolError::Segment { path: path.to_owned(), error });
            }
            Err(error @ HeaderError::Damaged) => return Ok(Beginning::Damaged(error.to_string())),
        };
        if bytes == HEADER_BYTES as u64 {
            return Ok(Beginning::Empty);
        }
        let first_seq = match segment::next(&beginning, HEADER_BYTES) {
            Some((_, record)) => Some(record.seq),
            None => match disk::read_all(&*file) {
                Ok(all) => segment::next(&all, HEADER_BYTES).map(|(_, record)| record.seq),
                Err(error) => return self.judge(path, error).map(Beginning::Damaged),
            },
        };
        let Some(first_seq) = first_seq else {
            return Ok(Beginning::Damaged("no record in it is whole".to_owned()));
        };
        let path = path.to_owned();
        Ok(Beginning::Segment(Segment {
            number,
            uuid,
            path,
            bytes,
            first_seq,
            last: None,
            is_damaged: false,
        }))
    }

    /// Reads the last segment of each ring to its end.
    fn find_ends(&mut self, marks: &Marks) -> Result<(), SpoolError> {
        let segments = &self.found.segments;
        let is_last = |i: usize| segments.get(i + 1).is_none_or(|next| next.uuid != segments[i].uuid);
        let last: Vec<usize> = (0..segments.len()).filter(|i| is_last(*i)).collect();
        let marked = segments.iter().rposition(|segment| segment.uuid == marks.spooled.uuid);
        for i in last {
            let segment = &self.found.segments[i];
            let path = segment.path.clone();
            // Up to where the writer has seen the disk hold it.
            let held = match Some(i).cmp(&marked) {
                Ordering::Less => u64::MAX,
                Ordering::Equal => marks.spooled.end,
                Ordering::Greater => 0,
            };
            let (rest, Extent { end, last, .. }) = match self.read_and_hold(&path, held) {
                Ok(read) => read,
                Err(error) => {
                    let why = self.judge(&path, error)?;
                    tracing::error!("{}: {why}; what can be read of it is sent", path.display());
                    continue;
                }
            };
            let segment = &mut self.found.segments[i];
            (segment.bytes, segment.last) = (end as u64, last);
            if rest > 0 {
                tracing::warn!("{}: its last {rest} bytes are no whole record", path.display());
            }
            // Otherwise the ring has what was being written.
            let was_there =
                marks.spooled.uuid == segment.uuid && last.is_none_or(|last| last.end < marks.spooled.end);
            segment.is_damaged = rest > 0 && was_there;
        }
        Ok(())
    }

    /// Reads a segment, and has the disk hold what is behind `held`, a position in the ring: what is counted as spooled must outlast
    /// a power cut, and whoever wrote it may have been killed before its sync, or its sync may have failed. A disk that could not
    /// hold something may have given up on that, and a sync alone says nothing of it: the same bytes are written again. Gives how
    /// many bytes behind the last good record are none, too.
    fn read_and_hold(&self, path: &Path, held: u64) -> io::Result<(usize, Extent)> {
        let file = self.disk.open(path, Open::Create(self.access))?;
        let content = disk::read_all(&*file)?;
        let extent = Extent::of(&content, held);
        let doubtful = &content[extent.held..extent.end];
        if !doubtful.is_empty() && !Fault::BatchUnsyncedAtStart.is_back() {
            if !Fault::BatchSyncedAlone.is_back() {
                disk::write_all_at(&*file, doubtful, extent.held as u64)?;
            }
            file.sync()?;
        }
        Ok((content.len() - extent.end, extent))
    }

    /// Whether the marks tell of records behind those that were found.
    fn misses_some(&self, marks: &Marks) -> bool {
        let Marks { delivered, spooled } = marks;
        let segments = self.found.segments.iter().rev();
        let last = segments.filter(|segment| segment.uuid == spooled.uuid).find_map(|segment| segment.last);
        let noted = if delivered.uuid == spooled.uuid { delivered.end } else { 0 };
        spooled.end > last.map_or(0, |last| last.end).max(noted)
    }

    /// Says why what an error concerns is to be passed over, if it is.
    fn judge(&self, path: &Path, error: io::Error) -> Result<String, SpoolError> {
        if Class::of(&error, self.tries) == Class::Damage {
            return Ok(format!("it cannot be read: {error}"));
        }
        Err(io_error("read", path)(error))
    }

    fn put_aside(&mut self, path: &Path, why: &str) -> Result<(), SpoolError> {
        let aside = path.with_extension(DAMAGED);
        tracing::error!("{}: {why}; it is kept aside as {}", path.display(), aside.display());
        self.disk.rename(path, &aside).map_err(io_error("rename", path))?;
        let bytes = self.disk.open(&aside, Open::Read).and_then(|file| file.bytes());
        self.found.aside_bytes += bytes.map_err(io_error("examine", &aside))?;
        Ok(())
    }
}

/// How far a segment goes, in bytes of its file.
struct Extent {
    /// Where the good records end that go up to a position in the ring at most.
    held: usize,
    /// Where the last good record ends.
    end: usize,
    /// That record.
    last: Option<Last>,
}

impl Extent {
    /// Of what a segment's file holds; `held` is the position.
    fn of(content: &[u8], held: u64) -> Self {
        let begin = HEADER_BYTES.min(content.len());
        let mut extent = Self { held: begin, end: begin, last: None };
        while let Some((start, record)) = segment::next(content, extent.end) {
            let is_held = extent.held == extent.end && record.end <= held;
            extent.end = (start + segment::record_bytes(record.payload.len())).min(content.len());
            extent.last = Some(Last { seq: record.seq, end: record.end });
            if is_held {
                extent.held = extent.end;
            }
        }
        extent
    }
}
