//! Where the demo's events go: a Kafka-protocol broker that can be stopped, or Kinesis behind a proxy that can stall.

use bywash_tests::harness::{Broker, Bywash, FaultProxy, Kinesis, Reader, Settings, broker, kinesis};

/// The topic or stream.
const NAME: &str = "logs";
/// Shards of the stream.
const SHARDS: u32 = 2;

/// Which of them.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum Sink {
    /// Kafka's protocol.
    #[default]
    Kafka,
    /// The Kinesis API.
    Kinesis,
}

/// A running one.
pub enum Destination {
    /// A broker.
    Kafka(Broker),
    /// The API, and the proxy between it and the publisher.
    Kinesis(Kinesis, FaultProxy),
}

impl Destination {
    /// Starts it.
    pub fn start(sink: Sink) -> Self {
        match sink {
            Sink::Kafka => Self::Kafka(Broker::start()),
            Sink::Kinesis => {
                let kinesis = Kinesis::start();
                kinesis.create_stream(NAME, SHARDS);
                let proxy = FaultProxy::start(&kinesis);
                Self::Kinesis(kinesis, proxy)
            }
        }
    }

    /// What a sentence about it begins with.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "The broker",
            Self::Kinesis(..) => "Kinesis",
        }
    }

    /// What runs where.
    pub fn description(&self) -> String {
        match self {
            Self::Kafka(broker) => format!(
                "broker:    {}, Kafka's protocol on {}, pid {}",
                broker::version(),
                broker.address(),
                broker.pid()
            ),
            Self::Kinesis(kinesis, proxy) => format!(
                "Kinesis:   {}, its API on {}, pid {}, behind a proxy at {}",
                kinesis::version(),
                kinesis.address(),
                kinesis.pid(),
                proxy.url()
            ),
        }
    }

    /// Services that send to it, not yet started.
    pub fn services(&self) -> Bywash {
        match self {
            Self::Kafka(broker) => Bywash::new(&broker.address(), &Settings::default()),
            Self::Kinesis(_, proxy) => Bywash::for_kinesis(&proxy.url(), &Settings::default()),
        }
    }

    /// Has it stand still, and gives the command that did it.
    pub fn stall(&self) -> String {
        match self {
            Self::Kafka(broker) => {
                broker.stop();
                format!("kill -STOP {}    # the broker", broker.pid())
            }
            Self::Kinesis(_, proxy) => {
                proxy.stall();
                "# the proxy lets nothing through any more, and keeps its connections open".to_owned()
            }
        }
    }

    /// Has it go on, and gives the command that did it.
    pub fn resume(&self) -> String {
        match self {
            Self::Kafka(broker) => {
                broker.resume();
                format!("kill -CONT {}    # the broker", broker.pid())
            }
            Self::Kinesis(_, proxy) => {
                proxy.resume();
                "# the proxy lets requests through again; those that it held are lost".to_owned()
            }
        }
    }

    /// Reads from the beginning.
    pub fn read(&self) -> Reader {
        match self {
            Self::Kafka(broker) => broker.read(NAME),
            Self::Kinesis(kinesis, _) => kinesis.read(NAME),
        }
    }

    /// Ends it.
    pub fn terminate(self) {
        match self {
            Self::Kafka(mut broker) => broker.terminate(),
            Self::Kinesis(kinesis, _) => kinesis.terminate(),
        }
    }
}
