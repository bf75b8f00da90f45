//! Brokers that are looked up in ZooKeeper, and followed.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use bywash_tests::harness::{
    Broker, Bywash, Process, Settings,
    broker::free_address,
    temporary_directory,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::append;

/// Where Debian's package has it; `make setup` installs it.
const SERVER: &str = "/usr/share/zookeeper/bin/zkServer.sh";
/// A path that the cluster lies below.
const CHROOT: &str = "/cluster";

/// A ZooKeeper server of the test's own.
struct Server {
    address: SocketAddr,
    runtime: Runtime,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing: run make setup first");
        let directory = temporary_directory();
        let address = free_address();
        let config = directory.path().join("zoo.cfg");
        let text = format!(
            "tickTime=500\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            directory.path().display(),
            address.port()
        );
        fs::write(&config, text).unwrap();
        let program = format!("ZOO_LOG_DIR={}", directory.path().display());
        let arguments = [program.as_ref(), SERVER.as_ref(), "start-foreground".as_ref(), config.as_os_str()];
        let process =
            Process::spawn("zookeeper", Path::new("env"), arguments, directory.path(), Signal::SIGKILL);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let server = Self { address, runtime, _process: process, _directory: directory };
        wait::until("ZooKeeper to answer", TIMEOUT, || server.connect().map_err(|error| error.to_string()));
        server
    }

    /// A session for one request: between requests nobody would keep it alive.
    fn connect(&self) -> Result<Client, Error> {
        let connector = Client::connector().with_session_timeout(Duration::from_secs(5));
        self.runtime.block_on(connector.connect(&self.address.to_string()))
    }

    fn create(&self, path: &str, data: &[u8]) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let client = self.connect().unwrap();
        self.runtime.block_on(client.create(path, data, &options)).unwrap();
    }

    /// Registers a broker as Kafka does.
    fn register(&self, id: u32, broker: &Broker) {
        let address = broker.address();
        let (host, port) = address.rsplit_once(':').unwrap();
        let data = format!(
            r#"{{"listener_security_protocol_map":{{"PLAINTEXT":"PLAINTEXT"}},"jmx_port":-1,"version":4,
                 "endpoints":["PLAINTEXT://{host}:{port}"],"host":"{host}","port":{port},"timestamp":"1"}}"#
        );
        self.create(&format!("{CHROOT}/brokers/ids/{id}"), data.as_bytes());
    }

    fn unregister(&self, id: u32) {
        let path = format!("{CHROOT}/brokers/ids/{id}");
        let client = self.connect().unwrap();
        self.runtime.block_on(client.delete(&path, None)).unwrap();
    }
}

/// Services that know ZooKeeper alone.
fn bywash(server: &Server) -> Bywash {
    let bywash = Bywash::new("nowhere:1", &Settings::default());
    let text = fs::read_to_string(&bywash.config).unwrap();
    let zookeepers = format!("zookeepers = [\"{}{CHROOT}\"]", server.address);
    fs::write(&bywash.config, text.replace("brokers = [\"nowhere:1\"]", &zookeepers)).unwrap();
    bywash
}

#[test]
fn brokers_are_found_where_they_register_and_left_when_others_take_their_place() {
    let server = Server::start();
    let mut bywash = bywash(&server);
    bywash.start_agent();
    append(&bywash.file("f"), b"1");

    for path in ["", "/brokers", "/brokers/ids"] {
        server.create(&format!("{CHROOT}{path}"), b"");
    }
    let none = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(none.code, Some(1), "{none:?}");
    let text = format!("{}{CHROOT}", server.address);
    assert!(none.stderr.contains(&text) && none.stderr.contains("none is registered"), "{none:?}");

    let first = Broker::start();
    server.register(1, &first);
    bywash.start_publisher();
    assert_eq!(first.read("logs").events(1)[0].message(), b"1");

    // Written while neither answers, and nothing that was sent to the first is confirmed.
    first.stop();
    append(&bywash.file("f"), b"2");
    wait::until("the publisher to have sent it", TIMEOUT, || {
        let status = bywash.publisher_status();
        if status["in_flight_records"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });
    let second = Broker::start();
    server.unregister(1);
    server.register(2, &second);
    assert_eq!(second.read("logs").events(1)[0].message(), b"2");
    append(&bywash.file("f"), b"3");
    assert_eq!(second.read("logs").events(2)[1].message(), b"3");
    let log = bywash.publisher().log();
    assert!(log.contains(&second.address()) && log.contains("turning to them"), "{log}");
    bywash.drain(TIMEOUT);
}

#[test]
fn transactions_end_with_brokers_that_are_replaced_and_a_restart_goes_on() {
    let server = Server::start();
    let mut bywash = bywash(&server);
    bywash.edit("[kafka]\n", "[kafka]\ndelivery = \"exactly_once\"\n");
    for path in ["", "/brokers", "/brokers/ids"] {
        server.create(&format!("{CHROOT}{path}"), b"");
    }
    let (first, second) = (Broker::start(), Broker::start());
    server.register(1, &first);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"1");
    assert_eq!(first.read_committed("logs").events(1)[0].message(), b"1");
    server.unregister(1);
    server.register(2, &second);
    let status = bywash.publisher().wait(TIMEOUT);
    assert_eq!(status.code(), Some(1));
    let log = bywash.publisher().log();
    assert!(log.contains(&second.address()) && log.contains("a restart turns to them"), "{log}");
    append(&bywash.file("f"), b"2");
    bywash.start_publisher();
    assert_eq!(second.read_committed("logs").events(1)[0].message(), b"2");
}
