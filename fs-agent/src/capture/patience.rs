//! Questions whose answer may never come, asked by threads that have nothing else to do.
//!
//! Whoever waits for an answer holds up the overlay, so the wait is short, and few may wait for the processes of one
//! user: who has many that do not answer loses answers, and others do not.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// How long an answer is waited for. It takes some 30 us, unless the machine is very busy.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// The most questions that wait for an answer. While there are as many, nobody is asked: answers are likely to be slow.
const OPEN_MAX: usize = 32;

/// The most of them about processes of one user. Fewer than a user can have workers (`worker_pool::turns`).
const OPEN_EACH_MAX: usize = 4;

/// How many threads are kept when they have nothing to do.
const IDLE_MAX: usize = 2;

/// The stack of a thread that reads a file into memory.
const STACK_BYTES: usize = 128 << 10;

/// There is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nobody was asked: too many questions are open. That costs no time.
    NotAsked,
    /// None came in time, or the question failed.
    Unanswered,
}

/// Says the answer to whoever waits for it.
type Answer = Box<dyn FnOnce() + Send>;
type Question = Box<dyn FnOnce() -> Answer + Send>;

/// Who asks.
#[derive(Default)]
pub struct Patience {
    helpers: Arc<Helpers>,
}

#[derive(Default)]
struct Helpers(Mutex<State>);

#[derive(Default)]
struct State {
    /// Threads with nothing to do. They end when this is dropped.
    idle: Vec<SyncSender<Question>>,
    open: usize,
    /// By user; nobody is here with none.
    open_each: HashMap<u32, usize>,
}

/// A question that is open until this is dropped.
struct Open {
    helpers: Arc<Helpers>,
    uid: u32,
}

impl Helpers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a question about a process of `uid`, if there may be one more.
    fn open(self: &Arc<Self>, uid: u32) -> Option<Open> {
        let mut state = self.lock();
        if state.open >= OPEN_MAX || state.open_each.get(&uid).is_some_and(|open| *open >= OPEN_EACH_MAX) {
            return None;
        }
        state.open += 1;
        *state.open_each.entry(uid).or_default() += 1;
        Some(Open { helpers: Arc::clone(self), uid })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.helpers.lock();
        state.open -= 1;
        if let Entry::Occupied(mut open) = state.open_each.entry(self.uid) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

impl Patience {
    /// What `question`, about a process of `uid`, gives, if it does soon.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn ask<T: Send + 'static>(
        &self,
        uid: u32,
        question: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<T, Silence> {
        let open = self.helpers.open(uid).ok_or(Silence::NotAsked)?;
        let (sender, answered) = sync_channel(1);
        let question = Box::new(move || -> Answer {
            // Closed before it is said, and by a panic too: else who asks next may find it open.
            let sender = sender;
            let open = open;
            let answer = question();
            drop(open);
            // Nobody waits any more if it took too long.
            Box::new(move || drop(sender.send(answer)))
        });
        self.hand_over(question).ok_or(Silence::NotAsked)?;
        answered.recv_timeout(WAIT_MAX).ok().flatten().ok_or(Silence::Unanswered)
    }

    /// To a thread that has nothing to do, or else a new one, if there can be one.
    fn hand_over(&self, question: Question) -> Option<()> {
        let idle = self.helpers.lock().idle.pop();
        let unsent = match idle {
            None => question,
            Some(thread) => match thread.send(question) {
                Ok(()) => return Some(()),
                // It has ended: not without a bug.
                Err(unsent) => unsent.0,
            },
        };
        self.start(unsent)
    }

    fn start(&self, question: Question) -> Option<()> {
        let helpers = Arc::downgrade(&self.helpers);
        let thread = thread::Builder::new().name("command".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || help(&helpers, question)).ok().map(drop)
    }
}

/// Answers `question`, and those that are handed over until there are threads enough.
fn help(helpers: &Weak<Helpers>, mut question: Question) {
    loop {
        let answer = question();
        let (mailbox, questions) = sync_channel(1);
        let is_kept = helpers.upgrade().is_some_and(|helpers| {
            let mut state = helpers.lock();
            let is_kept = state.idle.len() < IDLE_MAX;
            if is_kept {
                state.idle.push(mailbox);
            }
            is_kept
        });
        answer();
        match questions.recv() {
            Ok(next) if is_kept => question = next,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::mpsc::{Sender, channel},
        time::Instant,
    };

    /// A question about `uid` that is answered when what is returned is dropped.
    fn silent(patience: &Patience, uid: u32) -> Sender<()> {
        let (release, released) = channel::<()>();
        assert_eq!(patience.ask(uid, move || released.recv().ok()), Err(Silence::Unanswered));
        release
    }

    fn until_closed(patience: &Patience) {
        let begin = Instant::now();
        while patience.helpers.lock().open > 0 {
            assert!(begin.elapsed() < Duration::from_secs(20), "questions stay open");
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_asked_is_answered_by_threads_that_are_kept() {
        let patience = Patience::default();
        let answer = || patience.ask(1, || Some(thread::current().id()));
        let first = answer();
        assert!(first.is_ok());
        assert_eq!(answer(), first);
        assert_eq!(patience.ask(1, || None::<i32>), Err(Silence::Unanswered));
        assert!(patience.helpers.lock().open_each.is_empty());
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_and_costs_others_nothing() {
        let patience = Patience::default();
        let begin = Instant::now();
        let held: Vec<_> = (0..OPEN_EACH_MAX).map(|_| silent(&patience, 1)).collect();
        assert!(begin.elapsed() >= WAIT_MAX * u32::try_from(OPEN_EACH_MAX).unwrap());
        // As many as can be are open: nobody is asked.
        assert_eq!(patience.ask(1, || -> Option<i32> { panic!("asked") }), Err(Silence::NotAsked));
        assert_eq!(patience.ask(2, || Some(2)), Ok(2));
        drop(held);
        until_closed(&patience);
        assert_eq!(patience.ask(1, || Some(1)), Ok(1));
        assert!(patience.helpers.lock().idle.len() <= IDLE_MAX);
    }

    #[test]
    fn all_users_together_keep_no_more_threads_than_there_may_be() {
        let patience = Patience::default();
        let users = u32::try_from(OPEN_MAX / OPEN_EACH_MAX).unwrap();
        let held: Vec<_> = thread::scope(|scope| {
            let ask = |i| {
                scope.spawn({
                    let patience = &patience;
                    move || silent(patience, i % users)
                })
            };
            let asked: Vec<_> = (0..u32::try_from(OPEN_MAX).unwrap()).map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert_eq!(patience.ask(users, || -> Option<i32> { panic!("asked") }), Err(Silence::NotAsked));
        drop(held);
        until_closed(&patience);
    }

    #[test]
    fn a_question_that_panics_is_not_open_any_more() {
        let patience = Patience::default();
        for _ in 0..=OPEN_EACH_MAX {
            let asked = patience.ask(1, || -> Option<i32> { panic!("as the test wants") });
            assert_eq!(asked, Err(Silence::Unanswered));
            // The panic may take longer to be said than it is waited for.
            until_closed(&patience);
        }
        assert_eq!(patience.ask(1, || Some(1)), Ok(1));
    }
}
