//! How events look: the seed's format key for key, the other encoders, and the form for people.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bywash_tests::harness::{Broker, Bywash, Event, Settings, process::must_run, wait::TIMEOUT};
use nix::unistd::{Gid, Group, Uid, User};
use serde_json::{Value, json};

use crate::append;

/// The seed's keys in the seed's order, then ours.
const KEYS: [&str; 15] = [
    "path",
    "pid",
    "uid",
    "gid",
    "@message",
    "@timestamp",
    "user",
    "group",
    "command",
    "@version",
    "@fields",
    "@tags",
    "offset",
    "event_id",
    "sequence",
];

/// Bytes that are not UTF-8, and all that JSON escapes.
const AWKWARD: &[u8] =
    b"\"quoted\" \\back\\ \0 \x01\x1f\x7f \n\r\t \xff\xfe \xed\xa0\x80 \xf0\x9f\x98\x80 </script>";

/// The README's first command; gives the pid of the shell that wrote.
fn write_foo(path: &Path) -> u32 {
    let bar = File::create(path).unwrap();
    let mut shell =
        Command::new("bash").args(["-c", "echo \"foo\""]).stdout(Stdio::from(bar)).spawn().expect("bash");
    assert!(shell.wait().unwrap().success());
    shell.id()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The seed's `2014-09-11T14:19:09.000+0000`, as time since the epoch.
#[track_caller]
fn time_of(timestamp: &str) -> Duration {
    let shape: String = timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000+0000", "{timestamp}");
    let time = jiff::Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", timestamp).expect("a time");
    Duration::from_millis(u64::try_from(time.as_millisecond()).unwrap())
}

#[track_caller]
fn assert_within(timestamp: &str, begin: Duration, end: Duration) {
    let time = time_of(timestamp);
    // The format has milliseconds.
    let begin = begin - Duration::from_millis(1);
    assert!((begin..=end).contains(&time), "{timestamp} is not between {begin:?} and {end:?}");
}

#[test]
fn an_event_has_the_seeds_keys_types_and_values_in_the_seeds_order() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let begin = now();
    let pid = write_foo(&bywash.file("bar"));
    let end = now();
    let event = broker.read("logs").events(1).remove(0);
    assert_eq!(event.json.keys().map(String::as_str).collect::<Vec<_>>(), KEYS);
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let user = User::from_uid(uid).unwrap().map_or(uid.to_string(), |user| user.name);
    let group = Group::from_gid(gid).unwrap().map_or(gid.to_string(), |group| group.name);
    let expected = json!({
        "path": bywash.file("bar").to_str().unwrap(),
        "pid": pid,
        "uid": uid.as_raw(),
        "gid": gid.as_raw(),
        "@message": "Zm9vCg==",
        "user": user,
        "group": group,
        "@version": env!("CARGO_PKG_VERSION"),
        "@fields": {"hostname": "test"},
        "@tags": ["test"],
        "offset": 0,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(event.get(key), value, "{key}");
    }
    assert_within(event.text("@timestamp"), begin, end);
    // argv joined by spaces, with the seed's trailing space.
    assert_eq!(event.base64("command"), b"bash -c echo \"foo\" ");
    let sequence = event.number("sequence");
    let uuid = event.id().strip_suffix(&format!("-{sequence}")).expect("the sequence ends the event_id");
    let shape: String = uuid.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
    assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    assert_eq!(event.key.as_deref(), Some(event.path().as_bytes()), "events of one file share a partition");
}

#[test]
fn an_event_names_the_user_who_wrote_and_not_the_agents() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can write as somebody else");
    }
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    for directory in [bywash.root(), bywash.directory()] {
        must_run(Command::new("chmod").arg("0777").arg(directory));
    }
    let nobody = User::from_name("nobody").unwrap().expect("a user nobody");
    // A group without a name: the number stands for it.
    let gid = (60_000..).find(|gid| Group::from_gid(Gid::from_raw(*gid)).unwrap().is_none()).unwrap();
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", "nobody", "--regid", &gid.to_string(), "--clear-groups"]);
    must_run(setpriv.args(["bash", "-c", "echo mine > \"$0\""]).arg(bywash.file("f")));
    let event = broker.read("logs").events(1).remove(0);
    let seen = (event.number("uid"), event.number("gid"), event.text("user"), event.text("group"));
    assert_eq!(seen, (nobody.uid.as_raw().into(), gid.into(), "nobody", gid.to_string().as_str()));
}

#[test]
fn sequence_numbers_follow_one_another() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    for i in 0..10 {
        append(&bywash.file("f"), format!("{i}").as_bytes());
    }
    let events = broker.read("logs").events(10);
    let first = events[0].number("sequence");
    let sequences: Vec<_> = events.iter().map(|event| event.number("sequence")).collect();
    assert_eq!(sequences, (first..first + 10).collect::<Vec<_>>());
}

