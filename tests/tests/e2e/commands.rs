//! Exit codes and messages: 0 well, 1 failed at run time, 2 usage, 3 not running, 78 configuration.

use std::{fs, process::Command};

use bywash_tests::harness::{
    Broker, Bywash, Process, Settings, broker, bywash, mounts,
    process::{Finished, run},
    program,
    wait::{self, TIMEOUT},
};

const PROGRAMS: [&str; 2] = ["fs-agent", "publisher"];

#[track_caller]
fn assert_says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "`{word}` is not in: {}", finished.stderr);
    }
}

/// A service that must not start: it ends with this code, and its log says why.
#[track_caller]
fn assert_refuses(mut service: Process, code: i32, words: &[&str]) {
    let status = service.wait(TIMEOUT);
    let log = service.log();
    assert_eq!(status.code(), Some(code), "{status}: {log}");
    for word in words {
        assert!(log.contains(word), "`{word}` is not in: {log}");
    }
}

#[test]
fn status_is_3_without_and_0_with_a_running_service() {
    let broker = Broker::start();
    let mut bywash =
        Bywash::new(&broker.address(), &Settings { directories: &["a", "b"], ..Settings::default() });
    for name in PROGRAMS {
        for arguments in [&["status"][..], &["status", "--json"]] {
            let status = bywash::command(name, arguments, &bywash.config);
            assert_eq!(status.code, Some(3), "{name} {arguments:?}: {status:?}");
        }
    }
    bywash.start_agent();
    bywash.start_publisher();
    let status = bywash.fs_agent(&["status"]);
    let listening: Vec<_> = status.stdout.lines().filter(|line| line.starts_with("listening on ")).collect();
    let expected = ["a", "b"].map(|name| format!("listening on {}", bywash.root().join(name).display()));
    assert_eq!(listening, expected);
    // Both parse and say that they run.
    bywash.agent_status();
    bywash.publisher_status();
    bywash.agent().terminate(TIMEOUT);
    bywash.publisher().terminate(TIMEOUT);
    for name in PROGRAMS {
        let status = bywash::command(name, &["status"], &bywash.config);
        assert_eq!(status.code, Some(3), "{name}: {status:?}");
    }
}

#[test]
fn check_accepts_a_right_configuration_and_touches_nothing() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    for name in PROGRAMS {
        let check = bywash::command(name, &["check"], &bywash.config);
        assert_eq!(check.code, Some(0), "{name}: {check:?}");
    }
    assert!(bywash.segments().is_empty() && !bywash.is_mounted());
}

/// The product contract's sample of a configuration, but for its comments and for paths, which begin with `ROOT`.
const EVERY_SECTION: &str = r#"
[ring]
name = "bywash"
size = "64MiB"
group = "bywash"

[event]
encoder = "logstash_base64"
fields = { hostname = "test" }
tags = ["test"]

[[directory]]
path = "ROOT/log/app"
exclude = ["*.gz", "core*"]
quota = { bytes_per_second = 500000, files_tracked = 20 }
framing = "write"
topic = "app-logs"

[[fifo]]
path = "ROOT/app.pipe"
create = true
mode = "0622"
on_full = "drop"

[agent]
sleep = ["ROOT/log/app"]

[publisher]
sink = "kafka"
flush_interval = "5s"
batch_records = 500
batch_bytes = "1MiB"

[kafka]
brokers = ["localhost:9092"]
topic = "logs"
zookeepers = []
key = "path"
properties = { "compression.type" = "zstd" }

[kinesis]
stream_name = "my-stream"
region = "us-east-1"
partition_key = ""
endpoint_url = ""
role_arn = ""
role_session_name = ""

[spool]
dir = "ROOT/spool"
size_max = "1GiB"

[failed]
dir = "ROOT/failed"
retry_interval = "30s"

[metrics]
listen = "127.0.0.1:9598"
"#;

