//! One worker by itself, for [`crate::bench_support`].

use std::{io, sync::Arc};

use super::{
    Desk, Serve, Worker, WorkerPool,
    buffer::Buffer,
    lane::{Lane, WATCHERS},
};

/// A worker that does what the caller has it do.
pub struct Hand {
    worker: Worker,
    lane: Arc<Lane>,
}

impl Hand {
    /// One that does the requests of `overlay`, with as many others that wait for them as there are usually.
    ///
    /// # Errors
    /// Without memory or descriptors.
    pub fn new(overlay: impl Serve) -> io::Result<Self> {
        let pool = Arc::new(WorkerPool::without_threads()?);
        let desk = Desk { slot: 0, room: Vec::new() };
        let lane = Arc::new(Lane::new(1, Box::new(overlay)));
        lane.heat();
        (0..WATCHERS).for_each(|_| lane.expect_watcher());
        Ok(Self { worker: Worker { pool, desk, buffer: Buffer::new()? }, lane })
    }

    /// Reads the request that is there, and does it.
    pub fn once(&mut self) {
        self.worker.watch_once(&self.lane);
    }
}
