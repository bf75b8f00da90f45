//! What an operator has to mend: the log says what, nothing is lost, and it goes on by itself.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Bywash, Fault, FaultProxy, Kinesis, Settings, broker,
    wait::{self, TIMEOUT},
};

use super::{Lines, SMALL, start};
use crate::{append, failed::dead_letters};

/// The publisher's log holds each of the words.
#[track_caller]
fn assert_logs(bywash: &mut Bywash, words: &[&str]) {
    let publisher = bywash.publisher();
    wait::until(&format!("{words:?} in the log"), TIMEOUT, || {
        let log = publisher.log();
        if words.iter().all(|word| log.contains(word)) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn each_trouble_is_named_with_its_way_out_and_ends_by_itself() {
    let (kinesis, proxy, mut bywash) = start(&SMALL);
    let mut reader = kinesis.read("logs");
    let troubles: [(u16, &'static str, &'static str, &[&str]); 6] = [
        (
            400,
            "ExpiredTokenException",
            "The security token is expired",
            &["token is expired", "renew the credentials"],
        ),
        (400, "UnrecognizedClientException", "The token is invalid", &["token is invalid", "AWS's chain"]),
        (
            400,
            "InvalidSignatureException",
            "Signature expired: 20261121T000000Z is now earlier than 20261122T000000Z",
            &["Signature expired", "set this machine's clock"],
        ),
        (
            400,
            "AccessDeniedException",
            "User: x is not authorized",
            &["not authorized", "kinesis:PutRecords"],
        ),
        (400, "KMSDisabledException", "key is disabled", &["key is disabled", "KMS key"]),
        (400, "ResourceNotFoundException", "Stream logs not found", &["create the stream", "kinesis.region"]),
    ];
    for (round, (status, code, message, words)) in troubles.into_iter().enumerate() {
        let is_over = Arc::new(AtomicBool::new(false));
        let plan_is_over = Arc::clone(&is_over);
        proxy.plan(move |_| {
            if plan_is_over.load(Ordering::Relaxed) {
                Fault::None
            } else {
                Fault::Call(status, code, message)
            }
        });
        append(&bywash.file("f"), format!("{round}\n").as_bytes());
        assert_logs(&mut bywash, words);
        is_over.store(true, Ordering::Relaxed);
        reader.events(round + 1);
    }
    assert_logs(&mut bywash, &["takes events again"]);
    assert_eq!(reader.events(6).len(), 6, "each once");
}

#[test]
fn a_stream_that_does_not_exist_yet_gets_everything_once_it_does() {
    let kinesis = Kinesis::start();
    let proxy = FaultProxy::start(&kinesis);
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &SMALL);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains("`logs`") && check.stderr.contains("create the stream"), "{check:?}");
    bywash.start_agent();
    bywash.start_publisher();
    let lines = Lines::new(4, 5);
    lines.write(&bywash);
    assert_logs(&mut bywash, &["`logs`", "not found", "create the stream"]);
    kinesis.create_stream("logs", 1);
    assert_eq!(lines.assert_arrive(&bywash, &mut kinesis.read("logs")), 0);
}

#[test]
fn a_stream_that_stays_away_costs_other_streams_nothing_but_time() {
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 1);
    let proxy = FaultProxy::start(&kinesis);
    let settings = Settings { directories: &["a", "b"], failed: "give_up_after = \"300ms\"", ..SMALL };
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &settings);
    let b = bywash.root().join("b");
    bywash.edit(&format!("path = {b:?}"), &format!("path = {b:?}\ntopic = \"away\""));
    bywash.start_agent();
    bywash.start_publisher();
    for i in 0..10 {
        append(&b.join("f"), format!("{i}\n").as_bytes());
        append(&bywash.file("f"), format!("{i}\n").as_bytes());
    }
    assert_eq!(kinesis.read("logs").events(10).len(), 10);
    bywash.drain(TIMEOUT);
    let dead_letters = dead_letters(&bywash);
    assert_eq!(dead_letters.len(), 10, "{dead_letters:?}");
    assert!(dead_letters.iter().all(|dead_letter| dead_letter.json["topic"] == "away"), "{dead_letters:?}");
    assert!(
        dead_letters[0].json["reason"].as_str().unwrap().contains("ResourceNotFoundException"),
        "{dead_letters:?}"
    );
}

