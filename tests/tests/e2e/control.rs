//! What does not answer holds up neither the publisher's commands nor its end.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener},
    os::unix::process::ExitStatusExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Broker, Bywash, Settings, broker,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

use crate::append;

/// `publisher.shutdown_timeout` here, and how much longer a publisher that hangs may take; a busy machine takes its time.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(3);
const BOUNDED: Settings = Settings { publisher: "shutdown_timeout = \"1s\"", ..Settings::DEFAULT };

/// Takes connections and never says anything.
struct Mute {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Mute {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                // Until the other side gives up.
                thread::spawn(move || connection.read_to_end(&mut Vec::new()));
            }
        });
        Self { address, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Has a configuration take its tokens from here.
    fn give_tokens(&self, bywash: &Bywash) {
        let properties = format!(
            "[kafka]\nproperties = {{ \"security.protocol\" = \"sasl_plaintext\", \"sasl.mechanism\" = \"OAUTHBEARER\", \
             \"sasl.oauthbearer.method\" = \"oidc\", \"sasl.oauthbearer.client.id\" = \"me\", \
             \"sasl.oauthbearer.client.secret\" = \"s3cret\", \
             \"sasl.oauthbearer.token.endpoint.url\" = \"http://{}/token\" }}",
            self.address
        );
        bywash.edit("[kafka]", &properties);
    }
}

/// Sends SIGTERM and waits for the end, which does not take longer than it may.
#[track_caller]
fn assert_ends_in_time(bywash: &mut Bywash) -> std::process::ExitStatus {
    let begin = Instant::now();
    let status = bywash.publisher().terminate(TIMEOUT);
    assert!(begin.elapsed() < SHUTDOWN_TIMEOUT + SLACK, "it took {:?}", begin.elapsed());
    status
}

#[test]
fn a_check_asks_nobody() {
    let mute = Mute::start();
    let bywash = Bywash::new(&mute.address.to_string(), &Settings::DEFAULT);
    mute.give_tokens(&bywash);
    let begin = Instant::now();
    let check = bywash.publisher_command(&["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(begin.elapsed() < SLACK, "it took {:?}", begin.elapsed());
    assert_eq!(mute.connections(), 0);
}

#[test]
fn a_reload_asks_nobody_and_the_drain_goes_on() {
    let (mute, broker) = (Mute::start(), Broker::start());
    let mut bywash = Bywash::start(&broker, &BOUNDED);
    append(&bywash.file("f"), b"1");
    broker.read("logs").events(1);
    mute.give_tokens(&bywash);
    let said = bywash.reload_publisher();
    assert!(said.contains("kafka.properties") && said.contains("restarted"), "{said}");
    append(&bywash.file("f"), b"2");
    broker.read("logs").events(2);
    assert_eq!(mute.connections(), 0);
    assert_eq!(assert_ends_in_time(&mut bywash).code(), Some(0));
}

#[test]
fn a_publisher_without_a_token_ends_in_time() {
    let mute = Mute::start();
    let mut bywash = Bywash::new(&broker::free_address().to_string(), &BOUNDED);
    mute.give_tokens(&bywash);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"1");
    wait::until("a token to be asked for", TIMEOUT, || {
        if mute.connections() > 0 { Ok(()) } else { Err("nobody asks".to_owned()) }
    });
    assert_eq!(assert_ends_in_time(&mut bywash).code(), Some(0));
}

#[test]
fn a_publisher_that_still_looks_for_its_brokers_ends_in_time() {
    let mute = Mute::start();
    let settings = Settings { publisher: "shutdown_timeout = \"60s\"", ..Settings::DEFAULT };
    let mut bywash = Bywash::new("", &settings);
    bywash.edit("brokers = [\"\"]", &format!("zookeepers = [\"{}\"]", mute.address));
    bywash.start_agent();
    bywash.start_publisher();
    wait::until("ZooKeeper to be asked", TIMEOUT, || {
        if mute.connections() > 0 { Ok(()) } else { Err("nobody asks".to_owned()) }
    });
    assert_eq!(assert_ends_in_time(&mut bywash).code(), Some(0));
}

#[test]
fn a_publisher_whose_disk_hangs_ends_in_time_and_loses_nothing() {
    let mut bywash = Bywash::new(&broker::free_address().to_string(), &BOUNDED);
    bywash.start_agent();
    append(&bywash.file("f"), b"kept");
    bywash.environment.push("BYWASH_HANG_POINT=SpoolWritten".to_owned());
    bywash.start_publisher();
    // What is not delivered goes to the disk now.
    let status = assert_ends_in_time(&mut bywash);
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
    let log = bywash.publisher().log();
    assert!(log.contains("still not stopped"), "{log}");
    bywash.environment.clear();
    let broker = Broker::start();
    let brokers = format!("brokers = [{:?}]", broker.address().to_string());
    let text = std::fs::read_to_string(&bywash.config).unwrap();
    let line = text.lines().find(|line| line.starts_with("brokers")).unwrap().to_owned();
    bywash.edit(&line, &brokers);
    bywash.start_publisher();
    assert_eq!(broker.read("logs").events(1)[0].message(), b"kept");
}
