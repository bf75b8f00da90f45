//! Kinesis, by AWS's SDK.
//!
//! PutRecords takes up to 500 records, and answers for each of them: a request that succeeded may hold records that did
//! not. What is delivered completes its ticket at once; everything else is tried again, for ever:
//!
//! | the failure | what becomes of the records |
//! |---|---|
//! | a record is throttled (its shard takes no more for now) | all records for that shard wait, jittered, 0.1 s to 5 s |
//! | a record failed inside Kinesis | it and what follows it in its lane wait as long |
//! | the request was throttled, timed out, broke off, or met a 5xx | the stream waits, 0.1 s to 5 s |
//! | credentials are refused or cannot be had | all streams wait until they are read again, in a new client, 0.1 s to 10 s later |
//! | the clock is wrong | the stream waits, up to 30 s; the log says what to do |
//! | the stream is missing; its rights or its encryption key do not suffice | the same, for `failed.give_up_after`; then all become dead letters |
//! | the request is rejected as invalid | each of its records is sent alone, to find the culprit |
//! | a record is rejected alone | refused: it becomes a dead letter |
//! | the publisher ends | nothing: the ring has it |
//!
//! **Order.** Records of one partition key form a lane ([`lanes`]); a lane has at most one request on its way, which in
//! strict order holds one record of it. Failed records go back to the front of their lane, so nothing of a key is ever
//! sent before what was written earlier is confirmed. With aggregation a lane is a slice of the hash space ([`slices`]), of which
//! each shard holds one at least, and its record holds all that waits in it ([`aggregate`]). When shards are split or merged, the
//! space is cut otherwise as soon as nothing is on its way.
//!
//! **Threads.** The drain hands records over in small batches, without waiting; [`service`] runs the SDK on a thread of
//! its own. What waits in it is bounded by `publisher.in_flight_*`, as for every sink.

pub mod aggregate;
mod client;
mod config;
mod connect;
mod error;
mod lanes;
mod record;
mod renewal;
mod retry;
mod service;
mod shard_rates;
mod shards;
mod sink;
mod slices;
mod stream;
mod trouble;

pub use client::{Ready, ready};
pub use config::check;
pub use connect::connect;
pub use error::OpenError;
pub use sink::KinesisSink;
pub use trouble::{Trouble, text_of};
