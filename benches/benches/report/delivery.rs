//! From a log file to Kafka: how late lines come, and what that takes, beside what people use instead.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bywash_benches::{
    cpu_time,
    report::data::{Cell, Column, Part, Row, Table},
};
use bywash_tests::harness::{Broker, Bywash, Process, Settings, temporary_directory, wait::TIMEOUT};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use crate::{
    loggers, quantiles,
    run::{Run, mib, own_memory},
};

const ROUNDS: usize = 3;
/// Lines a second.
const RATES: [u32; 2] = [1_000, 20_000];
/// How long lines are written at each rate in a round.
const TIME: Duration = Duration::from_secs(6);
const LINE_BYTES: usize = 200;
/// So often a few lines are due.
const TICK: Duration = Duration::from_millis(1);
const TOPIC: &str = "lines";
/// What follows the time at which a line was written, in nanoseconds since the epoch.
const TIME_END: u8 = b' ';
const POLL_TIME: Duration = Duration::from_millis(10);
/// Whose lines do not come for so long has sent all that it is going to.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// What all producers of the others are told, as ours is by default.
const LINGER_MS: u32 = 5;

/// Lines leave as they were written, from all.
const SETTINGS: Settings = Settings { encoder: "raw", topic: TOPIC, ..Settings::DEFAULT };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Bywash,
    Rsyslog,
    SyslogNg,
    Bare,
}

const SUBJECTS: [Subject; 4] = [Subject::Bywash, Subject::Rsyslog, Subject::SyslogNg, Subject::Bare];

/// What the rounds of one subject gave at one rate.
#[derive(Clone, Default)]
struct Taken {
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu_us: Vec<f64>,
    memory: Vec<f64>,
    missing: Vec<f64>,
}

/// Takes one line.
type Sender<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// Who carries lines from a file to the broker, or the program that sends them itself.
enum Carrier {
    Bywash(Box<Bywash>),
    Logger { process: Process, file: PathBuf, _root: Box<dyn AsRef<Path>> },
    Bare(ThreadedProducer<DefaultProducerContext>),
}

pub fn measure(run: &mut Run) -> Part {
    let rounds = run.count(ROUNDS, 1);
    let time = run.scaled(TIME);
    let mut all = vec![vec![Taken::default(); RATES.len()]; SUBJECTS.len()];
    for round in 0..rounds {
        for turn in 0..SUBJECTS.len() {
            // Whoever comes first finds another machine than whoever comes last.
            let at = (turn + round) % SUBJECTS.len();
            run.say(&format!("round {} of {rounds}: lines to Kafka by {}", round + 1, SUBJECTS[at].name()));
            one_round(SUBJECTS[at], time, &mut all[at]);
        }
    }
    Part {
        id: "delivery".to_owned(),
        title: "From a file to Kafka".to_owned(),
        method: method(rounds, time),
        goals: Vec::new(),
        tables: RATES.iter().enumerate().map(|(i, rate)| table(*rate, all.iter().map(|t| &t[i]))).collect(),
    }
}

fn method(rounds: usize, time: Duration) -> Vec<String> {
    vec![
        format!(
            "One program appends lines of {LINE_BYTES} bytes to a file for {:.1} s at each rate, {rounds} rounds; a reader of the topic takes the time from \
             the line to its arrival. All send the bare line (bywash: `encoder = \"raw\"`) with `linger.ms` {LINGER_MS} to the same broker. \
             `librdkafka alone` is a program that sends the lines instead of writing them. CPU is that of agent and publisher, or of the \
             logger; missing lines had not come {SILENCE_MAX:?} after the last one that did.",
            time.as_secs_f64()
        ),
        "rsyslog: imfile in inotify mode, omkafka with a queue of its own: \
         https://www.rsyslog.com/doc/configuration/modules/omkafka.html . syslog-ng: `wildcard-file()` with `follow-freq(0.1)` instead of 1 s, \
         `kafka-c()`, flow control: https://support.oneidentity.com/it-it/technical-documents/syslog-ng-open-source-edition/3.22/administration-guide/39"
            .to_owned(),
    ]
}

