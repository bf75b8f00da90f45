//! The request that the calling thread does, which what is below notes its steps for: it knows nothing of requests otherwise. Where
//! there is none, nothing is noted.

use std::{cell::RefCell, sync::Arc};

use super::{FileKey, Journal, Progress, RecordId, Request, TOLD_MAX, WrittenAt, note, word};

thread_local! {
    /// What the thread is doing.
    static CURRENT: RefCell<Option<Request>> = const { RefCell::new(None) };
}

impl Request {
    /// Does `work` for it: what that does on this thread is noted.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> (Self, T) {
        /// Takes it off the thread however `work` ends.
        struct Put(Option<Request>);
        impl Drop for Put {
            fn drop(&mut self) {
                CURRENT.replace(self.0.take());
            }
        }
        let put = Put(CURRENT.replace(Some(self)));
        let done = work();
        // It is there: what `work` has put in its place is off the thread by now.
        let request = CURRENT.take().unwrap_or_default();
        drop(put);
        (request, done)
    }
}

/// Whether the request that this thread does was cut short, and how far it was then.
pub fn cut_short() -> Option<Progress> {
    // Few are, and how far one was is much to hand on.
    if with(|request| request.was_cut_short) != Some(true) {
        return None;
    }
    with(Request::cut_short).flatten()
}

/// Whose request this thread does; root's, where it does none.
pub fn asker() -> u32 {
    with(|request| request.uid).unwrap_or(0)
}

/// Whether an answer of the request that this thread does can tell the kernel of another node.
pub fn can_tell() -> bool {
    with(|request| request.noted.is_none() || request.get(word::COUNTED) < TOLD_MAX as u64).unwrap_or(true)
}

/// See [`Request::begins_to_make`].
pub fn begins_to_make() {
    with(Request::begins_to_make);
}

/// Bytes are about to be written at the end of a file, or where the request says.
pub fn appending(is_append: bool) {
    with(|request| request.note(if is_append { note::APPENDING } else { note::PLACING }));
}

/// See [`Request::written`].
pub fn written(written: WrittenAt) {
    with(|request| request.written(written));
}

/// See [`Request::recording`].
pub fn recording(record: RecordId) {
    with(|request| request.recording(record));
}

/// See [`Request::recorded`].
pub fn recorded() {
    with(Request::recorded);
}

/// See [`Request::opening`].
pub fn opening(handle: u64) {
    with(|request| request.opening(handle));
}

/// See [`Request::moving`].
pub fn moving(moved: Option<(FileKey, u64)>, replaced: Option<FileKey>) {
    with(|request| request.moving(moved, replaced));
}

/// Something is about to be removed, and was there before if `had_it`.
pub fn removing(had_it: bool) {
    with(|request| request.note(note::TRYING | if had_it { note::HAD_IT } else { 0 }));
}

/// Has `count` count the node in `slot`; see [`Request::counting`].
pub fn counting(journal: &Arc<Journal>, slot: Option<u32>, before: u64, count: impl FnOnce()) {
    let mut count = Some(count);
    with(|request| {
        if let Some(slot) = slot.filter(|_| request.is_noted_in(journal))
            && let Some(count) = count.take()
        {
            request.counting(slot, before, count);
        }
    });
    if let Some(count) = count {
        count();
    }
}

/// Has `take_back` take back the node in `slot`, which may have been counted last; see [`Request::taking_back`].
pub fn taking_back(journal: &Arc<Journal>, slot: Option<u32>, before: u64, take_back: impl FnOnce()) {
    let mut take_back = Some(take_back);
    with(|request| {
        let is_last = slot.is_some() && request.last_counted() == slot;
        if is_last
            && request.is_noted_in(journal)
            && let Some(take_back) = take_back.take()
        {
            request.taking_back(before, take_back);
        }
    });
    if let Some(take_back) = take_back {
        take_back();
    }
}

fn with<T>(work: impl FnOnce(&Request) -> T) -> Option<T> {
    CURRENT.with_borrow(|request| request.as_ref().map(work))
}
