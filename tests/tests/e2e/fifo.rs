//! FIFOs: what comes through them is captured line by line, whatever writers and the agent do.
//!
//! Most of these read the ring themselves; what it becomes on the way to a broker is in `fifo_delivery`.

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
    wait::{self, PATIENCE},
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
    wait::until(&format!("{count} events from a FIFO"), PATIENCE, || {
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
    writer.wait(PATIENCE);
    send(&fifo, b"the next\n");
    let mut captured = Vec::new();
    wait::until("the next line", PATIENCE, || {
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
    wait::until("the last part", PATIENCE, || {
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

#[test]
fn an_agent_whose_writers_have_gone_sleeps() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "");
    send(&fifo, b"one\n");
    take(&mut capture, 1);
    let stat = format!("/proc/{}/stat", bywash.agent().pid());
    // utime and stime, in ticks of 10 ms (proc_pid_stat(5)).
    let ticks = || -> u64 {
        let text = fs::read_to_string(&stat).unwrap();
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    thread::sleep(Duration::from_millis(1500));
    let used = ticks() - before;
    assert!(used < 30, "{used} ticks of 10 ms in 1.5 s");
}

#[test]
fn what_the_pipe_holds_when_the_agent_is_told_to_end_is_read_out() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "line_idle = '1h'");
    let mut writer = open(&fifo);
    // It stands still while the pipe fills, and learns of both at once.
    bywash.agent().stop();
    let text: String = (0..5_000).map(|i| format!("line {i} of those in the pipe\n")).collect();
    writer.write_all(text.as_bytes()).unwrap();
    writer.write_all(b"without an end").unwrap();
    bywash.agent().signal(Signal::SIGTERM);
    bywash.agent().signal(Signal::SIGCONT);
    assert_eq!(bywash.agent().wait(PATIENCE).code(), Some(0));
    let captured = take(&mut capture, 5_001);
    let expected: Vec<String> =
        text.lines().map(str::to_owned).chain(["without an end".to_owned()]).collect();
    assert_eq!(texts(&captured), expected);
}

#[test]
fn an_agent_ends_although_writers_never_pause() {
    let (mut bywash, fifo, _capture) = reading(&no_directory(), "");
    let script = format!("exec yes 'again and again' > '{}'", fifo.display());
    let mut writer = Process::spawn("yes", Path::new("sh"), ["-c", &script], bywash.root(), Signal::SIGKILL);
    wait::until("lines", PATIENCE, || {
        let (lines, ..) = counts(&bywash);
        if lines > 0 { Ok(()) } else { Err("none".to_owned()) }
    });
    bywash.stop_agent();
    writer.wait(PATIENCE);
}

#[test]
fn bytes_in_a_fifo_that_somebody_holds_open_outlast_the_agent() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "");
    // Reading and writing, so that it is never told that nobody reads.
    let mut holder = File::options().read(true).write(true).open(&fifo).unwrap();
    holder.write_all(b"before\n").unwrap();
    take(&mut capture, 1);
    bywash.stop_agent();
    holder.write_all(b"meanwhile\nand unfinished").unwrap();
    bywash.start_agent();
    holder.write_all(b", until now\n").unwrap();
    assert_eq!(texts(&take(&mut capture, 2)), ["meanwhile", "and unfinished, until now"]);
    bywash.agent().kill9();
    holder.write_all(b"after a kill\n").unwrap();
    bywash.start_agent();
    assert_eq!(texts(&take(&mut capture, 1)), ["after a kill"]);
}

#[test]
fn a_fifo_that_is_made_again_is_read_and_the_old_one_until_its_writers_are_gone() {
    let (bywash, fifo, mut capture) = reading(&no_directory(), "");
    let mut old = open(&fifo);
    old.write_all(b"old\n").unwrap();
    take(&mut capture, 1);
    fs::remove_file(&fifo).unwrap();
    let is_missing = |bywash: &Bywash| bywash.agent_status()["listening"][0]["missing"].as_bool();
    wait::until_true("the agent to miss it", PATIENCE, || is_missing(&bywash) == Some(true));
    assert!(bywash.fs_agent(&["status"]).stdout.contains("there is no FIFO at the moment"));
    old.write_all(b"old still\n").unwrap();
    assert_eq!(texts(&take(&mut capture, 1)), ["old still"]);
    must_run(Command::new("mkfifo").arg(&fifo));
    let new = fifo.clone();
    // Waits for a reader.
    let writer = thread::spawn(move || send(&new, b"new\n"));
    assert_eq!(texts(&take(&mut capture, 1)), ["new"]);
    writer.join().unwrap();
    assert_eq!(is_missing(&bywash), Some(false));
    old.write_all(b"old to the end").unwrap();
    drop(old);
    assert_eq!(texts(&take(&mut capture, 1)), ["old to the end"]);
}

#[test]
fn a_fifo_that_is_moved_away_and_back_is_read_all_the_while() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "");
    let is_missing = |bywash: &Bywash| bywash.agent_status()["listening"][0]["missing"].as_bool();
    let mut writer = open(&fifo);
    let away = fifo.with_extension("away");
    fs::rename(&fifo, &away).unwrap();
    wait::until_true("the agent to miss it", PATIENCE, || is_missing(&bywash) == Some(true));
    writer.write_all(b"meanwhile\n").unwrap();
    fs::rename(&away, &fifo).unwrap();
    wait::until_true("the agent to find it", PATIENCE, || is_missing(&bywash) == Some(false));
    drop(writer);
    send(&fifo, b"afterwards\n");
    assert_eq!(texts(&take(&mut capture, 2)), ["meanwhile", "afterwards"]);
    assert!(!bywash.agent().log().contains("another fs-agent"), "{}", bywash.agent().log());
}

