//! What becomes of overlays that the agent before has left when this one cannot be started: callers wait there.
//!
//! Where it would be refused again, they are taken off as at a stop: what is stored in mappings is written down first, and what
//! is open is served for a while. Where it may go better in a moment, they stay for the next agent, for as long as whoever
//! starts that waits.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use anyhow::{Context, Error, Result};
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, OnAgentExit},
    exit::Exit,
    ring::{self, AgentRing},
    units::ByteSize,
};

use crate::{check, event::Event, fd_store::Store, mount, process, services::Services};

/// `services` cannot be what `config` asks for, as `error` says.
pub fn give_up(
    services: &mut Services,
    events: &Receiver<Event>,
    config: &Config,
    store: &Store,
    error: &Error,
) {
    if check::exit_of(error) != Exit::Config && store.is_there() {
        services.leave(config.agent.on_agent_exit);
        return services.close(events, Duration::ZERO);
    }
    services.stop(OnAgentExit::Unmount);
    services.close(events, config.agent.stop_grace.0);
}

/// The configuration is wrong: takes off what the agent before has left, if that had the ring that is named there.
pub fn take_off(args: &GlobalArgs, store: &Arc<Store>) {
    if !store.has_overlays() {
        return;
    }
    if let Err(error) = try_take_off(args, store) {
        tracing::error!("overlays are left that nobody serves: {error:#}");
    }
}

fn try_take_off(args: &GlobalArgs, store: &Arc<Store>) -> Result<()> {
    tracing::warn!("the configuration is wrong: the overlays of the agent before are taken off");
    let mut config = Config::default();
    config.ring.name = Config::ring_name(&args.config).context("nobody can tell whose they are")?;
    // As it is: what is written from here on is captured there.
    config.ring.size = ByteSize(ring::inspect(&config.ring.name)?.capacity);
    let left = mount::overlays(Some(&config.ring.name)).context("cannot read the table of mounts")?;
    let is_kept = !left.is_empty() && left.iter().all(|left| left.on_agent_exit == OnAgentExit::Keep);
    let on_agent_exit = if is_kept { OnAgentExit::Keep } else { OnAgentExit::Unmount };
    let prepared = process::prepare()?;
    let ring = AgentRing::open(&config.ring)?;
    let (sender, events) = channel();
    let mut services = Services::new(ring, &config.ring.name, sender, prepared, store);
    services.resume(&config);
    services.stop(on_agent_exit);
    services.close(&events, config.agent.stop_grace.0);
    Ok(())
}
