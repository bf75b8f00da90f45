//! Both segments of a generation, mapped and found to be what they should be.

use std::os::unix::fs::FileExt;

use crate::sync::{Arc, Ordering};

use super::{
    error::RingError,
    layout::{self, Header},
    memory::{Access, Mapping, Segments},
    object::{Generation, Object, Role, io_error, path_of},
    status::{PublisherCounter, PublisherStatus},
};

/// A generation that was opened.
pub(super) struct Opened {
    pub(super) data: Object,
    pub(super) ack: Object,
}

impl Opened {
    /// Opens both objects, the data segment for `data` and the other one for `ack`. Gives none if there is no such
    /// generation.
    ///
    /// # Errors
    /// [`RingError::Halved`] if only the consumer segment is missing.
    pub(super) fn open(
        generation: &Generation,
        data: Access,
        ack: Access,
    ) -> Result<Option<Self>, RingError> {
        let Some(data) = generation.open(Role::Data, data)? else { return Ok(None) };
        let Some(ack) = generation.open(Role::Ack, ack)? else {
            return Err(RingError::Halved { name: data.name, ack: generation.object(Role::Ack) });
        };
        Ok(Some(Self { data, ack }))
    }

    pub(super) fn object(&self, role: Role) -> &Object {
        match role {
            Role::Data => &self.data,
            Role::Ack => &self.ack,
        }
    }

    /// The bytes of both headers.
    pub(super) fn headers(&self) -> Result<[[u8; layout::HEADER_LEN]; 2], RingError> {
        let mut headers = [[0; layout::HEADER_LEN]; 2];
        for (object, bytes) in [&self.data, &self.ack].into_iter().zip(&mut headers) {
            object.file.read_exact_at(bytes, 0).map_err(io_error("read", path_of(&object.name)))?;
        }
        Ok(headers)
    }

    /// Maps both, with the rights for which they were opened, and checks that they belong together.
    pub(super) fn attach(
        &self,
        generation: &Generation,
        data: Access,
        ack: Access,
    ) -> Result<(Segments, Header), RingError> {
        let corrupt = |object: &Object, what| RingError::Corrupt { name: object.name.clone(), what };
        let header = read_header(&self.data, generation, layout::MAGIC_DATA)?;
        let ack_header = read_header(&self.ack, generation, layout::MAGIC_ACK)?;
        let data_len = layout::RECORDS as u64 + header.capacity;
        if self.data.len()? != data_len {
            return Err(corrupt(&self.data, "its length is not what its header says"));
        }
        if self.ack.len()? < layout::ACK_LEN as u64 || ack_header.uuid != header.uuid {
            return Err(corrupt(&self.ack, "it does not belong to its data segment"));
        }
        let len =
            usize::try_from(data_len).map_err(|_| corrupt(&self.data, "it is larger than the memory"))?;
        let data = map(&self.data, len, data)?;
        let ack = map(&self.ack, layout::ACK_LEN, ack)?;
        Ok((Segments { data, ack, capacity: header.capacity }, header))
    }
}

fn map(object: &Object, len: usize, access: Access) -> Result<Mapping, RingError> {
    Mapping::of(&object.file, len, access).map_err(io_error("map", path_of(&object.name)))
}

fn read_header(object: &Object, generation: &Generation, magic: [u8; 8]) -> Result<Header, RingError> {
    let corrupt = |what| RingError::Corrupt { name: object.name.clone(), what };
    let mut bytes = [0; layout::HEADER_LEN];
    object.file.read_exact_at(&mut bytes, 0).map_err(|_| corrupt("it is shorter than a header"))?;
    let header = Header::decode(&object.name, magic, &bytes)?;
    if header.place.is_some_and(|place| place != generation.place()) {
        return Err(corrupt("it was made under another name"));
    }
    Ok(header)
}

/// Maps a generation for reading alone. Gives none if there is no such generation.
pub(super) fn look_at(generation: &Generation) -> Result<Option<(Opened, Segments, Header)>, RingError> {
    let Some(opened) = Opened::open(generation, Access::Read, Access::Read)? else { return Ok(None) };
    let (segments, header) = opened.attach(generation, Access::Read, Access::Read)?;
    Ok(Some((opened, segments, header)))
}

/// Tail and head, if they can be true.
pub(super) fn positions(segments: &Segments) -> Option<(u64, u64)> {
    let head = segments.ack.word(layout::HEAD).load(Ordering::Acquire);
    let tail = segments.data.word(layout::TAIL).load(Ordering::Acquire);
    (head <= tail && tail - head <= segments.capacity).then_some((tail, head))
}

/// Bytes and records that are visible and not acknowledged.
pub(super) fn backlog(segments: &Segments) -> (u64, u64) {
    let Some((tail, head)) = positions(segments) else { return (0, 0) };
    if tail == head {
        return (0, 0);
    }
    // The newer commit slot may be a commit ahead of the tail, which is as good for a display.
    let slot = |i| layout::COMMIT_SLOTS + i * layout::COMMIT_SLOT_LEN + 8;
    let next = (0..2).map(|i| segments.data.word(slot(i)).load(Ordering::Relaxed)).max().unwrap_or(0);
    let acked = segments.ack.word(layout::PUBLISHER_COUNTERS + PublisherCounter::AckedSequence as usize * 8);
    (tail - head, next.saturating_sub(acked.load(Ordering::Relaxed)))
}

/// Whether a generation holds nothing more. One that cannot be read is not drained.
pub(super) fn is_drained(generation: &Generation) -> bool {
    let looked = look_at(generation).ok().flatten();
    looked.and_then(|(_, segments, _)| positions(&segments)).is_some_and(|(tail, head)| tail == head)
}

/// The newest generation on which a publisher was at work, and what it has counted there.
pub(super) fn newest_begun(generations: &[Generation]) -> Option<(Generation, PublisherStatus)> {
    generations.iter().rev().find_map(|generation| {
        let (_, segments, _) = look_at(generation).ok().flatten()?;
        let status = PublisherStatus::new(Arc::new(segments));
        status.is_begun().then(|| (generation.clone(), status))
    })
}