#[test]
fn a_fifo_that_the_agent_makes_is_made_again() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "create = true");
    fs::remove_file(&fifo).unwrap();
    wait::until_true("another FIFO", PATIENCE, || fifo.exists());
    send(&fifo, b"again\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["again"]);
}

#[test]
fn something_else_in_its_place_is_left_alone_and_named() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "create = true");
    fs::write(fifo.with_extension("file"), b"content").unwrap();
    fs::rename(fifo.with_extension("file"), &fifo).unwrap();
    wait::until("the log to say so", PATIENCE, || {
        let log = bywash.agent().log();
        if log.contains("there is a regular file in its place") { Ok(()) } else { Err(log) }
    });
    assert_eq!(fs::read(&fifo).unwrap(), b"content");
    fs::remove_file(&fifo).unwrap();
    wait::until_true("another FIFO", PATIENCE, || fifo.exists());
    send(&fifo, b"again\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["again"]);
}

#[test]
fn a_full_ring_holds_up_no_writer_and_every_line_is_captured_or_counted() {
    const LINES: usize = 20_000;
    let (bywash, fifo, capture) = reading(&small_ring(), "on_full = 'drop'");
    drop(capture);
    let lines: Vec<String> = (0..LINES).map(|i| format!("line {i}\n")).collect();
    send(&fifo, lines.concat().as_bytes());
    wait::until("all lines to be accounted for", PATIENCE, || {
        let (captured, _, lost, _) = counts(&bywash);
        if captured + lost == LINES as u64 { Ok(()) } else { Err(format!("{captured} and {lost}")) }
    });
    let (captured, bytes, lost, lost_bytes) = counts(&bywash);
    assert!(captured > 0 && lost > 0);
    assert_eq!(bytes + lost_bytes, lines.iter().map(|line| line.len() as u64 - 1).sum::<u64>());
    let status = bywash.agent_status();
    assert_eq!(status["lost"]["ring_full"]["events"], lost);
    assert_eq!(status["captured"]["events"], captured);
}

