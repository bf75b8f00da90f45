//! Kafka, by librdkafka.
//!
//! The producer is idempotent, waits for all in-sync replicas and gives no message up for its age: librdkafka retries
//! what a broker may take later, in order. What it gives up on nevertheless (NETWORK_EXCEPTION and whatever code it does not
//! know count as final for it) comes back as a failed delivery report:
//!
//! | the failure | what becomes of the message |
//! |---|---|
//! | may end by itself | another producer sends it, for ever |
//! | ends once an operator acts (no such topic, no right to write) | the same, until `failed.give_up_after`; then refused, if there are dead letters |
//! | the broker rejects the batch (too large, invalid) | is sent again with half of the others, and so on down to alone |
//! | the broker rejects the message alone | refused: a dead letter, or else a loss event takes its place |
//! | the producer cannot go on (librdkafka calls that fatal), or ZooKeeper knows other brokers by now | another producer sends it |
//! | the publisher ends | nothing: the ring has it |
//!
//! **Order.** While anything waits to be sent again nothing new is sent, so that each key keeps its order. What lies in
//! librdkafka's own queue behind a message that it gives up would go out at once, under a new epoch that a broker takes, before
//! any report of the failure: so `enable.gapless.guarantee` has it stop there for good. Its producer then gives back what it has
//! not sent, the brokers have [`sink`] two seconds for the answers to what it has, and another producer sends everything
//! unconfirmed again in the ring's order. That costs a new producer's id (two round trips), for a code that is final to
//! librdkafka alone, and nothing else: what brokers have confirmed meanwhile is not sent twice.
//!
//! A request that librdkafka has built before it reads the failure still goes out, under the same producer's id and with the sequence
//! numbers that follow the failed batch. Either the broker has that batch after all, and the order is right; or it has not, and
//! refuses the gap: "the next request will fail with ...ERR_OUT_OF_ORDER_SEQUENCE_NUMBER", as librdkafka says where it ends the
//! producer for that reason (`rd_kafka_handle_Produce_error`, 2.12). Its mock cluster takes such a request: it compares
//! numbers in transactions alone (`rd_kafka_mock_validate_records`). What nobody can refuse is such a request where the batch that
//! failed was the first of that id in its partition: a broker that knows nothing of an id takes any number (Kafka's
//! `ProducerAppendInfo.checkSequence`). Only `exactly_once` excludes that: a failure there takes the whole transaction back.

mod background;
mod config;
mod connect;
mod error;
mod headers;
mod msk;
mod refusal;
mod report_batch;
mod retry;
mod service;
mod setup;
mod sink;
#[cfg(test)]
mod tests;
mod threaded_producer;
mod tokens;
mod topics;
mod transaction;
mod verdict;
mod zookeepers;

pub use connect::{connect, made};
pub use error::OpenError;
pub use headers::ENCODER_HEADER;
pub use setup::{Known, Setup};
pub use sink::{KafkaSink, check};
pub use transaction::TransactionalSink;
pub use zookeepers::{LookUpError, locate};
