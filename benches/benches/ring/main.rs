#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)] // A benchmark that cannot measure has to stop.
//! The ring between two processes beside what else carries records: `make bench`, or
//! `cargo bench -p bywash-benches --features peers --bench ring`.
//!
//! Every figure of a line is taken in the same run, in turns, so that the machine's moods fall on all of them.

#[cfg(feature = "peers")]
mod iceoryx;

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bywash_benches::{median, percentile};
use bywash_common::{
    config::{Config, RingConfig},
    ring::{AgentRing, Kind, PublisherRing, SEGMENT_DIR, Weight},
};
use crossbeam::{queue::ArrayQueue, utils::CachePadded};

/// Rounds of each measurement; the table shows medians.
const ROUNDS: usize = 9;
/// How many records the consumer reads before it acknowledges them.
const BATCH: usize = 256;
/// Wake-ups that are timed.
const WAKE_UPS: usize = 500;

/// A ring of its own name, removed at the end.
struct BenchRing(RingConfig);

impl BenchRing {
    fn new() -> Self {
        let name = format!("bywash-bench-{}", std::process::id());
        Self(RingConfig { name, ..Config::default().ring })
    }
}

impl Drop for BenchRing {
    fn drop(&mut self) {
        for end in ["1.ring", "1.ack"] {
            drop(std::fs::remove_file(format!("{SEGMENT_DIR}/{}.{end}", self.0.name)));
        }
    }
}

/// This program as the other process.
struct Peer {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut String::new()).unwrap();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// Tells it to begin.
    #[cfg(feature = "peers")]
    fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
}

/// Ends with its measurement, also where that fails.
impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The other process: drains the ring until it is killed. Acknowledges batches; sleeps when there is nothing.
fn consume(ring: &str) -> ! {
    let mut publisher = PublisherRing::attach(ring, None).unwrap();
    let acker = publisher.consumer.acker();
    println!("ready");
    let mut payload = Vec::new();
    loop {
        let mut end = None;
        for _ in 0..BATCH {
            match publisher.consumer.next(&mut payload).unwrap() {
                Some(entry) => end = Some(entry.end),
                None => break,
            }
            black_box(&payload);
        }
        match end {
            Some(end) => acker.ack(end),
            None => publisher.consumer.wait(Duration::from_millis(100)),
        }
    }
}

/// Nanoseconds a record from the first push until all are acknowledged, by the other process.
fn ring_round(agent: &AgentRing, record: &[u8], count: usize) -> f64 {
    let weight = Weight { bytes: record.len() as u64, time_ns: 0 };
    // More than header and leeway.
    let place = record.len() as u64 + 128;
    let mut room = 0;
    let start = Instant::now();
    for _ in 0..count {
        while room == 0 {
            let (used, capacity) = agent.producer.fill();
            // A record less than fits, for the padding at the end.
            room = ((capacity - used) / place).saturating_sub(1);
            std::hint::spin_loop();
        }
        room -= 1;
        agent.producer.push(Kind::Write, &[record], weight).unwrap();
    }
    while agent.producer.fill().0 > 0 {
        std::hint::spin_loop();
    }
    start.elapsed().as_nanos() as f64 / count as f64
}

/// The same through a queue of boxed records, between two threads of one process.
fn array_queue_round(record: &[u8], count: usize) -> f64 {
    let queue = Arc::new(ArrayQueue::<Box<[u8]>>::new(65_536));
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                let mut boxed: Box<[u8]> = record.into();
                while let Err(back) = queue.push(boxed) {
                    boxed = back;
                    std::hint::spin_loop();
                }
            }
        });
        let mut seen = 0;
        while seen < count {
            match queue.pop() {
                Some(record) => {
                    black_box(&record);
                    seen += 1;
                }
                None => std::hint::spin_loop(),
            }
        }
    });
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Records copied by one thread into an area of the ring's size, and out of it by another: the two copies and the traffic
/// between the cores' caches that every channel by copying has, with a count on each side and nothing else.
fn bare_copy_round(area: &[Mutex<Vec<u8>>], record: &[u8], count: usize) -> f64 {
    let copied_in = CachePadded::new(AtomicUsize::new(0));
    let copied_out = CachePadded::new(AtomicUsize::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..count {
                while i >= copied_out.load(Ordering::Acquire) + area.len() {
                    std::hint::spin_loop();
                }
                area[i % area.len()].lock().unwrap().copy_from_slice(black_box(record));
                copied_in.store(i + 1, Ordering::Release);
            }
        });
        let mut copy = vec![0; record.len()];
        for i in 0..count {
            while i >= copied_in.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            copy.copy_from_slice(&area[i % area.len()].lock().unwrap());
            black_box(&copy);
            copied_out.store(i + 1, Ordering::Release);
        }
    });
    start.elapsed().as_nanos() as f64 / count as f64
}

