use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Condvar,
        atomic::AtomicU64,
        mpsc::{Receiver, channel},
    },
};

use bywash_common::config::OnAgentExit;
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};

use super::*;
use crate::{
    fuse::{Connection, handshake::Wishes},
    mount::{
        self, Connected,
        label::{Label, Part},
    },
    privilege,
};

const SOON: Duration = Duration::from_secs(20);
/// Of linux/fuse.h.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const NOTIFY_REPLY: u32 = 41;

/// Whether look-ups of `stuck-N` go on.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
    waiting: Mutex<usize>,
}

impl Gate {
    fn pass(&self) {
        *self.waiting.lock().unwrap() += 1;
        let mut is_open = self.is_open.lock().unwrap();
        while !*is_open {
            is_open = self.opened.wait(is_open).unwrap();
        }
        *self.waiting.lock().unwrap() -= 1;
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// A filesystem in which there is `file`, and nothing else; some names take for ever.
struct Filesystem {
    connection: Connection,
    gate: Arc<Gate>,
    longest: AtomicU64,
    ended: Box<dyn Fn() + Send + Sync>,
}

fn word(request: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(request[at..at + 4].try_into().unwrap())
}

fn unique(request: &[u8]) -> u64 {
    u64::from_ne_bytes(request[8..16].try_into().unwrap())
}

impl Serve for Filesystem {
    fn device(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    fn asker(&self, request: &[u8]) -> Asker {
        match word(request, 4) {
            LOOKUP => Asker::Root,
            NOTIFY_REPLY => Asker::Pool,
            _ => Asker::Nobody,
        }
    }

    fn keep(&self, request: &[u8], _is_scarce: bool) -> Option<Box<[u8]>> {
        Some(request.into())
    }

    fn refuse(&self, request: &[u8]) {
        self.connection.answer(unique(request), Err(Errno::NOMEM)).unwrap();
    }

    fn serve(&self, request: &[u8], desk: &mut Desk, before_answer: &mut dyn FnMut()) {
        assert!(desk.slot < WORKERS_MAX);
        match word(request, 4) {
            LOOKUP => {}
            GETATTR => {
                // `struct fuse_attr_out`: how long it lasts, and mode and links of a directory.
                let mut attributes = [0; 104];
                attributes[1] = 1;
                attributes[76..80].copy_from_slice(&0o4_0755_u32.to_ne_bytes());
                attributes[80] = 2;
                return self.connection.answer(unique(request), Ok([&attributes, &[]])).unwrap();
            }
            _ => return,
        }
        let name = &request[40..request.len() - 1];
        if name == b"panic" {
            // As an unsent reply does.
            self.connection.answer(unique(request), Err(Errno::IO)).unwrap();
            panic!("as the test wants");
        }
        if name.starts_with(b"stuck") {
            self.gate.pass();
        }
        before_answer();
        if name != b"file" {
            return self.connection.answer(unique(request), Err(Errno::NOENT)).unwrap();
        }
        // `struct fuse_entry_out`: node, and mode and links of a regular file.
        let mut entry = [0; 128];
        entry[0] = 2;
        entry[100..104].copy_from_slice(&0o10_0644_u32.to_ne_bytes());
        entry[104] = 1;
        self.connection.answer(unique(request), Ok([&entry, &[]])).unwrap();
        self.connection.told_of_file(2);
    }

    fn longest_request(&self) -> &AtomicU64 {
        &self.longest
    }

    fn wake_reader(&self) -> bool {
        self.connection.wake_reader().is_ok()
    }

    fn ended(&self, result: io::Result<()>) {
        result.unwrap();
        (self.ended)();
    }
}

/// One filesystem, as its users see it. Nothing is stuck there any more when it is dropped: a process cannot end while it
/// owes itself an answer.
struct Scene {
    root: OwnedFd,
    gate: Arc<Gate>,
    ended: Receiver<()>,
}

impl Scene {
    /// None where nothing can be mounted.
    fn serve(pool: &WorkerPool) -> Option<Self> {
        if !privilege::may_administer() {
            println!("skipped: only root can mount");
            return None;
        }
        let below = tempfile::tempdir().unwrap();
        let label =
            Label { part: Part::Directory, on_agent_exit: OnAgentExit::Unmount, ring: "test".to_owned() };
        let fd = mount::walk::open_dir(&below.path().canonicalize().unwrap()).unwrap();
        let wishes = Wishes { write_bytes_max: 4096, ..Wishes::default() };
        let Connected { connection, root, .. } = mount::connect(fd.as_fd(), &label, wishes).unwrap();
        let (gate, (sender, ended)) = (Arc::<Gate>::default(), channel());
        let ended_too = Box::new(move || sender.send(()).unwrap_or_default());
        pool.serve(Filesystem {
            connection,
            gate: Arc::clone(&gate),
            longest: AtomicU64::new(0),
            ended: ended_too,
        })
        .unwrap();
        Some(Self { root, gate, ended })
    }

    fn look_up(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        openat(&self.root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// As often as `count` says, each from a thread of its own, which says so when it is answered.
    fn look_up_stuck(&self, count: usize) -> Receiver<()> {
        let (sender, answered) = channel();
        for i in 0..count {
            let (root, sender) = (self.root.try_clone().unwrap(), sender.clone());
            thread::spawn(move || {
                let found = openat(&root, format!("stuck-{i}"), OFlags::PATH, Mode::empty());
                assert_eq!(found.err(), Some(Errno::NOENT));
                // Nobody listens any more when the test has failed.
                drop((root, sender.send(())));
            });
        }
        answered
    }

    /// Looks up `count` names that are not there, one after the other.
    fn look_up_freely(&self, names: &str, count: usize) {
        let (root, names) = (self.root.try_clone().unwrap(), names.to_owned());
        // By another thread, so that the test fails rather than hang.
        let (done, is_done) = channel();
        thread::spawn(move || {
            for i in 0..count {
                let found = openat(&root, format!("{names}-{i}"), OFlags::PATH, Mode::empty());
                assert_eq!(found.err(), Some(Errno::NOENT));
            }
            drop(root);
            done.send(())
        });
        is_done.recv_timeout(SOON).expect("an answer in time");
    }

    fn until_stuck(&self, count: usize) {
        until("as many are stuck", || *self.gate.waiting.lock().unwrap() >= count);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.gate.open();
    }
}

fn until(what: &str, ask: impl Fn() -> bool) {
    let begin = Instant::now();
    while !ask() {
        assert!(begin.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn workers(pool: &WorkerPool) -> usize {
    WORKERS_MAX - pool.lock().free_slots.len()
}

#[test]
fn all_but_one_can_be_stuck_and_requests_are_served() {
    let pool = WorkerPool::new().unwrap();
    let Some(scene) = Scene::serve(&pool) else { return };
    let stuck = BUSY_MAX / 2 - 1;
    let answered = scene.look_up_stuck(stuck);
    scene.until_stuck(stuck);
    scene.look_up_freely("free", 100);
    scene.gate.open();
    (0..stuck).for_each(|_| answered.recv_timeout(SOON).unwrap());
}

#[test]
fn overlays_that_are_stuck_leave_workers_to_others() {
    const MANY: usize = 2 * BUSY_MAX;
    let pool = WorkerPool::new().unwrap();
    let scenes: Vec<_> = (0..3).map_while(|_| Scene::serve(&pool)).collect();
    let [first, second, other] = &scenes[..] else { return };
    let answered = [first, second].map(|scene| scene.look_up_stuck(MANY));
    first.until_stuck(BUSY_MAX / 4);
    second.until_stuck(BUSY_MAX / 4);
    other.look_up_freely("free", 100);
    assert!(workers(&pool) <= WORKERS_MAX);
    // What waited without a worker is done in the end.
    [first, second].iter().for_each(|scene| scene.gate.open());
    for answered in answered {
        (0..MANY).for_each(|_| answered.recv_timeout(SOON).unwrap());
    }
}

#[test]
fn a_request_that_panics_costs_no_worker() {
    let pool = WorkerPool::new().unwrap();
    let Some(scene) = Scene::serve(&pool) else { return };
    for _ in 0..10 {
        assert_eq!(scene.look_up("panic").err(), Some(Errno::IO));
    }
    scene.look_up_freely("free", 10);
    until("nobody is at a request", || pool.admission.busy() == 0);
    until("as many wait as before", || pool.sentinel.watchers() == lane::WATCHERS);
}

#[test]
fn who_is_not_used_has_no_workers_and_is_served_again() {
    let pool = WorkerPool::new().unwrap();
    let Some(scene) = Scene::serve(&pool) else { return };
    let hot = || pool.sentinel.hot();
    for _ in 0..2 {
        assert_eq!(hot(), 0);
        // Held, so that the kernel knows it: without a file that it knows, nobody can be woken.
        let file = scene.look_up("file").expect("a file");
        assert_eq!(scene.look_up("none").err(), Some(Errno::NOENT));
        assert_eq!(hot(), 1);
        until("nobody waits for requests any more", || hot() == 0);
        until("all are parked", || {
            let idle = pool.lock();
            idle.parked.len() + idle.free_slots.len() == WORKERS_MAX
        });
        drop(file);
    }
}

#[test]
fn more_overlays_than_can_have_watchers_are_served_at_once() {
    let pool = WorkerPool::new().unwrap();
    let scenes: Vec<_> = (0..HOT_MAX + 8).map_while(|_| Scene::serve(&pool)).collect();
    for round in 0..3 {
        for scene in &scenes {
            scene.look_up_freely(&format!("free-{round}"), 5);
        }
        assert!(pool.sentinel.hot() <= HOT_MAX);
    }
}

#[test]
fn the_end_of_an_overlay_is_told_when_all_have_left_it() {
    let pool = WorkerPool::new().unwrap();
    // One that was never used, and one that was.
    for uses in [0, 1] {
        let Some(mut scene) = Scene::serve(&pool) else { return };
        scene.look_up_freely("free", uses);
        let (nowhere, _) = std::io::pipe().unwrap();
        drop(std::mem::replace(&mut scene.root, nowhere.into()));
        scene.ended.recv_timeout(SOON).expect("the end");
    }
    until("none is left", || pool.sentinel.count() == 0);
}
