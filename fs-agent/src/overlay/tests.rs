//! The overlay on a temporary directory, without a mount.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use bywash_common::record;
use rustix::{fs::OFlags, io::Errno};
use tempfile::TempDir;

use super::{inode::ROOT, *};

const ME: Caller = Caller { uid: 0, gid: 0, thread: 0 };

fn mode(wanted: u32) -> NewMode {
    NewMode { wanted, mask: 0 }
}

fn request(offset: u64, data: &[u8]) -> WriteRequest<'_> {
    WriteRequest { offset, data, cause: Cause::Write, durability: Durability::None, drops_set_id: None }
}

struct Fixture {
    overlay: Overlay,
    dir: TempDir,
}

fn fixture() -> Fixture {
    fixture_with(Limits { descriptors: 1000, inodes: 1000 })
}

fn fixture_with(limits: Limits) -> Fixture {
    fixture_sharing(&shared(), limits)
}

fn shared() -> Shared {
    Shared {
        identity: Identity::of_this_process(),
        handles: HandleNumbers::default(),
        opens: Opens::new(1000),
    }
}

fn fixture_sharing(shared: &Shared, limits: Limits) -> Fixture {
    fixture_in(&std::env::temp_dir(), shared, limits)
}

fn fixture_in(place: &Path, shared: &Shared, limits: Limits) -> Fixture {
    let dir = tempfile::tempdir_in(place).unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(rustix::fs::CWD, dir.path(), flags, Mode::empty()).unwrap();
    let overlay = Overlay::over(root, dir.path(), shared, limits).unwrap();
    Fixture { overlay, dir }
}

