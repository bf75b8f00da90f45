//! Operations that can take long at any user's will take turns: fsync(2), fallocate(2), truncate(2), writes that wait for the
//! disk, and an open(2) of a file on which somebody has a lease. None of them carries data while it waits.
//!
//! A worker at a request is a worker that others do not have. So each user has at most half of an overlay's workers at
//! such operations, and all users three quarters of them; what comes on top waits here, where it takes no worker, and is
//! done by the next that has finished. Users with something that waits come one after the other. Root's operations do not wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// An operation with its answer.
type Work = Box<dyn FnOnce() + Send>;

const ROOT: u32 = 0;

/// Whose turn it is at the workers of one overlay.
pub struct Turns {
    each_max: usize,
    all_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    at_work: usize,
    users: HashMap<u32, User>,
    /// Users who have something that waits, and fewer at work than they may; each once.
    queue: VecDeque<u32>,
}

#[derive(Default)]
struct User {
    at_work: usize,
    waiting: VecDeque<Work>,
    is_queued: bool,
}

/// A worker is at something that can take long. When this is dropped, it does what waits.
pub struct Turn<'a> {
    /// None for root, whose operations do not count.
    turns: Option<&'a Turns>,
    uid: u32,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turns) = self.turns {
            turns.go_on(turns.end(self.uid));
        }
    }
}

impl State {
    /// Counts one more at work for `uid`, if there is room.
    fn begin_at_once(&mut self, uid: u32, limits: &Turns) -> bool {
        let has_room = self.at_work < limits.all_max;
        let user = self.users.entry(uid).or_default();
        let begins = has_room && user.at_work < limits.each_max && user.waiting.is_empty();
        if begins {
            user.at_work += 1;
            self.at_work += 1;
        }
        begins
    }

    /// Puts `uid` into the queue, if it belongs there.
    fn queue_up(&mut self, uid: u32, each_max: usize) {
        if let Some(user) = self.users.get_mut(&uid)
            && !user.is_queued
            && !user.waiting.is_empty()
            && user.at_work < each_max
        {
            user.is_queued = true;
            self.queue.push_back(uid);
        }
    }

    /// Begins with what the first user in the queue has waiting.
    fn begin_next(&mut self, each_max: usize) -> Option<(u32, Work)> {
        let uid = self.queue.pop_front()?;
        let user = self.users.get_mut(&uid)?;
        user.is_queued = false;
        let work = user.waiting.pop_front()?;
        user.at_work += 1;
        self.at_work += 1;
        self.queue_up(uid, each_max);
        Some((uid, work))
    }
}

impl Turns {
    /// For an overlay with so many workers.
    pub fn new(workers: usize) -> Self {
        let [each_max, all_max] = [workers / 2, workers / 4 * 3].map(|max| max.max(1));
        Self { each_max, all_max, state: Mutex::default() }
    }

    /// Does `work` for `uid` in the calling worker, and then what waits, if it is its turn; else has another worker do it.
    pub fn take(&self, uid: u32, work: impl FnOnce() + Send + 'static) {
        if uid == ROOT {
            return work();
        }
        self.go_on(self.begin(uid, Box::new(work)));
    }

    /// Does `next`, and then what waits.
    fn go_on(&self, mut next: Option<(u32, Work)>) {
        while let Some((uid, work)) = next {
            work();
            next = self.end(uid);
        }
    }

