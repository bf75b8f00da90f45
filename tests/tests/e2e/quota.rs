//! `quota`: the surplus of a file that is written too fast is withheld from the broker, never from the disk.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bywash_common::record::LossReason;
use bywash_tests::harness::{
    Broker, Bywash, Capture, Event, Settings, ledger,
    wait::{self, TIMEOUT},
};

use nix::time::{ClockId, clock_gettime};

use crate::{append, write_once};

/// So slow that what is captured first is not paid for before the test ends.
const SLOW: &str = "quota = { bytes_per_second = 1, files_tracked = 2 }\n";

fn settings(directory: &'static str) -> Settings {
    Settings { directory, ring_size: "4MiB", ..Settings::default() }
}

/// Has a program dump core into `directory`; gives the core file. Where core dumps go elsewhere on this machine, writes
/// a file as the kernel would.
fn dump_core(directory: &Path) -> PathBuf {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let pattern = pattern.trim();
    if pattern.starts_with('|') || pattern.contains('/') || pattern.is_empty() {
        println!("core dumps go to `{pattern}` here: writing a core-sized file in pages instead");
        let path = directory.join("core");
        let mut core = File::create(&path).unwrap();
        (0..60).for_each(|_| core.write_all(&[b'x'; 4096]).unwrap());
        return path;
    }
    let status = Command::new("sh")
        .args(["-c", "ulimit -c unlimited && kill -SEGV $$"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.core_dumped(), "{status}: no core was dumped");
    let mut cores = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    cores.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("core")).expect("a core file")
}

/// The events of one file, and what is said to be lost of it, once all that the agent has seen is there. The core file's
/// length is no measure: the kernel leaves holes in it.
fn events_of(broker: &Broker, bywash: &Bywash, path: &Path) -> Vec<Event> {
    let path = path.to_str().unwrap();
    let status = bywash.agent_status();
    let seen: u64 = ["captured", "withheld"].iter().map(|key| status[*key]["bytes"].as_u64().unwrap()).sum();
    let mut reader = broker.read("logs");
    let messages = reader.read_until("events for all that was written", TIMEOUT, |messages| {
        let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
        let sum = ledger::delivered(&events).1 + ledger::lost(&events).1;
        if sum >= seen { Ok(()) } else { Err(format!("{sum} of {seen} bytes")) }
    });
    let (events, _) = ledger::distinct(messages.iter().map(Event::parse).collect());
    let is_of_it = |event: &Event| match event.lost() {
        Some(lost) => lost.path.as_deref() == Some(path),
        None => event.path() == path,
    };
    events.into_iter().filter(is_of_it).collect()
}

#[test]
fn of_a_core_dump_only_the_first_write_is_sent_and_the_rest_announced() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &settings(""));
    let core = dump_core(bywash.directory());
    let events = events_of(&broker, &bywash, &core);
    println!("without a quota: {} events for {} bytes of core", events.len(), ledger::delivered(&events).1);
    assert!(events.len() > 20, "many events without a quota: {}", events.len());
    fs::remove_file(&core).unwrap();

    let section = format!("path = {:?}\n", bywash.directory());
    bywash.edit(&section, &format!("{section}{SLOW}"));
    let said = bywash.reload_agent();
    assert!(said.contains("in force"), "{said}");
    fs::create_dir(bywash.file("quota")).unwrap();
    let core = dump_core(&bywash.file("quota"));
    let content = fs::read(&core).unwrap();
    let events = events_of(&broker, &bywash, &core);
    let (delivered, lost) = (ledger::delivered(&events), ledger::lost(&events));
    println!(
        "with it: {} event of {} bytes, {} events of {} bytes withheld",
        delivered.0, delivered.1, lost.0, lost.1
    );
    assert_eq!(delivered.0, 1, "only the first");
    assert!(lost.0 > 20 && content.len() as u64 >= delivered.1 + lost.1, "the disk has it all");
    assert_eq!(events[0].message(), &content[..events[0].message().len()]);
    let loss = events.iter().find_map(Event::lost).unwrap();
    assert_eq!((loss.reason.as_str(), loss.path.as_deref()), ("quota", core.to_str()));
    let news = events.iter().find(|event| event.lost().is_some()).unwrap();
    assert!(news.tags().contains(&"_withheld") && !news.tags().contains(&"_lost"), "{:?}", news.json);
    assert!(news.json.get("lost").is_none(), "{:?}", news.json);
    let publisher = bywash.publisher_status();
    assert_eq!(
        (&publisher["withheld"]["events"], &publisher["withheld"]["bytes"]),
        (&lost.0.into(), &lost.1.into())
    );
    assert_eq!(publisher["lost"], serde_json::json!([]), "{publisher}");
    let text = bywash.publisher_command(&["status"]).stdout;
    assert!(text.contains(&format!("withheld      {} write", lost.0)), "{text}");
    assert!(text.contains("lost          nothing\n"), "{text}");
    let status = bywash.agent_status();
    assert_eq!(
        (&status["withheld"]["events"], &status["withheld"]["bytes"]),
        (&lost.0.into(), &lost.1.into())
    );
    assert!(status["lost"].as_object().unwrap().values().all(|lost| lost["events"] == 0), "{status}");
    let text = bywash.fs_agent(&["status"]).stdout;
    assert!(text.contains(&format!("withheld      {} event", lost.0)), "{text}");
    assert!(text.contains("lost          nothing\n"), "{text}");
}

