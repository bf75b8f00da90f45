//! Standard output, a line an event. Lines count as delivered once the system has taken them.

use std::{
    io::{IoSlice, IsTerminal as _},
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
use rustix::{
    fs::{FileType, fstat},
    io::{ReadWriteFlags, pwritev2},
};

use crate::delivery::{Frontier, Message, Outcome, SendError, Sink, SinkError, Ticket};

/// Lines are gathered up to this many bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// A pipe or terminal that is ready takes this many bytes without blocking (PIPE_BUF, pipe(7)).
const READY_BYTES: usize = 4096;
/// The offset with which pwritev2(2) goes on where the last write has ended.
const AT_POSITION: u64 = u64::MAX;
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
    /// It can be told to take what it takes without blocking: pipes can from Linux 6.4 on.
    takes_at_once: bool,
    /// What is written at a time where it cannot.
    piece_bytes: usize,
}

impl<F: AsFd> StdoutSink<F> {
    /// A sink that writes to `out`.
    pub fn new(out: F, frontier: Arc<Frontier>) -> Self {
        let is_terminal = out.as_fd().is_terminal();
        // Nobody reads a file so slowly that writing to it waits.
        let is_file = fstat(&out).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        let piece_bytes = if is_file { usize::MAX } else { READY_BYTES };
        let (buffer, lines, takes_at_once) = (Vec::new(), Vec::new(), !is_file);
        Self { out, frontier, buffer, written: 0, lines, is_terminal, takes_at_once, piece_bytes }
    }

    /// Writes as much of `parts` as is taken without blocking; gives how many bytes that is.
    fn write_at_once(&mut self, parts: [&[u8]; 2]) -> Result<usize, SinkError> {
        if !self.takes_at_once {
            return Ok(0);
        }
        match pwritev2(&self.out, &parts.map(IoSlice::new), AT_POSITION, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(rustix::io::Errno::PIPE) => Err(SinkError::Closed),
            // It cannot be asked for that. Of what else is wrong the plain write says as much.
            Err(_) => {
                self.takes_at_once = false;
                Ok(0)
            }
        }
    }

    /// Takes a message that is long enough to be worth a system call of its own, without copying it; gives how many of its
    /// bytes, with the end of its line, were written.
    fn write_long(&mut self, payload: &[u8]) -> Result<usize, SinkError> {
        let is_long = payload.len() >= BUFFER_BYTES && self.buffer.is_empty() && !self.is_terminal;
        if !is_long {
            return Ok(0);
        }
        let end: &[u8] = if payload.ends_with(b"\n") { b"" } else { b"\n" };
        self.write_at_once([payload, end])
    }

    /// Writes what the reader takes within `wait`. Never blocks longer, so that a stalled reader cannot hold up a stop.
    fn write_out(&mut self, wait: Duration) -> Result<(), SinkError> {
        let deadline = Instant::now() + wait;
        while self.written < self.buffer.len() {
            let buffer = std::mem::take(&mut self.buffer);
            let at_once = self.write_at_once([&buffer[self.written..], &[]]);
            self.buffer = buffer;
            self.written += at_once?;
            if self.written == self.buffer.len() || !is_writable(self.out.as_fd(), deadline)? {
                break;
            }
            let end = self.buffer.len().min(self.written.saturating_add(self.piece_bytes));
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
        let payload = message.payload;
        let written = self.write_long(payload)?;
        if written > payload.len() || (written == payload.len() && payload.ends_with(b"\n")) {
            self.frontier.settle(ticket, Outcome::Delivered);
            return Ok(());
        }
        if self.is_terminal {
            self.buffer.extend_from_slice(in_lines(payload, "\n").to_string().as_bytes());
        } else {
            self.buffer.extend_from_slice(&payload[written..]);
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
            time_ms: 0,
            is_dead_letter: false,
            failure: None,
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
    fn long_lines_arrive_whole_and_in_order_however_much_is_taken_at_once() {
        let (mut reader, writer) = pipe().unwrap();
        let frontier = testing::frontier();
        let mut sink = StdoutSink::new(writer, Arc::clone(&frontier));
        let lines: Vec<Vec<u8>> = [1, 3, 1, 40, 2]
            .iter()
            .zip(b'a'..)
            .map(|(pages, byte)| {
                [vec![byte; pages * READY_BYTES], vec![b'\n'; usize::from(byte == b'd')]].concat()
            })
            .collect();
        let reader_gets = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        for (i, line) in lines.iter().enumerate() {
            let ticket = frontier.open(record(i as u64));
            while sink.send(&message(line), ticket).is_err() {}
        }
        Box::new(sink).close(Instant::now() + Duration::from_secs(60));
        let wanted = lines.iter().flat_map(|line| [line.strip_suffix(b"\n").unwrap_or(line), b"\n"].concat());
        assert!(reader_gets.join().unwrap().into_iter().eq(wanted));
        assert_eq!(frontier.in_flight(), 0);
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
