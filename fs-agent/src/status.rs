//! `fs-agent status`: what the agent has left in shared memory, read without its help.

mod advice;

use std::{
    fmt::Write,
    os::unix::ffi::OsStrExt,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use bywash_common::{
    cli::GlobalArgs,
    clock::now_ns,
    config::Config,
    escape::in_line,
    exit::Exit,
    output,
    ring::{Inspected, RingError, inspect_to_show},
    status::{AgentCounter, FIFO_SLOTS, FifoCounter, HandoverReason, Listening, ListeningKind},
    text_report::{TextReport, counted},
    units::{human_bytes, human_seconds},
};
use serde_json::json;

use crate::cli::StatusArgs;

/// How often `--watch` and `--wait` look.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const WAIT_INTERVAL: Duration = Duration::from_millis(50);

/// What was captured at some moment, for a rate.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    events: u64,
    bytes: u64,
}

/// Prints what the agent does and has done.
///
/// # Errors
/// If the configuration is wrong or the ring cannot be read.
pub fn status(args: &GlobalArgs, asked: &StatusArgs) -> Result<Exit> {
    let name = Config::load(&args.config)?.ring.name;
    let begun = Instant::now();
    let mut last = None;
    loop {
        let ring = RingError::or_none(inspect_to_show(&name))?;
        let is_running = ring.as_ref().is_some_and(|ring| state(ring) == State::Running);
        if !is_running && asked.wait.is_some_and(|wait| begun.elapsed() < wait.0) {
            sleep(WAIT_INTERVAL);
            continue;
        }
        let is_read = match (asked.json, asked.watch) {
            (true, _) => output::print_json(&as_json_text(&name, ring.as_ref()))?,
            (false, true) => output::print_over(&as_text(&name, ring.as_ref(), last))?,
            (false, false) => output::print(&as_text(&name, ring.as_ref(), last))?,
        };
        if !is_read || !asked.watch {
            return Ok(if is_running { Exit::Ok } else { Exit::NotRunning });
        }
        let counter = |counter| ring.as_ref().map_or(0, |ring| ring.agent(counter));
        let (events, bytes) = (counter(AgentCounter::CapturedEvents), counter(AgentCounter::CapturedBytes));
        last = Some(Sample { at: Instant::now(), events, bytes });
        sleep(WATCH_INTERVAL);
    }
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
    match (ring.agent_running, ring.listening_table.is_empty()) {
        (true, false) => State::Running,
        (true, true) => State::InBetween,
        (false, _) => State::Gone,
    }
}

fn as_text(name: &str, ring: Option<&Inspected>, last: Option<Sample>) -> String {
    let mut text_report = TextReport::default();
    let Some(ring) = ring else {
        text_report.say("fs-agent is not running");
        text_report.wrapped("next", &format!("there is no ring `{name}`: {}", advice::START));
        return text_report.finish();
    };
    let state = state(ring);
    match state {
        State::Running => {
            let mut listening = String::new();
            ring.listening_table.iter().for_each(|one| listening_text(ring, one, &mut listening));
            text_report.say(listening.trim_end_matches('\n'));
            if ring.unlisted > 0 {
                text_report
                    .say(format_args!("and {} more, for whose names there is no room here", ring.unlisted));
            }
            text_report.say(format_args!("fs-agent is running ({}, ring {name})", at_work(ring)));
        }
        State::InBetween => {
            text_report
                .say(format_args!("fs-agent is starting or stopping ({}, ring {name})", at_work(ring)));
        }
        State::Gone => text_report.say(format_args!("fs-agent is not running (ring {name})")),
    }
    let mut handover = String::new();
    handover_text(ring, &mut handover);
    if !handover.is_empty() {
        text_report.say(handover.trim_end_matches('\n'));
    }
    text_report.fill("ring", ring.used, ring.capacity);
    counts(ring, last, &mut text_report);
    text_report.row("publisher", if ring.publisher_running { "running" } else { "not running" });
    if let Some(advice) = advice::advice(ring, state == State::Gone) {
        text_report.wrapped("next", &advice);
    }
    text_report.finish()
}

/// Which process it is, and for how long.
fn at_work(ring: &Inspected) -> String {
    let up = Duration::from_nanos(now_ns().saturating_sub(ring.agent(AgentCounter::StartedNs)));
    format!("pid {}, for {}", ring.agent(AgentCounter::Pid), human_seconds(up.as_secs_f64()))
}

/// What became of writes.
fn counts(ring: &Inspected, last: Option<Sample>, text_report: &mut TextReport) {
    let agent = |counter| ring.agent(counter);
    let (events, bytes) = (agent(AgentCounter::CapturedEvents), agent(AgentCounter::CapturedBytes));
    let rate = last.map_or_else(String::new, |last| {
        let seconds = last.at.elapsed().as_secs_f64();
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let bytes = human_bytes(per_second(bytes, last.bytes) as u64);
        format!("  ({:.1} events/s, {bytes}/s)", per_second(events, last.events))
    });
    text_report.row("captured", format_args!("{}, {}{rate}", counted(events, "event"), human_bytes(bytes)));
    if let n @ 1.. = agent(AgentCounter::UnattributedEvents) {
        text_report.row("", format_args!("{n} of them through shared mappings, by nobody in particular"));
    }
    if let n @ 1.. = agent(AgentCounter::UncapturedMapperOpens) {
        let opens = counted(n, "open");
        text_report.row("not captured", format_args!("stores through shared mappings of {opens}, if any"));
    }
    if let n @ 1.. = agent(AgentCounter::ExcludedEvents) {
        let bytes = human_bytes(agent(AgentCounter::ExcludedBytes));
        text_report.row("excluded", format_args!("{}, {bytes}", counted(n, "event")));
    }
    if let (n @ 1.., bytes) = ring.withheld() {
        text_report
            .row("withheld", format_args!("{}, {} by quotas", counted(n, "event"), human_bytes(bytes)));
    }
    let mut name = "lost";
    for (reason, events, bytes) in ring.lost().filter(|(_, events, _)| *events > 0) {
        let events = counted(*events, "event");
        text_report.row(name, format_args!("{}: {events}, {}", reason.name(), human_bytes(*bytes)));
        name = "";
    }
    if name == "lost" {
        text_report.row(name, "nothing");
    }
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
    fn a_missing_ring_is_an_agent_that_does_not_run() {
        let text = as_text("x", None, None);
        assert!(text.starts_with("fs-agent is not running\nnext "), "{text}");
        assert_eq!(as_json_text("x", None), "{\"running\":false,\"ring\":{\"name\":\"x\"}}\n");
    }
}
