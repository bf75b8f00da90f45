//! Descriptors that outlive this process: whoever started it, systemd or `fs-agent supervise`, keeps them, and hands them to
//! the next agent.
//!
//! The protocol is systemd's (sd_notify(3), sd_listen_fds(3), `FileDescriptorStoreMax=` of systemd.service(5)), and a
//! supervisor speaks the same. Where nobody keeps anything, all of this does nothing, and overlays end with the agent.
//!
//! A manager says of no message whether it did what was asked for. What is known: that a message could be sent; by a barrier,
//! that the manager has read it; and of systemd, how many descriptors it has then.

mod bus;
mod environment;
mod generation;
mod name;
mod notify;
mod successor;
mod systemd;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{fs::fstat, io::Errno};

use environment::Environment;
pub use environment::{HANDED_COUNT, HANDED_NAMES, HANDED_TO, NOTIFY, STOP_NAME, STORE_MAX};
pub use generation::Generation;
pub use name::{AgentPart, DirectoryPart, FifoPart, NAME_BYTES_MAX, Name, OverlayPart};
pub use notify::{SENT_MAX, Socket};

pub use successor::{Successor, follows_ended};
pub use systemd::Unit;

use crate::shares::{NoneLeft, Share, Shares};

/// The most descriptors that are kept. Their names are handed over in one variable of the environment, of which the kernel
/// takes 128 KiB (MAX_ARG_STRLEN): with more, no agent could be started. `FileDescriptorStoreMax=` of the unit is the same.
pub const KEPT_MAX: usize = 4096;
const _: () = assert!(HANDED_NAMES.len() + 1 + KEPT_MAX * (NAME_BYTES_MAX + 1) < 128 << 10);

/// Which part of what is kept can be files that users have deleted while they were open: three of so many. The rest is for what
/// no restart goes well without: overlays and FIFOs.
const PARKED_PARTS: usize = 4;

/// How long the manager may take to read what it was sent.
const BARRIER_TIME_MAX: Duration = Duration::from_secs(5);

/// A descriptor is not kept: it ends with this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// Nobody keeps anything.
    #[error("nobody keeps descriptors for this process")]
    NoStore,
    /// There are too many.
    #[error("the manager keeps {most} descriptors for this process and no more")]
    Full {
        /// How many it keeps.
        most: usize,
    },
    /// There are too many of one user's.
    #[error(
        "of the {most} deleted files that the manager keeps open for this process, {has} are of user {uid}"
    )]
    Share {
        /// How many it keeps.
        most: usize,
        /// How many of them are this user's.
        has: usize,
        /// Whose the file is.
        uid: u32,
    },
    /// It could not be sent.
    #[error("cannot send a descriptor to the manager: {0}")]
    Refused(Errno),
}

/// Who keeps what.
#[derive(Debug)]
enum Manager {
    /// Nobody.
    None,
    /// systemd, for this unit.
    Systemd(Unit),
    /// `fs-agent supervise`. What is to be read here says that it stops; so does its end.
    Supervisor(OwnedFd),
}

/// What is kept beyond this process's end.
#[derive(Debug)]
pub struct Store {
    manager: Manager,
    socket: Option<Socket>,
    /// How many descriptors are kept at most.
    most: usize,
    /// What is kept, as far as this process knows, and what counts it for a user if it is one's.
    kept: Mutex<HashMap<Name, Option<Share>>>,
    /// Of what is users'.
    shares: Shares,
    /// What was kept for this process and is not taken yet.
    handed: Mutex<Vec<(Name, OwnedFd)>>,
    next_overlay: AtomicU32,
    next_directory: AtomicU32,
    next_fifo: AtomicU32,
    complained: AtomicBool,
}

