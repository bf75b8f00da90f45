//! Where a message is cut if the event is larger than the sink takes.

use crate::delivery::EVENT_ID_BYTES_MAX;

use super::{
    event::{Part, WriteEvent},
    format::Encode,
};

/// Not even a byte of the message fits beside the rest of the event.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "in parts the event takes {overhead_bytes} bytes beside its message, and the sink takes {limit_bytes} beside key and headers: raise its limit (message.max.bytes of Kafka, kinesis.record_bytes_max), or shorten event.fields and paths"
)]
pub struct TooSmall {
    /// Bytes of the event without any message.
    pub overhead_bytes: usize,
    /// The most bytes of a message that the sink takes.
    pub limit_bytes: usize,
}

/// Where each part of the event's message ends, so that each encoded part has at most `limit_bytes`. `scratch` is
/// overwritten.
///
/// # Errors
/// [`TooSmall`] if no byte of the message fits.
pub fn cuts(
    encoder: &mut dyn Encode,
    event: &WriteEvent<'_>,
    limit_bytes: usize,
    scratch: &mut Vec<u8>,
) -> Result<Vec<usize>, TooSmall> {
    // The widest numbers and the longest id that a part can carry, so that no part is larger than reckoned.
    let widest = Some(Part { index: u32::MAX, count: u32::MAX });
    let event_id = &"9".repeat(EVENT_ID_BYTES_MAX);
    let empty =
        WriteEvent { message: b"", offset: u64::MAX, event_id, part: widest, piece: widest, ..*event };
    scratch.clear();
    encoder.write(&empty, scratch);
    let overhead_bytes = scratch.len();
    let too_small = TooSmall { overhead_bytes, limit_bytes };
    let room_bytes = limit_bytes.checked_sub(overhead_bytes).ok_or(too_small)?;
    let mut ends = Vec::new();
    let mut end = 0;
    while end < event.message.len() {
        match encoder.fitting(&event.message[end..], room_bytes) {
            0 => return Err(too_small),
            len => end += len,
        }
        ends.push(end);
    }
    Ok(ends)
}
