//! What the agent listens to: the one place where a configuration becomes overlays and whatever else feeds the ring.
//!
//! [`Services::apply`] serves the start, a reload, sleep and wake alike. It first starts what is new, which may fail
//! and is then undone; only when all of it runs does it change what stays and stop what is gone.

mod flush;
mod left;
mod overlays;
mod reconcile;
mod resume;
mod served;
mod tree;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bywash_common::{
    config::{Config, ConfigArgs, OnAgentExit},
    ring::AgentRing,
    status::{AgentCounter, Listening, ListeningKind},
};
use nix::sys::signal::Signal;

use crate::{
    capture::Capture,
    event::{Event, LOOK_SIGNAL, OverlayId},
    fd_store::Store,
    fifo::{self, Fifos},
    mount, overlay,
    process::Prepared,
};

pub use overlays::Ended;
use overlays::Overlays;

/// How often it is looked whether what was stopped is still in use.
const CLOSING_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a stop may take beside `agent.stop_grace`: stores into mappings are written down before and after it.
pub const STOP_WORK_MAX: Duration = Duration::from_secs(15);

/// Whether `config`, which was read for `args`, could be applied, as far as can be said without changing anything.
///
/// # Errors
/// Why it could not, and where that stands in the configuration.
pub fn check(config: &Config, args: &ConfigArgs) -> Result<()> {
    let placed = |key: &str, path: &Path, error: anyhow::Error| match Config::place_of(args, key, path) {
        Some(place) => error.context(place),
        None => error,
    };
    for directory in &config.directories {
        mount::check_directory(directory, &config.ring.name)
            .map_err(|error| placed("directory.path", &directory.path, error.into()))?;
    }
    for fifo in &config.fifos {
        fifo::check(config, fifo).map_err(|error| placed("fifo.path", &fifo.path, error.into()))?;
    }
    Ok(())
}

/// Whether this process may do what `config` asks for.
///
/// # Errors
/// What is missing, and how to get it.
pub fn check_privileges(config: &Config) -> Result<()> {
    if config.directories.is_empty() {
        return Ok(());
    }
    overlay::check_own_masks().context(
        "callers' file mode masks cannot be obeyed: the system call filter over this process has to allow unshare(CLONE_FS)",
    )?;
    mount::check_privileges()
}

/// Everything that feeds the ring.
pub struct Services {
    capture: Arc<Capture>,
    overlays: Overlays,
    fifos: Fifos,
    /// Directories that would have an overlay if the agent did not sleep.
    asleep: Vec<PathBuf>,
}

impl Services {
    /// Nothing yet, to feed `ring` and to report to `events`; `store` keeps for the next agent what is open.
    pub fn new(
        ring: AgentRing,
        ring_name: &str,
        events: Sender<Event>,
        prepared: Prepared,
        store: &Arc<Store>,
    ) -> Self {
        let capture = Arc::new(Capture::new(ring));
        let overlays =
            Overlays::new(Arc::clone(&capture), ring_name, events, prepared.identity, Arc::clone(store));
        let fifos = Fifos::new(Arc::clone(&capture), Arc::clone(store));
        Self { capture, overlays, fifos, asleep: Vec::new() }
    }

    /// Has listened to what `config` says, but for the directories `asleep`, to that alone, and in the way it says.
    ///
    /// # Errors
    /// What could not be started. All is then as it was.
    pub fn apply(&mut self, config: &Config, asleep: Vec<PathBuf>) -> Result<()> {
        let mut directories = config.directories.clone();
        directories.retain(|directory| !asleep.contains(&directory.path));
        let fifos = self.fifos.open_new(&config.fifos)?;
        let overlays = self.overlays.start_new(&directories, config.agent.on_agent_exit)?;
        // Nothing can fail from here on but for want of threads.
        mount::recover_forgotten(&config.ring.name, |path| directories.iter().any(|d| d.path == path));
        self.overlays.settle(&directories, overlays);
        self.asleep = asleep;
        let settled = self.fifos.settle(&config.fifos, fifos);
        self.announce();
        settled
    }

