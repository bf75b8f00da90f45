//! Which agent in a row this one is, and what became of the one before: kept as `a0.state`, in a memory file.
//!
//! Whoever starts the agent hands the file from one to the next. Each field is a number of 8 bytes in the machine's order; the
//! agent writes each with one system call, so that it is there whole if the agent is killed at any moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bywash_common::{
    clock::now_ns,
    status::{AgentCounter, HandoverReason},
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{Errno, Result, pread, pwrite},
};

use super::{AgentPart, Name, Store};

/// `bywash-a`, and the version of what follows in its last byte. Another version's file is not read: the row begins anew.
const MAGIC: u64 = u64::from_le_bytes(*b"bywasha\x01");

/// Where each field is.
#[derive(Clone, Copy)]
enum Field {
    Magic = 0,
    /// Which agent in a row.
    Generation = 8,
    /// When it last said that it lives, in nanoseconds since the epoch.
    AliveNs = 16,
    /// When it was told to make room for the next one, likewise; 0 if it was not.
    ToldNs = 24,
}

/// How this agent follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Succession {
    /// Why that one has ended.
    reason: HandoverReason,
    /// When it was told to end, or when it last said that it lived, in nanoseconds since the epoch.
    since_ns: u64,
}

/// The row of agents.
#[derive(Debug)]
pub struct Generation {
    file: OwnedFd,
    number: u64,
    succession: Option<Succession>,
}

impl Generation {
    /// Which agent in a row this one is, by what `store` has, and has it kept for the next one. None without a store.
    pub fn of_this_agent(store: &Store) -> Option<Self> {
        if !store.is_there() {
            return None;
        }
        let name = Name::Agent(AgentPart::State);
        let known = store.take_one(&name).map_or(Ok(None), Self::following);
        let generation = match known.unwrap_or(None) {
            Some(generation) => Ok(generation),
            None => Self::first().inspect(|first| {
                // That it is not kept is said by the store.
                let _ = store.put(&name, first.file());
            }),
        };
        generation
            .inspect_err(|errno| tracing::warn!("this agent does not count as one in a row: {errno}"))
            .ok()
    }

    /// This agent is the first one.
    ///
    /// # Errors
    /// If there can be no memory file.
    pub fn first() -> Result<Self> {
        let file = memfd_create("bywash-agent", MemfdFlags::CLOEXEC)?;
        let first = Self { file, number: 1, succession: None };
        first.begin()?;
        Ok(first)
    }

    /// This agent follows the one that has left `file`. None if that is of another version.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn following(file: OwnedFd) -> Result<Option<Self>> {
        let read = |field| read(&file, field);
        if read(Field::Magic)? != MAGIC {
            return Ok(None);
        }
        let number = read(Field::Generation)?.saturating_add(1);
        let (told, alive) = (read(Field::ToldNs)?, read(Field::AliveNs)?);
        let (reason, since) =
            if told > 0 { (HandoverReason::Restart, told) } else { (HandoverReason::Death, alive) };
        let succession = Succession { reason, since_ns: since };
        let next = Self { file, number, succession: Some(succession) };
        next.begin()?;
        Ok(Some(next))
    }

    fn begin(&self) -> Result<()> {
        self.write(Field::Generation, self.number)?;
        self.write(Field::ToldNs, 0)?;
        self.write(Field::AliveNs, now_ns())?;
        self.write(Field::Magic, MAGIC)
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether it follows none.
    pub fn is_first(&self) -> bool {
        self.succession.is_none()
    }

    /// What `fs-agent status` shows of it, when everything is listened to.
    pub fn counters(&self) -> [(AgentCounter, u64); 4] {
        let now = now_ns();
        let followed = self.succession.map_or([0; 3], |Succession { reason, since_ns }| {
            [now, reason as u64, now.saturating_sub(since_ns)]
        });
        [
            (AgentCounter::Generation, self.number),
            (AgentCounter::HandoverNs, followed[0]),
            (AgentCounter::HandoverReason, followed[1]),
            (AgentCounter::HandoverTookNs, followed[2]),
        ]
    }

    /// This agent lives.
    pub fn alive(&self) {
        self.note(Field::AliveNs);
    }

    /// This agent was told to make room for the next one.
    pub fn told(&self) {
        self.note(Field::ToldNs);
    }

    /// That memory is short costs a figure in `fs-agent status`, and nothing else.
    fn note(&self, field: Field) {
        if let Err(errno) = self.write(field, now_ns()) {
            tracing::debug!("cannot write to a memory file: {errno}");
        }
    }

    fn write(&self, field: Field, value: u64) -> Result<()> {
        match pwrite(&self.file, &value.to_ne_bytes(), field as u64)? {
            8 => Ok(()),
            _ => Err(Errno::IO),
        }
    }
}

fn read(file: &OwnedFd, field: Field) -> Result<u64> {
    let mut bytes = [0; 8];
    match pread(file, &mut bytes[..], field as u64)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        // A file that was never finished.
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(generation: &Generation) -> Generation {
        let file = generation.file().try_clone_to_owned().unwrap();
        Generation::following(file).unwrap().unwrap()
    }

    #[test]
    fn each_agent_knows_what_became_of_the_one_before() {
        let followed = |generation: &Generation| generation.succession.unwrap().reason;
        let begin = now_ns();
        let first = Generation::first().unwrap();
        assert_eq!((first.number, first.succession), (1, None));
        assert_eq!(first.counters().map(|(_, value)| value), [1, 0, 0, 0]);
        first.alive();
        let second = next(&first);
        assert_eq!((second.number, followed(&second)), (2, HandoverReason::Death));
        let [_, at, reason, took] = second.counters().map(|(_, value)| value);
        assert!(begin < at && begin <= at - took && reason == HandoverReason::Death as u64);
        second.told();
        let third = next(&second);
        assert_eq!((third.number, followed(&third)), (3, HandoverReason::Restart));
        assert_eq!(followed(&next(&third)), HandoverReason::Death);
    }

    #[test]
    fn what_is_no_such_file_begins_a_new_row() {
        let empty = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert!(Generation::following(empty).unwrap().is_none());
        let other = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        pwrite(&other, &[1; 64], 0).unwrap();
        assert!(Generation::following(other).unwrap().is_none());
    }
}