#[test]
fn a_record_that_kinesis_will_never_take_becomes_a_dead_letter_and_the_rest_goes_on() {
    let (kinesis, proxy, mut bywash) = start(&SMALL);
    let alone = Arc::new(Mutex::new(HashSet::new()));
    let plan_alone = Arc::clone(&alone);
    proxy.plan(move |put| {
        // ("poison", at the places of a group of three, in base64)
        let is_poison = |data: &Vec<u8>| String::from_utf8_lossy(data).contains("cG9pc29u");
        if !put.data.iter().any(is_poison) {
            return Fault::None;
        }
        if put.data.len() == 1 {
            plan_alone.lock().unwrap().insert(put.keys[0].clone());
        }
        Fault::Call(400, "InvalidArgumentException", "a record is not acceptable")
    });
    bywash.publisher().terminate(TIMEOUT);
    for i in 0..9 {
        append(&bywash.file(&format!("g{i}")), b"good");
    }
    append(&bywash.file("bad"), b"poison");
    bywash.start_publisher();
    bywash.drain(TIMEOUT);
    let events = kinesis.read("logs").events(9);
    assert_eq!(events.iter().filter(|event| event.lost().is_none()).count(), 9);
    let bad = bywash.file("bad").display().to_string();
    assert_eq!(*alone.lock().unwrap(), HashSet::from([bad]), "only the culprit was rejected alone");
    let dead_letters = dead_letters(&bywash);
    assert_eq!(dead_letters.len(), 1, "{dead_letters:?}");
    assert!(dead_letters[0].json["reason"].as_str().unwrap().contains("not acceptable"), "{dead_letters:?}");
}

#[test]
fn missing_credentials_and_a_missing_region_are_named() {
    let kinesis = Kinesis::start();
    kinesis.create_stream("logs", 1);
    let proxy = FaultProxy::start(&kinesis);
    let mut bywash = Bywash::for_kinesis(&proxy.url(), &SMALL);
    let credentials = bywash.environment.clone();
    bywash.environment.retain(|pair| !pair.contains("KEY"));
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains("AWS's chain"), "{check:?}");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x");
    assert_logs(&mut bywash, &["credentials", "AWS's chain"]);
    bywash.publisher().terminate(TIMEOUT);
    bywash.edit("region = \"us-east-1\"", "region = \"\"");
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains("no AWS region") && check.stderr.contains("kinesis.region"), "{check:?}");
    bywash.edit("region = \"\"", "region = \"us-east-1\"");
    bywash.environment = credentials;
    bywash.start_publisher();
    assert_eq!(kinesis.read("logs").events(1)[0].message(), b"x");
}

#[test]
fn settings_that_kinesis_cannot_have_are_refused_at_the_start() {
    let bywash = Bywash::for_kinesis("http://localhost:9", &Settings { topic: "", ..SMALL });
    let check = bywash.publisher_command(&["check"]);
    assert_eq!(check.code, Some(78), "{check:?}");
    assert!(check.stderr.contains("kinesis.stream_name"), "{check:?}");
    let bywash =
        Bywash::for_kinesis("http://localhost:9", &Settings { publisher: "batch_records = 501", ..SMALL });
    let run = bywash.publisher_command(&["run"]);
    assert_eq!(run.code, Some(78), "{run:?}");
    assert!(run.stderr.contains("publisher.batch_records") && run.stderr.contains("501"), "{run:?}");
}

#[test]
fn a_publisher_whose_kinesis_does_not_answer_ends_within_its_bound_and_keeps_what_it_has() {
    const BOUND: Duration = Duration::from_secs(1);
    let settings = Settings { publisher: "flush_interval = \"10ms\"\nshutdown_timeout = \"1s\"", ..SMALL };
    let (kinesis, proxy, mut bywash) = start(&settings);
    append(&bywash.file("f"), b"one ");
    let mut reader = kinesis.read("logs");
    reader.events(1);
    bywash.drain(TIMEOUT);
    proxy.stall();
    append(&bywash.file("f"), b"two ");
    wait::until("the publisher to read the second", TIMEOUT, || {
        let status = bywash.publisher_status();
        if status["in_flight_records"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });
    let begin = Instant::now();
    let status = bywash.publisher().terminate(TIMEOUT);
    assert!(begin.elapsed() < BOUND + Duration::from_secs(2), "it took {:?}", begin.elapsed());
    assert!(status.code().is_some(), "{status}");
    proxy.resume();
    bywash.start_publisher();
    assert_eq!(reader.events(2).last().unwrap().message(), b"two ");
}

#[test]
fn a_kinesis_that_cannot_be_reached_is_named() {
    let url = format!("http://{}", broker::free_address());
    let settings = Settings { publisher: "flush_interval = \"10ms\"\nshutdown_timeout = \"1s\"", ..SMALL };
    let mut bywash = Bywash::for_kinesis(&url, &settings);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains(&url) && check.stderr.contains("kinesis.endpoint_url"), "{check:?}");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"x");
    assert_logs(&mut bywash, &["kinesis.endpoint_url", "events wait"]);
}
