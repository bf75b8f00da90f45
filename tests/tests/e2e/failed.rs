//! Messages that can never be delivered: kept with their reason, and the rest goes on (G6).

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use bywash_tests::harness::{
    Broker, Bywash, Settings, ledger,
    wait::{self, TIMEOUT},
};
use serde_json::Value;

use crate::append;

/// Messages so small that a long path leaves no room in them.
pub const TINY_MESSAGES: &str = "properties = { \"message.max.bytes\" = 2000 }";

/// A dead letter as it is on disk.
#[derive(Debug)]
pub struct DeadLetter {
    /// The event's id.
    pub event_id: String,
    /// The whole object.
    pub json: Value,
}

/// A new file whose path alone fills a message.
pub fn unsendable(bywash: &Bywash) -> PathBuf {
    let deep: PathBuf = (0..5).map(|_| "d".repeat(250)).collect();
    let directory = bywash.file("deep").join(deep);
    fs::create_dir_all(&directory).expect("directories");
    directory.join("file")
}

/// The files with dead letters, oldest first.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    files
}

/// All dead letters, oldest first.
pub fn dead_letters(bywash: &Bywash) -> Vec<DeadLetter> {
    let read = |file: &PathBuf| match fs::read_to_string(file) {
        // The publisher has delivered it meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.unwrap(),
    };
    let text: String = files(&bywash.failed()).iter().map(read).collect();
    let dead_letter = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        DeadLetter { event_id: json["event_id"].as_str().expect("an id").to_owned(), json }
    };
    text.lines().map(dead_letter).collect()
}

#[test]
fn what_no_message_can_carry_is_kept_with_its_reason_and_the_rest_goes_on() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { kafka: TINY_MESSAGES, ..Settings::default() });
    let unsendable = unsendable(&bywash);
    append(&bywash.file("f"), b"before ");
    append(&unsendable, b"too much");
    append(&bywash.file("f"), b"after");
    let (events, _) = ledger::distinct(broker.read("logs").events(2));
    assert_eq!(ledger::replay(&events), b"before after");
    bywash.drain(TIMEOUT);

    let [dead_letter] = &dead_letters(&bywash)[..] else { panic!("{:?}", dead_letters(&bywash)) };
    assert!(dead_letter.json["reason"].as_str().unwrap().contains("the sink takes"), "{dead_letter:?}");
    assert_eq!(dead_letter.json["topic"], "logs");
    assert_eq!(dead_letter.json["key"], unsendable.to_str().unwrap());
    let event: Value = serde_json::from_str(dead_letter.json["payload"].as_str().unwrap()).unwrap();
    assert_eq!(event["@message"], base64_simd::STANDARD.encode_to_string("too much"));
    assert_eq!(event["event_id"], dead_letter.event_id);
    let mode = fs::metadata(&files(&bywash.failed())[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = bywash.publisher_status();
    assert_eq!((&status["failed_messages"], &status["dead_letters"]), (&1.into(), &1.into()), "{status}");
}

#[test]
fn without_dead_letters_a_loss_event_takes_the_messages_place() {
    let broker = Broker::start();
    let settings = Settings { kafka: TINY_MESSAGES, failed: "size_max = 0", ..Settings::default() };
    let bywash = Bywash::start(&broker, &settings);
    append(&unsendable(&bywash), b"too much");
    append(&bywash.file("f"), b"after");
    let events = broker.read("logs").events(2);
    assert_eq!(
        events[0].lost().map(|lost| (lost.reason, lost.events, lost.bytes)),
        Some(("undeliverable".to_owned(), 1, 8))
    );
    assert_eq!(events[1].message(), b"after");
}

#[test]
fn a_configured_directory_that_cannot_be_used_ends_the_start() {
    let mut bywash = Bywash::new("localhost:9", &Settings::default());
    bywash.start_agent();
    fs::write(bywash.failed(), b"not a directory").unwrap();
    let mut publisher = bywash_tests::harness::bywash::spawn("publisher", &bywash.config, bywash.root());
    assert_eq!(publisher.wait(TIMEOUT).code(), Some(1));
    assert!(publisher.log().contains(bywash.failed().to_str().unwrap()), "{}", publisher.log());
}

#[test]
fn a_directory_under_a_watched_one_is_refused_with_both_names() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    let inside = bywash.file("failed");
    let flag = format!("--failed-attempts-dir={}", inside.display());
    let check = bywash.publisher_command(&["check", &flag]);
    assert_eq!(check.code, Some(78), "{check:?}");
    for word in ["--failed-attempts-dir", inside.to_str().unwrap(), bywash.directory().to_str().unwrap()] {
        assert!(check.stderr.contains(word), "{word}: {check:?}");
    }
}

