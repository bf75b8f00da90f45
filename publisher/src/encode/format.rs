//! What a format of events is.

use super::event::{LossEvent, WriteEvent};

/// The program's version, as events carry it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The tag of a loss.
pub const LOST_TAG: &str = "_lost";
/// The tag of what a quota withholds.
pub const WITHHELD_TAG: &str = "_withheld";
/// The tag of a write to a file whose path is too long to be told whole.
pub const PATH_CUT_TAG: &str = "_path_cut";

/// A format of events. Output is appended, so that callers can reuse one buffer.
pub trait Encode {
    /// Appends a write.
    fn write(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>);

    /// Appends a loss, or returns false if the format has no way to say it.
    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool;

    /// How many of the message's first bytes surely add at most `room_bytes` to a write with an empty message.
    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize;
}
