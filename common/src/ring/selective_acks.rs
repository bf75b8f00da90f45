//! What lies behind the head and is delivered all the same.
//!
//! A publisher that joins records into one message delivers the whole of it in the place of its first record. Once that
//! is acknowledged, the head may stand in front of others that were in the same message. They are written down here
//! before the head moves there, so that the next publisher does not send them a second time, as something else.
//!
//! There are two slots, each bound to the head that it is about. The one that does not speak of the current head is
//! written, its head last: whenever the publisher dies, a slot speaks of the head and is whole, or there is nothing to
//! say.

use crate::sync::{Arc, Ordering};

use super::{
    layout::{SELECTIVE_ACK_SLOT_LEN, SELECTIVE_ACK_SLOTS},
    memory::Segments,
};

/// How many handles a slot can speak of.
pub const SELECTIVE_ACKS_MAX: usize = (SELECTIVE_ACK_SLOT_LEN / 8 - ENTRIES) / 2;

/// Places of a slot's words: the head it is about, how many entries it has, the sequence number that they count from.
/// Each entry is a handle, and a word with the difference to that number and the length, 32 bits each.
const HEAD: usize = 0;
const COUNT: usize = 1;
const BASE: usize = 2;
const ENTRIES: usize = 3;
/// The head of a slot that is being written; no ring gets that far.
const NO_HEAD: u64 = u64::MAX;

/// Of one handle's records behind the head, all before `sequence`, and of that one the first `len` bytes, are
/// delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectiveAck {
    /// The handle that wrote them.
    pub handle: u64,
    /// The number of the last of them.
    pub sequence: u64,
    /// How much of that.
    pub len: u32,
}

/// The slots, on the publisher's side.
pub struct SelectiveAckSlots {
    segments: Arc<Segments>,
    /// The slot to write next.
    next: usize,
}

impl SelectiveAckSlots {
    /// The slots of an attached ring, and what they say of its head.
    pub(super) fn attach(segments: Arc<Segments>, head: u64) -> (Self, Vec<SelectiveAck>) {
        let mut slots = Self { segments, next: 0 };
        let current = (0..2).find(|slot| slots.word(*slot, HEAD).load(Ordering::Acquire) == head);
        let entries = current.map(|slot| slots.read(slot)).unwrap_or_default();
        slots.next = current.map_or(0, |slot| 1 - slot);
        (slots, entries)
    }

    /// Writes down what is delivered behind `head`, to which the head has not moved yet. What is beyond [`SELECTIVE_ACKS_MAX`]
    /// entries is left out.
    pub fn write(&mut self, head: u64, entries: &[SelectiveAck]) {
        let slot = self.next;
        let base = entries.iter().map(|entry| entry.sequence).min().unwrap_or(0);
        // Nothing below is moved in front of this, nor the last store in front of anything.
        self.word(slot, HEAD).store(NO_HEAD, Ordering::Relaxed);
        self.word(slot, BASE).store(base, Ordering::Release);
        let mut count = 0;
        for entry in entries {
            let Ok(after) = u32::try_from(entry.sequence - base) else { continue };
            if count == SELECTIVE_ACKS_MAX {
                break;
            }
            let at = ENTRIES + 2 * count;
            self.word(slot, at).store(entry.handle, Ordering::Release);
            let place = u64::from(after) << 32 | u64::from(entry.len);
            self.word(slot, at + 1).store(place, Ordering::Release);
            count += 1;
        }
        self.word(slot, COUNT).store(count as u64, Ordering::Release);
        self.word(slot, HEAD).store(head, Ordering::Release);
        self.next = 1 - slot;
    }

    fn read(&self, slot: usize) -> Vec<SelectiveAck> {
        let load = |word| self.word(slot, word).load(Ordering::Acquire);
        let count = usize::try_from(load(COUNT)).unwrap_or(usize::MAX).min(SELECTIVE_ACKS_MAX);
        let base = load(BASE);
        let entry = |i: usize| {
            let place = load(ENTRIES + 2 * i + 1);
            let [after, len] = [place >> 32, place & u64::from(u32::MAX)];
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            SelectiveAck { handle: load(ENTRIES + 2 * i), sequence: base.saturating_add(after), len }
        };
        (0..count).map(entry).collect()
    }

    fn word(&self, slot: usize, word: usize) -> &crate::sync::AtomicU64 {
        self.segments.ack.word(SELECTIVE_ACK_SLOTS + slot * SELECTIVE_ACK_SLOT_LEN + word * 8)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ring::{AgentRing, PublisherRing, RingConfig, SEGMENT_DIR},
        units::ByteSize,
    };

    use super::*;

    struct Ring(RingConfig, PublisherRing);

    impl Ring {
        fn new(test: &str) -> Self {
            let name = format!("ahead-{test}-{}", std::process::id());
            let config = RingConfig { name, size: ByteSize(1 << 20), group: None };
            let _agent = AgentRing::open(&config).unwrap();
            let publisher = PublisherRing::attach(&config.name, None).unwrap();
            Self(config, publisher)
        }

        fn says(&self, head: u64) -> Vec<SelectiveAck> {
            SelectiveAckSlots::attach(Arc::clone(self.1.segments()), head).1
        }
    }

    impl Drop for Ring {
        fn drop(&mut self) {
            for role in ["ring", "ack"] {
                let _ = std::fs::remove_file(format!("{SEGMENT_DIR}/{}.1.{role}", self.0.name));
            }
        }
    }

    fn entry(i: u64) -> SelectiveAck {
        SelectiveAck { handle: 1000 + i, sequence: (5 << 32) + i, len: 7 }
    }

    #[test]
    fn what_is_written_for_a_head_is_read_for_that_head_alone() {
        let ring = Ring::new("head");
        let (mut slots, before) = ring.1.ahead(0);
        assert_eq!(before, []);
        slots.write(80, &[entry(2), entry(1)]);
        assert_eq!((ring.says(80), ring.says(81)), (vec![entry(2), entry(1)], Vec::new()));
        // The head is not there yet: what is known of the old one stays until the next but one is written.
        slots.write(160, &[entry(3)]);
        assert_eq!((ring.says(80), ring.says(160)), (vec![entry(2), entry(1)], vec![entry(3)]));
        slots.write(240, &[]);
        assert_eq!((ring.says(80), ring.says(160)), (Vec::new(), vec![entry(3)]));
    }

    #[test]
    fn a_slot_that_speaks_of_the_head_is_not_the_next_to_be_written() {
        let ring = Ring::new("next");
        ring.1.ahead(0).0.write(80, &[entry(1)]);
        let (mut slots, _) = SelectiveAckSlots::attach(Arc::clone(ring.1.segments()), 80);
        slots.write(160, &[entry(2)]);
        assert_eq!(ring.says(80), [entry(1)]);
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let ring = Ring::new("room");
        let many: Vec<SelectiveAck> = (0..SELECTIVE_ACKS_MAX as u64 + 5).map(entry).collect();
        ring.1.ahead(0).0.write(80, &many);
        assert_eq!(ring.says(80), many[..SELECTIVE_ACKS_MAX]);
    }
}
