//! Filesystems that are mounted below a watched directory, one of each kind, and the same beside it: what is done across
//! them gives the same, from device numbers and EXDEV to quotas.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bywash_tests::{
    actor::{Company, operation::Caller},
    harness::{mounts, process, temporary_directory},
};
use nix::unistd::Uid;
use proptest::{collection::vec, test_runner::TestRunner};
use tempfile::TempDir;

use crate::{
    Pair, config,
    differential::{LeftOut, compare, compare_trees, give},
    generate, inode_flags,
};

/// Operations of one case, and cases in `make test`.
const STEPS_MAX: usize = 80;
const CASES: u32 = 60;
/// For a command.
const TIME_MAX: Duration = Duration::from_secs(20);
/// What each of the users may have on the ext4.
const QUOTA_KIB: u64 = 600;
const QUOTA_FILES: u64 = 12;

const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/overlay/submounts.proptest-regressions");

/// Trees, each with a filesystem at `a` and one at `b`, where most operations go.
const TREES: [(&str, [Kind; 2]); 3] = [
    ("disks", [Kind::Memory, Kind::Disk]),
    ("others", [Kind::Bind, Kind::ReadOnly]),
    ("layers", [Kind::Overlay, Kind::Memory]),
];

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// tmpfs without set-id bits and devices.
    Memory,
    /// ext4 in a file, with reserved blocks and quotas.
    Disk,
    /// A directory from elsewhere.
    Bind,
    /// tmpfs that cannot be changed.
    ReadOnly,
    /// overlayfs.
    Overlay,
}

impl Kind {
    /// Mounts one; `store` is a new directory for what it needs.
    fn mount(self, on: &Path, store: &Path) -> Result<(), String> {
        fs::create_dir_all(store).unwrap();
        let mut command = Command::new("mount");
        match self {
            Self::Memory => command.args(["-t", "tmpfs", "-o", "nosuid,nodev,size=64m", "bywash-test"]),
            Self::Disk => return mount_disk(on, &store.join("image")),
            Self::Bind => {
                // One of the same filesystem is another one in the overlay: `forced.rs`.
                done(Command::new("mount").args(["-t", "tmpfs", "bywash-test"]).arg(store))?;
                command.arg("--bind").arg(store)
            }
            Self::ReadOnly => {
                done(Command::new("mount").args(["-t", "tmpfs", "bywash-test"]).arg(on))?;
                fill_read_only(on);
                command.args(["-o", "remount,ro"])
            }
            Self::Overlay => {
                done(Command::new("mount").args(["-t", "tmpfs", "bywash-test"]).arg(store))?;
                let [lower, upper, work] = ["lower", "upper", "work"].map(|name| store.join(name));
                [&lower, &upper, &work].into_iter().for_each(|directory| fs::create_dir(directory).unwrap());
                let options = format!(
                    "lowerdir={},upperdir={},workdir={}",
                    lower.display(),
                    upper.display(),
                    work.display()
                );
                command.args(["-t", "overlay", "bywash-test", "-o"]).arg(options)
            }
        };
        done(command.arg(on))
    }
}

/// Without quotas where the kernel has none.
fn mount_disk(on: &Path, image: &Path) -> Result<(), String> {
    File::create(image).unwrap().set_len(40 << 20).unwrap();
    let mount = |features: &[&str]| {
        done(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "10"]).args(features).arg(image))?;
        // What is allocated late would be counted late.
        done(Command::new("mount").args(["-o", "loop,nodelalloc,nosuid"]).args([image, on]))
    };
    match mount(&["-O", "quota", "-E", "quotatype=usrquota"]) {
        Ok(()) => set_quotas(on),
        Err(why) => {
            println!("skipped in part: no quotas here: {why}");
            mount(&[])
        }
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let finished = process::run(command, TIME_MAX);
    if finished.code == Some(0) { Ok(()) } else { Err(format!("{command:?}: {finished:?}")) }
}

fn fill_read_only(directory: &Path) {
    fs::write(directory.join("a"), b"cannot be changed").unwrap();
    fs::create_dir(directory.join("b")).unwrap();
    fs::write(directory.join("b/c"), b"nor this").unwrap();
    give(&directory.join("b"), Caller::Owner, 0o777);
}

