//! An overlay that is killed between any two stores, taken up again, and sent the request again that was being done: what it
//! says then, and what is below, is as if nothing had happened. The test plays the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use proptest::prelude::*;
use rustix::{
    fs::{IFlags, Mode, OFlags, RenameFlags, openat},
    io::Errno,
};
use tempfile::TempDir;

use super::{
    dirs::{DirEntry, Told},
    files::Written,
    forgotten::LOOK_AGAIN,
    inode::ROOT,
    *,
};
use crate::state::{killed, slots::KernelMode};

const ME: Caller = Caller { uid: 0, gid: 0, thread: 0 };
const LIMITS: Limits = Limits { descriptors: 1000, inodes: 1000 };
const RESENT: u64 = 1 << 63;
const MODE: NewMode = NewMode { wanted: 0o644, mask: 0 };

/// Keeps descriptors as long as the test.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashMap<Parked, OwnedFd>>>);

impl Park for Kept {
    fn park(&self, what: Parked, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        lock(&self.0).insert(what, fd.try_clone_to_owned()?);
        Ok(())
    }

    fn take_back(&self, what: Parked) {
        lock(&self.0).remove(&what);
    }
}

fn open_root(dir: &TempDir) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(rustix::fs::CWD, dir.path(), flags, Mode::empty()).unwrap()
}

fn shared() -> Shared {
    Shared {
        identity: Identity::of_this_process(),
        handles: HandleNumbers::default(),
        opens: Opens::new(1000),
    }
}

/// An overlay with all that outlives it.
struct Fixture {
    dir: TempDir,
    kept: Kept,
    memory: OwnedFd,
    overlay: Overlay,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Overlay::over(open_root(&dir), dir.path(), &shared(), LIMITS).unwrap();
        Self::of(dir, overlay)
    }

    /// Its state has tables of these sizes.
    fn sized(sizes: [u32; 5]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (open_root(&dir), dir.path());
        let (state, slot) = State::create_sized(path, root_id(&root).unwrap(), sizes).unwrap();
        let overlay = Overlay::kept_in(state, slot, root, path, &shared(), LIMITS).unwrap();
        Self::of(dir, overlay)
    }

    fn of(dir: TempDir, overlay: Overlay) -> Self {
        let kept = Kept::default();
        overlay.park_by(Box::new(kept.clone()));
        let memory = overlay.state().as_fd().try_clone_to_owned().unwrap();
        Self { dir, kept, memory, overlay }
    }

    /// A successor serves the overlay.
    fn restart(&mut self) -> Restored {
        // As a process that is killed: nothing of what it lets go of is given back.
        self.overlay.state().freeze();
        // Its descriptors are closed before anybody looks for the files.
        self.overlay = Overlay::over(open_root(&self.dir), self.dir.path(), &shared(), LIMITS).unwrap();
        let left = State::open(self.memory.try_clone().unwrap()).unwrap();
        let kept = lock(&self.kept.0);
        let parked = kept.iter().map(|(what, fd)| (*what, fd.try_clone().unwrap())).collect();
        drop(kept);
        let (overlay, restored) =
            Overlay::restore(open_root(&self.dir), left, parked, &shared(), LIMITS).unwrap();
        overlay.park_by(Box::new(self.kept.clone()));
        self.overlay = overlay;
        restored
    }

    fn create(&self, name: &str, flags: OFlags) -> (Entry, Arc<OpenFile>) {
        self.overlay.create(ROOT, OsStr::new(name), MODE, flags.bits().cast_signed(), ME).unwrap()
    }

    fn write(&self, file: &OpenFile, offset: u64, data: &[u8], cause: Cause) -> Result<Written> {
        let request = WriteRequest { offset, data, cause, durability: Durability::None, drops_set_id: None };
        self.overlay.write(file, &request)
    }

    fn below(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn path_of(&self, file: &OpenFile) -> String {
        let path = self.overlay.path_of(file).to_vec();
        let root = self.dir.path().to_str().unwrap();
        String::from_utf8(path).unwrap().strip_prefix(root).unwrap().to_owned()
    }
}

#[test]
fn open_files_go_on_where_they_were() {
    let mut f = Fixture::new();
    let (entry, file) = f.create("log", OFlags::WRONLY | OFlags::APPEND);
    f.write(&file, 0, b"one\n", Cause::Append).unwrap();
    file.inode.set_kernel_mode(KernelMode::Passthrough(9));
    file.note().store(5, std::sync::atomic::Ordering::Relaxed);
    let id = file.id;
    drop(file);
    let restored = f.restart();
    assert_eq!(restored, Restored { nodes: 1, files: 1, dirs: 0 });
    let file = f.overlay.file(id).unwrap();
    assert_eq!(file.inode.id, entry.node);
    assert!(file.appends && file.note().load(std::sync::atomic::Ordering::Relaxed) == 5);
    assert_eq!(file.inode.kernel_mode(), KernelMode::Passthrough(9));
    assert_eq!(f.path_of(&file), "/log");
    let written = f.write(&file, 4, b"two\n", Cause::Append).unwrap();
    assert_eq!((written.len, written.offset), (4, 4));
    assert_eq!(fs::read(f.below("log")).unwrap(), b"one\ntwo\n");
    // Numbers go on, too.
    let (_, other) = f.create("other", OFlags::RDONLY);
    assert!(other.id > id);
    assert!(f.overlay.release(id).is_some() && f.overlay.release(id).is_none());
}

#[test]
fn what_was_opened_to_be_cut_or_made_is_not_when_it_is_opened_again() {
    let mut f = Fixture::new();
    let (_, file) = f.create("a", OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC);
    f.write(&file, 0, b"content", Cause::Write).unwrap();
    let id = file.id;
    drop(file);
    f.restart();
    let file = f.overlay.file(id).unwrap();
    assert_eq!(f.overlay.read(&file, 0, 10).unwrap(), b"content");
}

