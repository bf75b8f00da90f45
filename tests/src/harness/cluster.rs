//! A cluster of several brokers that err when they are told to: librdkafka's mock, in the test's own process.

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::Reader;

/// Brokers that listen on ports of their own. They forget what is old: a partition keeps 5 MiB.
pub struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    /// Starts a cluster with a topic.
    pub fn start(brokers: i32, topic: &str, partitions: i32) -> Self {
        let cluster = Self(MockCluster::new(brokers).expect("a mock cluster"));
        cluster.0.create_topic(topic, partitions, brokers).expect("a topic");
        cluster
    }

    /// host:port of all brokers, with commas between.
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Answers the next Produce requests with these errors.
    pub fn fail(&self, errors: &[RDKafkaRespErr]) {
        self.0.request_errors(RDKafkaApiKey::Produce, errors);
    }

    /// Makes a broker the leader of a topic's first partition; brokers count from 1.
    pub fn lead(&self, topic: &str, broker: i32) {
        self.0.partition_leader(topic, 0, Some(broker)).expect("a leader");
    }

    /// Ends a broker's connections and has it take no more.
    pub fn take_down(&self, broker: i32) {
        self.0.broker_down(broker).expect("a broker");
    }

    /// Has it take connections again.
    pub fn bring_up(&self, broker: i32) {
        self.0.broker_up(broker).expect("a broker");
    }

    /// Reads a topic's first partition from its beginning.
    pub fn read(&self, topic: &str) -> Reader {
        Reader::open(&self.address(), topic, "read_uncommitted")
    }
}
