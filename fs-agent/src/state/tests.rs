//! The layout, damaged and other segments, and the journal.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bywash_common::shared::WORD;
use proptest::prelude::*;

use super::{
    journal::{FileKey, InFlight, Progress, RecordId, WrittenAt},
    slots::*,
    *,
};
use crate::sys::FileHandle;

const ROOT_ID: RootId = RootId { dev: 5, ino: 6, birth: Some(7) };
const SMALL: [u32; 5] = [4, 4, 3, 3, 2];

fn small() -> (Arc<State>, Slot) {
    State::create_sized(Path::new("/var/log/app"), ROOT_ID, SMALL).unwrap()
}

/// As it is after the process has ended.
fn left(state: Arc<State>) -> Result<Left, StateError> {
    state.freeze();
    State::open(state.as_fd().try_clone_to_owned().unwrap())
}

fn damaged(at: usize, word: u64) -> StateError {
    let (state, _root) = small();
    state.segment.word(at).store(word, Ordering::Release);
    left(state).unwrap_err()
}

#[test]
fn what_is_kept_is_there_for_the_successor() {
    let (state, root) = small();
    state.note_handle(41);
    state.note_handle(40);
    state.longest_request().store(70_000, Ordering::Relaxed);
    assert_eq!((state.next_synthetic(), state.next_synthetic(), state.next_unborn()), (0, 1, 0));
    let node = NodeFacts { id: 9, dev: 5, ino: 9, birth: Birth::At(3), is_dir: false };
    let slot = state.nodes.take();
    node.fill(&slot, 100, 1);
    let file_handle = FileHandle { kind: -2, bytes: vec![1; 13] };
    file_handle.fill(&slot);
    KernelMode::Passthrough(7).fill(&slot);
    let link = LinkFacts {
        node: slot.index().unwrap(),
        parent: root.index().unwrap(),
        id: 3,
        order: -2,
        is_live: true,
        is_told: true,
        name: b"a name".to_vec(),
    };
    let link_slot = state.links.take();
    link.fill(&link_slot);
    let handle = HandleFacts {
        id: 41,
        node: 1,
        flags: 0o2001,
        uid: 1,
        gid: u32::MAX,
        link: 3,
        is_sure: true,
        note: 8,
    };
    let handle_slot = state.handles.take();
    handle.fill(&handle_slot);
    let dir = DirFacts { id: 40, node: 0, uid: 2 };
    let dir_slot = state.dirs.take();
    dir.fill(&dir_slot);
    let left = left(state).unwrap();
    drop((root, slot, link_slot, handle_slot, dir_slot));
    assert_eq!(left.state.path(), Path::new("/var/log/app"));
    assert_eq!(left.state.root(), ROOT_ID);
    assert_eq!(left.state.highest_handle(), 41);
    assert_eq!(left.state.longest_request().load(Ordering::Relaxed), 70_000);
    assert_eq!((left.state.next_synthetic(), left.state.next_unborn()), (2, 1));
    assert_eq!(left.nodes.len(), 2);
    assert_eq!(NodeFacts::of(&left.nodes[1]), node);
    assert_eq!(FileHandle::of(&left.nodes[1]), Some(file_handle));
    assert_eq!(KernelMode::of(&left.nodes[1]), KernelMode::Passthrough(7));
    assert_eq!(left.nodes[1].get(node::SIZE_MOST), 100);
    assert_eq!(left.links.iter().map(LinkFacts::of).collect::<Vec<_>>(), [Some(link)]);
    assert_eq!(left.handles.iter().map(HandleFacts::of).collect::<Vec<_>>(), [Some(handle)]);
    assert_eq!(left.dirs.iter().map(DirFacts::of).collect::<Vec<_>>(), [Some(dir)]);
}