fn table<'a>(rate: u32, all: impl Iterator<Item = &'a Taken>) -> Table {
    let row = |(subject, taken): (&Subject, &Taken)| {
        let columns = [&taken.p50_ms, &taken.p99_ms, &taken.cpu_us, &taken.memory, &taken.missing];
        Row {
            name: subject.name().to_owned(),
            cells: columns.map(|rounds| Cell::of(rounds.clone())).to_vec(),
        }
    };
    let columns = [("p50", "ms"), ("p99", "ms"), ("CPU a line", "µs"), ("memory", "MiB"), ("missing", "%")];
    Table {
        title: format!("{} lines a second", bywash_benches::report::data::shown(f64::from(rate))),
        of: "who carries".to_owned(),
        columns: columns.map(|(name, unit)| Column::new(name, unit)).to_vec(),
        rows: SUBJECTS.iter().zip(all).map(row).collect(),
        charted: vec![1, 2],
    }
}

fn one_round(subject: Subject, time: Duration, taken: &mut [Taken]) {
    // The broker keeps everything in memory.
    let broker = Broker::start();
    broker.create(TOPIC);
    let mut carrier = subject.start(&broker.address());
    let reader = reader(&broker.address());
    // One line at first, for a connection that stands before the clock runs.
    assert!(!carrier.run(&reader, 1, 1).is_empty(), "{} carries nothing", subject.name());
    for (rate, taken) in RATES.into_iter().zip(taken) {
        let lines = (f64::from(rate) * time.as_secs_f64()) as usize;
        let before = carrier.cpu();
        let lags = carrier.run(&reader, rate, lines);
        if let Some((before, after)) = before.zip(carrier.cpu()) {
            taken.cpu_us.push(after.saturating_sub(before).as_secs_f64() * 1e6 / lines as f64);
            taken.memory.push(mib(carrier.memory()));
        }
        taken.missing.push((lines - lags.len().min(lines)) as f64 * 100.0 / lines as f64);
        let [p50, p99, ..] = quantiles(lags);
        taken.p50_ms.push(p50 / 1e3);
        taken.p99_ms.push(p99 / 1e3);
    }
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Bywash => "bywash",
            Self::Rsyslog => "rsyslog imfile",
            Self::SyslogNg => "syslog-ng",
            Self::Bare => "librdkafka alone",
        }
    }

    fn start(self, broker: &str) -> Carrier {
        let root = temporary_directory();
        let logs = root.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let file = logs.join("lines.log");
        match self {
            Self::Bywash => {
                let mut bywash = Bywash::new(broker, &SETTINGS);
                bywash.start_agent();
                bywash.start_publisher();
                Carrier::Bywash(Box::new(bywash))
            }
            Self::Rsyslog => {
                let process = loggers::rsyslog(root.path(), &rsyslog_configuration(root.path(), broker));
                Carrier::Logger { process, file, _root: Box::new(root) }
            }
            Self::SyslogNg => {
                let process = loggers::syslog_ng(root.path(), &syslog_ng_configuration(&logs, broker));
                Carrier::Logger { process, file, _root: Box::new(root) }
            }
            Self::Bare => {
                let mut config = ClientConfig::new();
                config.set("bootstrap.servers", broker).set("linger.ms", LINGER_MS.to_string());
                config.set("enable.idempotence", "true").set("acks", "all");
                Carrier::Bare(config.create().expect("a producer"))
            }
        }
    }
}

fn rsyslog_configuration(root: &Path, broker: &str) -> String {
    format!(
        "global(workDirectory=\"{root}\")\n\
         module(load=\"imfile\" mode=\"inotify\")\nmodule(load=\"omkafka\")\n\
         template(name=\"line\" type=\"string\" string=\"%msg%\")\n\
         ruleset(name=\"out\") {{ action(type=\"omkafka\" broker=\"{broker}\" topic=\"{TOPIC}\" template=\"line\"\n  \
         confParam=[\"queue.buffering.max.ms={LINGER_MS}\", \"acks=all\", \"enable.idempotence=true\"] resubmitOnFailure=\"on\"\n  \
         queue.type=\"LinkedList\" queue.size=\"200000\" queue.dequeueBatchSize=\"1024\") }}\n\
         input(type=\"imfile\" file=\"{root}/logs/*.log\" tag=\"t\" ruleset=\"out\")\n",
        root = root.display()
    )
}

