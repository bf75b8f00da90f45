//! Dead letters: messages that the sink refuses for good, kept on disk until someone looks at them or the sink takes
//! them after all.
//!
//! # Files
//!
//! The directory holds files `NANOSECONDS.jsonl`, named after their time, each with the letters of one moment, a JSON
//! object a line (see [`Letter`]). A file appears whole (written under a temporary name, fsynced, renamed, the directory
//! fsynced) before the records that it stands for count as dealt with, so a crash leaves at worst a letter whose record
//! is sent, and refused, again.
//!
//! Two locks (flock(2)): `publisher.lock` is held by the one publisher that writes here, for as long as it runs;
//! `change.lock` by whoever removes letters, while it does.

mod letter;
mod patience;
mod store;

pub use letter::Letter;
pub use patience::Patience;
pub use store::{FailedError, Store};