#[test]
fn whose_the_directory_is_has_root_wait_for_nothing_and_show_and_remove_nothing_elsewhere() {
    const PUBLISHER: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can give files away");
    }
    let bywash = Bywash::new("localhost:9", &Settings::default());
    let (failed, secret) = (bywash.failed(), bywash.root().join("secret"));
    fs::set_permissions(bywash.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&failed).unwrap();
    lchown(&failed, Some(PUBLISHER), Some(PUBLISHER)).unwrap();
    nix::unistd::mkfifo(&failed.join("1.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    lchown(failed.join("1.jsonl"), Some(PUBLISHER), Some(PUBLISHER)).unwrap();
    let said = bywash.publisher_command(&["failed", "list"]);
    assert!(said.code == Some(1) && said.stderr.contains("no regular file"), "{said:?}");
    fs::remove_dir_all(&failed).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("x.jsonl"), "root's\n").unwrap();
    symlink(&secret, &failed).unwrap();
    lchown(&failed, Some(PUBLISHER), Some(PUBLISHER)).unwrap();
    for command in [&["failed", "list", "--json"], &["failed", "drop", "--all"]] {
        let said = bywash.publisher_command(command);
        assert!(said.code == Some(1) && said.stderr.contains("link of uid 65534"), "{said:?}");
        assert!(!said.stdout.contains("root's"), "{said:?}");
    }
    assert!(secret.join("x.jsonl").exists());
}

// Guarantee: G6
#[test]
fn dead_letters_are_listed_sent_again_and_dropped() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings { kafka: TINY_MESSAGES, ..Settings::default() });
    let unsendable = unsendable(&bywash);
    for text in ["one", "two"] {
        append(&unsendable, text.as_bytes());
    }
    bywash.drain(TIMEOUT);
    let ids: Vec<String> =
        dead_letters(&bywash).into_iter().map(|dead_letter| dead_letter.event_id).collect();
    let listed = bywash.publisher_command(&["failed", "list"]);
    assert!(ids.iter().all(|id| listed.stdout.contains(id.as_str())), "{listed:?}");
    assert!(listed.stdout.contains("reason: "), "{listed:?}");
    let json = bywash.publisher_command(&["failed", "list", "--json"]);
    assert_eq!(json.stdout.lines().count(), 2, "{json:?}");

    let dropped = bywash.publisher_command(&["failed", "drop", &ids[0]]);
    assert_eq!(dropped.stdout, "1 dead letters are dropped\n", "{dropped:?}");
    let again = bywash.publisher_command(&["failed", "drop", &ids[0]]);
    assert_eq!(again.code, Some(1), "{again:?}");

    // With a larger limit the sink takes the other one.
    bywash.publisher().terminate(TIMEOUT);
    let stopped = bywash.publisher_command(&["failed", "retry"]);
    assert_eq!(stopped.code, Some(3), "{stopped:?}");
    bywash.edit("\"message.max.bytes\" = 2000", "\"message.max.bytes\" = 200000");
    bywash.start_publisher();
    let retried = bywash.publisher_command(&["failed", "retry"]);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    let events = broker.read("logs").events(1);
    assert_eq!((events[0].id(), events[0].message()), (ids[1].as_str(), &b"two"[..]));
    wait::until("the delivered dead letter to be gone", TIMEOUT, || {
        let left = dead_letters(&bywash);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
