//! `publisher run`: the story of the program.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bywash_common::{cli::GlobalArgs, exit::Exit, ring::PublisherRing};

use crate::{
    delivery::Frontier,
    drain::{self, DeadLetters, Drain, Intake},
    metrics,
    names::Names,
    reload::Reload,
    signals::{self, Signals},
    sink,
};

/// Drains the ring to the sink until a signal asks for a stop.
///
/// # Errors
/// If the configuration, the sink, the ring or a configured directory cannot be used, or no more.
pub fn run(args: &GlobalArgs) -> anyhow::Result<Exit> {
    let config = &args.load_config()?;
    let Signals { stop, reload } = signals::take_over().context("cannot take over the signals")?;
    let names = Names::of_the_system().context("cannot start the look-up of names")?;
    sink::check(config)?;
    // Before what else the other one holds: that is the reason why.
    PublisherRing::check_free(&config.ring.name)?;
    // To the end: how much of the rest is delivered shows too.
    let _metrics = metrics::Server::start(config)?;
    let dead_letters = DeadLetters::open(config)?;
    let spool = drain::open_spool(config, &stop)?;
    let Some(ring) = drain::attach(&config.ring.name, &stop)? else { return Ok(Exit::Ok) };
    let has_spool = spool.is_some();
    let intake = Intake::open(ring, spool, config.spool.high_mark)?;
    let frontier = Arc::new(Frontier::new(drain::bounds(config), intake.ledger()));
    let sink = sink::open(config, Arc::clone(&frontier))?;

    let mut drain = Drain::new(config, intake, sink, frontier, names, stop, dead_letters);
    drain.follow_reloads(Reload::new(args.clone(), reload, config.clone()));
    let drained = drain.run();
    let timeout = config.publisher.shutdown_timeout.0;
    let (deliver_for, spool_for) =
        if has_spool { (timeout / 2, timeout / 2) } else { (timeout, Duration::ZERO) };
    // A sink that is broken delivers nothing more.
    drain.finish(if drained.is_ok() { deliver_for } else { Duration::ZERO }, spool_for);
    drained?;
    Ok(Exit::Ok)
}
