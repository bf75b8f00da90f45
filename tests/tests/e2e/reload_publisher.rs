//! SIGHUP: the publisher reads its configuration again, and loses nothing over it.

use std::fs::{self, File};

use bywash_tests::harness::{Broker, Bywash, Load, Settings, ledger, wait::TIMEOUT};

use crate::{append, write_once};

#[test]
fn fields_and_topic_change_under_load_and_no_write_is_lost() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let load = Load { id: 1, files: vec![bywash.file("f")], count: 1_000_000, bytes: 100, rate: 2_000 };
    let writer = load.start(bywash.root());
    broker.read("logs").events(100);
    bywash.edit("hostname = \"test\"", "hostname = \"after\"");
    bywash.edit("tags = [\"test\"]", "tags = [\"new\", \"tags\"]");
    bywash.edit("topic = \"logs\"", "topic = \"later\"");
    let said = bywash.reload_publisher();
    assert!(said.contains("in force") && !said.contains("restarted"), "{said}");
    let mut reader = broker.read("later");
    // Each write is a record: the number of the first one here is how many went to the other topic.
    let split = reader.events(100).iter().map(|event| event.number("sequence")).min().unwrap();
    let report = writer.stop();
    assert_eq!(report.error, None);
    let [written, split] = [report.written, split].map(|n| usize::try_from(n).unwrap());
    let before = broker.read("logs").events(split);
    let later = reader.events(written - split);
    for (events, hostname, tags) in [(&before, "test", vec!["test"]), (&later, "after", vec!["new", "tags"])]
    {
        for event in events {
            assert_eq!((&event.get("@fields")["hostname"], event.tags()), (&hostname.into(), tags.clone()));
        }
    }
    let (all, duplicates) = ledger::distinct(before.into_iter().chain(later).collect());
    assert_eq!((all.len(), duplicates), (written, 0));
    let files = ledger::by_path(&all);
    let events = &files[load.files[0].to_str().unwrap()];
    ledger::assert_contiguous(events);
    ledger::assert_same_bytes(
        "the file",
        &load.expected(report.written)[0].1,
        &ledger::replay(events.iter().copied()),
    );
}

#[test]
fn a_broken_configuration_is_refused_and_the_old_one_stays() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let good = fs::read_to_string(&bywash.config).unwrap();
    for (part, by, words) in [
        ("encoder = \"logstash_base64\"", "encoder = \"xml\"", ["event.encoder", "xml"]),
        ("topic = \"logs\"", "topic = \"logs\"\nproperties = { \"acks\" = \"0\" }", ["acks", "0"]),
        ("[kafka]", "[kafak]", ["kafak", ":"]),
    ] {
        bywash.edit(part, by);
        let said = bywash.reload_publisher();
        for word in ["refused", words[0], words[1]] {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
        fs::write(&bywash.config, &good).unwrap();
    }
    append(&bywash.file("f"), b"still here");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"still here");
}

#[test]
fn what_needs_a_restart_is_named_and_everything_else_is_in_force() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    bywash.edit("size = \"64MiB\"", "size = \"1MiB\"");
    bywash.edit("[publisher]", "[publisher]\nin_flight_records = 7");
    bywash.edit(&format!("brokers = [{:?}]", broker.address()), "brokers = [\"localhost:9\"]");
    bywash.edit("encoder = \"logstash_base64\"", "encoder = \"text\"");
    bywash.edit("", "\n[log]\nlevel = \"debug\"\n");
    let said = bywash.reload_publisher();
    for key in ["ring.size", "publisher.in_flight_records", "kafka.brokers"] {
        assert!(said.contains(&format!("{key} has changed")), "{key} is not in: {said}");
    }
    assert!(!said.contains("event.encoder has") && said.contains("in force"), "{said}");
    append(&bywash.file("f"), b"as text");
    let text = broker.read("logs").messages(1)[0].text();
    assert!(text.ends_with(&format!(": {}: as text", bywash.file("f").display())), "{text}");
    // The message names its format, so that it is read as what it is.
    bywash.edit("brokers = [\"localhost:9\"]", &format!("brokers = [{:?}]", broker.address()));
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "1"]);
    assert!(consumed.stdout.starts_with("event:\n    @message: 2"), "{consumed:?}");
}

#[test]
fn framing_changes_and_what_was_pending_is_sent() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    let by_line = "framing = \"line\"\nline_wait = \"60s\"\n";
    bywash.edit("\n[publisher]", &format!("{by_line}\n[publisher]"));
    bywash.start_agent();
    bywash.start_publisher();
    let mut file = File::create(bywash.file("f")).unwrap();
    for piece in ["one\ntw", "o\nthr"] {
        write_once(&mut file, piece.as_bytes());
    }
    let mut reader = broker.read("logs");
    reader.events(2);
    bywash.edit(by_line, "");
    bywash.reload_publisher();
    write_once(&mut file, b"ee\nfour\n");
    let events = reader.events(4);
    let messages: Vec<_> = events.iter().map(|e| String::from_utf8_lossy(e.message())).collect();
    assert_eq!(messages, ["one\n", "two\n", "thr", "ee\nfour\n"]);
    bywash.drain(TIMEOUT);
}

#[test]
fn what_is_logged_changes() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    bywash.edit("", "\n[log]\nlevel = \"error\"\n");
    bywash.start_agent();
    bywash.start_publisher();
    assert_eq!(bywash.publisher().log(), "");
    bywash.edit("level = \"error\"", "level = \"info\"");
    let said = bywash.reload_publisher();
    assert!(said.contains("INFO") && said.contains("in force"), "{said}");
}
