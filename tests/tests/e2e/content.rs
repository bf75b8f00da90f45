//! What is written is what arrives: content, offsets and order (G2, G4).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
};

use bywash_tests::harness::{
    Broker, Bywash, Event, Load, Settings, ledger,
    process::must_run,
    wait::TIMEOUT,
    workload::{line, noise},
};
use nix::unistd::Uid;

use crate::{append, write_once};

/// librdkafka's and the broker's limit for one message.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

#[test]
fn a_written_line_arrives_as_one_event() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    append(&bywash.file("bar"), b"foo\n");
    let events = broker.read("logs").events(1);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].message(), b"foo\n");
    assert_eq!(events[0].path(), bywash.file("bar").to_str().unwrap());
    assert_eq!(events[0].offset(), 0);
    assert_eq!(fs::read(bywash.file("bar")).unwrap(), b"foo\n");
}

#[test]
fn every_byte_value_arrives_as_written() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let all: Vec<u8> = (0..=255).collect();
    let samples = [all, b"\0".to_vec(), b"\xff\xfe\x80".to_vec(), "äöü€𝄞".into(), b"\"\\\r\n\t\x1b".to_vec()];
    for sample in &samples {
        append(&bywash.file("bytes"), sample);
    }
    let events = broker.read("logs").events(samples.len());
    let seen: Vec<_> = events.iter().map(|event| event.message().to_vec()).collect();
    assert_eq!(seen, samples);
}

#[test]
fn writes_of_1_byte_to_4_mib_arrive_whole() {
    const MIB: usize = 1 << 20;
    let sizes = [1, 2, 100, 4095, 4096, 4097, 65_536, 131_073, 700_000, MIB - 1, MIB, MIB + 1, 4 * MIB];
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let written: Vec<(PathBuf, Vec<u8>)> =
        sizes.iter().map(|&size| (bywash.file(&format!("of-{size}")), noise(size as u64, size))).collect();
    for (path, content) in &written {
        append(path, content);
    }
    let lengths: Vec<_> =
        written.iter().map(|(path, content)| (path.as_path(), content.len() as u64)).collect();
    let mut reader = broker.read("logs");
    let (events, duplicates) = ledger::distinct(reader.events_of(&lengths));
    assert_eq!(duplicates, 0);
    let files = ledger::by_path(&events);
    for (path, content) in &written {
        let events = &files[path.to_str().unwrap()];
        ledger::assert_contiguous(events);
        ledger::assert_same_bytes(path.to_str().unwrap(), content, &ledger::replay(events.iter().copied()));
        assert_parts_are_complete(events);
        if content.len() <= 65_536 {
            assert_eq!(events.len(), 1, "a write of {} bytes is one event", content.len());
        }
    }
    let largest = reader.messages(1).iter().map(|message| message.payload.len()).max().unwrap();
    assert!(largest <= MESSAGE_BYTES_MAX, "a message of {largest} bytes is too large for brokers by default");
}

/// Of each write that the agent split, every part is there, and of each part that the publisher split, every
/// piece, in order.
#[track_caller]
fn assert_parts_are_complete(events: &[&Event]) {
    let number = |event: &Event, key: &str, absent: u64| {
        if event.json.contains_key(key) { event.number(key) } else { absent }
    };
    let mut expected = (0, 0);
    for event in events {
        let (part, parts) = (number(event, "part", 0), number(event, "parts", 1));
        let (piece, pieces) = (number(event, "piece", 0), number(event, "pieces", 1));
        assert_eq!((part, piece), expected, "event {}", event.id());
        expected = match (piece + 1 < pieces, part + 1 < parts) {
            (true, _) => (part, piece + 1),
            (false, true) => (part + 1, 0),
            (false, false) => (0, 0),
        };
    }
    assert_eq!(expected, (0, 0), "the last parts are missing");
}

#[test]
fn appends_have_the_offsets_at_which_they_landed() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let path = bywash.file("appended");
    for i in 0..50 {
        append(&path, &line(1, i, 20 + usize::try_from(i).unwrap()));
    }
    let events = broker.read("logs").events(50);
    let events: Vec<_> = events.iter().collect();
    ledger::assert_contiguous(&events);
    assert_eq!(ledger::replay(events), fs::read(&path).unwrap());
}

#[test]
fn an_overwrite_has_its_offset_and_only_its_bytes() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let path = bywash.file("overwritten");
    let mut file = File::create(&path).unwrap();
    write_once(&mut file, b"0123456789");
    assert_eq!(file.write_at(b"abc", 4).unwrap(), 3);
    // Behind the end: a hole is no write.
    assert_eq!(file.write_at(b"end", 8192).unwrap(), 3);
    let events = broker.read("logs").events(3);
    let seen: Vec<_> = events.iter().map(|event| (event.offset(), event.message())).collect();
    assert_eq!(seen, [(0, b"0123456789".as_slice()), (4, b"abc"), (8192, b"end")]);
    assert_eq!(ledger::replay(&events), fs::read(&path).unwrap());
}

