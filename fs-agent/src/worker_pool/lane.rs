//! One overlay, as the pool serves it.

use std::{
    io,
    os::fd::BorrowedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{Desk, admission::Asker};

/// How many workers wait for requests of an overlay that is in use. Never one alone: a writer would then always wait for it
/// to wake up on another CPU. With more, the same work goes round more of them.
pub const WATCHERS: usize = 2;

/// No worker waits for requests, nor is to: the sentinel does.
const COLD: usize = 1 << (usize::BITS - 1);

/// What the pool serves: a device that gives requests, one a read(2), and what does them.
pub trait Serve: Send + Sync + 'static {
    /// Where requests come from.
    fn device(&self) -> BorrowedFd<'_>;

    /// Who asks for `request`.
    fn asker(&self, request: &[u8]) -> Asker;

    /// `request`, to be kept until it is its turn: as little of it as will do, if there is little room. Nothing if it cannot
    /// be kept then.
    fn keep(&self, request: &[u8], is_scarce: bool) -> Option<Box<[u8]>>;

    /// Answers that `request` cannot be kept.
    fn refuse(&self, request: &[u8]);

    /// Does `request` and answers it, for which `before_answer` is called first.
    fn serve(&self, request: &[u8], desk: &mut Desk, before_answer: &mut dyn FnMut());

    /// Where the longest request that was read is noted, in bytes: whoever serves the overlay after this process finds it there.
    fn longest_request(&self) -> &AtomicU64;

    /// Has one who waits for requests get one of [`Asker::Pool`]; says whether that can be. Where it cannot, workers wait for
    /// this overlay until it can.
    fn wake_reader(&self) -> bool;

    /// There will be no more requests, and none is at work.
    fn ended(&self, result: io::Result<()>);
}

/// One overlay. When the last worker has left it, and nothing of it waits, it is dropped, and its end is told.
pub struct Lane {
    /// Tells it from others. Never 0.
    pub id: u32,
    serve: Box<dyn Serve>,
    /// How many workers wait for a request or are on their way to; or [`COLD`].
    watching: AtomicUsize,
    /// The longest request that was read, in bytes.
    longest: AtomicUsize,
    /// A request was read since it was last looked.
    touched: AtomicBool,
    has_ended: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

/// What came out of a device.
pub enum Taken {
    /// A request of so many bytes.
    Request(usize),
    /// Nothing will come any more.
    End,
}

impl Lane {
    /// Nobody but the sentinel waits for its requests.
    pub fn new(id: u32, serve: Box<dyn Serve>) -> Self {
        let longest = serve.longest_request().load(Ordering::Relaxed);
        Self {
            id,
            serve,
            longest: AtomicUsize::new(usize::try_from(longest).unwrap_or(usize::MAX)),
            watching: AtomicUsize::new(COLD),
            touched: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// What it serves.
    pub fn serve(&self) -> &dyn Serve {
        &*self.serve
    }

    /// Does `request` and answers it. A panic costs the request alone: the worker goes on.
    pub fn do_request(&self, request: &[u8], desk: &mut Desk, before_answer: &mut dyn FnMut()) {
        let serve = AssertUnwindSafe(|| self.serve.serve(request, desk, before_answer));
        if catch_unwind(serve).is_err() {
            tracing::error!("a bug: a request panicked; it was answered with EIO");
        }
    }

    /// Waits for a request.
    pub fn read(&self, buffer: &mut [u8]) -> Taken {
        use rustix::io::{Errno, read};
        loop {
            match read(self.serve.device(), &mut *buffer) {
                Ok(len) => {
                    if len > self.longest() {
                        self.serve.longest_request().fetch_max(len as u64, Ordering::Relaxed);
                        self.longest.fetch_max(len, Ordering::Relaxed);
                    }
                    return Taken::Request(len);
                }
                // NOENT: who asked does not wait any more.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::NODEV) => return Taken::End,
                Err(errno) => {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno.into());
                    return Taken::End;
                }
            }
        }
    }

    /// A worker that waited has a request. Says whether nobody waits any more.
    pub fn begin(&self) -> bool {
        self.watching.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Counts one more worker as waiting, if there are too few.
    pub fn watch(&self) -> bool {
        let one_more = |watching| (watching < WATCHERS).then_some(watching + 1);
        self.watching.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// One more worker waits, or is on its way to.
    pub fn expect_watcher(&self) {
        self.watching.fetch_add(1, Ordering::SeqCst);
    }

    /// One that was expected does not come.
    pub fn miss_watcher(&self) {
        self.watching.fetch_sub(1, Ordering::SeqCst);
    }

    /// A worker that waited does not any more. Says whether it was the last: then it is cold.
    pub fn leave(&self) -> bool {
        let before =
            self.watching.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |watching| match watching {
                1 => Some(COLD),
                0 => None,
                more if more < COLD => Some(more - 1),
                _ => None,
            });
        before == Ok(1)
    }

    /// Workers are to wait for its requests from now on. Says whether they were not before.
    pub fn heat(&self) -> bool {
        self.watching.compare_exchange(COLD, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Whether workers wait for its requests, or are to.
    pub fn is_hot(&self) -> bool {
        self.watching.load(Ordering::SeqCst) < COLD
    }

    /// How many workers wait for requests.
    pub fn watchers(&self) -> usize {
        match self.watching.load(Ordering::SeqCst) {
            watching if watching < COLD => watching,
            _ => 0,
        }
    }

    /// The longest request that was read, in bytes: the next may be as long.
    pub fn longest(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }

    /// Takes note that a request was read.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Whether one was since this was last asked.
    pub fn was_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Whether one was, still.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Takes note of the end.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// Whether nobody waits for an answer any more.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let failure = self.failure.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.serve.ended(failure.map_or(Ok(()), Err));
    }
}

/// A request that waits for its turn.
pub struct Waiting {
    /// Whose.
    pub lane: Arc<Lane>,
    /// As it was read.
    pub request: Box<[u8]>,
}
