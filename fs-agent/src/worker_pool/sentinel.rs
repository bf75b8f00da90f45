//! Waits for requests of overlays that are not in use.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    Task, WorkerPool,
    lane::{Lane, Serve, WATCHERS},
};

/// The most overlays that have workers which wait for their requests.
pub const HOT_MAX: usize = 64;

/// How long an overlay may be without a request before the workers that wait for one are sent away: that and as much again.
pub const COOLING_TIME: Duration = Duration::from_secs(1);

/// How many overlays are looked at at once.
const EVENTS: usize = 32;

/// All overlays, and what waits for the requests of those that no worker waits for.
pub struct Sentinel {
    epoll: Epoll,
    lanes: Mutex<HashMap<u32, Arc<Lane>>>,
    last_id: AtomicU32,
}

impl Sentinel {
    /// Nothing to wait for yet.
    ///
    /// # Errors
    /// As epoll_create(2) says.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, lanes: Mutex::default(), last_id: AtomicU32::new(0) })
    }

    /// Waits for the requests of one more overlay.
    ///
    /// # Errors
    /// As epoll_ctl(2) says.
    pub fn add(&self, overlay: Box<dyn Serve>) -> io::Result<()> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let lane = Arc::new(Lane::new(id, overlay));
        self.lock().insert(id, Arc::clone(&lane));
        self.wait_for(&lane).inspect_err(|_| self.remove(&lane))
    }

    /// Waits for the next request of `lane`, which may be there.
    fn wait_for(&self, lane: &Lane) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, lane.id.into());
        Ok(self.epoll.add(lane.serve().device(), event)?)
    }

    /// Does not wait any more: the kernel would look here at each request.
    fn ignore(&self, lane: &Lane) {
        // It may not have been waited for.
        let _ = self.epoll.delete(lane.serve().device());
    }

    /// There will be no more requests of `lane`.
    pub fn remove(&self, lane: &Lane) {
        lane.end();
        self.ignore(lane);
        let _removed = self.lock().remove(&lane.id);
    }

    fn get(&self, id: u64) -> Option<Arc<Lane>> {
        self.lock().get(&u32::try_from(id).ok()?).cloned()
    }

    /// How many overlays workers wait for, or are to.
    pub fn hot(&self) -> usize {
        self.lock().values().filter(|lane| lane.is_hot()).count()
    }

    /// Those that were not used since this was last asked, and that workers wait for.
    fn unused(&self) -> Vec<Arc<Lane>> {
        let lanes = self.lock();
        lanes.values().filter(|lane| !lane.was_touched() && lane.watchers() > 0).cloned().collect()
    }

    /// How many workers wait for requests.
    #[cfg(test)]
    pub fn watchers(&self) -> usize {
        self.lock().values().map(|lane| lane.watchers()).sum()
    }

    /// How many overlays there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerPool {
    /// Has the sentinel wait for requests of `lane`, for which no worker does.
    pub(super) fn hand_over(self: &Arc<Self>, lane: &Arc<Lane>) {
        if let Err(error) = self.sentinel.wait_for(lane) {
            tracing::warn!("cannot wait for an overlay's requests with others: {error}");
            self.heat(lane);
        }
    }

    /// Has workers wait for requests of `lane`.
    fn heat(self: &Arc<Self>, lane: &Arc<Lane>) {
        if lane.heat() {
            lane.touch();
            (0..WATCHERS).for_each(|_| self.call(lane));
        }
    }

    /// Waits for requests of overlays that are not in use, for ever.
    pub(super) fn keep_watch(self: Arc<Self>) {
        let mut looked = Instant::now();
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let timeout = if self.sentinel.hot() == 0 {
                looked = Instant::now();
                EpollTimeout::NONE
            } else {
                let left = COOLING_TIME.saturating_sub(looked.elapsed());
                EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
            };
            // Interrupted by a debugger, if by anything.
            let count = self.sentinel.epoll.wait(&mut events, timeout).unwrap_or(0);
            for event in &events[..count] {
                if let Some(lane) = self.sentinel.get(event.data()) {
                    self.noticed(lane, event.events());
                }
            }
            if looked.elapsed() >= COOLING_TIME {
                looked = Instant::now();
                self.feed();
                self.cool();
            }
        }
    }

    fn noticed(self: &Arc<Self>, lane: Arc<Lane>, events: EpollFlags) {
        if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.sentinel.remove(&lane);
            // By a worker, who may have to wait until what is open is closed. Without one, by this thread.
            let _ = self.assign(Task::Drop(lane));
            return;
        }
        self.sentinel.ignore(&lane);
        let may_heat = self.sentinel.hot() < HOT_MAX;
        if may_heat || self.assign(Task::Visit(Arc::clone(&lane))).is_err() {
            self.heat(&lane);
        }
    }

    /// Sends those away who wait for requests of overlays that were not used since this was last done. By a worker: the
    /// kernel may make it wait for others.
    fn cool(self: &Arc<Self>) {
        for lane in self.sentinel.unused() {
            // Without a worker, another time.
            let _ = self.assign(Task::Wake(lane));
        }
    }
}

impl Lane {
    /// Has those who wait for requests look up.
    pub(super) fn wake_watchers(&self) {
        for _ in 0..self.watchers() {
            if !self.serve().wake_reader() {
                return;
            }
        }
    }
}
