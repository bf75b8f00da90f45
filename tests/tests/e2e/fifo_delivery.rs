//! FIFOs from their writers to the broker, or to standard output as in fifo2kinesis's quick start.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use bywash_tests::harness::{
    Broker, Bywash, Event, Process, Settings, ledger, program,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};

fn no_directory() -> Settings {
    Settings { directories: &[], ..Settings::default() }
}

#[track_caller]
fn send(fifo: &Path, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(fifo)
        .and_then(|mut file| file.write_all(bytes))
        .expect("a FIFO that is read");
}

#[test]
fn a_line_from_a_fifo_is_an_event_that_names_no_writer() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &no_directory());
    let (a, b) = (
        bywash.add_fifo("a.pipe", ""),
        bywash.add_fifo("b.pipe", "topic = 'lines-of-b'\nline_bytes_max = 4"),
    );
    bywash.start_agent();
    bywash.start_publisher();
    send(&a, b"one\ntwo\xff\n");
    send(&b, b"abcdefghij\n");
    let events = broker.read("logs").events(2);
    let keys: Vec<&str> = events[0].json.keys().map(String::as_str).collect();
    let expected =
        ["path", "@message", "@timestamp", "@version", "@fields", "@tags", "offset", "event_id", "sequence"];
    assert_eq!(keys, expected, "a FIFO does not say who wrote");
    let seen: Vec<_> = events.iter().map(|event| (event.message(), event.offset())).collect();
    assert_eq!(seen, [(&b"one"[..], 0), (b"two\xff", 4)]);
    for event in &events {
        assert_eq!(event.path(), a.to_str().unwrap());
        assert_eq!(event.key.as_deref(), Some(a.as_os_str().as_encoded_bytes()));
    }
    // The parts of a long line: how many there are is known with the last.
    let parts = broker.read("lines-of-b").events(3);
    let seen: Vec<_> = parts
        .iter()
        .map(|e| (e.message(), e.number("part"), e.json.get("parts").and_then(|n| n.as_u64())))
        .collect();
    assert_eq!(seen, [(&b"abcd"[..], 0, None), (b"efgh", 1, None), (b"ij", 2, Some(3))]);
}

#[test]
fn lines_that_the_ring_had_no_room_for_are_announced() {
    const LINES: u64 = 5_000;
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings { ring_size: "64KiB", ..no_directory() });
    let fifo = bywash.add_fifo("a.pipe", "on_full = 'drop'");
    bywash.start_agent();
    let text: String = (0..LINES).map(|i| format!("line {i}\n")).collect();
    send(&fifo, text.as_bytes());
    wait::until("all lines to be accounted for", TIMEOUT, || {
        let status = bywash.agent_status();
        let fifo = &status["listening"][0];
        let number = |what: &str| fifo[what]["events"].as_u64().unwrap_or(0);
        if number("captured") + number("lost") == LINES { Ok(()) } else { Err(status.to_string()) }
    });
    bywash.start_publisher();
    let mut reader = broker.read("logs");
    let messages = reader.read_until("all lines, or the news of their loss", TIMEOUT, |messages| {
        let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
        let accounted = ledger::delivered(&events).0 + ledger::lost(&events).0;
        if accounted == LINES { Ok(()) } else { Err(format!("{accounted} of {LINES}")) }
    });
    let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
    assert!(ledger::lost(&events).0 > 0);
    assert_eq!(ledger::delivered(&events).1 + ledger::lost(&events).1, text.len() as u64 - LINES);
}

/// Starts both programs with the same arguments and variables, as a user of fifo2kinesis would: `variables` are NAME=VALUE.
fn start_both(bywash: &Bywash, variables: &[&str], arguments: &[&str]) -> (Process, Process) {
    let start = |name: &str| {
        let program = program(name);
        let ring = format!("BYWASH_RING={}", bywash.ring);
        let mut words = vec![ring.as_str()];
        words.extend(variables);
        words.extend([program.to_str().unwrap(), "run"]);
        words.extend(arguments);
        Process::spawn(name, Path::new("env"), words, bywash.root(), Signal::SIGTERM)
    };
    let agent = start("fs-agent");
    wait::until_true("the ring", TIMEOUT, || !bywash.segments().is_empty());
    (agent, start("publisher"))
}

#[track_caller]
fn assert_prints(publisher: &Process, expected: &str) {
    wait::until("the lines on standard output", TIMEOUT, || {
        let printed = publisher.stdout();
        if printed == expected { Ok(()) } else { Err(format!("{printed:?}")) }
    });
}

#[test]
fn the_quick_start_of_fifo2kinesis_works_as_typed() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.root().join("kinesis.pipe");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let name = format!("--fifo-name={}", fifo.display());
    let arguments = [&name, "--buffer-queue-limit=1", "--flush-interval=0", "--flush-handler=logger"];
    let (mut agent, mut publisher) = start_both(&bywash, &[], &arguments);
    send(&fifo, b"Streamed at noon\n");
    assert_prints(&publisher, "Streamed at noon\n");
    send(&fifo, b".flush\n.stop\n");
    assert_prints(&publisher, "Streamed at noon\n.flush\n.stop\n");
    // The way to stop: a signal.
    assert_eq!(agent.terminate(TIMEOUT).code(), Some(0));
    assert_eq!(publisher.terminate(TIMEOUT).code(), Some(0));
}

#[test]
fn the_variables_of_fifo2kinesis_configure_both_programs() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.root().join("kinesis.pipe");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let name = format!("FIFO2KINESIS_FIFO_NAME={}", fifo.display());
    let variables = [
        &name,
        "FIFO2KINESIS_FLUSH_HANDLER=kinesis",
        "FIFO2KINESIS_STREAM_NAME=my-stream",
        "FIFO2KINESIS_FLUSH_INTERVAL=0",
        "FIFO2KINESIS_DEBUG=true",
        // Ours goes before theirs, and a flag before both.
        "BYWASH_FLUSH_HANDLER=logger",
        "BYWASH_ENCODER=logstash",
    ];
    let (_agent, publisher) = start_both(&bywash, &variables, &["--encoder", "text"]);
    send(&fifo, b"by variables\n");
    wait::until("the line on standard output", TIMEOUT, || {
        let printed = publisher.stdout();
        let expected = format!(": {}: by variables\n", fifo.display());
        if printed.ends_with(&expected) { Ok(()) } else { Err(format!("{printed:?}")) }
    });
}

#[test]
fn what_fifo2kinesis_refused_is_refused() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.root().join("kinesis.pipe");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    fs::write(&bywash.config, "").unwrap();
    let refused = |arguments: &[&str], words: &[&str]| {
        let fifo = ["--fifo-name", fifo.to_str().unwrap()];
        let finished = bywash.publisher_command(&[&["run"], &fifo[..], arguments].concat());
        assert_eq!(finished.code, Some(78), "{arguments:?}: {finished:?}");
        for word in words {
            assert!(finished.stderr.contains(word), "`{word}` is not in: {}", finished.stderr);
        }
    };
    refused(&["--flush-handler", "fax"], &["--flush-handler", "fax", "logger"]);
    refused(&["--buffer-queue-limit", "0", "--flush-handler", "logger"], &["--buffer-queue-limit", "0"]);
    // No handler is named: it is Kinesis, which needs a stream.
    refused(&[], &["stream_name"]);
}