#[test]
fn two_writers_of_one_file_are_told_apart_and_keep_the_files_order() {
    const WRITES: u64 = 2_000;
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings::default());
    let path = bywash.file("shared");
    let loads: Vec<_> =
        (0..2).map(|id| Load { id, files: vec![path.clone()], count: WRITES, bytes: 64, rate: 0 }).collect();
    let writers: Vec<_> = loads.iter().map(|load| load.start(bywash.root())).collect();
    for (writer, load) in writers.into_iter().zip(&loads) {
        writer.finish(TIMEOUT).assert_complete(load);
    }
    let (events, duplicates) =
        ledger::distinct(broker.read("logs").events(2 * usize::try_from(WRITES).unwrap()));
    assert_eq!((events.len() as u64, duplicates), (2 * WRITES, 0));
    let all: Vec<_> = events.iter().collect();
    ledger::assert_contiguous(&all);
    ledger::assert_same_bytes("the file", &fs::read(&path).unwrap(), &ledger::replay(all));
    for load in &loads {
        let mine: Vec<_> =
            events.iter().filter(|e| e.message().starts_with(format!("{} ", load.id).as_bytes())).collect();
        let pids: BTreeSet<_> = mine.iter().map(|event| event.number("pid")).collect();
        assert_eq!((mine.len() as u64, pids.len()), (WRITES, 1), "the writes of one writer have one pid");
        for (i, event) in (0..).zip(&mine) {
            assert_eq!(event.message(), load.line(i), "a writer's own order");
        }
    }
}

#[test]
fn many_files_at_once_arrive_apart() {
    const FILES: usize = 100;
    const WRITES: u64 = 2_000;
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { directories: &["a", "b"], ..Settings::default() });
    let directories = [bywash.root().join("a"), bywash.root().join("b")];
    let loads: Vec<_> = (0..)
        .zip(&directories)
        .map(|(id, directory)| {
            let files = (0..FILES).map(|i| directory.join(format!("file {i}"))).collect();
            Load { id, files, count: WRITES, bytes: 80, rate: 0 }
        })
        .collect();
    let writers: Vec<_> = loads.iter().map(|load| load.start(bywash.root())).collect();
    for (writer, load) in writers.into_iter().zip(&loads) {
        writer.finish(TIMEOUT).assert_complete(load);
    }
    let (events, duplicates) =
        ledger::distinct(broker.read("logs").events(2 * usize::try_from(WRITES).unwrap()));
    assert_eq!((events.len() as u64, duplicates), (2 * WRITES, 0));
    let files = ledger::by_path(&events);
    assert_eq!(files.len(), 2 * FILES);
    for load in &loads {
        for (path, content) in load.expected(WRITES) {
            let events = &files[path.to_str().unwrap()];
            ledger::assert_contiguous(events);
            ledger::assert_same_bytes("a file", &content, &ledger::replay(events.iter().copied()));
        }
    }
}

#[test]
fn a_write_that_the_disk_cuts_short_or_refuses_is_what_the_event_says() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount a small filesystem to fill up");
    }
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    must_run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(bywash.directory()));
    bywash.start_agent();
    bywash.start_publisher();
    let path = bywash.file("full");
    let mut file = File::create(&path).unwrap();
    let content = noise(3, 200_000);
    let mut written = 0;
    let error = loop {
        // The last pages are given out one by one, so a write ends in the middle of its bytes.
        match file.write(&content[written..written + 10_000]) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(written > 0 && written % 10_000 != 0, "{written} bytes: no write was cut short");
    file.set_len(0).unwrap();
    append(&bywash.file("after"), b"there is room again");
    let events = broker.read("logs").events(written.div_ceil(10_000) + 1);
    let files = ledger::by_path(&events);
    let events = &files[path.to_str().unwrap()];
    ledger::assert_contiguous(events);
    ledger::assert_same_bytes(
        "what was written",
        &content[..written],
        &ledger::replay(events.iter().copied()),
    );
}

#[test]
fn a_directorys_topic_takes_what_is_written_there() {
    let broker = Broker::start();
    let mut bywash =
        Bywash::new(&broker.address(), &Settings { directories: &["a", "b"], ..Settings::default() });
    let text = fs::read_to_string(&bywash.config).unwrap();
    let (first, rest) = text.split_once("[publisher]").unwrap();
    // The last [[directory]] table is b's.
    fs::write(&bywash.config, format!("{first}topic = \"of-b\"\n\n[publisher]{rest}")).unwrap();
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.root().join("a/f"), b"to a");
    append(&bywash.root().join("b/f"), b"to b");
    assert_eq!(broker.read("logs").events(1)[0].message(), b"to a");
    assert_eq!(broker.read("of-b").events(1)[0].message(), b"to b");
}
