//! Reading ends that outlive the agent: whoever starts it keeps them, so that writers wait for the next agent and find no broken
//! pipe, and what the pipe holds is not thrown away. With each goes the [`memory`](super::memory) of what was read of it.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::memory::{Mark, Memory};
use crate::{
    fd_store::{FifoPart, Name, Store},
    state::journal::RecordId,
};

/// A reading end is kept under a number as long as this is there, and beyond the end of this process.
#[derive(Debug)]
pub struct Keep {
    store: Arc<Store>,
    number: u32,
    /// The next agent takes it.
    is_left: bool,
}

impl Keep {
    /// Has `pipe`, a reading end, kept with `memory`. None where nothing is.
    pub fn new(store: &Arc<Store>, pipe: BorrowedFd<'_>, memory: BorrowedFd<'_>) -> Option<Self> {
        if !store.is_there() {
            return None;
        }
        let keep = Self { store: Arc::clone(store), number: store.next_fifo(), is_left: false };
        // What is not kept is said by the store; one of the two alone is of no use.
        store.put(&Name::Fifo(keep.number, FifoPart::Rest), memory).ok()?;
        store.put(&Name::Fifo(keep.number, FifoPart::Pipe), pipe).ok()?;
        Some(keep)
    }

    /// Leaves it to the next agent.
    pub fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if !self.is_left {
            for part in [FifoPart::Pipe, FifoPart::Rest] {
                self.store.remove(&Name::Fifo(self.number, part));
            }
        }
    }
}

/// A reading end that the agent before has left.
#[derive(Debug)]
pub struct Left {
    /// The pipe.
    pub pipe: OwnedFd,
    /// Where the FIFO is, or was.
    pub path: PathBuf,
    /// What was read of it, from `mark` on.
    pub memory: Memory,
    /// See `memory`.
    pub mark: Mark,
    /// It is kept on.
    pub keep: Keep,
}

impl Left {
    /// Takes all that `store` has. `is_committed` says whether the agent before had committed a record; none if nobody knows.
    pub fn take_all(store: &Arc<Store>, is_committed: impl Fn(RecordId) -> Option<bool>) -> Vec<Self> {
        let mut left = Vec::new();
        for number in store.fifos() {
            let keep = Keep { store: Arc::clone(store), number, is_left: false };
            let [pipe, rest] =
                [FifoPart::Pipe, FifoPart::Rest].map(|part| store.take_one(&Name::Fifo(number, part)));
            // It had not been opened yet, if one is missing.
            let (Some(pipe), Some(rest)) = (pipe, rest) else { continue };
            let taken_up = Memory::take_up(rest, &is_committed).or_else(|errno| {
                tracing::error!("what was read of FIFO {number} and not dealt with is lost: {errno}");
                // The pipe stays open until others are.
                Memory::new(Path::new("")).map(|memory| (memory, PathBuf::new(), Mark::default()))
            });
            if let Ok((memory, path, mark)) = taken_up {
                left.push(Self { pipe, path, memory, mark, keep });
            }
        }
        left
    }
}
