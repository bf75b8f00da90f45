//! A disk in memory: every call may fail, and a power cut takes what was not synced, or parts of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;

use crate::disk::{Disk, Open, Stored};

use super::random::Random;

/// What the names of files with dead letters end with.
const LETTERS: &str = "jsonl";

/// What a power cut keeps or takes as a whole.
const SECTOR_BYTES: usize = 512;

/// A write that the disk may not hold yet.
#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a read gives.
    seen: Vec<u8>,
    /// What a power cut leaves for sure.
    held: Vec<u8>,
    /// What it may leave on top of that, in any selection.
    unsynced: Vec<Write>,
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.unsynced.push(Write { offset, bytes: bytes.to_vec() });
    }

    /// What is there after a power cut.
    fn cut(&mut self, random: &Random) {
        let mut left = std::mem::take(&mut self.held);
        for write in std::mem::take(&mut self.unsynced) {
            for (i, part) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                // Nothing of it, a torn sector, or all.
                let kept = match random.below(4) {
                    0 => 0,
                    1 => random.below(part.len() as u64 + 1) as usize,
                    _ => part.len(),
                };
                let offset = write.offset + i * SECTOR_BYTES;
                if kept > 0 {
                    if left.len() < offset + kept {
                        left.resize(offset + kept, 0);
                    }
                    left[offset..offset + kept].copy_from_slice(&part[..kept]);
                }
            }
        }
        self.seen.clone_from(&left);
        self.held = left;
    }
}

/// A change of names that the disk may not hold yet.
#[derive(Clone, Debug)]
enum Change {
    Named(PathBuf, u64),
    Removed(PathBuf),
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    /// Names as everybody sees them, and as the disk holds them.
    names: BTreeMap<PathBuf, u64>,
    held_names: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
    next: u64,
    capacity: u64,
    locked: BTreeSet<PathBuf>,
    /// Lines of the files that were ever there in one piece under a name that ends so.
    lines: BTreeSet<Vec<u8>>,
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|id| self.inodes[id].seen.len() as u64).sum()
    }

    fn name(&mut self, path: &Path, id: u64) {
        self.names.insert(path.to_owned(), id);
        self.changes.push(Change::Named(path.to_owned(), id));
    }

    fn remove(&mut self, path: &Path) -> bool {
        self.changes.push(Change::Removed(path.to_owned()));
        self.names.remove(path).is_some()
    }
}

/// The disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    random: Random,
}

fn failure(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

impl SimulatedDisk {
    /// An empty disk of so many bytes.
    pub fn new(random: Random, capacity: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { capacity, ..State::default() })), random }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine loses its power.
    pub fn cut_power(&self) {
        let mut state = self.lock();
        let changes = std::mem::take(&mut state.changes);
        // A journal: what comes first is held first.
        let held = self.random.below(changes.len() as u64 + 1) as usize;
        for change in changes.into_iter().take(held) {
            match change {
                Change::Named(path, id) => drop(state.held_names.insert(path, id)),
                Change::Removed(path) => drop(state.held_names.remove(&path)),
            }
        }
        state.names = state.held_names.clone();
        state.locked.clear();
        for inode in state.inodes.values_mut() {
            inode.cut(&self.random);
        }
    }

    /// Locks of a process that was killed.
    pub fn unlock_all(&self) {
        self.lock().locked.clear();
    }

    /// Files below a directory: their names and contents.
    pub fn files(&self, dir: &Path) -> Vec<(String, Vec<u8>)> {
        let state = self.lock();
        let below = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        below
            .map(|(path, id)| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, state.inodes[id].seen.clone())
            })
            .collect()
    }

    /// Names of files below a directory.
    pub fn names(&self, dir: &Path) -> Vec<String> {
        let state = self.lock();
        let below = state.names.keys().filter(|path| path.parent() == Some(dir));
        below.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    /// All dead letters that were ever there, line by line.
    pub fn dead_letters_ever(&self) -> BTreeSet<Vec<u8>> {
        self.lock().lines.clone()
    }

    /// Bytes below a directory.
    pub fn bytes(&self, dir: &Path) -> u64 {
        let state = self.lock();
        let below = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        below.map(|(_, id)| state.inodes[id].seen.len() as u64).sum()
    }
}