#[test]
fn the_contract_s_sample_is_accepted_and_printed_by_both() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    let root = bywash.root().to_str().unwrap();
    fs::create_dir_all(bywash.root().join("log/app")).unwrap();
    // Which groups there are is the machine's affair.
    let sample = EVERY_SECTION.replace("ROOT", root).replace("group = \"bywash\"", "group = \"daemon\"");
    fs::write(&bywash.config, &sample).unwrap();
    for name in PROGRAMS {
        let check = bywash::command(name, &["check", "--print"], &bywash.config);
        assert_eq!(check.code, Some(0), "{name}: {check:?}");
        assert!(check.stdout.contains("[metrics]\nlisten = \"127.0.0.1:9598\"\n"), "{}", check.stdout);
    }
    let there: Vec<_> =
        fs::read_dir(bywash.root()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(
        !there.iter().any(|name| name == "app.pipe" || name == "spool"),
        "check has made something: {there:?}"
    );
}

#[test]
fn check_names_the_line_of_a_path_that_cannot_be_used() {
    let bywash = Bywash::new("localhost:9", &Settings { directories: &[], ..Settings::default() });
    let at = |name: &str| bywash.root().join(name);
    fs::write(at("file"), "x").unwrap();
    let lines = fs::read_to_string(&bywash.config).unwrap().lines().count();
    for (section, name, word) in [
        ("fifo", "gone.pipe", "mkfifo"),
        ("fifo", "file", "a regular file"),
        ("directory", "gone", "does not exist"),
        ("directory", "file", "not a directory"),
    ] {
        let before = fs::read_to_string(&bywash.config).unwrap();
        bywash.edit("", &format!("[[{section}]]\npath = {:?}\n", at(name)));
        for command in ["check", "run"] {
            let finished = bywash.fs_agent(&[command]);
            let place = format!("{}:{}: {section}.path: ", bywash.config.display(), lines + 2);
            assert_eq!(finished.code, Some(78), "{finished:?}");
            assert!(
                finished.stderr.contains(&place) && finished.stderr.contains(word),
                "{place}: {}",
                finished.stderr
            );
        }
        fs::write(&bywash.config, before).unwrap();
    }
    let by_flag = bywash.fs_agent(&["check", "--directory", at("gone").to_str().unwrap()]);
    assert!(by_flag.stderr.contains("--directory: directory.path: "), "{}", by_flag.stderr);
}

#[test]
fn check_names_file_line_key_and_value_of_what_is_wrong() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    let wrong = [
        ("[ring]\nname = \"x\"\nsise = \"1MiB\"\n", 3, "ring.sise"),
        ("[ring]\n\nsize = \"12 parsec\"\n", 3, "12 parsec"),
        ("[event]\nencoder = \"xml\"\n", 2, "event.encoder"),
        ("[[directory]]\npath = \"relative\"\n", 2, "directory.path"),
        ("[[directory]]\npath = \"/a\"\n\n[[directory]]\npath = \"/a/b\"\n", 5, "/a/b"),
        ("[kafka]\nbrokers = [\"host:port\"]\n", 2, "kafka.brokers"),
        ("[metrics]\nlisten = \"localhost:9598\"\n", 2, "metrics.listen"),
    ];
    for (text, line, word) in wrong {
        fs::write(&bywash.config, text).unwrap();
        let place = format!("{}:{line}", bywash.config.display());
        for name in PROGRAMS {
            for command in ["check", "run"] {
                assert_says(&bywash::command(name, &[command], &bywash.config), 78, &[&place, word]);
            }
        }
    }
}

