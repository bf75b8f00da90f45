use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use super::*;

const WORKERS: usize = 4 * BUSY_MAX;
const ONE: u32 = 1;
const OTHER: u32 = 2;

/// Requests to be done, and those at work, each with its slot, the oldest first.
struct Scene {
    admission: Admission<(u32, Asker)>,
    at_work: VecDeque<(usize, (u32, Asker))>,
}

impl Scene {
    fn new() -> Self {
        Self { admission: Admission::new(WORKERS), at_work: VecDeque::new() }
    }

    fn free_slot(&self) -> usize {
        (0..WORKERS).find(|slot| !self.at_work.iter().any(|(taken, _)| taken == slot)).expect("a free worker")
    }

    /// A free worker reads a request.
    fn ask(&mut self, overlay: u32, asker: Asker) -> Decision {
        let slot = self.free_slot();
        let turn = self.admission.take(slot, (overlay, asker), |_| Some(((overlay, asker), 100)));
        if turn == Decision::Now {
            self.at_work.push_back((slot, (overlay, asker)));
        }
        turn
    }

    /// As many as can be at work.
    fn ask_all(&mut self, overlay: u32, asker: Asker) -> usize {
        (0..WORKERS).take_while(|_| self.ask(overlay, asker) == Decision::Now).count()
    }

    /// The worker that is at something for longest has done it, and does what waits. Gives what.
    fn finish(&mut self) -> Option<(u32, Asker)> {
        let (slot, _) = self.at_work.pop_front()?;
        self.admission.end(slot);
        let next = self.admission.next(slot)?;
        self.at_work.push_back((slot, next));
        Some(next)
    }

    fn waiting(&self) -> usize {
        assert_eq!(self.admission.busy.load(Ordering::SeqCst), self.at_work.len());
        let waiting = self.admission.lock().waiting.values().map(VecDeque::len).sum();
        assert_eq!(self.admission.waiting.load(Ordering::SeqCst), waiting);
        waiting
    }
}

#[test]
fn one_user_has_less_than_a_third_of_the_workers_and_leaves_others_theirs() {
    let mut scene = Scene::new();
    let of_first = scene.ask_all(ONE, Asker::User(1));
    assert_eq!(of_first, (BUSY_MAX - OF_ROOT_ALONE) / 3);
    for _ in 0..1000 {
        assert_eq!(scene.ask(ONE, Asker::User(1)), Decision::Later);
    }
    // Whoever comes next finds some, and in another overlay as many.
    let shares: Vec<_> = (2..4).map(|uid| scene.ask_all(ONE, Asker::User(uid))).collect();
    assert!(shares.iter().all(|share| *share >= 4), "{shares:?}");
    for uid in 4..100 {
        scene.ask_all(ONE, Asker::User(uid));
    }
    assert!(scene.ask_all(ONE, Asker::Root) >= OF_ROOT_ALONE / 2);
    assert!(scene.ask_all(OTHER, Asker::User(1)) >= 8);
    assert!(scene.ask_all(3, Asker::User(1)) >= 4);
    assert_eq!(scene.ask(ONE, Asker::Nobody), Decision::Now);
}

/// Else who waits for his turn at a name would keep all others from its directory.
#[test]
fn for_whom_others_may_wait_does_not_wait_for_his_own_share() {
    let mut scene = Scene::new();
    scene.ask_all(ONE, Asker::User(1));
    assert_eq!(scene.ask(ONE, Asker::User(1)), Decision::Later);
    assert!(scene.ask_all(ONE, Asker::Holder(1)) >= OF_ROOT_ALONE);
    assert!(scene.ask_all(ONE, Asker::Root) >= OF_ROOT_ALONE / 2);
}

