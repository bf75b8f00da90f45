//! A report for people.

use bywash_common::{
    config::Config,
    escape::in_line,
    text_report::{TextReport, counted},
    units::{human_bytes, human_seconds},
};

use super::{NS_PER_SECOND, Report, Withheld, advice::advice};

/// A warning is shown while something is behind, and for so long.
const WARNING_SECONDS: f64 = 600.0;
/// Characters of a warning that are shown.
const WARNING_CHARS: usize = 300;

impl Report {
    /// The report, in lines of 80 columns.
    pub(super) fn text(&self, config: &Config) -> String {
        let mut text_report = TextReport::default();
        self.who(&mut text_report);
        let age = self.lag_seconds.map_or("of unknown age".to_owned(), |seconds| {
            format!("the oldest captured {} ago", human_seconds(seconds))
        });
        if self.lag_bytes == 0 {
            text_report.row("behind", "nothing");
        } else {
            let (records, bytes) = (counted(self.lag_records, "record"), human_bytes(self.lag_bytes));
            text_report.row("behind", format_args!("{records}, {bytes}, {age}"));
        }
        if self.capacity_bytes > 0 {
            text_report.fill("ring", self.used_bytes, self.capacity_bytes);
        }
        if self.spool_bytes + self.spool_errors + self.spool_lost > 0 {
            text_report.fill("spool", self.spool_bytes, config.spool.size_max.0);
            text_report.row("", counted(self.spool_records, "record"));
            if self.recovery_seconds > 0.0 {
                let pace = human_bytes(self.recovery_bytes_per_second);
                let seconds = human_seconds(self.recovery_seconds);
                text_report.row("", format_args!("less by {pace}/s at most: gone in some {seconds}"));
            }
        }
        self.delivered(&mut text_report);
        self.not_delivered(&mut text_report);
        let is_shown = |seconds: f64| self.lag_bytes > 0 || seconds < WARNING_SECONDS;
        if let Some(warning) = self.warning.as_ref().filter(|warning| is_shown(warning.seconds_ago)) {
            let text: String = in_line(&warning.text).to_string().chars().take(WARNING_CHARS).collect();
            text_report.wrapped("warned", &format!("{} ago: {text}", human_seconds(warning.seconds_ago)));
        }
        if let Some(advice) = advice(self, config) {
            text_report.wrapped("next", &advice);
        }
        text_report.finish()
    }

    fn who(&self, text_report: &mut TextReport) {
        let ring = &self.ring;
        match (self.pid, self.uptime_seconds, self.waiter) {
            (Some(pid), Some(seconds), _) => {
                let up = human_seconds(seconds);
                text_report.say(format_args!("publisher is running (pid {pid}, for {up}, ring {ring})"));
            }
            (_, _, Some(waiter)) => {
                let since =
                    bywash_common::clock::now_ns().saturating_sub(waiter.since_ns) as f64 / NS_PER_SECOND;
                let (pid, since) = (waiter.pid, human_seconds(since));
                text_report
                    .say(format_args!("publisher is waiting for the ring {ring} (pid {pid}, for {since})"));
            }
            _ => text_report.say(format_args!("publisher is not running (ring {ring})")),
        }
    }

    fn delivered(&self, text_report: &mut TextReport) {
        let (records, bytes) = (counted(self.delivered_records, "record"), human_bytes(self.delivered_bytes));
        let rate = human_bytes(self.bytes_per_second as u64);
        let rate = format!("{:.1} records/s, {rate}/s", self.records_per_second);
        text_report.row("delivered", format_args!("{records}, {bytes}  ({rate})"));
        if let Some(seconds) = self.seconds_since_last_delivery {
            text_report.row("", format_args!("the last {} ago", human_seconds(seconds)));
        }
        if self.in_flight_records > 0 {
            text_report.row("in flight", counted(self.in_flight_records, "record"));
        }
        if self.passed_over_records > 0 {
            let records = counted(self.passed_over_records, "record");
            text_report.row("passed over", format_args!("{records}, which were delivered before"));
        }
    }

    fn not_delivered(&self, text_report: &mut TextReport) {
        if self.failed_messages > 0 {
            let (messages, dead_letters) = (counted(self.failed_messages, "message"), self.dead_letters);
            let revived = self.redelivered_dead_letters;
            text_report.row(
                "refused",
                format_args!("{messages}: {dead_letters} kept as dead letters, {revived} sent later"),
            );
        }
        if self.spool_errors + self.spool_lost > 0 {
            let (errors, lost) = (counted(self.spool_errors, "time"), counted(self.spool_lost, "record"));
            text_report.row("spool failed", format_args!("{errors}; {lost} cannot be read"));
        }
        if self.discarded_records > 0 {
            let writes = counted(self.discarded_records, "write");
            text_report.row("discarded", format_args!("{writes} by an operator"));
        }
        if self.corrupt_skips > 0 {
            text_report.row("ring damaged", counted(self.corrupt_skips, "time"));
        }
        let Withheld { events, bytes } = self.withheld;
        if events > 0 {
            let writes = counted(events, "write");
            text_report.row("withheld", format_args!("{writes}, {} by quotas", human_bytes(bytes)));
        }
        let mut name = "lost";
        for lost in &self.lost {
            let (writes, bytes) = (counted(lost.events, "write"), human_bytes(lost.bytes));
            text_report.row(name, format_args!("{}: {writes}, {bytes}", lost.reason));
            name = "";
        }
        if self.undeliverable_records > 0 {
            text_report.row(name, format_args!("refused: {}", counted(self.undeliverable_records, "record")));
            name = "";
        }
        if name == "lost" {
            text_report.row(name, "nothing");
        }
    }
}
