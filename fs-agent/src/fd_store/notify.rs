//! Messages to the manager that keeps descriptors (sd_notify(3)).

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
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

/// The same, as long as the manager takes nothing: callers wait for what is sent, one after the other.
const SEND_TIME_MAX_STUCK: Duration = Duration::from_millis(10);

/// The most descriptors in one message (SCM_MAX_FD of the kernel).
pub const SENT_MAX: usize = 253;

/// The way to a manager.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// The manager did not take the last message in time.
    is_stuck: AtomicBool,
}

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
        Ok(Self { fd: socket, is_stuck: AtomicBool::new(false) })
    }

    /// Sends a message with up to [`SENT_MAX`] descriptors.
    ///
    /// # Errors
    /// As sendmsg(2) says; `EAGAIN` if the manager takes nothing for 2 s, from then on for 10 ms until it takes something again.
    pub fn send(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SENT_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOMANYREFS);
        }
        let message = [IoSlice::new(message.as_bytes())];
        let sent = loop {
            match sendmsg(&self.fd, &message, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => break other.map(drop),
            }
        };
        match sent {
            Err(Errno::AGAIN) => self.note_stuck(true)?,
            Ok(()) => self.note_stuck(false)?,
            Err(_) => {}
        }
        sent
    }

    fn note_stuck(&self, is_stuck: bool) -> Result<()> {
        if self.is_stuck.swap(is_stuck, Ordering::Relaxed) == is_stuck {
            return Ok(());
        }
        let most = if is_stuck { SEND_TIME_MAX_STUCK } else { SEND_TIME_MAX };
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Send, Some(most))
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
