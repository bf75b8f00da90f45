//! The directory below, as operations on node ids and handles: what every operation on the overlay comes down to.
//!
//! Nothing here knows FUSE, so all of it can be tested without a mount. Everything is relative to descriptors that
//! were opened before the overlay was mounted: resolving a path under the mount from within this process would
//! wait for itself.

mod believed_size;
mod caller;
mod descriptors;
mod dirs;
mod files;
mod flags;
mod forgotten;
mod handle;
mod identity;
mod inode;
mod links;
mod meta;
mod names;
mod park;
mod paths;
mod restore;
#[cfg(test)]
mod restore_tests;
mod set_id;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FsWord, Mode, OFlags, Statx, StatxFlags, fstatfs, openat, statx},
    io::Errno,
};

pub use caller::Caller;
pub use descriptors::Opens;
pub use files::{Cause, Durability, WriteRequest};
pub use handle::{HandleNumbers, OpenDir, OpenFile};
pub use identity::{Identity, check_own_masks};
pub use inode::Limits;
pub use links::NAME_TTL;
pub use meta::{Change, Xattr};
pub use names::NewMode;
pub use park::{Park, Parked};
pub use restore::{Begun, RestoreError, Restored};

use forgotten::Inherited;
use handle::Handles;
use inode::{Inode, Inodes, ROOT, names_of};
use links::{Link, Lookups, Names};
use park::Parking;

use crate::{
    state::{RootId, Slot, State},
    sync::lock,
};

/// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
const OVERLAYFS_MAGIC: FsWord = 0x794c_7630;

/// Filesystems that do nothing at close(2), which therefore cannot fail, and look files up without waiting for another
/// machine or process: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS.
const LOCAL: [FsWord; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];

/// What is asked of a file when the kernel is told of it. Its time of birth tells it from others of its number.
const ADMITTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// What an operation gives; the errno goes to the caller as it is.
pub type Result<T> = rustix::io::Result<T>;

/// A file that the kernel is told of.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its node id. The kernel holds on to it until it forgets it.
    pub node: u64,
    /// Its attributes.
    pub stat: Statx,
    /// The kernel may remember the name for a while. Else it is to ask whenever it uses it: see [`links`].
    pub lasts: bool,
}

/// What the overlays of one agent share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// As whom they act.
    pub identity: Identity,
    /// The numbers of what is open in them.
    pub handles: HandleNumbers,
    /// How much each user has open in them.
    pub opens: Opens,
}

/// One directory with all that is open in it.
pub struct Overlay {
    /// The directory's absolute path, as writers see it.
    path: Vec<u8>,
    inodes: Inodes,
    lookups: Lookups,
    files: Handles<OpenFile>,
    dirs: Handles<OpenDir>,
    numbers: HandleNumbers,
    opens: Opens,
    identity: Identity,
    /// What outlives this process.
    state: Arc<State>,
    /// Descriptors that outlive it.
    parking: Parking,
    /// What a predecessor has told the kernel of.
    inherited: Inherited,
    /// What filesystem the directory is on; as statfs(2) says it.
    fs_type: FsWord,
    /// `/proc/self/fd`: through it a file that is held with O_PATH can be opened again.
    own_fds: Arc<OwnedFd>,
    /// Has what others have mounted and unmounted on the overlay followed below, and waits for that a while.
    settle_mounts: Option<SettleMounts>,
}

/// See [`Overlay::settle_mounts_by`].
pub type SettleMounts = Box<dyn Fn() + Send + Sync>;

impl Overlay {
    /// Takes the directory that `root` holds with O_PATH. Writers see it at `path`.
    ///
    /// # Errors
    /// If it cannot be examined.
    pub fn over(root: OwnedFd, path: &Path, shared: &Shared, limits: Limits) -> Result<Self> {
        let id = root_id(&root)?;
        let (state, slot) = State::create(path, id, shared.opens.max()).map_err(|error| {
            tracing::error!("no state for an overlay over {}: {error}", path.display());
            Errno::NOMEM
        })?;
        Self::kept_in(state, slot, root, path, shared, limits)
    }

    /// As [`Self::over`], with a state in which there is the root alone, in `slot`.
    fn kept_in(
        state: Arc<State>,
        slot: Slot,
        root: OwnedFd,
        path: &Path,
        shared: &Shared,
        limits: Limits,
    ) -> Result<Self> {
        let fs_type = fstatfs(&root)?.f_type;
        let own_fds = own_fds()?;
        let inodes = Inodes::new(root, &state, slot, limits, &own_fds);
        Ok(Self::with(path, shared, state, inodes, own_fds, fs_type))
    }

