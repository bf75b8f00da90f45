//! What happens again and again, to be run alone and counted: a write, and the lines of a FIFO. Everything on the way is what
//! the program runs, but for the kernel: requests come through a socket, and their answers go back there.

use std::{
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bywash_common::{
    config::{DirectoryConfig, FifoConfig, RingConfig},
    ring::AgentRing,
};

use crate::{
    capture::{Capture, Source},
    fifo::Lines,
    fuse::bench_support::{overlay_of, write_request},
    worker_pool::Hand,
};

/// The bytes of an answer to a write.
const ANSWER_BYTES: usize = 24;

fn capture(ring: &RingConfig) -> io::Result<Arc<Capture>> {
    let agent = AgentRing::open(ring).map_err(io::Error::other)?;
    agent.populate();
    Ok(Arc::new(Capture::measured(agent)))
}

/// A file that is written, from the kernel's request to the answer.
pub struct Writes {
    hand: Hand,
    kernel: UnixDatagram,
    request: Vec<u8>,
    written: u64,
}

impl Writes {
    /// Writes of `len` bytes each to the one file in `directory`, into the ring of that configuration.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn new(ring: &RingConfig, directory: &Path, len: usize) -> io::Result<Self> {
        let config = DirectoryConfig::at(directory.to_path_buf());
        let source = Arc::new(Source::new(capture(ring)?, &config));
        let (kernel, device) = UnixDatagram::pair()?;
        let (adapter, handle) = overlay_of(directory, source, OwnedFd::from(device))?;
        let hand = Hand::new(adapter)?;
        Ok(Self { hand, kernel, request: write_request(handle, len), written: 0 })
    }

    /// Has the next request wait, as the kernel has it. Not what is measured.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn ask(&mut self) -> io::Result<()> {
        self.written += 1;
        self.kernel.send(&self.request).map(drop)
    }

    /// Reads the request, does it, and answers.
    pub fn answer(&mut self) {
        self.hand.once();
    }

    /// Checks the answer. Not what is measured.
    ///
    /// # Errors
    /// If it is none, or an error.
    pub fn check(&mut self) -> io::Result<()> {
        let mut answer = [0; ANSWER_BYTES];
        self.kernel.recv(&mut answer)?;
        match answer[4..8] {
            [0, 0, 0, 0] => Ok(()),
            _ => Err(io::Error::other(format!("write {} was answered with {answer:?}", self.written))),
        }
    }
}

/// A FIFO whose lines become records.
pub struct Fifo {
    lines: Lines,
    writer: io::PipeWriter,
}

impl Fifo {
    /// Lines into the ring of that configuration.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn new(ring: &RingConfig) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let lines = Lines::new(capture(ring)?, FifoConfig::at("/run/app.pipe".into()), reader.into())?;
        Ok(Self { lines, writer })
    }

    /// Has lines wait in the pipe. Not what is measured.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.writer.write_all(lines)
    }

    /// Makes records of all that is in the pipe; gives how many bytes that was.
    pub fn read(&mut self) -> usize {
        self.lines.read(Duration::MAX)
    }
}
