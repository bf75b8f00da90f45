//! `[metrics]`: what is served is what was written and what `status` shows, and whoever asks holds nobody up.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
};

use bywash_tests::harness::{
    Broker, Bywash, Load, Scrape, Settings, bywash,
    scrape::{ask, connect},
    wait::{self, TIMEOUT},
};
use serde_json::Value;

use crate::append;

/// As many connections as docs/metrics.md says are open at most.
const CONNECTIONS_MAX: usize = 16;
/// A request that does not end.
const HALF: &str = "GET /metrics HTTP/1.1\r\nHost: te";

fn configured(brokers: &str, settings: &Settings) -> Bywash {
    let bywash = Bywash::new(brokers, settings);
    bywash.edit("", "\n[metrics]\nlisten = \"127.0.0.1:0\"\n");
    bywash
}

fn start(broker: &Broker, settings: &Settings) -> (Bywash, SocketAddr) {
    let mut bywash = configured(&broker.address(), settings);
    bywash.start_agent();
    bywash.start_publisher();
    let address = address(&mut bywash);
    (bywash, address)
}

/// Where the publisher says that its metrics are.
fn address(bywash: &mut Bywash) -> SocketAddr {
    let publisher = bywash.publisher();
    wait::until("the log to say where the metrics are", TIMEOUT, || {
        let log = publisher.log();
        let named =
            log.split_once("http://").and_then(|(_, rest)| rest.split_once("/metrics")?.0.parse().ok());
        named.ok_or(log)
    })
}

/// Every number of `publisher status --json` and `fs-agent status --json`, and the metric that has it.
const SHOWN: &[(&str, &str, &str)] = &[
    ("publisher", "/capacity_bytes", "bywash_ring_capacity_bytes"),
    ("publisher", "/lag_records", "bywash_lag_records"),
    ("publisher", "/lag_bytes", "bywash_lag_bytes"),
    ("publisher", "/lag_seconds", "bywash_lag_seconds"),
    ("publisher", "/recovery_bytes_per_second", "bywash_recovery_bytes_per_second"),
    ("publisher", "/recovery_seconds", "bywash_recovery_seconds"),
    ("publisher", "/in_flight_records", "bywash_in_flight_records"),
    ("publisher", "/delivered_records", "bywash_delivered_records_total"),
    ("publisher", "/delivered_bytes", "bywash_delivered_bytes_total"),
    ("publisher", "/failed_messages", "bywash_failed_messages_total"),
    ("publisher", "/dead_letters", "bywash_dead_letters_total"),
    ("publisher", "/redelivered_dead_letters", "bywash_dead_letters_redelivered_total"),
    ("publisher", "/dead_lettered_records", "bywash_dead_lettered_records_total"),
    ("publisher", "/undeliverable_records", "bywash_undeliverable_records_total"),
    ("publisher", "/passed_over_records", "bywash_passed_over_records_total"),
    ("publisher", "/discarded_records", "bywash_discarded_records_total"),
    ("publisher", "/spool_bytes", "bywash_spool_bytes"),
    ("publisher", "/spool_records", "bywash_spool_records"),
    ("publisher", "/spool_errors", "bywash_spool_errors_total"),
    ("publisher", "/spool_lost", "bywash_spool_lost_records_total"),
    ("publisher", "/corrupt_skips", "bywash_corrupt_skips_total"),
    ("publisher", "/withheld/events", "bywash_withheld_writes_total"),
    ("publisher", "/withheld/bytes", "bywash_withheld_bytes_total"),
    ("agent", "/ring/generation", "bywash_ring_generation"),
    ("agent", "/ring/capacity_bytes", "bywash_ring_capacity_bytes"),
    ("agent", "/ring/used_bytes", "bywash_ring_used_bytes"),
    ("agent", "/generation", "bywash_agent_generation"),
    ("agent", "/unlisted", "bywash_unlisted"),
    ("agent", "/captured/events", "bywash_captured_writes_total"),
    ("agent", "/captured/bytes", "bywash_captured_bytes_total"),
    ("agent", "/captured/unattributed_events", "bywash_unattributed_writes_total"),
    ("agent", "/captured/uncaptured_mapper_opens", "bywash_uncaptured_mapper_opens_total"),
    ("agent", "/excluded/events", "bywash_excluded_writes_total"),
    ("agent", "/excluded/bytes", "bywash_excluded_bytes_total"),
    ("agent", "/withheld/events", "bywash_withheld_writes_total"),
    ("agent", "/withheld/bytes", "bywash_withheld_bytes_total"),
    ("fifo", "/captured/events", "bywash_fifo_lines_total"),
    ("fifo", "/captured/bytes", "bywash_fifo_bytes_total"),
    ("fifo", "/lost/events", "bywash_fifo_lost_lines_total"),
    ("fifo", "/lost/bytes", "bywash_fifo_lost_bytes_total"),
];
/// Keys that have no metric: what identifies a process or ring, what is computed from others by whoever scrapes, what has a metric of
/// its own kind, and the reasons of losses, which are checked one by one.
const NOT_SHOWN: [&str; 20] = [
    "running",
    "waiting",
    "warning",
    "seconds_ago",
    "text",
    "pid",
    "uptime_seconds",
    "ring",
    "records_per_second",
    "bytes_per_second",
    "seconds_since_last_delivery",
    "lost",
    "started_ns",
    "listening",
    "handover",
    "name",
    "uuid",
    "publisher_running",
    "kind",
    "path",
];

