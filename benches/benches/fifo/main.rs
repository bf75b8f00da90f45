#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // A benchmark that cannot measure has to stop.
//! FIFO to Kafka beside syslog-ng, and FIFO into the ring alone: `cargo bench --bench fifo`.
//!
//! ```text
//! cargo bench --bench fifo -- [--rounds N] [--lines N]
//! ```
//!
//! Lines of 200 bytes go into a FIFO as fast as its reader takes them. To Kafka the clock runs from the first write until the
//! broker has all of them, for both in turns, with the same broker and topics of their own; JSON of the same keys. Into the
//! ring it runs until all are in the ring, which nobody drains meanwhile. Processor time is that of all processes between
//! FIFO and broker.

mod peer;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use bywash_benches::median;
use bywash_common::{ring::inspect, status::AgentCounter};
use bywash_tests::harness::{Broker, Bywash, Capture, Process, Settings};
use nix::unistd::{SysconfVar, sysconf};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

/// How many times syslog-ng's lines/s are good enough, and how many millions of them into the ring.
const RATIO_WANTED: f64 = 1.5;
const MILLIONS_WANTED: f64 = 3.0;
/// Rounds of each measurement; the table shows medians.
const ROUNDS: usize = 5;
/// Lines of a round to Kafka.
const LINES: usize = 400_000;
/// Lines of a round into the ring: as many as it holds.
const RING_LINES: usize = 1_000_000;
/// Holds them all in the three quarters that writers who may wait can fill.
const RING_SIZE: &str = "512MiB";
const LINE_BYTES: usize = 200;
/// How many bytes the writer hands to the kernel at once.
const WRITE_BYTES: usize = 64 << 10;
const TIME_MAX: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// One measurement.
#[derive(Clone, Copy)]
struct Taken {
    lines: usize,
    wall: Duration,
    cpu: Duration,
    /// Memory of their own that all processes have at the end, in bytes; the ring is shared, and not in it.
    memory: u64,
}

#[derive(Default)]
struct Figures(Vec<Taken>);

impl Figures {
    fn median(&self, figure: impl Fn(&Taken) -> f64) -> f64 {
        median(&mut self.0.iter().map(figure).collect::<Vec<_>>())
    }

    fn lines_per_s(&self) -> f64 {
        self.median(|taken| taken.lines as f64 / taken.wall.as_secs_f64())
    }

    fn cpu_us(&self) -> f64 {
        self.median(|taken| taken.cpu.as_secs_f64() * 1e6 / taken.lines as f64)
    }

    fn print(&self, name: &str) {
        let memory = self.median(|taken| taken.memory as f64 / f64::from(1 << 20));
        println!("| {name:<20} | {:>10.0} | {:>13.2} | {memory:>10.1} |", self.lines_per_s(), self.cpu_us());
    }
}

/// What the line at `number` says: a third of it the same in all, as logs are.
fn line(number: usize) -> Vec<u8> {
    let mut line =
        format!("2026-01-01T00:00:00 host app[4711]: request {number} took {} us ", number * 7 % 100_003);
    while line.len() < LINE_BYTES - 1 {
        line.push(char::from(b'a' + ((line.len() * 31 + number) % 26) as u8));
    }
    line.push('\n');
    line.into_bytes()
}

/// Writes lines as fast as they are taken.
fn write_lines(fifo: &Path, lines: usize) {
    let mut file = File::options().write(true).open(fifo).expect("a FIFO that is read");
    // A few blocks over and over: making lines would cost more than writing them.
    let block: Vec<u8> = (0..WRITE_BYTES / LINE_BYTES).flat_map(line).collect();
    let per_block = block.len() / LINE_BYTES;
    for written in (0..lines).step_by(per_block) {
        let end = (lines - written).min(per_block) * LINE_BYTES;
        file.write_all(&block[..end]).expect("a FIFO that is read");
    }
}

