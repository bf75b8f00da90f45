//! Agents and writers that come and go, FIFOs that are made again, rings that fill.

use super::*;

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
    assert_eq!(bywash.agent().wait(TIMEOUT).code(), Some(0));
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
    wait::until("lines", TIMEOUT, || {
        let (lines, ..) = counts(&bywash);
        if lines > 0 { Ok(()) } else { Err("none".to_owned()) }
    });
    bywash.stop_agent();
    writer.wait(TIMEOUT);
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
    wait::until_true("the agent to miss it", TIMEOUT, || is_missing(&bywash) == Some(true));
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
    wait::until_true("the agent to miss it", TIMEOUT, || is_missing(&bywash) == Some(true));
    writer.write_all(b"meanwhile\n").unwrap();
    fs::rename(&away, &fifo).unwrap();
    wait::until_true("the agent to find it", TIMEOUT, || is_missing(&bywash) == Some(false));
    drop(writer);
    send(&fifo, b"afterwards\n");
    assert_eq!(texts(&take(&mut capture, 2)), ["meanwhile", "afterwards"]);
    assert!(!bywash.agent().log().contains("another fs-agent"), "{}", bywash.agent().log());
}

#[test]
fn a_fifo_that_the_agent_makes_is_made_again() {
    let (_bywash, fifo, mut capture) = reading(&no_directory(), "create = true");
    fs::remove_file(&fifo).unwrap();
    wait::until_true("another FIFO", TIMEOUT, || fifo.exists());
    send(&fifo, b"again\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["again"]);
}

#[test]
fn something_else_in_its_place_is_left_alone_and_named() {
    let (mut bywash, fifo, mut capture) = reading(&no_directory(), "create = true");
    fs::write(fifo.with_extension("file"), b"content").unwrap();
    fs::rename(fifo.with_extension("file"), &fifo).unwrap();
    wait::until("the log to say so", TIMEOUT, || {
        let log = bywash.agent().log();
        if log.contains("there is a regular file in its place") { Ok(()) } else { Err(log) }
    });
    assert_eq!(fs::read(&fifo).unwrap(), b"content");
    fs::remove_file(&fifo).unwrap();
    wait::until_true("another FIFO", TIMEOUT, || fifo.exists());
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
    wait::until("all lines to be accounted for", TIMEOUT, || {
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

#[test]
fn a_line_whose_rest_lies_in_the_pipe_is_whole_however_long_the_ring_is_full() {
    const LINES: usize = 3_000;
    const LINE_IDLE: Duration = Duration::from_millis(200);
    let keys = "on_full = 'wait'\npipe_size = '4KiB'\nline_idle = '200ms'";
    let (bywash, fifo, mut capture) = reading(&small_ring(), keys);
    let lines: Vec<String> = (0..LINES).map(|i| format!("line {i} {}\n", "x".repeat(80))).collect();
    let text = lines.concat();
    let sending = fifo.clone();
    let writer = thread::spawn(move || send(&sending, text.as_bytes()));
    wait_until_full(&bywash);
    // The agent waits for the ring, and the writer for the agent: neither pauses.
    thread::sleep(3 * LINE_IDLE);
    assert!(!writer.is_finished(), "the writer waits");
    assert_eq!(texts(&take(&mut capture, LINES)), lines.iter().map(|l| l.trim_end()).collect::<Vec<_>>());
    writer.join().unwrap();
}

#[test]
fn lines_that_have_begun_in_many_fifos_hold_each_other_up_for_no_time() {
    const FIFOS: usize = 30;
    const BEGUN: usize = 6_000;
    // Together they are more than the ring takes.
    let mut bywash = Bywash::new("localhost:9", &small_ring());
    let fifos: Vec<PathBuf> = (0..FIFOS)
        .map(|i| bywash.add_fifo(&format!("{i}.pipe"), "on_full = 'wait'\nline_idle = '1h'"))
        .collect();
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let mut writers: Vec<File> = fifos.iter().map(|fifo| open(fifo)).collect();
    let begun = |i: usize| format!("{i} ").repeat(BEGUN / 3);
    for (i, writer) in writers.iter_mut().enumerate() {
        writer.write_all(begun(i).as_bytes()).unwrap();
    }
    for writer in &mut writers {
        writer.write_all(b"end\n").unwrap();
    }
    let (mut lines, mut ended) = (vec![String::new(); FIFOS], 0);
    wait::until("all lines to end", TIMEOUT, || {
        for captured in capture.take() {
            let at =
                fifos.iter().position(|fifo| fifo.as_os_str().as_encoded_bytes() == captured.path).unwrap();
            lines[at].push_str(std::str::from_utf8(&captured.data).unwrap());
            ended += usize::from(captured.part.1 > 0);
        }
        if ended == FIFOS { Ok(()) } else { Err(format!("{ended} so far")) }
    });
    for (i, line) in lines.into_iter().enumerate() {
        assert_eq!(line, begun(i) + "end");
    }
}

/// Lines so short that a record in the ring is mostly what is beside them.
const SHORT_LINES: usize = 100_000;

/// Writes [`SHORT_LINES`] to a FIFO whose writers wait, and waits until the ring is full.
fn fill_with_short_lines(bywash: &Bywash, fifo: &Path) -> thread::JoinHandle<File> {
    // Reading and writing, so that the pipe outlasts the agent.
    let mut holder = File::options().read(true).write(true).open(fifo).unwrap();
    let writer = thread::spawn(move || {
        let text: String = (0..SHORT_LINES).map(|i| format!("{i}\n")).collect();
        holder.write_all(text.as_bytes()).unwrap();
        holder
    });
    wait_until_full(bywash);
    writer
}

#[track_caller]
fn take_short_lines(capture: &mut Capture) {
    let captured = texts(&take(capture, SHORT_LINES));
    assert_eq!(captured, (0..SHORT_LINES).map(|i| i.to_string()).collect::<Vec<_>>());
}

fn one_mebibyte() -> Settings {
    Settings { ring_size: "1MiB", ..no_directory() }
}

#[test]
fn whatever_an_agent_has_read_of_short_lines_finds_room_when_it_ends() {
    let (mut bywash, fifo, mut capture) = reading(&one_mebibyte(), "on_full = 'wait'");
    let writer = fill_with_short_lines(&bywash, &fifo);
    bywash.stop_agent();
    bywash.start_agent();
    take_short_lines(&mut capture);
    writer.join().unwrap();
}

#[test]
fn whatever_was_read_of_short_lines_finds_room_when_their_fifo_goes() {
    let (mut bywash, fifo, mut capture) = reading(&one_mebibyte(), "on_full = 'wait'");
    let other = bywash.add_fifo("other.pipe", "");
    bywash.reload_agent();
    let writer = fill_with_short_lines(&bywash, &fifo);
    let with_both = fs::read_to_string(&bywash.config).unwrap();
    let section = |path: &Path| format!("[[fifo]]\npath = {path:?}\n");
    bywash.edit(&section(&fifo), "");
    bywash.edit("on_full = 'wait'\n", "");
    let said = bywash.reload_agent();
    assert!(
        said.contains("in force") && fs::read_to_string(&bywash.config).unwrap().contains(&section(&other))
    );
    bywash.stop_agent();
    fs::write(&bywash.config, with_both).unwrap();
    bywash.start_agent();
    take_short_lines(&mut capture);
    writer.join().unwrap();
}

#[test]
fn a_fifo_that_is_put_back_while_its_reader_ends_is_read_on_and_no_line_is_torn() {
    const LINES: usize = 3_000;
    let keys = "on_full = 'wait'\npipe_size = '4KiB'";
    let (mut bywash, fifo, mut capture) = reading(&small_ring(), keys);
    bywash.add_fifo("other.pipe", "");
    bywash.reload_agent();
    let lines: Vec<String> = (0..LINES).map(|i| format!("line {i} {}\n", "x".repeat(80))).collect();
    let text = lines.concat();
    let sending = fifo.clone();
    let writer = thread::spawn(move || send(&sending, text.as_bytes()));
    wait_until_full(&bywash);
    let with_both = fs::read_to_string(&bywash.config).unwrap();
    bywash.edit(&format!("[[fifo]]\npath = {fifo:?}\n{keys}\n"), "");
    assert!(bywash.reload_agent().contains("not listening on"));
    fs::write(&bywash.config, with_both).unwrap();
    let said = bywash.reload_agent();
    assert!(said.contains("in force"), "{said}");
    assert_eq!(texts(&take(&mut capture, LINES)), lines.iter().map(|l| l.trim_end()).collect::<Vec<_>>());
    writer.join().unwrap();
}

/// Waits until nothing more goes into the ring of lines whose writers wait; gives how many bytes are in it.
#[track_caller]
fn wait_until_full(bywash: &Bywash) -> u64 {
    let mut last = 0;
    wait::until("the ring to be full", TIMEOUT, || {
        let used = bywash.agent_status()["ring"]["used_bytes"].as_u64().unwrap_or(0);
        thread::sleep(Duration::from_millis(100));
        if used > 0 && used == std::mem::replace(&mut last, used) { Ok(used) } else { Err(used.to_string()) }
    })
}
