//! A FIFO in the filesystem: whether it can be read, making it, opening it.

use std::{
    fs::{self, Metadata},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bywash_common::{
    config::FifoConfig,
    make::{Access, Kind, make},
    units::ByteSize,
};
use nix::{
    fcntl::{FcntlArg, fcntl},
    unistd::{Group, User},
};
use rustix::{
    fs::{self as system, AtFlags, CWD, FlockOperation, Mode, OFlags, accessat, flock, open},
    io::Errno,
    path::DecInt,
    process::geteuid,
};

use super::{
    keep::{Keep, Left},
    memory::{Mark, Memory},
};
use crate::{fd_store::Store, privilege};

/// A configured FIFO cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is not there.
    #[error("the FIFO {0} does not exist: make it (mkfifo {0}), or set `create = true` for it", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Nor is the directory in which it is to be made.
    #[error("cannot make the FIFO {}: the directory {} does not exist", path.display(), parent.display())]
    NoParent {
        /// Where it should be.
        path: PathBuf,
        /// The directory.
        parent: PathBuf,
    },
    /// It is something else.
    #[error("{} is {what}, not a FIFO: choose another path, or move it away and make a FIFO (mkfifo)", path.display())]
    NotAFifo {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A symbolic link of somebody else's leads there.
    #[error(
        "{} is a symbolic link to a FIFO, and belongs to uid {uid}: refused; write the path it leads to, or give the link \
         to root (chown -h)",
        path.display()
    )]
    Link {
        /// The path.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// A watched directory is around it.
    #[error(
        "the FIFO {} lies under the watched directory {}: put it elsewhere, such as in /run",
        path.display(), directory.display()
    )]
    Watched {
        /// The FIFO.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Nobody has the name of the owner or the group.
    #[error("the {kind} `{name}` of the FIFO {} does not exist", path.display())]
    Nobody {
        /// The FIFO.
        path: PathBuf,
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Two paths lead to it.
    #[error("{} and {} are the same FIFO: keep one of the two", path.display(), other.display())]
    Twice {
        /// One path.
        path: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// Somebody else reads it.
    #[error("the FIFO {} is read by another fs-agent: stop that one, or leave the FIFO to it", path.display())]
    Held {
        /// The FIFO.
        path: PathBuf,
    },
    /// It belongs to somebody who does not let this user read.
    #[error(
        "cannot read from the FIFO {}: Permission denied for uid {uid}: run fs-agent as its owner or as root, or let its \
         group read (chmod g+r)",
        path.display()
    )]
    Unreadable {
        /// The FIFO.
        path: PathBuf,
        /// Who may not.
        uid: u32,
    },
    /// The system says no.
    #[error("cannot {action} the FIFO {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl Unusable {
    /// Whether the configuration has to change, rather than the machine.
    pub fn is_config(&self) -> bool {
        !matches!(self, Self::Held { .. } | Self::Unreadable { .. } | Self::Io { .. })
    }

    fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), error: error.into() }
    }
}

/// Tells a FIFO from another one at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The reading end of a FIFO.
#[derive(Debug)]
pub struct Opened {
    /// Does not block.
    pub fd: OwnedFd,
    /// Which it is.
    pub id: FileId,
    /// How many bytes the pipe holds.
    pub pipe_bytes: usize,
    /// By which the agent before has kept it, and what that has read of it.
    pub left: Option<(Keep, Memory, Mark)>,
}

impl Opened {
    /// The reading end that the agent before has left; none if it is no FIFO at all.
    pub fn take_up(left: Left, fifo: &FifoConfig) -> Option<Self> {
        let pipe = fs::File::from(left.pipe);
        let metadata = pipe.metadata().ok().filter(|metadata| metadata.file_type().is_fifo())?;
        let pipe_bytes = enlarge(&pipe, fifo.pipe_size.0, &fifo.path);
        let left = Some((left.keep, left.memory, left.mark));
        Some(Self { fd: pipe.into(), id: FileId::of(&metadata), pipe_bytes, left })
    }

    /// Where what is read goes, up to where it is used, and what keeps that and the pipe for the next agent: what the agent before has
    /// left, or new. `path` is the FIFO's.
    ///
    /// # Errors
    /// Without memory.
    pub fn memory(
        &mut self,
        store: &Arc<Store>,
        path: &Path,
    ) -> rustix::io::Result<(Option<Keep>, Memory, Mark)> {
        if let Some((keep, memory, mark)) = self.left.take() {
            return Ok((Some(keep), memory, mark));
        }
        let memory = Memory::new(path)?;
        let keep = Keep::new(store, self.fd.as_fd(), memory.as_fd());
        Ok((keep, memory, Mark::default()))
    }
}

/// The reading end of a FIFO that somebody else may read.
#[derive(Debug)]
pub struct Unlocked {
    opened: Opened,
    path: PathBuf,
}

impl Unlocked {
    /// The one that `opened` is.
    pub fn new(opened: Opened, path: &Path) -> Self {
        Self { opened, path: path.to_owned() }
    }

    /// Which FIFO it is.
    pub fn id(&self) -> FileId {
        self.opened.id
    }