#[test]
fn a_state_of_full_size_takes_memory_as_it_is_used() {
    let (state, _root) = State::create(Path::new("/a"), ROOT_ID, 1 << 19).unwrap();
    let slots: Vec<(Slot, Slot)> = (0..16_384)
        .map(|id| {
            let node = state.nodes.take();
            NodeFacts { id, dev: 5, ino: id, birth: Birth::At(3), is_dir: false }.fill(&node, 0, 1);
            let link = state.links.take();
            let facts = LinkFacts {
                node: node.index().unwrap(),
                parent: 0,
                id: 1,
                order: 0,
                is_live: true,
                is_told: false,
                name: vec![b'x'; NAME_BYTES_MAX],
            };
            facts.fill(&link);
            (node, link)
        })
        .collect();
    let used = rustix::fs::fstat(&*state.segment).unwrap().st_blocks * 512;
    assert!(used < 12 << 20, "{used} bytes");
    state.freeze();
    State::open(state.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let read = rustix::fs::fstat(&*state.segment).unwrap().st_blocks * 512;
    assert!(read < used + (64 << 10), "who takes it up touches no more: {read} bytes, {used} before");
    drop(slots);
}

#[test]
fn facts_are_kept_whole_and_the_newest_counts() {
    let (state, _root) = small();
    assert_eq!(state.facts(Facts::Connection), None);
    for bytes in [&b"one"[..], b"", &[7; FACTS_BYTES_MAX]] {
        state.set_facts(Facts::Connection, bytes).unwrap();
        assert_eq!(state.facts(Facts::Connection).as_deref(), Some(bytes));
    }
    state.set_facts(Facts::Service, b"other").unwrap();
    assert!(matches!(
        state.set_facts(Facts::Service, &[0; FACTS_BYTES_MAX + 1]),
        Err(StateError::TooLong { .. })
    ));
    let left = left(state).unwrap().state;
    assert_eq!(left.facts(Facts::Connection), Some(vec![7; FACTS_BYTES_MAX]));
    // Killed at any store of the next ones, the former are whole.
    for stores in 0..10 {
        let kept = left.facts(Facts::Service);
        killed::after(stores);
        let died = catch_unwind(AssertUnwindSafe(|| left.set_facts(Facts::Service, &[stores as u8; 30])));
        let found = left.facts(Facts::Service);
        assert!(if killed::revive() { found == kept } else { found == Some(vec![stores as u8; 30]) });
        assert_eq!(died.is_err(), found == kept);
    }
}

#[test]
fn what_is_no_state_of_now_is_refused() {
    assert!(matches!(damaged(at::MAGIC, 0), StateError::NotAState));
    let next = header::VERSION_WORD + 1;
    assert!(matches!(damaged(at::VERSION, next), StateError::Version(2)));
    let len = u64::MAX;
    for (at, word) in [(at::LEN, 1), (at::PATH_LEN, len), (at::ROOT, 1), (at::PATH, 1), (at::SIZES, 5)] {
        assert!(matches!(damaged(at, word), StateError::Damaged(_)), "{at:#x}");
    }
    assert!(matches!(damaged(at::USED, 5), StateError::Damaged(_)));
    assert!(matches!(damaged(at::USED + 8, len), StateError::Damaged(_)));
    assert!(matches!(damaged(at::USED + 4 * WORD, 3), StateError::Damaged(_)));
    let (state, _root) = small();
    state.segment.word(at::BOOT).store(1, Ordering::Release);
    let sum = checksum_of(&state.segment, state.path_len());
    state.segment.word(at::CHECKSUM).store(sum.into(), Ordering::Release);
    assert!(matches!(left(state).unwrap_err(), StateError::OtherBoot));
    let short = Segment::create("test", 4096).unwrap();
    let fd = short.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(State::open(fd).unwrap_err(), StateError::NotAState));
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(State::open(null.into()).unwrap_err(), StateError::Segment(_)));
}

proptest! {
    #[test]
    fn any_words_in_a_segment_are_an_error_or_a_state(
        damage in prop::collection::vec((0..0x9000_usize / WORD, any::<u64>()), 1..20),
    ) {
        let (state, root) = small();
        for (word, value) in damage {
            state.segment.word(word * WORD).store(value, Ordering::Release);
        }
        if let Ok(left) = left(state) {
            let handles = left.nodes.iter().filter_map(FileHandle::of);
            prop_assert!(handles.count() <= left.nodes.len());
            prop_assert!(left.links.iter().filter_map(LinkFacts::of).count() <= 4);
            let opens = left.handles.iter().filter_map(HandleFacts::of).count();
            prop_assert!(opens + left.dirs.iter().filter_map(DirFacts::of).count() <= 6);
            drop((left.state.facts(Facts::Service), left.state.journal.left()));
        }
        drop(root);
    }
}

#[test]
fn a_request_that_is_answered_leaves_nothing() {
    let (state, _root) = small();
    let request = state.journal.begin(7, 12, 16);
    assert!(request.cut_short().is_none());
    let (request, ()) = request.during(|| journal::moving(Some((FileKey { dev: 1, ino: 2 }, 1)), None));
    drop(request);
    let left = left(state).unwrap().state;
    assert_eq!(left.journal.left(), []);
}

