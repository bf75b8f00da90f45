//! What an operator may do about what `fs-agent status` shows.

use std::os::unix::ffi::OsStrExt;

use bywash_common::{
    escape::in_line,
    record::LossReason,
    ring::Inspected,
    status::{FifoCounter, ListeningKind},
};

/// What to do where no agent runs.
pub const START: &str = "start the agent (systemctl start fs-agent, or fs-agent run); its log says why it ended (journalctl -u fs-agent)";

/// What to do next, if something is wrong.
pub fn advice(ring: &Inspected, is_gone: bool) -> Option<String> {
    if is_gone {
        return Some(START.to_owned());
    }
    let lost = |wanted| ring.lost().any(|(reason, events, _)| *reason == wanted && *events > 0);
    if !ring.publisher_running && ring.used > 0 {
        return Some(
            "start the publisher (systemctl start publisher, or publisher run): what is captured waits in the ring"
                .to_owned(),
        );
    }
    let missing = ring.listening().find(|one| match one.kind {
        ListeningKind::Fifo { slot: Some(slot) } => ring.fifo(slot, FifoCounter::Missing) > 0,
        _ => false,
    });
    if let Some(fifo) = missing {
        let path = in_line(fifo.path.as_os_str().as_bytes());
        return Some(format!("make the FIFO that is missing: mkfifo {path}"));
    }
    if lost(LossReason::RingFull) {
        return Some(
            "the ring was full: `publisher status` says what holds the publisher up; a larger ring.size and a spool \
             (spool.size_max) bridge longer outages"
                .to_owned(),
        );
    }
    None
}
