//! Where the agent's messages arrive, and where those for a manager above go.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bywash_common::config::Config;
use nix::unistd::Pid;
use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketAddrUnix,
        SocketFlags, SocketType, bind, getsockname, recvmsg, socket_with, sockopt,
    },
    process::geteuid,
};

use crate::{
    fd_store::{NOTIFY, SENT_MAX, Socket},
    sleep,
};

/// The longest message in bytes: an agent's are a tenth of it.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Nobody but the owner may send anything.
const MODE: u32 = 0o600;

/// The receiving end. All of its memory is there from the start.
pub struct Inbox {
    socket: OwnedFd,
    path: PathBuf,
    bytes: Box<[u8; MESSAGE_BYTES_MAX]>,
    fds: Vec<OwnedFd>,
}

impl Inbox {
    /// At a path of its own.
    ///
    /// # Errors
    /// If there can be none.
    pub fn bind(config: &Config) -> Result<Self> {
        let path = path_of_this_process(config);
        Ok(Self::with(bound(&path)?, path))
    }

    /// The one that this process had before it became another program: where it was, whatever the configuration says by now.
    ///
    /// # Errors
    /// If it is none.
    pub fn kept(socket: OwnedFd) -> Result<Self> {
        let path = path_of(&socket)?;
        Ok(Self::with(socket, path))
    }

    /// Has it at its path again, if somebody has taken it away: the next agent could say nothing.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn be_there(&mut self) -> Result<()> {
        if fs::symlink_metadata(&self.path).is_err() {
            self.socket = bound(&self.path)?;
        }
        Ok(())
    }

    fn with(socket: OwnedFd, path: PathBuf) -> Self {
        Self { socket, path, bytes: Box::new([0; MESSAGE_BYTES_MAX]), fds: Vec::with_capacity(SENT_MAX) }
    }

    /// What `NOTIFY_SOCKET` is to say.
    pub fn address(&self) -> &OsStr {
        self.path.as_os_str()
    }

    /// The next message of process `sender`, with what came along, if there is one. Those of others are dropped.
    pub fn receive(&mut self, sender: Option<Pid>) -> Option<(&str, &mut Vec<OwnedFd>)> {
        let len = loop {
            self.fds.clear();
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SENT_MAX), ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(&mut *self.bytes)];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.socket, &mut bytes, &mut control, flags) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            };
            let mut from = None;
            for message in control.drain() {
                match message {
                    RecvAncillaryMessage::ScmRights(fds) => self.fds.extend(fds),
                    RecvAncillaryMessage::ScmCredentials(who) => from = Some(who.pid.as_raw_nonzero().get()),
                    _ => {}
                }
            }
            let is_whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
            let is_agent = sender.is_some_and(|sender| from == Some(sender.as_raw()));
            if is_whole && is_agent && std::str::from_utf8(&self.bytes[..received.bytes]).is_ok() {
                break received.bytes;
            }
            tracing::warn!(
                "a message to the supervisor that is not from its agent (pid {from:?}) is not heeded"
            );
        };
        Some((std::str::from_utf8(&self.bytes[..len]).unwrap_or_default(), &mut self.fds))
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Nobody listens there any more; what cannot be removed is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where a socket is bound to.
///
/// # Errors
/// If it is not bound to a path.
pub fn path_of(socket: &OwnedFd) -> Result<PathBuf> {
    let address = SocketAddrUnix::try_from(getsockname(socket)?)?;
    let path = address.path_bytes().context("what was left is not bound to a path")?;
    Ok(PathBuf::from(OsStr::from_bytes(path)))
}

/// A socket at `path`.
fn bound(path: &Path) -> Result<OwnedFd> {
    if let Some(directory) = path.parent() {
        sleep::make_state_dir(directory)
            .with_context(|| format!("cannot make {}: set agent.state_dir", directory.display()))?;
        check_is_safe(directory)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bound = || {
        // Of an earlier process with the same number.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Who has connected before is not heard: no agent runs yet.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        Ok(socket)
    };
    bound().with_context(|| {
        format!(
            "cannot make the socket {}: set agent.state_dir to a short path of a directory",
            path.display()
        )
    })
}

/// The agent sends what it has open to whoever listens at a path in `directory`: nobody else may put anything there.
fn check_is_safe(directory: &Path) -> Result<()> {
    /// Others' files in it are nobody else's to remove (S_ISVTX).
    const STICKY: u32 = 0o1000;
    let found = fs::metadata(directory).with_context(|| directory.display().to_string())?;
    let is_ours = found.uid() == 0 || found.uid() == geteuid().as_raw();
    let is_closed = found.mode() & 0o022 == 0 || found.mode() & STICKY != 0;
    ensure!(
        is_ours && is_closed,
        "others may change what is in {} (uid {}, mode {:o}): chown it, chmod go-w it, or set another agent.state_dir",
        directory.display(),
        found.uid(),
        found.mode() & 0o7777
    );
    Ok(())
}

fn path_of_this_process(config: &Config) -> PathBuf {
    let directory = sleep::state_dir(config).unwrap_or_else(env::temp_dir);
    directory.join(format!("supervise-{}.socket", Pid::this()))
}

/// A manager above the supervisor, if there is one.
pub struct Outer(Option<Socket>);

impl Outer {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        let path = env::var_os(NOTIFY).map(PathBuf::from);
        let connect = |path: &PathBuf| {
            let connected = Socket::connect(path);
            connected.inspect_err(|errno| tracing::warn!("{}: {errno}", path.display())).ok()
        };
        Self(path.as_ref().and_then(connect))
    }

    /// Tells it.
    pub fn tell(&self, message: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(errno) = socket.send(message, &[]) {
            tracing::debug!("cannot tell the service manager: {errno}");
        }
    }
}
