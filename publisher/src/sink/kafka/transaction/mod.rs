//! Exactly once: events and how far they reach in one transaction.
//!
//! A transaction holds events and, as the consumer group `kafka.transactional_id`'s offset of partition 0 of `kafka.topic` (of
//! `publisher.fallback_topic` where that is a template), the
//! [`Checkpoint`] behind them: which ring, which record, how many of that record's messages. Either both come into being or neither.
//! A publisher that starts first ends what its predecessor left open (which fences that predecessor, should it still live), then reads
//! the checkpoint, and what lies before it in the ring counts as delivered. So whoever reads with `isolation.level=read_committed`
//! sees each event once, whenever a publisher was killed:
//!
//! | killed | then |
//! |---|---|
//! | before the commit was asked for | the broker aborts the transaction; its events are read from the ring again |
//! | while it was on its way | the broker has it or not; the checkpoint says which |
//! | after it, before the ring's head moved | the checkpoint skips what the ring still has |
//!
//! What librdkafka reports is dealt with as its documentation asks for: a *retriable* error repeats the call, an *abortable* one aborts
//! the transaction, whose events then go into the next, a *fatal* one ends the publisher. While nothing is committed nothing is
//! complete, so that the ring keeps everything.

mod calls;
mod checkpoint;
mod kept;
mod reports;
mod sink;

pub use sink::TransactionalSink;