/// iceoryx2's column, where the benchmark is built with it.
#[cfg(feature = "peers")]
use iceoryx::Channel;

/// Built without the feature `peers`: an empty column.
#[cfg(not(feature = "peers"))]
struct Channel;

#[cfg(not(feature = "peers"))]
impl Channel {
    fn start(_len: usize, _count: usize) -> Self {
        Self
    }

    fn round(&mut self, _record: &[u8], _count: usize) -> f64 {
        f64::NAN
    }

    fn finish(self) {}
}

fn throughput(ring: &BenchRing, agent: &AgentRing) {
    println!(
        "nanoseconds a record, medians of {ROUNDS} rounds in turns; batches of {BATCH} are acknowledged"
    );
    println!(
        "{:>8} {:>9} {:>11} {:>11} {:>11} {:>16} {:>16}",
        "bytes", "ring", "ArrayQueue", "iceoryx2", "bare copy", "ring GB/s", "of bare copy"
    );
    for (len, count) in [(128usize, 2_000_000usize), (4 << 10, 200_000), (128 << 10, 10_000)] {
        let record = vec![0x5a; len];
        let area: Vec<_> = (0..(64 << 20) / len).map(|_| Mutex::new(record.clone())).collect();
        let mut channel = Channel::start(len, count);
        let mut rounds: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            // Only for its own turn: two consumers that look for work would share a processor.
            let peer = Peer::start(&["consume", &ring.0.name]);
            rounds[0].push(ring_round(agent, &record, count));
            drop(peer);
            rounds[1].push(array_queue_round(&record, count));
            rounds[2].push(channel.round(&record, count));
            rounds[3].push(bare_copy_round(&area, &record, count));
        }
        channel.finish();
        let [ours, queue, iceoryx, bare] = rounds.map(|mut figures| median(&mut figures));
        println!(
            "{len:>8} {ours:>9.1} {queue:>11.1} {iceoryx:>11.1} {bare:>11.1} {:>16.1} {:>15.0}%",
            len as f64 / ours,
            100.0 * bare / ours
        );
    }
}

fn wake_up(ring: &BenchRing, agent: &AgentRing) {
    let mut peer = Peer::start(&["echo", &ring.0.name]);
    let mut latencies = Vec::new();
    for _ in 0..WAKE_UPS {
        // Long enough for the consumer to fall asleep, and for its processor to halt.
        std::thread::sleep(Duration::from_millis(3));
        let sent = clock_ns();
        agent.producer.push(Kind::Write, &[&sent.to_ne_bytes()], Weight { bytes: 8, time_ns: 0 }).unwrap();
        latencies.push(Duration::from_nanos(peer.line().trim().parse().unwrap()));
    }
    drop(peer);
    latencies.sort();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|p| percentile(&latencies, p));
    println!("\nwake-up after idle: p50 {p50:?}, p99 {p99:?}, max {max:?}");
}

/// The other process: says how long each record was on its way.
fn echo(ring: &str) -> ! {
    let mut publisher = PublisherRing::attach(ring, None).unwrap();
    println!("ready");
    let mut payload = Vec::new();
    loop {
        match publisher.consumer.next(&mut payload).unwrap() {
            Some(entry) => {
                let sent = u64::from_ne_bytes(payload[..8].try_into().unwrap());
                println!("{}", clock_ns() - sent);
                std::io::stdout().flush().unwrap();
                publisher.consumer.acker().ack(entry.end);
            }
            None => publisher.consumer.wait(Duration::from_millis(100)),
        }
    }
}

fn clock_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos() as u64
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["consume", ring] => consume(ring),
        ["echo", ring] => echo(ring),
        #[cfg(feature = "peers")]
        ["iceoryx", name, count] => iceoryx::subscribe(name, count.parse().unwrap()),
        _ => {}
    }
    let ring = BenchRing::new();
    let agent = AgentRing::open(&ring.0).unwrap();
    agent.populate();
    throughput(&ring, &agent);
    wake_up(&ring, &agent);
}
