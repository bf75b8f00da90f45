//! `fs-agent status`: what the agent has left in shared memory, read without its help.

use std::{fmt::Write, os::unix::ffi::OsStrExt, time::Duration};

use anyhow::Result;
use bywash_common::{
    cli::GlobalArgs,
    clock::now_ns,
    config::Config,
    escape::in_line,
    exit::Exit,
    output,
    record::LossReason,
    ring::{Inspected, RingError, inspect_to_show},
    status::{AgentCounter, FIFO_SLOTS, FifoCounter, HandoverReason, Listening, ListeningKind},
    units::ByteSize,
};
use serde_json::json;

/// Prints what the agent does and has done.
///
/// # Errors
/// If the configuration is wrong or the ring cannot be read.
pub fn status(args: &GlobalArgs, as_json: bool) -> Result<Exit> {
    let name = Config::load(&args.config)?.ring.name;
    let ring = match inspect_to_show(&name) {
        Ok(ring) => Some(ring),
        Err(RingError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if as_json {
        output::print_json(&as_json_text(&name, ring.as_ref()))?;
    } else {
        output::print(&as_text(&name, ring.as_ref()))?;
    }
    Ok(if ring.is_some_and(|ring| state(&ring) == State::Running) { Exit::Ok } else { Exit::NotRunning })
}

/// What the agent is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Every overlay answers.
    Running,
    /// It holds the ring, and its overlays are not there yet or not any more.
    InBetween,
    /// Nobody holds the ring.
    Gone,
}

fn state(ring: &Inspected) -> State {
    match (ring.agent_running, ring.roster.is_empty()) {
        (true, false) => State::Running,
        (true, true) => State::InBetween,
        (false, _) => State::Gone,
    }
}

fn as_text(name: &str, ring: Option<&Inspected>) -> String {
    let Some(ring) = ring else { return "fs-agent is not running\n".to_owned() };
    let mut out = String::new();
    let pid = ring.agent(AgentCounter::Pid);
    // Writing to a string cannot fail, here and below.
    let _ = match state(ring) {
        State::Running => {
            ring.roster.iter().for_each(|listening| listening_text(ring, listening, &mut out));
            if ring.unlisted > 0 {
                let _ = writeln!(out, "and {} more, for whose names there is no room here", ring.unlisted);
            }
            write!(out, "fs-agent is running (pid {pid})")
        }
        State::InBetween => write!(out, "fs-agent is starting or stopping (pid {pid})"),
        State::Gone => write!(out, "fs-agent is not running"),
    };
    let percent = ring.used.saturating_mul(100).checked_div(ring.capacity).unwrap_or(0);
    let (used, capacity) = (human(ring.used), ByteSize(ring.capacity));
    let _ = writeln!(out, ", ring {name}: {used} of {capacity} used ({percent}%)");
    handover_text(ring, &mut out);
    let events = ring.agent(AgentCounter::CapturedEvents);
    let bytes = ring.agent(AgentCounter::CapturedBytes);
    let _ = write!(out, "captured {events} events, {bytes} bytes");
    match ring.agent(AgentCounter::UnattributedEvents) {
        0 => out.push('\n'),
        n => drop(writeln!(out, "; {n} of the events through shared mappings, by nobody in particular")),
    }
    if let n @ 1.. = ring.agent(AgentCounter::UncapturedMapperOpens) {
        let _ = writeln!(out, "{n} opens whose stores through shared mappings, if any, were not captured");
    }
    let (excluded, excluded_bytes) =
        (ring.agent(AgentCounter::ExcludedEvents), ring.agent(AgentCounter::ExcludedBytes));
    let (withheld, withheld_bytes) = ring.withheld();
    if excluded + withheld > 0 {
        let _ = writeln!(
            out,
            "excluded {excluded} events, {excluded_bytes} bytes; \
             withheld by quotas {withheld} events, {withheld_bytes} bytes"
        );
    }
    let lost = |pick: fn(&(LossReason, u64, u64)) -> u64| ring.lost().map(pick).sum::<u64>();
    let _ = write!(out, "lost {} events, {} bytes", lost(|l| l.1), lost(|l| l.2));
    let reasons: Vec<_> = ring
        .lost()
        .filter(|(_, events, _)| *events > 0)
        .map(|(reason, events, bytes)| format!("{}: {events} events, {bytes} bytes", reason.name()))
        .collect();
    if !reasons.is_empty() {
        let _ = write!(out, " ({})", reasons.join("; "));
    }
    out.push('\n');
    out
}

/// What is listened to, and of a FIFO what came through it.
fn listening_text(ring: &Inspected, listening: &Listening, out: &mut String) {
    let said = match listening.kind {
        ListeningKind::Directory | ListeningKind::Fifo { .. } => "listening on",
        ListeningKind::AsleepDirectory => "asleep, not listening on",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{said} {}", in_line(listening.path.as_os_str().as_bytes()));
    let _ = match listening.kind {
        ListeningKind::Fifo { slot: Some(slot) } => {
            let [lines, bytes, lost_lines, lost_bytes, missing] =
                FifoCounter::ALL.map(|counter| ring.fifo(slot, counter));
            let missing = if missing > 0 { "; there is no FIFO at the moment" } else { "" };
            writeln!(
                out,
                "    {lines} lines, {bytes} bytes; lost {lost_lines} lines, {lost_bytes} bytes{missing}"
            )
        }
        ListeningKind::Fifo { slot: None } => {
            writeln!(out, "    counted among all alone: {FIFO_SLOTS} FIFOs have counters of their own")
        }
        ListeningKind::Directory | ListeningKind::AsleepDirectory => Ok(()),
    };
}

/// How the agent took over from another one, if it did.
fn handover_text(ring: &Inspected, out: &mut String) {
    let Some(reason) = HandoverReason::from_counter(ring.agent(AgentCounter::HandoverReason)) else { return };
    let after = match reason {
        HandoverReason::Restart => "was restarted",
        HandoverReason::Death => "had died",
    };
    let generation = ring.agent(AgentCounter::Generation);
    let ago = Duration::from_nanos(now_ns().saturating_sub(ring.agent(AgentCounter::HandoverNs))).as_secs();
    let took = Duration::from_nanos(ring.agent(AgentCounter::HandoverTookNs)).as_millis();
    let files = ring.agent(AgentCounter::HandoverFiles);
    let _ = write!(
        out,
        "agent {generation} in a row: took over {ago} s ago, when the one before {after}, within {took} ms; \
         {files} open files came back"
    );
    if let lost @ 1.. = ring.agent(AgentCounter::HandoverFilesLost) {
        let _ = write!(out, ", {lost} did not");
    }
    out.push('\n');
}

/// As [`handover_text`].
fn handover(ring: &Inspected) -> Option<serde_json::Value> {
    let reason = HandoverReason::from_counter(ring.agent(AgentCounter::HandoverReason))?;
    Some(json!({
        "at_ns": ring.agent(AgentCounter::HandoverNs),
        "reason": reason.name(),
        "took_ns": ring.agent(AgentCounter::HandoverTookNs),
        "files": ring.agent(AgentCounter::HandoverFiles),
        "files_lost": ring.agent(AgentCounter::HandoverFilesLost),
    }))
}

/// A size to a tenth of a unit.
fn human(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{}{unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes}B")
}

fn as_json_text(name: &str, ring: Option<&Inspected>) -> String {
    let object = match ring {
        None => json!({ "running": false, "ring": { "name": name } }),
        Some(ring) => {
            let losses: serde_json::Map<_, _> = ring
                .lost()
                .map(|(reason, events, bytes)| {
                    (reason.name().to_owned(), json!({ "events": events, "bytes": bytes }))
                })
                .collect();
            json!({
                "running": state(ring) == State::Running,
                "pid": ring.agent(AgentCounter::Pid),
                "started_ns": ring.agent(AgentCounter::StartedNs),
                "generation": ring.agent(AgentCounter::Generation),
                "handover": handover(ring),
                "listening": listening(ring),
                "unlisted": if ring.agent_running { ring.unlisted } else { 0 },
                "ring": {
                    "name": name,
                    "uuid": ring.uuid.to_string(),
                    "generation": ring.generation,
                    "capacity_bytes": ring.capacity,
                    "used_bytes": ring.used,
                },
                "publisher_running": ring.publisher_running,
                "captured": {
                    "events": ring.agent(AgentCounter::CapturedEvents),
                    "bytes": ring.agent(AgentCounter::CapturedBytes),
                    "unattributed_events": ring.agent(AgentCounter::UnattributedEvents),
                    "uncaptured_mapper_opens": ring.agent(AgentCounter::UncapturedMapperOpens),
                },
                "excluded": {
                    "events": ring.agent(AgentCounter::ExcludedEvents),
                    "bytes": ring.agent(AgentCounter::ExcludedBytes),
                },
                "withheld": { "events": ring.withheld().0, "bytes": ring.withheld().1 },
                "lost": losses,
            })
        }
    };
    format!("{object}\n")
}

fn listening(ring: &Inspected) -> Vec<serde_json::Value> {
    ring.listening()
        .map(|listening| {
            let path = listening.path.to_string_lossy();
            let kind = listening.kind.name();
            match listening.kind {
                ListeningKind::Directory
                | ListeningKind::AsleepDirectory
                | ListeningKind::Fifo { slot: None } => json!({ "kind": kind, "path": path }),
                ListeningKind::Fifo { slot: Some(slot) } => {
                    let count = |counter| ring.fifo(slot, counter);
                    json!({
                        "kind": kind,
                        "path": path,
                        "missing": count(FifoCounter::Missing) > 0,
                        "captured": { "events": count(FifoCounter::Lines), "bytes": count(FifoCounter::Bytes) },
                        "lost": { "events": count(FifoCounter::LostLines), "bytes": count(FifoCounter::LostBytes) },
                    })
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_down_to_tenths() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (64 << 20, "64.0MiB"),
            (u64::MAX, "17179869183.9GiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn a_missing_ring_is_an_agent_that_does_not_run() {
        assert_eq!(as_text("x", None), "fs-agent is not running\n");
        assert_eq!(as_json_text("x", None), "{\"running\":false,\"ring\":{\"name\":\"x\"}}\n");
    }
}
