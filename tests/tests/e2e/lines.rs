//! `framing = "line"`: writes become lines, whatever ends the publisher meanwhile.

use std::{fs::File, path::Path};

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{
    Broker, Bywash, Event, Load, Settings, ledger,
    wait::{self, TIMEOUT},
    workload::noise,
};

use crate::{
    kill::{assert_dies, passes, spawn_to_die},
    write_once,
};

/// Both services, the only directory with lines; `keys` are more keys of it.
fn configured(broker: &Broker, keys: &str) -> Bywash {
    let bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.edit("\n[publisher]", &format!("framing = \"line\"\n{keys}\n[publisher]"));
    bywash
}

fn started(broker: &Broker, keys: &str) -> Bywash {
    let mut bywash = configured(broker, keys);
    bywash.start_agent();
    bywash.start_publisher();
    bywash
}

/// Waits until the publisher has read all that is in the ring, though it may not send it.
fn wait_until_read(bywash: &Bywash, records: u64) {
    wait::until("the records to be read", TIMEOUT, || {
        let status = bywash.publisher_status();
        if status["in_flight_records"] == records { Ok(()) } else { Err(status.to_string()) }
    });
}

fn messages(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8_lossy(event.message()).into_owned()).collect()
}

/// What came twice counts once: each byte of the file is in one event, and each event is a line.
#[track_caller]
fn assert_lines(events: &[Event], path: &Path) {
    let (mut events, _) =
        ledger::distinct(events.iter().filter(|e| e.path() == path.to_str().unwrap()).cloned().collect());
    events.sort_by_key(Event::offset);
    ledger::assert_contiguous(&events.iter().collect::<Vec<_>>());
    ledger::assert_same_bytes("the file", &std::fs::read(path).unwrap(), &ledger::replay(&events));
    for event in &events {
        let end = event.message().iter().position(|byte| *byte == b'\n');
        assert_eq!(end, Some(event.message().len() - 1), "not a line: {event:?}");
    }
}

#[test]
fn the_writes_of_one_open_file_become_lines_with_offsets_and_stable_names() {
    let broker = Broker::start();
    let bywash = started(&broker, "line_wait = \"2s\"\n");
    let mut file = File::create(bywash.file("f")).unwrap();
    for piece in ["he", "llo\nwor", "ld\nlast"] {
        write_once(&mut file, piece.as_bytes());
    }
    // It ends without a newline: sent once nothing can join it any more.
    drop(file);
    let events = broker.read("logs").events(3);
    assert_eq!(messages(&events), ["hello\n", "world\n", "last"]);
    assert_eq!(events.iter().map(Event::offset).collect::<Vec<_>>(), [0, 6, 12]);
    assert_eq!(events.iter().map(|e| e.number("sequence")).collect::<Vec<_>>(), [0, 1, 2]);
    let names: Vec<_> = events.iter().map(|event| event.id().rsplit('-').next().unwrap()).collect();
    assert_eq!(names, ["0.0+6", "1.4+6", "2.3+4"]);
    bywash.drain(TIMEOUT);
}

#[test]
fn what_does_not_follow_what_is_pending_begins_a_line_of_its_own() {
    let broker = Broker::start();
    let bywash = started(&broker, "line_wait = \"60s\"\n");
    let path = bywash.file("f");
    let mut file = File::create(&path).unwrap();
    let mut other = File::options().append(true).open(&path).unwrap();
    write_once(&mut file, b"part");
    // Another open of the same file, and then behind that with the first one.
    write_once(&mut other, b"whole\n");
    std::os::unix::fs::FileExt::write_all_at(&file, b"behind\n", 10).unwrap();
    let events = broker.read("logs").events(3);
    assert_eq!(messages(&events), ["whole\n", "part", "behind\n"]);
    assert_eq!(events.iter().map(Event::offset).collect::<Vec<_>>(), [4, 0, 10]);
}