#[test]
fn what_the_sink_cannot_use_is_named_with_file_line_and_key() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    let kinesis = "[publisher]\nsink = \"kinesis\"\n";
    let wrong = [
        ("[kafka]\nproperties = { \"linger.ms\" = 5, acks = 1 }\n".to_owned(), 2, "kafka.properties.acks"),
        ("[kafka.properties]\n\n\"no.such\" = 1\n".to_owned(), 3, "kafka.properties.\"no.such\""),
        ("kafka.properties.\"bootstrap.servers\" = \"a:1\"\n".to_owned(), 1, "bootstrap.servers"),
        (
            "[kafka]\ndelivery = \"exactly_once\"\n[[directory]]\npath = \"/a\"\nframing = \"line\"\n"
                .to_owned(),
            2,
            "kafka.delivery",
        ),
        (
            "[kafka.properties]\n\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = \"/gone\"\n"
                .to_owned(),
            3,
            "kafka.properties.\"ssl.ca.location\"",
        ),
        (
            "[kafka.properties]\n\"sasl.password\" = \"${file:/gone/password}\"\n".to_owned(),
            2,
            "kafka.properties.\"sasl.password\": cannot read /gone/password",
        ),
        ("[publisher]\nflush_interval = \"1000000s\"\n".to_owned(), 2, "publisher.flush_interval"),
        (
            format!("{kinesis}batch_records = 501\n[kinesis]\nstream_name = \"s\"\n"),
            3,
            "publisher.batch_records",
        ),
    ];
    for (text, line, key) in wrong {
        fs::write(&bywash.config, text).unwrap();
        let place = format!("{}:{line}: ", bywash.config.display());
        for command in ["check", "run"] {
            assert_says(&bywash::command("publisher", &[command], &bywash.config), 78, &[&place, key]);
        }
    }
    fs::write(&bywash.config, kinesis.to_owned() + "[kinesis]\nstream_name = \"s\"\n").unwrap();
    let by_flag = bywash.publisher_command(&["check", "--buffer-queue-limit", "501"]);
    assert_says(&by_flag, 78, &["--buffer-queue-limit: publisher.batch_records: "]);
}

#[test]
fn an_unreadable_configuration_is_78_and_named() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    let missing = bywash.root().join("missing.toml");
    for name in PROGRAMS {
        assert_says(&bywash::command(name, &["check"], &missing), 78, &[missing.to_str().unwrap()]);
    }
}

// Guarantee: G7
#[test]
fn check_print_shows_the_effective_configuration_without_secrets() {
    let kafka = "properties = { \"sasl.password\" = \"hunter2\", \"linger.ms\" = 7 }";
    let bywash = Bywash::new("localhost:9", &Settings { kafka, ..Settings::default() });
    for name in PROGRAMS {
        let check = bywash::command(name, &["check", "--print", "--topic", "flagged"], &bywash.config);
        assert_eq!(check.code, Some(0), "{check:?}");
        assert!(check.stdout.contains("flagged") && check.stdout.contains("linger.ms"), "{}", check.stdout);
        assert!(!check.stdout.contains("hunter2") && !check.stderr.contains("hunter2"), "{check:?}");
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    for name in PROGRAMS {
        for arguments in [&["--no-such-flag"][..], &["dance"], &[]] {
            let finished = run(Command::new(program(name)).args(arguments), TIMEOUT);
            assert_eq!(finished.code, Some(2), "{name} {arguments:?}: {finished:?}");
        }
    }
}

#[test]
fn flags_alone_are_enough_to_run() {
    let broker = Broker::start();
    let bywash = Bywash::new(&broker.address(), &Settings::default());
    fs::write(&bywash.config, "").unwrap();
    let common = |command: &str| {
        [command, "--ring", &bywash.ring, "--ring-size", "1MiB", "--directory"].map(str::to_owned).to_vec()
    };
    let start = |name: &str| {
        let mut arguments = common("run");
        arguments.push(bywash.directory().to_str().unwrap().to_owned());
        arguments.extend([
            "--brokers".to_owned(),
            broker.address(),
            "--topic".to_owned(),
            "flags".to_owned(),
        ]);
        let on_orphaned = nix::sys::signal::Signal::SIGTERM;
        Process::spawn(name, &program(name), arguments, bywash.root(), on_orphaned)
    };
    let mut agent = start("fs-agent");
    wait::until_true("the overlay", TIMEOUT, || bywash.is_mounted());
    let mut publisher = start("publisher");
    crate::append(&bywash.file("f"), b"by flags");
    assert_eq!(broker.read("flags").events(1)[0].message(), b"by flags");
    assert_eq!(publisher.terminate(TIMEOUT).code(), Some(0));
    assert_eq!(agent.terminate(TIMEOUT).code(), Some(0));
}

#[test]
fn a_second_agent_on_one_ring_is_refused_and_the_first_goes_on() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    // Another directory: the ring is the only thing in common.
    let other = bywash.root().join("other");
    fs::create_dir(&other).unwrap();
    let text = fs::read_to_string(&bywash.config).unwrap();
    let config = bywash.root().join("other.toml");
    fs::write(&config, text.replace(bywash.directory().to_str().unwrap(), other.to_str().unwrap())).unwrap();
    let logs = tempfile::tempdir().unwrap();
    assert_refuses(bywash::spawn("fs-agent", &config, logs.path()), 1, &[&bywash.ring, "another fs-agent"]);
    assert!(!mounts::is_mounted(&other), "a refused agent mounts nothing");
    crate::append(&bywash.file("f"), b"still here");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"still here");
}

