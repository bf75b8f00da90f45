//! What FUSE makes different, and nothing else may: each is answered as a filesystem without it answers. A test that
//! fails because the overlay can do it now is to be removed, and its operation added to `generate.rs`.

use std::{path::Path, process::Command};

use nix::unistd::Uid;
use rustix::{
    fs::{self, FallocateFlags, Mode, OFlags, SeekFrom},
    io::{self, Errno},
};

use bywash_tests::{
    actor::{
        operation::{Caller, Content, Operation, Step},
        world::{Acting, World},
    },
    harness::process::must_run,
};

use crate::Pair;

/// What an act gives in a plain directory, and what in the overlay.
fn in_both<T>(act: impl Fn(&Path) -> io::Result<T>) -> [io::Result<T>; 2] {
    let pair = Pair::start();
    pair.directories("forced").map(|directory| act(&directory))
}

fn fallocate(directory: &Path, mode: FallocateFlags) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = fs::open(directory.join("file"), flags, Mode::RWXU)?;
    io::write(&file, &[1; 16 << 10])?;
    fs::fallocate(&file, mode, 4 << 10, 4 << 10)
}

/// The kernel's fuse_file_fallocate() sends no such request.
#[test]
fn a_range_cannot_be_collapsed() {
    let outcomes = in_both(|directory| fallocate(directory, FallocateFlags::COLLAPSE_RANGE));
    assert_eq!(outcomes, [Ok(()), Err(Errno::OPNOTSUPP)]);
}

/// The same.
#[test]
fn a_range_cannot_be_inserted() {
    let outcomes = in_both(|directory| fallocate(directory, FallocateFlags::INSERT_RANGE));
    assert_eq!(outcomes, [Ok(()), Err(Errno::OPNOTSUPP)]);
}

/// The FUSE library does not know the kernel's request for it.
/// How many pages are on their way at a time differs: each is read when it is written.
#[test]
fn a_file_that_is_sent_over_itself_ends_otherwise() {
    let [plain, overlay] = in_both(|directory| {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = fs::open(directory.join("file"), flags, Mode::RWXU)?;
        let content: Vec<u8> = (0u32..75_000).flat_map(u32::to_le_bytes).collect();
        io::write(&file, &content)?;
        fs::seek(&file, SeekFrom::Start(65_536))?;
        let sent = fs::sendfile(&file, &file, Some(&mut 25_677), 400_000)?;
        Ok((sent, std::fs::read(directory.join("file"))))
    });
    let ((plain_sent, plain), (sent, overlay)) = (plain.unwrap(), overlay.unwrap());
    let (plain, overlay) = (plain.unwrap(), overlay.unwrap());
    assert_eq!((plain_sent, plain.len()), (sent, overlay.len()));
    assert!(plain != overlay);
}

#[test]
fn there_are_no_nameless_files() {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let outcomes = in_both(|directory| fs::open(directory, flags, Mode::RWXU).map(drop));
    assert_eq!(outcomes, [Ok(()), Err(Errno::OPNOTSUPP)]);
}

/// The kernel's fuse_dir_operations seek as in a file of the directory's size; ext4 knows a last position.
#[test]
fn the_end_of_a_directory_is_its_size() {
    let end = |directory: &Path| {
        let directory = fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(fs::seek(&directory, SeekFrom::End(0))? == fs::fstat(&directory)?.st_size.cast_unsigned())
    };
    let [plain, overlay] = in_both(end);
    // Other filesystems below seek as FUSE does.
    assert!(plain.is_ok());
    assert_eq!(overlay, Ok(true));
}

/// The kernel moves the bytes of a FIFO by itself, and leaves the times of FUSE's inodes to the filesystem, which does not
/// hear of it.
#[test]
fn the_time_of_a_fifo_stands_still_while_it_is_used() {
    let modified = |directory: &Path| {
        let path = directory.join("fifo");
        fs::mknodat(fs::CWD, &path, fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let fifo = fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let long_ago = fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = fs::Timestamps { last_access: long_ago, last_modification: long_ago };
        fs::utimensat(fs::CWD, &path, &times, fs::AtFlags::empty())?;
        io::write(&fifo, b"x")?;
        Ok(fs::stat(&path)?.st_mtime == 1)
    };
    assert_eq!(in_both(modified), [Ok(false), Ok(true)]);
}

/// fs.protected_hardlinks forbids links to others' files with set-id bits. The kernel looks at the mode that it remembers,
/// which is asked for again where it was told that it has changed, but not for this.
#[test]
fn a_link_is_checked_by_the_mode_that_was_seen_last() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as several users");
    }
    let user = Caller::User(4001);
    let linked = in_both(|directory| {
        let mut world = World::new(directory);
        fs::chmod(directory, Mode::RWXU | Mode::RWXG | Mode::RWXO)?;
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let open = Operation::Open { slot: 0, path: "file".to_owned(), flags, mode: 0o600 };
        world.perform(&Step { caller: Caller::Root, operation: open, is_timed: false }).unwrap();
        fs::chmod(directory.join("file"), Mode::from_raw_mode(0o6777))?;
        let content = Content { seed: 1, len: 10 };
        let write = Operation::WriteAt { slot: 0, content, offset: 0 };
        world.perform(&Step { caller: user, operation: write, is_timed: false }).unwrap();
        let _as_user = Acting::as_caller(user);
        fs::link(directory.join("file"), directory.join("link"))
    });
    assert_eq!(linked, [Ok(()), Err(Errno::PERM)]);
}

/// FUSE has the bits dropped together with the write, and the overlay drops them first: the other way round a changed
/// file could be run with the old bits. The kernel itself looks first whether the file can be that large.
#[test]
fn a_write_too_far_out_takes_the_set_id_bits_away() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can act as several users");
    }
    let user = Caller::User(4001);
    let pair = Pair::start();
    let modes = pair.directories("forced").map(|directory| {
        let mut world = World::new(&directory);
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let path = "file".to_owned();
        let open = Operation::Open { slot: 0, path, flags, mode: 0o4700 };
        world.perform(&Step { caller: user, operation: open, is_timed: false }).unwrap();
        let content = Content { seed: 1, len: 10 };
        let write = Operation::WriteAt { slot: 0, content, offset: 1 << 62 };
        assert_eq!(
            world.perform(&Step { caller: user, operation: write, is_timed: false }),
            Err(Errno::FBIG)
        );
        directory
    });
    let [plain, overlay] = modes.map(|directory| {
        let directory = directory
            .strip_prefix(pair.bywash.directory())
            .map_or_else(|_| directory.clone(), |name| pair.bywash.root().join("below").join(name));
        fs::stat(directory.join("file")).unwrap().st_mode & 0o7777
    });
    assert_eq!((plain, overlay), (0o4700, 0o700));
}

/// Each mount below a watched directory has an overlay with a device number of its own, also where two show one filesystem.
#[test]
fn a_directory_that_is_bound_from_the_same_filesystem_is_on_another_device() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount filesystems");
    }
    let pair = Pair::start_after(|directory| {
        let [from, at] = ["from", "at"].map(|name| directory.join(name));
        [&from, &at].into_iter().for_each(|path| std::fs::create_dir(path).unwrap());
        must_run(Command::new("mount").arg("--bind").arg(from).arg(at));
    });
    let is_one = [pair.plain.as_path(), pair.bywash.directory()].map(|directory| {
        fs::stat(directory).unwrap().st_dev == fs::stat(directory.join("at")).unwrap().st_dev
    });
    assert_eq!(is_one, [true, false]);
}