impl Fixture {
    fn below(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn create(&self, parent: u64, name: &str, flags: OFlags) -> (Entry, Arc<OpenFile>) {
        let flags = flags.bits().cast_signed();
        self.overlay.create(parent, OsStr::new(name), mode(0o644), flags, ME).unwrap()
    }

    fn open(&self, name: &str, flags: OFlags) -> Arc<OpenFile> {
        self.open_by(ME, name, flags)
    }

    fn open_by(&self, caller: Caller, name: &str, flags: OFlags) -> Arc<OpenFile> {
        let node = self.overlay.lookup(ROOT, OsStr::new(name), caller.thread).unwrap().node;
        self.overlay.open_file(node, flags.bits().cast_signed(), caller).unwrap()
    }

    fn lookup(&self, parent: u64, name: &str) -> Entry {
        self.overlay.lookup(parent, OsStr::new(name), ME.thread).unwrap()
    }

    fn rename(&self, from: (u64, &str), to: (u64, &str)) {
        self.overlay.rename((from.0, OsStr::new(from.1)), (to.0, OsStr::new(to.1)), 0).unwrap();
    }

    fn write(&self, file: &OpenFile, offset: u64, data: &[u8], append: bool) -> (usize, u64) {
        let cause = if append { Cause::Append } else { Cause::Write };
        let request = WriteRequest { cause, ..request(offset, data) };
        let written = self.overlay.write(file, &request).unwrap();
        (written.len, written.offset)
    }

    /// The path of `file` below the directory, as records would have it.
    fn path_of(&self, file: &OpenFile) -> String {
        let path = self.overlay.path_of(file);
        let root = self.dir.path().to_str().unwrap();
        String::from_utf8(path.to_vec()).unwrap().strip_prefix(root).unwrap().to_owned()
    }
}

#[test]
fn what_is_written_is_in_the_file_below() {
    let f = fixture();
    let (entry, file) = f.create(ROOT, "a", OFlags::RDWR);
    assert_eq!(f.write(&file, 0, b"hello", false), (5, 0));
    assert_eq!(f.write(&file, 7, b"world", false), (5, 7));
    assert_eq!(fs::read(f.below("a")).unwrap(), b"hello\0\0world");
    assert_eq!(f.overlay.read(&file, 3, 100).unwrap(), b"lo\0\0world");
    assert_eq!(entry.node, fs::metadata(f.below("a")).unwrap().ino());
    assert_eq!(f.overlay.getattr(entry.node).unwrap().stx_size, 12);
}

#[test]
fn appends_say_where_the_bytes_went() {
    let f = fixture();
    fs::write(f.below("log"), b"12345").unwrap();
    let file = f.open("log", OFlags::WRONLY | OFlags::APPEND);
    // Someone appends without the overlay; the kernel still believes that the file ends at 5.
    fs::write(f.below("log"), b"1234567890").unwrap();
    assert_eq!(f.write(&file, 5, b"abc", true), (3, 10));
    assert_eq!(fs::read(f.below("log")).unwrap(), b"1234567890abc");
}

#[test]
fn pages_of_a_mapping_keep_their_place_on_an_appending_handle() {
    let f = fixture();
    fs::write(f.below("log"), b"12345").unwrap();
    let file = f.open("log", OFlags::RDWR | OFlags::APPEND);
    assert_eq!(f.write(&file, 1, b"xy", false), (2, 1));
    assert_eq!(fs::read(f.below("log")).unwrap(), b"1xy45");
}

#[test]
fn appends_are_told_from_writes_that_say_where_on_any_handle() {
    for opened in [OFlags::empty(), OFlags::APPEND] {
        let f = fixture();
        fs::write(f.below("log"), b"12345").unwrap();
        let file = f.open("log", OFlags::WRONLY | opened);
        // Someone appends without the overlay; the kernel still believes that the file ends at 5, then at 7.
        fs::write(f.below("log"), b"1234567890").unwrap();
        assert_eq!(f.write(&file, 5, b"ab", true), (2, 10));
        assert_eq!(f.write(&file, 7, b"cd", true), (2, 12));
        // RWF_NOAPPEND: no size that the kernel can believe in.
        assert_eq!(f.write(&file, 2, b"xy", true), (2, 2));
        assert_eq!(f.write(&file, 10, b"XY", true), (2, 10));
        // It learns the size; an answer to an earlier question may be late.
        f.overlay.getattr(file.inode.id).unwrap();
        assert_eq!(f.write(&file, 14, b"e", true), (1, 14));
        f.overlay.setattr(file.inode.id, None, &Change { size: Some(3), ..Change::default() }, ME).unwrap();
        assert_eq!(f.write(&file, 15, b"-", true), (1, 15), "not its size any more");
        assert_eq!(f.write(&file, 1, b"-", true), (1, 1));
        assert_eq!(fs::read(f.below("log")).unwrap(), b"1-x\0\0\0\0\0\0\0\0\0\0\0\0-");
    }
}

#[test]
fn a_write_waits_for_the_disk_if_its_handle_or_itself_says_so() {
    let f = fixture();
    for opened in [OFlags::empty(), OFlags::APPEND, OFlags::SYNC] {
        let (_, file) = f.create(ROOT, &format!("{opened:?}"), OFlags::WRONLY | opened);
        for durability in [Durability::None, Durability::Data, Durability::Full] {
            for cause in [Cause::Write, Cause::Append, Cause::Mapping] {
                let written = f.overlay.write(&file, &WriteRequest { durability, cause, ..request(0, b"x") });
                assert_eq!(written.map(|written| written.len), Ok(1), "{opened:?} {durability:?} {cause:?}");
            }
        }
    }
}

#[test]
fn handles_have_numbers_of_their_own_over_all_overlays() {
    let (shared, limits) = (shared(), Limits { descriptors: 1000, inodes: 1000 });
    let (f, g) = (fixture_sharing(&shared, limits), fixture_sharing(&shared, limits));
    let (_, one) = f.create(ROOT, "a", OFlags::WRONLY);
    let (_, two) = g.create(ROOT, "a", OFlags::WRONLY);
    assert_ne!(one.id, two.id);
    assert!(f.overlay.file(one.id).is_ok());
    assert_eq!(f.overlay.file(two.id).err(), Some(Errno::BADF));
    f.overlay.release(one.id);
    assert_eq!(f.overlay.file(one.id).err(), Some(Errno::BADF));
}

#[test]
fn paths_follow_renames() {
    let f = fixture();
    let d = f.overlay.mkdir(ROOT, OsStr::new("d"), mode(0o755)).unwrap().node;
    let e = f.overlay.mkdir(d, OsStr::new("e"), mode(0o755)).unwrap().node;
    let (_, file) = f.create(e, "file", OFlags::WRONLY);
    assert_eq!(f.path_of(&file), "/d/e/file");
    f.rename((e, "file"), (e, "other"));
    assert_eq!(f.path_of(&file), "/d/e/other");
    f.rename((ROOT, "d"), (ROOT, "D"));
    assert_eq!(f.path_of(&file), "/D/e/other");
    f.rename((d, "e"), (ROOT, "E"));
    assert_eq!(f.path_of(&file), "/E/other");
}

#[test]
fn a_deleted_or_replaced_file_keeps_its_last_path() {
    let f = fixture();
    let (_, file) = f.create(ROOT, "a", OFlags::WRONLY);
    let (_, new) = f.create(ROOT, "a.tmp", OFlags::WRONLY);
    f.rename((ROOT, "a.tmp"), (ROOT, "a"));
    assert_eq!((f.path_of(&file), f.path_of(&new)), ("/a".to_owned(), "/a".to_owned()));
    f.overlay.unlink(ROOT, OsStr::new("a")).unwrap();
    assert_eq!((f.path_of(&file), f.path_of(&new)), ("/a".to_owned(), "/a".to_owned()));
}

#[test]
fn an_exchange_swaps_paths() {
    let f = fixture();
    let (_, a) = f.create(ROOT, "a", OFlags::WRONLY);
    let (_, b) = f.create(ROOT, "b", OFlags::WRONLY);
    let exchange = rustix::fs::RenameFlags::EXCHANGE.bits();
    f.overlay.rename((ROOT, OsStr::new("a")), (ROOT, OsStr::new("b")), exchange).unwrap();
    assert_eq!((f.path_of(&a), f.path_of(&b)), ("/b".to_owned(), "/a".to_owned()));
}

#[test]
fn a_file_with_two_names_goes_by_the_one_that_its_opener_asked_for() {
    let f = fixture();
    fs::write(f.below("a"), "").unwrap();
    fs::hard_link(f.below("a"), f.below("b")).unwrap();
    let (entry, a) = (f.lookup(ROOT, "a"), f.open("a", OFlags::WRONLY));
    let (me, other) = (Caller { thread: 7, ..ME }, Caller { thread: 8, ..ME });
    let asks = |caller: Caller, name| f.overlay.lookup(ROOT, OsStr::new(name), caller.thread).unwrap();
    assert!(!asks(me, "b").lasts, "the kernel is to ask each time");
    asks(other, "a");
    let open = |caller| f.overlay.open_file(entry.node, OFlags::WRONLY.bits().cast_signed(), caller).unwrap();
    let b = open(me);
    assert_eq!((f.path_of(&a), f.path_of(&b)), ("/a".to_owned(), "/b".to_owned()));
    // Without a question; and with another one since.
    assert_eq!(f.path_of(&open(me)), "/a");
    asks(me, "b");
    fs::write(f.below("other"), "").unwrap();
    fs::hard_link(f.below("other"), f.below("other too")).unwrap();
    asks(me, "other too");
    assert_eq!(f.path_of(&open(me)), "/a");
    // Who cannot be told apart has not asked.
    asks(ME, "b");
    assert_eq!(f.path_of(&open(ME)), "/a");
    f.rename((ROOT, "b"), (ROOT, "c"));
    assert_eq!((f.path_of(&a), f.path_of(&b)), ("/a".to_owned(), "/c".to_owned()));
    f.overlay.unlink(ROOT, OsStr::new("c")).unwrap();
    assert_eq!(f.path_of(&b), "/a");
    // Both names are the same file: nothing happens, as rename(2) says.
    f.overlay.link(entry.node, ROOT, OsStr::new("d")).unwrap();
    f.rename((ROOT, "d"), (ROOT, "a"));
    assert_eq!(f.path_of(&a), "/a");
}

#[test]
fn a_name_that_the_kernel_may_remember_leaves_no_other_sure() {
    let f = fixture();
    let (entry, a) = f.create(ROOT, "a", OFlags::WRONLY);
    f.overlay.link(entry.node, ROOT, OsStr::new("b")).unwrap();
    let b = f.open_by(Caller { thread: 7, ..ME }, "b", OFlags::WRONLY);
    assert_eq!((f.path_of(&a), f.path_of(&b)), ("/a".to_owned(), "/a".to_owned()));
}

#[test]
fn a_file_that_was_moved_behind_the_overlay_goes_by_its_new_name() {
    let f = fixture();
    fs::write(f.below("a"), "").unwrap();
    let old = f.open("a", OFlags::WRONLY);
    fs::rename(f.below("a"), f.below("b")).unwrap();
    let new = f.open("b", OFlags::WRONLY);
    assert_eq!(old.inode.id, new.inode.id);
    assert_eq!(f.path_of(&new), "/b");
}

#[test]
fn more_names_than_are_remembered_change_nothing_for_who_has_the_file_open() {
    let f = fixture();
    fs::write(f.below("a"), "").unwrap();
    let names: Vec<String> = (0..50).map(|i| format!("l{i}")).collect();
    names.iter().for_each(|name| fs::hard_link(f.below("a"), f.below(name)).unwrap());
    let file = f.open("a", OFlags::WRONLY);
    let callers = (1..).map(|thread| Caller { thread, ..ME });
    let open: Vec<_> =
        names.iter().zip(callers).map(|(name, caller)| f.open_by(caller, name, OFlags::WRONLY)).collect();
    assert_eq!(f.path_of(&file), "/a");
    for (name, file) in names.iter().zip(&open) {
        assert_eq!(f.path_of(file), format!("/{name}"));
    }
    // They follow renames and removals, remembered or not.
    f.rename((ROOT, "l49"), (ROOT, "moved"));
    assert_eq!(f.path_of(&open[49]), "/moved");
    f.overlay.unlink(ROOT, OsStr::new("l48")).unwrap();
    assert_eq!(f.path_of(&open[48]), "/a");
}

#[test]
fn names_that_were_left_out_are_no_matter_once_one_is_left() {
    let f = fixture();
    fs::write(f.below("a.gz"), "").unwrap();
    let names: Vec<String> = (0..50).map(|i| format!("{i}")).collect();
    names.iter().for_each(|name| fs::hard_link(f.below("a.gz"), f.below(name)).unwrap());
    for name in &names {
        f.lookup(ROOT, name);
    }
    f.lookup(ROOT, "a.gz");
    let gz = |path: &[u8]| path.ends_with(b".gz");
    assert!(!f.overlay.was_opened_by(&f.open("a.gz", OFlags::WRONLY), gz));
    names.iter().for_each(|name| f.overlay.unlink(ROOT, OsStr::new(name)).unwrap());
    assert!(f.overlay.was_opened_by(&f.open("a.gz", OFlags::WRONLY), gz));
}

#[test]
fn a_file_is_taken_for_one_that_matches_only_if_it_can_be_no_other() {
    let f = fixture();
    let gz = |path: &[u8]| path.ends_with(b".gz");
    let me = Caller { thread: 7, ..ME };
    fs::write(f.below("a.log"), "").unwrap();
    fs::hard_link(f.below("a.log"), f.below("a.gz")).unwrap();
    let log = f.open_by(me, "a.log", OFlags::WRONLY);
    assert!(f.overlay.was_opened_by(&f.open_by(me, "a.gz", OFlags::WRONLY), gz), "its opener asked for it");
    assert!(!f.overlay.was_opened_by(&log, gz));
    assert!(!f.overlay.was_opened_by(&f.open("a.gz", OFlags::WRONLY), gz), "it could have been a.log");
    // All names match that are known, and then all that there are.
    let (entry, first) = f.create(ROOT, "1.gz", OFlags::WRONLY);
    assert!(f.overlay.was_opened_by(&first, gz));
    f.overlay.link(entry.node, ROOT, OsStr::new("2.gz")).unwrap();
    fs::hard_link(f.below("1.gz"), f.below("3.gz")).unwrap();
    let unsure = f.open("1.gz", OFlags::WRONLY);
    assert!(!f.overlay.was_opened_by(&unsure, gz), "there is another name");
    f.lookup(ROOT, "3.gz");
    assert!(f.overlay.was_opened_by(&unsure, gz));
}

#[test]
fn a_path_that_is_too_long_is_cut_where_no_other_path_could_be() {
    let f = fixture();
    let (mut node, name) = (ROOT, "x".repeat(250));
    let (mut whole, mut inodes) = (f.dir.path().to_str().unwrap().to_owned(), Vec::new());
    loop {
        let (_, file) = f.create(node, "auth.log", OFlags::WRONLY);
        let path = String::from_utf8(f.overlay.path_of(&file).to_vec()).unwrap();
        if whole.len() + "/auth.log".len() <= record::PATH_BYTES_MAX {
            assert_eq!(path, format!("{whole}/auth.log"));
            assert!(!record::is_cut(path.as_bytes()));
        } else {
            let (begin, end) = path.split_once("//").unwrap();
            assert!(path.len() <= record::PATH_BYTES_MAX && whole.starts_with(begin), "{path}");
            assert!(begin.len() > 3 * record::PATH_BYTES_MAX / 4);
            assert_eq!(end, format!("{}/auth.log", file.inode.number()));
            inodes.push(file);
        }
        if inodes.len() == 3 {
            break;
        }
        node = f.overlay.mkdir(node, OsStr::new(&name), mode(0o755)).unwrap().node;
        whole = format!("{whole}/{name}");
    }
}

#[test]
fn a_circle_of_names_has_a_path() {
    let f = fixture();
    let a = f.overlay.mkdir(ROOT, OsStr::new("a"), mode(0o755)).unwrap().node;
    let b = f.overlay.mkdir(a, OsStr::new("b"), mode(0o755)).unwrap().node;
    let (_, file) = f.create(b, "f", OFlags::WRONLY);
    // Behind the overlay: a/b becomes b, and a becomes b/a.
    fs::rename(f.below("a/b"), f.below("b")).unwrap();
    fs::rename(f.below("a"), f.below("b/a")).unwrap();
    f.lookup(b, "a");
    f.rename((b, "f"), (b, "g"));
    assert_eq!(f.path_of(&file), format!("//{}/g", file.inode.number()));
    f.lookup(ROOT, "b");
    f.rename((b, "g"), (b, "h"));
    assert_eq!(f.path_of(&file), "/b/h");
}

#[test]
fn a_file_is_told_from_another_of_its_number_and_known_again() {
    let f = fixture();
    let birth = |name| {
        let file = f.open(name, OFlags::WRONLY);
        let birth = file.inode.birth;
        f.overlay.forget(file.inode.id, 1);
        f.overlay.release(file.id);
        birth
    };
    fs::write(f.below("a"), "").unwrap();
    let first = birth("a");
    let says_birth = fs::metadata(f.below("a")).unwrap().created().is_ok();
    assert_eq!(birth("a") == first, says_birth, "the kernel has forgotten it in between");
    // Times of birth are as coarse as the kernel's clock: the number is used again until that goes on.
    let until_other = (0..1_000_000).any(|_| {
        fs::remove_file(f.below("a")).unwrap();
        fs::write(f.below("a"), "").unwrap();
        birth("a") != first
    });
    assert!(until_other);
}

#[test]
fn the_kernel_forgets_as_often_as_it_was_told() {
    let f = fixture();
    fs::write(f.below("a"), b"").unwrap();
    let node = f.lookup(ROOT, "a").node;
    assert_eq!(f.lookup(ROOT, "a").node, node);
    assert_eq!(f.overlay.inodes.len(), 1);
    f.overlay.forget(node, 1);
    assert!(f.overlay.getattr(node).is_ok());
    f.overlay.forget(node, 1);
    assert_eq!(f.overlay.inodes.len(), 0);
    assert_eq!(f.overlay.getattr(node).err(), Some(Errno::STALE));
    f.overlay.forget(ROOT, 100);
    assert!(f.overlay.getattr(ROOT).is_ok());
}

#[test]
fn a_directory_is_read_in_pieces_and_from_anywhere() {
    let f = fixture();
    let mut expected: Vec<OsString> = (0..2000).map(|i| format!("file-{i}").into()).collect();
    expected.iter().for_each(|name| fs::write(f.dir.path().join(name), b"").unwrap());
    expected.extend([".".into(), "..".into()]);
    expected.sort();
    let dir = f.overlay.open_dir(ROOT, 0).unwrap();
    let read_from = |mut offset| {
        let mut all = Vec::new();
        loop {
            let before = all.len();
            let take = |entry: &dirs::DirEntry<'_>| {
                let room = all.len() < before + 7;
                if room {
                    all.push((entry.name.to_owned(), entry.next_offset));
                }
                room
            };
            f.overlay.read_dir(dir.id, offset, take).unwrap();
            match all.last() {
                Some((_, next)) if all.len() > before => offset = *next,
                _ => return all,
            }
        }
    };
    let all = read_from(0);
    let mut names: Vec<_> = all.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(names, expected);
    // rewinddir(3) and seekdir(3).
    assert_eq!(read_from(0), all);
    assert_eq!(read_from(all[999].1), all[1000..]);
}