    /// Sees to it that nobody else reads it: two readers would share the bytes out between them. The kernel lets go however
    /// this process ends.
    ///
    /// # Errors
    /// If somebody does.
    pub fn lock(self) -> Result<Opened, Unusable> {
        match flock(&self.opened.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(self.opened),
            Err(_) => Err(Unusable::Held { path: self.path }),
        }
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A FIFO.
    Fifo(FileId),
    /// Nothing.
    Nothing,
    /// Something else.
    Other(&'static str),
}

/// Looks what is at `path`, through symbolic links.
///
/// # Errors
/// If the system does not say.
pub fn look(path: &Path) -> io::Result<Found> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_fifo() => Ok(Found::Fifo(FileId::of(&metadata))),
        Ok(metadata) => Ok(Found::Other(kind_of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_file() => "a regular file",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

/// Whether `fifo` can be read, as far as can be said without changing anything.
///
/// # Errors
/// Why it cannot.
pub fn check(fifo: &FifoConfig) -> Result<(), Unusable> {
    let path = &fifo.path;
    match look(path).map_err(|error| Unusable::io("look at", path, error))? {
        Found::Fifo(_) => {
            accessat(CWD, path, system::Access::READ_OK, AtFlags::EACCESS).map_err(|error| match error {
                Errno::ACCESS => Unusable::Unreadable { path: path.clone(), uid: geteuid().as_raw() },
                error => Unusable::io("read from", path, error),
            })
        }
        Found::Other(what) => Err(Unusable::NotAFifo { path: path.clone(), what }),
        Found::Nothing if fifo.create => check_creatable(fifo),
        Found::Nothing => Err(Unusable::Missing { path: path.clone() }),
    }
}

fn check_creatable(fifo: &FifoConfig) -> Result<(), Unusable> {
    owner_of(fifo)?;
    let parent = fifo.path.parent().unwrap_or(Path::new("/"));
    if parent.is_dir() {
        Ok(())
    } else {
        Err(Unusable::NoParent { path: fifo.path.clone(), parent: parent.to_owned() })
    }
}

/// Opens `fifo` for reading, and for nobody else to read it; see [`open_unlocked`].
///
/// # Errors
/// Why it cannot be read.
pub fn open_fifo(fifo: &FifoConfig) -> Result<Opened, Unusable> {
    open_unlocked(fifo)?.lock()
}

/// Opens `fifo` for reading, after making it if it shall be made and is not there. Its pipe becomes as large as
/// configured if the kernel allows it.
///
/// # Errors
/// Why it cannot be read.
pub fn open_unlocked(fifo: &FifoConfig) -> Result<Unlocked, Unusable> {
    check(fifo)?;
    let path = &fifo.path;
    if fifo.create && look(path).is_ok_and(|found| found == Found::Nothing) {
        create(fifo)?;
    }
    // Another one than was looked at, perhaps. Opening a device can do something.
    let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = fs::File::from(found.map_err(|error| Unusable::io("open", path, error))?);
    let metadata = found.metadata().map_err(|error| Unusable::io("look at", path, error))?;
    if !metadata.file_type().is_fifo() {
        return Err(Unusable::NotAFifo { path: path.clone(), what: kind_of(&metadata) });
    }
    refuse_strangers_link(path, &metadata)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let reopened = Path::new("/proc/self/fd").join(DecInt::from_fd(&found).as_ref() as &Path);
    let file = open(&reopened, flags, Mode::empty()).map_err(|error| Unusable::io("open", path, error))?;
    let pipe_bytes = enlarge(&file, fifo.pipe_size.0, path);
    let opened = Opened { fd: file, id: FileId::of(&metadata), pipe_bytes, left: None };
    Ok(Unlocked { opened, path: path.clone() })
}

/// Who may write to the directory of a FIFO, and so put a symbolic link in its place, must not have this process read
/// another's. `fifo` is what was found at `path`.
fn refuse_strangers_link(path: &Path, fifo: &Metadata) -> Result<(), Unusable> {
    let last = fs::symlink_metadata(path).map_err(|error| Unusable::io("look at", path, error))?;
    let trusted = [0, geteuid().as_raw(), fifo.uid()];
    let is_fine = match last.is_symlink() {
        true => trusted.contains(&last.uid()),
        false => FileId::of(&last) == FileId::of(fifo),
    };
    if is_fine { Ok(()) } else { Err(Unusable::Link { path: path.to_owned(), uid: last.uid() }) }
}

/// Makes the pipe hold `wanted` bytes, if it holds less; gives what it holds then.
pub fn enlarge(pipe: impl AsFd, wanted: u64, path: &Path) -> usize {
    let held = fcntl(&pipe, FcntlArg::F_GETPIPE_SZ).unwrap_or(0);
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    // Beyond fs.pipe-max-size only with the capability.
    let enlarge = || fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(wanted));
    let set = if wanted > held { privilege::with_resource(enlarge) } else { Ok(held) };
    let holds = usize::try_from(*set.as_ref().unwrap_or(&held)).unwrap_or(0);
    if let Err(error) = set {
        let (shown, held, wanted) = (path.display(), ByteSize(holds as u64), ByteSize(wanted as u64));
        tracing::info!("the pipe of {shown} stays at {held}, the kernel does not allow {wanted}: {error}");
    }
    holds
}

/// Makes the FIFO. One that somebody else has made meanwhile is taken as it is.
fn create(fifo: &FifoConfig) -> Result<(), Unusable> {
    let path = &fifo.path;
    let (owner, group) = owner_of(fifo)?;
    match make(Kind::Fifo, path, Access { mode: fifo.mode, owner, group }) {
        Ok(()) => {
            tracing::info!("made the FIFO {}", path.display());
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Unusable::io("make", path, error)),
    }
}

/// Whose it shall be, where configured.
fn owner_of(fifo: &FifoConfig) -> Result<(Option<u32>, Option<u32>), Unusable> {
    let nobody = |kind, name: &String| Unusable::Nobody { path: fifo.path.clone(), kind, name: name.clone() };
    let user = |name: &String| match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(nobody("user", name)),
    };
    let group = |name: &String| match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(nobody("group", name)),
    };
    Ok((fifo.owner.as_ref().map(user).transpose()?, fifo.group.as_ref().map(group).transpose()?))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
