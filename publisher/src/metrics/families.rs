//! Every metric. The table of docs/metrics.md shows them in this order and with these words; a test holds it to this list.

use std::{fmt::Display, path::Path};

use bywash_common::{
    clock::now_ns,
    ring::{Inspected, RingError},
    status::{AgentCounter as Agent, FifoCounter as Fifo, ListeningKind},
};

use crate::{
    sink_stats::Histogram,
    status::{Report, TOO_OLD, look, report, seconds_since},
};

use super::{
    exposition::{Kind, Page},
    places::{Places, Waste},
};

/// Metrics of one name.
pub struct Family {
    /// In Prometheus's manner: base units, `_total` behind counters.
    pub name: &'static str,
    /// What its values mean.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it is, without a line break or backslash.
    pub help: &'static str,
    pub(super) samples: fn(&Seen, &mut Samples<'_>),
}

/// What there was to be seen at one moment.
pub struct Seen {
    pub(super) report: Report,
    ring: Option<Inspected>,
    pub(super) now_ns: u64,
    pub(super) waste: Waste,
}

impl Seen {
    /// Looks at a ring, which may not exist yet.
    ///
    /// # Errors
    /// A [`RingError`] if it may not be looked at, or is damaged.
    pub fn now(places: &Places) -> Result<Self, RingError> {
        let (name, ring, now_ns) = (&places.ring, look(&places.ring)?, now_ns());
        Ok(Self { report: report(name, ring.as_ref(), None, now_ns), ring, now_ns, waste: places.waste() })
    }

    /// Whether the publisher drains the ring; says what it does if not.
    pub fn readiness(&self) -> Result<(), String> {
        if self.report.running {
            return Ok(());
        }
        Err(format!(
            "waiting for the ring `{}`: is fs-agent running, with the same ring.name?",
            self.report.ring
        ))
    }

    pub(super) fn agent(&self, counter: Agent) -> u64 {
        self.ring.as_ref().map_or(0, |ring| ring.agent(counter))
    }

    fn agent_runs(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.agent_running)
    }

    fn withheld(&self) -> (u64, u64) {
        self.ring.as_ref().map_or((0, 0), Inspected::withheld)
    }

    /// A sample for each FIFO that has counters.
    fn each_fifo(&self, counter: Fifo, to: &mut Samples<'_>) {
        for listening in self.ring.iter().flat_map(Inspected::listening) {
            if let (ListeningKind::Fifo { slot: Some(slot) }, Some(ring)) = (listening.kind, &self.ring) {
                let value = ring.fifo(slot, counter);
                to.put_labelled(&[&self.report.ring, &shown(&listening.path)], value);
            }
        }
    }
}

/// A path as `status` shows it.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where a family's samples go.
pub(super) struct Samples<'a> {
    pub(super) page: &'a mut Page,
    pub(super) family: &'a Family,
    pub(super) ring: &'a str,
}

impl Samples<'_> {
    /// The one sample of a family that has the label `ring` alone.
    pub(super) fn put(&mut self, value: impl Display) {
        let ring = self.ring;
        self.put_labelled(&[ring], value);
    }

    /// The same where there is something to say.
    pub(super) fn put_known(&mut self, value: Option<impl Display>) {
        if let Some(value) = value {
            self.put(value);
        }
    }

    /// A sample, with its labels' values in the order of their names.
    pub(super) fn put_labelled(&mut self, values: &[&str], value: impl Display) {
        let Family { name, labels, .. } = self.family;
        debug_assert_eq!(labels.len(), values.len(), "{name}");
        self.page.sample(name, labels.iter().copied().zip(values.iter().copied()), value);
    }

    /// The samples of a histogram.
    pub(super) fn put_histogram(&mut self, histogram: &Histogram) {
        let name = self.family.name;
        let cumulated = histogram.cumulated();
        let count = cumulated.last().map_or(0, |(_, count)| *count);
        for (bound, up_to) in cumulated {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let labels = [("ring", self.ring), ("le", &bound)];
            self.page.sample(&format!("{name}_bucket"), labels.into_iter(), up_to);
        }
        let ring = || [("ring", self.ring)].into_iter();
        self.page.sample(&format!("{name}_sum"), ring(), histogram.sum());
        self.page.sample(&format!("{name}_count"), ring(), count);
    }
}

pub(super) const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Seen, &mut Samples<'_>),
) -> Family {
    Family { name, kind, labels, help, samples }
}

