//! Renders the ids of events, without allocating for each.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::delivery::{EventId, Subject};

/// Names the events of one ring; the default is of no use. What all ids of a ring begin with is rendered once.
#[derive(Default)]
pub struct Namer {
    ring: Uuid,
    text: String,
    prefix_bytes: usize,
}

impl Namer {
    /// Names events of `ring`.
    pub fn new(ring: Uuid) -> Self {
        let text = format!("{ring}-");
        Self { ring, prefix_bytes: text.len(), text }
    }

    /// Names an event.
    pub fn name(&mut self, subject: Subject) -> (EventId, &str) {
        self.text.truncate(self.prefix_bytes);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{subject}");
        (EventId { ring: self.ring, subject }, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::News;

    #[test]
    fn what_it_renders_is_what_the_id_renders() {
        let mut namer = Namer::new(Uuid::from_u128(7));
        for subject in [
            Subject::Bytes { sequence: 12, stretch: None },
            Subject::News(News::Lost { sequence: u64::MAX }),
            Subject::Bytes { sequence: 0, stretch: None },
        ] {
            let (id, text) = namer.name(subject);
            assert_eq!((id.subject, text), (subject, &*id.to_string()));
        }
    }
}