/// The dotted places of all that is not an object.
fn leaves(value: &Value, at: &str, into: &mut Vec<String>) {
    let Some(object) = value.as_object() else { return into.push(at.to_owned()) };
    for (key, value) in object {
        if !(NOT_SHOWN.contains(&key.as_str()) && (!value.is_object() || key == "lost")) {
            leaves(value, &format!("{at}/{key}"), into);
        }
    }
}

/// Metrics, and the status of both services and of a FIFO, that show the same.
struct Agreed {
    scrape: Scrape,
    publisher: Value,
    agent: Value,
    fifo: Value,
}

/// Waits until so many records are delivered, and no other is there. Each looks at its own moment: they have to agree once nothing moves any more.
#[track_caller]
fn agreed(bywash: &Bywash, address: SocketAddr, delivered: u64) -> Agreed {
    wait::until("metrics and status to agree", TIMEOUT, || {
        let scrape = Scrape::of(address);
        let (publisher, agent) = (bywash.publisher_status(), bywash.agent_status());
        let mut listening = agent["listening"].as_array().unwrap().iter();
        let fifo = listening.find(|listening| listening["kind"] == "fifo").unwrap().clone();
        for (who, place, metric) in SHOWN {
            let status = match *who {
                "publisher" => &publisher,
                "agent" => &agent,
                _ => &fifo,
            };
            let shown = status.pointer(place).and_then(Value::as_f64);
            let served = scrape.get(metric, &[]);
            if shown != served {
                return Err(format!("{metric} is {served:?}, {who}'s {place} {shown:?}"));
            }
        }
        // What a quota withholds is announced by a record that comes later.
        if publisher["delivered_records"] == delivered && publisher["lag_bytes"] == 0 {
            return Ok(Agreed { scrape, publisher, agent, fifo });
        }
        Err(publisher.to_string())
    })
}