#[test]
fn writers_who_may_wait_do_and_no_line_is_lost() {
    const LINES: usize = 20_000;
    let (bywash, fifo, mut capture) = reading(&small_ring(), "on_full = 'wait'\npipe_size = '4KiB'");
    let lines: Vec<String> = (0..LINES).map(|i| format!("line {i}\n")).collect();
    let text = lines.concat();
    let sending = fifo.clone();
    let writer = thread::spawn(move || send(&sending, text.as_bytes()));
    // Nobody drains the ring: it fills as far as those who may wait can fill it, and the pipe behind it.
    let last = wait_until_full(&bywash);
    assert!(!writer.is_finished(), "the writer waits");
    assert!(last <= 48 << 10, "a quarter of the ring is left for others: {last}");
    assert_eq!(texts(&take(&mut capture, LINES)), lines.iter().map(|l| l.trim_end()).collect::<Vec<_>>());
    writer.join().unwrap();
    assert_eq!(counts(&bywash).2, 0);
}

#[test]
fn an_agent_whose_writers_wait_ends_when_it_is_told_to_and_no_line_is_lost() {
    const LINES: usize = 3_000;
    let (mut bywash, fifo, mut capture) = reading(&small_ring(), "on_full = 'wait'\npipe_size = '4KiB'");
    let lines: Vec<String> =
        (0..LINES).map(|i| format!("line {i} of many that fill ring and pipe\n")).collect();
    // Reading and writing, so that the pipe outlasts the agent.
    let mut holder = File::options().read(true).write(true).open(&fifo).unwrap();
    let text = lines.concat();
    let writer = thread::spawn(move || holder.write_all(text.as_bytes()).map(|()| holder));
    wait_until_full(&bywash);
    bywash.stop_agent();
    assert!(!writer.is_finished(), "the writer waits");
    bywash.start_agent();
    assert_eq!(texts(&take(&mut capture, LINES)), lines.iter().map(|l| l.trim_end()).collect::<Vec<_>>());
    writer.join().unwrap().unwrap();
}

/// Waits until nothing more goes into the ring of lines whose writers wait; gives how many bytes are in it.
#[track_caller]
fn wait_until_full(bywash: &Bywash) -> u64 {
    let mut last = 0;
    wait::until("the ring to be full", PATIENCE, || {
        let used = bywash.agent_status()["ring"]["used_bytes"].as_u64().unwrap_or(0);
        thread::sleep(Duration::from_millis(100));
        if used > 0 && used == std::mem::replace(&mut last, used) { Ok(used) } else { Err(used.to_string()) }
    })
}

