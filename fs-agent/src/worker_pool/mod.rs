//! The threads that serve all overlays: as many as there is work for, and others that take their place when they are stuck.
//!
//! A file below may keep a thread waiting for good: one on a network filesystem whose server is gone, or on another FUSE
//! mount. With a fixed few threads, as many such callers would stop everything. Many threads that all wait for requests
//! would cost speed: the kernel wakes them in turn, each with cold caches and a buffer of its own. So [`lane::WATCHERS`]
//! workers wait for the requests of an overlay that is in use, in read(2), and when the last of them gets one to do,
//! another worker is called: one that is parked, or a new one. That costs two atomic operations for each request.
//!
//! For the requests of overlays that are not in use, [`sentinel`] waits, one thread for all of them. It calls workers when
//! there is one, and sends them away when there was none for [`sentinel::COOLING_TIME`]. Where more overlays are in use at a
//! time than can have watchers, a worker is called for each request.
//!
//! So that no user and no overlay takes all of them, requests wait for their turn: see [`admission`].

mod admission;
mod bench_support;
mod buffer;
mod lane;
mod sentinel;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

pub use admission::Asker;
pub use bench_support::Hand;
pub use buffer::{DATA_BYTES_MAX, HEAD_BYTES};
pub use lane::Serve;

use admission::{Admission, BUSY_MAX, Decision};
use buffer::Buffer;
use lane::{Lane, Taken, Waiting};
use sentinel::{HOT_MAX, Sentinel};

/// The most workers. Their slots have numbers below that.
pub const WORKERS_MAX: usize = 512;

/// They suffice for as many as can be at requests, and for those that wait for some; what is left is for overlays of which
/// others have taken too much.
const _: () = assert!(BUSY_MAX + lane::WATCHERS * HOT_MAX < WORKERS_MAX);

/// How long a worker that has nothing to do keeps the memory that large requests have used.
const MEMORY_TIME: Duration = Duration::from_secs(1);

/// How long a worker that has nothing to do is kept.
const PARKED_TIME: Duration = Duration::from_secs(10);

/// The most room for answers that a worker keeps.
const ROOM_BYTES_KEPT: usize = 16 << 10;

/// What a worker has for the request that it is at.
pub struct Desk {
    /// Tells it from all other workers that there are at the time. Below [`WORKERS_MAX`].
    pub slot: usize,
    /// To put an answer together.
    pub room: Vec<u8>,
}

/// The threads that serve all overlays.
pub struct WorkerPool {
    admission: Admission<Waiting>,
    sentinel: Sentinel,
    idle: Mutex<Idle>,
}

struct Idle {
    /// The last that came is the first to be called: its caches are warm, and the buffers of the others stay small.
    parked: Vec<Arc<Sleeper>>,
    free_slots: Vec<usize>,
    /// Overlays that nobody could be found for.
    starved: VecDeque<Arc<Lane>>,
}

/// What a worker is called for.
#[derive(Clone)]
enum Task {
    /// To wait for requests, as one that is counted.
    Watch(Arc<Lane>),
    /// To do one request, which is there.
    Visit(Arc<Lane>),
    /// To wake those that wait for requests and have had none for a while.
    Wake(Arc<Lane>),
    /// To let go of what has ended.
    Drop(Arc<Lane>),
}

/// A worker that is parked.
struct Sleeper {
    thread: Thread,
    task: Mutex<Option<Task>>,
}

impl Sleeper {
    fn call(&self, task: Task) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        self.thread.unpark();
    }

    fn task(&self) -> Option<Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sleeps until it is called, for `time` at most. To be called by the thread itself.
    fn sleep(&self, time: Duration) -> Option<Task> {
        let begin = Instant::now();
        loop {
            let task = self.task();
            let left = time.saturating_sub(begin.elapsed());
            if task.is_some() || left.is_zero() {
                return task;
            }
            thread::park_timeout(left);
        }
    }
}

