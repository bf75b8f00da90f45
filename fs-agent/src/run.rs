//! `fs-agent run`, from the configuration to the end.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bywash_common::{
    cli::GlobalArgs,
    config::Config,
    exit::Exit,
    ring::AgentRing,
    status::{Listening, ListeningKind},
};
use fuser::Session;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use rustix::fs::statvfs;

use crate::{
    capture::Capture,
    check,
    crew::{self, Crew},
    fuse::Adapter,
    mount::{self, Unmounted},
    overlay::{Identity, Overlay},
    process,
};

/// How often losses are announced and drained rings removed.
const TIDY_INTERVAL: Duration = Duration::from_millis(500);

/// How long files that are still open may be used after the overlays are gone from the tree.
const CLOSING_GRACE: Duration = Duration::from_secs(5);

/// How long the start waits for an overlay to answer.
const MUSTER_TIME_MAX: Duration = Duration::from_secs(1);

/// What the agent reacts to.
#[derive(Debug)]
pub enum Event {
    /// Someone has sent a signal.
    Signal(Signal),
    /// An overlay is not served any more.
    Ended(PathBuf, io::Result<()>),
}

/// Mounts the overlays and serves them until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting. Nothing is then left mounted.
pub fn run(args: &GlobalArgs) -> Result<Exit> {
    let config = check::load(args)?;
    process::block_signals()?;
    process::prepare();
    mount::check_privileges()?;
    for directory in &config.directories {
        mount::check_directory(directory)?;
    }
    // The ring before the mounts: who holds it is the only living agent of its name.
    let capture = Arc::new(Capture::new(AgentRing::open(&config.ring)?));
    let (sender, events) = channel();
    process::watch_signals(sender.clone())?;
    let mut agent = Agent { config, capture, events, mounted: Vec::new() };
    agent.mount_all(&sender).inspect_err(|_| agent.unmount_all())?;
    drop(sender);
    agent.announce();
    agent.serve()
}

/// The agent at work.
struct Agent {
    config: Config,
    capture: Arc<Capture>,
    events: Receiver<Event>,
    /// The overlays that are served.
    mounted: Vec<Mounted>,
}

/// An overlay that is served.
struct Mounted {
    path: PathBuf,
    crew: Arc<Crew>,
    /// Its end of the kernel's connection.
    device: OwnedFd,
}

impl Mounted {
    /// Once the overlay is unmounted, and what was open in it closed, the kernel tells only who asks it.
    fn dismiss_if_ended(&self) {
        let mut device = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
        let asked = poll(&mut device, PollTimeout::ZERO);
        let ended =
            asked.is_ok() && device[0].revents().is_none_or(|events| events.contains(PollFlags::POLLERR));
        if ended {
            self.crew.dismiss();
        }
    }
}

impl Agent {
    fn mount_all(&mut self, events: &Sender<Event>) -> Result<()> {
        let ring = &self.config.ring.name;
        for directory in &self.config.directories {
            mount::recover(&directory.path, ring)?;
            mount::prepare_directory(directory)?;
        }
        let overlays = self.config.directories.len();
        let fds_max = process::inode_descriptors(overlays);
        for directory in &self.config.directories {
            let path = &directory.path;
            let overlay = Overlay::open(path, Identity::of_this_process(), fds_max)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let crew = Crew::new(crew::threads_each(overlays));
            let adapter = Adapter::new(overlay, Arc::clone(&self.capture), Arc::clone(&crew));
            let session = mount::mount(path, ring, adapter)?;
            let device = session.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
            self.mounted.push(Mounted { path: path.clone(), crew: Arc::clone(&crew), device });
            serve_session(session, path.clone(), events.clone())?;
            muster(crew, path.clone())?;
        }
        Ok(())
    }

    /// Says to logs and to `status` what is listened to: every overlay answers by now.
    fn announce(&self) {
        for Mounted { path, .. } in &self.mounted {
            tracing::info!("listening on {}", path.display());
        }
        self.update_roster();
    }