    fn with(
        path: &Path,
        shared: &Shared,
        state: Arc<State>,
        inodes: Inodes,
        own_fds: Arc<OwnedFd>,
        fs_type: FsWord,
    ) -> Self {
        let taken_up = state.highest_handle();
        shared.handles.share(&state);
        Self {
            path: path.as_os_str().as_bytes().to_vec(),
            fs_type,
            inodes,
            lookups: Lookups::default(),
            files: Handles::new(shared.handles.clone(), &state, taken_up),
            dirs: Handles::new(shared.handles.clone(), &state, taken_up),
            parking: Parking::default(),
            inherited: Inherited::default(),
            state,
            numbers: shared.handles.clone(),
            opens: shared.opens.clone(),
            identity: shared.identity,
            own_fds,
            settle_mounts: None,
        }
    }

    /// What outlives this process.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// All files that are open.
    pub fn open_files(&self) -> Vec<Arc<OpenFile>> {
        self.files.all()
    }

    /// Has `settle` called when a mount point in the directory below is in the way of an operation: it waits until what
    /// others have unmounted on the overlay is unmounted below as well.
    pub fn settle_mounts_by(&mut self, settle: SettleMounts) {
        self.settle_mounts = Some(settle);
    }

    /// Has `tell`, which waits for nobody, called when the kernel knows so many inodes that it should be asked to forget
    /// some. To be called once.
    pub fn on_pressure(&self, tell: Box<dyn Fn() + Send + Sync>) {
        self.inodes.on_pressure(tell);
    }

    /// Up to `count` nodes that the kernel may forget rather than others.
    pub fn oldest(&self, count: usize) -> Vec<u64> {
        self.inodes.oldest(count).iter().map(|inode| inode.id).collect()
    }

    /// Whether files in the directory can have ACLs.
    pub fn has_acls(&self) -> bool {
        self.getxattr(ROOT, OsStr::new(meta::ACCESS_ACL), 0) != Err(Errno::OPNOTSUPP)
    }

    /// Whether the directory is on a filesystem that is itself stacked on another: overlayfs, as in containers.
    pub fn is_on_stacked_filesystem(&self) -> bool {
        self.fs_type == OVERLAYFS_MAGIC
    }

    /// Whether the directory is on a filesystem of this machine's own, as far as is known.
    pub fn is_local(&self) -> bool {
        LOCAL.contains(&self.fs_type)
    }

    /// Whether closing `file` does nothing below that could fail, as far as is known.
    pub fn closes_silently(&self, file: &OpenFile) -> bool {
        self.is_local() && self.inodes.is_on_roots_filesystem(&file.inode)
    }

    /// The open file that the kernel calls `handle`.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn file(&self, handle: u64) -> Result<Arc<OpenFile>> {
        self.files.get(handle)
    }

    /// Does `work` with what is open as `handle`, a file or a directory: they have numbers of one kind.
    fn with_open<T>(&self, handle: u64, work: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
        match self.files.get(handle) {
            Ok(file) => work(file.fd()?),
            Err(_) => work(self.dirs.get(handle)?.fd()?),
        }
    }

    /// Does `work` as `caller`, and once more with what `caller` has beyond its ids if the lack of that may have kept it from
    /// being done.
    ///
    /// # Errors
    /// What `work` gives.
    pub fn by<T>(&self, caller: Caller, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        self.identity.assume(caller)?;
        match work() {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::ACCESS))
                if self.identity.can_act_for_others() =>
            {
                caller.more().map_or(Err(errno), |more| more.lend(work))
            }
            done => done,
        }
    }

    /// Tells the kernel of the file that `fd` holds, reached as `name` in `parent`.
    fn admit(&self, fd: OwnedFd, parent: &Arc<Inode>, name: &OsStr) -> Result<(Entry, Arc<Link>)> {
        let stat = statx(&fd, "", AtFlags::EMPTY_PATH, ADMITTED)?;
        let (inode, link) = self.inodes.admit(Some(fd), &stat, parent, name);
        let lasts = names_of(&stat) == Names::One;
        Ok((Entry { node: inode.id, stat, lasts }, link))
    }
}

/// `/proc/self/fd`.
fn own_fds() -> Result<Arc<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(rustix::fs::CWD, "/proc/self/fd", flags, Mode::empty()).map(Arc::new)
}

/// What tells the directory that `root` holds from others.
fn root_id(root: &OwnedFd) -> Result<RootId> {
    let stat = statx(root, "", AtFlags::EMPTY_PATH, ADMITTED)?;
    let (dev, ino) = inode::key_of(&stat);
    Ok(RootId { dev, ino, birth: inode::birth_of(&stat) })
}

impl Drop for Overlay {
    /// The kernel has not let go of what this process does: a successor is to find it as it is. If the overlay has ended, nobody
    /// looks.
    fn drop(&mut self) {
        self.state.freeze();
        self.numbers.leave(&self.state);
    }
}

/// The attributes of what `fd` holds.
fn stat_of(fd: impl AsFd) -> Result<Statx> {
    statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}
