//! `framing = "multiline"`: stack traces become events, as docs/multiline.md says, whatever ends the publisher meanwhile.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{
    Broker, Bywash, Event, Settings, ledger,
    wait::{self, TIMEOUT},
};

use crate::{
    kill::{assert_dies, passes, spawn_to_die},
    write_once,
};

const DOCUMENT: &str = include_str!("../../../docs/multiline.md");

/// What the document says of a language: the keys of the example under its heading, which waits longer than the machine may
/// stand still.
fn documented(heading: &str) -> String {
    let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect(heading);
    let (_, example) = section.split_once("```toml\n").expect(heading);
    let (example, _) = example.split_once("```").expect(heading);
    let keys: String = example
        .lines()
        .skip_while(|line| !line.starts_with("framing"))
        .map(|line| format!("{line}\n"))
        .collect();
    keys.replace(" }", ", timeout = \"60s\" }")
}

/// Both services, with what the document says of a language for the only directory.
fn configured(broker: &Broker, heading: &str) -> Bywash {
    let bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.edit("\n[publisher]", &format!("{}\n[publisher]", documented(heading)));
    bywash
}

fn started(broker: &Broker, heading: &str) -> Bywash {
    let mut bywash = configured(broker, heading);
    bywash.start_agent();
    bywash.start_publisher();
    bywash
}

fn messages(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8_lossy(event.message()).into_owned()).collect()
}

const JAVA: [&str; 3] = [
    "2026-11-27 18:02:11,042 INFO  [main] o.e.App - started\n",
    "2026-11-27 18:02:12,107 ERROR [http-1] o.e.App - request failed\n\
     java.lang.IllegalStateException: no session\n\
     \tat org.example.App.handle(App.java:42)\n\
     \tat java.base/java.lang.Thread.run(Thread.java:1583)\n\
     Caused by: java.io.IOException: Connection reset by peer\n\
     \tat org.example.Client.read(Client.java:17)\n\
     \t... 1 more\n",
    "2026-11-27 18:02:13,000 INFO  [http-2] o.e.App - request\n",
];

#[test]
fn a_trace_of_java_that_is_written_in_pieces_is_one_event() {
    let broker = Broker::start();
    let bywash = started(&broker, "Java");
    let path = bywash.file("app.log");
    let text = bywash.root().join("java.txt");
    fs::write(&text, JAVA.concat()).unwrap();
    // A write for each 23 bytes.
    let (from, to) = (format!("if={}", text.display()), format!("of={}", path.display()));
    assert!(Command::new("dd").args(["bs=23", "status=none", &from, &to]).status().unwrap().success());
    assert_eq!(fs::read_to_string(&path).unwrap(), JAVA.concat());
    // The third one may have more lines.
    let events = broker.read("logs").events(2);
    assert_eq!(messages(&events), JAVA[..2]);
    assert_eq!(events.iter().map(Event::offset).collect::<Vec<_>>(), [0, JAVA[0].len() as u64]);
}

#[test]
fn a_trace_of_python_is_one_event() {
    let broker = Broker::start();
    let bywash = started(&broker, "Python");
    let path = bywash.file("app.log");
    // Buffered by lines: a write for each.
    let program = "import sys, traceback\n\
                   log = open(sys.argv[1], 'w', buffering=1)\n\
                   print('INFO started', file=log)\n\
                   def inner(): raise ValueError('no such key')\n\
                   try:\n    inner()\n\
                   except ValueError as error:\n    try: raise RuntimeError('failed') from error\n    except RuntimeError: traceback.print_exc(file=log)\n\
                   print('INFO going on', file=log)\n";
    assert!(Command::new("python3").args(["-c", program]).arg(&path).status().unwrap().success());
    let written = fs::read_to_string(&path).unwrap();
    let traces = written.strip_prefix("INFO started\n").unwrap().strip_suffix("INFO going on\n").unwrap();
    let second = traces.rfind("Traceback").unwrap();
    let events = broker.read("logs").events(3);
    assert_eq!(messages(&events), ["INFO started\n", &traces[..second], &traces[second..]]);
    assert!(traces[..second].contains("ValueError: no such key\n"), "{traces}");
    assert!(traces[second..].ends_with("RuntimeError: failed\n"), "{traces}");
}

#[test]
fn a_trace_that_is_half_written_when_the_publisher_is_killed_arrives_whole() {
    let broker = Broker::start();
    let mut bywash = started(&broker, "Go");
    let mut file = File::create(bywash.file("f")).unwrap();
    let wait_until_read = |bywash: &Bywash, records: u64| {
        wait::until("the records to be read", TIMEOUT, || {
            let status = bywash.publisher_status();
            if status["in_flight_records"] == records { Ok(()) } else { Err(status.to_string()) }
        });
    };
    write_once(&mut file, b"panic: oops\n\ngoroutine 1 [run");
    wait_until_read(&bywash, 1);
    bywash.publisher().kill9();
    write_once(&mut file, b"ning]:\nmain.main()\n");
    bywash.start_publisher();
    wait_until_read(&bywash, 2);
    // An orderly stop does not tear it either.
    bywash.publisher().terminate(TIMEOUT);
    write_once(&mut file, b"\t/app/main.go:5 +0x1d\n2026/11/27 next\n");
    bywash.start_publisher();
    let trace = "panic: oops\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:5 +0x1d\n";
    let events = broker.read("logs").events(1);
    assert_eq!(messages(&events), [trace]);
    assert!(events[0].id().ends_with(&format!("-0.0+{}", trace.len())), "{}", events[0].id());
}

/// What came twice counts once: each byte of the file is in one event, and the events are those that were written.
#[track_caller]
fn assert_events(events: &[Event], path: &Path, expected: &[String]) {
    let (mut events, _) =
        ledger::distinct(events.iter().filter(|e| e.path() == path.to_str().unwrap()).cloned().collect());
    events.sort_by_key(Event::offset);
    assert_eq!(messages(&events), expected);
}

/// Kills the publisher at `point` while two files are written in pieces, and starts it again.
#[track_caller]
fn assert_events_survive(point: FailPoint) {
    let broker = Broker::start();
    let mut bywash = configured(&broker, "JSON over several lines");
    bywash.start_agent();
    bywash.publisher = Some(spawn_to_die("publisher", &bywash, point, passes(point, 60)));
    let paths = [bywash.file("a"), bywash.file("b")];
    let objects: Vec<String> =
        (0..200).map(|i| format!("{{\n  \"number\": {i},\n  \"of\": {{}}\n}}\n")).collect();
    let content = objects.concat();
    let mut files = paths.each_ref().map(|path| File::create(path).unwrap());
    for (i, piece) in content.as_bytes().chunks(19).enumerate() {
        write_once(&mut files[i % 2], piece);
        write_once(&mut files[1 - i % 2], piece);
    }
    // What ends the last one.
    files.iter_mut().for_each(|file| write_once(file, b"{\n"));
    assert_dies(bywash.publisher(), point);
    bywash.start_publisher();
    let bytes = content.len() as u64;
    let events = broker.read("logs").events_of(&paths.each_ref().map(|path| (path.as_path(), bytes)));
    for path in &paths {
        assert_events(&events, path, &objects);
    }
}

#[test]
fn a_kill_before_anything_is_confirmed_tears_no_event_of_several_lines() {
    assert_events_survive(FailPoint::EventSent);
}

#[test]
fn a_kill_with_the_head_amid_an_event_of_several_lines_sends_no_part_of_it_twice() {
    assert_events_survive(FailPoint::HeadMoved);
}