#[test]
fn a_request_that_is_cut_short_says_how_far_it_was() {
    let (state, _root) = small();
    let request = state.journal.begin(0, 12, 16);
    let (record, written) = (RecordId { ring: [3; 16], sequence: 9 }, WrittenAt { len: 5, offset: 6 });
    request.written(written);
    request.recording(record);
    let other = state.journal.begin(0, 14, 10);
    let (key, replaced) = (FileKey { dev: 1, ino: 2 }, FileKey { dev: 1, ino: 3 });
    let (other, ()) = other.during(|| journal::moving(Some((key, 2)), Some(replaced)));
    let left = left(state).unwrap().state;
    std::mem::forget((request, other));
    assert_eq!(left.journal.left().len(), 2);
    let back = left.journal.begin(5, 12 | 1 << 63, 16);
    let progress = Progress { written: Some(written), recording: Some(record), ..Progress::default() };
    assert_eq!(back.cut_short(), Some(progress));
    back.recorded();
    assert_eq!(back.cut_short(), Some(Progress { recorded: true, ..progress }));
    drop(back);
    let [InFlight { unique: 14, operation: 10, progress }] = left.journal.left()[..] else { panic!() };
    let moved =
        Progress { moving: Some((key, 2)), replacing: Some(replaced), trying: true, ..Progress::default() };
    assert_eq!(progress, moved);
    left.journal.nothing_more_comes_back();
    let new = left.journal.begin(0, 14 | 1 << 63, 10);
    assert!(new.cut_short().is_none());
}

#[test]
fn more_requests_than_slots_are_done_without() {
    let (state, _root) = small();
    let requests: Vec<_> = (1..5).map(|unique| state.journal.begin(0, unique, 16)).collect();
    requests.iter().for_each(|request| request.written(WrittenAt { len: 1, offset: 1 }));
    let left = left(state).unwrap().state;
    std::mem::forget(requests);
    assert_eq!(left.journal.left().len(), 2);
}

/// Answered, and killed before that could be noted: nobody sends them again.
#[test]
fn what_kills_have_left_makes_room_for_what_is_new() {
    let (state, _root) = small();
    let answered: Vec<_> = (1..3).map(|unique| state.journal.begin(0, unique, 16)).collect();
    let successor = left(state).unwrap().state;
    std::mem::forget(answered);
    // Something that comes back says nothing of what else may.
    drop(successor.journal.begin(0, 7 | 1 << 63, 16));
    assert_eq!(successor.journal.left().len(), 2);
    let new = successor.journal.begin(0, 8, 16);
    assert_eq!(successor.journal.left(), []);
    let next = left(successor).unwrap().state;
    std::mem::forget(new);
    let uniques: Vec<u64> = next.journal.left().iter().map(|request| request.unique).collect();
    assert_eq!(uniques, [8]);
}

/// What is counted, and taken back, is counted or not, and never half, wherever it is cut short.
#[test]
fn counts_agree_with_the_journal_after_a_kill_at_any_store() {
    for stores in 0..40 {
        let (state, root) = small();
        let node = state.nodes.take();
        let count = |slot: &Slot, before: u64| {
            journal::counting(&state.journal, slot.index(), before, || slot.set(node::LOOKUPS, before + 1));
        };
        killed::after(stores);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let request = state.journal.begin(0, 3, 1);
            let (request, ()) = request.during(|| {
                let facts = NodeFacts { id: 9, dev: 5, ino: 9, birth: Birth::At(3), is_dir: false };
                journal::counting(&state.journal, node.index(), 0, || facts.fill(&node, 0, 1));
                count(&root, 1);
                count(&node, 1);
            });
            for (slot, before) in [(&node, 2), (&root, 2), (&node, 1)] {
                assert_eq!(request.last_counted(), slot.index());
                request.taking_back(before, || slot.set(node::LOOKUPS, before - 1));
            }
            std::mem::forget(request);
        }));
        killed::revive();
        let left = left(Arc::clone(&state)).unwrap();
        let known = |index: usize| left.nodes.get(index).map_or(0, |slot| slot.get(node::LOOKUPS));
        let all = (known(0) - 1) + known(1);
        for request in left.state.journal.left() {
            let request = left.state.journal.begin(0, request.unique, 1);
            let counted = std::iter::from_fn(|| {
                let slot = request.last_counted()?;
                request.taking_back(0, || {});
                Some(slot)
            });
            assert_eq!(counted.count() as u64, all, "after {stores} stores");
        }
        std::mem::forget((node, root));
    }
}
