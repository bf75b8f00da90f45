//! `fs-agent supervise`: keeps what is to outlive the agent, starts it again, and gives it up in bounded time.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bywash_common::{ring::inspect, status::AgentCounter};
use bywash_tests::harness::{
    Bywash, Capture, Process, Settings, mounts,
    process::must_run,
    program,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{append, shutdown::map_and_store};

/// A supervisor with its agent.
pub struct Supervised {
    /// The agent's configuration.
    pub bywash: Bywash,
    supervisor: Process,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // An agent outlives a supervisor that is killed.
        if self.supervisor.ended().is_none() {
            self.supervisor.signal(Signal::SIGTERM);
            wait::quietly(TIMEOUT, || self.supervisor.ended().is_some());
        }
    }
}

impl Supervised {
    fn start(agent: &str) -> Self {
        Self::start_by(agent, own_line)
    }

    /// The agent of `bywash`, with more lines for `[agent]`.
    pub fn over(bywash: Bywash, agent: &str) -> Self {
        Self::of(bywash, agent, own_line)
    }

    /// `line` gives the program and its arguments.
    fn start_by(agent: &str, line: impl FnOnce(&Bywash) -> (PathBuf, Vec<String>)) -> Self {
        let bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
        Self::of(bywash, agent, line)
    }

    fn of(bywash: Bywash, agent: &str, line: impl FnOnce(&Bywash) -> (PathBuf, Vec<String>)) -> Self {
        let state = bywash.root().join("state");
        bywash.edit("", &format!("\n[agent]\nstate_dir = {state:?}\n{agent}\n"));
        let (program, arguments) = line(&bywash);
        let supervisor = Process::spawn("supervisor", &program, arguments, bywash.root(), Signal::SIGTERM);
        let supervised = Self { bywash, supervisor };
        supervised.agent_in_a_row(1);
        supervised
    }

    fn status(&self) -> Value {
        let said = self.bywash.fs_agent(&["status", "--json"]);
        serde_json::from_str(&said.stdout).unwrap_or_default()
    }