#[test]
fn news_have_a_topic_of_their_own_where_events_cannot_tell_them_from_data() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings { encoder: "raw", ..settings(SLOW) });
    bywash.start_agent();
    bywash.start_publisher();
    let log = bywash.publisher().log();
    assert!(log.contains("event.loss_topic"), "{log}");
    bywash.edit("[event]", "[event]\nloss_topic = \"losses\"");
    bywash.reload_publisher();
    for _ in 0..3 {
        append(&bywash.file("f"), b"0123456789");
    }
    let messages = broker.read("losses").messages(1);
    let news: serde_json::Value = serde_json::from_slice(&messages[0].payload).unwrap();
    assert_eq!(news["withheld"]["reason"], "quota", "{news}");
    bywash.drain(TIMEOUT);
    // No more than what was written is among the data.
    let data = broker.read("logs").messages(1);
    assert_eq!(data[0].payload, b"0123456789");
}

#[test]
fn each_file_has_an_account_and_the_one_not_written_to_for_longest_loses_it() {
    let mut bywash = Bywash::new("localhost:9", &settings(SLOW));
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let names = ["a", "b", "c"].map(|name| bywash.file(name));
    // Two are tracked. c pushes a out, and a comes back with a new account and pushes b out: what was withheld of those
    // is announced at once, what was of c a while later.
    let mut said = Vec::new();
    let mut take = |said: &mut Vec<_>| {
        let (captured, losses) = capture.take_with_losses();
        said.extend(losses.into_iter().map(|(loss, path)| (path, loss.events, loss.bytes)));
        captured.len()
    };
    for (file, taken) in [(0, 1), (0, 0), (1, 1), (1, 0), (2, 1), (2, 0), (0, 1)] {
        append(&names[file], b"12345");
        assert_eq!(take(&mut said), taken, "file {file}");
    }
    wait::until("all that was withheld to be announced", TIMEOUT, || {
        take(&mut said);
        if said.len() >= 3 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let expected = names.each_ref().map(|name| (name.as_os_str().as_encoded_bytes().to_vec(), 1, 5));
    assert_eq!(said, expected);
    assert_eq!(fs::read(&names[0]).unwrap(), b"123451234512345");
}

#[test]
fn a_new_file_owes_nothing_of_one_whose_number_it_got() {
    let mut bywash = Bywash::new("localhost:9", &settings(SLOW));
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let path = bywash.file("f");
    let number = || fs::metadata(&path).unwrap().ino();
    for _ in 0..2 {
        append(&path, b"12345");
    }
    let old = number();
    assert_eq!(capture.take().len(), 1);
    // Files tell when they came into being by this clock.
    let now = || clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap();
    let then = now();
    while now() == then {}
    fs::remove_file(&path).unwrap();
    append(&path, b"12345");
    if number() != old {
        return println!("skipped: the filesystem of {} gives numbers once", path.display());
    }
    assert_eq!(capture.take_with_losses().0.len(), 1);
}

#[test]
fn what_is_withheld_is_announced_though_the_agent_is_killed() {
    let mut bywash = Bywash::new("localhost:9", &settings(SLOW));
    bywash.start_agent();
    let mut file = File::create(bywash.file("f")).unwrap();
    (0..10).for_each(|_| write_once(&mut file, b"12345"));
    bywash.agent().kill9();
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let (mut captured, mut lost) = (0, (0, 0));
    wait::until("each write to be captured or announced", TIMEOUT, || {
        let (taken, losses) = capture.take_with_losses();
        captured += taken.len();
        for (loss, _) in losses {
            assert_eq!(loss.reason, LossReason::Quota);
            lost = (lost.0 + loss.events, lost.1 + loss.bytes);
        }
        if captured as u64 + lost.0 == 10 { Ok(()) } else { Err(format!("{captured} and {lost:?}")) }
    });
    assert_eq!((captured, lost), (1, (9, 45)));
}

#[test]
fn a_quota_that_is_taken_away_by_a_reload_says_what_it_has_withheld() {
    let mut bywash = Bywash::new("localhost:9", &settings(SLOW));
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let mut file = File::create(bywash.file("f")).unwrap();
    (0..3).for_each(|_| write_once(&mut file, b"12345"));
    bywash.edit(SLOW, "");
    bywash.reload_agent();
    (0..3).for_each(|_| write_once(&mut file, b"12345"));
    let (captured, losses) = capture.take_with_losses();
    assert_eq!(captured.len(), 1 + 3);
    let withheld: Vec<_> = losses.iter().map(|(loss, _)| (loss.events, loss.bytes)).collect();
    assert_eq!(withheld.iter().fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1)), (2, 10));
    // And one that comes.
    bywash.edit("path = ", &format!("{SLOW}path = "));
    bywash.reload_agent();
    (0..3).for_each(|_| write_once(&mut file, b"12345"));
    assert_eq!(capture.take_with_losses().0.len(), 1);
    drop(file);
    bywash.stop_agent();
    // What is withheld at the end is announced at the end.
    bywash.start_agent();
    let mut rest = Vec::new();
    wait::until("the rest", TIMEOUT, || {
        rest.extend(capture.take_with_losses().1);
        if rest.is_empty() { Err("nothing".to_owned()) } else { Ok(()) }
    });
    let (loss, path) = &rest[0];
    assert_eq!((loss.events, path.as_slice()), (2, bywash.file("f").as_os_str().as_encoded_bytes()));
}
