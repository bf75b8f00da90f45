//! Dead letters: messages that the sink refuses for good, kept on disk until someone looks at them or the sink takes
//! them after all.
//!
//! # Files
//!
//! The directory holds files `NANOSECONDS.jsonl`, named after their time, each with the dead letters of one moment, a JSON
//! object a line (see [`DeadLetter::to_line`](crate::delivery::DeadLetter::to_line)). A file appears whole (written under a temporary name, fsynced, renamed, the directory
//! fsynced) before the records that it stands for count as dealt with, so a crash leaves at worst a dead letter whose record
//! is sent, and refused, again.
//!
//! Two locks (flock(2)): `publisher.lock` is held by the one publisher that writes here, for as long as it runs; the directory
//! itself by whoever removes dead letters, while it does. Whoever that is, root too: files belong to the directory's owner.
//!
//! Every `failed.retry_interval`, and when a file `retry` appears, the publisher sends dead letters again, a file at a time. What
//! is delivered is taken out of the file, what is refused again stays as it is. A dead letter has lost its place: it does
//! not keep the order of its file's events.
//!
//! With `failed.topic`, a dead letter that its own topic refuses again goes there, in the same round; once that has confirmed it, it is taken out of
//! the file as a delivered one is. What that topic refuses stays in the file, until the next round.

mod circuit_breaker;
mod command;
mod directory;
mod error;
mod fallback_topics;
mod line_format;
mod retry;
mod store;

pub use circuit_breaker::CircuitBreaker;
pub use command::{FailedCommand, failed};
pub use directory::Directory;
pub use error::FailedError;
pub use fallback_topics::FallbackTopics;
pub use retry::{Again, Retry, Settled};
pub use store::Store;
