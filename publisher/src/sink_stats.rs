//! What sinks count of their requests, for the metrics: by request, answer or error, never by event.
//!
//! Unlike what lies in the ring's memory these begin at 0 with the process, as Prometheus expects of counters.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

/// Codes of errors that are counted one by one; what comes beyond is `other`.
const CODES_MAX: usize = 64;
/// Seconds, in the unit in which round trips are counted.
const MICROS_PER_SECOND: f64 = 1e6;

/// How many values there were up to each bound, and what they come to.
#[derive(Debug)]
pub struct Histogram {
    /// Whole numbers of `unit`.
    bounds: &'static [u64],
    /// What one is divided by where it is shown.
    scale: f64,
    /// One more than there are bounds.
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

/// The most bounds of a histogram.
const BOUNDS_MAX: usize = 12;

impl Histogram {
    const fn new(bounds: &'static [u64], scale: f64) -> Self {
        assert!(bounds.len() <= BOUNDS_MAX);
        Self { bounds, scale, counts: [const { AtomicU64::new(0) }; BOUNDS_MAX + 1], sum: AtomicU64::new(0) }
    }

    /// Counts `n` values of about `value`.
    pub fn observe(&self, value: u64, n: u64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(n, Ordering::Relaxed);
        self.sum.fetch_add(value.saturating_mul(n), Ordering::Relaxed);
    }

    /// Each bound, and how many values there were up to it.
    pub fn cumulated(&self) -> Vec<(f64, u64)> {
        let mut count = 0;
        let up_to = |(bound, at): (f64, &AtomicU64)| {
            count += at.load(Ordering::Relaxed);
            (bound, count)
        };
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale).chain([f64::INFINITY]);
        bounds.zip(&self.counts).map(up_to).collect()
    }

    /// What all values come to.
    pub fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / self.scale
    }
}

/// What librdkafka says of itself, of all brokers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KafkaStatistics {
    /// Brokers with a connection.
    pub brokers_up: u64,
    /// Brokers without one.
    pub brokers_down: u64,
    /// Messages in its queues and on their way.
    pub queued_messages: u64,
    /// Bytes of those.
    pub queued_bytes: u64,
    /// Requests that it has sent.
    pub requests: u64,
    /// Requests that it has sent again.
    pub retries: u64,
    /// Requests that were not answered in time.
    pub timeouts: u64,
    /// Connections that were lost.
    pub disconnects: u64,
    /// How long brokers hold this client back at the moment, at most, in milliseconds.
    pub throttle_ms: u64,
}

/// What sinks count.
#[derive(Debug)]
pub struct SinkStats {
    errors: Mutex<BTreeMap<String, u64>>,
    /// Requests to Kinesis; librdkafka counts its own.
    pub requests: AtomicU64,
    /// Of those, the ones that had to be made again as a whole.
    pub retried: AtomicU64,
    /// Messages that were sent again.
    pub resent: AtomicU64,
    /// How long answers take, in microseconds.
    pub round_trips: Histogram,
    /// Messages of a batch.
    pub batch_messages: Histogram,
    /// Bytes of a batch.
    pub batch_bytes: Histogram,
    kafka: Mutex<Option<KafkaStatistics>>,
    /// Topics or streams that templates have named.
    pub topics: AtomicU64,
    /// Messages that went to the fallback topic instead of one that a template named.
    pub fallbacks: AtomicU64,
    /// Dead letters that went to the topic for such.
    pub passed_on: AtomicU64,
}

