//! The thread that reads a FIFO.
//!
//! It holds the reading end alone. That is enough to keep the bytes of writers that have gone, and it makes the kernel say
//! when the last writer has closed, which a writing end of our own would hide: read(2) gives 0. It sleeps in
//! epoll_wait(2) until the FIFO changes (edge-triggered: having no writers is no reason to wake up), and ends when it is
//! told to by an eventfd: nothing in the stream is a command.
//!
//! What was removed from the filesystem is read on until its last writer has closed, beside the FIFO that took its place.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bywash_common::{config::FifoConfig, status::FifoCounter};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
    },
};
use rustix::io::ioctl_fionread;

use super::{
    ring_writer::RingWriter,
    source::{self, FileId, Found, Opened},
    stream::{Progress, Stream},
};
use crate::fd_store::Store;

/// How often the path is looked at, for a FIFO that was removed and made again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a reader that has just read something looks away before it asks to be woken: under load it then meets many
/// lines at once, and wakes the publisher once for all of them.
const NAP: Duration = Duration::from_micros(500);
/// Whoever fills more than this fraction of the pipe at once could fill the rest during a nap.
const NAP_FRACTION: usize = 4;
/// The shortest and the longest time between two looks whether the ring has room again.
const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(50);
/// How long a reader that is told to end tries to get what the pipe holds into the ring.
const READ_OUT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long at least it tries to get what it has read into the ring.
const CLOSING_TIME_MIN: Duration = Duration::from_millis(50);
/// The most streams of removed FIFOs whose writers have not closed yet.
const REMOVED_MAX: usize = 8;

/// How epoll names the eventfd; streams have other numbers.
const WAKE_KEY: u64 = 0;

/// What the reader and who controls it share.
pub struct Control {
    wake: EventFd,
    shared: Mutex<Shared>,
}

struct Shared {
    stage: Stage,
    changed: Option<FifoConfig>,
    /// The FIFOs that the reader has open.
    held: Vec<FileId>,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It reads.
    Reading,
    /// It was told to end, reads out what the pipe holds, and can still be told to go on.
    ReadingOut,
    /// It puts what it has read into the ring, and ends.
    Closing,
    /// It leaves everything to the next agent, and ends.
    Leaving,
}

impl Control {
    /// # Errors
    /// If the system has no descriptor to give.
    pub fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Shared { stage: Stage::Reading, changed: None, held: Vec::new() };
        Ok(Self { wake, shared: Mutex::new(shared) })
    }

    /// Has the reader read out what the pipe holds, and end.
    pub fn stop(&self) {
        let stage = &mut self.lock().stage;
        if *stage == Stage::Reading {
            *stage = Stage::ReadingOut;
        }
        self.ring();
    }

    /// Has the reader end without reading out what the pipe holds: somebody else has it open and will read that.
    pub fn hand_over(&self) {
        self.lock().stage = Stage::Closing;
        self.ring();
    }

    /// Has the reader leave the pipes to the next agent, with what it has read of them, and end.
    pub fn leave(&self) {
        self.lock().stage = Stage::Leaving;
        self.ring();
    }

    /// Has a reader that was told to end go on, by `config`, as if nothing had been; false if it is too late for that.
    pub fn resume(&self, config: &FifoConfig) -> bool {
        let mut shared = self.lock();
        if matches!(shared.stage, Stage::Closing | Stage::Leaving) {
            return false;
        }
        shared.stage = Stage::Reading;
        shared.changed = Some(config.clone());
        drop(shared);
        self.ring();
        true
    }

    /// Has the reader go on by another configuration of the same FIFO.
    pub fn change(&self, config: FifoConfig) {
        self.lock().changed = Some(config);
        self.ring();
    }

    /// Whether the reader has this FIFO open.
    pub fn holds(&self, id: FileId) -> bool {
        self.lock().held.contains(&id)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // It fails only if it has rung 2^64 times.
        let _ = self.wake.write(1);
    }

    fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Whether the reader ends for good: from then on it cannot be told to go on.
    fn closes(&self) -> bool {
        let stage = &mut self.lock().stage;
        if *stage == Stage::ReadingOut {
            *stage = Stage::Closing;
        }
        matches!(*stage, Stage::Closing | Stage::Leaving)
    }

    fn take_change(&self) -> Option<FifoConfig> {
        self.lock().changed.take()
    }
}