    /// Waits until the agent with this number listens; gives what it says of itself.
    #[track_caller]
    pub fn agent_in_a_row(&self, number: u64) -> Value {
        wait::until("an agent to listen", TIMEOUT, || {
            let status = self.status();
            if status["running"] == true && status["generation"] == number {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Waits until the agent with this number listens, at little cost to whatever else is measured meanwhile.
    #[track_caller]
    pub fn wait_for_agent(&self, number: u64) {
        wait::until("an agent to listen", TIMEOUT, || {
            let ring = inspect(&self.bywash.ring).map_err(|error| error.to_string())?;
            let found = ring.agent(AgentCounter::Generation);
            if ring.agent_running && found == number {
                Ok(())
            } else {
                Err(format!("the agent is number {found}"))
            }
        });
    }

    /// The agent that runs.
    pub fn agent_pid(&self) -> Pid {
        let pid = self.status()["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// Sends a signal to the agent that runs.
    pub fn tell_agent(&self, signal: Signal) {
        kill(self.agent_pid(), signal).unwrap();
    }

    /// Sends a signal to the supervisor.
    pub fn tell_supervisor(&self, signal: Signal) {
        self.supervisor.signal(signal);
    }

    fn is_mounted(&self) -> bool {
        mounts::is_mounted(self.bywash.directory())
    }
}

fn own_line(bywash: &Bywash) -> (PathBuf, Vec<String>) {
    (program("fs-agent"), own_arguments(bywash))
}

fn own_arguments(bywash: &Bywash) -> Vec<String> {
    let config = bywash.config.to_str().unwrap();
    ["supervise", "--", "run", "--config", config].map(str::to_owned).to_vec()
}

#[test]
fn what_an_agent_has_kept_is_the_next_ones() {
    let supervised = Supervised::start("");
    // The number of the agent is in a memory file that nobody else has.
    for (number, signal, reason) in
        [(2, Signal::SIGKILL, "death"), (3, Signal::SIGTERM, "restart"), (4, Signal::SIGKILL, "death")]
    {
        supervised.tell_agent(signal);
        let status = supervised.agent_in_a_row(number);
        assert_eq!(status["handover"]["reason"], reason, "{status}");
        assert!(supervised.is_mounted());
        append(&supervised.bywash.file("f"), b"x");
    }
    let said = supervised.bywash.fs_agent(&["status"]).stdout;
    assert!(said.contains("\nagent 4 in a row: took over "), "{said}");
}

#[test]
fn no_line_of_a_fifo_is_lost_or_torn_over_a_restart_or_a_death() {
    let bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
    let fifo = bywash.add_fifo("pipe", "");
    let supervised = Supervised::over(bywash, "");
    let mut capture = Capture::attach(&supervised.bywash.ring);
    let mut writer = File::options().write(true).open(&fifo).unwrap();
    for (number, signal) in [(2, Signal::SIGTERM), (3, Signal::SIGKILL), (4, Signal::SIGTERM)] {
        writer.write_all(format!("{number}: begun before, ").as_bytes()).unwrap();
        let agent = supervised.agent_pid();
        wait::until("the agent to have read it", TIMEOUT, || {
            let begun = format!("{number}: begun before, ");
            let is_there = |read: &Vec<u8>| read.windows(begun.len()).any(|bytes| bytes == begun.as_bytes());
            if read_of_fifos(agent).iter().any(is_there) { Ok(()) } else { Err(String::new()) }
        });
        kill(agent, signal).unwrap();
        // The same writer goes on, agent or no agent: no SIGPIPE, no EPIPE.
        writer.write_all(b"ended meanwhile\nanother\n").unwrap();
        supervised.agent_in_a_row(number);
        let expected = [format!("{number}: begun before, ended meanwhile"), "another".to_owned()];
        let mut lines = Vec::new();
        wait::until("both lines", TIMEOUT, || {
            lines
                .extend(capture.take().into_iter().map(|captured| String::from_utf8(captured.data).unwrap()));
            if lines.len() >= 2 { Ok(()) } else { Err(format!("{lines:?}")) }
        });
        assert_eq!(lines, expected);
    }
    assert!(capture.take().is_empty());
}

/// The beginnings of what an agent has read of FIFOs.
fn read_of_fifos(agent: Pid) -> Vec<Vec<u8>> {
    let Ok(fds) = fs::read_dir(format!("/proc/{agent}/fd")) else { return Vec::new() };
    let paths = fds.filter_map(|fd| fd.ok().map(|fd| fd.path()));
    let memories = paths
        .filter(|fd| fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().contains("memfd:bywash-fifo")));
    let beginning = |path: PathBuf| {
        let mut bytes = Vec::new();
        File::open(path)?.take(64 << 10).read_to_end(&mut bytes).map(|_| bytes)
    };
    memories.filter_map(|path| beginning(path).ok()).collect()
}

#[test]
fn lines_of_a_fifo_come_once_each_although_its_reader_is_killed_under_load() {
    const KILLS: u64 = 10;
    let bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
    let fifo = bywash.add_fifo("pipe", "on_full = \"wait\"");
    let supervised = Supervised::over(bywash, "");
    let mut capture = Capture::attach(&supervised.bywash.ring);
    let mut pipe = File::options().write(true).open(&fifo).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let writer = thread::spawn(move || {
        let mut count = 0_u64;
        while !is_over.load(Ordering::Relaxed) {
            // Some fill the pipe at once, and most are torn by reads.
            let lines = if count.is_multiple_of(7) { 900 } else { 3 };
            let text: String = (count..count + lines)
                .map(|n| format!("line {n} {}\n", "x".repeat(n as usize % 90)))
                .collect();
            pipe.write_all(text.as_bytes()).unwrap();
            count += lines;
        }
        count
    });
    let mut next = 0;
    let mut take = || {
        for captured in capture.take() {
            let expected = format!("line {next} {}", "x".repeat(next as usize % 90));
            assert_eq!(String::from_utf8_lossy(&captured.data), expected);
            next += 1;
        }
        next
    };
    for number in 0..KILLS {
        let until = Instant::now() + Duration::from_millis(30 + number * 17 % 50);
        while Instant::now() < until {
            take();
        }
        supervised.tell_agent(Signal::SIGKILL);
        // The first has the number 1.
        supervised.agent_in_a_row(number + 2);
    }
    over.store(true, Ordering::Relaxed);
    // The writer may wait for room in the pipe.
    while !writer.is_finished() {
        take();
    }
    let written = writer.join().unwrap();
    wait::until("all lines", TIMEOUT, || match take() {
        taken if taken == written => Ok(()),
        taken => Err(format!("{taken} of {written}")),
    });
    println!("{written} lines, {KILLS} kills");
}

#[test]
fn what_is_kept_of_a_directory_goes_when_that_is_not_watched_any_more() {
    let supervised = Supervised::start("");
    let kept = |wanted: &dyn Fn(usize) -> bool| {
        let fds = format!("/proc/{}/fd", supervised.supervisor.pid());
        wait::until("so many descriptors", TIMEOUT, || {
            let count = fs::read_dir(&fds).unwrap().count();
            if wanted(count) { Ok(count) } else { Err(count.to_string()) }
        })
    };
    let before = kept(&|_| true);
    let other = supervised.bywash.root().join("other");
    fs::create_dir(&other).unwrap();
    let section = format!("\n[[directory]]\npath = {other:?}\n");
    supervised.bywash.edit("", &section);
    supervised.tell_agent(Signal::SIGHUP);
    kept(&|count| count > before + 3);
    supervised.bywash.edit(&section, "\n");
    supervised.tell_agent(Signal::SIGHUP);
    kept(&|count| count == before);
}

#[test]
fn a_supervisor_that_is_told_to_stop_stops_its_agent_and_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut supervised = Supervised::start("");
        append(&supervised.bywash.file("f"), b"x");
        supervised.supervisor.signal(signal);
        let status = supervised.supervisor.wait(TIMEOUT);
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        assert!(!supervised.is_mounted());
        assert_eq!(fs::read(supervised.bywash.file("f")).unwrap(), b"x");
        let left = fs::read_dir(supervised.bywash.root().join("state")).unwrap().count();
        assert_eq!(left, 0, "its socket is gone");
        let log = supervised.supervisor.log();
        assert!(!log.contains("making room"), "the agent knew that none follows: {log}");
    }
}

/// As whoever stops a container that shares the host's process numbers does, or a control group.
#[test]
fn where_agent_and_supervisor_are_told_to_stop_at_once_nothing_is_left() {
    for _ in 0..3 {
        let mut supervised = Supervised::start("");
        append(&supervised.bywash.file("f"), b"x");
        supervised.tell_agent(Signal::SIGTERM);
        supervised.tell_supervisor(Signal::SIGTERM);
        let status = supervised.supervisor.wait(TIMEOUT);
        assert_eq!(status.code(), Some(0), "{status}: {}", supervised.supervisor.log());
        assert!(!supervised.is_mounted(), "{}", supervised.supervisor.log());
        assert_eq!(fs::read(supervised.bywash.file("f")).unwrap(), b"x");
    }
}

#[test]
fn a_supervisor_is_replaced_while_its_agent_goes_on() {
    let mut supervised = Supervised::start("");
    let agent = supervised.status()["pid"].clone();
    supervised.supervisor.signal(Signal::SIGUSR2);
    wait::until("the other supervisor", TIMEOUT, || {
        let log = supervised.supervisor.log();
        if log.contains("another supervisor has taken over") { Ok(()) } else { Err(log) }
    });
    assert_eq!(supervised.status()["pid"], agent);
    // What the first one has kept, the second one hands over; and it hears the agent.
    supervised.tell_agent(Signal::SIGKILL);
    supervised.agent_in_a_row(2);
    supervised.tell_agent(Signal::SIGTERM);
    supervised.agent_in_a_row(3);
    assert_eq!(supervised.supervisor.terminate(TIMEOUT).code(), Some(0));
    assert!(!supervised.is_mounted());
}

#[test]
fn a_supervisor_does_not_become_a_program_that_cannot_be_run() {
    let copy = |bywash: &Bywash| {
        let path = bywash.root().join("fs-agent");
        fs::copy(program("fs-agent"), &path).unwrap();
        (path, own_arguments(bywash))
    };
    let supervised = Supervised::start_by("", copy);
    replace(&supervised.bywash.root().join("fs-agent"), "#!/bin/sh\nexit 1\n");
    supervised.supervisor.signal(Signal::SIGUSR2);
    wait::until("the supervisor to say so", TIMEOUT, || {
        let log = supervised.supervisor.log();
        if log.contains("this supervisor goes on") { Ok(()) } else { Err(log) }
    });
    assert_eq!(supervised.status()["running"], true);
}

#[test]
fn a_supervisor_does_not_become_one_that_is_told_nonsense() {
    let supervised = Supervised::start("");
    let agent = supervised.agent_pid();
    supervised.bywash.edit("", "nonsense = 1\n");
    supervised.supervisor.signal(Signal::SIGUSR2);
    wait::until("the supervisor to say so", TIMEOUT, || {
        let log = supervised.supervisor.log();
        if log.contains("this supervisor goes on") { Ok(()) } else { Err(log) }
    });
    assert!(supervised.supervisor.log().contains("nonsense"), "it says what is wrong");
    supervised.bywash.edit("nonsense = 1\n", "");
    assert_eq!(supervised.agent_pid(), agent);
    supervised.tell_agent(Signal::SIGKILL);
    supervised.agent_in_a_row(2);
}

#[test]
fn a_supervisor_hears_its_agents_whatever_becomes_of_where_its_socket_is() {
    let mut supervised = Supervised::start("");
    let state = supervised.bywash.root().join("state");
    // Another directory by now, for the supervisor that follows.
    supervised.bywash.edit("/state\"", "/elsewhere\"");
    supervised.supervisor.signal(Signal::SIGUSR2);
    wait::until("the other supervisor", TIMEOUT, || {
        let log = supervised.supervisor.log();
        if log.contains("another supervisor has taken over") { Ok(()) } else { Err(log) }
    });
    supervised.tell_agent(Signal::SIGKILL);
    supervised.agent_in_a_row(2);
    // Whoever clears such directories.
    fs::remove_dir_all(&state).unwrap();
    supervised.tell_agent(Signal::SIGKILL);
    supervised.agent_in_a_row(3);
    assert_eq!(supervised.supervisor.terminate(TIMEOUT).code(), Some(0));
    assert!(!supervised.is_mounted());
}

#[test]
fn however_few_descriptors_there_are_deleted_files_leave_enough_for_the_next_agent() {
    let few = |bywash: &Bywash| {
        let program = program("fs-agent").to_str().unwrap().to_owned();
        // Root could raise the limit.
        let root = ["setpriv", "--bounding-set=-sys_resource", "--"];
        let root = if nix::unistd::geteuid().is_root() { &root[..] } else { &[] };
        let line = root.iter().chain(&["prlimit", "--nofile=256:256", "--"]).map(|word| (*word).to_owned());
        let mut line = line.chain([program]).chain(own_arguments(bywash));
        (PathBuf::from(line.next().unwrap()), line.collect())
    };
    let supervised = Supervised::start_by("", few);
    // With O_PATH the agent is not asked, and does not count them as open.
    let held = |at: usize| {
        let path = supervised.bywash.file(&at.to_string());
        File::create(&path).unwrap();
        let held = File::options().read(true).custom_flags(nix::libc::O_PATH).open(&path).unwrap();
        fs::remove_file(path).unwrap();
        held
    };
    let deleted: Vec<File> = (0..150).map(held).collect();
    let descriptors = format!("/proc/{}/fd", supervised.supervisor.pid());
    wait::until("the supervisor to keep what it can", TIMEOUT, || {
        let count = fs::read_dir(&descriptors).unwrap().count();
        if count > 84 { Ok(()) } else { Err(format!("{count} descriptors")) }
    });
    supervised.tell_agent(Signal::SIGKILL);
    supervised.agent_in_a_row(2);
    let come_back = deleted.iter().filter(|file| file.metadata().is_ok()).count();
    assert_eq!(come_back, 84, "three quarters of those 112 that a supervisor can keep");
}

#[test]
fn a_supervisor_has_its_agent_send_nothing_to_where_others_may_listen() {
    let bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
    let state = bywash.root().join("state");
    bywash.edit("", &format!("\n[agent]\nstate_dir = {state:?}\n"));
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let (program, arguments) = (program("fs-agent"), own_arguments(&bywash));
    let mut supervisor = Process::spawn("supervisor", &program, arguments, bywash.root(), Signal::SIGTERM);
    assert_eq!(supervisor.wait(TIMEOUT).code(), Some(1));
    assert!(supervisor.log().contains("chmod go-w"), "{}", supervisor.log());
}

#[test]
fn what_a_starting_agent_is_told_it_hears_when_it_listens() {
    let copy = |bywash: &Bywash| {
        let path = bywash.root().join("fs-agent");
        fs::copy(program("fs-agent"), &path).unwrap();
        (path, own_arguments(bywash))
    };
    let mut supervised = Supervised::start_by("", copy);
    let (path, agent) = (supervised.bywash.root().join("fs-agent"), program("fs-agent"));
    let starting = |told: &str| replace(&path, &format!("#!/bin/sh\n{told}\nexec {agent:?} \"$@\"\n"));
    for (number, signal) in [(2, "HUP"), (3, "USR1")] {
        starting(&format!("kill -{signal} $$"));
        supervised.tell_agent(Signal::SIGKILL);
        supervised.agent_in_a_row(number);
    }
    let log = supervised.supervisor.log();
    assert!(log.contains("SIGHUP: the configuration was read again"), "{log}");
    assert_eq!(log.matches("has ended").count(), 2, "{log}");
    // One that is to stop before it listens stops in order.
    starting("kill -TERM $PPID");
    supervised.tell_agent(Signal::SIGKILL);
    assert_eq!(supervised.supervisor.wait(TIMEOUT).code(), Some(0));
    assert!(!supervised.is_mounted());
}

/// Another program in the place of one, as an upgrade puts it there.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, path).unwrap();
}

/// The line of a program of its own.
fn copy(bywash: &Bywash) -> (PathBuf, Vec<String>) {
    let path = bywash.root().join("fs-agent");
    fs::copy(program("fs-agent"), &path).unwrap();
    (path, own_arguments(bywash))
}

#[test]
fn what_was_stored_in_mappings_before_a_restart_is_in_the_file_though_no_agent_follows() {
    let mut supervised = Supervised::start_by("restart_wait = \"1s\"", copy);
    let mut program = map_and_store(&supervised.bywash);
    replace(&supervised.bywash.root().join("fs-agent"), "#!/bin/sh\nexit 1\n");
    supervised.tell_agent(Signal::SIGTERM);
    let status = supervised.supervisor.wait(TIMEOUT);
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(!supervised.is_mounted());
    assert!(fs::read(supervised.bywash.file("mapped")).unwrap().starts_with(b"stored"));
    drop(program.stdin.take());
    program.wait().unwrap();
}

// Guarantee: G8
#[test]
fn an_agent_that_does_not_come_back_is_given_up_in_time_and_its_overlays_with_it() {
    // One that ends at once, and one that never gets ready.
    for program in ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nexec sleep 1000\n"] {
        let mut supervised = Supervised::start_by("restart_wait = \"2s\"", copy);
        replace(&supervised.bywash.root().join("fs-agent"), program);
        let mut open = File::create(supervised.bywash.file("open")).unwrap();
        open.write_all(b"before,").unwrap();
        let begin = Instant::now();
        supervised.tell_agent(Signal::SIGKILL);
        let writer = thread::spawn(move || (open.write(b"meanwhile"), begin.elapsed()));
        let status = supervised.supervisor.wait(TIMEOUT);
        let took = begin.elapsed();
        assert_eq!(status.code(), Some(1), "{status}");
        assert!(Duration::from_secs(2) <= took && took < Duration::from_secs(6), "{took:?}");
        assert!(!supervised.is_mounted());
        append(&supervised.bywash.file("f"), b"uncaptured");
        // Whoever had a file open has waited as long, and no longer.
        let (written, waited) = writer.join().unwrap();
        assert!(written.is_err() && Duration::from_secs(2) <= waited, "{written:?} after {waited:?}");
        assert_eq!(fs::read(supervised.bywash.file("open")).unwrap(), b"before,");
    }
}

#[test]
fn an_agent_whose_configuration_is_wrong_by_now_is_given_up_at_once() {
    let mut supervised = Supervised::start("");
    // What tells the agent's number reads the configuration, too.
    let agent = supervised.agent_pid();
    let mut program = map_and_store(&supervised.bywash);
    let mut open = File::create(supervised.bywash.file("open")).unwrap();
    supervised.bywash.edit("", "\nnonsense = 1\n");
    kill(agent, Signal::SIGKILL).unwrap();
    // That one cannot listen, and takes its predecessor's overlay off in order.
    open.write_all(b"waits, and goes on").unwrap();
    let status = supervised.supervisor.wait(TIMEOUT);
    assert_eq!(status.code(), Some(78), "{status}");
    assert!(!supervised.is_mounted());
    assert_eq!(fs::read(supervised.bywash.file("open")).unwrap(), b"waits, and goes on");
    assert!(fs::read(supervised.bywash.file("mapped")).unwrap().starts_with(b"stored"));
    drop(program.stdin.take());
    program.wait().unwrap();
}

#[test]
fn an_agent_that_cannot_be_started_at_all_is_not_started_again() {
    let bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
    let state = bywash.root().join("state");
    bywash.edit("", &format!("\n[agent]\nstate_dir = {state:?}\n[[fifo]]\npath = \"/nonexistent/fifo\"\n"));
    let mut supervisor = Process::spawn(
        "supervisor",
        &program("fs-agent"),
        own_arguments(&bywash),
        bywash.root(),
        Signal::SIGTERM,
    );
    let status = supervisor.wait(TIMEOUT);
    assert!(!status.success(), "{status}");
    assert_eq!(supervisor.log().matches("does not exist").count(), 1, "{}", supervisor.log());
}

#[test]
fn as_a_containers_first_process_a_supervisor_takes_what_is_left_of_orphans() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can make a process namespace");
    }
    let in_namespace = |bywash: &Bywash| {
        let program = program("fs-agent").to_str().unwrap().to_owned();
        let line = ["--pid", "--fork", "--kill-child", "--"].map(str::to_owned);
        (PathBuf::from("unshare"), line.into_iter().chain([program]).chain(own_arguments(bywash)).collect())
    };
    let supervised = Supervised::start_by("", in_namespace);
    let first = children_of(supervised.supervisor.pid().as_raw());
    let [first] = first[..] else { panic!("{first:?}") };
    // Its parent ends at once.
    let namespace = format!("--pid=/proc/{first}/ns/pid");
    must_run(Command::new("nsenter").args([&namespace, "--", "sh", "-c", "sleep 1000 >&- 2>&- &"]));
    let orphans = || -> Vec<i32> {
        let is_sleep =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        children_of(first).into_iter().filter(is_sleep).collect()
    };
    let orphan =
        wait::until("an orphan", TIMEOUT, || orphans().first().copied().ok_or_else(|| "none".to_owned()));
    kill(Pid::from_raw(orphan), Signal::SIGKILL).unwrap();
    wait::until("nothing to be left of it", TIMEOUT, || {
        if orphans().is_empty() { Ok(()) } else { Err("it is there".to_owned()) }
    });
    assert_eq!(supervised.status()["running"], true);
}

/// The processes whose parent is `parent`, dead ones included.
fn children_of(parent: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