    /// Whether nothing feeds the ring, and nothing will when the agent wakes up.
    pub fn is_idle(&self) -> bool {
        self.overlays.is_empty() && self.fifos.is_empty() && self.asleep.is_empty()
    }

    /// An overlay is not served any more: somebody else has unmounted it, or serving it has failed, or the last file in one
    /// that was unmounted is closed.
    pub fn overlay_ended(&mut self, id: OverlayId, result: std::io::Result<()>) -> Ended {
        let ended = self.overlays.ended(id, result);
        if ended == Ended::Unmounted {
            self.announce();
        }
        ended
    }

    /// Somebody has mounted or unmounted something, somewhere.
    pub fn mounts_changed(&mut self) {
        self.overlays.mounts_changed();
    }

    /// What is to be done now and then.
    pub fn tidy(&mut self) {
        self.overlays.let_go_of_unused();
        self.overlays.tidy();
        self.capture.tidy();
    }

    /// Goes on with what the agent before has left, before anything else is looked at: callers wait. [`Self::apply`] decides what
    /// becomes of it. Gives how many files programs have open there.
    pub fn resume(&mut self, config: &Config) -> usize {
        self.report([(AgentCounter::HandoverFilesLost, 0)]);
        self.overlays.resume(&config.directories)
    }

    /// Stops listening. What is in use goes on as long as this process does, or until [`Self::close`] ends.
    pub fn stop(&mut self, on_agent_exit: OnAgentExit) {
        self.capture.set_listening_table(&[]);
        self.fifos.stop();
        self.overlays.stop(on_agent_exit);
        self.fifos.join();
    }

    /// Leaves to the next agent what can be left, and says what quotas have withheld. What cannot be left is stopped.
    pub fn leave(&mut self, on_agent_exit: OnAgentExit) {
        self.capture.set_listening_table(&[]);
        self.fifos.leave();
        self.fifos.stop();
        self.overlays.leave_to_successor(on_agent_exit);
        self.fifos.join();
    }

    /// Gives what is still in use of what was stopped as long as `grace`. The process can end then: what is cut off is said,
    /// and the last news are in the ring. A second signal to stop ends the wait.
    pub fn close(&mut self, events: &Receiver<Event>, grace: Duration) {
        let deadline = Instant::now() + grace;
        while !self.is_closed() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match events.recv_timeout(left.min(CLOSING_LOOK_INTERVAL)) {
                Ok(Event::Ended(id, result)) => {
                    self.overlay_ended(id, result);
                }
                Ok(
                    Event::MountsChanged
                    | Event::SettleMounts(_)
                    | Event::Signal(Signal::SIGHUP | LOOK_SIGNAL),
                )
                | Err(RecvTimeoutError::Timeout) => {}
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.overlays.abandon();
        self.capture.finish();
    }

    /// Whether nothing is in use any more of what was stopped.
    fn is_closed(&mut self) -> bool {
        self.overlays.let_go_of_unused();
        self.overlays.is_closed()
    }

    /// Prepares the ring's memory, once callers are served.
    pub fn populate(&self) {
        self.capture.ring().populate();
    }

    /// Says to `status` what is to be known of this agent itself.
    pub fn report(&self, counters: impl IntoIterator<Item = (AgentCounter, u64)>) {
        let ring = self.capture.ring();
        counters.into_iter().for_each(|(counter, value)| ring.status.set(counter, value));
    }

    /// Says to `status` what is listened to: all of it answers by now.
    fn announce(&self) {
        let listening = |kind| move |path: &Path| Listening { kind, path: path.to_owned() };
        let awake = self.overlays.paths().map(listening(ListeningKind::Directory));
        let asleep = self.asleep.iter().map(PathBuf::as_path).map(listening(ListeningKind::AsleepDirectory));
        let listening_table: Vec<_> = awake.chain(asleep).chain(self.fifos.listening_table()).collect();
        self.capture.set_listening_table(&listening_table);
    }
}