#[test]
fn files_that_were_renamed_and_deleted_are_found() {
    let mut f = Fixture::new();
    let (_, moved) = f.create("a", OFlags::WRONLY);
    let (_, deleted) = f.create("b", OFlags::RDWR);
    let (_, replaced) = f.create("c", OFlags::RDWR);
    let (_, replacing) = f.create("d", OFlags::RDWR);
    f.write(&deleted, 0, b"gone", Cause::Write).unwrap();
    f.write(&replaced, 0, b"gone as well", Cause::Write).unwrap();
    let ids = [&moved, &deleted, &replaced, &replacing].map(|file| file.id);
    drop((moved, deleted, replaced, replacing));
    let name = OsStr::new;
    f.overlay.rename((ROOT, name("a")), (ROOT, name("A")), 0).unwrap();
    f.overlay.unlink(ROOT, name("b")).unwrap();
    f.overlay.rename((ROOT, name("d")), (ROOT, name("c")), 0).unwrap();
    assert_eq!(lock(&f.kept.0).len(), 2, "who has lost the last name is parked");
    // Behind the overlay's back: found by its file handle, where the filesystem has such.
    fs::rename(f.below("A"), f.below("behind")).unwrap();
    let has_handles = f.overlay.file(ids[0]).unwrap().inode.has_handle();
    f.restart();
    assert_eq!(f.overlay.open_again(), usize::from(!has_handles));
    let file = |at: usize| f.overlay.file(ids[at]).unwrap();
    if has_handles {
        f.write(&file(0), 0, b"x", Cause::Write).unwrap();
        assert_eq!(fs::read(f.below("behind")).unwrap(), b"x");
    }
    assert_eq!(f.path_of(&file(0)), "/A");
    assert_eq!(f.overlay.read(&file(1), 0, 10).unwrap(), b"gone");
    assert_eq!(f.path_of(&file(1)), "/b");
    assert_eq!(f.overlay.read(&file(2), 0, 20).unwrap(), b"gone as well");
    assert_eq!(f.path_of(&file(3)), "/c");
    for (at, id) in ids.into_iter().enumerate() {
        let node = file(at).inode.id;
        f.overlay.release(id);
        f.overlay.forget(node, 1);
    }
    assert!(lock(&f.kept.0).is_empty(), "nothing is parked that nobody knows");
}

#[test]
fn what_cannot_be_opened_again_answers_eio_and_the_rest_goes_on() {
    let mut f = Fixture::new();
    let (_, lost) = f.create("a", OFlags::RDWR);
    let (_, fine) = f.create("b", OFlags::RDWR);
    let (lost_id, fine_id) = (lost.id, fine.id);
    drop((lost, fine));
    f.overlay.state().freeze();
    fs::remove_file(f.below("a")).unwrap();
    fs::write(f.below("a"), "another").unwrap();
    // As long as the kernel writes the deleted file's attributes back, it is found by its handle.
    let is_lost = (0..1000).any(|_| f.restart().files == 2 && f.overlay.open_again() == 1);
    assert!(is_lost);
    let lost = f.overlay.file(lost_id).unwrap();
    assert_eq!(f.overlay.read(&lost, 0, 1), Err(Errno::IO));
    assert_eq!(f.write(&lost, 0, b"x", Cause::Write), Err(Errno::IO));
    assert!(f.overlay.read(&f.overlay.file(fine_id).unwrap(), 0, 1).is_ok());
    assert_eq!(fs::read(f.below("a")).unwrap(), b"another");
    assert!(f.overlay.release(lost_id).is_some());
}

#[test]
fn directories_are_read_on() {
    let mut f = Fixture::new();
    (0..50).for_each(|i| fs::write(f.below(&format!("file-{i}")), "").unwrap());
    let id = f.overlay.open_dir(ROOT, 0).unwrap().id;
    let mut names = Vec::new();
    let mut offset = 0;
    let mut read = |f: &Fixture, count: usize| {
        let mut left = count;
        f.overlay
            .read_dir(id, offset, |entry| {
                if left == 0 {
                    return false;
                }
                left -= 1;
                offset = entry.next_offset;
                names.push(entry.name.to_owned());
                true
            })
            .unwrap();
    };
    read(&f, 20);
    assert_eq!(f.restart().dirs, 1);
    read(&f, 100);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 52);
    assert!(f.overlay.release_dir(id));
}

#[test]
fn a_directory_that_was_removed_while_it_was_in_use_comes_back() {
    let mut f = Fixture::new();
    let node = f.overlay.mkdir(ROOT, OsStr::new("d"), MODE).unwrap().node;
    f.overlay.rmdir(ROOT, OsStr::new("d")).unwrap();
    assert!(lock(&f.kept.0).is_empty());
    f.overlay.park_nameless();
    assert!(lock(&f.kept.0).contains_key(&Parked::Node(node)));
    f.restart();
    assert_eq!(f.overlay.getattr(node).unwrap().stx_nlink, 0);
    f.overlay.forget(node, 1);
    assert!(lock(&f.kept.0).is_empty());
}

#[test]
fn a_file_that_has_got_the_number_of_one_that_is_gone_is_another() {
    let mut f = Fixture::new();
    fs::write(f.below("a"), "gone").unwrap();
    let gone = f.overlay.lookup(ROOT, OsStr::new("a"), 0).unwrap();
    f.overlay.unlink(ROOT, OsStr::new("a")).unwrap();
    // Nobody had it open, so nobody holds it, and the kernel has not forgotten it.
    f.restart();
    fs::write(f.below("b"), "new").unwrap();
    let new = f.overlay.lookup(ROOT, OsStr::new("b"), 0).unwrap();
    if new.stat.stx_ino != gone.stat.stx_ino {
        return println!("skipped: this filesystem does not give a number again at once");
    }
    assert_ne!(new.node, gone.node);
    assert_eq!(f.overlay.getattr(gone.node).err(), Some(Errno::STALE));
    assert_eq!(f.overlay.getattr(new.node).unwrap().stx_size, 3);
    f.restart();
    assert_eq!(f.overlay.lookup(ROOT, OsStr::new("b"), 0).unwrap().node, new.node);
    f.overlay.forget(gone.node, 1);
    assert_eq!(f.overlay.lookup(ROOT, OsStr::new("b"), 0).unwrap().node, new.node);
}