#[test]
fn what_is_listed_is_known_as_if_it_were_looked_up() {
    const FILES: usize = 100;
    let f = fixture();
    (0..FILES).for_each(|i| fs::write(f.below(&format!("file {i}")), vec![b'x'; i]).unwrap());
    let dir = f.overlay.open_dir(ROOT, 0).unwrap();
    let (mut told_of, mut offset) = (Vec::new(), 0);
    loop {
        let before = told_of.len();
        let take = |entry: &dirs::DirEntry<'_>, told: &dirs::Told| {
            let room = told_of.len() < before + 7;
            if room {
                told_of.push((entry.name.to_owned(), entry.next_offset, *told));
            }
            room
        };
        f.overlay.read_dir_plus(dir.id, offset, take).unwrap();
        match told_of.last() {
            Some((_, next, _)) if told_of.len() > before => offset = *next,
            _ => break,
        }
    }
    assert_eq!(told_of.len(), FILES + 2);
    assert_eq!(f.overlay.inodes.held(), 0, "they take no descriptors");
    for (name, _, told) in &told_of {
        let Some(stat) = &told.stat else {
            assert!(name == "." || name == "..");
            continue;
        };
        assert!(told.lasts);
        let name = name.to_str().unwrap();
        assert_eq!(format!("file {}", stat.stx_size), name);
        let open = f.overlay.open_file(told.node, OFlags::RDONLY.bits().cast_signed(), ME).unwrap();
        assert_eq!(f.path_of(&open), format!("/{name}"));
        assert_eq!(f.lookup(ROOT, name).node, told.node);
        f.overlay.forget(told.node, 1);
    }
    assert_eq!(f.overlay.inodes.len(), FILES, "known once each");
    for (_, _, told) in &told_of {
        if told.stat.is_some() {
            f.overlay.forget(told.node, 1);
        }
    }
    assert_eq!(f.overlay.inodes.len(), 0);
}

