//! The random choices of a run: one sequence of random numbers, from one seed, decides everything that happens.

use std::{
    io,
    panic::panic_any,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;

/// The process was killed at this moment. What unwinds is not run by anybody.
pub struct Killed;

/// How much goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of 1000 calls of the disk, so many fail.
    pub disk_errors: u64,
    /// The errno of all failures of the moment, if it is one.
    pub errno: Option<Errno>,
    /// Of 1000 reads and writes, so many are short.
    pub short: u64,
}

struct State {
    random: fastrand::Rng,
    weather: Weather,
    /// After so many calls the process is killed.
    kill_in: Option<u64>,
    /// So often the process may wait within one action.
    waits_left: u64,
    /// How often the process was killed.
    kills: u64,
    trace: Option<Vec<String>>,
}

/// The fate of a run.
#[derive(Clone)]
pub struct Random(Arc<Mutex<State>>);

impl Random {
    /// The fate that the seed has in store.
    pub fn new(seed: u64, is_traced: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: fastrand::Rng::with_seed(seed),
            weather: Weather::default(),
            kill_in: None,
            waits_left: 0,
            kills: 0,
            trace: is_traced.then(Vec::new),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound`, or 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.lock().random.u64(..bound) }
    }

    /// Whether something happens that does so `of_1000` times of 1000.
    pub fn happens(&self, of_1000: u64) -> bool {
        self.below(1000) < of_1000
    }

    /// One of some.
    pub fn pick<T: Copy>(&self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u64) as usize).copied()
    }

    /// How much goes wrong from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Has the process be killed in so many calls.
    pub fn set_kill(&self, kill_in: Option<u64>) {
        self.lock().kill_in = kill_in;
    }

    /// How often the process was killed so far.
    pub fn kills(&self) -> u64 {
        self.lock().kills
    }

    /// The process is killed from outside.
    pub fn count_kill(&self) {
        self.lock().kills += 1;
    }

    /// How often the process may wait from now on.
    pub fn set_patience(&self, waits: u64) {
        self.lock().waits_left = waits;
    }

    /// The process waits. If that takes too long somebody kills it.
    pub fn wait(&self) {
        let mut state = self.lock();
        if state.waits_left > 0 {
            state.waits_left -= 1;
            return;
        }
        state.kills += 1;
        drop(state);
        self.note(|| "killed as it only waits".to_owned());
        panic_any(Killed);
    }

    /// Notes what happens.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let mut state = self.lock();
        if let Some(trace) = &mut state.trace {
            trace.push(what());
        }
    }

    /// What was noted.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// The process does something that others see: it may be killed before.
    pub fn step(&self, what: &str) {
        let mut state = self.lock();
        let is_killed = match &mut state.kill_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if is_killed {
            state.kill_in = None;
            state.kills += 1;
            drop(state);
            self.note(|| format!("killed before {what}"));
            panic_any(Killed);
        }
    }

    /// A call of the disk begins, and may fail.
    pub fn call(&self, what: &str, errors: &[Errno]) -> io::Result<()> {
        self.step(what);
        let weather = self.lock().weather;
        if !self.happens(weather.disk_errors) {
            return Ok(());
        }
        let errno = weather.errno.or_else(|| self.pick(errors)).unwrap_or(Errno::EIO);
        self.note(|| format!("{what} fails: {errno}"));
        Err(io::Error::from_raw_os_error(errno as i32))
    }

    /// A call has done what it does: the process may be killed before it knows.
    pub fn after(&self, what: &str) {
        self.step(what);
    }

    /// How many of so many bytes a call takes: at least one.
    pub fn short(&self, bytes: usize) -> usize {
        let short = self.lock().weather.short;
        if bytes > 1 && self.happens(short) { 1 + self.below(bytes as u64 - 1) as usize } else { bytes }
    }
}