impl Store {
    /// The store that whoever started this process has, with what is in it. To be called once, before there are threads.
    pub fn from_environment() -> Self {
        let Environment { mut handed, notify, store_max, by_systemd } = Environment::take();
        let stop = handed.iter().position(|(name, _)| name == STOP_NAME).map(|at| handed.remove(at).1);
        let manager = match (stop, by_systemd.then(Unit::own).flatten()) {
            (Some(stop), _) => Manager::Supervisor(stop),
            (None, Some(unit)) => Manager::Systemd(unit),
            (None, None) => Manager::None,
        };
        let socket = notify.filter(|_| !matches!(manager, Manager::None)).and_then(|path| {
            let connected = Socket::connect(&path);
            connected.inspect_err(|errno| tracing::warn!("{}: {errno}", path.display())).ok()
        });
        let most = match (&manager, store_max) {
            (Manager::None, _) => 0,
            (_, Some(most)) => most,
            // Not asked for where the answer is known: this process is waited for.
            _ if !handed.is_empty() => KEPT_MAX,
            (Manager::Systemd(unit), None) => store_max_of(unit),
            (Manager::Supervisor(_), None) => KEPT_MAX,
        };
        Self::with(manager, socket, most.min(KEPT_MAX), handed)
    }

    fn with(manager: Manager, socket: Option<Socket>, most: usize, handed: Vec<(String, OwnedFd)>) -> Self {
        let mut known = Vec::with_capacity(handed.len());
        let mut strangers = Vec::new();
        for (text, fd) in handed {
            match Name::parse(&text) {
                Some(name) => known.push((name, fd)),
                None => strangers.push(text),
            }
        }
        let shares = Shares::new(most / PARKED_PARTS * (PARKED_PARTS - 1));
        let share =
            |(name, fd): &(Name, OwnedFd)| (*name, owner(name, fd.as_fd()).map(|uid| shares.keep(uid)));
        let kept: HashMap<Name, Option<Share>> = known.iter().map(share).collect();
        let next = |number: fn(&Name) -> Option<u32>| {
            let last = kept.keys().filter_map(number).max();
            AtomicU32::new(last.map_or(0, |last| last.wrapping_add(1)))
        };
        let next_overlay = next(|name| if let Name::Overlay(n, _) = name { Some(*n) } else { None });
        let next_directory = next(|name| if let Name::Directory(n, _) = name { Some(*n) } else { None });
        let next_fifo = next(|name| if let Name::Fifo(n, _) = name { Some(*n) } else { None });
        let store = Self {
            manager,
            socket,
            most,
            kept: Mutex::new(kept),
            shares,
            handed: Mutex::new(known),
            next_overlay,
            next_directory,
            next_fifo,
            complained: AtomicBool::new(false),
        };
        for text in strangers {
            tracing::warn!(
                "a descriptor called `{text}` was kept, which this version does not know: letting go of it"
            );
            store.let_go(&text);
        }
        store
    }

    /// Whether anything is kept beyond this process's end.
    pub fn is_there(&self) -> bool {
        self.socket.is_some() && self.most > 0
    }

    /// Whether overlays were kept for this process that it has not taken yet.
    pub fn has_overlays(&self) -> bool {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.iter().any(|(name, _)| matches!(name, Name::Overlay(..)))
    }

