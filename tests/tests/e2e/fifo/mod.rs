//! FIFOs: what comes through them is captured line by line, whatever writers and the agent do.
//!
//! Most of these read the ring themselves; what it becomes on the way to a broker is in `fifo_delivery`.

mod lifetime;
mod refusals;

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use bywash_tests::harness::{
    Bywash, Capture, Captured, Process, Settings, bywash,
    process::{must_run, run},
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

fn no_directory() -> Settings {
    Settings { directories: &[], ring_size: "16MiB", ..Settings::default() }
}

/// With a ring that a burst of lines fills.
fn small_ring() -> Settings {
    Settings { ring_size: "64KiB", ..no_directory() }
}

/// An agent that reads one FIFO, whose section has these keys, and the reading end of its ring.
fn reading(settings: &Settings, keys: &str) -> (Bywash, PathBuf, Capture) {
    let mut bywash = Bywash::new("localhost:9", settings);
    let fifo = bywash.add_fifo("app.pipe", keys);
    bywash.start_agent();
    let capture = Capture::attach(&bywash.ring);
    (bywash, fifo, capture)
}

#[track_caller]
fn open(fifo: &Path) -> File {
    File::options().write(true).open(fifo).expect("a FIFO to write to")
}

/// Writes all of it, and closes.
#[track_caller]
fn send(fifo: &Path, bytes: &[u8]) {
    open(fifo).write_all(bytes).expect("a FIFO that is read");
}

/// Takes events out of the ring until there are enough.
#[track_caller]
fn take(capture: &mut Capture, count: usize) -> Vec<Captured> {
    let mut taken = Vec::new();
    wait::until(&format!("{count} events from a FIFO"), TIMEOUT, || {
        taken.extend(capture.take());
        if taken.len() >= count { Ok(()) } else { Err(format!("{} so far", taken.len())) }
    });
    assert_eq!(taken.len(), count, "more than were sent: {taken:?}");
    taken
}

#[track_caller]
fn texts(captured: &[Captured]) -> Vec<String> {
    captured.iter().map(|c| String::from_utf8_lossy(&c.data).into_owned()).collect()
}

/// What status says of the only FIFO.
#[track_caller]
fn counts(bywash: &Bywash) -> (u64, u64, u64, u64) {
    let status = bywash.agent_status();
    let fifo = &status["listening"][0];
    let number = |a: &str, b: &str| fifo[a][b].as_u64().unwrap_or_else(|| panic!("no {a}.{b} in {status}"));
    (
        number("captured", "events"),
        number("captured", "bytes"),
        number("lost", "events"),
        number("lost", "bytes"),
    )
}

#[test]
fn each_line_is_an_event_with_its_place_in_the_stream() {
    let (bywash, fifo, mut capture) = reading(&no_directory(), "");
    send(&fifo, b"one\ntwo\r\n\n");
    send(&fifo, b"three\n");
    let captured = take(&mut capture, 4);
    assert_eq!(texts(&captured), ["one", "two", "", "three"]);
    assert_eq!(captured.iter().map(|c| c.offset).collect::<Vec<_>>(), [0, 4, 9, 10]);
    assert!(captured.iter().all(|c| c.path == fifo.as_os_str().as_encoded_bytes() && c.part == (0, 1)));
    assert_eq!(counts(&bywash), (4, 11, 0, 0));
    let status = bywash.fs_agent(&["status"]).stdout;
    let expected = format!("listening on {}\n    4 lines, 11 bytes; lost 0 lines, 0 bytes\n", fifo.display());
    assert!(status.starts_with(&expected), "{status}");
}

#[test]
fn whatever_bytes_a_line_has_arrive_as_they_are() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "");
    let all: Vec<u8> = (0..=255).filter(|b| *b != b'\n').collect();
    let mut stream = all.clone();
    stream.extend_from_slice(b"\n\0\n\xff\xfe\n");
    send(&fifo, &stream);
    let captured = take(&mut capture, 3);
    assert_eq!(captured.iter().map(|c| &c.data[..]).collect::<Vec<_>>(), [&all[..], b"\0", b"\xff\xfe"]);
}

#[test]
fn what_was_a_command_to_fifo2kinesis_is_a_line() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "");
    send(&fifo, b".stop\n.flush\nafter\n");
    assert_eq!(texts(&take(&mut capture, 3)), [".stop", ".flush", "after"]);
    assert!(bywash.agent().ended().is_none());
}

#[test]
fn empty_lines_are_skipped_where_that_is_wanted() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "empty_lines = 'skip'");
    send(&fifo, b"\n\none\n\r\ntwo\n\n");
    let captured = take(&mut capture, 2);
    assert_eq!(texts(&captured), ["one", "two"]);
    assert_eq!(captured[1].offset, 8);
}

#[test]
fn the_last_line_needs_no_end_once_its_writer_has_closed() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "line_idle = '1h'");
    let (mut one, mut two) = (open(&fifo), open(&fifo));
    one.write_all(b"begun by one").unwrap();
    drop(one);
    // Another writer has it open: the line may go on.
    two.write_all(b", ended by two\nunfinished").unwrap();
    assert_eq!(texts(&take(&mut capture, 1)), ["begun by one, ended by two"]);
    drop(two);
    assert_eq!(texts(&take(&mut capture, 1)), ["unfinished"]);
    must_run(Command::new("sh").arg("-c").arg("printf 'from a shell' > \"$0\"").arg(&fifo));
    assert_eq!(texts(&take(&mut capture, 1)), ["from a shell"]);
}

