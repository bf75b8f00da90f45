use std::{
    io::{PipeReader, PipeWriter, Write, pipe},
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::state::killed;

const RING: [u8; 16] = [7; 16];

fn record(sequence: u64) -> Option<RecordId> {
    Some(RecordId { ring: RING, sequence })
}

/// A pipe, what was read of it, and what its reader knows.
struct Scene {
    reader: PipeReader,
    writer: PipeWriter,
    memory: Memory,
    mark: Mark,
    written: Vec<u8>,
    /// How many of those are in committed records, and the number of the next record.
    committed: usize,
    next: u64,
}

impl Scene {
    fn new() -> Self {
        let (reader, writer) = pipe().unwrap();
        let (memory, mark) = (Memory::new(Path::new("/run/a.pipe")).unwrap(), Mark::default());
        Self { reader, writer, memory, mark, written: Vec::new(), committed: 0, next: 5 }
    }

    fn write(&mut self, len: usize) {
        let bytes: Vec<u8> = (0..len).map(|i| ((self.written.len() + i) % 251) as u8).collect();
        self.writer.write_all(&bytes).unwrap();
        self.written.extend(bytes);
    }

    /// Reads all that is there.
    fn read(&mut self, len: usize) {
        self.mark = self.memory.move_to_front(self.mark);
        self.memory.fill(&self.reader, len).unwrap();
    }

    /// Commits so many of the bytes that were read; or dies right before.
    fn commit(&mut self, len: usize, commits: bool) {
        let len = len.min(self.memory.bytes().len() - self.mark.begin);
        let begin = self.mark.begin + len;
        let after = Mark { begin, offset: self.mark.offset + len as u64, part: 3, awaits_end: true };
        self.memory.mark(after, record(self.next));
        if commits {
            (self.mark, self.committed, self.next) = (after, self.committed + len, self.next + 1);
        }
    }

    /// Another process takes up what is there, and has all that was written and is in no record.
    fn succeed(&mut self) {
        let file = self.memory.as_fd().try_clone_to_owned().unwrap();
        let committed = self.next;
        let (memory, path, mark) = Memory::take_up(file, |record| {
            assert_eq!(record.ring, RING);
            Some(record.sequence < committed)
        })
        .unwrap();
        assert_eq!(path, Path::new("/run/a.pipe"));
        assert_eq!(mark.offset, self.committed as u64);
        let rest = &memory.bytes()[mark.begin..];
        assert!(self.written[self.committed..].starts_with(rest), "other bytes are there");
        (self.memory, self.mark) = (memory, mark);
        let held = self.committed + self.memory.bytes().len() - self.mark.begin;
        let waiting = usize::try_from(rustix::io::ioctl_fionread(&self.reader).unwrap()).unwrap();
        assert_eq!(held + waiting, self.written.len(), "bytes are lost, or there twice");
    }
}

#[test]
fn what_was_read_and_not_committed_is_there_for_the_next_reader() {
    let mut scene = Scene::new();
    scene.succeed();
    scene.write(100);
    scene.read(60);
    scene.succeed();
    assert_eq!(scene.memory.bytes().len(), 60);
    scene.commit(20, true);
    scene.succeed();
    assert_eq!(scene.mark, Mark { begin: 20, offset: 20, part: 3, awaits_end: true });
    scene.commit(20, false);
    scene.succeed();
    // Not even if the number becomes another's.
    scene.next += 1;
    scene.succeed();
    assert_eq!((scene.mark.begin, scene.memory.bytes().len()), (20, 60));
}

#[test]
fn what_may_be_in_another_ring_comes_once_more() {
    let mut scene = Scene::new();
    scene.write(10);
    scene.read(10);
    scene.commit(10, true);
    let file = scene.memory.as_fd().try_clone_to_owned().unwrap();
    let (memory, _, mark) = Memory::take_up(file, |_| None).unwrap();
    assert_eq!((mark.begin, memory.bytes().len()), (0, 10));
}

#[test]
fn memory_is_used_again_and_given_back() {
    let mut scene = Scene::new();
    let blocks = |scene: &Scene| rustix::fs::fstat(&scene.memory).unwrap().st_blocks * 512;
    for _ in 0..200 {
        scene.write(50_000);
        scene.read(READ_BYTES_MAX);
        // Something is always unfinished.
        let unfinished = scene.memory.bytes().len() - scene.mark.begin - 7;
        scene.commit(unfinished, true);
        scene.succeed();
    }
    assert!(blocks(&scene) < 1 << 20, "{} bytes are used for a window of {WINDOW_BYTES}", blocks(&scene));
    let before = scene.mark;
    assert_eq!(scene.memory.shrink(scene.mark, 4096), before, "not while something is unfinished");
    scene.commit(7, true);
    scene.mark = scene.memory.shrink(scene.mark, 4096);
    assert!(blocks(&scene) <= 16 << 10, "{} bytes are used", blocks(&scene));
    scene.succeed();
    scene.write(9);
    scene.read(9);
    assert_eq!(scene.memory.bytes()[scene.mark.begin..], scene.written[scene.committed..]);
}

#[test]
fn what_is_no_memory_of_a_fifo_is_refused() {
    let committed = |_| Some(true);
    let plain = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(Memory::take_up(plain, committed).err(), Some(Errno::INVAL));
    let empty = LastingPages::new("test", BYTES).unwrap();
    let file = empty.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(Memory::take_up(file, committed).err(), Some(Errno::INVAL));
    let long = "x".repeat(PATH_BYTES_MAX + 1);
    assert_eq!(Memory::new(Path::new(&long)).err(), Some(Errno::NAMETOOLONG));
}

proptest! {
    /// A reader that dies between any two stores loses no byte, and leaves none that is in a record.
    #[test]
    fn no_byte_is_lost_or_there_twice_wherever_a_reader_dies(
        steps in prop::collection::vec((0..40_000usize, 0..200_000usize, any::<bool>(), 0..120u64), 1..40),
    ) {
        let mut scene = Scene::new();
        for (len, committed, shrinks, stores) in steps {
            scene.write(len);
            killed::after(stores);
            let work = AssertUnwindSafe(|| {
                scene.read(READ_BYTES_MAX);
                scene.commit(committed, true);
                if shrinks {
                    scene.mark = scene.memory.shrink(scene.mark, 4096);
                }
            });
            let had_work = len > 0;
            if had_work {
                let _ = catch_unwind(work);
            }
            killed::revive();
            // So does the next one over taking it up.
            let (file, next) = (scene.memory.as_fd().try_clone_to_owned().unwrap(), scene.next);
            killed::after(stores % 16);
            let dies = AssertUnwindSafe(|| Memory::take_up(file, |record| Some(record.sequence < next)).map(drop));
            let _ = catch_unwind(dies);
            killed::revive();
            scene.succeed();
            if rustix::io::ioctl_fionread(&scene.reader).unwrap() > 0 {
                scene.read(READ_BYTES_MAX);
            }
        }
    }
}