#[test]
fn what_is_listed_and_then_removed_stays_what_it_was() {
    let f = fixture();
    fs::write(f.below("a"), b"a").unwrap();
    let dir = f.overlay.open_dir(ROOT, 0).unwrap();
    let mut node = None;
    let take = |_: &dirs::DirEntry<'_>, told: &dirs::Told| {
        if told.stat.is_some() {
            node = Some(told.node);
        }
        true
    };
    f.overlay.read_dir_plus(dir.id, 0, take).unwrap();
    f.overlay.unlink(ROOT, OsStr::new("a")).unwrap();
    assert_eq!(f.overlay.getattr(node.unwrap()).unwrap().stx_nlink, 0);
}

#[test]
fn attributes_are_changed_in_an_order_that_keeps_them_all() {
    let f = fixture();
    let (entry, _) = f.create(ROOT, "a", OFlags::WRONLY);
    let old = rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 7 };
    let change = Change {
        mode: Some(0o4755),
        uid: Some(rustix::process::geteuid().as_raw()),
        gid: None,
        size: Some(3),
        times: Some(rustix::fs::Timestamps { last_access: old, last_modification: old }),
    };
    let stat = f.overlay.setattr(entry.node, None, &change, ME).unwrap();
    assert_eq!((stat.stx_mode & 0o7777, stat.stx_size), (0o4755, 3));
    assert_eq!((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec), (1000, 7));
}