#[test]
fn numbers_of_handles_go_on_behind_those_of_an_overlay_that_has_ended() {
    let shared = shared();
    let over = || {
        let dir = tempfile::tempdir().unwrap();
        (Overlay::over(open_root(&dir), dir.path(), &shared, LIMITS).unwrap(), dir)
    };
    let ((ended, _ended_dir), (other, _dir)) = (over(), over());
    let highest = ended.open_dir(ROOT, 0).unwrap().id;
    assert_eq!(other.state().highest_handle(), 0);
    drop(ended);
    assert_eq!(other.state().highest_handle(), highest);
    assert_eq!(over().0.state().highest_handle(), highest);
}

#[test]
fn what_an_overlay_lets_go_of_when_it_ends_is_there_for_a_successor() {
    let f = Fixture::new();
    let (entry, file) = f.create("a", OFlags::RDWR);
    let (id, memory) = (file.id, f.memory.try_clone().unwrap());
    drop((f.overlay, file));
    let left = State::open(memory).unwrap();
    let (overlay, _) = Overlay::restore(open_root(&f.dir), left, HashMap::new(), &shared(), LIMITS).unwrap();
    assert_eq!(overlay.file(id).unwrap().inode.id, entry.node);
}

#[test]
fn what_has_no_room_in_the_state_is_served_and_does_not_come_back() {
    // Three nodes beside the root, two open files.
    let mut f = Fixture::sized([4, 10, 2, 1, 4]);
    let opened: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| f.create(name, OFlags::RDWR)).into();
    for (at, (entry, file)) in opened.iter().enumerate() {
        f.write(file, 0, &[b'x'; 3][..], Cause::Write).unwrap();
        assert_eq!(f.overlay.getattr(entry.node).unwrap().stx_size, 3, "number {at}");
    }
    let known: Vec<(u64, u64)> = opened.iter().map(|(entry, file)| (entry.node, file.id)).collect();
    drop(opened);
    assert_eq!(f.restart(), Restored { nodes: 3, files: 2, dirs: 0 });
    for (at, (node, handle)) in known.iter().enumerate() {
        let size = f.overlay.getattr(*node).map(|stat| stat.stx_size);
        assert_eq!(size, if at < 3 { Ok(3) } else { Err(Errno::STALE) }, "number {at}");
        let file = f.overlay.file(*handle).map(|file| file.id);
        assert_eq!(file, if at < 2 { Ok(*handle) } else { Err(Errno::IO) }, "number {at}");
    }
    assert_eq!(f.overlay.file(known[4].1 + 1).map(|file| file.id), Err(Errno::BADF));
    // At ESTALE the kernel looks the name up again, and goes on.
    assert_eq!(f.overlay.lookup(ROOT, OsStr::new("e"), 0).unwrap().node, known[4].0);
    assert!(f.overlay.getattr(known[4].0).is_ok());
}

#[test]
fn what_is_parked_and_forgotten_is_taken_back() {
    let mut f = Fixture::new();
    let (entry, file) = f.create("a", OFlags::RDWR);
    let id = file.id;
    drop(file);
    f.overlay.unlink(ROOT, OsStr::new("a")).unwrap();
    f.overlay.release(id);
    let parked = lock(&f.kept.0)[&Parked::Node(entry.node)].try_clone().unwrap();
    f.overlay.forget(entry.node, 1);
    // Killed between that and the taking back.
    lock(&f.kept.0).insert(Parked::Node(entry.node), parked);
    f.restart();
    assert!(lock(&f.kept.0).is_empty());
}

#[test]
fn what_is_open_to_write_comes_back_although_it_has_become_append_only() {
    let mut f = Fixture::new();
    let (_, writing) = f.create("a", OFlags::WRONLY);
    let (_, reading) = f.create("b", OFlags::RDONLY);
    let ids = [writing.id, reading.id];
    let Ok(before) = f.overlay.flags(writing.id) else {
        return println!("skipped: the filesystem of {} has no flags", f.dir.path().display());
    };
    let set = f.overlay.set_flags(writing.id, before | IFlags::APPEND.bits(), ME);
    assert_eq!(lock(&f.kept.0).len(), usize::from(set.is_ok()), "only what cannot be opened again is parked");
    if set.is_err() {
        return println!("skipped: only root can set flags");
    }
    f.overlay.set_flags(reading.id, before | IFlags::IMMUTABLE.bits(), ME).unwrap();
    assert_eq!(lock(&f.kept.0).len(), 1);
    drop((writing, reading));
    f.restart();
    let lost = f.overlay.open_again();
    let written = f.overlay.file(ids[0]).and_then(|file| f.write(&file, 0, b"more", Cause::Write));
    f.overlay.set_flags(ids[0], before, ME).unwrap();
    f.overlay.set_flags(ids[1], before, ME).unwrap();
    assert_eq!(lost, 0);
    assert_eq!(written.map(|written| written.len), Ok(4), "as before");
    assert_eq!(fs::read(f.below("a")).unwrap(), b"more");
    f.overlay.release(ids[0]);
    assert!(lock(&f.kept.0).is_empty());
}

#[test]
fn what_the_kernel_has_forgotten_by_a_request_that_was_lost_is_forgotten() {
    let mut f = Fixture::new();
    let nodes = ["lost", "known", "told again", "late"].map(|name| {
        let (entry, file) = f.create(name, OFlags::WRONLY);
        f.overlay.release(file.id);
        entry.node
    });
    f.restart();
    let [_, known, again, late] = nodes;
    let begin = Instant::now();
    let after = |seconds| begin + 2 * LOOK_AGAIN * seconds;
    let is_there = || nodes.map(|node| f.overlay.getattr(node).is_ok());
    // FORGET for all but one has been read and is lost, or is still to be read.
    f.overlay.forget_inherited(begin, |_| panic!("too early"));
    f.overlay.forget_inherited(after(1), |node| node == known);
    f.overlay.forget(late, 1);
    assert_eq!(f.overlay.lookup(ROOT, OsStr::new("told again"), 0).unwrap().node, again);
    assert_eq!(is_there(), [true, true, true, false]);
    f.overlay.forget_inherited(after(1), |_| panic!("too early"));
    f.overlay.forget_inherited(after(2), |node| node == known);
    assert_eq!(is_there(), [false, true, true, false]);
    f.overlay.forget_inherited(after(9), |_| panic!("once more"));
}

