//! The threads that serve an overlay: few that wait for requests, and others that take their place when they are stuck.
//!
//! A file below may keep a thread waiting for good: one on a network filesystem whose server is gone, or on another FUSE
//! mount. With a fixed few threads, as many such callers would stop the whole overlay. Many threads that all wait
//! for requests would cost the others speed: the kernel wakes them in turn, each with cold caches and a buffer of its
//! own. So all but [`WATCHERS`] are parked until the last one that still waits for requests gets one to do. What
//! that costs otherwise is two atomic operations for each request.
//!
//! One user must not take all of them. A request that was read needs a thread until it is answered, unless it owns all that
//! it is about: those that can take long and carry no data wait their turn without one (`fuse::turns`). A write, whose data
//! lies in the thread's buffer, an open or a look-up has its thread at once, however long it takes.
//!
//! The library that reads the requests has a fixed number of threads and knows nothing of this: a thread parks
//! at the end of a request, after its answer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
};

/// How many threads wait for requests. Never one alone: a writer would then always wait for it to wake up on another
/// CPU. With more, the same work goes round more of them.
const WATCHERS: usize = 2;

/// The most threads for one overlay. As many callers can be stuck in the directory below, but one, before others notice.
const THREADS_MAX: usize = 64;

/// The fewest threads for one of many overlays.
const THREADS_MIN: usize = 8;

/// The most threads for all overlays together, as far as [`THREADS_MIN`] for each allows, by the number of CPUs. Each
/// has a buffer of 16 MiB, used as far as requests reach.
const ALL_THREADS_PER_CPU: usize = 16;

/// How many threads each of `overlays` has.
pub fn threads_each(overlays: usize) -> usize {
    share(overlays, thread::available_parallelism().map_or(1, usize::from))
}

fn share(overlays: usize, cpus: usize) -> usize {
    (ALL_THREADS_PER_CPU * cpus / overlays.max(1)).clamp(THREADS_MIN, THREADS_MAX)
}

/// The threads of one overlay.
pub struct WorkerPool {
    size: usize,
    /// How many wait for a request, or are on their way to.
    watching: AtomicUsize,
    parked: Mutex<Parked>,
}

#[derive(Default)]
struct Parked {
    /// The last that came is the first to be called: its caches are warm, and the buffers of the others stay small.
    threads: Vec<Arc<Sleeper>>,
    /// Nobody is to park any more.
    released: bool,
}

/// A thread that is parked.
struct Sleeper {
    thread: Thread,
    called: AtomicBool,
}

impl Sleeper {
    fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Sleeps until it is called. To be called by the thread itself.
    fn sleep(&self) {
        while !self.called.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

/// A thread is at work on a request.
pub struct Busy<'a> {
    pool: &'a WorkerPool,
    /// The thread is one of those that wait for requests, and need not park.
    watches: bool,
}

impl Busy<'_> {
    /// The work is done, and nothing is left but to send the answer. To be said before that: else who asked may come
    /// with the next request before this thread counts as waiting again, and one that is parked is called for nothing.
    pub fn done(&mut self) {
        self.watches = self.pool.watch();
    }
}