#[test]
fn every_count_is_what_was_written_and_what_status_shows() {
    let broker = Broker::start();
    let directory = "exclude = [\"*.gz\"]\nquota = { bytes_per_second = 1, burst_bytes = 100000 }\n";
    let mut bywash = configured(&broker.address(), &Settings { directory, ..Settings::default() });
    let fifo = bywash.add_fifo("a \"quoted\\\" pipe", "on_full = \"wait\"");
    bywash.start_agent();
    bywash.start_publisher();
    let address = address(&mut bywash);
    (0..50).for_each(|i| append(&bywash.file("f"), format!("write number {i:03}\n").as_bytes()));
    (0..3).for_each(|_| append(&bywash.file("f.gz"), b"excluded"));
    append(&bywash.file("large"), &vec![b'x'; 200_000]);
    append(&bywash.file("large"), b"above the quota");
    fs::write(&fifo, "one\ntwo\nthree\nfour\n").unwrap();

    let Agreed { scrape, publisher, agent, fifo: in_status } = agreed(&bywash, address, 55);
    let ring = [("ring", bywash.ring.as_str())];
    for (name, value) in [
        ("bywash_captured_writes_total", 55),
        ("bywash_captured_bytes_total", 50 * 17 + 200_000 + 15),
        ("bywash_delivered_records_total", 55),
        ("bywash_delivered_bytes_total", 50 * 17 + 200_000 + 15),
        ("bywash_excluded_writes_total", 3),
        ("bywash_excluded_bytes_total", 24),
        ("bywash_withheld_writes_total", 1),
        ("bywash_withheld_bytes_total", 15),
        ("bywash_publisher_up", 1),
        ("bywash_agent_up", 1),
        ("bywash_lag_records", 0),
        ("bywash_lag_bytes", 0),
        ("bywash_lag_seconds", 0),
    ] {
        assert_eq!(scrape.value(name, &ring), f64::from(value), "{name}");
    }
    let path = ("path", fifo.to_str().unwrap());
    for (name, value) in
        [("lines_total", 4.0), ("bytes_total", 15.0), ("lost_lines_total", 0.0), ("missing", 0.0)]
    {
        assert_eq!(scrape.value(&format!("bywash_fifo_{name}"), &[ring[0], path]), value, "{name}");
    }
    assert_eq!(scrape.value("bywash_listening", &[("kind", "fifo"), path]), 1.0);
    let watched = bywash.directory().to_str().unwrap();
    assert_eq!(scrape.value("bywash_listening", &[("kind", "directory"), ("path", watched)]), 1.0);
    assert_eq!(scrape.value("bywash_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    for name in
        ["bywash_publisher_uptime_seconds", "bywash_agent_uptime_seconds", "bywash_last_delivery_age_seconds"]
    {
        assert!((0.0..3600.0).contains(&scrape.value(name, &ring)), "{name}");
    }

    // Nothing is in a status and forgotten in the metrics.
    for (who, status) in [("publisher", &publisher), ("agent", &agent), ("fifo", &in_status)] {
        let mut places = Vec::new();
        leaves(status, "", &mut places);
        for place in places.iter().filter(|place| *place != "/missing") {
            assert!(SHOWN.iter().any(|(w, p, _)| *w == who && p == place), "{who}'s {place} has no metric");
        }
    }
}

#[test]
fn what_was_lost_is_counted_by_reason_as_status_does() {
    let broker = Broker::start();
    let mut bywash = configured(&broker.address(), &Settings { ring_size: "64KiB", ..Settings::default() });
    bywash.start_agent();
    // Nobody makes room.
    let load = Load { id: 1, files: vec![bywash.file("f")], count: 2_000, bytes: 100, rate: 0 };
    load.start(bywash.root()).finish(TIMEOUT).assert_complete(&load);
    bywash.start_publisher();
    let scrape = Scrape::of(address(&mut bywash));
    let status = bywash.agent_status();
    let lost = status["lost"].as_object().unwrap();
    for (reason, counts) in lost {
        for (metric, unit) in [("bywash_lost_writes_total", "events"), ("bywash_lost_bytes_total", "bytes")] {
            assert_eq!(Some(scrape.value(metric, &[("reason", reason)])), counts[unit].as_f64(), "{reason}");
        }
    }
    // Those that the publisher gives up are beside.
    assert_eq!(lost.len() + 1, scrape.families["bywash_lost_writes_total"].samples.len());
    let full = scrape.value("bywash_lost_writes_total", &[("reason", "ring_full")]);
    assert_eq!(full + scrape.value("bywash_captured_writes_total", &[]), 2_000.0);
    assert!(full > 0.0);
}

/// The table of docs/metrics.md: name, type, labels.
fn documented() -> BTreeSet<(String, String, String)> {
    let document = include_str!("../../../docs/metrics.md");
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        cells
            .get(1)
            .is_some_and(|name| name.starts_with("bywash_"))
            .then(|| (cells[1].clone(), cells[2].clone(), cells[3].clone()))
    };
    document.lines().filter_map(row).collect()
}

#[test]
fn what_is_served_is_what_the_documents_say() {
    let broker = Broker::start();
    let mut bywash = configured(&broker.address(), &Settings::default());
    bywash.add_fifo("pipe", "");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x");
    bywash.drain(TIMEOUT);
    let scrape = Scrape::of(address(&mut bywash));
    let served = scrape.families.iter().flat_map(|(name, family)| {
        assert!(!family.samples.is_empty() || name == "bywash_handover_age_seconds", "{name} has no sample");
        family.samples.iter().map(move |(labels, _)| {
            // Those that all histograms have.
            let named = labels.keys().map(String::as_str).filter(|label| !["le", "sample"].contains(label));
            let labels: BTreeSet<&str> = named.collect();
            (name.clone(), family.kind.clone(), labels)
        })
    });
    let served: BTreeSet<_> = served.collect();
    let documented: BTreeSet<_> = documented();
    let documented: BTreeSet<_> =
        documented.into_iter().filter(|(name, ..)| name != "bywash_handover_age_seconds").collect();
    let documented = documented
        .iter()
        .map(|(name, kind, labels)| (name.clone(), kind.clone(), labels.split(", ").collect()));
    assert_eq!(served, documented.collect());
    let reasons = &scrape.families["bywash_lost_writes_total"];
    let reasons: Vec<&str> = reasons.samples.iter().map(|(labels, _)| labels["reason"].as_str()).collect();
    assert_eq!(
        format!("Writes that were lost, by reason: {}.", reasons.join(", ")),
        scrape.families["bywash_lost_writes_total"].help
    );
}

/// How often the thread that serves metrics has gone to sleep.
fn sleeps_of_metrics_thread(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    let status =
        status.into_iter().find(|s| s.starts_with("Name:\tmetrics\n")).expect("a thread named metrics");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn with_a_broker_that_stands_still_the_lag_rises_and_no_write_waits_and_it_falls_afterwards() {
    const WRITES: u64 = 2_000;
    let broker = Broker::start();
    let (mut bywash, address) = start(&broker, &Settings::default());
    append(&bywash.file("f"), b"before");
    bywash.drain(TIMEOUT);
    let delivered = Scrape::of(address).value("bywash_delivered_records_total", &[]);
    broker.stop();
    let pid = bywash.publisher().pid().as_raw();
    let sleeps = sleeps_of_metrics_thread(pid);
    let load = Load { id: 1, files: vec![bywash.file("g")], count: WRITES, bytes: 100, rate: 0 };
    load.start(bywash.root()).finish(TIMEOUT).assert_complete(&load);
    let lag = |key: &str| Scrape::of(address).value(key, &[]);
    // The last scrape's connection may still have been on its way out.
    assert!(sleeps_of_metrics_thread(pid) - sleeps <= 3, "it wakes though nobody asks");
    wait::until("the lag", TIMEOUT, || {
        let scrape = Scrape::of(address);
        let seen =
            ["records", "bytes", "seconds"].map(|unit| scrape.value(&format!("bywash_lag_{unit}"), &[]));
        let in_flight = scrape.value("bywash_in_flight_records", &[]);
        let is_behind =
            seen[0] == WRITES as f64 && seen[1] > WRITES as f64 * 100.0 && seen[2] > 0.0 && in_flight > 0.0;
        if is_behind { Ok(()) } else { Err(format!("{seen:?}, {in_flight} in flight")) }
    });
    let before = lag("bywash_lag_seconds");
    assert!(lag("bywash_lag_seconds") > before, "the oldest record gets older");
    // Writing goes on, and so does being asked.
    append(&bywash.file("f"), b"after");
    assert_eq!(lag("bywash_captured_writes_total"), WRITES as f64 + 2.0);
    broker.resume();
    wait::until("the lag to be gone", TIMEOUT, || {
        let scrape = Scrape::of(address);
        let (behind, done) =
            (scrape.value("bywash_lag_records", &[]), scrape.value("bywash_delivered_records_total", &[]));
        let is_done = behind == 0.0 && done == delivered + WRITES as f64 + 1.0;
        if is_done { Ok(()) } else { Err(format!("{behind} records behind, {done} delivered")) }
    });
}

/// Whether the other side has closed a connection, maybe after an answer.
#[track_caller]
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let closed = match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

/// Opens many connections that say nothing or half of it, and asks. Says whether the answers came while the newest of these
/// were still open, and the oldest closed to make room; and not because the time of all was up.
fn makes_room(address: SocketAddr) -> bool {
    let mut idle: Vec<_> = (0..3 * CONNECTIONS_MAX).map(|i| connect(address, ["", HALF][i % 2])).collect();
    (0..CONNECTIONS_MAX).for_each(|_| drop(Scrape::of(address)));
    let newest = idle.split_off(idle.len() - CONNECTIONS_MAX / 2);
    let closed = idle.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
    closed >= 2 * CONNECTIONS_MAX && !newest.into_iter().any(|mut stream| is_closed(&mut stream))
}

#[test]
fn who_connects_and_says_nothing_or_half_of_it_keeps_nobody_from_being_answered() {
    let broker = Broker::start();
    let (mut bywash, address) = start(&broker, &Settings::default());
    // A machine that stands still for as long as a connection may last would look the same once.
    assert!((0..3).any(|_| makes_room(address)), "idle connections are not closed in favour of others");
    append(&bywash.file("f"), b"delivered");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"delivered");
    // Nor does it keep the publisher from ending, in whatever state they are.
    let mut late = connect(address, HALF);
    assert_eq!(bywash.publisher().terminate(TIMEOUT).code(), Some(0));
    wait::until_true("the connection to be closed", TIMEOUT, || is_closed(&mut late));
}

#[test]
fn many_that_ask_at_once_are_all_answered() {
    let broker = Broker::start();
    let (_bywash, address) = start(&broker, &Settings::default());
    let asking: Vec<_> =
        (0..4 * CONNECTIONS_MAX).map(|_| std::thread::spawn(move || Scrape::of(address))).collect();
    for asked in asking {
        asked.join().expect("an answer");
    }
}

#[test]
fn other_paths_methods_and_requests_are_refused() {
    let broker = Broker::start();
    let (_bywash, address) = start(&broker, &Settings::default());
    let long = format!("GET /metrics HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(8 << 10));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: test\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: test\r\n\r\n", 404),
        ("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n", 405),
        ("DELETE /metrics HTTP/1.1\r\nHost: test\r\n\r\n", 405),
        ("SSH-2.0-client\r\n\r\n", 400),
        (&long, 431),
        ("GET /metrics?name=x HTTP/1.1\r\nHost: test\r\n\r\n", 200),
        ("GET /metrics HTTP/1.0\r\n\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n", 200),
        ("GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n", 200),
        ("POST /readyz HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n", 405),
    ] {
        let answer = ask(address, request);
        assert_eq!(answer.status(), status, "{request}: {answer:?}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("GET, HEAD"), "{answer:?}");
    }
    assert_eq!(Scrape::of(address).value("bywash_publisher_up", &[]), 1.0);
}

#[test]
fn a_port_that_is_taken_is_1_and_named_and_nothing_else_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bywash = Bywash::new("localhost:9", &Settings::default());
    bywash.edit("", &format!("\n[metrics]\nlisten = {address:?}\n"));
    let check = bywash.publisher_command(&["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let mut publisher = bywash::spawn("publisher", &bywash.config, bywash.root());
    assert_eq!(publisher.wait(TIMEOUT).code(), Some(1), "{}", publisher.log());
    for word in ["ERROR", &address, "in use", "metrics.listen", "free"] {
        assert!(publisher.log().contains(word), "`{word}` is not in: {}", publisher.log());
    }
    assert!(!publisher.log().contains("panicked") && bywash.segments().is_empty(), "{}", publisher.log());
}

#[test]
fn a_publisher_that_waits_for_its_ring_says_so() {
    let broker = Broker::start();
    let mut bywash = configured(&broker.address(), &Settings::default());
    bywash.publisher = Some(bywash::spawn("publisher", &bywash.config, bywash.root()));
    let address = address(&mut bywash);
    let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    let ready = get("/readyz");
    let why = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(ready.status() == 503 && why.contains(&bywash.ring), "{why}");
    assert_eq!(get("/healthz").status(), 200);
    let up = |who: &str| Scrape::of(address).value(&format!("bywash_{who}_up"), &[]);
    assert_eq!((up("publisher"), up("agent")), (0.0, 0.0));
    bywash.start_agent();
    wait::until_true("both to be up", TIMEOUT, || up("publisher") + up("agent") == 2.0);
    assert_eq!(get("/readyz").status(), 200);
    bywash.stop_agent();
    wait::until_true("the agent to be gone", TIMEOUT, || (up("publisher"), up("agent")) == (1.0, 0.0));
}

#[test]
fn another_address_is_named_as_taking_effect_at_the_next_start() {
    let broker = Broker::start();
    let (mut bywash, before) = start(&broker, &Settings::default());
    bywash.edit("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.2:0\"");
    let said = bywash.reload_publisher();
    assert!(said.contains("metrics.listen has changed") && said.contains("restarted"), "{said}");
    Scrape::of(before);
    bywash.edit("listen = \"127.0.0.2:0\"", "listen = \"localhost:9598\"");
    let said = bywash.reload_publisher();
    assert!(said.contains("refused") && said.contains("`localhost:9598`"), "{said}");
    Scrape::of(before);
    bywash.edit("listen = \"localhost:9598\"", "listen = \"127.0.0.2:0\"");
    bywash.publisher().terminate(TIMEOUT);
    let log = bywash.publisher().log().len();
    bywash.start_publisher();
    assert!(bywash.publisher().log()[log..].contains("http://127.0.0.2:"), "{}", bywash.publisher().log());
}