    /// The calling worker's turn to do something for `uid`, if there is room at once.
    pub fn at_once(&self, uid: u32) -> Option<Turn<'_>> {
        if uid == ROOT {
            return Some(Turn { turns: None, uid });
        }
        let begins = self.lock().begin_at_once(uid, self);
        begins.then(|| Turn { turns: Some(self), uid })
    }

    fn begin(&self, uid: u32, work: Work) -> Option<(u32, Work)> {
        let mut state = self.lock();
        if state.begin_at_once(uid, self) {
            return Some((uid, work));
        }
        state.users.entry(uid).or_default().waiting.push_back(work);
        state.queue_up(uid, self.each_max);
        None
    }

    /// What `uid` had done is done. Gives what to do now.
    fn end(&self, uid: u32) -> Option<(u32, Work)> {
        let mut state = self.lock();
        state.at_work -= 1;
        if let Some(user) = state.users.get_mut(&uid) {
            user.at_work -= 1;
            if user.at_work == 0 && user.waiting.is_empty() {
                state.users.remove(&uid);
            }
        }
        state.queue_up(uid, self.each_max);
        state.begin_next(self.each_max)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            mpsc::{Receiver, Sender, channel},
        },
        thread,
        time::Duration,
    };

    const SOON: Duration = Duration::from_secs(20);

    /// Work that says when it begins, and ends when what is sent first is dropped.
    fn stuck(started: &Sender<(u32, Sender<()>)>, uid: u32) -> impl FnOnce() + Send + 'static {
        let started = started.clone();
        move || {
            let (release, released) = channel::<()>();
            started.send((uid, release)).unwrap();
            let _ = released.recv();
        }
    }

    fn take_all(turns: &Arc<Turns>, uid: u32, count: usize) -> Receiver<(u32, Sender<()>)> {
        let (started, begun) = channel();
        for _ in 0..count {
            let (turns, work) = (Arc::clone(turns), stuck(&started, uid));
            thread::spawn(move || turns.take(uid, work));
        }
        begun
    }

    fn until_waiting(turns: &Turns, uid: u32, count: usize) {
        let begin = std::time::Instant::now();
        while turns.lock().users.get(&uid).is_none_or(|user| user.waiting.len() != count) {
            assert!(begin.elapsed() < SOON, "not as many wait");
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_over_a_users_share_waits_without_a_worker_and_is_done_in_the_end() {
        let turns = Arc::new(Turns::new(8));
        let begun = take_all(&turns, 1, 100);
        let mut at_work: Vec<_> = (0..4).map(|_| begun.recv_timeout(SOON).unwrap()).collect();
        until_waiting(&turns, 1, 96);
        // Another user has room, and root always.
        let (done, is_done) = channel();
        for uid in [2, ROOT] {
            let done = done.clone();
            turns.take(uid, move || done.send(uid).unwrap());
            assert_eq!(is_done.try_recv(), Ok(uid));
        }
        for _ in 4..100 {
            drop(at_work.pop());
            at_work.push(begun.recv_timeout(SOON).unwrap());
        }
        drop(at_work);
        let begin = std::time::Instant::now();
        while !turns.lock().users.is_empty() {
            assert!(begin.elapsed() < SOON, "something is left");
            thread::yield_now();
        }
        assert!(turns.lock().at_work == 0 && turns.lock().queue.is_empty());
    }

    #[test]
    fn who_has_a_turn_at_once_does_afterwards_what_waits() {
        let turns = Turns::new(4);
        let held: Vec<_> = std::iter::from_fn(|| turns.at_once(1)).collect();
        assert_eq!(held.len(), 2, "half of the workers");
        let (done, is_done) = channel();
        turns.take(1, move || done.send(()).unwrap());
        assert!(is_done.try_recv().is_err(), "it waits");
        assert!(turns.at_once(2).is_some() && turns.at_once(ROOT).is_some());
        drop(held);
        assert_eq!(is_done.try_recv(), Ok(()));
        assert!(turns.at_once(1).is_some());
        assert!(turns.lock().users.is_empty());
    }

    #[test]
    fn users_who_wait_come_one_after_the_other() {
        let turns = Arc::new(Turns::new(8));
        let (first, second) = (take_all(&turns, 1, 50), take_all(&turns, 2, 50));
        let mut at_work = Vec::new();
        // Six of eight workers, by whoever came first.
        while at_work.len() < 6 {
            at_work.extend(first.try_iter().chain(second.try_iter()));
        }
        let waiting = |uid| 50 - at_work.iter().filter(|(user, _)| *user == uid).count();
        let [ones, twos] = [waiting(1), waiting(2)];
        until_waiting(&turns, 1, ones);
        until_waiting(&turns, 2, twos);
        let third = take_all(&turns, 3, 1);
        until_waiting(&turns, 3, 1);
        // One of each is done before a second of anybody.
        for _ in 0..3 {
            at_work.remove(0);
        }
        third.recv_timeout(SOON).expect("the third user's turn");
    }
}
