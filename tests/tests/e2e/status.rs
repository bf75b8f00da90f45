//! What an operator sees of both services, and the commands that wait, show and clear away.

use std::{fs, process::Command};

use bywash_tests::harness::{
    Broker, Bywash, Settings,
    bywash::{self, command},
    process::{Finished, run},
    program,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::append;

/// No line is wider than a terminal, but for what begins with a path.
#[track_caller]
fn assert_fits(text: &str) {
    for line in text.lines().filter(|line| !line.contains('/')) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[track_caller]
fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

#[test]
fn a_publisher_that_waits_for_its_ring_says_so_and_status_waits_for_both_services() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.publisher = Some(bywash::spawn("publisher", &bywash.config, bywash.root()));
    let waiting = wait::until("status to say that it waits", TIMEOUT, || {
        let status = bywash.publisher_command(&["status"]);
        if status.stdout.starts_with("publisher is waiting for the ring ") {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert_eq!(waiting.code, Some(3), "{waiting:?}");
    let pid = bywash.publisher().pid();
    assert!(waiting.stdout.contains(&format!("(pid {pid}, ")), "{waiting:?}");
    assert!(waiting.stdout.contains("next          start the agent"), "{waiting:?}");
    assert_fits(&waiting.stdout);
    let status = json(&bywash.publisher_command(&["status", "--json"]));
    assert_eq!((&status["waiting"], &status["running"]), (&true.into(), &false.into()), "{status}");
    // Neither gives up before the time is over, and both see it at once when it is there.
    let config = bywash.config.clone();
    let waits = ["fs-agent", "publisher"].map(|name| {
        let config = config.clone();
        std::thread::spawn(move || command(name, &["status", "--wait=60s"], &config))
    });
    bywash.start_agent();
    for waited in waits.map(|thread| thread.join().unwrap()) {
        assert_eq!(waited.code, Some(0), "{waited:?}");
        assert!(waited.stdout.contains(" is running (pid "), "{waited:?}");
        assert_fits(&waited.stdout);
    }
    assert_eq!(json(&bywash.publisher_command(&["status", "--json"]))["waiting"], false);
    // What a killed one has said is over with it.
    let left = format!("/dev/shm/{}.waiting", bywash.ring);
    assert!(!fs::exists(&left).unwrap(), "{left} is still there");
}

#[test]
fn status_waits_no_longer_than_it_is_told() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    for name in ["fs-agent", "publisher"] {
        let waited = command(name, &["status", "--wait=200ms"], &bywash.config);
        assert_eq!(waited.code, Some(3), "{name}: {waited:?}");
        assert!(waited.stdout.contains("not running") && waited.stdout.contains("next "), "{waited:?}");
    }
}

#[test]
fn a_broker_that_is_away_shows_in_status_with_its_reason_and_what_to_do() {
    let address = bywash_tests::harness::broker::free_address().to_string();
    let mut bywash = Bywash::new(&address, &Settings::default());
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x");
    let status = wait::until("status to show the reason", TIMEOUT, || {
        let status = bywash.publisher_command(&["status"]).stdout;
        if status.contains("warned ") && status.contains("Kafka confirms nothing") {
            Ok(status)
        } else {
            Err(status)
        }
    });
    assert!(status.contains("\nbehind        1 record, "), "{status}");
    assert!(status.contains("\nring          [#"), "{status}");
    let waited = bywash.publisher_command(&["status", "--drained=100ms"]);
    assert_eq!(waited.code, Some(4), "{waited:?}");
}

#[test]
fn how_far_a_file_is_delivered_is_known_to_the_byte_whether_it_waits_in_ring_or_spool() {
    let broker = Broker::start();
    let settings = Settings { spool: "high_mark = 1", ring_size: "64KiB", ..Settings::default() };
    let mut bywash = Bywash::start(&broker, &settings);
    let file = bywash.file("app.log");
    append(&file, b"0123456789");
    let path = file.to_str().unwrap();
    let all = bywash.publisher_command(&["status", "--file", path, "--drained=30s"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    assert_eq!(all.stdout, format!("{path}: delivered up to byte 10 of 10\n"));
    broker.stop();
    append(&file, b"abcde");
    append(&file, b"fgh");
    append(&bywash.file("other.log"), b"not of this file");
    let ask = || bywash.publisher_command(&["status", "--file", path]);
    let behind = ask();
    assert_eq!(behind.code, Some(4), "{behind:?}");
    assert_eq!(behind.stdout, format!("{path}: delivered up to byte 10 of 18; 2 records of it wait\n"));
    // More than the mark: the oldest move to the spool.
    (0..40).for_each(|_| append(&bywash.file("other.log"), &[b'x'; 500]));
    wait::until_true("records in the spool", TIMEOUT, || {
        bywash.publisher_status()["spool_records"].as_u64().is_some_and(|n| n >= 2)
    });
    let object = json(&bywash.publisher_command(&["status", "--json", "--file", path]));
    assert_eq!(object["delivered_bytes"], 10, "{object}");
    assert_eq!(object["pending_records"], 2, "{object}");
    broker.resume();
    let all = bywash.publisher_command(&["status", "--file", path, "--drained=60s"]);
    assert_eq!((all.code, all.stdout), (Some(0), format!("{path}: delivered up to byte 18 of 18\n")));
    // Of what nobody captures all would seem to be delivered.
    let outside = bywash.root().join("outside");
    fs::write(&outside, "x").unwrap();
    let refused = bywash.publisher_command(&["status", "--file", outside.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("no directory that fs-agent listens to"), "{refused:?}");
    bywash.publisher().terminate(TIMEOUT);
}

#[test]
fn a_tap_shows_what_is_captured_and_takes_nothing_of_it_away() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    // Before there is a tap.
    append(&bywash.file("early.log"), b"before");
    let mut taps: Vec<_> = [vec!["--path", "wanted.*", "--max", "2"], vec!["--max", "3", "--encoded"]]
        .iter()
        .map(|arguments| {
            let logs = tempfile::tempdir_in(bywash.root()).unwrap();
            let out = logs.path().join("out");
            let script = "out=$1; shift; exec \"$@\" >\"$out\" 2>\"$out.log\"";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(&out).arg(program("publisher")).arg("tap");
            let child = command.arg("--config").arg(&bywash.config).args(arguments).spawn().unwrap();
            wait::until("the tap to look", TIMEOUT, || {
                let log = fs::read_to_string(out.with_extension("log")).unwrap_or_default();
                if log.contains("from now on") { Ok(()) } else { Err(log) }
            });
            (child, logs, out)
        })
        .collect();
    append(&bywash.file("wanted.log"), b"one");
    append(&bywash.file("other.log"), b"two");
    append(&bywash.file("wanted.txt"), b"three");
    let mut printed = Vec::new();
    for (child, _logs, out) in &mut taps {
        assert!(child.wait().unwrap().success());
        printed.push(fs::read_to_string(out).unwrap());
    }
    assert_eq!(printed[0].matches("event:\n").count(), 2, "{}", printed[0]);
    assert!(printed[0].contains("@message: one") && printed[0].contains("@message: three"), "{}", printed[0]);
    assert!(!printed[0].contains("two") && !printed[0].contains("before"), "{}", printed[0]);
    // As it is delivered: the same event under the same id.
    let tapped: Vec<Value> = printed[1].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let delivered = broker.read("logs").events(4);
    for (tapped, event) in tapped.iter().zip(&delivered[1..]) {
        assert_eq!(tapped.as_object(), Some(&event.json));
    }
    assert_eq!(bywash.publisher().terminate(TIMEOUT).code(), Some(0));
}

#[test]
fn rings_are_listed_and_removed_once_nobody_uses_them_and_nothing_waits_in_them() {
    let mut bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
    let ring = bywash.ring.clone();
    bywash.start_agent();
    append(&bywash.file("f"), b"not delivered");
    let listed = |bywash: &Bywash| {
        let inventory = json(&bywash.fs_agent(&["rings", "--json"]));
        inventory["rings"].as_array().unwrap().iter().find(|one| one["ring"] == *ring).cloned()
    };
    let seen = listed(&bywash).unwrap();
    assert_eq!(seen["agent_pid"], bywash.agent().pid().as_raw(), "{seen}");
    assert_eq!((&seen["used_records"], &seen["publisher_running"]), (&1.into(), &false.into()), "{seen}");
    assert!(seen["memory_bytes"].as_u64().unwrap() >= 1 << 20, "{seen}");
    let in_use = bywash.fs_agent(&["rings", "remove", "--discard", &ring]);
    assert_eq!(in_use.code, Some(1), "{in_use:?}");
    assert!(in_use.stderr.contains("held by another fs-agent"), "{in_use:?}");
    bywash.stop_agent();
    let kept = bywash.fs_agent(&["rings", "remove", &ring]);
    assert_eq!(kept.code, Some(1), "{kept:?}");
    assert!(kept.stderr.contains("holds 1 records") && kept.stderr.contains("--discard"), "{kept:?}");
    assert!(bywash.fs_agent(&["rings"]).stdout.contains(&ring));
    let removed = bywash.fs_agent(&["rings", "remove", "--discard", &ring]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert!(bywash.segments().is_empty() && listed(&bywash).is_none());
    let missing = bywash.fs_agent(&["rings", "remove", &ring]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("there is no ring"), "{missing:?}");
}

#[test]
fn what_killed_processes_have_left_is_listed_and_removed_and_nothing_else() {
    let mut bywash = Bywash::new("localhost:9", &Settings::default());
    let ring = bywash.ring.clone();
    let state = bywash.root().join("state");
    fs::create_dir(&state).unwrap();
    bywash.edit("", &format!("\n[agent]\nstate_dir = {state:?}\n"));
    let socket = state.join("supervise-1.socket");
    drop(std::os::unix::net::UnixDatagram::bind(&socket).unwrap());
    let alive = state.join("supervise-2.socket");
    let _alive = std::os::unix::net::UnixDatagram::bind(&alive).unwrap();
    let left = [format!("/dev/shm/{ring}.7.ack"), format!("/dev/shm/{ring}.0f.ring.tmp")];
    left.iter().for_each(|path| fs::write(path, "left").unwrap());
    // A publisher that waits is no leftover; a killed one's is.
    bywash.publisher = Some(bywash::spawn("publisher", &bywash.config, bywash.root()));
    let waiting = format!("/dev/shm/{ring}.waiting");
    wait::until_true("the publisher to wait", TIMEOUT, || fs::exists(&waiting).unwrap());
    let leftovers = || {
        let inventory = json(&bywash.fs_agent(&["rings", "--json"]));
        let all = inventory["leftovers"].as_array().unwrap().clone();
        // Those of other tests are theirs.
        let mine = all
            .iter()
            .filter_map(Value::as_str)
            .filter(|path| path.contains(&format!("{ring}.")) || path.starts_with(state.to_str().unwrap()));
        mine.map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = [left[1].clone(), left[0].clone(), socket.to_str().unwrap().to_owned()];
    assert_eq!(leftovers(), expected);
    bywash.publisher.as_mut().unwrap().signal(Signal::SIGKILL);
    bywash.publisher.as_mut().unwrap().wait(TIMEOUT);
    assert!(bywash.fs_agent(&["rings"]).stdout.contains(&format!("left behind: {waiting}")));
    // Removed by hand here: tests beside this one have leftovers of their own.
    for path in left.iter().chain([&waiting]) {
        fs::remove_file(path).unwrap();
    }
    assert!(alive.exists());
}

#[test]
fn help_shows_a_commands_own_flags_first_and_those_of_the_configuration_where_they_matter() {
    for name in ["fs-agent", "publisher"] {
        let help = |arguments: &[&str]| run(Command::new(program(name)).args(arguments), TIMEOUT).stdout;
        let status = help(&["status", "--help"]);
        let own = status.find("--wait").expect("its own flag");
        let shared = status.find("--config").expect("where the configuration is");
        assert!(own < shared && !status.contains("--brokers"), "{status}");
        let lines = status.lines().count();
        assert!(lines < 60, "{lines} lines: {status}");
        assert!(help(&["run", "--help"]).contains("--brokers"));
        // What help leaves out is taken all the same.
        let taken = run(
            Command::new(program(name)).args(["status", "--topic", "t", "--ring", "bywash-none"]),
            TIMEOUT,
        );
        assert_eq!(taken.code, Some(3), "{taken:?}");
    }
}

#[test]
fn the_manual_page_has_every_command_with_its_flags_and_what_is_around_it() {
    for name in ["fs-agent", "publisher"] {
        let run = |arguments: &[&str]| run(Command::new(program(name)).args(arguments), TIMEOUT).stdout;
        let page = run(&["man"]);
        for section in ["COMMANDS", "SIGNALS", "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
        {
            assert!(page.lines().any(|line| line.replace('"', "") == format!(".SH {section}")), "{section}");
        }
        let (help, rest) = (run(&["--help"]), "\nOptions:");
        let listed = help.split_once("Commands:\n").and_then(|(_, list)| list.split_once(rest)).unwrap().0;
        let is_first = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
        let commands = listed.lines().filter(is_first).filter_map(|line| line.split_whitespace().next());
        let commands: Vec<_> = commands.filter(|command| *command != "help").collect();
        assert!(commands.len() > 5, "{help}");
        for command in commands {
            let begin = format!(".SS \"{} {command}", name.replace('-', "\\-"));
            assert!(page.contains(&begin), "{begin}: {page}");
            let help = run(&[command, "--help"]);
            let own = help.split("\nConfiguration:").next().unwrap();
            for flag in own.split_whitespace().filter(|word| word.starts_with("--") && *word != "--help") {
                let flag: String = flag.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                assert!(page.contains(&flag.replace('-', "\\-")), "{command} {flag}: {page}");
            }
        }
        // No page is referred to that is not there.
        assert!(!page.contains(&format!("{}\\-run(1)", name.replace('-', "\\-"))), "{page}");
    }
}
