//! Standard output, a line an event. Lines count as delivered once the system has taken them.

use std::{
    io::IsTerminal as _,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use bywash_common::escape::in_lines;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

use crate::delivery::{Frontier, Message, Outcome, SendError, Sink, SinkError, Ticket};

/// Lines are gathered up to this many bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// A pipe or terminal that is ready takes this many bytes without blocking (PIPE_BUF, pipe(7)).
const READY_BYTES: usize = 4096;
/// How long the sink waits for a reader that does not read before it lets the drain go on.
const READER_WAIT: Duration = Duration::from_millis(100);

/// Writes lines to a file descriptor.
pub struct StdoutSink<F> {
    out: F,
    frontier: Arc<Frontier>,
    buffer: Vec<u8>,
    /// How much of `buffer` is written.
    written: usize,
    /// The lines in `buffer`: where each ends, and whose it is.
    lines: Vec<(usize, Ticket)>,
    /// People look at it: what a terminal would obey is shown instead.
    is_terminal: bool,
}

impl<F: AsFd> StdoutSink<F> {
    /// A sink that writes to `out`.
    pub fn new(out: F, frontier: Arc<Frontier>) -> Self {
        let is_terminal = out.as_fd().is_terminal();
        Self { out, frontier, buffer: Vec::new(), written: 0, lines: Vec::new(), is_terminal }
    }

    /// Writes what the reader takes within `wait`. Never blocks longer, so that a stalled reader cannot hold up a stop.
    fn write_out(&mut self, wait: Duration) -> Result<(), SinkError> {
        let deadline = Instant::now() + wait;
        while self.written < self.buffer.len() {
            if !is_writable(self.out.as_fd(), deadline)? {
                break;
            }
            let end = self.buffer.len().min(self.written + READY_BYTES);
            match write(self.out.as_fd(), &self.buffer[self.written..end]) {
                Ok(n) => self.written += n,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => return Err(SinkError::Closed),
                Err(error) => return Err(SinkError::Write(error)),
            }
        }
        let done = self.lines.partition_point(|(end, _)| *end <= self.written);
        for (_, ticket) in self.lines.drain(..done) {
            self.frontier.settle(ticket, Outcome::Delivered);
        }
        if self.lines.is_empty() {
            self.buffer.clear();
            self.written = 0;
        }
        Ok(())
    }
}

fn is_writable(fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool, SinkError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(SinkError::Write(error)),
    }
}

impl<F: AsFd> Sink for StdoutSink<F> {
    fn payload_bytes_max(&self, _: usize) -> usize {
        usize::MAX
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out(READER_WAIT)?;
            if !self.buffer.is_empty() {
                return Err(SendError::Full);
            }
        }
        if self.is_terminal {
            self.buffer.extend_from_slice(in_lines(message.payload, "\n").to_string().as_bytes());
        } else {
            self.buffer.extend_from_slice(message.payload);
        }
        // A message that is a line by itself is no two.
        if self.buffer.last() != Some(&b'\n') {
            self.buffer.push(b'\n');
        }
        self.lines.push((self.buffer.len(), ticket));
        Ok(())
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn push(&mut self) -> Result<(), SinkError> {
        self.write_out(READER_WAIT)
    }

    fn close(mut self: Box<Self>, deadline: Instant) {
        if let Err(error) = self.write_out(deadline.saturating_duration_since(Instant::now())) {
            tracing::error!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;
    use crate::delivery::testing::{self, record};

    fn message(payload: &[u8]) -> Message<'_> {
        Message {
            topic: "t",
            key: None,
            payload,
            id: testing::id(1),
            event_id: testing::ID_1,
            is_letter: false,
        }
    }

    #[test]
    fn a_line_counts_once_it_is_written() {
        let (mut reader, writer) = pipe().unwrap();
        let frontier = testing::frontier();
        let mut sink = StdoutSink::new(writer, Arc::clone(&frontier));
        for (i, payload) in [b"one", b"two"].into_iter().enumerate() {
            sink.send(&message(payload), frontier.open(record(i as u64))).unwrap();
        }
        assert_eq!(frontier.in_flight(), 2);
        sink.push().unwrap();
        assert_eq!(frontier.in_flight(), 0);
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_reader_that_does_not_read_is_back_pressure_and_does_not_hold_up_the_end() {
        let (mut reader, writer) = pipe().unwrap();
        let frontier = testing::frontier();
        let mut sink = StdoutSink::new(writer, Arc::clone(&frontier));
        let payload = vec![b'x'; BUFFER_BYTES];
        let mut taken = 0_usize;
        let full = loop {
            match sink.send(&message(&payload), frontier.open(record(taken as u64))) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, SendError::Full));
        let reader_gets = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all.len()
        });
        Box::new(sink).close(Instant::now() + Duration::from_secs(60));
        assert_eq!(reader_gets.join().unwrap(), taken * (BUFFER_BYTES + 1));
        assert_eq!(frontier.in_flight(), 1);
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let frontier = testing::frontier();
        let mut sink = StdoutSink::new(writer, Arc::clone(&frontier));
        sink.send(&message(b"x"), frontier.open(record(0))).unwrap();
        assert!(matches!(sink.push(), Err(SinkError::Closed)));
        assert_eq!(frontier.in_flight(), 1);
    }
}