    /// What was kept for this process. It is kept on, until it is removed.
    pub fn take(&self) -> Vec<(Name, OwnedFd)> {
        std::mem::take(&mut *self.handed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was kept for this process under `name`, as [`Self::take`].
    pub fn take_one(&self, name: &Name) -> Option<OwnedFd> {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let at = handed.iter().position(|(other, _)| other == name)?;
        Some(handed.swap_remove(at).1)
    }

    /// What was kept for this process of overlays and watched directories, as [`Self::take`].
    pub fn take_of_overlays(&self) -> Vec<(Name, OwnedFd)> {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_overlays =
            |(name, _): &mut (Name, OwnedFd)| matches!(name, Name::Overlay(..) | Name::Directory(..));
        handed.extract_if(.., is_of_overlays).collect()
    }

    /// A number for an overlay under which nothing is kept.
    pub fn next_overlay(&self) -> u32 {
        self.next_overlay.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a watched directory under which nothing is kept.
    pub fn next_directory(&self) -> u32 {
        self.next_directory.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a FIFO under which nothing is kept.
    pub fn next_fifo(&self) -> u32 {
        self.next_fifo.fetch_add(1, Ordering::Relaxed)
    }

    /// The numbers of FIFOs of which something was kept for this process.
    pub fn fifos(&self) -> BTreeSet<u32> {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed
            .iter()
            .filter_map(|(name, _)| if let Name::Fifo(n, _) = name { Some(*n) } else { None })
            .collect()
    }

    /// Has `fd` kept under `name`, in the place of what is kept under that by now.
    ///
    /// # Errors
    /// If it is not. That is said once in the log.
    pub fn put(&self, name: &Name, fd: BorrowedFd<'_>) -> Result<(), NotKept> {
        let put = self.try_put(name, fd);
        if let Err(why) = put
            && !matches!(why, NotKept::NoStore | NotKept::Share { .. })
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                "{why}: what is open now will not outlive this agent, `{name}` and what comes after"
            );
        }
        put
    }

    fn try_put(&self, name: &Name, fd: BorrowedFd<'_>) -> Result<(), NotKept> {
        let Some(socket) = self.socket.as_ref().filter(|_| self.most > 0) else {
            return Err(NotKept::NoStore);
        };
        let mut kept = self.kept();
        let share = if let Some(former) = kept.remove(name) {
            self.let_go(&name.to_string());
            former
        } else if kept.len() >= self.most {
            return Err(NotKept::Full { most: self.most });
        } else {
            let take = |uid| {
                let refused = |NoneLeft { has }| NotKept::Share { most: self.shares.max(), has, uid };
                self.shares.take(uid).map_err(refused)
            };
            owner(name, fd).map(take).transpose()?
        };
        // Without FDPOLL=0 systemd lets go of a connection that has ended, and of other things that poll as such.
        let message = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        socket.send(&message, &[fd]).map_err(NotKept::Refused)?;
        kept.insert(*name, share);
        Ok(())
    }

    /// Has what is kept under `name` kept no longer.
    pub fn remove(&self, name: &Name) {
        // Under the lock: nobody puts another one under the name before this one is let go of.
        let mut kept = self.kept();
        if kept.remove(name).is_some() {
            self.let_go(&name.to_string());
        }
    }

    /// As [`Self::remove`], with all of an overlay.
    pub fn remove_overlay(&self, number: u32) {
        let of_it = |name: &&Name| matches!(name, Name::Overlay(n, _) if *n == number);
        let names: Vec<Name> = self.kept().keys().filter(of_it).copied().collect();
        names.iter().for_each(|name| self.remove(name));
    }

    fn let_go(&self, name: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(errno) = socket.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]) {
            tracing::warn!("the manager keeps `{name}`, which is of no use any more: {errno}");
        }
    }

    /// Whether all that was put is kept, as far as the manager says.
    ///
    /// # Errors
    /// If the manager does not answer, or has less.
    pub fn verify(&self) -> Result<()> {
        let (Some(socket), true) = (&self.socket, self.most > 0) else { return Ok(()) };
        let expected = self.kept().len();
        socket.barrier(BARRIER_TIME_MAX)?;
        if let Manager::Systemd(unit) = &self.manager {
            let stored = unit.stored()?;
            ensure!(stored >= expected, "systemd keeps {stored} of {expected} descriptors");
        }
        Ok(())
    }

    /// Whether another agent follows once this one ends: to be asked when it was told to end.
    pub fn successor(&self) -> Successor {
        match &self.manager {
            Manager::None => Successor::DoesNot,
            Manager::Supervisor(stop) => {
                let said = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
                if said == Ok(0) { Successor::Comes } else { Successor::DoesNot }
            }
            Manager::Systemd(unit) => successor::follows_told(unit),
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Name, Option<Share>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose what is kept under `name` is, if it is a file that a user has deleted: whoever deletes it, it counts for its owner, as
/// for a quota.
fn owner(name: &Name, fd: BorrowedFd<'_>) -> Option<u32> {
    let is_users = matches!(name, Name::Overlay(_, OverlayPart::Parked(_)));
    is_users.then(|| fstat(fd).map_or(0, |stat| stat.st_uid))
}

fn store_max_of(unit: &Unit) -> usize {
    match unit.store_max() {
        Ok(0) => {
            tracing::info!("the unit has no FileDescriptorStoreMax=: the overlays end with the agent");
            0
        }
        Ok(most) => most,
        Err(error) => {
            tracing::warn!("systemd does not say how many descriptors it keeps: {error:#}");
            KEPT_MAX
        }
    }
}
