//! Messages to the manager that keeps descriptors (sd_notify(3)).

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    cmsg_space,
    io::{Errno, Result},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, connect, sendmsg, socket_with, sockopt,
    },
    pipe::{PipeFlags, pipe_with},
};

/// How long a message may take to be sent: the manager may be busy.
const SEND_TIME_MAX: Duration = Duration::from_secs(2);

/// The most descriptors in one message (SCM_MAX_FD of the kernel).
pub const SENT_MAX: usize = 253;

/// The way to a manager.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Connects to the manager at `path`; `@` begins an abstract address.
    ///
    /// # Errors
    /// As connect(2) says.
    pub fn connect(path: &Path) -> Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(path),
        }?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(SEND_TIME_MAX))?;
        connect(&socket, &address)?;
        Ok(Self(socket))
    }

    /// Sends a message with up to [`SENT_MAX`] descriptors.
    ///
    /// # Errors
    /// As sendmsg(2) says; `EAGAIN` if the manager takes nothing for 2 s.
    pub fn send(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SENT_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOMANYREFS);
        }
        let message = [IoSlice::new(message.as_bytes())];
        loop {
            match sendmsg(&self.0, &message, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Waits until the manager has dealt with all that was sent before.
    ///
    /// # Errors
    /// As [`Self::send`]; `ETIMEDOUT` if it takes longer than `most`.
    pub fn barrier(&self, most: Duration) -> Result<()> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        // The manager closes its end.
        let deadline = Instant::now() + most;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], left) {
                Ok(0) => return Err(Errno::TIMEDOUT),
                Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Errno::from_raw_os_error(errno as i32)),
            }
        }
    }
}
