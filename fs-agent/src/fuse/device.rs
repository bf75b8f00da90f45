//! The kernel's connection of one overlay: requests come out of it, answers and notifications go into it.
//!
//! There is one open file description of it, which is never cloned (FUSE_DEV_IOC_CLONE): requests in flight belong to the
//! description through which they were read, and end with it.

use std::{
    fmt,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use fuser::{Config, Session, SessionACL};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::{Errno, Result, write, writev};
use zerocopy::IntoBytes;

use super::{
    handshake::{Negotiated, Negotiator, Wishes, settle},
    wire::{InvalInodeOut, Notification, OutHeader, PruneOut, RetrieveOut, StoreOut},
};
use crate::sys;

/// The offset with which an inode's attributes are invalidated and its pages are left alone.
const ATTRIBUTES_ONLY: i64 = -1;

/// The number of a request that a reader is woken with. The kernel's own are even.
const WAKING: u64 = u64::MAX >> 2;

/// No node that the kernel is told of has this number.
const NO_NODE: u64 = 0;

/// A message up to this length is sent in one piece: the kernel then looks up one page, and not one for each part.
const SHORT_BYTES: usize = 256;

/// Room for one, within a page.
#[repr(align(256))]
struct Short([u8; SHORT_BYTES]);

const _: () = assert!(align_of::<Short>() == SHORT_BYTES);

impl Default for Short {
    fn default() -> Self {
        Self([0; SHORT_BYTES])
    }
}

impl Short {
    /// `parts` one after the other, which are that long at most together.
    fn put(&mut self, parts: [&[u8]; 3]) -> &[u8] {
        let mut rest = &mut self.0[..];
        for part in parts {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        &self.0
    }
}

/// A connection whose first request, INIT, was answered.
pub struct Connection {
    device: OwnedFd,
    negotiated: Negotiated,
    /// A regular file of which the kernel was told.
    some_file: AtomicU64,
    /// What the FUSE library mounted by path, and unmounts when this is dropped.
    _mounted: Option<Session<Negotiator>>,
}

impl Connection {
    /// Answers the first request of `device`, which belongs to a filesystem that was just made, and takes it over.
    ///
    /// # Errors
    /// If the kernel does not speak the protocol or `device` is of no filesystem.
    pub fn shake_hands(device: OwnedFd, wishes: Wishes) -> io::Result<Self> {
        // The library reads and answers through the same open file description, and then closes its descriptor.
        let lent = device.try_clone()?;
        let (session, negotiated) = settle(wishes, |negotiator| {
            Session::from_fd(negotiator, lent, SessionACL::All, Config::default())
        })?;
        drop(session);
        Ok(Self::resume(device, negotiated))
    }

    /// Takes over what the FUSE library has mounted by path, and unmounts it in the end.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn of_session(session: Session<Negotiator>, negotiated: Negotiated) -> io::Result<Self> {
        let device = session.as_fd().try_clone_to_owned()?;
        Ok(Self { _mounted: Some(session), ..Self::resume(device, negotiated) })
    }

    /// Takes over a connection whose first request was answered before, as `negotiated` says: by another process, perhaps.
    pub fn resume(device: OwnedFd, negotiated: Negotiated) -> Self {
        Self { device, negotiated, some_file: AtomicU64::new(NO_NODE), _mounted: None }
    }

    /// What was settled with the kernel.
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// Whether the kernel has ended it: nobody uses the overlay any more, or somebody has aborted it.
    pub fn has_ended(&self) -> bool {
        let mut device = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
        let asked = poll(&mut device, PollTimeout::ZERO);
        asked.is_ok() && device[0].revents().is_none_or(|events| events.contains(PollFlags::POLLERR))
    }

    /// Sends a message, of which there are at most two parts beside its header.
    fn send(&self, header: (u64, i32), parts: [&[u8]; 2]) -> Result<()> {
        let (unique, error) = header;
        let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: u32::try_from(len).map_err(|_| Errno::MSGSIZE)?, error, unique };
        let parts = [header.as_bytes(), parts[0], parts[1]];
        // A message is taken whole or not at all.
        if len <= SHORT_BYTES {
            write(&self.device, &Short::default().put(parts)[..len]).map(drop)
        } else {
            writev(&self.device, &parts.map(IoSlice::new)).map(drop)
        }
    }

    /// Answers the request `unique`: with `parts` one after the other, or with an errno.
    ///
    /// # Errors
    /// As write(2) of the device says: `ENOENT` if nobody waits for it.
    pub fn answer(&self, unique: u64, answer: std::result::Result<[&[u8]; 2], Errno>) -> Result<()> {
        match answer {
            Ok(parts) => self.send((unique, 0), parts),
            Err(errno) => self.send((unique, -errno.raw_os_error()), [&[], &[]]),
        }
    }

    fn notify(&self, what: Notification, parts: [&[u8]; 2]) -> Result<()> {
        self.send((0, what as i32), parts)
    }

    /// Has the kernel forget the attributes of `node`.
    pub fn forget_attributes(&self, node: u64) {
        let message = InvalInodeOut { ino: node, off: ATTRIBUTES_ONLY, len: 0 };
        // That the kernel knows nothing of the inode is no error.
        let _ = self.notify(Notification::InvalInode, [message.as_bytes(), &[]]);
    }

    /// Whether the kernel knows `node`: it is given none of its bytes.
    pub fn knows(&self, node: u64) -> bool {
        let message = StoreOut { nodeid: node, offset: 0, size: 0, padding: 0 };
        // Any other error says nothing of that.
        self.notify(Notification::Store, [message.as_bytes(), &[]]) != Err(Errno::NOENT)
    }

    /// Asks the kernel to let go of `nodes`, as far as nobody uses them. It may have to write pages back first, by requests:
    /// so never to be called by who answers them.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.18.
    pub fn prune(&self, nodes: &[u64]) -> Result<()> {
        let message =
            PruneOut { count: u32::try_from(nodes.len()).unwrap_or(u32::MAX), ..PruneOut::default() };
        self.notify(Notification::Prune, [message.as_bytes(), nodes.as_bytes()])
    }

    /// Has the kernel send once more all requests that were read and not answered.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.9.
    pub fn resend(&self) -> Result<()> {
        self.notify(Notification::Resend, [&[], &[]])
    }

    /// Takes note that the kernel knows `node`, a regular file.
    pub fn told_of_file(&self, node: u64) {
        self.some_file.store(node, Ordering::Relaxed);
    }

    /// Wakes one of those who wait in read(2) for requests, with one that asks for nothing: see [`is_waking`]. There is no
    /// other way that does not disturb what a thread does. It takes a regular file that the kernel knows: it is asked for
    /// none of its pages.
    ///
    /// # Errors
    /// `ENOENT` if the kernel has forgotten the last of those files of which it was told, or knows none.
    pub fn wake_reader(&self) -> Result<()> {
        let nodeid = self.some_file.load(Ordering::Relaxed);
        let message = RetrieveOut { notify_unique: WAKING, nodeid, offset: 0, size: 0, padding: 0 };
        self.notify(Notification::Retrieve, [message.as_bytes(), &[]])
    }

    /// Has the kernel read and map the file that `fd` holds by itself.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, `ELOOP` for a file on a stacked filesystem.
    pub fn back(self: &Arc<Self>, fd: BorrowedFd<'_>) -> io::Result<BackingId> {
        let number = sys::open_backing(self.device.as_fd(), fd)?;
        Ok(self.backing(number))
    }

    /// A file that the kernel of this connection knows by `number`, and that is the caller's to close.
    pub fn backing(self: &Arc<Self>, number: u32) -> BackingId {
        BackingId { connection: Arc::downgrade(self), number }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("device", &self.device)
            .field("negotiated", &self.negotiated)
            .finish_non_exhaustive()
    }
}

/// Whether the request of that number is one of [`Connection::wake_reader`].
pub fn is_waking(unique: u64) -> bool {
    unique == WAKING
}

/// A file below that the kernel reads and maps itself, for as long as this lives. It belongs to its connection, whichever
/// process serves that.
#[derive(Debug)]
pub struct BackingId {
    connection: Weak<Connection>,
    number: u32,
}

impl BackingId {
    /// What the kernel knows it by. Never 0.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            // It fails if the connection has ended, and its files with it.
            let _ = sys::close_backing(connection.device.as_fd(), self.number);
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
