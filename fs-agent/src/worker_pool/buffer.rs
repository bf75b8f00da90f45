//! What a worker reads requests into.

use std::io;

use crate::sys::Pages;

/// What comes before the data of a write. In a large one that begins with a page, so that it is copied from there page by page.
pub const HEAD_BYTES: usize = 80;

/// The most data that comes with a request.
pub const DATA_BYTES_MAX: usize = 1 << 20;

const PAGE_BYTES: usize = 4096;

/// How many pages a worker keeps when it has had nothing to do for a while.
const KEPT_PAGES: usize = 4;

/// How many requests in a row have to fit into a page before the next is expected to. The kernel looks up each page that it copies
/// to: of a small write that are two where the data begins with a page. Where that does not, a large one is copied in twice
/// as many pieces.
const SMALL_IN_A_ROW: u32 = 8;

/// Memory for one request at a time, of which as much is used as requests have needed.
pub struct Buffer {
    pages: Pages,
    /// Up to where its pages are there, in bytes.
    resident: usize,
    /// Where requests begin.
    begin: usize,
    /// How many of the last requests fitted into a page, one after the other.
    small: u32,
}

impl Buffer {
    /// For requests of any size.
    ///
    /// # Errors
    /// Without memory.
    pub fn new() -> io::Result<Self> {
        // A page more than is needed: the kernel wants to be given room for more than it sends.
        let mut pages = Pages::new(PAGE_BYTES + DATA_BYTES_MAX + PAGE_BYTES)?;
        let resident = KEPT_PAGES * PAGE_BYTES;
        // Those that are kept are there from the start.
        pages.bytes()[..resident].chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
        Ok(Self { pages, resident, begin: PAGE_BYTES - HEAD_BYTES, small: 0 })
    }

    /// Where the next request goes, of which up to `len` bytes have their pages there. A thread that is killed while it waits may
    /// be handed a request before it dies: the kernel still copies that into pages that are there, so that it comes back to a
    /// successor, and answers it with EIO where one is not.
    pub fn space(&mut self, len: usize) -> &mut [u8] {
        self.begin = if self.small < SMALL_IN_A_ROW { PAGE_BYTES - HEAD_BYTES } else { 0 };
        let bytes = self.pages.bytes();
        let end = (self.begin + len).min(bytes.len());
        if end > self.resident {
            bytes[self.resident..end].chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
            // A page may begin within the last piece.
            bytes[end - 1] = 1;
            self.resident = end;
        }
        &mut bytes[self.begin..]
    }

    /// A request of `len` bytes was read.
    pub fn filled(&mut self, len: usize) {
        self.small = if len <= PAGE_BYTES { self.small.saturating_add(1) } else { 0 };
        self.resident = self.resident.max((self.begin + len).min(self.pages.bytes().len()));
    }

    /// The request of `len` bytes that was read.
    pub fn request(&mut self, len: usize) -> &[u8] {
        let bytes = self.pages.bytes();
        let end = (self.begin + len).min(bytes.len());
        &bytes[self.begin..end]
    }

    /// Gives back what large requests have used.
    pub fn shrink(&mut self) {
        let kept = KEPT_PAGES * PAGE_BYTES;
        if self.resident > kept {
            self.pages.give_back_from(kept);
            self.resident = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_write_begins_with_a_page_and_what_is_given_back_is_zero() {
        let mut buffer = Buffer::new().unwrap();
        let space = buffer.space(0);
        assert!(space[HEAD_BYTES..].as_ptr().addr().is_multiple_of(PAGE_BYTES));
        assert!(space.len() >= HEAD_BYTES + DATA_BYTES_MAX);
        space.fill(1);
        buffer.filled(1 << 20);
        assert_eq!(buffer.request(1 << 20).len(), 1 << 20);
        buffer.shrink();
        let kept = KEPT_PAGES * PAGE_BYTES - (PAGE_BYTES - HEAD_BYTES);
        let space = buffer.space(0);
        assert!(space[..kept].iter().all(|byte| *byte == 1) && space[kept..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn small_requests_in_a_row_are_expected_in_one_page_and_a_large_one_ends_that() {
        let mut buffer = Buffer::new().unwrap();
        let is_aligned = |buffer: &mut Buffer| buffer.space(0).as_ptr().addr().is_multiple_of(PAGE_BYTES);
        for _ in 0..SMALL_IN_A_ROW {
            assert!(!is_aligned(&mut buffer));
            buffer.filled(PAGE_BYTES);
        }
        assert!(is_aligned(&mut buffer));
        let space = buffer.space(HEAD_BYTES + DATA_BYTES_MAX);
        assert!(space.len() >= HEAD_BYTES + DATA_BYTES_MAX);
        space[..HEAD_BYTES + DATA_BYTES_MAX].fill(7);
        buffer.filled(HEAD_BYTES + DATA_BYTES_MAX);
        assert!(buffer.request(HEAD_BYTES + DATA_BYTES_MAX).iter().all(|byte| *byte == 7));
        assert!(!is_aligned(&mut buffer));
    }

    #[test]
    fn the_pages_of_the_longest_request_are_there_before_it_is_read() {
        let mut buffer = Buffer::new().unwrap();
        for _ in 0..=SMALL_IN_A_ROW {
            let len = 5 * PAGE_BYTES;
            let touched =
                buffer.space(len)[..len].chunks(PAGE_BYTES).filter(|page| page.contains(&1)).count();
            assert!(touched >= 5, "{touched}");
            buffer.filled(1);
        }
    }
}
