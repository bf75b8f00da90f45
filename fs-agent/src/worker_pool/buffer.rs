//! What a worker reads requests into.

use std::io;

use crate::sys::Pages;

/// What comes before the data of a write. That begins with a page, so that it is copied from there page by page.
pub const HEAD_BYTES: usize = 80;

/// The most data that comes with a request.
pub const DATA_BYTES_MAX: usize = 1 << 20;

const PAGE_BYTES: usize = 4096;

/// How many pages a worker keeps when it has had nothing to do for a while.
const KEPT_PAGES: usize = 4;

/// The longest request for which those suffice: it begins at the end of the first.
const KEPT_BYTES: usize = (KEPT_PAGES - 1) * PAGE_BYTES + HEAD_BYTES;

/// Memory for one request at a time, of which as much is used as requests have needed.
pub struct Buffer {
    pages: Pages,
    /// For requests of how many bytes its pages are there.
    resident: usize,
}

impl Buffer {
    /// For requests of any size.
    ///
    /// # Errors
    /// Without memory.
    pub fn new() -> io::Result<Self> {
        // A page more than is needed: the kernel wants to be given room for more than it sends.
        let mut pages = Pages::new(PAGE_BYTES + DATA_BYTES_MAX + PAGE_BYTES)?;
        // Those that are kept are there from the start.
        pages.bytes()[..KEPT_PAGES * PAGE_BYTES].chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
        Ok(Self { pages, resident: KEPT_BYTES })
    }

    /// Has the pages there for a request of up to `len` bytes. A thread that is killed while it waits may be handed a request
    /// before it dies: the kernel still copies that into pages that are there, so that it comes back to a successor, and answers
    /// it with EIO where one is not.
    pub fn make_resident(&mut self, len: usize) {
        let resident = self.resident;
        if len > resident {
            let space = self.space();
            let end = len.min(space.len());
            space[resident..end].chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
            // A page may begin within the last piece.
            space[end - 1] = 1;
            self.resident = end;
        }
    }

    /// Where a request goes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.pages.bytes()[PAGE_BYTES - HEAD_BYTES..]
    }

    /// The request of `len` bytes that was read.
    pub fn request(&mut self, len: usize) -> &[u8] {
        self.resident = self.resident.max(len);
        let space = self.space();
        &space[..len.min(space.len())]
    }

    /// Gives back what large requests have used.
    pub fn shrink(&mut self) {
        if self.resident > KEPT_BYTES {
            self.pages.give_back_from(KEPT_PAGES * PAGE_BYTES);
            self.resident = KEPT_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_write_begins_with_a_page_and_what_is_given_back_is_zero() {
        let mut buffer = Buffer::new().unwrap();
        let space = buffer.space();
        assert!(space[HEAD_BYTES..].as_ptr().addr().is_multiple_of(PAGE_BYTES));
        assert!(space.len() >= HEAD_BYTES + DATA_BYTES_MAX);
        space.fill(1);
        assert_eq!(buffer.request(1 << 20).len(), 1 << 20);
        buffer.shrink();
        let kept = KEPT_PAGES * PAGE_BYTES - (PAGE_BYTES - HEAD_BYTES);
        let space = buffer.space();
        assert!(space[..kept].iter().all(|byte| *byte == 1) && space[kept..].iter().all(|byte| *byte == 0));
    }
}
