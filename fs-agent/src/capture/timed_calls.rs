//! Calls that may block for good, run in helper threads, with a time-out for the caller.
//!
//! A worker that waits for a result delays a request of the overlay. So the time-out is short, and the calls about the
//! processes of one user are few: a user whose processes block such calls loses the results of his own calls only.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// The time-out of a call. Most calls take some 30 us, unless the machine is very busy.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// The most calls that are open at once. At the limit a new call fails at once: it would likely time out.
const OPEN_MAX: usize = 32;

/// The most open calls about the processes of one user. Fewer than the workers that a user can have (`worker_pool::admission`).
const OPEN_EACH_MAX: usize = 4;

/// The most helper threads that are kept while they are idle.
const IDLE_MAX: usize = 2;

/// The stack of a thread that reads a file into memory.
const STACK_BYTES: usize = 128 << 10;

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The call was not made: too many are open, or no thread can be started. That costs no time.
    Saturated,
    /// The call timed out, returned nothing, or panicked.
    Failed,
}

/// Sends the result to the caller.
type Answer = Box<dyn FnOnce() + Send>;
type Question = Box<dyn FnOnce() -> Answer + Send>;

/// Runs calls with a time-out.
#[derive(Default)]
pub struct TimedCalls {
    helpers: Arc<Helpers>,
}

#[derive(Default)]
struct Helpers(Mutex<State>);

#[derive(Default)]
struct State {
    /// Idle helper threads. They end when this is dropped.
    idle: Vec<SyncSender<Question>>,
    open: usize,
    /// Open calls by user. Invariant: no count is 0.
    open_each: HashMap<u32, usize>,
}

/// An open call; closed on drop.
struct Open {
    helpers: Arc<Helpers>,
    uid: u32,
}

impl Helpers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a call about a process of `uid`, if the limits allow one more.
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

impl TimedCalls {
    /// Runs `question`, which is about a process of `uid`, in a helper thread, and returns its result if it comes within
    /// [`WAIT_MAX`].
    ///
    /// # Errors
    /// A [`NoAnswer`].
    pub fn call<T: Send + 'static>(
        &self,
        uid: u32,
        question: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let open = self.helpers.open(uid).ok_or(NoAnswer::Saturated)?;
        let (sender, answered) = sync_channel(1);
        let question = Box::new(move || -> Answer {
            // The call is closed before its result is sent, and by a panic too: otherwise the caller's next call could
            // still count this one as open.
            let sender = sender;
            let open = open;
            let answer = question();
            drop(open);
            // Sending fails if the caller has timed out; nothing is to be done then.
            Box::new(move || drop(sender.send(answer)))
        });
        self.hand_over(question).ok_or(NoAnswer::Saturated)?;
        answered.recv_timeout(WAIT_MAX).ok().flatten().ok_or(NoAnswer::Failed)
    }

    /// Gives the call to an idle thread, or to a new one. Nothing if no thread can be started.
    fn hand_over(&self, question: Question) -> Option<()> {
        let idle = self.helpers.lock().idle.pop();
        let unsent = match idle {
            None => question,
            Some(thread) => match thread.send(question) {
                Ok(()) => return Some(()),
                // The idle thread has ended, which only a bug can cause.
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

/// Body of a helper thread: runs `question`, then the calls that it is given while it is kept as idle.
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
    fn silent(timed_calls: &TimedCalls, uid: u32) -> Sender<()> {
        let (release, released) = channel::<()>();
        assert_eq!(timed_calls.call(uid, move || released.recv().ok()), Err(NoAnswer::Failed));
        release
    }

    fn until_closed(timed_calls: &TimedCalls) {
        let begin = Instant::now();
        while timed_calls.helpers.lock().open > 0 {
            assert!(begin.elapsed() < Duration::from_secs(20), "questions stay open");
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_asked_is_answered_by_threads_that_are_kept() {
        let timed_calls = TimedCalls::default();
        let answer = || timed_calls.call(1, || Some(thread::current().id()));
        let first = answer();
        assert!(first.is_ok());
        assert_eq!(answer(), first);
        assert_eq!(timed_calls.call(1, || None::<i32>), Err(NoAnswer::Failed));
        assert!(timed_calls.helpers.lock().open_each.is_empty());
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_and_costs_others_nothing() {
        let timed_calls = TimedCalls::default();
        let begin = Instant::now();
        let held: Vec<_> = (0..OPEN_EACH_MAX).map(|_| silent(&timed_calls, 1)).collect();
        assert!(begin.elapsed() >= WAIT_MAX * u32::try_from(OPEN_EACH_MAX).unwrap());
        // As many as can be are open: nobody is asked.
        assert_eq!(timed_calls.call(1, || -> Option<i32> { panic!("asked") }), Err(NoAnswer::Saturated));
        assert_eq!(timed_calls.call(2, || Some(2)), Ok(2));
        drop(held);
        until_closed(&timed_calls);
        assert_eq!(timed_calls.call(1, || Some(1)), Ok(1));
        assert!(timed_calls.helpers.lock().idle.len() <= IDLE_MAX);
    }

    #[test]
    fn all_users_together_keep_no_more_threads_than_there_may_be() {
        let timed_calls = TimedCalls::default();
        let users = u32::try_from(OPEN_MAX / OPEN_EACH_MAX).unwrap();
        let held: Vec<_> = thread::scope(|scope| {
            let ask = |i| {
                scope.spawn({
                    let timed_calls = &timed_calls;
                    move || silent(timed_calls, i % users)
                })
            };
            let asked: Vec<_> = (0..u32::try_from(OPEN_MAX).unwrap()).map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert_eq!(timed_calls.call(users, || -> Option<i32> { panic!("asked") }), Err(NoAnswer::Saturated));
        drop(held);
        until_closed(&timed_calls);
    }

    #[test]
    fn a_question_that_panics_is_not_open_any_more() {
        let timed_calls = TimedCalls::default();
        for _ in 0..=OPEN_EACH_MAX {
            let asked = timed_calls.call(1, || -> Option<i32> { panic!("as the test wants") });
            assert_eq!(asked, Err(NoAnswer::Failed));
            // The panic may take longer to be said than it is waited for.
            until_closed(&timed_calls);
        }
        assert_eq!(timed_calls.call(1, || Some(1)), Ok(1));
    }
}