/// quotactl(2), for which no program need be installed.
fn set_quotas(on: &Path) -> Result<(), String> {
    let users: Vec<String> = Caller::PROCESSES
        .iter()
        .filter_map(|caller| caller.credentials())
        .map(|credentials| credentials.uid.to_string())
        .collect();
    let script = format!(
        r#"
import ctypes, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
device = subprocess.check_output(["findmnt", "-no", "SOURCE", sys.argv[1]]).strip()
Q_QUOTAON, Q_SETQUOTA, USER, LIMITS = 0x800002, 0x800008, 0, 1 | 4
if libc.quotactl(Q_QUOTAON << 8 | USER, device, 4, None) != 0 and ctypes.get_errno() not in (16, 17): sys.exit(os.strerror(ctypes.get_errno()))
for user in ({}):
    limits = struct.pack("8QI4x", {QUOTA_KIB}, {QUOTA_KIB}, 0, {QUOTA_FILES}, {QUOTA_FILES}, 0, 0, 0, LIMITS)
    if libc.quotactl(Q_SETQUOTA << 8 | USER, device, user, limits) != 0: sys.exit(os.strerror(ctypes.get_errno()))
"#,
        users.join(", ")
    );
    done(Command::new("python3").arg("-c").arg(script).arg(on))
}

/// All trees in one directory, and what they need elsewhere; taken off when dropped.
struct Mounted {
    directory: PathBuf,
    store: TempDir,
}

impl Mounted {
    fn in_directory(directory: &Path) -> Result<Self, String> {
        let mounted = Self { directory: directory.to_owned(), store: temporary_directory() };
        for (tree, kinds) in TREES {
            for (name, kind) in ["a", "b"].into_iter().zip(kinds) {
                let on = directory.join(tree).join(name);
                fs::create_dir_all(&on).unwrap();
                kind.mount(&on, &mounted.store.path().join(tree).join(name))?;
            }
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        mounts::detach_below(&self.directory);
        mounts::detach_below(self.store.path());
    }
}

/// Empties a tree and gives it to its owner again, filesystems and all. What cannot be changed has not been.
fn reset(tree: &Path, kinds: [Kind; 2], mode: u32) {
    inode_flags::clear(tree);
    for entry in fs::read_dir(tree).unwrap() {
        let path = entry.unwrap().path();
        match ["a", "b"].iter().position(|name| path.ends_with(name)) {
            Some(i) if kinds[i] == Kind::ReadOnly => {}
            Some(_) => {
                fs::read_dir(&path).unwrap().for_each(|entry| remove(&entry.unwrap().path()));
                renew(&path, mode);
            }
            None => remove(&path),
        }
    }
    renew(tree, mode);
}

fn remove(path: &Path) {
    // ext4 makes it for itself.
    if path.ends_with("lost+found") {
        return;
    }
    if path.symlink_metadata().unwrap().is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// As a new directory is.
fn renew(directory: &Path, mode: u32) {
    for name in
        ["user.a", "user.b", "trusted.c", "security.d", "system.posix_acl_access", "system.posix_acl_default"]
    {
        let _ = rustix::fs::lremovexattr(directory, name);
    }
    give(directory, Caller::Owner, mode);
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(rustix::fs::CWD, directory, &times, rustix::fs::AtFlags::empty()).unwrap();
}

#[test]
fn filesystems_below_are_what_they_are_beside() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount filesystems");
    }
    let mut mounted = Vec::new();
    let pair = Pair::start_after(|directory| mounted.push(Mounted::in_directory(directory)));
    if let Some(Err(why)) = mounted.iter().find(|mounted| mounted.is_err()) {
        return println!("skipped: not all filesystems can be mounted here: {why}");
    }
    let below = pair.bywash.root().join("below");
    let company = RefCell::new(Company::start(pair.bywash.root()));
    let (cases, left_out) = (Cell::new(0), LeftOut::default());
    let mut runner = TestRunner::new(config(CASES, REGRESSIONS));
    let case = (0..TREES.len(), generate::tree_mode(), vec(generate::step(), 1..STEPS_MAX));
    let tried = runner.run(&case, |(tree, mode, steps)| {
        cases.set(cases.get() + 1);
        let (name, kinds) = TREES[tree];
        let trees = [pair.plain.join(name), pair.bywash.directory().join(name)];
        let company = &mut *company.borrow_mut();
        // All that is open is closed, so that it can be removed.
        company.begin(&trees);
        trees.iter().for_each(|tree| reset(tree, kinds, mode));
        compare(company, &steps, &left_out)?;
        let [plain, overlay] = &trees;
        compare_trees([plain, overlay, &below.join(name)], &steps)
    });
    println!("left out: {:#?}", left_out.borrow());
    drop(company);
    drop(pair);
    drop(mounted);
    if let Err(error) = tried {
        panic!("{error}");
    }
    assert!(cases.get() > 0, "nothing was compared");
}
