//! Dead letters: messages that the sink refuses for good, kept on disk until someone looks at them or the sink takes
//! them after all.
//!
//! # Files
//!
//! The directory holds files `NANOSECONDS.jsonl`, named after their time, each with the letters of one moment, a JSON
//! object a line (see [`Letter::to_line`](crate::delivery::Letter::to_line)). A file appears whole (written under a temporary name, fsynced, renamed, the directory
//! fsynced) before the records that it stands for count as dealt with, so a crash leaves at worst a letter whose record
//! is sent, and refused, again.
//!
//! Two locks (flock(2)): `publisher.lock` is held by the one publisher that writes here, for as long as it runs; the directory
//! itself by whoever removes letters, while it does. Whoever that is, root too: files belong to the directory's owner.
//!
//! Every `failed.retry_interval`, and when a file `retry` appears, the publisher sends letters again, a file at a time. What
//! is delivered is taken out of the file, what is refused again stays as it is. A letter has lost its place: it does
//! not keep the order of its file's events.
//!
//! With `failed.topic`, a letter that its own topic refuses again goes there, in the same round; once that has confirmed it, it is taken out of
//! the file as a delivered one is. What that topic refuses stays in the file, until the next round.

mod command;
mod detours;
mod directory;
mod error;
mod letter;
mod patience;
mod retry;
mod store;

pub use command::{FailedCommand, failed};
pub use detours::Detours;
pub use directory::Directory;
pub use error::FailedError;
pub use patience::Patience;
pub use retry::{Again, Retry, Settled};
pub use store::Store;