#[test]
fn set_id_bits_go_when_the_writer_may_not_keep_them() {
    let f = fixture();
    let (_, file) = f.create(ROOT, "a", OFlags::WRONLY);
    let group = fs::metadata(f.below("a")).unwrap().gid();
    let mode_of = |name| fs::metadata(f.below(name)).unwrap().permissions().mode() & 0o7777;
    let set_mode = |mode| fs::set_permissions(f.below("a"), fs::Permissions::from_mode(mode)).unwrap();
    let (member, stranger) =
        (Caller { uid: 4711, gid: group, thread: 0 }, Caller { uid: 4711, gid: 4712, thread: u32::MAX });
    for (caller, before, after) in [
        (member, 0o6755, 0o755),
        (member, 0o2644, 0o2644),
        (member, 0o644, 0o644),
        (stranger, 0o2644, 0o644),
        (stranger, 0o6755, 0o755),
    ] {
        set_mode(before);
        let request = WriteRequest { drops_set_id: Some(caller), ..request(0, b"x") };
        f.overlay.write(&file, &request).unwrap();
        assert_eq!(mode_of("a"), after, "write at {before:o}");
        set_mode(before);
        let shorter = Change { size: Some(0), ..Change::default() };
        f.overlay.setattr(file.inode.id, None, &shorter, caller).unwrap();
        assert_eq!(mode_of("a"), after, "truncate at {before:o}");
    }
    set_mode(0o6755);
    f.overlay.setattr(file.inode.id, None, &Change { size: Some(0), ..Change::default() }, ME).unwrap();
    assert_eq!(mode_of("a"), 0o6755, "root keeps them");
}

