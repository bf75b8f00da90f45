//! `publisher run`: the story of the program.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, Encoder},
    exit::Exit,
    ring::PublisherRing,
};

use crate::{
    delivery::{Frontier, Sink},
    destination::{self, Waiting},
    drain::{self, DeadLetters, Drain, Input},
    metrics,
    names::Names,
    reload::Reload,
    signals::{self, Hangup, Signals, Stop},
    sink,
    spool::SpoolWaker,
};

/// How often it is looked for a stop while the sink is set up.
const OPEN_WAIT: Duration = Duration::from_millis(100);

/// Drains the ring to the sink until a signal asks for a stop.
///
/// # Errors
/// If the configuration, the sink, the ring or a configured directory cannot be used, or no more.
pub fn run(args: &GlobalArgs) -> anyhow::Result<Exit> {
    let config = &args.load_resolved()?;
    let Signals { stop, reload } = signals::take_over(Hangup::Reloads, config.publisher.shutdown_timeout.0)
        .context("cannot take over the signals")?;
    let names = Names::of_the_system().context("cannot start the look-up of names")?;
    sink::check(config)?;
    if config.event.encoder == Encoder::Raw && config.event.loss_topic.is_none() {
        tracing::warn!(
            "event.encoder = \"raw\" tells readers of no losses: this log, `status` and the metrics do, and events of the topic \
             that event.loss_topic names, which is not set"
        );
    }
    // Before what else the other one holds: that is the reason why.
    PublisherRing::check_free(&config.ring.name)?;
    // To the end: how much of the rest is delivered shows too.
    let _metrics = metrics::Server::start(config)?;
    let dead_letters = DeadLetters::open(config)?;
    let spool = drain::open_spool(config, &stop)?;
    let Some(ring) = drain::attach(&config.ring.name, &stop)? else { return Ok(Exit::Ok) };
    let has_spool = spool.is_some();
    destination::note(
        config,
        Waiting {
            ring_bytes: ring.fill().0,
            spool_records: spool.as_ref().map_or(0, drain::spooled_records),
            dead_letters_bytes: dead_letters.bytes(),
        },
    );
    let input = Input::open(ring, spool, config.spool.high_mark)?;
    let frontier = Arc::new(Frontier::new(drain::bounds(config), input.ledger()));
    let Some(sink) = open_sink(config, &frontier, input.spool_waker().as_ref(), &stop)? else {
        input.finish(&config.ring.name, stop.since() + config.publisher.shutdown_timeout.0);
        return Ok(Exit::Ok);
    };

    let mut drain = Drain::new(config, input, sink, frontier, names, stop.clone(), dead_letters);
    let reload = Reload::start(args.clone(), reload, config.clone());
    drain.follow_reloads(reload.context("cannot start reading the configuration again")?);
    let drained = drain.run();
    let timeout = config.publisher.shutdown_timeout.0.saturating_sub(stop.since().elapsed());
    if !stop.is_requested() {
        signals::bound_stop(timeout);
    }
    let (deliver_for, spool_for) =
        if has_spool { (timeout / 2, timeout / 2) } else { (timeout, Duration::ZERO) };
    // A sink that is broken delivers nothing more.
    drain.finish(if drained.is_ok() { deliver_for } else { Duration::ZERO }, spool_for);
    drained?;
    Ok(Exit::Ok)
}

/// Sets the sink up in a thread of its own: what that waits for (a name server, ZooKeeper, a disk) holds up neither the
/// spool nor a stop. Gives none if a stop is asked for first.
fn open_sink(
    config: &Config,
    frontier: &Arc<Frontier>,
    spool_waker: Option<&SpoolWaker>,
    stop: &Stop,
) -> anyhow::Result<Option<Box<dyn Sink + Send>>> {
    let (opened, wait) = mpsc::channel();
    let (config, frontier) = (config.clone(), Arc::clone(frontier));
    let open = move || {
        // Nobody waits any more where a stop was asked for.
        let _ = opened.send(sink::open(&config, frontier));
    };
    thread::Builder::new().name("open".to_owned()).spawn(open).context("cannot start setting the sink up")?;
    while !stop.is_requested() {
        match wait.recv_timeout(OPEN_WAIT) {
            Ok(sink) => return Ok(Some(sink?)),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(spool_waker) = spool_waker {
                    spool_waker.look();
                }
            }
            Err(RecvTimeoutError::Disconnected) => bail!("setting the sink up has ended without a result"),
        }
    }
    Ok(None)
}
