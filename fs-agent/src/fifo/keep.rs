//! Reading ends that outlive the agent: whoever starts it keeps them, so that writers wait for the next agent and find no broken
//! pipe, and what the pipe holds is not thrown away.
//!
//! Beside each is a memory file for what the agent has read of a line that has not ended: `length, checksum, offset, part,
//! ends, path length`, each of 8 bytes in the machine's order, then the path and the bytes. It is written when an agent makes room for
//! the next one, and whenever the pipe is empty within a line. A checksum of 0 says that there is nothing.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bywash_common::shared::checksum;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{Errno, Result, pread, pwrite},
};

use crate::keeper::{FifoPart, Name, Store};

/// How many numbers a memory file begins with.
const HEAD: usize = 6;
const HEAD_BYTES: usize = HEAD * 8;
/// Where the checksum is.
const CHECKSUM_AT: u64 = 8;

/// The longest path and the most bytes that are read back: those of the longest line and what is read at once, and more.
const PATH_BYTES_MAX: usize = 1 << 13;
const REST_BYTES_MAX: usize = 64 << 20;

/// What was read of a pipe and is in no record yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many came before them in the stream.
    pub offset: u64,
    /// Which part of a long line they continue, from 0.
    pub part: u32,
    /// A line was given away without its end, which may follow.
    pub awaits_end: bool,
}

impl Rest {
    /// Whether a stream that has none is the same.
    pub fn is_nothing(&self) -> bool {
        self.bytes.is_empty() && self.part == 0 && !self.awaits_end && self.offset == 0
    }
}

/// A reading end is kept under a number as long as this is there, and beyond the end of this process.
#[derive(Debug)]
pub struct Keep {
    store: Arc<Store>,
    number: u32,
    path: PathBuf,
    rest: OwnedFd,
    /// Whether the memory file says something.
    is_noted: bool,
    /// The next agent takes it.
    is_left: bool,
}

impl Keep {
    /// Has `pipe`, the reading end of the FIFO at `path`, kept. None where nothing is.
    pub fn new(store: &Arc<Store>, path: &Path, pipe: BorrowedFd<'_>) -> Option<Self> {
        if !store.is_there() {
            return None;
        }
        let rest = memfd_create("bywash-fifo", MemfdFlags::CLOEXEC);
        let rest = rest.inspect_err(|errno| tracing::warn!("{}: {errno}", path.display())).ok()?;
        let number = store.next_fifo();
        let mut keep = Self {
            store: Arc::clone(store),
            number,
            path: path.to_owned(),
            rest,
            is_noted: false,
            is_left: false,
        };
        // The rest says which FIFO it is.
        keep.note(&Rest::default()).ok()?;
        // What is not kept is said by the store; one of the two alone is of no use.
        store.put(&Name::Fifo(number, FifoPart::Rest), keep.rest.as_fd()).ok()?;
        store.put(&Name::Fifo(number, FifoPart::Pipe), pipe).ok()?;
        Some(keep)
    }

    /// Takes note of what was read.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn note(&mut self, rest: &Rest) -> Result<()> {
        let path = self.path.as_os_str().as_bytes();
        let numbers = [rest.offset, rest.part.into(), rest.awaits_end.into(), path.len() as u64];
        let mut body: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        body.extend_from_slice(path);
        body.extend_from_slice(&rest.bytes);
        let len = ((body.len() + 16) as u64).to_ne_bytes();
        self.forget()?;
        write_all(&self.rest, &[&len[..], &[0; 8], &body].concat(), 0)?;
        write_all(&self.rest, &mark(&body).to_ne_bytes(), CHECKSUM_AT)?;
        self.is_noted = !rest.is_nothing();
        Ok(())
    }

    /// What was noted is not so any more.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn forget(&mut self) -> Result<()> {
        self.is_noted = false;
        write_all(&self.rest, &[0; 8], CHECKSUM_AT)
    }

    /// Whether something was noted that is to be forgotten when more is read.
    pub fn is_noted(&self) -> bool {
        self.is_noted
    }

    /// Leaves the pipe to the next agent, with `rest`. Gives that back if it cannot be noted.
    pub fn leave(mut self, rest: Rest) -> std::result::Result<(), Rest> {
        if self.note(&rest).is_err() {
            return Err(rest);
        }
        self.is_left = true;
        Ok(())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if !self.is_left {
            for part in [FifoPart::Pipe, FifoPart::Rest] {
                self.store.remove(&Name::Fifo(self.number, part));
            }
        }
    }
}