#[test]
fn what_would_keep_set_id_bits_that_it_must_take_is_not_written() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let f = fixture();
    if !f.overlay.identity.can_act_for_others() {
        return println!("skipped: only root may mark files");
    }
    fs::write(f.below("a"), b"").unwrap();
    fs::set_permissions(f.below("a"), fs::Permissions::from_mode(0o2775)).unwrap();
    let held = fs::File::open(f.below("a")).unwrap();
    let file = f.open("a", OFlags::WRONLY | OFlags::APPEND);
    let Ok(before) = ioctl_getflags(&held) else {
        return println!("skipped: this filesystem marks no files");
    };
    if ioctl_setflags(&held, before | IFlags::APPEND).is_err() {
        return println!("skipped: this filesystem marks no files");
    }
    let stranger = Caller { uid: 4002, gid: 4002, thread: 0 };
    let append = WriteRequest { cause: Cause::Append, drops_set_id: Some(stranger), ..request(0, b"x") };
    let written = f.overlay.write(&file, &append);
    // Else it cannot be removed.
    ioctl_setflags(&held, before).unwrap();
    assert_eq!(written, Err(Errno::PERM));
    assert_eq!(fs::read(f.below("a")).unwrap(), b"");
    assert!(f.overlay.write(&file, &append).unwrap().set_id_dropped);
}

#[test]
fn the_mask_is_the_callers_unless_a_default_acl_goes_before_it() {
    let f = fixture();
    let masked = NewMode { wanted: 0o666, mask: 0o027 };
    let mode_of = |name| fs::metadata(f.below(name)).unwrap().permissions().mode() & 0o7777;
    f.overlay.create(ROOT, OsStr::new("a"), masked, 1, ME).unwrap();
    assert_eq!(mode_of("a"), 0o640);
    f.overlay.mkdir(ROOT, OsStr::new("d"), NewMode { wanted: 0o1777, mask: 0o002 }).unwrap();
    assert_eq!(mode_of("d"), 0o1775);
    // user::rwx, group::rwx, other::r-x, as linux/posix_acl_xattr.h lays it out.
    let entry = |tag: u16, perm: u16| [tag.to_le_bytes(), perm.to_le_bytes(), [0xff; 2], [0xff; 2]].concat();
    let acl = [2_u32.to_le_bytes().to_vec(), entry(1, 7), entry(4, 7), entry(0x20, 5)].concat();
    if f.overlay.has_acls() {
        f.overlay.setxattr(ROOT, OsStr::new("system.posix_acl_default"), &acl, 0, ME).unwrap();
        f.overlay.create(ROOT, OsStr::new("b"), masked, 1, ME).unwrap();
        assert_eq!(mode_of("b"), 0o664);
    }
}

#[test]
fn links_are_read_and_not_followed() {
    let f = fixture();
    symlink("/nowhere", f.below("l")).unwrap();
    let entry = f.lookup(ROOT, "l");
    assert_eq!(f.overlay.readlink(entry.node).unwrap(), b"/nowhere");
    let times = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 };
    let times = Some(rustix::fs::Timestamps { last_access: times, last_modification: times });
    f.overlay.setattr(entry.node, None, &Change { times, ..Change::default() }, ME).unwrap();
    assert_eq!(fs::symlink_metadata(f.below("l")).unwrap().mtime(), 5);
    f.overlay.link(entry.node, ROOT, OsStr::new("m")).unwrap();
    assert!(fs::symlink_metadata(f.below("m")).unwrap().is_symlink());
}

#[test]
fn a_file_that_came_into_being_meanwhile_is_not_opened_unchecked() {
    let f = fixture();
    fs::write(f.below("a"), b"secret").unwrap();
    let create = |flags: OFlags| {
        f.overlay.create(ROOT, OsStr::new("a"), mode(0o644), flags.bits().cast_signed(), ME).map(drop)
    };
    assert_eq!(create(OFlags::RDWR | OFlags::CREATE), Err(Errno::STALE));
    assert_eq!(create(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL), Err(Errno::EXIST));
}

#[test]
fn extended_attributes_and_holes_are_those_below() {
    let f = fixture();
    let (entry, file) = f.create(ROOT, "a", OFlags::RDWR);
    let name = OsStr::new("user.colour");
    f.overlay.setxattr(entry.node, name, b"blue", 0, ME).unwrap();
    assert_eq!(f.overlay.getxattr(entry.node, name, 0), Ok(Xattr::Size(4)));
    assert_eq!(f.overlay.getxattr(entry.node, name, 3), Err(Errno::RANGE));
    assert_eq!(f.overlay.getxattr(entry.node, name, 9), Ok(Xattr::Data(b"blue".to_vec())));
    let Ok(Xattr::Data(names)) = f.overlay.listxattr(entry.node, 1000, ME) else { panic!("no list") };
    assert!(names.split(|b| *b == 0).any(|listed| listed == b"user.colour"));
    f.overlay.removexattr(entry.node, name, ME).unwrap();
    assert_eq!(f.overlay.getxattr(entry.node, name, 9), Err(Errno::NODATA));
    f.write(&file, 1 << 20, b"end", false);
    assert_eq!(f.overlay.seek_to(&file, 0, false), Ok(1 << 20));
    assert_eq!(f.overlay.seek_to(&file, 0, true), Ok(0));
}

