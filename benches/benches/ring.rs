#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)] // A benchmark that cannot measure has to stop.
//! The ring between two processes beside what else carries records: `cargo bench --bench ring`.
//!
//! Every figure of a line is taken in the same run, in turns, so that the machine's moods fall on all of them.

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bywash_benches::{median, percentile};
use bywash_common::{
    config::{Config, RingConfig},
    ring::{AgentRing, Kind, PublisherRing, SEGMENT_DIR, Weight},
};
use crossbeam::queue::ArrayQueue;

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
        let mut child =
            Command::new(std::env::current_exe().unwrap()).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut String::new()).unwrap();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn finish(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
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
    let place = record.len() as u64 + 64;
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

/// Nanoseconds to copy a record into a buffer of the ring's size, piece behind piece, and out of it again in
/// another thread: what the ring does, less the ring.
fn memcpy_round(record: &[u8], count: usize) -> f64 {
    let mut area = vec![0u8; 64 << 20];
    area.fill(1);
    let start = Instant::now();
    let mut at = 0;
    for _ in 0..count {
        if at + record.len() > area.len() {
            at = 0;
        }
        area[at..at + record.len()].copy_from_slice(black_box(record));
        at += record.len();
    }
    black_box(&area);
    start.elapsed().as_nanos() as f64 / count as f64
}

fn throughput(ring: &BenchRing, agent: &AgentRing) {
    println!(
        "{:<10} {:>14} {:>22} {:>12} {:>9}",
        "record", "ring", "ArrayQueue (threads)", "memcpy", "ring/memcpy"
    );
    for (len, count) in [(128usize, 2_000_000usize), (4 << 10, 400_000), (128 << 10, 20_000)] {
        let record = vec![0x5a; len];
        let peer = Peer::start(&["consume", &ring.0.name]);
        let (mut ours, mut queue, mut copy) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(ring_round(agent, &record, count));
            queue.push(array_queue_round(&record, count));
            copy.push(memcpy_round(&record, count));
        }
        peer.finish();
        let [ours, queue, copy] = [ours, queue, copy].map(|mut figures| median(&mut figures));
        println!(
            "{len:<10} {ours:>8.1} ns {:>5.1} GB/s {queue:>9.1} ns {copy:>10.1} ns {:>8.2}",
            len as f64 / ours,
            copy / ours
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
    peer.finish();
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
        _ => {}
    }
    let ring = BenchRing::new();
    let agent = AgentRing::open(&ring.0).unwrap();
    throughput(&ring, &agent);
    wake_up(&ring, &agent);
}