#[test]
fn a_second_publisher_on_one_ring_is_refused_and_the_first_goes_on() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let logs = tempfile::tempdir().unwrap();
    let second = bywash::spawn("publisher", &bywash.config, logs.path());
    assert_refuses(second, 1, &[&bywash.ring, "another publisher"]);
    crate::append(&bywash.file("f"), b"still here");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"still here");
}

#[test]
fn a_ring_that_shared_memory_has_no_room_for_is_refused_before_anything_is_mounted() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can mount a small filesystem over shared memory");
    }
    let bywash = Bywash::new("localhost:9", &Settings::default());
    // In a mount namespace of its own, so that nobody else has little shared memory. It starts with a copy of all
    // mounts, so with the overlays of the tests that run beside this one: only this one's directory counts.
    let script = "mount -t tmpfs -o size=1M none /dev/shm && \"$0\" run --config \"$1\"; code=$?
        ls /dev/shm; grep -F \"$2\" /proc/self/mountinfo; exit $code";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(program("fs-agent")).arg(&bywash.config);
    command.arg(bywash.directory());
    let refused = run(&mut command, TIMEOUT);
    assert_says(&refused, 1, &["no room for a ring", "/dev/shm", "ring.size"]);
    assert_eq!(refused.stdout, "", "nothing is left behind");
}

#[test]
fn a_missing_directory_is_refused_and_named() {
    let bywash =
        Bywash::new("localhost:9", &Settings { directories: &["there", "gone"], ..Settings::default() });
    let gone = bywash.root().join("gone");
    fs::remove_dir(&gone).unwrap();
    let mut agent = bywash::spawn("fs-agent", &bywash.config, bywash.root());
    let status = agent.wait(TIMEOUT);
    assert!(matches!(status.code(), Some(1 | 78)), "{status}");
    assert!(agent.log().contains(gone.to_str().unwrap()), "{}", agent.log());
    assert!(!bywash.is_mounted(), "half a start leaves nothing mounted");
}

#[test]
fn a_directory_that_is_overlaid_already_is_refused_and_named() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let text = fs::read_to_string(&bywash.config).unwrap();
    let config = bywash.root().join("other.toml");
    let other_ring = format!("{}-b", bywash.ring);
    fs::write(&config, text.replace(&format!("{:?}", bywash.ring), &format!("{other_ring:?}"))).unwrap();
    let logs = tempfile::tempdir().unwrap();
    let directory = bywash.directory().to_str().unwrap().to_owned();
    let second = bywash::spawn("fs-agent", &config, logs.path());
    assert_refuses(second, 1, &[&directory]);
    assert_eq!(mounts::below(bywash.directory()).len(), 1);
    crate::append(&bywash.file("f"), b"still here");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"still here");
    for segment in fs::read_dir("/dev/shm").unwrap().flatten() {
        if segment.file_name().to_string_lossy().starts_with(&other_ring) {
            fs::remove_file(segment.path()).unwrap();
        }
    }
}

#[test]
fn an_unknown_broker_is_named_by_check_and_in_the_log() {
    let address = broker::free_address().to_string();
    let mut bywash = Bywash::new(&address, &Settings::default());
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_says(&check, 1, &[&address]);
    bywash.start_agent();
    bywash.start_publisher();
    crate::append(&bywash.file("f"), b"x");
    let publisher = bywash.publisher();
    wait::until("the log to name the broker", TIMEOUT, || {
        let log = publisher.log();
        if log.contains(&address) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn check_connect_is_0_with_an_answering_broker() {
    let broker = Broker::start();
    let bywash = Bywash::new(&broker.address(), &Settings::default());
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:?}");
}

#[test]
fn an_agent_needs_no_publisher_and_a_publisher_waits_for_its_agent() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.publisher = Some(bywash::spawn("publisher", &bywash.config, bywash.root()));
    bywash.start_agent();
    crate::append(&bywash.file("f"), b"late agent");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"late agent");
}