#[test]
fn root_makes_files_in_the_callers_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let f = fixture();
    let caller = Caller { uid: 4711, gid: 4712, thread: 0 };
    fs::set_permissions(f.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let made = f.overlay.by(caller, || {
        f.overlay.create(ROOT, OsStr::new("a"), mode(0o600), 1, caller)?;
        f.overlay.mkdir(ROOT, OsStr::new("d"), mode(0o700))?;
        f.overlay.symlink(ROOT, OsStr::new("l"), Path::new("a"))?;
        f.overlay.mknod(ROOT, OsStr::new("p"), mode(0o010_600), 0)
    });
    made.unwrap();
    f.overlay.by(ME, || f.overlay.create(ROOT, OsStr::new("mine"), mode(0o600), 1, ME)).unwrap();
    let owner = |name| {
        let meta = fs::symlink_metadata(f.below(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    for name in ["a", "d", "l", "p"] {
        assert_eq!(owner(name), (4711, 4712), "{name}");
    }
    assert_eq!(owner("mine"), (0, 0), "the thread acts as another by now");
}

#[test]
fn more_inodes_than_descriptors_are_served() {
    const FDS_MAX: usize = 10;
    let f = fixture_with(Limits { descriptors: FDS_MAX, inodes: 1000 });
    let d = f.overlay.mkdir(ROOT, OsStr::new("d"), mode(0o755)).unwrap().node;
    let names: Vec<String> = (0..100).map(|i| format!("file-{i}")).collect();
    let nodes: Vec<u64> = names
        .iter()
        .map(|name| {
            let (entry, file) = f.create(d, name, OFlags::WRONLY);
            f.write(&file, 0, name.as_bytes(), false);
            f.overlay.release(file.id);
            entry.node
        })
        .collect();
    assert!(f.overlay.inodes.held() <= FDS_MAX, "{}", f.overlay.inodes.held());
    // All are found again, also under another name and below a directory with another name.
    f.rename((d, "file-0"), (d, "moved"));
    f.rename((ROOT, "d"), (ROOT, "D"));
    for (node, name) in nodes.iter().zip(&names) {
        assert_eq!(f.overlay.getattr(*node).unwrap().stx_size, name.len() as u64);
        assert_eq!(f.overlay.getattr(*node).unwrap().stx_ino, *node);
    }
    assert!(f.overlay.inodes.held() <= FDS_MAX, "{}", f.overlay.inodes.held());
    // What has no name any more is still there for who knows it.
    f.overlay.unlink(d, OsStr::new("file-1")).unwrap();
    nodes.iter().for_each(|node| assert!(f.overlay.getattr(*node).is_ok()));
    assert_eq!(f.overlay.getattr(nodes[1]).unwrap().stx_nlink, 0);
    // Where another file has taken the name behind the overlay's back, the old one is not mistaken for it.
    nodes.iter().rev().for_each(|node| assert!(f.overlay.getattr(*node).is_ok()));
    fs::write(f.below("D/new"), b"new").unwrap();
    fs::rename(f.below("D/new"), f.below("D/file-99")).unwrap();
    assert_eq!(f.overlay.getattr(nodes[99]).err(), Some(Errno::STALE));
    assert_eq!(f.lookup(d, "file-99").stat.stx_size, 3);
}

#[test]
fn of_too_many_inodes_the_oldest_unused_are_found() {
    let f = fixture_with(Limits { descriptors: 1000, inodes: 3 });
    let (sender, pressures) = std::sync::mpsc::channel();
    f.overlay.on_pressure(Box::new(move || sender.send(()).unwrap()));
    let names = ["a", "b", "c", "d"];
    names.iter().for_each(|name| fs::write(f.below(name), "").unwrap());
    let nodes = names.map(|name| {
        assert!(pressures.try_recv().is_err(), "no pressure before {name}");
        f.lookup(ROOT, name).node
    });
    assert!(pressures.try_recv().is_ok());
    assert_eq!(f.overlay.oldest(4), [0; 0], "all are new");
    f.overlay.getattr(nodes[0]).unwrap();
    assert_eq!(f.overlay.oldest(2), nodes[1..3]);
    assert_eq!(f.overlay.oldest(2), [nodes[3], nodes[0]]);
    f.overlay.forget(nodes[1], 1);
    assert_eq!(f.overlay.oldest(4), [nodes[2], nodes[3], nodes[0]]);
    drop(f);
    assert!(pressures.recv().is_err(), "nobody tells of an overlay that is gone");
}

#[test]
fn what_is_forgotten_leaves_nothing_behind() {
    let f = fixture();
    fs::write(f.below("a"), "").unwrap();
    for _ in 0..10_000 {
        let node = f.lookup(ROOT, "a").node;
        f.overlay.forget(node, 1);
    }
    assert_eq!(f.overlay.inodes.len(), 0);
    assert!(f.overlay.inodes.arrivals() < 2_000, "{}", f.overlay.inodes.arrivals());
}

/// As deep as nobody needs directories, and any user can make them.
const DEPTH: usize = 30_000;

/// Not nine bytes for each level.
const STACK_BYTES: usize = 256 << 10;

/// Directories in each other, and the node ids of all. In memory: disks take minutes.
fn nest() -> (Fixture, Vec<u64>) {
    let f = fixture_in(Path::new("/dev/shm"), &shared(), Limits { descriptors: 10, inodes: 1000 });
    let mut nodes = vec![ROOT];
    for _ in 0..DEPTH {
        let parent = *nodes.last().unwrap();
        nodes.push(f.overlay.mkdir(parent, OsStr::new("d"), mode(0o755)).unwrap().node);
    }
    (f, nodes)
}

/// Removes them from the top: who does it from below needs a descriptor or a piece of stack for each.
fn flatten(f: &Fixture) {
    let (outer, inner, spare) = (f.below("d"), f.below("d/d"), f.below("spare"));
    while fs::rename(&inner, &spare).is_ok() {
        fs::remove_dir(&outer).unwrap();
        fs::rename(&spare, &outer).unwrap();
    }
    fs::remove_dir(&outer).unwrap();
}

fn on_small_stack(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work).unwrap().join().unwrap();
    });
}

