//! The agent, from the kernel's request to its answer, and from a FIFO to the ring.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use fs_agent::bench_support::{Fifo, Writes};
use tempfile::TempDir;

use super::{
    Bench, Counted,
    ring::{Ring, text},
};

/// More than the time for which a writer is believed to run the same program unasked: the kernel is asked each time.
const PAUSE: Duration = Duration::from_micros(200);

struct OneWrite {
    writes: Writes,
    // Removed in this order.
    _directory: TempDir,
    _ring: Ring,
}

/// A write of `len` bytes to a file in memory.
pub fn write(len: usize) -> Result<Box<dyn Bench>> {
    let ring = Ring::new();
    let directory = tempfile::Builder::new().prefix("bywash-test-").tempdir_in("/dev/shm")?;
    let writes = Writes::new(ring.config(), directory.path(), len)?;
    Ok(Box::new(OneWrite { writes, _directory: directory, _ring: ring }))
}

impl Bench for OneWrite {
    fn round(&mut self, counted: Counted<'_>) -> Result<()> {
        self.writes.ask()?;
        sleep(PAUSE);
        counted(&mut || self.writes.answer());
        Ok(self.writes.check()?)
    }
}

struct Lines {
    fifo: Fifo,
    lines: Vec<u8>,
    _ring: Ring,
}

/// `count` lines of `len` bytes, their ends included.
pub fn fifo(count: usize, len: usize) -> Result<Box<dyn Bench>> {
    let ring = Ring::new();
    let fifo = Fifo::new(ring.config())?;
    let mut line = text(len);
    line.retain(|byte| *byte != b'\n');
    line.resize(len - 1, b'.');
    line.push(b'\n');
    Ok(Box::new(Lines { fifo, lines: line.repeat(count), _ring: ring }))
}

impl Bench for Lines {
    fn round(&mut self, counted: Counted<'_>) -> Result<()> {
        self.fifo.write(&self.lines)?;
        let mut read = 0;
        counted(&mut || read = self.fifo.read());
        ensure!(read == self.lines.len(), "{read} bytes were read");
        Ok(())
    }
}
