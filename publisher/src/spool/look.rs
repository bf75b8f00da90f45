//! A look at another process's spool: what waits in it.

use std::{io, path::Path};

use bywash_common::ring::Kind;

use crate::disk::{self, Disk, Open, SystemDisk};

use super::{
    error::{SpoolError, io_error},
    find,
    positions::{self, Marks},
    segment::{self, HEADER_BYTES, Header},
};

/// Looks at every record in a spool that is not known to be delivered, oldest first; changes nothing. What is delivered
/// meanwhile may be missing, what cannot be read is passed over.
///
/// # Errors
/// A [`SpoolError`] if the system says no.
pub fn undelivered(dir: &Path, mut visit: impl FnMut(Kind, &[u8])) -> Result<(), SpoolError> {
    let disk = SystemDisk;
    let Marks { delivered, .. } =
        positions::look(&disk, &dir.join(positions::FILE)).map_err(io_error("read", dir))?;
    for name in segments(&disk, dir)? {
        let path = dir.join(name);
        let bytes = match disk.open(&path, Open::Read).and_then(|file| disk::read_all(&*file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(io_error("read", &path))?,
        };
        let Ok(header) = Header::decode(&bytes) else { continue };
        let mut at = HEADER_BYTES;
        while let Some((begin, record)) = segment::next(&bytes, at) {
            if header.uuid != delivered.uuid || record.end > delivered.end {
                visit(record.kind, record.payload);
            }
            at = begin + segment::record_bytes(record.payload.len());
        }
    }
    Ok(())
}

/// When the oldest segment was begun that is still there, in nanoseconds since the epoch; none if there is none.
///
/// # Errors
/// A [`SpoolError`] if the system says no.
pub fn oldest_ns(dir: &Path) -> Result<Option<u64>, SpoolError> {
    let disk = SystemDisk;
    let Some(name) = segments(&disk, dir)?.into_iter().next() else { return Ok(None) };
    let path = dir.join(name);
    let mut bytes = [0; HEADER_BYTES];
    match disk.open(&path, Open::Read).and_then(|file| disk::read_up_to_at(&*file, &mut bytes, 0)) {
        // Delivered meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path)(error)),
        Ok(_) => Ok(Header::decode(&bytes).ok().map(|header| header.created_ns)),
    }
}

/// The names of segments, oldest first; none where there is no spool.
fn segments(disk: &SystemDisk, dir: &Path) -> Result<Vec<String>, SpoolError> {
    match find::names(disk, dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(io_error("list", dir)),
    }
}
