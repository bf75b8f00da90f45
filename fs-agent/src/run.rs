//! `fs-agent run`, from the configuration to the end.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, RingConfig},
    exit::Exit,
    ring::AgentRing,
    status::AgentCounter,
};
use nix::sys::signal::Signal;

use crate::{
    check,
    event::{Event, LOOK_SIGNAL},
    fd_store::{Generation, Store, Successor},
    fifo,
    manager::Manager,
    mount, process, refused,
    services::{self, Ended, STOP_WORK_MAX, Services},
    sleep::asleep,
};

/// How often losses are announced and drained rings removed.
const TIDY_INTERVAL: Duration = Duration::from_millis(500);

/// Listens to what the configuration names until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting. Nothing is then left mounted.
pub fn run(args: &GlobalArgs) -> Result<Exit> {
    process::block_signals()?;
    // Before anything else is opened: what is handed over has the first numbers.
    let store = Arc::new(Store::from_environment());
    let config = match check::load(args) {
        Ok(config) => config,
        Err(error) => {
            refused::take_off(args, &store);
            return Err(error);
        }
    };
    let prepared = process::prepare()?;
    let check = || services::check_privileges(&config).and_then(|()| services::check(&config, &args.config));
    // Paths may lead through overlays that the agent before has left, and that nobody serves yet.
    let goes_on = store.has_overlays();
    if !goes_on {
        check()?;
    }
    // The ring before the mounts: who holds it is the only living agent of its name.
    let ring = AgentRing::open(&config.ring)?;
    let (sender, events) = channel();
    process::watch_signals(&prepared, sender.clone())?;
    // Before the mounts, so that no change is missed.
    mount::watch::watch(sender.clone()).context("cannot watch the table of mounts")?;
    let mut services = Services::new(ring, &config.ring.name, sender, prepared, &store);
    let files = services.resume(&config);
    let checked = if goes_on { check() } else { Ok(()) };
    let applied = checked.and_then(|()| services.apply(&config, asleep(&config)));
    if let Err(error) = applied {
        refused::give_up(&mut services, &events, &config, &store, &error);
        return Err(error);
    }
    let generation = Generation::of_this_agent(&store);
    if let Some(generation) = &generation {
        services.report(generation.counters());
        services.report([(AgentCounter::HandoverFiles, u64::try_from(files).unwrap_or(u64::MAX))]);
    }
    services.populate();
    drop_unknown(&store);
    // One that follows another one is waited for, and knows that things are kept.
    if generation.as_ref().is_some_and(Generation::is_first)
        && let Err(error) = store.verify()
    {
        tracing::warn!("what is open may not outlive this agent: {error:#}");
    }
    fifo::leftovers::send(&config);
    Agent { args, config, services, events, manager: Manager::ready(), store, generation }.serve()
}

/// Lets go of what was kept and is of no use to this agent.
fn drop_unknown(store: &Store) {
    for (name, _) in store.take() {
        tracing::warn!("`{name}` was kept for this agent, which cannot use it: letting go of it");
        store.remove(&name);
    }
}

/// The agent at work.
struct Agent<'a> {
    args: &'a GlobalArgs,
    /// What is in force.
    config: Config,
    services: Services,
    events: Receiver<Event>,
    manager: Manager,
    /// What outlives this process.
    store: Arc<Store>,
    /// Which agent in a row this is, if there is a row.
    generation: Option<Generation>,
}

impl Agent<'_> {
    fn serve(mut self) -> Result<Exit> {
        let mut tidied = Instant::now();
        loop {
            match self.events.recv_timeout(TIDY_INTERVAL.saturating_sub(tidied.elapsed())) {
                Ok(Event::Signal(Signal::SIGHUP)) => self.reload(),
                Ok(Event::Signal(LOOK_SIGNAL)) => self.sleep_or_wake(),
                Ok(Event::Signal(signal)) => {
                    self.end(signal);
                    return Ok(Exit::Ok);
                }
                Ok(Event::MountsChanged) => self.services.mounts_changed(),
                Ok(Event::SettleMounts(done)) => {
                    self.services.mounts_changed();
                    // Nobody waits any more if it took too long.
                    let _ = done.send(());
                }
                Ok(Event::Ended(id, result)) => {
                    if self.services.overlay_ended(id, result) == Ended::Aborted {
                        self.listen_again();
                    }
                    if self.services.is_idle() {
                        anyhow::bail!("no overlay is left to serve, and no FIFO to read");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.services.tidy();
                    self.manager.alive();
                    self.generation.iter().for_each(Generation::alive);
                    tidied = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the signal thread has ended"),
            }
        }
    }

    /// Takes over what has changed in the configuration; all of it or nothing.
    fn reload(&mut self) {
        self.manager.reloading();
        match self.try_reload() {
            Ok(()) => tracing::info!("SIGHUP: the configuration was read again and is in force"),
            Err(error) => {
                tracing::error!(
                    "SIGHUP: the new configuration is refused, the old one stays in force: {error:#}"
                );
            }
        }
        self.manager.reloaded();
    }

    fn try_reload(&mut self) -> Result<()> {
        let mut new = check::load(self.args)?;
        services::check_privileges(&new)?;
        services::check(&new, &self.args.config)?;
        keep_ring(&self.config.ring, &mut new.ring);
        self.services.apply(&new, asleep(&new))?;
        self.config = new;
        Ok(())
    }

    /// Somebody has put the agent to sleep or woken it. The configuration is not read again.
    fn sleep_or_wake(&mut self) {
        let asleep = asleep(&self.config);
        let what = if asleep.is_empty() { "awake" } else { "asleep" };
        match self.services.apply(&self.config, asleep) {
            Ok(()) => tracing::info!("{LOOK_SIGNAL}: {what}"),
            Err(error) => tracing::error!("{LOOK_SIGNAL}: cannot be {what}: {error:#}"),
        }
    }

    /// Mounts again what was taken away.
    fn listen_again(&mut self) {
        if let Err(error) = self.services.apply(&self.config, asleep(&self.config)) {
            tracing::error!("cannot listen again: {error:#}");
        }
    }

    /// Makes room for the next agent, or takes everything off if none follows.
    fn end(&mut self, signal: Signal) {
        // Whoever presses a key wants an end.
        let makes_room = signal == Signal::SIGTERM && self.store.successor() == Successor::Comes;
        let grace = self.config.agent.stop_grace.0;
        self.manager.stopping(grace + STOP_WORK_MAX);
        if makes_room {
            tracing::info!("{signal}: making room for the next agent");
            self.generation.iter().for_each(Generation::told);
            self.services.leave(self.config.agent.on_agent_exit);
        } else {
            tracing::info!("{signal}: stopping");
            self.services.stop(self.config.agent.on_agent_exit);
        }
        self.services.close(&self.events, grace);
    }
}

/// The ring stays what it is as long as the agent lives: says what of `new` has to wait, and puts it back.
fn keep_ring(current: &RingConfig, new: &mut RingConfig) {
    let RingConfig { name, size, group } = current;
    let changed = [
        ("ring.name", new.name != *name),
        ("ring.size", new.size != *size),
        ("ring.group", new.group != *group),
    ];
    for (key, _) in changed.iter().filter(|(_, changed)| *changed) {
        tracing::warn!("{key} has changed: that takes effect when fs-agent is restarted, all else now");
    }
    *new = current.clone();
}