#[test]
fn overlays_that_are_stuck_leave_workers_to_others_however_many_they_are() {
    const OVERLAYS: u32 = 150;
    let mut scene = Scene::new();
    assert_eq!(scene.ask_all(1, Asker::Root), BUSY_MAX / 2);
    for overlay in 2..OVERLAYS {
        assert!(scene.ask_all(overlay, Asker::Root) >= OVERLAY_MIN, "{overlay}");
        // Nor does it matter whose they are.
        assert_eq!(scene.ask(1, Asker::User(overlay)), Decision::Later);
    }
    assert!(scene.at_work.len() <= BUSY_MAX + OVERLAYS as usize * OVERLAY_MIN);
}

#[test]
fn up_to_the_pressure_everybody_is_within_his_share() {
    let mut count = Count { busy: 0, by_overlay: HashMap::new(), by_user: HashMap::new() };
    for busy in 0..BUSY_MAX / PRESSURE {
        let key = Key { overlay: ONE, uid: 1, holds: false };
        count.busy = busy;
        count.by_overlay.insert(ONE, busy);
        count.by_user.insert((ONE, 1), busy);
        assert!(count.admits(key), "{busy}");
    }
}

#[test]
fn what_waits_is_done_in_turns_and_all_of_it() {
    let mut scene = Scene::new();
    for uid in [1, 2] {
        for _ in 0..100 {
            scene.ask(ONE, Asker::User(uid));
        }
    }
    scene.ask(ONE, Asker::User(3));
    let waiting = scene.waiting();
    assert!(waiting > 100);
    let mut done = Vec::new();
    while !scene.at_work.is_empty() {
        done.extend(scene.finish());
    }
    assert_eq!((done.len(), scene.waiting()), (waiting, 0));
    // Neither waits until all of the other's is done.
    let last = |uid| done.iter().rposition(|(_, asker)| *asker == Asker::User(uid)).unwrap();
    let first = |uid| done.iter().position(|(_, asker)| *asker == Asker::User(uid)).unwrap();
    assert!(first(1) < last(2) && first(2) < last(1), "{done:?}");
    assert!(scene.admission.lock().order.is_empty() && scene.admission.lock().bytes == 0);
}

#[test]
fn what_cannot_be_kept_does_not_wait_and_little_room_is_said() {
    let mut scene = Scene::new();
    scene.ask_all(ONE, Asker::User(1));
    let slot = scene.free_slot();
    let waits = scene.waiting();
    let mut told = Vec::new();
    for _ in 0..3 {
        let turn = scene.admission.take(slot, (ONE, Asker::User(1)), |is_scarce| {
            told.push(is_scarce);
            (!is_scarce).then_some(((ONE, Asker::User(1)), WAITING_BYTES_MAX / 2))
        });
        assert_eq!(turn, Decision::Later);
    }
    assert_eq!(told, [false, false, true]);
    assert_eq!(scene.waiting(), waits + 2);
}

/// Many threads at once, each a worker: nothing that waits is left when all have gone home.
#[test]
fn nothing_is_left_waiting() {
    const THREADS: usize = 100;
    const ROUNDS: usize = 200;
    let admission = Arc::new(Admission::<u32>::new(THREADS));
    let done = Arc::new(AtomicUsize::new(0));
    let go = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..THREADS)
        .map(|slot| {
            let (admission, done, go) = (Arc::clone(&admission), Arc::clone(&done), Arc::clone(&go));
            thread::spawn(move || {
                while !go.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                for _ in 0..ROUNDS {
                    if admission.take(slot, (ONE, Asker::User(1)), |_| Some((1, 1))) == Decision::Now {
                        thread::yield_now();
                        done.fetch_add(1, Ordering::SeqCst);
                        admission.end(slot);
                    }
                    while admission.next(slot).is_some() {
                        done.fetch_add(1, Ordering::SeqCst);
                        admission.end(slot);
                    }
                }
            })
        })
        .collect();
    go.store(true, Ordering::SeqCst);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(done.load(Ordering::SeqCst), THREADS * ROUNDS);
    assert_eq!(admission.waiting.load(Ordering::SeqCst), 0);
}