fn cpu(processes: &[&Process]) -> Duration {
    let tick = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    let of = |process: &&Process| {
        let text = fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("a running process");
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    Duration::from_millis(processes.iter().map(of).sum::<u64>() * 1000 / tick)
}

fn memory(processes: &[&Process]) -> u64 {
    let of = |process: &&Process| {
        let status =
            fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    processes.iter().map(of).sum()
}

/// Writes `lines` into `fifo` and waits until `arrived` says that they are where they belong.
fn measure(processes: &[&Process], fifo: &Path, lines: usize, arrived: impl Fn() -> usize) -> Taken {
    let (cpu_before, begin) = (cpu(processes), Instant::now());
    write_lines(fifo, lines);
    while arrived() < lines {
        assert!(begin.elapsed() < TIME_MAX, "{} of {lines} lines in {TIME_MAX:?}", arrived());
        std::thread::sleep(POLL_INTERVAL);
    }
    let wall = begin.elapsed();
    Taken { lines, wall, cpu: cpu(processes).saturating_sub(cpu_before), memory: memory(processes) }
}

/// How many messages a topic has.
fn count(client: &BaseConsumer, topic: &str) -> usize {
    match client.fetch_watermarks(topic, 0, BROKER_TIMEOUT) {
        Ok((_, end)) => usize::try_from(end).unwrap_or(0),
        Err(_) => {
            // Or librdkafka goes on to believe for half a minute that a new topic does not exist.
            drop(client.fetch_metadata(Some(topic), BROKER_TIMEOUT));
            0
        }
    }
}

fn to_kafka(broker: &Broker, topic: &'static str, lines: usize, client: &BaseConsumer) -> Taken {
    let settings = Settings { encoder: "logstash", directories: &[], topic, ..Settings::default() };
    let mut bywash = Bywash::new(&broker.address(), &settings);
    let fifo = bywash.add_fifo("lines.pipe", "on_full = 'wait'");
    bywash.start_agent();
    bywash.start_publisher();
    let processes = [bywash.agent.as_ref().unwrap(), bywash.publisher.as_ref().unwrap()];
    measure(&processes, &fifo, lines, || count(client, topic))
}

/// Rounds into one ring, by one agent: its memory is to stay what it is.
fn into_ring(rounds: usize) -> Figures {
    let settings = Settings { ring_size: RING_SIZE, directories: &[], ..Settings::default() };
    let mut bywash = Bywash::new("localhost:9", &settings);
    let fifo = bywash.add_fifo("lines.pipe", "on_full = 'wait'");
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let mut figures = Figures::default();
    for round in 0..=rounds {
        let captured = || inspect(&bywash.ring).unwrap().agent(AgentCounter::CapturedEvents);
        let before = captured();
        let arrived = || usize::try_from(captured() - before).unwrap();
        let taken = measure(&[bywash.agent.as_ref().unwrap()], &fifo, RING_LINES, arrived);
        // The first one makes the kernel map the ring.
        if round > 0 {
            figures.0.push(taken);
        }
        capture.skip();
    }
    figures
}

fn main() {
    let (mut rounds, mut lines) = (ROUNDS, LINES);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().and_then(|v| v.parse().ok()).expect("a number behind the option");
        match argument.as_str() {
            // From cargo.
            "--bench" => {}
            "--rounds" => rounds = value(),
            "--lines" => lines = value(),
            other => panic!("{other} is no option"),
        }
    }
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // The broker keeps everything in memory.
        let broker = Broker::start();
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", broker.address()).create().expect("a client");
        // Whoever comes first finds another machine than whoever comes last.
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                ours.0.push(to_kafka(&broker, "bywash", lines, &client));
            } else {
                theirs.0.push(peer::to_kafka(&broker, "syslog-ng", lines, &client));
            }
        }
    }
    let ring = into_ring(rounds);
    println!("| {:<20} | {:>10} | {:>13} | {:>10} |", "", "lines/s", "CPU us a line", "memory MiB");
    println!("|{}|{}:|{}:|{}:|", "-".repeat(22), "-".repeat(11), "-".repeat(14), "-".repeat(11));
    ours.print("bywash to Kafka");
    theirs.print("syslog-ng to Kafka");
    ring.print("FIFO into the ring");
    println!(
        "\nbywash/syslog-ng: {:.2} times the lines/s (wanted: {RATIO_WANTED} or more), {:.2} times the CPU a line (wanted: less \
         than 1)\nFIFO into the ring: {:.2} million lines/s (wanted: {MILLIONS_WANTED} or more)",
        ours.lines_per_s() / theirs.lines_per_s(),
        ours.cpu_us() / theirs.cpu_us(),
        ring.lines_per_s() / 1e6
    );
    let memory: Vec<u64> = ring.0.iter().map(|taken| taken.memory >> 10).collect();
    println!("fs-agent's own memory after each million lines, in KiB: {memory:?}");
}
