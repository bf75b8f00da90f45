//! `publisher tap`: the live stream of events, as they are captured.
//!
//! It reads the ring beside the publisher, from memory that it can only read: it takes no part in the delivery, holds nothing up and
//! moves nothing. What it is too slow for it misses, and says so.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::bail;
use bywash_common::{
    config::Config,
    exit::Exit,
    glob::Globs,
    output,
    record::{Origin, Write},
    ring::{Kind, RingError, Tap, Tapped},
};

use crate::{
    consume::{Printer, Selection},
    delivery::{EventId, Subject},
    encode::{self, Encode, WriteEvent, Writer},
    names::Names,
    signals::{self, Hangup},
};

/// How often an idle tap looks. It must not be woken by the agent: there is one waiter, the publisher.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the end may take.
const STOP_TIMEOUT: Duration = Duration::ZERO;

/// Options of `publisher tap`.
#[derive(Debug, clap::Args)]
pub struct TapArgs {
    /// Events of files alone whose path matches this pattern, such as `/var/log/app/*.log`; `*` stops at `/`, `**` does not, and
    /// a pattern without `/` is compared with the name alone
    #[arg(long, value_name = "GLOB")]
    path: Vec<String>,
    /// Events of this process alone
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Print these keys alone, in this order, with commas or spaces between
    #[arg(long, value_name = "KEYS")]
    select: Option<Selection>,
    /// Print each event as it would be sent, a line each
    #[arg(long, conflicts_with = "select")]
    encoded: bool,
    /// End after this many events
    #[arg(long, value_name = "N")]
    max: Option<u64>,
}

/// Prints what is captured from now on, until there was enough, a signal comes, or nobody reads any more.
///
/// # Errors
/// If a pattern is wrong, or the ring may not be read.
pub fn tap(config: &Config, args: &TapArgs) -> anyhow::Result<Exit> {
    let globs = match Globs::new(args.path.clone()) {
        Ok(globs) => globs,
        Err(wrong) => bail!("--path: {wrong}"),
    };
    let stop = signals::take_over(Hangup::Stops, STOP_TIMEOUT)?.stop;
    let mut tap = match Tap::open(&config.ring.name) {
        Err(error @ RingError::Missing { .. }) => {
            tracing::error!("{error}");
            return Ok(Exit::NotRunning);
        }
        tap => tap?,
    };
    tracing::info!("showing what is captured from now on in the ring `{}`", config.ring.name);
    let mut shown = Shown {
        args,
        globs,
        encoder: encode::encoder(&config.event),
        printer: Printer::new(config.event.encoder, args.select.clone()),
        names: Names::of_the_system()?,
        text: Vec::new(),
    };
    let (mut left, mut payload) = (args.max.unwrap_or(u64::MAX), Vec::new());
    while left > 0 && !stop.is_requested() {
        match tap.next(&mut payload)? {
            Tapped::Nothing => sleep(LOOK_INTERVAL),
            Tapped::Missed => {
                tracing::warn!("events came faster than they could be shown: some are left out here")
            }
            Tapped::Record(uuid, entry) => {
                let write = (entry.kind == Kind::Write).then(|| Write::decode(&payload).ok()).flatten();
                let Some((write, data)) = write.filter(|(write, _)| shown.wants(write)) else { continue };
                let subject = Subject::Bytes { sequence: entry.seq, stretch: None };
                if !shown.show(EventId { ring: uuid, subject }, entry.seq, &write, data)? {
                    break;
                }
                left -= 1;
            }
        }
    }
    Ok(Exit::Ok)
}

/// What is shown, and how.
struct Shown<'a> {
    args: &'a TapArgs,
    globs: Globs,
    encoder: Box<dyn Encode>,
    printer: Printer,
    names: Names,
    text: Vec<u8>,
}

impl Shown<'_> {
    fn wants(&self, write: &Write<'_>) -> bool {
        let is_of_process = |pid| write.origin == Origin::Write && write.pid == pid;
        (self.args.path.is_empty() || self.globs.match_path(write.path))
            && self.args.pid.is_none_or(is_of_process)
    }

    fn show(
        &mut self,
        id: EventId,
        sequence: u64,
        write: &Write<'_>,
        message: &[u8],
    ) -> anyhow::Result<bool> {
        let names = self.names.of_writer(write, Instant::now());
        let writer = names.as_ref().map(|(user, group)| Writer::of(write, user, group));
        let event_id = id.to_string();
        let event = WriteEvent::of(write, writer, (&event_id, sequence), message);
        let mut encoded = Vec::new();
        self.encoder.write(&event, &mut encoded);
        self.text.clear();
        if self.args.encoded {
            encoded.push(b'\n');
            self.text = encoded;
        } else {
            self.printer.print(None, &encoded, &mut self.text);
        }
        Ok(output::print_exact(&self.text)?)
    }
}