    fn update_roster(&self) {
        let listening =
            |mounted: &Mounted| Listening { kind: ListeningKind::Directory, path: mounted.path.clone() };
        self.capture.set_roster(&self.mounted.iter().map(listening).collect::<Vec<_>>());
    }

    fn serve(mut self) -> Result<Exit> {
        let mut tidied = Instant::now();
        loop {
            match self.events.recv_timeout(TIDY_INTERVAL.saturating_sub(tidied.elapsed())) {
                Ok(Event::Signal(Signal::SIGHUP)) => {
                    tracing::warn!("SIGHUP: a changed configuration takes effect at the next start only");
                }
                Ok(Event::Signal(signal)) => {
                    tracing::info!("{signal}: unmounting");
                    self.stop();
                    return Ok(Exit::Ok);
                }
                Ok(Event::Ended(path, result)) => {
                    self.drop_ended(&path, result);
                    if self.mounted.is_empty() {
                        anyhow::bail!("no overlay is left to serve");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.capture.tidy();
                    self.mounted.iter().for_each(Mounted::dismiss_if_ended);
                    tidied = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the signal thread has ended"),
            }
        }
    }

    /// Someone else has unmounted an overlay, or serving it has failed.
    fn drop_ended(&mut self, path: &PathBuf, result: io::Result<()>) {
        match result {
            Ok(()) => tracing::warn!("{} was unmounted by someone else: not listening there", path.display()),
            Err(error) => tracing::error!("serving {} has failed: {error}", path.display()),
        }
        self.mounted.retain(|mounted| mounted.path != *path);
        self.update_roster();
    }

    /// Unmounts, and gives files that are still open a while.
    fn stop(&mut self) {
        self.capture.set_roster(&[]);
        self.unmount_all();
        let deadline = Instant::now() + CLOSING_GRACE;
        while !self.mounted.is_empty() {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(path, _)) => self.mounted.retain(|mounted| mounted.path != path),
                Ok(Event::Signal(Signal::SIGHUP)) => {}
                // Told twice, or out of patience.
                Ok(Event::Signal(_)) | Err(_) => break,
            }
        }
        for Mounted { path, .. } in &self.mounted {
            tracing::warn!("files are still open in {}: they are cut off now", path.display());
        }
        self.capture.tidy();
    }

    fn unmount_all(&self) {
        for Mounted { path, crew, .. } in &self.mounted {
            let shown = path.display();
            match mount::unmount(path, &self.config.ring.name) {
                Ok(Unmounted::Clean) => tracing::info!("unmounted {shown}"),
                Ok(Unmounted::Lazily) => tracing::warn!(
                    "unmounted {shown} though files are open there: they work for {CLOSING_GRACE:?} more"
                ),
                Ok(Unmounted::Gone) => tracing::info!("{shown} was unmounted already"),
                Err(error) => tracing::error!("{error:#}"),
            }
            crew.dismiss();
        }
    }
}

/// Has the threads that are not needed yet park, by giving each something small to do: before they touch more of their
/// buffers. Waits a while for that: an overlay whose threads have parked answers.
fn muster(crew: Arc<Crew>, path: PathBuf) -> Result<()> {
    let (done, mustered) = channel();
    let muster = move || {
        for _ in 0..crew.size() {
            if crew.is_mustered() || statvfs(&path).is_err() {
                break;
            }
        }
        // Nobody listens any more if the directory below is slow.
        let _ = done.send(());
    };
    // Not this thread: the directory below may not answer at all.
    thread::Builder::new().name("muster".to_owned()).spawn(muster).context("cannot start a thread")?;
    let _ = mustered.recv_timeout(MUSTER_TIME_MAX);
    Ok(())
}

/// Serves an overlay with threads of its own, and reports its end.
fn serve_session(session: Session<Adapter>, path: PathBuf, events: Sender<Event>) -> Result<()> {
    let serve = move || {
        let result = session.run();
        // Nobody listens any more once the agent has given up waiting.
        let _ = events.send(Event::Ended(path, result));
    };
    thread::Builder::new().name("overlay".to_owned()).spawn(serve).context("cannot start a thread")?;
    Ok(())
}