impl Disk for SimulatedDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.random.call("list", &[Errno::EMFILE, Errno::ENFILE, Errno::EIO, Errno::ENOMEM])?;
        Ok(self.names(dir))
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn Stored>> {
        let errors = [Errno::EMFILE, Errno::ENFILE, Errno::EACCES, Errno::ESTALE, Errno::ENOSPC];
        self.random.call("open", &errors)?;
        let id = {
            let mut state = self.lock();
            match (state.names.get(path).copied(), how) {
                (None, Open::Read) => return Err(failure(Errno::ENOENT)),
                (Some(_), Open::CreateNew(_)) => return Err(failure(Errno::EEXIST)),
                (Some(id), Open::Truncate(_)) => {
                    // The blocks go with the name's next change; a power cut may bring them back or not.
                    let inode = state.inodes.get_mut(&id).unwrap();
                    inode.seen.clear();
                    inode.unsynced.clear();
                    id
                }
                (Some(id), _) => id,
                (None, _) => {
                    state.next += 1;
                    let id = state.next;
                    state.inodes.insert(id, Inode::default());
                    state.name(path, id);
                    id
                }
            }
        };
        self.random.after("open");
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.random.call("rename", &[Errno::EIO, Errno::ENOSPC, Errno::EROFS])?;
        {
            let mut state = self.lock();
            let Some(id) = state.names.get(from).copied() else { return Err(failure(Errno::ENOENT)) };
            // In one step, also for the journal.
            state.names.remove(from);
            state.names.insert(to.to_owned(), id);
            if to.extension().is_some_and(|suffix| suffix == LETTERS) {
                let State { inodes, lines, .. } = &mut *state;
                lines.extend(inodes[&id].seen.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
            }
            state.changes.push(Change::Named(to.to_owned(), id));
            state.changes.push(Change::Removed(from.to_owned()));
        }
        self.random.after("rename");
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.random.call("remove", &[Errno::EIO, Errno::EROFS])?;
        if !self.lock().remove(path) {
            return Err(failure(Errno::ENOENT));
        }
        self.random.after("remove");
        Ok(())
    }

    fn try_lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send>>> {
        self.random.call("lock", &[Errno::EMFILE, Errno::ENOLCK])?;
        if !self.lock().locked.insert(dir.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Locked { disk: self.clone(), dir: dir.to_owned() })))
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.random.call("sync of a directory", &[Errno::EIO, Errno::EMFILE])?;
        {
            let mut state = self.lock();
            state.changes.clear();
            state.held_names = state.names.clone();
        }
        self.random.after("sync of a directory");
        Ok(())
    }
}

struct Locked {
    disk: SimulatedDisk,
    dir: PathBuf,
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.dir);
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
}

impl Stored for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.random.call("read", &[Errno::EIO, Errno::EINTR, Errno::ESTALE, Errno::ENOMEM])?;
        let state = self.disk.lock();
        let rest = state.inodes[&self.id].seen.get(offset as usize..).unwrap_or_default();
        let read = self.disk.random.short(rest.len().min(buffer.len()));
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.random.call("write", &[Errno::EIO, Errno::EINTR, Errno::ENOSPC, Errno::EDQUOT])?;
        let offset = offset as usize;
        let written = {
            let mut state = self.disk.lock();
            let room = state.capacity.saturating_sub(state.used());
            let inode = state.inodes.get_mut(&self.id).unwrap();
            let within = inode.seen.len().saturating_sub(offset);
            let fits = bytes.len().min(within + room as usize);
            if fits == 0 {
                return Err(failure(Errno::ENOSPC));
            }
            let written = self.disk.random.short(fits);
            inode.write(&bytes[..written], offset);
            written
        };
        self.disk.random.after("write");
        Ok(written)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.random.call("truncate", &[Errno::EIO, Errno::EROFS])?;
        let mut state = self.disk.lock();
        let inode = state.inodes.get_mut(&self.id).unwrap();
        inode.seen.truncate(bytes as usize);
        // What was cut off may be there again after a power cut.
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[&self.id].seen.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        if let Err(error) = self.disk.random.call("sync", &[Errno::EIO, Errno::ENOSPC]) {
            // The kernel takes the pages for clean from now on: the next sync says nothing of them.
            let mut state = self.disk.lock();
            let inode = state.inodes.get_mut(&self.id).unwrap();
            inode.unsynced.clear();
            return Err(error);
        }
        {
            let mut state = self.disk.lock();
            let inode = state.inodes.get_mut(&self.id).unwrap();
            let unsynced = std::mem::take(&mut inode.unsynced);
            for Write { offset, bytes } in unsynced {
                let end = offset + bytes.len();
                if inode.held.len() < end {
                    inode.held.resize(end, 0);
                }
                inode.held[offset..end].copy_from_slice(&bytes);
            }
            inode.held.truncate(inode.seen.len());
        }
        self.disk.random.after("sync");
        Ok(())
    }
}