#[test]
fn logstash_holds_message_and_command_as_text_and_loses_no_byte() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { encoder: "logstash", ..Settings::default() });
    write_foo(&bywash.file("bar"));
    append(&bywash.file("awkward"), AWKWARD);
    let messages = broker.read("logs").messages(2);
    let [plain, awkward] = &messages[..] else { panic!("{} messages", messages.len()) };
    let plain: Value = serde_json::from_slice(&plain.payload).expect("JSON");
    assert_eq!(plain["@message"], "foo\n");
    assert_eq!(plain["command"], "bash -c echo \"foo\" ");
    let keys: Vec<_> = plain.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS, "the same keys as logstash_base64 where all is UTF-8");

    let awkward: Value = serde_json::from_slice(&awkward.payload).expect("JSON, whatever bytes came in");
    assert_eq!(awkward["@message"], String::from_utf8_lossy(AWKWARD).as_ref());
    let encoded = base64_simd::STANDARD.encode_to_string(AWKWARD);
    assert_eq!(awkward["@message_base64"], encoded, "the exact bytes beside, where they are not UTF-8");
}

#[test]
fn text_is_timestamp_path_and_message() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { encoder: "text", ..Settings::default() });
    let begin = now();
    append(&bywash.file("bar"), b"a: b\n");
    let end = now();
    let message = broker.read("logs").messages(1).remove(0).text();
    let path = bywash.file("bar");
    let (timestamp, rest) = message.split_once(": ").expect("a timestamp and more");
    assert_eq!(rest.trim_end_matches('\n'), format!("{}: a: b", path.display()));
    assert_within(timestamp, begin, end);
}

#[test]
fn raw_is_the_written_bytes_alone() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { encoder: "raw", ..Settings::default() });
    append(&bywash.file("a"), AWKWARD);
    append(&bywash.file("a"), b"\n");
    let messages = broker.read("logs").messages(2);
    assert_eq!(messages[0].payload, AWKWARD);
    assert_eq!(messages[1].payload, b"\n");
}

#[test]
fn every_event_parses_whatever_name_and_command_wrote_it() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { encoder: "logstash", ..Settings::default() });
    let path = bywash.file("na\"me \\ with\nnewline \u{1} äö");
    // $0 becomes part of the command line.
    let mut shell = Command::new("bash");
    shell.args(["-c", "printf x >> \"$1\"", "\"\\\n\u{7}\u{7f}"]).arg(&path);
    must_run(&mut shell);
    let message = broker.read("logs").messages(1).remove(0);
    let json: Value = serde_json::from_slice(&message.payload).expect("JSON");
    assert_eq!(json["path"], path.to_str().unwrap());
    let command = format!("bash -c printf x >> \"$1\" \"\\\n\u{7}\u{7f} {} ", path.display());
    assert_eq!(json["command"], command);
}

#[test]
fn a_long_command_line_is_cut_and_the_event_parses() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let long = "ä".repeat(10_000);
    must_run(Command::new("bash").args(["-c", "printf x >> \"$0\""]).arg(bywash.file("f")).arg(&long));
    let event = broker.read("logs").events(1).remove(0);
    let command = event.base64("command");
    assert!(command.starts_with(b"bash -c printf x"), "{}", String::from_utf8_lossy(&command));
    assert!((1_000..=4_096).contains(&command.len()), "{} bytes", command.len());
}

#[test]
fn consume_prints_events_as_the_seeds_consumer_did() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let pid = write_foo(&bywash.file("bar"));
    bywash.drain(TIMEOUT);
    let event: Event = broker.read("logs").events(1).remove(0);
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "1"]);
    assert_eq!(consumed.code, Some(0), "{consumed:?}");
    let mut lines = consumed.stdout.lines();
    assert_eq!(lines.next(), Some("event:"), "{}", consumed.stdout);
    let path = bywash.file("bar");
    for expected in [
        format!("    path: {}", path.display()),
        format!("    pid: {pid}"),
        "    @message: foo".to_owned(),
        "    command: bash -c echo \"foo\"".to_owned(),
        format!("    user: {}", event.text("user")),
        format!("    group: {}", event.text("group")),
        format!("    @timestamp: {}", event.text("@timestamp")),
        format!("    @version: {}", event.text("@version")),
        "    @tags:".to_owned(),
        "        -  test".to_owned(),
        "    @fields:".to_owned(),
        "         hostname: test".to_owned(),
    ] {
        let found = consumed.stdout.lines().any(|line| line.trim_end() == expected);
        assert!(found, "`{expected}` is not a line of:\n{}", consumed.stdout);
    }
}

#[test]
fn consume_selects_what_is_asked_for() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    append(&bywash.file("bar"), b"foo\n");
    bywash.drain(TIMEOUT);
    let arguments = ["consume", "--select", "path,@message", "--from-beginning", "--max", "1"];
    let consumed = bywash.publisher_command(&arguments);
    assert_eq!(consumed.code, Some(0), "{consumed:?}");
    let mut lines: Vec<_> =
        consumed.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    let path = format!("path: {}", bywash.file("bar").display());
    assert_eq!(lines, ["@message: foo".to_owned(), "event:".to_owned(), path]);
}
