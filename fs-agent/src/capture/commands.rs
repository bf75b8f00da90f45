//! The command lines of those who write, read once for each process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    patience::Patience,
    process::{Fingerprint, Process, process, process_by_name, stat},
};

/// The most writers that are remembered.
const ENTRIES_MAX: usize = 4096;

/// How long a writer is believed to be who it was. Ids are given out in turn, and there are at least 32768 of them:
/// one cannot come round again in this time.
const BELIEVED_FOR: Duration = Duration::from_millis(250);

struct Known {
    fingerprint: Fingerprint,
    process: Arc<Process>,
    /// Its arguments could be read.
    complete: bool,
    checked: Instant,
}

/// Processes by the id of the thread that wrote.
#[derive(Default)]
pub struct Commands {
    known: Mutex<HashMap<u32, Known>>,
    patience: Patience,
}

impl Commands {
    /// The process that `thread` belongs to. Where /proc does not tell (the writer was killed while it waited, or is
    /// in a namespace that this process does not see), its command is empty.
    pub fn process_of(&self, thread: u32) -> Arc<Process> {
        self.process_at(thread, Instant::now())
    }

    fn process_at(&self, thread: u32, now: Instant) -> Arc<Process> {
        if let Some(known) = self.lock().get(&thread)
            && now.saturating_duration_since(known.checked) < BELIEVED_FOR
        {
            return Arc::clone(&known.process);
        }
        // /proc is read without the lock: others write meanwhile.
        let unknown = || Arc::new(Process { pid: thread, command: Vec::new() });
        if thread == 0 {
            return unknown();
        }
        let Ok(stat) = stat(thread) else { return unknown() };
        let fingerprint = stat.fingerprint;
        if let Some(known) = self.lock().get_mut(&thread)
            && known.fingerprint == fingerprint
            && known.complete
        {
            known.checked = now;
            return Arc::clone(&known.process);
        }
        // Alone, it does nothing but wait for its write. Others of its process may be in the middle of changing
        // mappings, which can take as long as they like, and arguments cannot be read meanwhile.
        let read = {
            let fingerprint = fingerprint.clone();
            move || process(thread, &fingerprint).ok()
        };
        let read = if stat.has_siblings { self.patience.ask(read) } else { read() };
        let complete = read.is_some();
        let found = read.or_else(|| process_by_name(thread, &fingerprint).ok());
        let Some(found) = found else { return unknown() };
        let process = Arc::new(found);
        let known = Known { fingerprint, process: Arc::clone(&process), complete, checked: now };
        let mut entries = self.lock();
        make_room(&mut entries, now);
        entries.insert(thread, known);
        process
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets those that would be looked at again anyway; if that is not enough, all.
fn make_room(entries: &mut HashMap<u32, Known>, now: Instant) {
    if entries.len() < ENTRIES_MAX {
        return;
    }
    entries.retain(|_, known| now.saturating_duration_since(known.checked) < BELIEVED_FOR);
    if entries.len() >= ENTRIES_MAX {
        entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(checked: Instant) -> Known {
        let me = stat(std::process::id()).unwrap().fingerprint;
        Known { fingerprint: me, process: Arc::default(), complete: true, checked }
    }

    #[test]
    fn a_known_writer_is_believed_for_a_while_and_then_looked_at_again() {
        let (commands, now, me) = (Commands::default(), Instant::now(), std::process::id());
        let first = commands.process_at(me, now);
        assert_eq!(first.pid, me);
        assert!(Arc::ptr_eq(&first, &commands.process_at(me, now + BELIEVED_FOR / 2)));
        // Still the same process: checked, and not read again.
        assert!(Arc::ptr_eq(&first, &commands.process_at(me, now + 2 * BELIEVED_FOR)));
    }

    #[test]
    fn an_id_that_came_round_again_is_read_anew() {
        let (commands, now, me) = (Commands::default(), Instant::now(), std::process::id());
        let parent = std::os::unix::process::parent_id();
        let mut other = stranger(now);
        other.fingerprint = stat(parent).unwrap().fingerprint;
        commands.lock().insert(me, other);
        assert_eq!(commands.process_at(me, now).pid, 0, "believed");
        assert_eq!(commands.process_at(me, now + BELIEVED_FOR).pid, me, "read anew");
    }

    #[test]
    fn who_is_gone_or_unseen_has_no_command() {
        let commands = Commands::default();
        for thread in [0, u32::MAX] {
            assert_eq!(*commands.process_of(thread), Process { pid: thread, command: Vec::new() });
        }
        assert!(commands.lock().is_empty());
    }

    #[test]
    fn the_memory_is_bounded() {
        let now = Instant::now();
        let full = |checked| (0..ENTRIES_MAX as u32).map(|id| (id, stranger(checked))).collect();
        let mut old: HashMap<_, _> = full(now);
        old.insert(0, stranger(now + BELIEVED_FOR));
        make_room(&mut old, now + BELIEVED_FOR);
        assert_eq!(old.keys().collect::<Vec<_>>(), [&0]);
        let mut recent: HashMap<_, _> = full(now);
        make_room(&mut recent, now);
        assert!(recent.is_empty());
    }
}
