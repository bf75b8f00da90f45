//! The command lines of those who write.
//!
//! A record names the program that wrote, so before each write but for those in quick succession the kernel is asked
//! whether the process still runs the program whose command line is known. A process may also change its command line
//! (its title) as it runs. Nothing shows that, so command lines are read again now and then: one that was changed is
//! recorded [`BELIEVED_FOR`] later at the most.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit};

use crate::by_number::ByNumber;

use super::{
    process::{Process, Program, Runs, command_of, name_of, process_id},
    timed_calls::{NoAnswer, TimedCalls},
};

/// The most writers that are remembered, each with a descriptor.
const WRITERS_MAX: usize = 1024;

/// The fewest.
const WRITERS_MIN: usize = 32;

/// Which part of this process's descriptors they may have, at most: one of so many.
const DESCRIPTORS_SHARE: usize = 16;

/// How long a command line is believed. Ids are given out in turn, and there are at least 32768 of them: one cannot
/// come round again in this time.
const BELIEVED_FOR: Duration = Duration::from_millis(250);

/// The same where nobody could be asked.
const BELIEVED_UNASKED_FOR: Duration = Duration::from_millis(20);

/// The same where it is not known whether the process still runs the same program. Hardly longer than an exec takes, some
/// 350 us for a small static program: whoever executes one after the other is told apart.
const BELIEVED_UNSURE_FOR: Duration = Duration::from_micros(500);

/// How long one is believed while something is measured: longer than that takes.
const UNCHANGING_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Less than an exec takes, with the way from one write to the next.
const EXEC_TIME_MIN: Duration = Duration::from_micros(60);

#[derive(Clone)]
struct Known {
    process: Arc<Process>,
    /// What it ran when its command line was read.
    program: Arc<Program>,
    read: Instant,
    /// When it still ran that.
    ran: Instant,
    /// When what is known of it expires.
    expires: Instant,
}

/// Processes by the id of the thread that wrote.
pub struct Commands {
    known: Mutex<ByNumber<u32, Known>>,
    writers_max: usize,
    timed_calls: TimedCalls,
    /// [`BELIEVED_FOR`], unless something is measured.
    believed_for: Duration,
}

impl Default for Commands {
    fn default() -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let share = usize::try_from(descriptors).unwrap_or(usize::MAX) / DESCRIPTORS_SHARE;
        Self {
            known: Mutex::default(),
            writers_max: share.clamp(WRITERS_MIN, WRITERS_MAX),
            timed_calls: TimedCalls::default(),
            believed_for: BELIEVED_FOR,
        }
    }
}

impl Commands {
    /// Those of writers who never change their command line, which are read once.
    pub fn unchanging() -> Self {
        Self { believed_for: UNCHANGING_FOR, ..Self::default() }
    }

    /// The process that `thread` belongs to, which waits for its write by `uid` to be answered. Where /proc does not tell
    /// (the writer is in a namespace that this process does not see), its command is empty; where the process does not
    /// give its arguments, the command is its name.
    pub fn process_of(&self, thread: u32, uid: u32) -> Arc<Process> {
        self.process_at(thread, uid, Instant::now())
    }

    fn process_at(&self, thread: u32, uid: u32, now: Instant) -> Arc<Process> {
        let known = {
            let entries = self.lock();
            match entries.get(&thread).filter(|known| now < known.expires) {
                Some(known) if now.saturating_duration_since(known.ran) < EXEC_TIME_MIN => {
                    return Arc::clone(&known.process);
                }
                known => known.cloned(),
            }
        };
        if let Some(Known { process, program, read, .. }) = known {
            match program.runs() {
                Runs::TheSame => self.note_running(thread, &program, now),
                Runs::Perhaps if now.saturating_duration_since(read) < BELIEVED_UNSURE_FOR => {}
                Runs::Perhaps | Runs::Another => return self.read(thread, uid, now),
            }
            return process;
        }
        self.read(thread, uid, now)
    }

    fn note_running(&self, thread: u32, program: &Arc<Program>, now: Instant) {
        if let Some(known) = self.lock().get_mut(&thread)
            && Arc::ptr_eq(&known.program, program)
        {
            known.ran = now;
        }
    }