/// A reading end that the agent before has left.
#[derive(Debug)]
pub struct Left {
    /// The pipe.
    pub pipe: OwnedFd,
    /// Where the FIFO is, or was.
    pub path: PathBuf,
    /// What was read of it.
    pub rest: Rest,
    /// It is kept on.
    pub keep: Keep,
}

impl Left {
    /// Takes all that `store` has.
    pub fn take_all(store: &Arc<Store>) -> Vec<Self> {
        let mut left = Vec::new();
        for number in store.fifos() {
            let [pipe, rest] =
                [FifoPart::Pipe, FifoPart::Rest].map(|part| store.take_one(&Name::Fifo(number, part)));
            let (Some(pipe), Some(rest)) = (pipe, rest) else {
                // It had not been opened yet.
                [FifoPart::Pipe, FifoPart::Rest]
                    .iter()
                    .for_each(|part| store.remove(&Name::Fifo(number, *part)));
                continue;
            };
            let (path, noted) = read(&rest).unwrap_or_default();
            let keep = Keep {
                store: Arc::clone(store),
                number,
                path: path.clone(),
                rest,
                is_noted: !noted.is_nothing(),
                is_left: false,
            };
            left.push(Self { pipe, path, rest: noted, keep });
        }
        left
    }
}

/// What a memory file says; none if it says nothing.
fn read(file: &OwnedFd) -> Option<(PathBuf, Rest)> {
    let mut head = [0; HEAD_BYTES];
    if pread(file, &mut head[..], 0).ok()? != HEAD_BYTES {
        return None;
    }
    let (words, _) = head.as_chunks::<8>();
    let [len, sum, offset, part, awaits_end, path_len] = words else { return None };
    let number = |word: &[u8; 8]| u64::from_ne_bytes(*word);
    let (len, path_len) = (usize::try_from(number(len)).ok()?, usize::try_from(number(path_len)).ok()?);
    let rest_len = len.checked_sub(HEAD_BYTES)?.checked_sub(path_len)?;
    if path_len > PATH_BYTES_MAX || rest_len > REST_BYTES_MAX {
        return None;
    }
    let mut body = vec![0; len - 16];
    read_all(file, &mut body, 16)?;
    if number(sum) != mark(&body) {
        return None;
    }
    let bytes = body.split_off(HEAD_BYTES - 16 + path_len);
    let path = Path::new(OsStr::from_bytes(&body[HEAD_BYTES - 16..])).to_owned();
    let rest = Rest {
        bytes,
        offset: number(offset),
        part: u32::try_from(number(part)).ok()?,
        awaits_end: number(awaits_end) != 0,
    };
    Some((path, rest))
}

/// The checksum of what stands behind it; never 0.
fn mark(body: &[u8]) -> u64 {
    u64::from(checksum(body)) | 1 << 32
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => (bytes, at) = (&bytes[written..], at + written as u64),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn read_all(file: &OwnedFd, mut bytes: &mut [u8], mut at: u64) -> Option<()> {
    while !bytes.is_empty() {
        match pread(file, &mut *bytes, at) {
            Ok(read @ 1..) => (bytes, at) = (&mut bytes[read..], at + read as u64),
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return None,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_back_until_it_is_forgotten() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(read(&file), None);
        let mut keep = Keep {
            store: Arc::new(Store::none()),
            number: 0,
            path: "/run/a.pipe".into(),
            rest: file,
            is_noted: false,
            is_left: false,
        };
        let long = Rest { bytes: vec![b'x'; 100_000], offset: 7, part: 3, awaits_end: false };
        let short = Rest { bytes: b"abc".to_vec(), offset: 1 << 40, part: 0, awaits_end: true };
        for rest in [long, short, Rest::default()] {
            keep.note(&rest).unwrap();
            assert_eq!(keep.is_noted(), !rest.is_nothing());
            assert_eq!(read(&keep.rest), Some(("/run/a.pipe".into(), rest)));
        }
        keep.forget().unwrap();
        assert_eq!(read(&keep.rest), None);
        // Whatever it says then, it is no line.
        write_all(&keep.rest, &[0xff; 200], 0).unwrap();
        assert_eq!(read(&keep.rest), None);
    }
}