#[test]
fn another_directory_is_refused() {
    let f = Fixture::new();
    f.overlay.state().freeze();
    let left = State::open(f.memory.try_clone().unwrap()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let restored = Overlay::restore(open_root(&other), left, HashMap::new(), &shared(), LIMITS);
    assert!(matches!(restored.err(), Some(RestoreError::OtherRoot)));
    assert!(State::open(f.memory.try_clone().unwrap()).is_ok(), "and nothing is lost by it");
}

#[test]
fn an_append_behind_what_others_have_appended_overwrites_nothing() {
    let mut f = Fixture::new();
    let (_, file) = f.create("log", OFlags::WRONLY | OFlags::APPEND);
    let id = file.id;
    drop(file);
    fs::write(f.below("log"), b"others\n").unwrap();
    let mut written = None;
    for stores in 0.. {
        killed::after(stores);
        let died = catch_unwind(AssertUnwindSafe(|| {
            let begun = f.overlay.begin(0, 7 | if stores > 0 { RESENT } else { 0 }, 16);
            let file = f.overlay.file(id).unwrap();
            let (request, given) =
                begun.request.during(|| f.write(&file, 0, b"line\n", Cause::Append).unwrap());
            killed::step();
            written = Some((given.len, given.offset));
            drop(request);
        }));
        if !killed::revive() {
            died.unwrap();
            break;
        }
        f.restart();
    }
    assert_eq!(written, Some((5, 7)));
    assert_eq!(fs::read(f.below("log")).unwrap(), b"others\nline\n");
}

#[test]
fn a_write_that_was_done_is_not_done_again() {
    let mut f = Fixture::new();
    let (_, file) = f.create("log", OFlags::WRONLY | OFlags::APPEND);
    let id = file.id;
    drop(file);
    let begun = f.overlay.begin(0, 7, 16);
    // Killed between the system call and the note of it.
    fs::write(f.below("log"), b"line\n").unwrap();
    std::mem::forget(begun.request);
    f.restart();
    let begun = f.overlay.begin(0, 7 | RESENT, 16);
    let file = f.overlay.file(id).unwrap();
    let (request, written) = begun.request.during(|| f.write(&file, 0, b"line\n", Cause::Append).unwrap());
    assert_eq!((written.len, written.offset), (5, 0));
    assert_eq!(fs::read(f.below("log")).unwrap(), b"line\n");
    assert!(request.cut_short().unwrap().written.is_some());
    drop(request);
    // Half of it was.
    let begun = f.overlay.begin(0, 9, 16);
    fs::write(f.below("log"), b"line\nsec").unwrap();
    std::mem::forget((begun.request, file));
    f.restart();
    let begun = f.overlay.begin(0, 9 | RESENT, 16);
    let file = f.overlay.file(id).unwrap();
    let (_, written) = begun.request.during(|| f.write(&file, 5, b"second\n", Cause::Append).unwrap());
    assert_eq!((written.len, written.offset), (7, 5));
    assert_eq!(fs::read(f.below("log")).unwrap(), b"line\nsecond\n");
}

#[test]
fn a_file_that_somebody_else_has_made_meanwhile_is_not_opened_as_what_was_made() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can give files away");
    }
    let user = Caller { uid: 65534, gid: 65534, thread: 0 };
    let mut f = Fixture::new();
    for (owner, flags, expected) in [
        (65534, OFlags::RDWR, None),
        (0, OFlags::RDWR, Some(Errno::STALE)),
        (0, OFlags::RDWR | OFlags::EXCL, Some(Errno::EXIST)),
    ] {
        // Killed when it was about to make it, or just had.
        let begun = f.overlay.begin(0, 7, 35);
        let (request, ()) = begun.request.during(crate::state::journal::begins_to_make);
        fs::write(f.below("a"), "").unwrap();
        std::os::unix::fs::chown(f.below("a"), Some(owner), Some(owner)).unwrap();
        std::mem::forget(request);
        f.restart();
        let begun = f.overlay.begin(0, 7 | RESENT, 35);
        let create = || f.overlay.create(ROOT, OsStr::new("a"), MODE, flags.bits().cast_signed(), user);
        let (_, created) = begun.request.during(create);
        assert_eq!(created.err(), expected, "owned by {owner}");
        fs::remove_file(f.below("a")).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_of_a_state_is_an_error_or_an_overlay(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<u8>()), 1..6),
    ) {
        let f = Fixture::new();
        let (entry, file) = f.create("a", OFlags::RDWR);
        f.overlay.mkdir(ROOT, OsStr::new("d"), MODE).unwrap();
        f.overlay.open_dir(ROOT, 0).unwrap();
        f.overlay.state().freeze();
        f.overlay.state().damage(&damage);
        if let Ok(left) = State::open(f.memory.try_clone().unwrap())
            && let Ok((overlay, _)) = Overlay::restore(open_root(&f.dir), left, HashMap::new(), &shared(), LIMITS)
        {
            let _ = overlay.getattr(entry.node);
            let _ = overlay.file(file.id).map(|file| overlay.read(&file, 0, 1));
            let _ = overlay.lookup(ROOT, OsStr::new("a"), 0);
            overlay.forget(entry.node, 1);
        }
    }
}