#[test]
fn a_line_without_an_end_waits_no_longer_than_it_may() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "line_idle = '200ms'");
    let mut writer = open(&fifo);
    writer.write_all(b"a prompt without an end: ").unwrap();
    assert_eq!(texts(&take(&mut capture, 1)), ["a prompt without an end: "]);
    writer.write_all(b"yes\n").unwrap();
    assert_eq!(texts(&take(&mut capture, 1)), ["yes"]);
}

#[test]
fn a_writer_that_is_killed_within_a_line_leaves_what_it_wrote() {
    let (bywash, fifo, mut capture) = reading(&no_directory(), "line_idle = '1h'");
    let script = format!("exec 3> '{}'; printf 'whole\\nhalf' >&3; kill -9 $$", fifo.display());
    let mut writer =
        Process::spawn("writer", Path::new("sh"), ["-c", &script], bywash.root(), Signal::SIGKILL);
    writer.wait(TIMEOUT);
    send(&fifo, b"the next\n");
    let mut captured = Vec::new();
    wait::until("the next line", TIMEOUT, || {
        captured.extend(texts(&capture.take()));
        if captured.last().is_some_and(|c| c.ends_with("the next")) { Ok(()) } else { Err(captured.concat()) }
    });
    // The next writer may come before the agent has seen that the killed one is gone: then its line goes on.
    assert!(
        captured == ["whole", "half", "the next"] || captured == ["whole", "halfthe next"],
        "{captured:?}"
    );
}

#[test]
fn a_line_over_the_limit_comes_in_parts_that_make_it_again() {
    const LIMIT: usize = 64 << 10;
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "line_bytes_max = '64KiB'");
    let long: Vec<u8> = (0..3 * LIMIT + 1000).map(|i| b'a' + (i % 26) as u8).collect();
    let mut writer = open(&fifo);
    writer.write_all(b"before\n").unwrap();
    // Its first parts leave while it is still being written.
    writer.write_all(&long[..2 * LIMIT]).unwrap();
    let mut captured = take(&mut capture, 2);
    writer.write_all(&long[2 * LIMIT..]).unwrap();
    writer.write_all(b"\nafter\n").unwrap();
    captured.extend(take(&mut capture, 4));
    let parts: Vec<_> = captured.iter().map(|c| (c.part, c.offset, c.data.len())).collect();
    let at = |i: usize| (7 + i * LIMIT) as u64;
    let expected = [
        ((0, 1), 0, 6),
        ((0, 0), at(0), LIMIT),
        ((1, 0), at(1), LIMIT),
        ((2, 0), at(2), LIMIT),
        ((3, 4), at(3), 1000),
        ((0, 1), at(3) + 1001, 5),
    ];
    assert_eq!(parts, expected);
    let joined: Vec<u8> = captured[1..5].iter().flat_map(|c| c.data.clone()).collect();
    assert!(joined == long, "the parts do not make the line");
}

#[test]
fn a_line_that_no_record_of_the_ring_can_hold_comes_in_parts_too() {
    let (_bywash, fifo, mut capture) = reading(&small_ring(), "on_full = 'wait'");
    let long = vec![b'x'; 300_000];
    let sent = long.clone();
    let writer = thread::spawn(move || send(&fifo, &[&sent[..], b"\n"].concat()));
    let mut captured = Vec::new();
    wait::until("the last part", TIMEOUT, || {
        captured.extend(capture.take());
        let is_last = |c: &Captured| c.part.1 > 0;
        if captured.last().is_some_and(is_last) { Ok(()) } else { Err(format!("{} parts", captured.len())) }
    });
    writer.join().unwrap();
    let numbers: Vec<u32> = captured.iter().map(|c| c.part.0).collect();
    assert_eq!(numbers, (0..captured.len() as u32).collect::<Vec<_>>());
    assert_eq!(captured.last().map(|c| c.part.1 as usize), Some(captured.len()));
    assert!(captured.iter().flat_map(|c| c.data.clone()).eq(long), "the parts do not make the line");
}

#[test]
fn chunks_are_what_was_there_at_once() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "framing = 'chunk'");
    send(&fifo, b"no line\nat all");
    let captured = take(&mut capture, 1);
    assert_eq!((texts(&captured), captured[0].part), (vec!["no line\nat all".to_owned()], (0, 1)));
    let large = vec![b'x'; 20_000];
    send(&fifo, &large);
    assert_eq!(take(&mut capture, 1)[0].data, large);
}

/// Lines of `length` bytes, each with the writer's number and its own.
fn line(writer: usize, i: usize, length: usize) -> String {
    let mut line = format!("writer {writer} line {i} ");
    while line.len() < length - 1 {
        line.push(char::from(b'a' + (writer % 26) as u8));
    }
    line + "\n"
}

#[test]
fn lines_of_a_hundred_writers_at_once_are_never_mixed() {
    const WRITERS: usize = 100;
    const LINES: usize = 50;
    // On both sides of what is read at once, and up to what the kernel writes as one (PIPE_BUF, pipe(7)).
    let length = |writer: usize| [40, 200, 1000, 4096][writer % 4];
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "on_full = 'wait'");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let fifo = fifo.clone();
            thread::spawn(move || {
                let mut file = open(&fifo);
                for i in 0..LINES {
                    crate::write_once(&mut file, line(writer, i, length(writer)).as_bytes());
                }
            })
        })
        .collect();
    let captured = take(&mut capture, WRITERS * LINES);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let mut next = vec![0; WRITERS];
    for c in &captured {
        let text = String::from_utf8_lossy(&c.data).into_owned();
        let writer: usize = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a writer's number");
        assert_eq!(text + "\n", line(writer, next[writer], length(writer)));
        next[writer] += 1;
    }
}