fn syslog_ng_configuration(logs: &Path, broker: &str) -> String {
    format!(
        r#"@version: 3.38
options {{ stats-freq(0); use-dns(no); }};
source s {{ wildcard-file(base-dir({logs:?}) filename-pattern("*.log") monitor-method("inotify") follow-freq(0.1)
    max-files(10) log-iw-size(100000) log-fetch-limit(10000) flags(no-parse)); }};
destination d {{ kafka-c(topic({TOPIC:?}) bootstrap-servers({broker:?}) log-fifo-size(200000) message("$MESSAGE")
    config(queue.buffering.max.ms("{LINGER_MS}") acks("all") enable.idempotence("true"))); }};
log {{ source(s); destination(d); flags(flow-control); }};
"#
    )
}

fn reader(broker: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("group.id", "lag").set("enable.auto.commit", "false");
    let reader: BaseConsumer = config.set("fetch.wait.max.ms", "5").create().expect("a reader");
    let mut partition = TopicPartitionList::new();
    partition.add_partition_offset(TOPIC, 0, Offset::Beginning).expect("a place");
    reader.assign(&partition).expect("an assignment");
    reader
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos()
}

/// A line that says when it was made.
fn line() -> Vec<u8> {
    let mut line = format!("{} INFO method=GET path=/api/v1/items status=200 ", now_ns()).into_bytes();
    line.resize(LINE_BYTES - 1, b'x');
    line.push(b'\n');
    line
}

/// Takes `lines` from the topic, or as many as come; gives how late each was.
fn read(reader: &BaseConsumer, lines: usize) -> Vec<Duration> {
    let mut lags = Vec::with_capacity(lines);
    let mut last = Instant::now();
    while lags.len() < lines && last.elapsed() < SILENCE_MAX.max(TIMEOUT * u32::from(lags.is_empty())) {
        let Some(Ok(message)) = reader.poll(POLL_TIME) else { continue };
        let now = now_ns();
        last = Instant::now();
        // Ours has as many lines in a message as writes, one; should there be more, each counts.
        for line in message.payload().unwrap_or_default().split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let time = line.split(|b| *b == TIME_END).find(|word| !word.is_empty()).unwrap_or_default();
            let time: u128 = String::from_utf8_lossy(time).parse().expect("a line's time");
            lags.push(Duration::from_nanos(u64::try_from(now.saturating_sub(time)).unwrap_or(u64::MAX)));
        }
    }
    lags
}

impl Carrier {
    /// Writes `lines` at `rate`, and gives how late those came that did.
    fn run(&mut self, reader: &BaseConsumer, rate: u32, lines: usize) -> Vec<Duration> {
        let mut send = self.sender();
        thread::scope(|scope| {
            let lags = scope.spawn(|| read(reader, lines));
            let begin = Instant::now();
            let mut written = 0;
            while written < lines {
                let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as usize + 1;
                while written < due.min(lines) {
                    send(&line());
                    written += 1;
                }
                thread::sleep(TICK);
            }
            lags.join().expect("a reader")
        })
    }

    /// What takes one line.
    fn sender(&self) -> Sender<'_> {
        let path = match self {
            Self::Bywash(bywash) => bywash.file("lines.log"),
            Self::Logger { file, .. } => file.clone(),
            Self::Bare(producer) => {
                return Box::new(|line| {
                    let record = BaseRecord::<(), _>::to(TOPIC).payload(line.trim_ascii_end());
                    assert!(producer.send(record).is_ok(), "librdkafka's queue is full");
                });
            }
        };
        let mut file = File::options().append(true).create(true).open(path).expect("a file");
        Box::new(move |line| file.write_all(line).expect("a write that succeeds"))
    }

    fn processes(&self) -> Vec<&Process> {
        match self {
            Self::Bywash(bywash) => [&bywash.agent, &bywash.publisher].into_iter().flatten().collect(),
            Self::Logger { process, .. } => vec![process],
            Self::Bare(_) => Vec::new(),
        }
    }

    /// Nothing for librdkafka alone: it is part of this process, whose reader takes its part too.
    fn cpu(&self) -> Option<Duration> {
        let each = self.processes().into_iter().map(|process| cpu_time(process.pid().as_raw()));
        (!matches!(self, Self::Bare(_))).then(|| each.sum())
    }

    fn memory(&self) -> u64 {
        self.processes().into_iter().map(own_memory).sum()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Self::Bare(producer) = self {
            drop(producer.flush(TIMEOUT));
        }
    }
}