#[test]
fn fifos_come_go_and_change_with_a_reload_and_lose_nothing() {
    let (mut bywash, a, mut capture) = reading(&no_directory(), "line_idle = '1h'");
    let mut writer = open(&a);
    writer.write_all(b"one\ntwo, be").unwrap();
    take(&mut capture, 1);
    let b = bywash.add_fifo("b.pipe", "create = true");
    bywash.edit("line_idle = '1h'", "line_idle = '1h'\nempty_lines = 'skip'");
    let said = bywash.reload_agent();
    assert!(said.contains("in force") && said.contains(&format!("listening on {}", b.display())), "{said}");
    writer.write_all(b"gun before\n\nthree\n").unwrap();
    send(&b, b"in b\n");
    let mut captured = texts(&take(&mut capture, 3));
    captured.sort();
    assert_eq!(captured, ["in b", "three", "two, begun before"]);

    // What is in it when it goes is read out.
    writer.write_all(b"the last of a\nwithout an end").unwrap();
    let section = fs::read_to_string(&bywash.config).unwrap();
    let section = section.split("\n[[fifo]]").nth(1).map(|s| format!("\n[[fifo]]{s}")).unwrap();
    bywash.edit(&section, "");
    bywash.reload_agent();
    assert_eq!(texts(&take(&mut capture, 2)), ["the last of a", "without an end"]);
    wait::until("the agent to let go of it", PATIENCE, || match writer.write(b"x") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Err(format!("{other:?}")),
    });
    send(&b, b"b goes on\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["b goes on"]);
    let status = bywash.fs_agent(&["status"]).stdout;
    assert!(
        status.contains(&format!("{}\n", b.display())) && !status.contains(a.to_str().unwrap()),
        "{status}"
    );

    // One that cannot be read is refused, and nothing changes.
    bywash.edit("", "\n[[fifo]]\npath = \"/dev/null\"\n");
    let said = bywash.reload_agent();
    assert!(said.contains("refused") && said.contains("/dev/null"), "{said}");
    send(&b, b"b still\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["b still"]);
}

#[test]
fn a_fifo_that_cannot_be_read_is_refused_and_named() {
    let refused = |code: i32, setup: &dyn Fn(&Bywash) -> Vec<String>| {
        let bywash = Bywash::new("localhost:9", &no_directory());
        let words = setup(&bywash);
        for command in ["check", "run"] {
            let finished = bywash.fs_agent(&[command]);
            assert_eq!(finished.code, Some(code), "{command}: {finished:?}");
            for word in &words {
                assert!(finished.stderr.contains(word), "{command}: `{word}` is not in: {}", finished.stderr);
            }
        }
        assert!(bywash.segments().is_empty(), "nothing is left behind");
    };
    let section = |path: &Path| format!("\n[[fifo]]\npath = {path:?}\n");
    refused(78, &|bywash| {
        let path = bywash.root().join("file");
        fs::write(&path, "x").unwrap();
        bywash.edit("", &section(&path));
        vec![path.display().to_string(), "a regular file".to_owned()]
    });
    refused(78, &|bywash| {
        bywash.edit("", &section(bywash.root()));
        vec![bywash.root().display().to_string(), "a directory".to_owned()]
    });
    refused(78, &|bywash| {
        let path = bywash.root().join("missing");
        bywash.edit("", &section(&path));
        vec![path.display().to_string(), "does not exist".to_owned(), "mkfifo".to_owned()]
    });
    refused(78, &|bywash| {
        let path = bywash.add_fifo("twice", "");
        bywash.edit("", &section(&path));
        vec![bywash.config.display().to_string(), path.display().to_string(), "twice".to_owned()]
    });
    refused(78, &|_| vec!["--fifo".to_owned(), "--directory".to_owned()]);
}

#[test]
fn two_paths_to_one_fifo_are_refused() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.add_fifo("one", "");
    let link = bywash.root().join("two");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    bywash.edit("", &format!("\n[[fifo]]\npath = {link:?}\n"));
    let finished = bywash.fs_agent(&["run"]);
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!(finished.stderr.contains("one") && finished.stderr.contains("two"), "{}", finished.stderr);
}

#[test]
fn a_fifo_that_one_may_not_read_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can act as somebody else");
    }
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.add_fifo("closed", "create = true\nmode = '0600'");
    must_run(Command::new("mkfifo").args(["--mode", "0600"]).arg(&fifo));
    must_run(Command::new("chmod").arg("a+rX").arg(bywash.root()).arg(&bywash.config));
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    // The build is not everybody's.
    let program = bywash.root().join("fs-agent");
    fs::copy(bywash_tests::harness::program("fs-agent"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(nobody).arg(&program).args(["run", "--config"]).arg(&bywash.config);
    let finished = run(&mut command, PATIENCE);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(fifo.to_str().unwrap()), "{}", finished.stderr);
    assert!(finished.stderr.contains("Permission denied"), "{}", finished.stderr);
}

#[test]
fn two_agents_do_not_share_out_the_lines_of_one_fifo() {
    let (bywash, fifo, mut capture) = reading(&no_directory(), "");
    let other = Bywash::new("localhost:9", &no_directory());
    other.edit("", &format!("\n[[fifo]]\npath = {fifo:?}\n"));
    let mut second = bywash::spawn("fs-agent", &other.config, other.root());
    assert_eq!(second.wait(PATIENCE).code(), Some(1));
    let log = second.log();
    assert!(log.contains(fifo.to_str().unwrap()) && log.contains("another fs-agent"), "{log}");
    send(&fifo, b"still here\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["still here"]);
    drop(bywash);
}
