//! `publisher status`: how far the publisher is behind.

mod advice;
mod file;
mod text;

use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use bywash_common::{
    clock::now_ns,
    config::Config,
    exit::Exit,
    output,
    ring::{Inspected, RingError, Waiter, inspect, inspect_to_show, waiter},
    status::PublisherCounter as Counter,
    units::Span,
};
use serde::Serialize;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often is looked for what is waited for.
const WAIT_INTERVAL: Duration = Duration::from_millis(100);
const NS_PER_SECOND: f64 = 1e9;

/// Why writes are lost that the publisher gives up (`publisher.age_max`).
pub const TOO_OLD: &str = "too_old";

/// Options of `publisher status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Show it again each second, with the rates of that second, until interrupted
    #[arg(long)]
    watch: bool,
    /// Wait until the publisher drains the ring, at most this long; then show it
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    wait: Option<Span>,
    /// Wait until everything that was captured is delivered, at most this long; exits with 4 if it is not by then
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    drained: Option<Span>,
    /// Show how far this file is delivered; exits with 0 if that is all of it, and 4 if not. Waits for it with --drained
    #[arg(long, value_name = "PATH", conflicts_with_all = ["watch", "wait"])]
    file: Option<PathBuf>,
}

/// What is known of a publisher that runs or has run; the metrics show it too.
#[derive(Debug, Serialize)]
pub struct Report {
    pub running: bool,
    /// It runs and waits for fs-agent to make the ring.
    waiting: bool,
    pid: Option<u64>,
    pub uptime_seconds: Option<f64>,
    pub ring: String,
    pub capacity_bytes: u64,
    pub lag_records: u64,
    pub lag_bytes: u64,
    /// How long ago the oldest record was captured that is not delivered; none if that is not known.
    pub lag_seconds: Option<f64>,
    pub in_flight_records: u64,
    pub delivered_records: u64,
    pub delivered_bytes: u64,
    records_per_second: f64,
    bytes_per_second: f64,
    pub seconds_since_last_delivery: Option<f64>,
    pub failed_messages: u64,
    pub dead_letters: u64,
    /// Dead letters that were delivered after all.
    pub redelivered_dead_letters: u64,
    /// What became of records that were not delivered: kept as dead letters, refused and not kept, not needed.
    pub dead_lettered_records: u64,
    pub undeliverable_records: u64,
    pub passed_over_records: u64,
    /// Writes that an operator has discarded.
    pub discarded_records: u64,
    /// Part of what is behind, in bytes that are on disk and in records.
    pub spool_bytes: u64,
    pub spool_records: u64,
    /// By how many bytes a second what is in the spool becomes less at most, and about how long that takes; 0 for no limit.
    pub recovery_bytes_per_second: u64,
    pub recovery_seconds: f64,
    /// Times that the spool could not take records.
    pub spool_errors: u64,
    /// Records that were in the spool and cannot be read.
    pub spool_lost: u64,
    pub corrupt_skips: u64,
    /// Records that were older than they may be when they would have been sent, and their bytes: part of `lost`.
    #[serde(skip)]
    pub expired: (u64, u64),
    lost: Vec<Lost>,
    /// What quotas withhold: as wanted, and no loss.
    withheld: Withheld,
    /// What it has warned of last.
    warning: Option<Warned>,
    #[serde(skip)]
    waiter: Option<Waiter>,
    #[serde(skip)]
    used_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Warned {
    seconds_ago: f64,
    text: String,
}

#[derive(Debug, Default, Serialize)]
struct Withheld {
    events: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Lost {
    reason: &'static str,
    events: u64,
    bytes: u64,
}

/// What was delivered at some moment, for a rate.
#[derive(Clone, Copy)]
pub struct Sample {
    at: Instant,
    records: u64,
    bytes: u64,
}

/// Prints the status, once or again and again, or that of a file.
///
/// # Errors
/// If the ring cannot be looked at.
pub fn status(config: &Config, args: &StatusArgs) -> anyhow::Result<Exit> {
    if let Some(path) = &args.file {
        return file::file(config, path, args.drained.map(|span| span.0), args.json);
    }
    let begun = Instant::now();
    let is_awaited = |limit: Option<Span>| limit.is_some_and(|limit| begun.elapsed() < limit.0);
    let mut last = None;
    loop {
        let ring = RingError::or_none(inspect_to_show(&config.ring.name))?;
        let report = report(&config.ring.name, ring.as_ref(), last, now_ns());
        let is_behind = args.drained.is_some() && report.lag_bytes > 0;
        if (!report.running && is_awaited(args.wait)) || (is_behind && is_awaited(args.drained)) {
            sleep(WAIT_INTERVAL);
            continue;
        }
        last = Some(Sample {
            at: Instant::now(),
            records: report.delivered_records,
            bytes: report.delivered_bytes,
        });
        let is_read = match (args.json, args.watch) {
            (true, _) => output::print_json(&(serde_json::to_string(&report)? + "\n"))?,
            (false, true) => output::print_over(&report.text(config))?,
            (false, false) => output::print(&report.text(config))?,
        };
        if !is_read || !args.watch {
            return Ok(match (is_behind, report.running) {
                (true, _) => Exit::Behind,
                (false, true) => Exit::Ok,
                (false, false) => Exit::NotRunning,
            });
        }
        sleep(WATCH_INTERVAL);
    }
}

/// Looks at a ring from outside; gives none if it does not exist.
///
/// # Errors
/// A [`RingError`] if it may not be looked at, or is damaged.
pub fn look(name: &str) -> Result<Option<Inspected>, RingError> {
    RingError::or_none(inspect(name))
}

/// How long ago a counter says that something was; none if it never was.
pub fn seconds_since(counter_ns: u64, now_ns: u64) -> Option<f64> {
    (counter_ns > 0).then(|| now_ns.saturating_sub(counter_ns) as f64 / NS_PER_SECOND)
}

/// What there is to say of a ring that was looked at `now_ns`, with the rates since `last`, or since the publisher's start.
pub fn report(name: &str, ring: Option<&Inspected>, last: Option<Sample>, now_ns: u64) -> Report {
    let counter = |counter| ring.map_or(0, |ring| ring.publisher(counter));
    let known = |counter_ns| seconds_since(counter_ns, now_ns);
    let running = ring.is_some_and(|ring| ring.publisher_running);
    let uptime_seconds = known(counter(Counter::StartedNs)).filter(|_| running);
    let (records, bytes) = (counter(Counter::DeliveredEvents), counter(Counter::DeliveredBytes));
    let (seconds, then) = match last {
        Some(last) => (last.at.elapsed().as_secs_f64(), [last.records, last.bytes]),
        None => {
            let start = [counter(Counter::StartDeliveredEvents), counter(Counter::StartDeliveredBytes)];
            (uptime_seconds.unwrap_or(0.0), start)
        }
    };
    let rate = |now: u64, then: u64| {
        if seconds > 0.0 { now.saturating_sub(then) as f64 / seconds } else { 0.0 }
    };
    let lag_bytes = ring.map_or(0, |ring| ring.used) + counter(Counter::SpoolBytes);
    let lost: Vec<_> = ring.map(|ring| ring.lost().copied().collect()).unwrap_or_default();
    let expired = (counter(Counter::TooOldEvents), counter(Counter::TooOldBytes));
    let (withheld_events, withheld_bytes) = ring.map_or((0, 0), Inspected::withheld);
    let pace = if running { counter(Counter::RecoveryBytesPerSecond) } else { 0 };
    let spool_bytes = counter(Counter::SpoolBytes);
    let waiter = if running { None } else { waiter(name) };
    let warning = ring.and_then(|ring| ring.warning.as_ref());
    Report {
        running,
        waiting: waiter.is_some(),
        pid: if running { Some(counter(Counter::Pid)) } else { waiter.map(|waiter| waiter.pid) },
        uptime_seconds,
        ring: name.to_owned(),
        capacity_bytes: ring.map_or(0, |ring| ring.capacity),
        lag_records: ring.map_or(0, |ring| ring.used_records) + counter(Counter::SpoolRecords),
        lag_bytes,
        lag_seconds: if lag_bytes == 0 { Some(0.0) } else { known(counter(Counter::OldestUnackedNs)) },
        in_flight_records: if running { counter(Counter::InFlightEvents) } else { 0 },
        delivered_records: records,
        delivered_bytes: bytes,
        records_per_second: rate(records, then[0]),
        bytes_per_second: rate(bytes, then[1]),
        seconds_since_last_delivery: known(counter(Counter::LastDeliveryNs)),
        failed_messages: counter(Counter::FailedMessages),
        dead_letters: counter(Counter::DeadLetters),
        redelivered_dead_letters: counter(Counter::RedeliveredDeadLetters),
        dead_lettered_records: counter(Counter::DeadLetteredEvents),
        undeliverable_records: counter(Counter::UndeliverableEvents),
        passed_over_records: counter(Counter::PassedOverEvents),
        discarded_records: counter(Counter::DiscardedEvents),
        spool_bytes,
        spool_records: counter(Counter::SpoolRecords),
        recovery_bytes_per_second: pace,
        recovery_seconds: if pace > 0 { spool_bytes as f64 / pace as f64 } else { 0.0 },
        spool_errors: counter(Counter::SpoolErrors),
        spool_lost: counter(Counter::SpoolLost),
        corrupt_skips: counter(Counter::CorruptSkips),
        expired,
        lost: lost
            .into_iter()
            .map(|(reason, events, bytes)| Lost { reason: reason.name(), events, bytes })
            .chain([Lost { reason: TOO_OLD, events: expired.0, bytes: expired.1 }])
            .filter(|lost| lost.events > 0)
            .collect(),
        withheld: Withheld { events: withheld_events, bytes: withheld_bytes },
        warning: warning.and_then(|(at_ns, text)| {
            Some(Warned { seconds_ago: seconds_since(*at_ns, now_ns)?, text: text.clone() })
        }),
        waiter,
        used_bytes: ring.map_or(0, |ring| ring.used),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_ring_nothing_runs_and_nothing_waits() {
        let report = report("r", None, None, now_ns());
        assert!(!report.running);
        assert_eq!(report.lag_seconds, Some(0.0));
        let text = report.text(&Config::default());
        assert!(text.starts_with("publisher is not running (ring r)\n"), "{text}");
    }
}
