//! A Kafka-protocol broker in a process of its own.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, Producer},
};

use super::{Process, Reader, process, tool, wait};

/// How often another port is tried when somebody took the free one first.
const PORT_TRIES: usize = 5;
/// It answers in a tenth of a second on an idle machine.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A running broker: topics are made as they are used, each with one partition.
pub struct Broker {
    process: Process,
    address: SocketAddr,
    // Removed after the process is gone: fields are dropped in order.
    directory: tempfile::TempDir,
}

impl Broker {
    /// Starts a broker on a free port and waits until it answers.
    pub fn start() -> Self {
        (0..PORT_TRIES)
            .find_map(|_| Self::try_start())
            .unwrap_or_else(|| panic!("the broker ended {PORT_TRIES} times right after its start"))
    }

    /// Nothing if the process ended at once, as it does when its port is taken.
    fn try_start() -> Option<Self> {
        let directory = super::temporary_directory();
        let address = free_address();
        let mut process = spawn(address, directory.path());
        is_alive(&mut process, address).then_some(Self { process, address, directory })
    }

    /// Starts it again where it was, with what it had when it was told to end.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.ended().is_some(), "the broker still runs");
        wait::until("the broker to be back", START_TIME_MAX, || {
            self.process = spawn(self.address, self.directory.path());
            let is_back = is_alive(&mut self.process, self.address);
            is_back.then_some(()).ok_or_else(|| format!("{} is taken", self.address))
        });
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The same.
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Ends it in an orderly way: it writes down what it has taken before (what it takes meanwhile it confirms, and forgets)
    /// and knows that, but not its producers, when it is started again.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.process.terminate(wait::TIMEOUT);
    }

    /// Makes a topic.
    #[track_caller]
    pub fn create(&self, topic: &str) {
        let client: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.address()).create().expect("a client");
        // By being asked for.
        wait::until("the topic", wait::TIMEOUT, || {
            let metadata =
                client.client().fetch_metadata(Some(topic), START_TIME_MAX).map_err(|e| e.to_string())?;
            let is_there = metadata.topics().iter().any(|t| t.name() == topic && !t.partitions().is_empty());
            is_there.then_some(()).ok_or_else(|| "it is not there".to_owned())
        });
    }

    /// Reads a topic from its beginning, with what is not committed.
    pub fn read(&self, topic: &str) -> Reader {
        Reader::open(&self.address(), topic, "read_uncommitted")
    }

    /// Reads what is committed of a topic from its beginning.
    pub fn read_committed(&self, topic: &str) -> Reader {
        Reader::open(&self.address(), topic, "read_committed")
    }
}

fn spawn(address: SocketAddr, directory: &Path) -> Process {
    let data = directory.join("data");
    Process::spawn(
        "broker",
        &tool("noida-db"),
        [
            "start".as_ref(),
            "--only".as_ref(),
            "kafka".as_ref(),
            "--host".as_ref(),
            "127.0.0.1".as_ref(),
            "--kafka-port".as_ref(),
            address.port().to_string().as_ref(),
            "--data-dir".as_ref(),
            data.as_os_str(),
        ],
        directory,
        Signal::SIGKILL,
    )
}

/// Waits until it answers; false if it ended instead.
fn is_alive(process: &mut Process, address: SocketAddr) -> bool {
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address.to_string()).create().expect("a client");
    wait::until("the broker to answer", START_TIME_MAX, || {
        if process.ended().is_some() {
            return Ok(false);
        }
        match client.fetch_metadata(None, Duration::from_millis(500)) {
            Ok(_) => Ok(process.ended().is_none()),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// An address on which nobody listens at this moment.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address")
}

/// The name and version of the broker, for people.
pub fn version() -> String {
    let finished = process::run(std::process::Command::new(tool("noida-db")).arg("version"), wait::TIMEOUT);
    finished.stdout.trim().to_owned()
}