/// What the kernel asks for. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Ask {
    Lookup(usize, usize),
    Create(usize, usize),
    Mkdir(usize, usize),
    Symlink(usize, usize),
    Link(usize, usize, usize),
    Remove(usize, usize),
    Rename(usize, usize, usize, usize, bool),
    Open(usize, bool),
    Write(usize, usize, u8),
    Append(usize, u8),
    Truncate(usize, usize),
    Release(usize),
    OpenDir(usize),
    /// Of a directory, and whether there is room for one name alone.
    List(usize, bool),
    ReleaseDir(usize),
    Forget(usize),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn asks() -> impl Strategy<Value = Vec<(Ask, Option<u64>)>> {
    let n = 0..16_usize;
    let ask = prop_oneof![
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Lookup(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Create(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Create(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Mkdir(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Symlink(a, b)),
        (n.clone(), n.clone(), n.clone()).prop_map(|(a, b, c)| Ask::Link(a, b, c)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Remove(a, b)),
        (n.clone(), n.clone(), n.clone(), n.clone(), any::<bool>())
            .prop_map(|(a, b, c, d, e)| Ask::Rename(a, b, c, d, e)),
        (n.clone(), any::<bool>()).prop_map(|(a, b)| Ask::Open(a, b)),
        (n.clone(), n.clone(), any::<u8>()).prop_map(|(a, b, c)| Ask::Write(a, b, c)),
        (n.clone(), any::<u8>()).prop_map(|(a, b)| Ask::Append(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Ask::Truncate(a, b)),
        n.clone().prop_map(Ask::Release),
        n.clone().prop_map(Ask::OpenDir),
        (n.clone(), any::<bool>()).prop_map(|(a, b)| Ask::List(a, b)),
        n.clone().prop_map(Ask::ReleaseDir),
        n.prop_map(Ask::Forget),
    ];
    let kill = prop_oneof![2 => Just(None), 3 => (0..50_u64).prop_map(Some)];
    prop::collection::vec((ask, kill), 1..40)
}

/// A file as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Dir(BTreeMap<&'static str, usize>),
    File(Vec<u8>),
    Link,
}

/// What the kernel believes, and what is to be below.
struct Kernel {
    objects: Vec<Object>,
    /// Nodes that it knows, each with how often it was told of it, and the object.
    nodes: BTreeMap<u64, (u64, usize)>,
    /// Open files, with their node and whether they append.
    files: BTreeMap<u64, (u64, bool)>,
    dirs: BTreeMap<u64, u64>,
}

/// A request, with all that it takes.
#[derive(Clone, Debug)]
enum Sent {
    Lookup(u64, &'static str),
    Create(u64, &'static str),
    Mkdir(u64, &'static str),
    Symlink(u64, &'static str),
    Link(u64, u64, &'static str),
    Unlink(u64, &'static str),
    Rmdir(u64, &'static str),
    Rename((u64, &'static str), (u64, &'static str), bool),
    Open(u64, bool),
    Write(u64, u64, Vec<u8>, Cause),
    Truncate(u64, u64),
    Release(u64),
    OpenDir(u64),
    List(u64, usize),
    ReleaseDir(u64),
    Forget(u64, u64),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Node(u64),
    Opened(u64),
    Created(u64, u64),
    Written(usize, u64),
    Listed(Vec<(String, u64)>),
    Failed(Errno),
}

fn send(overlay: &Overlay, sent: &Sent) -> Answer {
    let name = OsStr::new;
    let flags = |appends| {
        let append = if appends { OFlags::APPEND } else { OFlags::empty() };
        (OFlags::RDWR | append).bits().cast_signed()
    };
    let node = |entry: Entry| Answer::Node(entry.node);
    let done = |()| Answer::Done;
    let answer = match sent.clone() {
        Sent::Lookup(parent, child) => overlay.lookup(parent, name(child), 0).map(node),
        Sent::Create(parent, child) => overlay
            .create(parent, name(child), MODE, flags(false), ME)
            .map(|(entry, file)| Answer::Created(entry.node, file.id)),
        Sent::Mkdir(parent, child) => overlay.mkdir(parent, name(child), MODE).map(node),
        Sent::Symlink(parent, child) => overlay.symlink(parent, name(child), Path::new("x")).map(node),
        Sent::Link(file, parent, child) => overlay.link(file, parent, name(child)).map(node),
        Sent::Unlink(parent, child) => overlay.unlink(parent, name(child)).map(done),
        Sent::Rmdir(parent, child) => overlay.rmdir(parent, name(child)).map(done),
        Sent::Rename(from, to, exchange) => {
            let flags = if exchange { RenameFlags::EXCHANGE.bits() } else { 0 };
            overlay.rename((from.0, name(from.1)), (to.0, name(to.1)), flags).map(done)
        }
        Sent::Open(node, appends) => {
            overlay.open_file(node, flags(appends), ME).map(|file| Answer::Opened(file.id))
        }
        Sent::Write(handle, offset, data, cause) => overlay.file(handle).and_then(|file| {
            let durability = Durability::None;
            let request = WriteRequest { offset, data: &data, cause, durability, drops_set_id: None };
            let written = overlay.write(&file, &request)?;
            Ok(Answer::Written(written.len, written.offset))
        }),
        Sent::Truncate(node, size) => {
            let change = Change { size: Some(size), ..Change::default() };
            overlay.setattr(node, None, &change, ME).map(|_| Answer::Done)
        }
        Sent::Release(handle) => {
            overlay.release(handle);
            Ok(Answer::Done)
        }
        Sent::OpenDir(node) => overlay.open_dir(node, 0).map(|dir| Answer::Opened(dir.id)),
        Sent::List(handle, room) => {
            let mut listed = Vec::new();
            let take = |entry: &DirEntry<'_>, told: &Told| {
                if told.stat.is_none() {
                    return true;
                }
                if listed.len() == room {
                    return false;
                }
                listed.push((entry.name.to_str().unwrap().to_owned(), told.node));
                true
            };
            overlay.read_dir_plus(handle, 0, take).map(|()| Answer::Listed(listed))
        }
        Sent::ReleaseDir(handle) => {
            overlay.release_dir(handle);
            Ok(Answer::Done)
        }
        Sent::Forget(node, count) => {
            overlay.forget(node, count);
            Ok(Answer::Done)
        }
    };
    answer.unwrap_or_else(Answer::Failed)
}

fn pick<T: Clone>(all: &[T], number: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[number % all.len()].clone())
}

impl Kernel {
    fn new() -> Self {
        Self {
            objects: vec![Object::Dir(BTreeMap::new())],
            nodes: BTreeMap::from([(ROOT, (1, 0))]),
            files: BTreeMap::new(),
            dirs: BTreeMap::new(),
        }
    }

    fn object(&self, node: u64) -> usize {
        self.nodes[&node].1
    }

    fn entries(&self, node: u64) -> &BTreeMap<&'static str, usize> {
        let Object::Dir(entries) = &self.objects[self.object(node)] else { panic!("{node} is no directory") };
        entries
    }

    fn entries_mut(&mut self, node: u64) -> &mut BTreeMap<&'static str, usize> {
        let object = self.object(node);
        let Object::Dir(entries) = &mut self.objects[object] else { panic!("{node} is no directory") };
        entries
    }

    /// Whether any name leads to `object`.
    fn has_name(&self, object: usize) -> bool {
        object == 0 || self.parents_of(object).next().is_some()
    }

    fn parents_of(&self, object: usize) -> impl Iterator<Item = usize> {
        self.objects.iter().enumerate().filter_map(move |(parent, candidate)| match candidate {
            Object::Dir(entries) if entries.values().any(|child| *child == object) => Some(parent),
            _ => None,
        })
    }

    /// All paths of `object` that lead there from the root.
    fn paths_of(&self, object: usize) -> Vec<String> {
        if object == 0 {
            return vec![String::new()];
        }
        let of_parent = |parent: usize| {
            let Object::Dir(entries) = &self.objects[parent] else { return Vec::new() };
            let names: Vec<_> =
                entries.iter().filter(|(_, child)| **child == object).map(|(name, _)| *name).collect();
            let above = self.paths_of(parent);
            above.iter().flat_map(|above| names.iter().map(move |name| format!("{above}/{name}"))).collect()
        };
        self.parents_of(object).flat_map(of_parent).collect()
    }

    fn is_below(&self, object: usize, above: usize) -> bool {
        object == above || self.parents_of(object).any(|parent| self.is_below(parent, above))
    }

    fn nodes_of(&self, is_wanted: impl Fn(&Object) -> bool) -> Vec<u64> {
        let wanted = self.nodes.iter().filter(|(_, (_, object))| is_wanted(&self.objects[*object]));
        wanted.map(|(node, _)| *node).collect()
    }

    fn known_dir(&self, number: usize) -> Option<u64> {
        let dirs = self.nodes_of(|object| matches!(object, Object::Dir(_)));
        let dirs: Vec<u64> = dirs.into_iter().filter(|dir| self.has_name(self.object(*dir))).collect();
        pick(&dirs, number)
    }

    /// One that can be reached: by a name, or because it is open.
    fn known_file(&self, number: usize) -> Option<u64> {
        let files = self.nodes_of(|object| matches!(object, Object::File(_)));
        let is_open = |file: &u64| self.files.values().any(|(node, _)| node == file);
        let is_reached = |file: &u64| self.has_name(self.object(*file)) || is_open(file);
        pick(&files.into_iter().filter(is_reached).collect::<Vec<_>>(), number)
    }

    fn open(&self, number: usize) -> Option<(u64, u64, bool)> {
        let files: Vec<_> = self.files.iter().map(|(id, (node, appends))| (*id, *node, *appends)).collect();
        pick(&files, number)
    }

    fn len_of(&self, node: u64) -> u64 {
        let Object::File(data) = &self.objects[self.object(node)] else { panic!("{node} is no file") };
        data.len() as u64
    }

    /// The request that the kernel would send, if it would send one: it has checked what it can before.
    fn ask(&self, ask: &Ask) -> Option<Sent> {
        let free = |parent: u64, name: &&'static str| !self.entries(parent).contains_key(name);
        let new = |parent: usize, name: usize| {
            let (parent, name) = (self.known_dir(parent)?, NAMES[name % NAMES.len()]);
            free(parent, &name).then_some((parent, name))
        };
        let there = |parent: usize, name: usize| {
            let parent = self.known_dir(parent)?;
            let names: Vec<_> = self.entries(parent).iter().map(|(name, object)| (*name, *object)).collect();
            let (name, object) = pick(&names, name)?;
            Some((parent, name, object))
        };
        Some(match *ask {
            Ask::Lookup(parent, name) => Sent::Lookup(self.known_dir(parent)?, NAMES[name % NAMES.len()]),
            Ask::Create(parent, name) => new(parent, name).map(|(p, n)| Sent::Create(p, n))?,
            Ask::Mkdir(parent, name) => new(parent, name).map(|(p, n)| Sent::Mkdir(p, n))?,
            Ask::Symlink(parent, name) => new(parent, name).map(|(p, n)| Sent::Symlink(p, n))?,
            Ask::Link(file, parent, name) => {
                let file = self.known_file(file).filter(|file| self.has_name(self.object(*file)))?;
                new(parent, name).map(|(parent, name)| Sent::Link(file, parent, name))?
            }
            Ask::Remove(parent, name) => {
                let (parent, name, object) = there(parent, name)?;
                match self.objects[object] {
                    Object::Dir(_) => Sent::Rmdir(parent, name),
                    _ => Sent::Unlink(parent, name),
                }
            }
            Ask::Rename(parent, name, to, new_name, exchange) => {
                let (parent, name, moved) = there(parent, name)?;
                let (to, new_name) = match exchange {
                    true => there(to, new_name).map(|(to, name, _)| (to, name))?,
                    false => (self.known_dir(to)?, NAMES[new_name % NAMES.len()]),
                };
                let replaced = self.entries(to).get(new_name).copied();
                let is_dir = |object: usize| matches!(self.objects[object], Object::Dir(_));
                let fits = replaced.is_none_or(|replaced| {
                    replaced != moved
                        && (exchange || is_dir(replaced) == is_dir(moved))
                        && !(is_dir(replaced) && self.is_below(self.object(parent), replaced))
                });
                let moves_into_itself = is_dir(moved) && self.is_below(self.object(to), moved);
                (fits && !moves_into_itself).then_some(Sent::Rename(
                    (parent, name),
                    (to, new_name),
                    exchange,
                ))?
            }
            Ask::Open(file, appends) => Sent::Open(self.known_file(file)?, appends),
            Ask::Write(file, offset, byte) => {
                let (handle, _, _) = self.open(file)?;
                Sent::Write(handle, offset as u64, vec![byte; 5], Cause::Write)
            }
            Ask::Append(file, byte) => {
                let (handle, node, _) = self.open(file)?;
                Sent::Write(handle, self.len_of(node), vec![byte; 7], Cause::Append)
            }
            Ask::Truncate(file, size) => Sent::Truncate(self.known_file(file)?, size as u64),
            Ask::Release(file) => Sent::Release(self.open(file)?.0),
            Ask::OpenDir(dir) => Sent::OpenDir(self.known_dir(dir)?),
            Ask::List(dir, has_little_room) => {
                let dirs: Vec<_> = self.dirs.iter().map(|(id, node)| (*id, *node)).collect();
                let (handle, node) = pick(&dirs, dir)?;
                let room = if has_little_room { 1 } else { usize::MAX };
                self.has_name(self.object(node)).then_some(Sent::List(handle, room))?
            }
            Ask::ReleaseDir(dir) => {
                Sent::ReleaseDir(pick(&self.dirs.keys().copied().collect::<Vec<_>>(), dir)?)
            }
            Ask::Forget(node) => {
                let is_open = |node: &u64| {
                    self.files.values().any(|(open, _)| open == node)
                        || self.dirs.values().any(|open| open == node)
                };
                let has_children = |node: &u64| {
                    let object = self.object(*node);
                    self.nodes.values().any(|(_, child)| self.parents_of(*child).any(|above| above == object))
                };
                let all: Vec<u64> = self.nodes.keys().copied().collect();
                let idle = |node: &u64| *node != ROOT && !is_open(node) && !has_children(node);
                let node = pick(&all.into_iter().filter(idle).collect::<Vec<_>>(), node)?;
                Sent::Forget(node, self.nodes[&node].0)
            }
        })
    }

    /// The kernel is told that `node` is `object`.
    fn told(&mut self, node: u64, object: usize) {
        let known = self.nodes.iter().find(|(_, (_, known))| *known == object).map(|(node, _)| *node);
        assert!(known.is_none_or(|known| known == node), "one file, two nodes: {known:?}, {node}");
        let entry = self.nodes.entry(node).or_insert((0, object));
        assert_eq!(entry.1, object, "one node, two files");
        entry.0 += 1;
    }

    fn made(&mut self, (parent, name): (u64, &'static str), node: u64, object: Object) {
        self.objects.push(object);
        let object = self.objects.len() - 1;
        self.entries_mut(parent).insert(name, object);
        self.told(node, object);
    }

    /// The answer is what it has to be, and the kernel believes it.
    fn answered(&mut self, sent: &Sent, answer: Answer) {
        match (sent.clone(), answer) {
            (Sent::Lookup(parent, name), Answer::Node(node)) => {
                let object = self.entries(parent)[name];
                self.told(node, object);
            }
            (Sent::Lookup(parent, name), Answer::Failed(Errno::NOENT)) => {
                assert!(!self.entries(parent).contains_key(name));
            }
            (Sent::Create(parent, name), Answer::Created(node, handle)) => {
                self.made((parent, name), node, Object::File(Vec::new()));
                assert_eq!(self.files.insert(handle, (node, false)), None);
            }
            (Sent::Mkdir(parent, name), Answer::Node(node)) => {
                self.made((parent, name), node, Object::Dir(BTreeMap::new()));
            }
            (Sent::Symlink(parent, name), Answer::Node(node)) => {
                self.made((parent, name), node, Object::Link)
            }
            (Sent::Link(file, parent, name), Answer::Node(node)) => {
                let object = self.object(file);
                self.entries_mut(parent).insert(name, object);
                self.told(node, object);
            }
            (Sent::Unlink(parent, name), Answer::Done) => {
                self.entries_mut(parent).remove(name);
            }
            (Sent::Rmdir(parent, name), answer) => {
                let is_empty = self.objects[self.entries(parent)[name]] == Object::Dir(BTreeMap::new());
                assert_eq!(answer, if is_empty { Answer::Done } else { Answer::Failed(Errno::NOTEMPTY) });
                if is_empty {
                    self.entries_mut(parent).remove(name);
                }
            }
            (Sent::Rename(from, to, exchange), answer) => {
                let (moved, replaced) = (self.entries(from.0)[from.1], self.entries(to.0).get(to.1).copied());
                let is_full = |object: usize| matches!(&self.objects[object], Object::Dir(entries) if !entries.is_empty());
                if !exchange && replaced.is_some_and(is_full) {
                    return assert_eq!(answer, Answer::Failed(Errno::NOTEMPTY));
                }
                assert_eq!(answer, Answer::Done);
                self.entries_mut(from.0).remove(from.1);
                if let Some(replaced) = replaced.filter(|_| exchange) {
                    self.entries_mut(from.0).insert(from.1, replaced);
                }
                self.entries_mut(to.0).insert(to.1, moved);
            }
            (Sent::Open(node, appends), Answer::Opened(handle)) => {
                assert_eq!(self.files.insert(handle, (node, appends)), None);
            }
            (Sent::Write(handle, offset, data, cause), answer) => {
                let (node, _) = self.files[&handle];
                let object = self.object(node);
                let Object::File(content) = &mut self.objects[object] else { panic!() };
                let at = if cause == Cause::Append { content.len() } else { offset as usize };
                assert_eq!(answer, Answer::Written(data.len(), at as u64));
                content.resize(content.len().max(at + data.len()), 0);
                content[at..at + data.len()].copy_from_slice(&data);
            }
            (Sent::Truncate(node, size), Answer::Done) => {
                let object = self.object(node);
                let Object::File(content) = &mut self.objects[object] else { panic!() };
                content.resize(size as usize, 0);
            }
            (Sent::Release(handle), Answer::Done) => drop(self.files.remove(&handle)),
            (Sent::OpenDir(node), Answer::Opened(handle)) => assert_eq!(self.dirs.insert(handle, node), None),
            (Sent::List(handle, room), Answer::Listed(listed)) => {
                let entries = self.entries(self.dirs[&handle]).clone();
                assert_eq!(listed.len(), entries.len().min(room));
                listed.iter().for_each(|(name, node)| self.told(*node, entries[name.as_str()]));
            }
            (Sent::ReleaseDir(handle), Answer::Done) => drop(self.dirs.remove(&handle)),
            (Sent::Forget(node, _), Answer::Done) => drop(self.nodes.remove(&node)),
            (sent, answer) => panic!("{sent:?} was answered by {answer:?}"),
        }
    }

    /// What the overlay knows is what the kernel believes, and what is below is what was asked for.
    fn compare(&self, f: &Fixture) {
        self.compare_nodes(f);
        let handles = |ids: Vec<u64>| ids.into_iter().collect::<std::collections::BTreeSet<_>>();
        let files = f.overlay.open_files();
        assert_eq!(
            handles(files.iter().map(|file| file.id).collect()),
            handles(self.files.keys().copied().collect())
        );
        for file in files {
            let (node, appends) = self.files[&file.id];
            assert_eq!((file.inode.id, file.appends), (node, appends));
            let Object::File(content) = &self.objects[self.object(node)] else { panic!() };
            assert_eq!(&f.overlay.read(&file, 0, 200).unwrap(), content);
            let (path, paths) = (f.path_of(&file), self.paths_of(self.object(node)));
            // Where the overlay knows no name that is left, the last one stands for the file: others may not have been asked for.
            let knows_one = file.inode.links.any_live();
            assert!(!knows_one || paths.contains(&path), "{path} is none of {paths:?}");
        }
        let dirs = f.overlay.dirs.all();
        assert_eq!(
            handles(dirs.iter().map(|dir| dir.id).collect()),
            handles(self.dirs.keys().copied().collect())
        );
        assert!(dirs.iter().all(|dir| dir.inode.id == self.dirs[&dir.id] && dir.fd().is_ok()));
        self.compare_below(f.dir.path(), 0);
    }

    fn compare_nodes(&self, f: &Fixture) {
        let known = self.nodes.len() - 1;
        assert_eq!(f.overlay.inodes.count(), known, "nodes that the kernel knows");
        for (node, (lookups, object)) in self.nodes.iter().filter(|(node, _)| **node != ROOT) {
            let inode = f.overlay.inodes.get(*node).unwrap();
            assert_eq!(inode.lookups(), *lookups, "look-ups of {node}");
            if self.has_name(*object) {
                assert!(inode.fd().is_ok(), "{object} is found");
            }
            for link in inode.links.live() {
                let stat = rustix::fs::statat(
                    &*link.parent.fd().unwrap(),
                    OsStr::from_bytes(&link.name),
                    AtFlags::SYMLINK_NOFOLLOW,
                );
                assert_eq!(stat.unwrap().st_ino, inode.number(), "a name leads to its file");
            }
            if let Object::File(content) = &self.objects[*object] {
                assert!(inode.size().may_be(content.len() as u64), "the size that the kernel believes in");
            }
        }
    }

    fn compare_below(&self, path: &Path, object: usize) {
        match &self.objects[object] {
            Object::Dir(entries) => {
                let found: Vec<_> =
                    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                assert_eq!(found.len(), entries.len(), "{}", path.display());
                entries.iter().for_each(|(name, child)| self.compare_below(&path.join(name), *child));
            }
            Object::File(content) => assert_eq!(&fs::read(path).unwrap(), content),
            Object::Link => assert!(path.is_symlink()),
        }
    }
}

/// Has `sent` done, with the thread killed after `stores` if those are fewer than it takes; then a successor takes over, is sent
/// what was not answered, and may be killed over that, too.
/// Says whether it was killed.
fn ask_until_answered(
    f: &mut Fixture,
    kernel: &mut Kernel,
    sent: &Sent,
    unique: u64,
    kill: Option<u64>,
) -> bool {
    let mut stores = kill;
    let mut resent = 0;
    loop {
        let mut answer = None;
        if let Some(stores) = stores {
            killed::after(stores);
        }
        let overlay = &f.overlay;
        let died = catch_unwind(AssertUnwindSafe(|| {
            let begun = overlay.begin(0, unique | resent, 1);
            let (request, given) = begun.request.during(|| send(overlay, sent));
            killed::step();
            // It has left.
            answer = Some(given);
            drop(request);
        }));
        let was_killed = killed::revive();
        assert_eq!(died.is_err(), was_killed, "no panic but the kill");
        if was_killed {
            f.restart();
            resent = RESENT;
            // Each time a little later, so that it ends.
            stores = stores.map(|stores| stores + 9).filter(|stores| *stores < 50);
        }
        // The kernel wants no answer to this, and does not send it again: it may have been done or not.
        if matches!(sent, Sent::Forget(..)) && was_killed {
            send(&f.overlay, sent);
            answer = Some(Answer::Done);
        }
        if let Some(answer) = answer {
            if was_killed {
                f.overlay.state().journal.nothing_more_comes_back();
            }
            kernel.answered(sent, answer);
            return resent != 0;
        }
    }
}

/// Each kind of request, killed between each two of its stores.
#[test]
fn each_request_is_done_once_wherever_it_is_cut_short() {
    let prepare = [
        Ask::Create(0, 0),
        Ask::Create(0, 1),
        Ask::Mkdir(0, 2),
        Ask::Append(0, 1),
        Ask::OpenDir(0),
        Ask::Open(0, true),
    ];
    let asks = [
        Ask::Lookup(0, 0),
        Ask::Create(0, 3),
        Ask::Mkdir(0, 3),
        Ask::Symlink(0, 3),
        Ask::Link(0, 0, 3),
        // An open file, an open file over another, a directory; two that change places.
        Ask::Remove(0, 0),
        Ask::Remove(0, 2),
        Ask::Rename(0, 0, 0, 3, false),
        Ask::Rename(0, 0, 0, 1, false),
        Ask::Rename(0, 2, 0, 3, false),
        Ask::Rename(0, 0, 0, 1, true),
        Ask::Open(0, true),
        Ask::Write(0, 3, 9),
        Ask::Append(0, 9),
        Ask::Truncate(0, 3),
        Ask::Release(0),
        Ask::OpenDir(0),
        Ask::List(0, false),
        Ask::List(0, true),
        Ask::ReleaseDir(0),
    ];
    for ask in asks {
        let was_killed_after = |stores| {
            let (mut f, mut kernel) = (Fixture::new(), Kernel::new());
            for (number, ask) in (1..).zip(&prepare) {
                let sent = kernel.ask(ask).unwrap();
                ask_until_answered(&mut f, &mut kernel, &sent, 2 * number, None);
            }
            let sent = kernel.ask(&ask).unwrap();
            let was_killed = ask_until_answered(&mut f, &mut kernel, &sent, 100, Some(stores));
            kernel.compare(&f);
            was_killed
        };
        let stores = (0..).take_while(|stores| was_killed_after(*stores)).count();
        assert!(stores > 2, "{ask:?} was not killed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whenever_it_is_killed_the_kernel_is_not_told_otherwise(asks in asks()) {
        let (mut f, mut kernel) = (Fixture::new(), Kernel::new());
        for (number, (ask, kill)) in (1..).zip(asks) {
            let Some(sent) = kernel.ask(&ask) else { continue };
            ask_until_answered(&mut f, &mut kernel, &sent, 2 * number, kill);
            kernel.compare(&f);
        }
    }
}
