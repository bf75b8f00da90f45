//! What the drain, the sinks, the spool and the dead letters have in common: the names of events, the tickets of records,
//! what becomes of them, and how far they are delivered.
//!
//! Nothing here imports from another room of this crate; `tests/tests/tidy/floors.rs` holds the crate to that.

mod class;
mod dead_letter;
mod frontier;
mod id;
mod joined;
mod outcome;
mod sink;
#[cfg(test)]
pub mod testing;
mod ticket;

pub use class::Class;
pub use dead_letter::{DeadLetter, Failure};
pub use frontier::{Bounds, Frontier, Ledger, Progress, Record, Refused};
pub use id::{EVENT_ID_BYTES_MAX, EventId, News, NotAnId, Stretch, Subject};
pub use joined::JoinedMessage;
pub use outcome::{Outcome, Outcomes, Tally};
pub use sink::{Message, NS_PER_MS, SendError, Sink, SinkError};
pub use ticket::Ticket;
