//! Readers that take no part in a ring: nothing that they do reaches the agent or the publisher.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    attached::{look_at, positions},
    entry::Entry,
    error::RingError,
    inspect::other_to_show,
    memory::Segments,
    object::{Generation, Trust, generations},
    real::Consumer,
};

/// How often it is looked for a newer generation.
const SUCCESSOR_INTERVAL: Duration = Duration::from_secs(1);
/// How often a scan begins anew at the head that has overtaken it, before it takes that for damage.
const OVERTAKEN_MAX: u32 = 100;

/// Whose rings are shown: those that this user's publisher would drain; to root, where there is none, another user's.
fn shown(name: &str) -> Result<Vec<Generation>, RingError> {
    let all = generations(name, &Trust::of_publisher(None))?;
    if !all.is_empty() {
        return Ok(all);
    }
    other_to_show(name)?.map_or(Ok(all), |owner| generations(name, &Trust::only(owner)))
}

/// Reads what is written to a ring from now on, as it comes.
pub struct Tap {
    name: String,
    at: At,
    looked: Instant,
}

struct At {
    generation: Generation,
    segments: Arc<Segments>,
    uuid: Uuid,
    reader: Consumer,
}

/// What a tap has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tapped {
    /// A record of the ring with this uuid; its payload is in the caller's buffer.
    Record(Uuid, Entry),
    /// Records were overwritten before they were read.
    Missed,
    /// Nothing, for now.
    Nothing,
}

impl Tap {
    /// Begins behind what is in the ring.
    ///
    /// # Errors
    /// A [`RingError`] if there is none, or it may not be read.
    pub fn open(name: &str) -> Result<Self, RingError> {
        let at = At::newest(name)?.ok_or_else(|| RingError::Missing { name: name.to_owned() })?;
        Ok(Self { name: name.to_owned(), at, looked: Instant::now() })
    }

    /// Reads the next record's payload into `payload`. Never waits.
    ///
    /// # Errors
    /// A [`RingError`] if the ring may not be looked at any more.
    pub fn next(&mut self, payload: &mut Vec<u8>) -> Result<Tapped, RingError> {
        match self.at.reader.next(payload) {
            Ok(Some(entry)) => return Ok(Tapped::Record(self.at.uuid, entry)),
            Ok(None) => {}
            Err(_) => {
                self.at.skip();
                return Ok(Tapped::Missed);
            }
        }
        if self.looked.elapsed() >= SUCCESSOR_INTERVAL {
            self.looked = Instant::now();
            let newest = shown(&self.name)?.pop();
            if newest.is_some_and(|newest| newest != self.at.generation)
                && let Some(at) = At::newest(&self.name)?
            {
                self.at = at;
                // What is in it already was written since the last look.
                self.at.reader = Consumer::look_from(Arc::clone(&self.at.segments), 0);
            }
        }
        Ok(Tapped::Nothing)
    }
}

impl At {
    fn newest(name: &str) -> Result<Option<Self>, RingError> {
        let Some(generation) = shown(name)?.pop() else { return Ok(None) };
        let Some((_, segments, header)) = look_at(&generation)? else { return Ok(None) };
        let segments = Arc::new(segments);
        let reader = Consumer::look_from(Arc::clone(&segments), 0);
        let mut at = Self { generation, segments, uuid: Uuid::from_bytes(header.uuid), reader };
        at.skip();
        Ok(Some(at))
    }

    /// Turns to what is written next.
    fn skip(&mut self) {
        let tail = positions(&self.segments).map_or(0, |(tail, _)| tail);
        self.reader = Consumer::look_from(Arc::clone(&self.segments), tail);
    }
}

/// Looks at every record in the ring that is not known to be delivered, oldest first, and at none that is written meanwhile.
///
/// # Errors
/// A [`RingError`] if there is no ring, it may not be read, or it is damaged.
pub fn undelivered(name: &str, mut visit: impl FnMut(&Entry, &[u8])) -> Result<(), RingError> {
    let all = shown(name)?;
    if all.is_empty() {
        return Err(RingError::Missing { name: name.to_owned() });
    }
    let mut payload = Vec::new();
    for generation in all {
        let Some((opened, segments, _)) = look_at(&generation)? else { continue };
        let Some((tail, head)) = positions(&segments) else { continue };
        let segments = Arc::new(segments);
        let mut reader = Consumer::look_from(Arc::clone(&segments), head);
        let mut overtaken = 0;
        while reader.position() < tail {
            match reader.next(&mut payload) {
                Ok(Some(entry)) => visit(&entry, &payload),
                Ok(None) => break,
                // What is delivered meanwhile may be overwritten while it is read.
                Err(error) => match positions(&segments) {
                    Some((_, head)) if head > reader.position() && overtaken < OVERTAKEN_MAX => {
                        overtaken += 1;
                        reader.seek(head, None);
                    }
                    _ => {
                        tracing::debug!("{}: {error}", opened.data.name);
                        let name = opened.data.name.clone();
                        return Err(RingError::Corrupt { name, what: "a record in it cannot be read" });
                    }
                },
            }
        }
    }
    Ok(())
}