/// Reads one FIFO, and those that were at its path before.
pub struct Reader {
    config: FifoConfig,
    control: Arc<Control>,
    ring_writer: RingWriter,
    /// Who keeps what is open for the next agent.
    store: Arc<Store>,
    epoll: Epoll,
    /// What is read; the last one is at the path, unless nothing is.
    streams: Vec<Stream>,
    /// Which FIFO is at the path.
    current: Option<FileId>,
    next_key: u64,
    looked: Instant,
    /// What was wrong with the path when it was last looked at.
    complaint: Option<String>,
    retry: Duration,
}

/// What a round over all streams has come to.
#[derive(Default)]
struct Round {
    read_bytes: usize,
    /// Some stream has pieces for which the ring has no room, and waits.
    is_blocked: bool,
    /// Some stream may have more to read.
    has_more: bool,
}

impl Reader {
    /// A reader of `opened`, which was opened for `config`, and of `removed`, which were at its path before.
    ///
    /// # Errors
    /// If the system has no descriptor to give.
    pub fn new(
        config: FifoConfig,
        (opened, removed): (Opened, Vec<Opened>),
        control: Arc<Control>,
        ring_writer: RingWriter,
        store: Arc<Store>,
    ) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&control.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE_KEY))?;
        let mut reader = Self {
            config,
            control,
            ring_writer,
            store,
            epoll,
            streams: Vec::new(),
            current: None,
            next_key: WAKE_KEY + 1,
            looked: Instant::now(),
            complaint: None,
            retry: RETRY_MIN,
        };
        for opened in removed {
            reader.take_in(opened)?;
        }
        reader.streams.iter_mut().for_each(|stream| stream.is_removed = true);
        reader.take_in(opened)?;
        Ok(reader)
    }

    /// Reads until it is told to end, and is not told to go on before it has.
    pub fn run(mut self) {
        loop {
            self.serve();
            let deadline = self.read_out();
            if self.control.closes() {
                return self.close(deadline);
            }
        }
    }

    fn serve(&mut self) {
        while self.control.stage() == Stage::Reading {
            self.take_over_change();
            self.ask_quiet_streams();
            let round = self.read_round();
            self.look_if_due();
            if round.read_bytes > 0 && !round.is_blocked {
                self.nap(round.read_bytes);
                continue;
            }
            let timeout = match &round {
                Round { is_blocked: true, .. } => self.retry_wait(),
                Round { has_more: true, .. } => Duration::ZERO,
                _ => self.next_deadline(),
            };
            self.wait(timeout);
        }
    }

    fn read_round(&mut self) -> Round {
        let mut round = Round::default();
        let Self { streams, ring_writer, config, .. } = self;
        let before = streams.len();
        streams.retain_mut(|stream| match stream.read(ring_writer, config.line_idle.0) {
            Progress::Read(bytes) => {
                round.read_bytes += bytes;
                true
            }
            Progress::Blocked => {
                round.is_blocked = true;
                true
            }
            Progress::Empty => true,
            // Nobody can open a removed FIFO again.
            Progress::Ended => !stream.is_removed,
            Progress::Failed(error) => {
                tracing::error!("cannot read from the FIFO {}: {error}", ring_writer.path().display());
                stream.abandon(ring_writer);
                false
            }
        });
        if self.streams.len() < before {
            self.say_held();
        }
        round.has_more = self.streams.iter().any(Stream::has_more);
        if !round.is_blocked {
            self.retry = RETRY_MIN;
        }
        if self.streams.iter().all(|stream| stream.is_removed) {
            self.current = None;
        }
        round
    }

    /// Lets more come before it is read, where there is room for that.
    fn nap(&mut self, read_bytes: usize) {
        let pipe_bytes = self.streams.iter().map(|stream| stream.opened.pipe_bytes).min().unwrap_or(0);
        if read_bytes < pipe_bytes / NAP_FRACTION {
            thread::sleep(NAP);
        }
        self.streams.iter_mut().for_each(Stream::look_again);
    }

    fn retry_wait(&mut self) -> Duration {
        let wait = self.retry;
        self.retry = (wait * 2).min(RETRY_MAX);
        wait
    }

    /// How long nothing is to be done unless something happens.
    fn next_deadline(&self) -> Duration {
        let now = Instant::now();
        let look = LOOK_INTERVAL.saturating_sub(now - self.looked);
        let idle_max = self.config.line_idle.0;
        let quiet = self.streams.iter().filter_map(Stream::quiet_since);
        quiet.map(|since| idle_max.saturating_sub(now - since)).fold(look, Duration::min)
    }

    fn wait(&mut self, timeout: Duration) {
        let mut events = [EpollEvent::empty(); REMOVED_MAX + 2];
        // Rounded up: a wait that ends just before its time would be begun again and again.
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        let timeout = EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX));
        // An interrupted wait is one that ended early.
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                WAKE_KEY => drop(self.control.wake.read()),
                key => {
                    self.streams.iter_mut().filter(|stream| stream.key == key).for_each(Stream::look_again)
                }
            }
        }
    }

    fn take_over_change(&mut self) {
        let Some(config) = self.control.take_change() else { return };
        self.ring_writer.set_on_full(config.on_full);
        let rules = self.ring_writer.rules(&config);
        for stream in &mut self.streams {
            stream.set_rules(rules);
            stream.opened.pipe_bytes = source::enlarge(&stream.opened.fd, config.pipe_size.0, &config.path);
        }
        self.config = config;
    }

    /// A line that has waited long enough for its end becomes an event if there is still nothing to read.
    fn ask_quiet_streams(&mut self) {
        let idle_max = self.config.line_idle.0;
        for stream in &mut self.streams {
            if stream.quiet_since().is_some_and(|since| since.elapsed() >= idle_max) {
                stream.look_again();
            }
        }
    }

    fn look_if_due(&mut self) {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return;
        }
        self.looked = Instant::now();
        self.streams.iter_mut().for_each(Stream::rest);
        let was_missing = self.current.is_none();
        match source::look(&self.config.path) {
            Ok(Found::Fifo(id)) if Some(id) == self.current => return,
            Ok(Found::Fifo(id)) => return self.turn_to(id),
            // Who removes it may be about to make another: it has until the next look.
            Ok(Found::Nothing) if was_missing && self.config.create => return self.open_again(),
            Ok(Found::Nothing) => self.complain("it is gone".to_owned()),
            Ok(Found::Other(what)) => self.complain(format!("there is {what} in its place")),
            Err(error) => self.complain(error.to_string()),
        }
        self.retire();
    }

    /// There is another FIFO at the path, or one that was moved away and back.
    fn turn_to(&mut self, id: FileId) {
        if !self.streams.iter().any(|stream| stream.opened.id == id) {
            return self.open_again();
        }
        self.retire();
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.opened.id == id) {
            stream.is_removed = false;
            self.current = Some(id);
            self.ring_writer.set(FifoCounter::Missing, 0);
            self.complaint = None;
        }
    }

    /// There is another FIFO at the path, or shall be.
    fn open_again(&mut self) {
        match source::open_fifo(&self.config) {
            Ok(opened) => {
                self.retire();
                if let Err(error) = self.take_in(opened) {
                    return self.complain(error.to_string());
                }
                self.complaint = None;
                tracing::info!("reading another FIFO at {}", self.config.path.display());
            }
            Err(error) => self.complain(error.to_string()),
        }
    }

    fn take_in(&mut self, mut opened: Opened) -> nix::Result<()> {
        let memory = opened.memory(&self.store, &self.config.path);
        let (keep, memory, mark) = memory.map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        let key = self.next_key;
        self.next_key += 1;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.epoll.add(&opened.fd, EpollEvent::new(interest, key))?;
        self.current = Some(opened.id);
        self.ring_writer.set(FifoCounter::Missing, 0);
        let (rules, promise) = (self.ring_writer.rules(&self.config), self.ring_writer.promise());
        self.streams.push(Stream::new(key, opened, (memory, mark), keep, rules, promise));
        self.say_held();
        Ok(())
    }

    /// Says which FIFOs are open here.
    fn say_held(&self) {
        self.control.lock().held = self.streams.iter().map(|stream| stream.opened.id).collect();
    }

    /// What was at the path is read on until its writers are gone.
    fn retire(&mut self) {
        self.current = None;
        self.ring_writer.set(FifoCounter::Missing, 1);
        for stream in &mut self.streams {
            stream.is_removed = true;
            // It ends at once if it has no writers.
            stream.look_again();
        }
        if self.streams.len() > REMOVED_MAX {
            tracing::warn!(
                "{} was made again {REMOVED_MAX} times while writers kept the old ones open: the oldest is \
                 not read any more",
                self.config.path.display()
            );
            let mut oldest = self.streams.remove(0);
            oldest.finish(&mut self.ring_writer);
            oldest.abandon(&mut self.ring_writer);
            self.say_held();
        }
    }

    /// Says what is wrong with the path, once.
    fn complain(&mut self, complaint: String) {
        if self.complaint.as_ref() != Some(&complaint) {
            let shown = self.config.path.display();
            tracing::warn!(
                "the FIFO {shown} cannot be read for now: {complaint}; it will be once it is there"
            );
            self.complaint = Some(complaint);
        }
    }

    /// Gets what the pipes hold by now into the ring, and not what writers add meanwhile: they may never pause. Gives until
    /// when the reader may take to end.
    fn read_out(&mut self) -> Instant {
        let deadline = Instant::now() + READ_OUT_TIME_MAX;
        let line_idle = self.config.line_idle.0;
        for stream in &mut self.streams {
            let held = ioctl_fionread(&stream.opened.fd).unwrap_or(0);
            let mut left = usize::try_from(held).unwrap_or(usize::MAX);
            while left > 0 && Instant::now() < deadline && self.control.stage() == Stage::ReadingOut {
                stream.look_again();
                match stream.read(&mut self.ring_writer, line_idle) {
                    Progress::Read(bytes) => left = left.saturating_sub(bytes),
                    Progress::Blocked => thread::sleep(RETRY_MIN),
                    Progress::Empty | Progress::Ended | Progress::Failed(_) => break,
                }
            }
        }
        self.streams.iter_mut().for_each(Stream::look_again);
        if self.control.stage() == Stage::ReadingOut { deadline } else { Instant::now() }
    }

    /// What is still in the pipes stays there. What is not, must not be lost.
    fn close(mut self, deadline: Instant) {
        if self.control.stage() == Stage::Leaving {
            // What the ring has room for goes there.
            self.streams.retain_mut(|stream| {
                stream.is_blocked(&mut self.ring_writer);
                !stream.leave()
            });
        }
        let deadline = deadline.max(Instant::now() + CLOSING_TIME_MIN);
        self.ring_writer.close();
        for stream in &mut self.streams {
            stream.complete_line(&mut self.ring_writer, deadline);
            stream.finish(&mut self.ring_writer);
            while stream.is_blocked(&mut self.ring_writer) && Instant::now() < deadline {
                thread::sleep(RETRY_MIN);
            }
            stream.abandon(&mut self.ring_writer);
        }
    }
}
