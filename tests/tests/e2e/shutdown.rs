//! An orderly end leaves nothing behind and waits for nobody.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Broker, Bywash, Settings, broker, mounts,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use crate::append;

#[test]
fn a_terminated_agent_leaves_nothing_mounted_and_the_files_in_place() {
    let broker = Broker::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut bywash =
            Bywash::start(&broker, &Settings { directories: &["a", "b"], ..Settings::default() });
        append(&bywash.file("kept"), b"content");
        assert!(bywash.is_mounted());
        bywash.agent().signal(signal);
        let status = bywash.agent().wait(TIMEOUT);
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        assert!(bywash_tests::harness::mounts::below(bywash.root()).is_empty(), "{signal}");
        assert_eq!(fs::read(bywash.file("kept")).unwrap(), b"content");
        assert_eq!(bywash.fs_agent(&["status"]).code, Some(3));
    }
}

#[test]
fn a_terminated_agent_goes_although_a_file_is_open() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    let open = fs::File::create(bywash.file("open")).unwrap();
    let status = bywash.agent().terminate(TIMEOUT);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!bywash.is_mounted());
    drop(open);
}

#[test]
fn an_agent_serves_what_is_open_as_long_as_its_configuration_says() {
    for (grace, least, most) in [("0s", 0, 2), ("3s", 3, 5)] {
        let mut bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
        bywash.edit("", &format!("\n[agent]\nstop_grace = \"{grace}\"\n"));
        bywash.start_agent();
        let open = fs::File::create(bywash.file("open")).unwrap();
        let begin = Instant::now();
        let status = bywash.agent().terminate(TIMEOUT);
        let took = begin.elapsed();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(
            Duration::from_secs(least) <= took && took < Duration::from_secs(most),
            "stop_grace = {grace}: {took:?}"
        );
        drop(open);
    }
}

/// A program that has mapped a file of the first directory and stored into the mapping, which nobody has flushed; it reads
/// the mapping once more when it is told to end.
pub fn map_and_store(bywash: &Bywash) -> Child {
    const PROGRAM: &str = "import mmap, os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644); os.ftruncate(fd, 8192)\n\
        m = mmap.mmap(fd, 8192); m[0:6] = b'stored'\n\
        print('stored', flush=True)\n\
        sys.stdin.readline(); print(m[0:6].decode(), flush=True)\n";
    let mut program = Command::new("python3")
        .args(["-c", PROGRAM])
        .arg(bywash.file("mapped"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = String::new();
    BufReader::new(program.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "stored\n");
    program
}

#[test]
fn what_is_stored_in_mappings_is_in_the_file_when_the_overlay_is_gone() {
    let stop = |bywash: &mut Bywash| bywash.stop_agent();
    let take_out = |bywash: &mut Bywash| {
        let section = format!("\n[[directory]]\npath = {:?}\n", bywash.directory());
        bywash.edit(&section, "\n");
        assert!(bywash.reload_agent().contains("in force"));
    };
    let ends: [fn(&mut Bywash); 2] = [stop, take_out];
    for end in ends {
        let settings =
            Settings { directories: &["a", "b"], ring_size: "1MiB", directory: "", ..Settings::default() };
        let mut bywash = Bywash::new("localhost:9", &settings);
        bywash.start_agent();
        let mut program = map_and_store(&bywash);
        end(&mut bywash);
        assert!(!mounts::is_mounted(bywash.directory()));
        wait::until("the kernel to write the page", TIMEOUT, || {
            let content = fs::read(bywash.file("mapped")).map_err(|error| error.to_string())?;
            if content.starts_with(b"stored") { Ok(()) } else { Err(format!("{:?}", &content[..8])) }
        });
        // Whoever has mapped it goes on reading it.
        let output = {
            drop(program.stdin.take());
            program.wait_with_output().expect("an end")
        };
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"stored\n"[..]));
    }
}

#[test]
fn a_terminated_publisher_delivers_what_it_can_and_ends_well() {
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &Settings::default());
    for i in 0..100 {
        append(&bywash.file("f"), format!("{i}\n").as_bytes());
    }
    let status = bywash.publisher().terminate(TIMEOUT);
    assert_eq!(status.code(), Some(0), "{status}");
    bywash.start_publisher();
    assert_eq!(broker.read("logs").events(100).len(), 100, "an orderly end leaves nothing to repeat");
}

#[test]
fn a_publisher_without_an_answering_broker_ends_within_its_bound_and_keeps_what_it_has() {
    const BOUND: Duration = Duration::from_secs(2);
    let settings = Settings { publisher: "shutdown_timeout = \"2s\"", ..Settings::default() };
    let broker = Broker::start();
    let mut bywash = Bywash::start(&broker, &settings);
    append(&bywash.file("f"), b"one ");
    let mut reader = broker.read("logs");
    reader.events(1);
    broker.stop();
    append(&bywash.file("f"), b"two ");
    wait::until("the publisher to read the second", TIMEOUT, || {
        let status = bywash.publisher_status();
        if status["in_flight_records"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });
    let begin = Instant::now();
    let status = bywash.publisher().terminate(TIMEOUT);
    let took = begin.elapsed();
    assert!(took < BOUND + Duration::from_secs(2), "it took {took:?}");
    assert_eq!(status.signal(), None, "{status}");
    broker.resume();
    bywash.start_publisher();
    let events = reader.events(2);
    assert_eq!(events.last().unwrap().message(), b"two ");
}

#[test]
fn a_publisher_whose_broker_does_not_exist_runs_and_ends_within_its_bound() {
    const BOUND: Duration = Duration::from_secs(1);
    let settings = Settings { publisher: "shutdown_timeout = \"1s\"", ..Settings::default() };
    let mut bywash = Bywash::new(&broker::free_address().to_string(), &settings);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"kept in the ring");
    let begin = Instant::now();
    let status = bywash.publisher().terminate(TIMEOUT);
    assert!(begin.elapsed() < BOUND + Duration::from_secs(2), "it took {:?}", begin.elapsed());
    assert_eq!(status.signal(), None, "{status}");
}
