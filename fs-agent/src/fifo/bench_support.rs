//! One stream by itself, for [`crate::bench_support`].

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use bywash_common::config::FifoConfig;

use super::{
    memory::{Mark, Memory},
    promise::Promises,
    ring_writer::RingWriter,
    source::{FileId, Opened},
    stream::{Progress, Stream},
};
use crate::capture::Capture;

/// What comes through a pipe.
pub struct Lines {
    stream: Stream,
    ring_writer: RingWriter,
}

impl Lines {
    /// Of `pipe`, into the ring of `capture`.
    ///
    /// # Errors
    /// Whatever fcntl(2) and fstat(2) say.
    pub fn new(capture: Arc<Capture>, config: FifoConfig, pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let pipe = std::fs::File::from(pipe);
        let id = FileId::of(&pipe.metadata()?);
        let pipe_bytes = super::source::enlarge(&pipe, config.pipe_size.0, &config.path);
        let opened = Opened { fd: pipe.into(), id, pipe_bytes, left: None };
        let ring_writer = RingWriter::new(capture, &config, Promises::default(), None);
        let (rules, promise) = (ring_writer.rules(&config), ring_writer.promise());
        let read = (Memory::new(&config.path)?, Mark::default());
        let stream = Stream::new(1, opened, read, None, rules, promise);
        Ok(Self { stream, ring_writer })
    }

    /// Makes records of what is there; gives how many bytes that was.
    pub fn read(&mut self, line_idle: Duration) -> usize {
        self.stream.look_again();
        match self.stream.read(&mut self.ring_writer, line_idle) {
            Progress::Read(bytes) => bytes,
            _ => 0,
        }
    }
}
