//! `fs-agent run`, from the configuration to the end.

use std::{
    io,
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
use nix::sys::signal::Signal;

use crate::{
    capture::Capture,
    check,
    fuse::Adapter,
    mount::{self, Unmounted},
    overlay::{Identity, Overlay},
    process,
};

/// How often losses are announced and drained rings removed.
const TIDY_INTERVAL: Duration = Duration::from_millis(500);

/// How long files that are still open may be used after the overlays are gone from the tree.
const CLOSING_GRACE: Duration = Duration::from_secs(5);

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
    mounted: Vec<PathBuf>,
}

impl Agent {
    fn mount_all(&mut self, events: &Sender<Event>) -> Result<()> {
        let ring = &self.config.ring.name;
        for directory in &self.config.directories {
            mount::recover(&directory.path, ring)?;
            mount::prepare_directory(directory)?;
        }
        let fds_max = process::inode_descriptors(self.config.directories.len());
        for directory in &self.config.directories {
            let path = &directory.path;
            let overlay = Overlay::open(path, Identity::of_this_process(), fds_max)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let session = mount::mount(path, ring, Adapter::new(overlay, Arc::clone(&self.capture)))?;
            self.mounted.push(path.clone());
            serve_session(session, path.clone(), events.clone())?;
        }
        Ok(())
    }

    /// Says to logs and to `status` what is listened to: every overlay answers by now.
    fn announce(&self) {
        for path in &self.mounted {
            tracing::info!("listening on {}", path.display());
        }
        self.update_roster();
    }

    fn update_roster(&self) {
        let listening = |path: &PathBuf| Listening { kind: ListeningKind::Directory, path: path.clone() };
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
        self.mounted.retain(|mounted| mounted != path);
        self.update_roster();
    }

    /// Unmounts, and gives files that are still open a while.
    fn stop(&mut self) {
        self.capture.set_roster(&[]);
        self.unmount_all();
        let deadline = Instant::now() + CLOSING_GRACE;
        while !self.mounted.is_empty() {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(path, _)) => self.mounted.retain(|mounted| *mounted != path),
                Ok(Event::Signal(Signal::SIGHUP)) => {}
                // Told twice, or out of patience.
                Ok(Event::Signal(_)) | Err(_) => break,
            }
        }
        for path in &self.mounted {
            tracing::warn!("files are still open in {}: they are cut off now", path.display());
        }
        self.capture.tidy();
    }

    fn unmount_all(&self) {
        for path in &self.mounted {
            let shown = path.display();
            match mount::unmount(path, &self.config.ring.name) {
                Ok(Unmounted::Clean) => tracing::info!("unmounted {shown}"),
                Ok(Unmounted::Lazily) => tracing::warn!(
                    "unmounted {shown} though files are open there: they work for {CLOSING_GRACE:?} more"
                ),
                Ok(Unmounted::Gone) => tracing::info!("{shown} was unmounted already"),
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }
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
