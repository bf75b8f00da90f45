//! Nothing that a user chooses is obeyed by the terminal of whoever looks, or passes for a line of the program's own.

use std::path::Path;

use bywash_tests::harness::{
    Bywash, Fault, FaultProxy, Kinesis, Process, Settings, program,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use crate::append;

/// Sets the title, clears the screen, turns the name round, begins a line of its own; in one byte a character too.
const NAME: &str =
    "\u{1b}]0;PWNED\u{7}\u{1b}[2J\u{202e}gol.\u{9b}31m\u{2066}\nforged-id 2026-01-01 topic logs";
/// None of these comes from the programs themselves.
const OBEYED: [char; 9] =
    ['\u{1b}', '\u{7}', '\u{8}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{feff}'];

/// A publisher with one dead letter, its record of the same key, and a stream that holds what others wrote.
struct Scene {
    _kinesis: Kinesis,
    _proxy: FaultProxy,
    bywash: Bywash,
}

impl Scene {
    fn new() -> Self {
        let kinesis = Kinesis::start();
        kinesis.create_stream("logs", 1);
        let proxy = FaultProxy::start(&kinesis);
        let settings = Settings { encoder: "logstash", ..Settings::DEFAULT };
        let mut bywash = Bywash::for_kinesis(&proxy.url(), &settings);
        proxy.plan(|put| {
            let is_poison = |data: &Vec<u8>| String::from_utf8_lossy(data).contains("poison");
            if put.data.iter().any(is_poison) {
                Fault::Call(
                    400,
                    "ValidationException",
                    "bad \u{1b}[31mrecord\u{202e}\n2026-01-01 ERROR forged",
                )
            } else {
                Fault::None
            }
        });
        bywash.start_agent();
        bywash.start_publisher();
        append(&bywash.file(NAME), b"poison");
        append(
            &bywash.file(&format!("good {NAME}")),
            format!("{NAME}\u{7f}\u{8}\u{2028}\u{feff} end").as_bytes(),
        );
        bywash.drain(TIMEOUT);
        assert_eq!(crate::failed::dead_letters(&bywash).len(), 1);
        Self { _kinesis: kinesis, _proxy: proxy, bywash }
    }

    /// What a command prints on a terminal, until it has printed `text`.
    #[track_caller]
    fn on_a_terminal(&self, name: &str, arguments: &str, text: &str) -> String {
        let config = self.bywash.config.display();
        let command = format!("{} {arguments} --config {config}", program(name).display());
        let script = ["script", "-q", "-e", "-f", "-c", &command, "/dev/null"];
        let words = self.bywash.environment.iter().map(String::as_str).chain(script);
        // Their outputs go to files of this name.
        let name = arguments.replace(' ', "-");
        let process = Process::spawn(&name, Path::new("env"), words, self.bywash.root(), Signal::SIGKILL);
        wait::until(&format!("{text:?} on a terminal"), TIMEOUT, || {
            let printed = process.stdout();
            if printed.contains(text) { Ok(printed) } else { Err(printed) }
        })
    }
}

/// Nothing is obeyed, and no line begins as one of the program's own.
#[track_caller]
fn assert_shown(what: &str, text: &str) {
    let obeyed: Vec<char> = text.chars().filter(|c| OBEYED.contains(c)).collect();
    assert!(obeyed.is_empty(), "{what} has {obeyed:?}: {text:?}");
    let is_forged = |line: &str| line.starts_with("forged") || line.starts_with("2026-01-01");
    assert!(!text.lines().any(is_forged), "{what} has a line that somebody else has written: {text:?}");
}

#[test]
fn a_terminal_and_a_log_obey_nobody_else() {
    let mut scene = Scene::new();
    let visible = "\\u{202e}gol.";
    assert_shown("a list", &scene.on_a_terminal("publisher", "failed list", visible));
    let in_json = "\\u202egol.";
    assert_shown("a list in JSON", &scene.on_a_terminal("publisher", "failed list --json", in_json));
    assert_shown(
        "what was consumed",
        &scene.on_a_terminal("publisher", "consume --from-beginning --max 1", "command: "),
    );
    let status = scene.on_a_terminal("publisher", "status", "behind");
    assert_shown("a status", &status);
    let listed = scene.bywash.publisher_command(&["failed", "list"]);
    assert_shown("a list to a file", &listed.stdout);
    // The first line of each is the program's own.
    let log = scene.bywash.publisher().log();
    assert!(log.contains("\\u{1b}[31mrecord"), "{log:?}");
    assert_shown("the publisher's log", &log);
    scene.bywash.publisher().terminate(TIMEOUT);
    // What others wrote goes to a terminal as it is delivered, too.
    append(&scene.bywash.file("f"), NAME.as_bytes());
    let run = scene.on_a_terminal("publisher", "run --sink stdout --encoder raw", visible);
    let obeyed: Vec<char> = run.chars().filter(|c| OBEYED[1..].contains(c)).collect();
    assert!(obeyed.is_empty(), "{obeyed:?}: {run:?}");
    assert!(!run.contains("\u{1b}]0;") && !run.contains("\u{1b}[2J"), "{run:?}");
}

#[test]
fn the_agents_status_and_log_obey_nobody_else() {
    let mut bywash = Bywash::new("localhost:9", &Settings::DEFAULT);
    let directory = bywash.root().join(NAME);
    std::fs::create_dir(&directory).unwrap();
    // In TOML's own notation.
    let path: String =
        directory.display().to_string().chars().map(|c| format!("\\U{:08x}", c as u32)).collect();
    bywash.edit("", &format!("\n[[directory]]\npath = \"{path}\"\n"));
    bywash.start_agent();
    let status = bywash.fs_agent(&["status"]);
    assert!(status.stdout.contains("\\u{202e}gol."), "{status:?}");
    assert_shown("a status", &status.stdout);
    let json = bywash.fs_agent(&["status", "--json"]);
    assert_shown("a status in JSON", &json.stdout);
    let parsed: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(parsed.to_string().contains("\u{202e}gol."), "{parsed}");
    let log = bywash.agent().log();
    assert!(log.contains("\\u{202e}gol."), "{log:?}");
    assert_shown("the agent's log", &log);
    let check = bywash.fs_agent(&["check", "--no-such-\u{1b}[2J"]);
    assert_shown("a refusal", &check.stderr);
}

#[test]
fn what_brokers_libraries_are_told_in_confidence_is_in_no_log() {
    let secrets = [
        ("sasl.oauthbearer.config", "hunter2-config=1"),
        ("sasl.oauthbearer.assertion.private.key.passphrase", "hunter2-passphrase"),
        ("sasl.password", "hunter2-password"),
        ("ssl.key.password", "hunter2-key"),
    ];
    let properties: String =
        secrets.iter().map(|(name, value)| format!(", \"{name}\" = \"{value}\"")).collect();
    let mut bywash = Bywash::new("127.0.0.1:9", &Settings::DEFAULT);
    bywash.edit(
        "[kafka]",
        &format!(
            "[kafka]\nproperties = {{ \"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"OAUTHBEARER\", \
             \"enable.sasl.oauthbearer.unsecure.jwt\" = \"true\", \"sasl.username\" = \"somebody-we-know\"{properties} }}"
        ),
    );
    let check = bywash.publisher_command(&["check", "--print"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert_eq!(check.stdout.matches("[redacted]").count(), secrets.len() + 1, "{check:?}");
    assert!(!check.stdout.contains("hunter2") && !check.stdout.contains("somebody-we-know"), "{check:?}");
    bywash.start_agent();
    bywash.start_publisher();
    let publisher = bywash.publisher();
    // librdkafka says what it cannot make out.
    wait::until("a secret in librdkafka's words", TIMEOUT, || {
        let log = publisher.log();
        if log.contains("[redacted]") { Ok(()) } else { Err(log) }
    });
    let log = publisher.log();
    assert!(!log.contains("hunter2"), "{log}");
}
