//! What a format of events is.

use super::{
    event::{LossEvent, WriteEvent},
    json,
};

/// The program's version, as events carry it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The tag of a loss.
pub const LOST_TAG: &str = "_lost";
/// The tag of what a quota withholds.
pub const WITHHELD_TAG: &str = "_withheld";
/// The tag of a write to a file whose path is too long to be told whole.
pub const PATH_CUT_TAG: &str = "_path_cut";

/// How the written bytes stand in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// In base64.
    Base64,
    /// As text within a JSON string; what is not UTF-8 is replaced.
    Json,
}

impl Form {
    /// How many bytes `len` bytes become at least.
    pub fn bytes_min(self, len: usize) -> usize {
        match self {
            Self::Plain | Self::Json => len,
            Self::Base64 => len / 3 * 4,
        }
    }

    /// Appends bytes in this form; gives whether they can be had back from it.
    pub fn push(self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        match self {
            Self::Plain => out.extend_from_slice(bytes),
            Self::Base64 => {
                base64_simd::STANDARD.encode_append(bytes, out);
            }
            Self::Json => return json::push_unquoted(bytes, out),
        }
        true
    }
}

/// A format of events. Output is appended, so that callers can reuse one buffer.
pub trait Encode {
    /// How the written bytes stand in a write's event.
    fn form(&self) -> Form;

    /// Appends what of a write comes in front of its bytes. These are not looked at.
    fn head(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>);

    /// Appends what comes behind them. They are looked at only if `is_exact` is false: if they cannot be had back from their form.
    fn tail(&mut self, event: &WriteEvent<'_>, is_exact: bool, out: &mut Vec<u8>);

    /// Appends a write.
    fn write(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>) {
        self.head(event, out);
        let is_exact = self.form().push(event.message, out);
        self.tail(event, is_exact, out);
    }

    /// Appends a loss, or returns false if the format has no way to say it.
    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool;

    /// How many of the message's first bytes surely add at most `room_bytes` to a write with an empty message.
    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize;
}