#[test]
fn directories_of_any_depth_are_found_again_and_forgotten() {
    let (f, nodes) = nest();
    on_small_stack(|| {
        let deepest = f.overlay.getattr(nodes[DEPTH]).unwrap().stx_ino;
        // Others take the descriptors, and not a level above has one.
        (0..100).for_each(|i| drop(f.create(ROOT, &format!("file-{i}"), OFlags::WRONLY)));
        assert_eq!(f.overlay.getattr(nodes[DEPTH]).unwrap().stx_ino, deepest);
        // Whoever is below holds the one above, though the kernel has let go of it.
        nodes[1..].iter().for_each(|node| f.overlay.forget(*node, 1));
        assert_eq!(f.overlay.inodes.len(), 100);
    });
    flatten(&f);
}

#[test]
fn an_overlay_ends_with_directories_of_any_depth_in_it() {
    let (f, nodes) = nest();
    let deepest = f.overlay.open_dir(nodes[DEPTH], 0).unwrap();
    flatten(&f);
    on_small_stack(move || {
        drop(f);
        drop(deepest);
    });
}

#[test]
fn directories_that_seem_to_lie_in_each_other_are_not_looked_for_without_end() {
    let f = fixture_with(Limits { descriptors: 2, inodes: 1000 });
    let make = |parent, name: &str| f.overlay.mkdir(parent, OsStr::new(name), mode(0o755)).unwrap().node;
    let a = make(ROOT, "a");
    let b = make(a, "b");
    fs::rename(f.below("a/b"), f.below("b")).unwrap();
    fs::rename(f.below("a"), f.below("b/a")).unwrap();
    assert_eq!(f.lookup(b, "a").node, a);
    for i in 0..10 {
        make(ROOT, &format!("other-{i}"));
    }
    for node in [a, b] {
        assert_eq!(f.overlay.getattr(node).err(), Some(Errno::STALE));
    }
    // Until they are met where they are.
    assert_eq!((f.lookup(ROOT, "b").node, f.lookup(b, "a").node), (b, a));
    assert!(f.overlay.getattr(a).is_ok());
}

#[test]
fn only_who_has_the_right_makes_files_append_only() {
    use rustix::thread::{CapabilitySet, capabilities, gettid, set_capabilities};
    let f = fixture();
    let (_, file) = f.create(ROOT, "a", OFlags::WRONLY);
    let has = |mine: &rustix::thread::CapabilitySets| mine.effective.contains(CapabilitySet::LINUX_IMMUTABLE);
    let Ok(before) = f.overlay.flags(file.id) else {
        return println!("skipped: the filesystem of {} has no flags", f.dir.path().display());
    };
    let Some(mine) = capabilities(None).ok().filter(has) else {
        return println!("skipped: only root can set flags");
    };
    let append = 0x20;
    let me = Caller { thread: gettid().as_raw_nonzero().get().cast_unsigned(), ..ME };
    let as_agent = |caller| {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let effective = mine.effective - CapabilitySet::LINUX_IMMUTABLE;
                set_capabilities(None, rustix::thread::CapabilitySets { effective, ..mine }).unwrap();
                let done = f.overlay.set_flags(file.id, before | append, caller);
                assert!(!has(&capabilities(None).unwrap()), "the right stays the caller's");
                done
            });
            worker.join().unwrap()
        })
    };
    assert_eq!(as_agent(Caller { thread: 0, ..ME }), Err(Errno::PERM));
    assert_eq!(f.overlay.flags(file.id), Ok(before));
    assert_eq!(as_agent(me), Ok(()));
    assert_eq!(f.overlay.flags(file.id), Ok(before | append));
    assert_eq!(fs::remove_file(f.below("a")).unwrap_err().raw_os_error(), Some(1));
    let extended = f.overlay.extended_flags(file.id).unwrap();
    assert_eq!(extended[0] & 0x10, 0x10, "FS_XFLAG_APPEND");
    f.overlay.set_flags(file.id, before, me).unwrap();
}

#[test]
fn without_a_descriptor_left_idle_ones_are_closed_before_anybody_is_told() {
    let f = fixture();
    for i in 0..100 {
        let (_, file) = f.create(ROOT, &format!("file-{i}"), OFlags::WRONLY);
        if i % 2 == 0 {
            f.overlay.release(file.id);
        }
    }
    let inodes = &f.overlay.inodes;
    assert_eq!(inodes.held(), 100);
    // Those that are open keep theirs.
    let open = || if inodes.held() == 50 { Ok(()) } else { Err(Errno::MFILE) };
    assert_eq!(inodes.with_descriptor(open), Ok(()));
    assert_eq!(inodes.with_descriptor(|| Err::<(), _>(Errno::MFILE)), Err(Errno::NFILE));
    assert_eq!(inodes.with_descriptor(|| Err::<(), _>(Errno::ACCESS)), Err(Errno::ACCESS));
}
