//! What an operator may do about what `publisher status` shows.

use bywash_common::config::{Config, Sink};

use super::Report;

/// A sink that has confirmed nothing for so long, while something waits, is in trouble.
const SILENT_SECONDS: f64 = 10.0;

/// What to do next, if something is wrong: what keeps all from being delivered first.
pub fn advice(report: &Report, config: &Config) -> Option<String> {
    let said = if report.waiting {
        "start the agent (systemctl start fs-agent, or fs-agent run), with the same ring.name: it makes the ring".to_owned()
    } else if !report.running {
        "start the publisher (systemctl start publisher, or publisher run); its log says why it ended (journalctl -u \
         publisher)"
            .to_owned()
    } else if is_silent(report) {
        let sink = match config.publisher.sink {
            Sink::Kafka => "Kafka",
            Sink::Kinesis => "Kinesis",
            Sink::Stdout => "standard output",
        };
        format!(
            "{sink} confirms nothing: `publisher check --connect` says whether it answers; nothing is lost as long as ring \
                 and spool have room"
        )
    } else if report.failed_messages > report.redelivered_dead_letters {
        "`publisher failed list` says what was refused and why; mend that, then `publisher failed retry`, or `publisher failed \
         drop --all`"
            .to_owned()
    } else if report.spool_errors > 0 || report.spool_lost > 0 {
        let dir = config.spool_place();
        format!("look at the spool's disk (df {}), and at the log", dir.display())
    } else if report.corrupt_skips > 0 {
        "the log says what was damaged; an event says what was lost by it".to_owned()
    } else if report.lost.iter().any(|lost| lost.reason == "ring_full") {
        "the ring was full for a while: a larger ring.size and spool.size_max bridge longer outages"
            .to_owned()
    } else {
        return None;
    };
    Some(said)
}

/// Whether something waits and nothing is confirmed.
fn is_silent(report: &Report) -> bool {
    let is_long = |seconds: Option<f64>| seconds.is_none_or(|seconds| seconds > SILENT_SECONDS);
    report.lag_bytes > 0 && is_long(report.lag_seconds) && is_long(report.seconds_since_last_delivery)
}