pub(super) const fn gauge(
    name: &'static str,
    help: &'static str,
    samples: fn(&Seen, &mut Samples<'_>),
) -> Family {
    family(name, Kind::Gauge, RING, help, samples)
}

pub(super) const fn counter(
    name: &'static str,
    help: &'static str,
    samples: fn(&Seen, &mut Samples<'_>),
) -> Family {
    family(name, Kind::Counter, RING, help, samples)
}

pub(super) const RING: &[&str] = &["ring"];
const RING_REASON: &[&str] = &["ring", "reason"];
const RING_PATH: &[&str] = &["ring", "path"];

/// The publisher's, the ring's, the agent's, those of its FIFOs.
pub(super) const FAMILIES: &[Family] = &[
    family("bywash_build_info", Kind::Gauge, &["version"], "1, with the publisher's version.", |_, to| {
        to.put_labelled(&[env!("CARGO_PKG_VERSION")], 1);
    }),
    gauge(
        "bywash_publisher_up",
        "1 while the publisher drains the ring, 0 while it waits for one.",
        |seen, to| {
            to.put(u8::from(seen.report.running));
        },
    ),
    gauge("bywash_publisher_uptime_seconds", "How long the publisher has drained the ring.", |seen, to| {
        to.put_known(seen.report.uptime_seconds);
    }),
    gauge("bywash_lag_records", "Records in ring and spool that are not delivered.", |seen, to| {
        to.put(seen.report.lag_records);
    }),
    gauge("bywash_lag_bytes", "Bytes that ring and spool hold of what is not delivered.", |seen, to| {
        to.put(seen.report.lag_bytes);
    }),
    gauge(
        "bywash_lag_seconds",
        "How long ago the oldest record was captured that is not delivered; missing while that is not known.",
        |seen, to| to.put_known(seen.report.lag_seconds),
    ),
    gauge("bywash_in_flight_records", "Records handed to the sink and not confirmed.", |seen, to| {
        to.put(seen.report.in_flight_records);
    }),
    counter("bywash_delivered_records_total", "Records whose delivery was confirmed.", |seen, to| {
        to.put(seen.report.delivered_records);
    }),
    counter("bywash_delivered_bytes_total", "Bytes of captured data in delivered records.", |seen, to| {
        to.put(seen.report.delivered_bytes);
    }),
    gauge(
        "bywash_last_delivery_age_seconds",
        "How long ago a delivery was last confirmed; missing before the first.",
        |seen, to| to.put_known(seen.report.seconds_since_last_delivery),
    ),
    counter("bywash_failed_messages_total", "Messages that the sink has refused for good.", |seen, to| {
        to.put(seen.report.failed_messages);
    }),
    counter("bywash_dead_letters_total", "Refused messages that were kept as dead letters.", |seen, to| {
        to.put(seen.report.dead_letters);
    }),
    counter(
        "bywash_dead_letters_redelivered_total",
        "Dead letters that were delivered after all, or went to `failed.topic`.",
        |seen, to| {
            to.put(seen.report.redelivered_dead_letters);
        },
    ),
    counter(
        "bywash_dead_lettered_records_total",
        "Records that were not delivered and kept as dead letters.",
        |seen, to| {
            to.put(seen.report.dead_lettered_records);
        },
    ),
    counter(
        "bywash_undeliverable_records_total",
        "Records that the sink refused for good and that could not be kept.",
        |seen, to| {
            to.put(seen.report.undeliverable_records);
        },
    ),
    counter(
        "bywash_passed_over_records_total",
        "Records that a publisher had delivered before it was stopped, found again and not sent twice.",
        |seen, to| {
            to.put(seen.report.passed_over_records);
        },
    ),
    counter(
        "bywash_discarded_records_total",
        "Writes that an operator has discarded (publisher discard).",
        |seen, to| {
            to.put(seen.report.discarded_records);
        },
    ),
    gauge("bywash_spool_bytes", "What the spool takes on disk; part of the lag.", |seen, to| {
        to.put(seen.report.spool_bytes);
    }),
    gauge("bywash_spool_records", "Records in the spool; part of the lag.", |seen, to| {
        to.put(seen.report.spool_records);
    }),
    gauge(
        "bywash_recovery_bytes_per_second",
        "By how many bytes a second what is in the spool becomes less at most; 0 for no limit.",
        |seen, to| {
            to.put(seen.report.recovery_bytes_per_second);
        },
    ),
    gauge(
        "bywash_recovery_seconds",
        "About how long it takes until the spool is empty at that limit; 0 without one.",
        |seen, to| {
            to.put(seen.report.recovery_seconds);
        },
    ),
    counter("bywash_spool_errors_total", "Times that the spool could not take records.", |seen, to| {
        to.put(seen.report.spool_errors);
    }),
    counter("bywash_spool_lost_records_total", "Records of the spool that cannot be read.", |seen, to| {
        to.put(seen.report.spool_lost);
    }),
    counter(
        "bywash_corrupt_skips_total",
        "Times that a damaged part of the ring was passed over.",
        |seen, to| {
            to.put(seen.report.corrupt_skips);
        },
    ),
    gauge("bywash_ring_capacity_bytes", "What the ring can hold; 0 while there is none.", |seen, to| {
        to.put(seen.report.capacity_bytes);
    }),
    gauge("bywash_ring_used_bytes", "What the ring holds; part of the lag.", |seen, to| {
        to.put(seen.ring.as_ref().map_or(0, |ring| ring.used));
    }),
    gauge(
        "bywash_ring_generation",
        "Number of the ring that fs-agent writes to; another one is begun when its size changes or it is damaged.",
        |seen, to| {
            to.put_known(seen.ring.as_ref().map(|ring| ring.generation));
        },
    ),
    family(
        "bywash_lost_writes_total",
        Kind::Counter,
        RING_REASON,
        "Writes that were lost, by reason: ring_full, too_large, discarded, ring_gone, too_old.",
        |seen, to| {
            for (reason, writes, _) in seen.ring.iter().flat_map(Inspected::lost) {
                to.put_labelled(&[&seen.report.ring, reason.name()], writes);
            }
            to.put_labelled(&[&seen.report.ring, TOO_OLD], seen.report.expired.0);
        },
    ),
    family(
        "bywash_lost_bytes_total",
        Kind::Counter,
        RING_REASON,
        "Bytes that were lost, by the same reasons.",
        |seen, to| {
            for (reason, _, bytes) in seen.ring.iter().flat_map(Inspected::lost) {
                to.put_labelled(&[&seen.report.ring, reason.name()], bytes);
            }
            to.put_labelled(&[&seen.report.ring, TOO_OLD], seen.report.expired.1);
        },
    ),
    gauge("bywash_agent_up", "1 while fs-agent holds the ring, 0 while none does.", |seen, to| {
        to.put(u8::from(seen.agent_runs()));
    }),
    gauge("bywash_agent_uptime_seconds", "How long fs-agent has run.", |seen, to| {
        let started_ns = Some(seen.agent(Agent::StartedNs)).filter(|_| seen.agent_runs());
        to.put_known(started_ns.and_then(|started_ns| seconds_since(started_ns, seen.now_ns)));
    }),
    gauge(
        "bywash_agent_generation",
        "Which agent in a row it is whose predecessors have handed over; 0 where nobody keeps what is handed over.",
        |seen, to| to.put(seen.agent(Agent::Generation)),
    ),
    family(
        "bywash_listening",
        Kind::Gauge,
        &["ring", "kind", "path"],
        "1 for each path that fs-agent listens to, kind directory or fifo; asleep: would, but for `fs-agent sleep`.",
        |seen, to| {
            for listening in seen.ring.iter().flat_map(Inspected::listening) {
                to.put_labelled(&[&seen.report.ring, listening.kind.name(), &shown(&listening.path)], 1);
            }
        },
    ),
    gauge(
        "bywash_unlisted",
        "To how many directories and FIFOs more fs-agent listens, for whose names the ring has no room.",
        |seen, to| {
            to.put(
                seen.ring.as_ref().filter(|ring| ring.agent_running).map_or(0, |ring| ring.unlisted as u64),
            );
        },
    ),
    counter(
        "bywash_captured_writes_total",
        "Writes, and lines of FIFOs, that became records.",
        |seen, to| {
            to.put(seen.agent(Agent::CapturedEvents));
        },
    ),
    counter("bywash_captured_bytes_total", "Bytes of captured data in records.", |seen, to| {
        to.put(seen.agent(Agent::CapturedBytes));
    }),
    counter(
        "bywash_unattributed_writes_total",
        "Captured writes of shared mappings' pages, which are by nobody in particular.",
        |seen, to| to.put(seen.agent(Agent::UnattributedEvents)),
    ),
    counter(
        "bywash_uncaptured_mapper_opens_total",
        "Opens whose stores through shared mappings, if any, were not captured.",
        |seen, to| to.put(seen.agent(Agent::UncapturedMapperOpens)),
    ),
    counter("bywash_excluded_writes_total", "Writes to files that are excluded.", |seen, to| {
        to.put(seen.agent(Agent::ExcludedEvents));
    }),
    counter("bywash_excluded_bytes_total", "Bytes written to files that are excluded.", |seen, to| {
        to.put(seen.agent(Agent::ExcludedBytes));
    }),
    counter("bywash_withheld_writes_total", "Writes that quotas have withheld.", |seen, to| {
        to.put(seen.withheld().0);
    }),
    counter("bywash_withheld_bytes_total", "Bytes that quotas have withheld.", |seen, to| {
        to.put(seen.withheld().1)
    }),
    family(
        "bywash_fifo_lines_total",
        Kind::Counter,
        RING_PATH,
        "Lines, or chunks, of a FIFO that became records.",
        |seen, to| {
            seen.each_fifo(Fifo::Lines, to);
        },
    ),
    family(
        "bywash_fifo_bytes_total",
        Kind::Counter,
        RING_PATH,
        "Bytes of a FIFO's lines that became records.",
        |seen, to| {
            seen.each_fifo(Fifo::Bytes, to);
        },
    ),
    family(
        "bywash_fifo_lost_lines_total",
        Kind::Counter,
        RING_PATH,
        "Lines of a FIFO that the ring had no room for.",
        |seen, to| {
            seen.each_fifo(Fifo::LostLines, to);
        },
    ),
    family(
        "bywash_fifo_lost_bytes_total",
        Kind::Counter,
        RING_PATH,
        "Bytes of a FIFO's lines that the ring had no room for.",
        |seen, to| {
            seen.each_fifo(Fifo::LostBytes, to);
        },
    ),
    family(
        "bywash_fifo_missing",
        Kind::Gauge,
        RING_PATH,
        "1 while there is no FIFO at the path.",
        |seen, to| {
            seen.each_fifo(Fifo::Missing, to);
        },
    ),
];
