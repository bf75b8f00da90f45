//! What an agent last saw in the segments of its ring, for when they are gone.

use crate::{clock::now_ns, sync::Ordering};

use super::{layout, memory::Segments, status::PublisherCounter};

/// What was in the segments when they were last whole.
pub(super) struct Seen {
    pub(super) counters: Vec<u64>,
    pub(super) head: u64,
    pub(super) acked_sequence: u64,
    pub(super) time_ns: u64,
}

impl Seen {
    pub(super) fn of(segments: &Segments) -> Self {
        let counter = |i| segments.data.word(layout::AGENT_COUNTERS + i * 8).load(Ordering::Relaxed);
        let (head, acked_sequence) = acknowledged(segments);
        let counters = (0..layout::COUNTERS_LEN / 8).map(counter).collect();
        Self { counters, head, acked_sequence, time_ns: now_ns() }
    }
}

/// The head, and the sequence number that follows the last acknowledged record's.
pub(super) fn acknowledged(segments: &Segments) -> (u64, u64) {
    let acked_at = layout::PUBLISHER_COUNTERS + PublisherCounter::AckedSequence as usize * 8;
    let head = segments.ack.word(layout::HEAD).load(Ordering::Acquire);
    (head, segments.ack.word(acked_at).load(Ordering::Relaxed))
}