impl WorkerPool {
    /// All `size` threads wait for requests.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, watching: AtomicUsize::new(size), parked: Mutex::default() })
    }

    /// How many threads there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether as many threads as can be are parked.
    pub fn is_settled(&self) -> bool {
        let parked = self.lock();
        parked.released || parked.threads.len() + WATCHERS >= self.size
    }

    /// The calling thread begins with a request, and may park when the request ends.
    pub fn begin(&self) -> Busy<'_> {
        if self.watching.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.call();
        }
        Busy { pool: self, watches: false }
    }

    /// Has one more thread wait for requests, if there is one.
    fn call(&self) {
        let mut parked = self.lock();
        if let Some(sleeper) = parked.threads.pop() {
            // Counted here: others that begin do not call as well.
            self.watching.fetch_add(1, Ordering::SeqCst);
            drop(parked);
            sleeper.call();
        }
    }

    /// Counts the calling thread as one that waits for requests, if there are too few.
    fn watch(&self) -> bool {
        let one_more = |watching| (watching < WATCHERS).then_some(watching + 1);
        self.watching.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// The calling thread parks until it is called, unless it is to wait for requests.
    fn park(&self) {
        let mut parked = self.lock();
        // Again under the lock: who took the last one's place has found nobody to call before.
        if parked.released || self.watch() {
            return;
        }
        let sleeper = Arc::new(Sleeper { thread: thread::current(), called: AtomicBool::new(false) });
        parked.threads.push(Arc::clone(&sleeper));
        drop(parked);
        sleeper.sleep();
    }

    /// Has every thread return to where it finds out that the overlay has ended. None parks from now on.
    pub fn release_workers(&self) {
        let mut parked = self.lock();
        parked.released = true;
        parked.threads.drain(..).for_each(|sleeper| sleeper.call());
    }

    fn lock(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if !self.watches && !self.pool.watch() {
            self.pool.park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        time::{Duration, Instant},
    };

    type Request = Box<dyn FnOnce() + Send>;

    /// Serves requests as the library does.
    fn serve(pool: &Arc<WorkerPool>) -> Sender<Request> {
        let (sender, requests) = channel::<Request>();
        let requests: Arc<Mutex<Receiver<Request>>> = Arc::new(Mutex::new(requests));
        for _ in 0..pool.size() {
            let (pool, requests) = (Arc::clone(pool), Arc::clone(&requests));
            thread::spawn(move || {
                loop {
                    let Ok(request) = requests.lock().unwrap().recv() else { return };
                    let _busy = pool.begin();
                    request();
                }
            });
        }
        sender
    }

    fn until(what: &str, ask: impl Fn() -> bool) {
        let begin = Instant::now();
        while !ask() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn settle_workers(pool: &WorkerPool, requests: &Sender<Request>) {
        (0..pool.size()).for_each(|_| requests.send(Box::new(|| {})).unwrap());
        until("all but a few park", || pool.is_settled());
    }

    #[test]
    fn all_but_one_can_be_stuck_and_requests_are_served() {
        const SIZE: usize = 16;
        let pool = WorkerPool::new(SIZE);
        let requests = serve(&pool);
        for _ in 0..3 {
            settle_workers(&pool, &requests);
            let stuck: Vec<Sender<()>> = (0..SIZE - 1)
                .map(|_| {
                    let (release, released) = channel::<()>();
                    requests
                        .send(Box::new(move || {
                            let _ = released.recv();
                        }))
                        .unwrap();
                    release
                })
                .collect();
            for _ in 0..100 {
                let (answer, answered) = channel();
                requests.send(Box::new(move || answer.send(()).unwrap())).unwrap();
                answered.recv_timeout(Duration::from_secs(20)).expect("an answer");
            }
            drop(stuck);
        }
        settle_workers(&pool, &requests);
        assert_eq!(pool.watching.load(Ordering::SeqCst), WATCHERS);
    }

    #[test]
    fn who_is_dismissed_parks_no_more() {
        let pool = WorkerPool::new(16);
        let requests = serve(&pool);
        settle_workers(&pool, &requests);
        pool.release_workers();
        assert!(pool.lock().threads.is_empty(), "all leave");
        (0..100).for_each(|_| requests.send(Box::new(|| {})).unwrap());
        thread::sleep(Duration::from_millis(20));
        assert!(pool.lock().threads.is_empty());
    }

    #[test]
    fn many_overlays_share_what_there_is() {
        let each: Vec<_> = [0, 1, 2, 4, 1000].into_iter().map(|overlays| share(overlays, 2)).collect();
        assert_eq!(each, [32, 32, 16, 8, 8]);
        assert_eq!(share(1, 64), 64);
    }
}
