//! `publisher status`: how far the publisher is behind.

use std::{
    fmt::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use bywash_common::{
    clock::now_ns,
    config::Config,
    exit::Exit,
    output,
    ring::{Inspected, RingError, inspect, inspect_to_show},
    status::PublisherCounter as Counter,
};
use serde::Serialize;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const NS_PER_SECOND: f64 = 1e9;

/// Options of `publisher status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Print it again each second, with the rates of that second, until interrupted
    #[arg(long)]
    watch: bool,
}

/// What is known of a publisher that runs or has run; the metrics show it too.
#[derive(Debug, Serialize)]
pub struct Report {
    pub running: bool,
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
    pub revived_letters: u64,
    /// What became of records that were not delivered: kept as dead letters, refused and not kept, not needed.
    pub dead_lettered_records: u64,
    pub undeliverable_records: u64,
    pub passed_over_records: u64,
    /// Writes that an operator has discarded.
    pub discarded_records: u64,
    /// Part of what is behind, in bytes that are on disk and in records.
    pub spool_bytes: u64,
    pub spool_records: u64,
    /// Times that the spool could not take records.
    pub spool_errors: u64,
    /// Records that were in the spool and cannot be read.
    pub spool_lost: u64,
    pub corrupt_skips: u64,
    lost: Vec<Lost>,
    /// What quotas withhold: as wanted, and no loss.
    withheld: Withheld,
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

/// Prints the status, once or again and again.
///
/// # Errors
/// If the ring cannot be looked at.
pub fn status(config: &Config, args: &StatusArgs) -> anyhow::Result<Exit> {
    let mut last = None;
    loop {
        let ring = or_none(inspect_to_show(&config.ring.name))?;
        let report = report(&config.ring.name, ring.as_ref(), last, now_ns());
        last = Some(Sample {
            at: Instant::now(),
            records: report.delivered_records,
            bytes: report.delivered_bytes,
        });
        let is_read = if args.json {
            output::print_json(&(serde_json::to_string(&report)? + "\n"))?
        } else {
            output::print(&(report.text() + "\n"))?
        };
        if !is_read || !args.watch {
            return Ok(if report.running { Exit::Ok } else { Exit::NotRunning });
        }
        sleep(WATCH_INTERVAL);
    }
}

/// Looks at a ring from outside; gives none if it does not exist.
///
/// # Errors
/// A [`RingError`] if it may not be looked at, or is damaged.
pub fn look(name: &str) -> Result<Option<Inspected>, RingError> {
    or_none(inspect(name))
}

fn or_none(looked: Result<Inspected, RingError>) -> Result<Option<Inspected>, RingError> {
    match looked {
        Ok(ring) => Ok(Some(ring)),
        Err(RingError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
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
    let (withheld_events, withheld_bytes) = ring.map_or((0, 0), Inspected::withheld);
    Report {
        running,
        pid: running.then(|| counter(Counter::Pid)),
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
        revived_letters: counter(Counter::RevivedLetters),
        dead_lettered_records: counter(Counter::DeadLetteredEvents),
        undeliverable_records: counter(Counter::UndeliverableEvents),
        passed_over_records: counter(Counter::PassedOverEvents),
        discarded_records: counter(Counter::DiscardedEvents),
        spool_bytes: counter(Counter::SpoolBytes),
        spool_records: counter(Counter::SpoolRecords),
        spool_errors: counter(Counter::SpoolErrors),
        spool_lost: counter(Counter::SpoolLost),
        corrupt_skips: counter(Counter::CorruptSkips),
        lost: lost
            .into_iter()
            .filter(|(_, events, _)| *events > 0)
            .map(|(reason, events, bytes)| Lost { reason: reason.name(), events, bytes })
            .collect(),
        withheld: Withheld { events: withheld_events, bytes: withheld_bytes },
    }
}

impl Report {
    fn text(&self) -> String {
        // Writing to a string cannot fail.
        let mut text = String::new();
        match (self.pid, self.uptime_seconds) {
            (Some(pid), Some(seconds)) => {
                let _ = writeln!(text, "publisher is running (pid {pid}, for {seconds:.0} s)");
            }
            _ => text.push_str("publisher is not running\n"),
        }
        let age = self.lag_seconds.map_or("an unknown time".to_owned(), |seconds| format!("{seconds:.1} s"));
        let _ = writeln!(
            text,
            "behind: {} records, {} bytes, {age} (ring {}: {} bytes)",
            self.lag_records, self.lag_bytes, self.ring, self.capacity_bytes
        );
        let _ = writeln!(
            text,
            "delivered: {} records, {} bytes ({:.1} records/s, {:.1} bytes/s)",
            self.delivered_records, self.delivered_bytes, self.records_per_second, self.bytes_per_second
        );
        let _ = write!(
            text,
            "in flight: {} records; failed: {} messages, {} of them dead letters; damaged: {} times",
            self.in_flight_records, self.failed_messages, self.dead_letters, self.corrupt_skips
        );
        let (kept, lost) = (self.dead_lettered_records, self.undeliverable_records);
        if kept + lost + self.passed_over_records > 0 {
            let _ = write!(
                text,
                "\nnot delivered: {kept} records kept as dead letters, {lost} refused and lost; {} delivered before and \
                 passed over",
                self.passed_over_records
            );
        }
        if self.discarded_records > 0 {
            let _ = write!(text, "\ndiscarded by an operator: {} writes", self.discarded_records);
        }
        if self.spool_bytes + self.spool_errors + self.spool_lost > 0 {
            let _ = write!(
                text,
                "\nspool: {} records, {} bytes; refused {} times; lost {} records",
                self.spool_records, self.spool_bytes, self.spool_errors, self.spool_lost
            );
        }
        if self.withheld.events > 0 {
            let Withheld { events, bytes } = self.withheld;
            let _ = write!(text, "\nwithheld by quotas: {events} writes, {bytes} bytes");
        }
        for Lost { reason, events, bytes } in &self.lost {
            let _ = write!(text, "\nlost ({reason}): {events} writes, {bytes} bytes");
        }
        text
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
        assert!(report.text().starts_with("publisher is not running\n"), "{}", report.text());
    }
}
