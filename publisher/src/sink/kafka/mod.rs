//! Kafka, by librdkafka.
//!
//! The producer is idempotent, waits for all in-sync replicas and gives no message up for its age: librdkafka retries
//! what a broker may take later, in order. What it gives up on nevertheless comes back as a failed delivery report:
//!
//! | the failure | what becomes of the message |
//! |---|---|
//! | may end by itself | waits here and is sent again, for ever |
//! | ends once an operator acts (no such topic, no right to write) | the same, until `failed.give_up_after`; then refused, if there are dead letters |
//! | the broker rejects the batch (too large, invalid) | is sent again alone |
//! | the broker rejects the message alone | refused: a dead letter, or else a loss event takes its place |
//! | the producer cannot go on (librdkafka calls that fatal), or ZooKeeper knows other brokers by now | another producer sends it |
//! | the publisher ends | nothing: the ring has it |
//!
//! While anything waits to be sent again nothing new is sent, so that each key keeps its order. The exception that
//! cannot be helped: of batches of one partition that were on their way together, a later one may be taken after the
//! earlier one failed.

mod config;
mod connect;
mod error;
mod gathered;
mod polled;
mod retry;
mod service;
mod sink;
#[cfg(test)]
mod tests;
mod topics;
mod transaction;
mod zookeepers;

pub use config::{PropertyError, consumer_config};
pub use connect::connect;
pub use error::OpenError;
pub use sink::{ENCODER_HEADER, KafkaSink, check};
pub use transaction::TransactionalSink;
pub use zookeepers::{LookUpError, locate};