/// This process's.
pub fn sink_stats() -> &'static SinkStats {
    static VITALS: SinkStats = SinkStats {
        errors: Mutex::new(BTreeMap::new()),
        requests: AtomicU64::new(0),
        retried: AtomicU64::new(0),
        resent: AtomicU64::new(0),
        round_trips: Histogram::new(
            &[
                1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
                30_000_000,
            ],
            MICROS_PER_SECOND,
        ),
        batch_messages: Histogram::new(&[1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000], 1.0),
        batch_bytes: Histogram::new(
            &[256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20],
            1.0,
        ),
        kafka: Mutex::new(None),
        topics: AtomicU64::new(0),
        fallbacks: AtomicU64::new(0),
        passed_on: AtomicU64::new(0),
    };
    &VITALS
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SinkStats {
    /// Something went wrong, `n` times, by the sink's own name for it.
    pub fn failed(&self, code: &str, n: u64) {
        let mut errors = lock(&self.errors);
        let is_full = errors.len() >= CODES_MAX && !errors.contains_key(code);
        *errors.entry(if is_full { "other" } else { code }.to_owned()).or_default() += n;
    }

    /// What has gone wrong, by code.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        lock(&self.errors).clone()
    }

    /// A request that took `time` and held so much.
    pub fn answered(&self, time: Duration, messages: u64, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.round_trips.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), 1);
        self.batch_messages.observe(messages, 1);
        self.batch_bytes.observe(bytes, 1);
    }

    /// What librdkafka has said last.
    pub fn kafka(&self) -> Option<KafkaStatistics> {
        *lock(&self.kafka)
    }

    /// Takes in what librdkafka says of itself (its STATISTICS.md). What is missing there counts for nothing.
    pub fn take_statistics(&self, json: &[u8]) {
        let Ok(all) = serde_json::from_slice::<Value>(json) else { return };
        let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(0);
        let mut said = KafkaStatistics {
            queued_messages: number(&all, "msg_cnt"),
            queued_bytes: number(&all, "msg_size"),
            ..KafkaStatistics::default()
        };
        for broker in all["brokers"].as_object().into_iter().flat_map(|brokers| brokers.values()) {
            // Those that were only named in the configuration have no number, and stand for one that has.
            if broker["nodeid"].as_i64().is_some_and(|id| id >= 0) {
                let is_up = broker["state"] == "UP";
                said.brokers_up += u64::from(is_up);
                said.brokers_down += u64::from(!is_up);
            }
            said.requests += number(broker, "tx");
            said.retries += number(broker, "txretries");
            said.timeouts += number(broker, "req_timeouts");
            said.disconnects += number(broker, "disconnects");
            said.throttle_ms = said.throttle_ms.max(number(&broker["throttle"], "max"));
            take_window(&broker["rtt"], &self.round_trips);
        }
        for topic in all["topics"].as_object().into_iter().flat_map(|topics| topics.values()) {
            take_window(&topic["batchsize"], &self.batch_bytes);
            take_window(&topic["batchcnt"], &self.batch_messages);
        }
        *lock(&self.kafka) = Some(said);
    }
}

/// The share of a window's values, in percent, that lie above the quantile before and not above this one.
const QUANTILES: [(&str, u64); 6] =
    [("p50", 50), ("p75", 25), ("p90", 15), ("p95", 5), ("p99", 4), ("max", 1)];

/// Takes in what librdkafka has measured since it spoke last, of which it tells quantiles: each value counts as the next of these.
fn take_window(window: &Value, into: &Histogram) {
    let count = window["cnt"].as_u64().unwrap_or(0);
    let (mut share, mut taken) = (0, 0);
    for (quantile, percent) in QUANTILES {
        share += percent;
        let up_to = (count * share).div_ceil(100);
        if let Some(value) = window[quantile].as_u64().filter(|_| up_to > taken) {
            into.observe(value, up_to - taken);
            taken = up_to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_value_once_and_up_to_every_bound_above_it() {
        let histogram = Histogram::new(&[10, 100], 10.0);
        for value in [1, 10, 11, 1_000] {
            histogram.observe(value, 1);
        }
        assert_eq!(histogram.cumulated()[..3], [(1.0, 2), (10.0, 3), (f64::INFINITY, 4)]);
        assert_eq!(histogram.sum(), 102.2);
    }

    #[test]
    fn what_librdkafka_measures_is_counted_once_for_each_value() {
        let histogram = Histogram::new(&[10, 100], 1.0);
        for (count, p50) in [(1, 5), (7, 5), (100, 20), (0, 5)] {
            let window = serde_json::json!({
                "cnt": count, "p50": p50, "p75": 50, "p90": 60, "p95": 70, "p99": 80, "max": 900,
            });
            take_window(&window, &histogram);
        }
        let cumulated = histogram.cumulated();
        assert_eq!(cumulated[2].1, 108, "{cumulated:?}");
        assert_eq!(cumulated[1].1, 107, "the greatest of a hundred is above all bounds: {cumulated:?}");
    }

    #[test]
    fn codes_are_bounded_and_none_is_lost() {
        let sink_stats = SinkStats {
            errors: Mutex::new(BTreeMap::new()),
            requests: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            round_trips: Histogram::new(&[1], 1.0),
            batch_messages: Histogram::new(&[1], 1.0),
            batch_bytes: Histogram::new(&[1], 1.0),
            kafka: Mutex::new(None),
            topics: AtomicU64::new(0),
            fallbacks: AtomicU64::new(0),
            passed_on: AtomicU64::new(0),
        };
        (0..CODES_MAX * 2).for_each(|i| sink_stats.failed(&format!("code {i}"), 1));
        let errors = sink_stats.errors();
        assert_eq!((errors.len(), errors.values().sum::<u64>()), (CODES_MAX + 1, CODES_MAX as u64 * 2));
        sink_stats.take_statistics(
            b"{\"msg_cnt\":3,\"brokers\":{\"a\":{\"nodeid\":1,\"state\":\"UP\",\"tx\":5,\"rtt\":{}}}}",
        );
        let said = sink_stats.kafka().unwrap();
        assert_eq!((said.queued_messages, said.brokers_up, said.requests), (3, 1, 5));
    }
}