#[test]
fn bytes_stay_whole_and_a_line_without_end_is_cut_at_its_limit() {
    let broker = Broker::start();
    let bywash = started(&broker, "line_bytes_max = \"1KiB\"\nline_wait = \"200ms\"\n");
    let path = bywash.file("f");
    let content = noise(5, 100_000);
    let mut file = File::create(&path).unwrap();
    for piece in content.chunks(777) {
        write_once(&mut file, piece);
    }
    let events = broker.read("logs").events_of(&[(&path, content.len() as u64)]);
    ledger::assert_contiguous(&events.iter().collect::<Vec<_>>());
    ledger::assert_same_bytes("the file", &content, &ledger::replay(&events));
    assert!(events.iter().all(|event| event.message().len() <= 1024));
    assert!(events.len() > 100_000 / 1024);
}

#[test]
fn a_line_that_is_half_written_when_the_publisher_is_killed_arrives_whole() {
    let broker = Broker::start();
    let mut bywash = started(&broker, "line_wait = \"60s\"\n");
    let mut file = File::create(bywash.file("f")).unwrap();
    write_once(&mut file, b"begun");
    wait_until_read(&bywash, 1);
    bywash.publisher().kill9();
    write_once(&mut file, b", and");
    bywash.start_publisher();
    wait_until_read(&bywash, 2);
    // An orderly stop does not tear it either.
    bywash.publisher().terminate(TIMEOUT);
    write_once(&mut file, b" ended\n");
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    assert_eq!(messages(&broker.read("logs").events(1)), ["begun, and ended\n"]);
}

/// Two open files whose lines are written in pieces, in turn.
fn write_in_pieces(bywash: &Bywash, lines: usize) -> [std::path::PathBuf; 2] {
    let paths = [bywash.file("a"), bywash.file("b")];
    let mut files = paths.each_ref().map(|path| File::create(path).unwrap());
    let content: Vec<u8> = (0..lines).flat_map(|i| format!("line {i:05}\n").into_bytes()).collect();
    for (i, piece) in content.chunks(7).enumerate() {
        write_once(&mut files[0], piece);
        // The other one's pieces begin elsewhere in a line.
        let end = (i * 7 + 3).min(content.len());
        let begin = if i == 0 { 0 } else { (i * 7 - 4).min(content.len()) };
        if begin < end {
            write_once(&mut files[1], &content[begin..end]);
        }
    }
    write_once(&mut files[1], b"the end\n");
    paths
}

/// Kills the publisher at `point` while lines are written in pieces, and starts it again.
#[track_caller]
fn assert_lines_survive(point: FailPoint) {
    const LINES: usize = 600;
    let broker = Broker::start();
    let mut bywash = configured(&broker, "line_wait = \"30s\"\n");
    bywash.start_agent();
    bywash.publisher = Some(spawn_to_die("publisher", &bywash, point, passes(point, 200)));
    let paths = write_in_pieces(&bywash, LINES);
    assert_dies(bywash.publisher(), point);
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let sizes = paths.each_ref().map(|path| (path.as_path(), path.metadata().unwrap().len()));
    let events = broker.read("logs").events_of(&sizes);
    for path in &paths {
        assert_lines(&events, path);
    }
}

#[test]
fn a_kill_before_anything_is_confirmed_tears_no_line() {
    assert_lines_survive(FailPoint::EventSent);
}

#[test]
fn a_kill_with_the_head_amid_a_line_sends_no_part_of_it_twice() {
    assert_lines_survive(FailPoint::HeadMoved);
}

#[test]
fn a_kill_just_before_the_head_moves_amid_a_line_tears_no_line() {
    assert_lines_survive(FailPoint::DeliveryReported);
}

#[test]
fn a_file_that_never_ends_its_line_does_not_fill_the_ring() {
    let broker = Broker::start();
    let mut bywash = configured(&broker, "line_wait = \"60s\"\n");
    bywash.edit("size = \"64MiB\"", "size = \"8MiB\"");
    bywash.start_agent();
    bywash.start_publisher();
    let mut silent = File::create(bywash.file("silent")).unwrap();
    write_once(&mut silent, b"no end");
    // More than the ring holds, and not faster than it is drained.
    let load = Load { id: 1, files: vec![bywash.file("busy")], count: 10_000, bytes: 1_000, rate: 4_000 };
    load.start(bywash.root()).finish(TIMEOUT).assert_complete(&load);
    let events = broker.read("logs").events(10_001);
    assert!(messages(&events).contains(&"no end".to_owned()));
    assert!(events.iter().all(|event| event.lost().is_none()), "writes were lost");
}