impl WorkerPool {
    /// No workers yet, and no overlays.
    ///
    /// # Errors
    /// If there can be no thread to wait for requests.
    pub fn new() -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self::without_threads()?);
        let sentinel = Arc::clone(&pool);
        thread::Builder::new().name("sentinel".to_owned()).spawn(move || sentinel.keep_watch())?;
        Ok(pool)
    }

    fn without_threads() -> io::Result<Self> {
        let free_slots = (0..WORKERS_MAX).rev().collect();
        let idle = Idle { parked: Vec::new(), free_slots, starved: VecDeque::new() };
        Ok(Self {
            admission: Admission::new(WORKERS_MAX),
            sentinel: Sentinel::new()?,
            idle: Mutex::new(idle),
        })
    }

    /// Serves one more overlay, until its end.
    ///
    /// # Errors
    /// If its device cannot be waited for.
    pub fn serve(&self, overlay: impl Serve) -> io::Result<()> {
        self.sentinel.add(Box::new(overlay))
    }

    /// Has one more worker wait for requests of `lane`.
    fn call(self: &Arc<Self>, lane: &Arc<Lane>) {
        lane.expect_watcher();
        if self.assign(Task::Watch(Arc::clone(lane))).is_err() {
            lane.miss_watcher();
            self.starve(lane);
        }
    }

    /// Has a worker do `task`.
    fn assign(self: &Arc<Self>, task: Task) -> io::Result<()> {
        let slot = {
            let mut idle = self.lock();
            if let Some(sleeper) = idle.parked.pop() {
                drop(idle);
                sleeper.call(task);
                return Ok(());
            }
            idle.free_slots.pop().ok_or(io::ErrorKind::QuotaExceeded)?
        };
        let start = || {
            let (pool, buffer) = (Arc::clone(self), Buffer::new()?);
            let worker = move || Worker { pool, desk: Desk { slot, room: Vec::new() }, buffer }.run(task);
            thread::Builder::new().name("worker".to_owned()).spawn(worker)
        };
        start().map(drop).inspect_err(|_| self.lock().free_slots.push(slot))
    }

    /// Takes note that `lane` has nobody. Who parks next goes there, or who is called by the sentinel.
    fn starve(&self, lane: &Arc<Lane>) {
        let mut idle = self.lock();
        if !idle.starved.iter().any(|other| Arc::ptr_eq(other, lane)) {
            idle.starved.push_back(Arc::clone(lane));
        }
    }

    /// Calls workers for overlays that have nobody.
    fn feed(self: &Arc<Self>) {
        let starved = std::mem::take(&mut self.lock().starved);
        starved.iter().filter(|lane| lane.watchers() == 0).for_each(|lane| self.call(lane));
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that does requests.
struct Worker {
    pool: Arc<WorkerPool>,
    desk: Desk,
    buffer: Buffer,
}

impl Worker {
    fn run(mut self, first: Task) {
        let mut task = Some(first);
        while let Some(next) = task.take().or_else(|| self.park()) {
            match next {
                Task::Watch(lane) => self.watch(&lane),
                Task::Visit(lane) => self.visit(&lane),
                Task::Wake(lane) => lane.wake_watchers(),
                Task::Drop(lane) => drop(lane),
            }
        }
    }

    /// Does requests of `lane` until enough others wait for them, or there were none for long.
    fn watch(&mut self, lane: &Arc<Lane>) {
        while self.watch_once(lane) {}
    }

    /// Waits for a request of `lane` and does it. Gives whether this worker is to wait for the next.
    fn watch_once(&mut self, lane: &Arc<Lane>) -> bool {
        let Some(len) = self.read(lane) else { return false };
        let asker = lane.serve().asker(self.buffer.request(len));
        if asker == Asker::Pool {
            if !lane.is_touched() {
                self.leave(lane);
                return false;
            }
            return true;
        }
        lane.touch();
        if lane.begin() {
            self.pool.call(lane);
        }
        // From right before the answer on: else who asked may come with the next request before this worker counts as
        // waiting again, and one that is parked is called for nothing.
        let mut watches = false;
        self.take_turn(lane, asker, len, &mut || watches = watches || lane.watch());
        let watches = self.do_what_waits(lane, watches);
        watches || lane.watch()
    }

    /// Waits for a request of `lane`, and gives its length in bytes; none if there will be no more.
    fn read(&mut self, lane: &Lane) -> Option<usize> {
        match lane.read(self.buffer.space(lane.longest())) {
            Taken::Request(len) => {
                self.buffer.filled(len);
                Some(len)
            }
            Taken::End => {
                self.pool.sentinel.remove(lane);
                None
            }
        }
    }

    /// Waits for requests of `lane` no more.
    fn leave(&self, lane: &Arc<Lane>) {
        if lane.leave() {
            self.pool.hand_over(lane);
        }
    }

    /// Does one request of `lane`, for which the sentinel waits again from when it was read.
    fn visit(&mut self, lane: &Arc<Lane>) {
        // If who asked is gone by now, this is for the next.
        let Some(len) = self.read(lane) else { return };
        self.pool.hand_over(lane);
        let asker = lane.serve().asker(self.buffer.request(len));
        self.take_turn(lane, asker, len, &mut || {});
        self.do_what_waits(lane, false);
    }

    /// Does the request of `len` bytes that was read, if it is the turn of who asks.
    fn take_turn(&mut self, lane: &Arc<Lane>, asker: Asker, len: usize, before_answer: &mut dyn FnMut()) {
        let (request, slot) = (self.buffer.request(len), self.desk.slot);
        let mut is_refused = false;
        let turn = self.pool.admission.take(slot, (lane.id, asker), |is_scarce| {
            let kept = lane.serve().keep(request, is_scarce);
            is_refused = kept.is_none();
            kept.map(|request| {
                let bytes = request.len();
                (Waiting { lane: Arc::clone(lane), request }, bytes)
            })
        });
        match turn {
            Decision::Now => {
                lane.do_request(request, &mut self.desk, before_answer);
                self.pool.admission.end(slot);
            }
            Decision::Later if is_refused => lane.serve().refuse(request),
            Decision::Later => {}
        }
    }

    /// Does what waits and can be done by now. `watches` says whether this worker is one of those that wait for requests of
    /// `lane`; gives whether it still is.
    fn do_what_waits(&mut self, lane: &Arc<Lane>, mut watches: bool) -> bool {
        let slot = self.desk.slot;
        while let Some(Waiting { lane: of, request }) = self.pool.admission.next(slot) {
            if watches {
                watches = false;
                if lane.begin() {
                    self.pool.call(lane);
                }
            }
            if !of.has_ended() {
                of.do_request(&request, &mut self.desk, &mut || {});
            }
            self.pool.admission.end(slot);
        }
        watches
    }

    /// Waits until it is called. Nothing, if it was not for long: the thread is to end.
    fn park(&mut self) -> Option<Task> {
        let sleeper = {
            let mut idle = self.pool.lock();
            // Under the lock: who has found nobody to call puts the overlay there.
            if let Some(lane) = idle.starved.pop_front() {
                lane.expect_watcher();
                return Some(Task::Watch(lane));
            }
            let sleeper = Arc::new(Sleeper { thread: thread::current(), task: Mutex::default() });
            idle.parked.push(Arc::clone(&sleeper));
            sleeper
        };
        if let Some(task) = sleeper.sleep(MEMORY_TIME) {
            return Some(task);
        }
        self.buffer.shrink();
        self.desk.room.clear();
        self.desk.room.shrink_to(ROOM_BYTES_KEPT);
        if let Some(task) = sleeper.sleep(PARKED_TIME) {
            return Some(task);
        }
        let mut idle = self.pool.lock();
        let Some(at) = idle.parked.iter().position(|other| Arc::ptr_eq(other, &sleeper)) else {
            // Called meanwhile.
            drop(idle);
            return sleeper.sleep(Duration::MAX);
        };
        idle.parked.remove(at);
        idle.free_slots.push(self.desk.slot);
        None
    }
}

#[cfg(test)]
mod tests;
