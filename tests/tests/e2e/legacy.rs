//! Moving from fuse_kafka: its configuration as it is, and its quickstart.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bywash_tests::harness::{
    Broker, Bywash, Process, Settings, bywash,
    process::{Finished, run},
    program,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

const PROPERTIES: &str = include_str!("../../fixtures/fuse_kafka.properties");
const DIRECTORY: &str = "/tmp/fuse-kafka-test";

/// fuse_kafka's configuration, with another directory and broker: that is all that a test has to have otherwise.
struct Legacy {
    /// Cleans up the ring and mounts.
    bywash: Bywash,
    config: PathBuf,
    directory: PathBuf,
}

impl Legacy {
    fn new(broker: &Broker, patch: impl FnOnce(String) -> String) -> Self {
        let bywash = Bywash::new(&broker.address(), &Settings::default());
        let directory = bywash.root().join("fuse-kafka-test");
        let zookeepers = "fuse_kafka_zookeepers=[\"127.0.0.1:2181\"]";
        assert!(PROPERTIES.contains(zookeepers) && PROPERTIES.contains(DIRECTORY));
        let text = PROPERTIES
            .replace(DIRECTORY, directory.to_str().unwrap())
            .replace(zookeepers, &format!("fuse_kafka_brokers=[\"{}\"]", broker.address()));
        let config = bywash.root().join("fuse_kafka.properties");
        fs::write(&config, patch(text)).unwrap();
        Self { bywash, config, directory }
    }

    /// A command of one of the two programs.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program(name));
        command.args(arguments).arg("--config").arg(&self.config).args(["--ring", &self.bywash.ring]);
        command
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Finished {
        run(&mut self.command(name, arguments), TIMEOUT)
    }

    fn start(&self, name: &str) -> Process {
        let ring = self.bywash.ring.as_str();
        let arguments = ["run", "--config", self.config.to_str().unwrap(), "--ring", ring];
        Process::spawn(name, &program(name), arguments, self.bywash.root(), Signal::SIGTERM)
    }

    fn start_both(&mut self) {
        self.bywash.agent = Some(self.start("fs-agent"));
        let listening = format!("listening on {}\n", self.directory.display());
        wait::until("the overlay", TIMEOUT, || {
            let status = self.run("fs-agent", &["status"]);
            if status.code == Some(0) && status.stdout.contains(&listening) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
        self.bywash.publisher = Some(self.start("publisher"));
    }
}

/// `bash -c 'echo "foo"' > FILE`
fn echo_foo(path: &Path) -> u32 {
    let file = File::create(path).unwrap();
    let mut shell =
        Command::new("bash").args(["-c", "echo \"foo\""]).stdout(Stdio::from(file)).spawn().expect("bash");
    assert!(shell.wait().unwrap().success());
    shell.id()
}

#[test]
fn both_programs_check_the_configuration_of_fuse_kafka_and_print_it_as_their_own() {
    let broker = Broker::start();
    let legacy = Legacy::new(&broker, |text| text);
    for name in ["fs-agent", "publisher"] {
        let check = legacy.run(name, &["check", "--print"]);
        assert_eq!(check.code, Some(0), "{name}: {check:?}");
        assert!(check.stderr.contains("inotify"), "what takes its place is said: {check:?}");
        // What is printed means the same.
        let converted = legacy.bywash.root().join(format!("{name}.toml"));
        fs::write(&converted, &check.stdout).unwrap();
        let again = bywash::command(name, &["check", "--print"], &converted);
        assert_eq!((again.code, again.stdout), (Some(0), check.stdout), "{name}: {}", again.stderr);
    }
    assert!(!legacy.directory.exists(), "check changes nothing");
}

#[test]
fn what_cannot_be_taken_over_is_refused_with_file_line_and_the_new_way() {
    let broker = Broker::start();
    let legacy = Legacy::new(&broker, |text| text.replace("[\"inotify\"]", "[\"read_directory_changes\"]"));
    let line = fs::read_to_string(&legacy.config)
        .unwrap()
        .lines()
        .position(|line| line.contains("read_directory_changes"))
        .unwrap();
    let place = format!("{}:{}", legacy.config.display(), line + 1);
    for name in ["fs-agent", "publisher"] {
        let check = legacy.run(name, &["check"]);
        assert_eq!(check.code, Some(78), "{check:?}");
        for word in [place.as_str(), "fuse_kafka_input", "read_directory_changes", "overlay"] {
            assert!(check.stderr.contains(word), "`{word}` is not in: {}", check.stderr);
        }
    }
}

#[test]
fn the_quickstart_of_fuse_kafka_works_as_it_did() {
    let broker = Broker::start();
    let mut legacy = Legacy::new(&broker, |text| text);
    legacy.start_both();
    let pid = echo_foo(&legacy.directory.join("bar"));
    let consumed = legacy.run("publisher", &["consume", "--from-beginning", "--max", "1"]);
    assert_eq!(consumed.code, Some(0), "{consumed:?}");
    let path = legacy.directory.join("bar");
    for line in [
        "event:".to_owned(),
        "    @tags:".to_owned(),
        "        -  test".to_owned(),
        "    @fields:".to_owned(),
        "         hostname: test".to_owned(),
        format!("    pid: {pid}"),
        "    command: bash -c echo \"foo\"".to_owned(),
        "    @message: foo".to_owned(),
        format!("    path: {}", path.display()),
    ] {
        assert!(consumed.stdout.lines().any(|l| l == line), "no `{line}` in:\n{}", consumed.stdout);
    }
    let mut select = legacy.command("publisher", &["consume", "--from-beginning", "--max", "1"]);
    let selected = run(select.env("SELECT", "message_size-added path"), TIMEOUT);
    assert_eq!(selected.stdout, format!("event:\n    message_size-added: 4\n    path: {}\n", path.display()));
    let agent = legacy.bywash.agent().terminate(TIMEOUT);
    assert_eq!(agent.code(), Some(0));
    assert_eq!(legacy.run("fs-agent", &["status"]).code, Some(3));
    assert_eq!(fs::read(path).unwrap(), b"foo\n");
}

#[test]
fn the_commands_that_the_documents_name_exist() {
    let document = include_str!("../../../docs/migrate-fuse_kafka.md");
    let (_, moving) = document.split_once("| fuse_kafka's command |").expect("the table of commands");
    let table = moving.split("\n\n").next().unwrap();
    let mut named = 0;
    for (i, word) in table.split('`').enumerate().filter(|(i, _)| i % 2 == 1) {
        let mut words = word.split(' ').skip_while(|word| !["fs-agent", "publisher"].contains(word));
        if let (Some(name), Some(command)) = (words.next(), words.next()) {
            let help = run(Command::new(program(name)).args([command, "--help"]), TIMEOUT);
            assert_eq!(help.code, Some(0), "{i}: {word}: {help:?}");
            named += 1;
        }
    }
    assert!(named >= 7, "{named} commands in {table}");
}