    /// /proc is read without the lock: others write meanwhile.
    fn read(&self, thread: u32, uid: u32, now: Instant) -> Arc<Process> {
        let unknown = || Arc::new(Process { pid: thread, command: Vec::new() });
        if thread == 0 {
            return unknown();
        }
        // In this order: what is read later is no older than the program.
        let Ok(program) = Program::of(thread).map(Arc::new) else { return unknown() };
        let Ok(pid) = process_id(thread) else { return unknown() };
        // Though the writer does nothing but wait, others may use its memory too, and be in the middle of changing it.
        let answer = self.timed_calls.call(uid, move || command_of(thread).ok());
        let believed_for = match answer {
            // Whoever has not answered is not asked again soon.
            Ok(_) | Err(NoAnswer::Failed) => self.believed_for,
            Err(NoAnswer::Saturated) => BELIEVED_UNASKED_FOR,
        };
        let Ok(command) = answer.or_else(|_| name_of(thread)) else { return unknown() };
        let process = Arc::new(Process { pid, command });
        let known = Known {
            process: Arc::clone(&process),
            program,
            read: now,
            ran: now,
            expires: now + believed_for,
        };
        // What it knew before is let go of after the lock.
        let _replaced = {
            let mut entries = self.lock();
            let outdated = make_room(&mut entries, self.writers_max, now);
            (outdated, entries.insert(thread, known))
        };
        process
    }

    /// Lets go of what it holds of those who have not written for a while.
    pub fn tidy(&self) {
        let _outdated = take_expired(&mut self.lock(), Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, ByNumber<u32, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes those out that would be read again anyway; if that is not enough, all.
fn make_room(entries: &mut ByNumber<u32, Known>, max: usize, now: Instant) -> Vec<Known> {
    if entries.len() < max {
        return Vec::new();
    }
    let mut taken = take_expired(entries, now);
    if entries.len() >= max {
        taken.extend(entries.drain().map(|(_, known)| known));
    }
    taken
}

fn take_expired(entries: &mut ByNumber<u32, Known>, now: Instant) -> Vec<Known> {
    entries.extract_if(|_, known| known.expires <= now).map(|(_, known)| known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody else, who ran `program` a moment ago.
    fn stranger(program: &Arc<Program>, now: Instant, expires: Instant) -> Known {
        Known { process: Arc::default(), program: Arc::clone(program), read: now, ran: now, expires }
    }

    fn own_program() -> Arc<Program> {
        Arc::new(Program::of(std::process::id()).unwrap())
    }

    #[test]
    fn a_known_writer_is_believed_for_a_while_and_then_looked_at_again() {
        let (commands, now, me) = (Commands::default(), Instant::now(), std::process::id());
        let at = |time| commands.process_at(me, 0, time);
        let first = at(now);
        assert!(first.pid == me && first.command.ends_with(b" "));
        let believed_for = commands.lock()[&me].expires - now;
        assert!(Arc::ptr_eq(&first, &at(now + believed_for / 2)));
        let again = at(now + believed_for);
        assert!(again == first && !Arc::ptr_eq(&first, &again), "read again");
    }

    #[test]
    fn who_runs_another_program_is_read_at_once() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let program = Arc::new(Program::of(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let (commands, now, me) = (Commands::default(), Instant::now(), std::process::id());
        let other = stranger(&program, now, now + BELIEVED_FOR);
        commands.lock().insert(me, other);
        assert_eq!(commands.process_at(me, 0, now).pid, 0, "nobody executes anything in no time");
        assert_eq!(commands.process_at(me, 0, now + EXEC_TIME_MIN).pid, me);
    }

    #[test]
    fn who_is_gone_or_unseen_has_no_command() {
        let commands = Commands::default();
        for thread in [0, u32::MAX] {
            assert_eq!(*commands.process_of(thread, 0), Process { pid: thread, command: Vec::new() });
        }
        assert!(commands.lock().is_empty());
    }

    #[test]
    fn the_memory_is_bounded() {
        let (now, program) = (Instant::now(), own_program());
        let known = |expires| stranger(&program, now, expires);
        let full = |expires| (0..WRITERS_MAX as u32).map(|id| (id, known(expires))).collect();
        let mut old: ByNumber<_, _> = full(now);
        old.insert(0, known(now + BELIEVED_FOR));
        assert_eq!(make_room(&mut old, WRITERS_MAX, now).len(), WRITERS_MAX - 1);
        assert_eq!(old.keys().collect::<Vec<_>>(), [&0]);
        let mut recent: ByNumber<_, _> = full(now + BELIEVED_FOR);
        assert_eq!(make_room(&mut recent, WRITERS_MAX, now).len(), WRITERS_MAX);
        assert!(recent.is_empty());
        assert!(make_room(&mut recent, WRITERS_MAX, now).is_empty());
    }
}
