//! Filesystems that are mounted below a watched directory: captured, with what their mounts forbid, and never taken away
//! from whoever mounted them (G1, G2, G9).

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{
    Bywash, Capture, Settings, mounts,
    process::{self, Finished},
    wait::{self, TIMEOUT},
};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount, umount2},
    sys::{
        signal::Signal,
        stat::{Mode, SFlag, makedev, mknod},
        statvfs::{FsFlags, statvfs},
    },
};

use crate::append;

/// Mounts a new tmpfs.
#[track_caller]
fn mount_tmpfs(at: &Path, flags: MsFlags) {
    mount(Some("none"), at, Some("tmpfs"), flags, Some("mode=1777")).expect("a tmpfs");
}

/// None where nothing can be mounted, which is said.
fn new(directory: &'static str) -> Option<Bywash> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can mount");
        return None;
    }
    let settings =
        Settings { directories: &["logs", "other"], ring_size: "4MiB", directory, ..Settings::default() };
    Some(Bywash::new("localhost:9", &settings))
}

fn captured(capture: &mut Capture) -> Vec<(PathBuf, Vec<u8>)> {
    use std::os::unix::ffi::OsStringExt;
    let path = |bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    capture.take().into_iter().map(|captured| (path(captured.path), captured.data)).collect()
}

/// Waits until the mount on top at `path` is an overlay.
#[track_caller]
fn until_overlaid(path: &Path) {
    wait::until(&format!("an overlay on {}", path.display()), TIMEOUT, || match top_of(path) {
        (fs_type, _) if fs_type == "fuse.bywash" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Type and source of what is mounted on top at `path`; empty for nothing.
fn top_of(path: &Path) -> (String, String) {
    let mut command = Command::new("findmnt");
    command.args(["--noheadings", "--output", "FSTYPE,SOURCE", "--mountpoint"]).arg(path);
    let Finished { stdout, .. } = process::run(&mut command, TIMEOUT);
    let mut words = stdout.lines().last().unwrap_or_default().split_whitespace().map(str::to_owned);
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

fn as_nobody(program: &Path) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    process::run(&mut command, TIMEOUT)
}

// Guarantee: G9
#[test]
fn each_has_its_own_device_and_what_its_mount_forbids_stays_forbidden() {
    let Some(mut bywash) = new("") else { return };
    let below = bywash.file("audit");
    fs::create_dir(&below).unwrap();
    fs::set_permissions(bywash.root(), PermissionsExt::from_mode(0o755)).unwrap();
    mount_tmpfs(&below, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME);
    let id = below.join("id");
    fs::copy("/usr/bin/id", &id).unwrap();
    fs::set_permissions(&id, PermissionsExt::from_mode(0o4755)).unwrap();
    let null = below.join("null");
    mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    let is_nobody = |ran: Finished| ran.stdout.contains("uid=65534") && !ran.stdout.contains("euid=0");
    assert!(is_nobody(as_nobody(&id)), "the bare filesystem");
    bywash.start_agent();
    assert!(is_nobody(as_nobody(&id)), "a set-id program gives nothing away");
    let opened = File::options().write(true).open(&null).unwrap_err();
    assert_eq!(opened.raw_os_error(), Some(Errno::EACCES as i32), "a device node opens no device");
    let flags = statvfs(&below).unwrap().flags();
    assert!(flags.contains(FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOATIME), "{flags:?}");
    assert!(!flags.contains(FsFlags::ST_NOEXEC));
    assert_ne!(below.metadata().unwrap().dev(), bywash.directory().metadata().unwrap().dev());
    let renamed = fs::rename(&id, bywash.file("id")).unwrap_err();
    assert_eq!(renamed.raw_os_error(), Some(Errno::EXDEV as i32));
}

#[test]
fn what_is_written_there_is_captured_and_stays_when_the_agent_goes() {
    let Some(mut bywash) = new("") else { return };
    let (below, nested) = (bywash.file("disk"), bywash.file("disk/nested"));
    fs::create_dir(&below).unwrap();
    mount_tmpfs(&below, MsFlags::empty());
    fs::create_dir(&nested).unwrap();
    mount_tmpfs(&nested, MsFlags::empty());
    let before = mounts::below(bywash.root());
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let paths = [below.join("f"), nested.join("f"), bywash.file("f")];
    paths.iter().for_each(|path| append(path, b"x"));
    let wanted: Vec<_> = paths.iter().map(|path| (path.clone(), b"x".to_vec())).collect();
    assert_eq!(captured(&mut capture), wanted);
    bywash.stop_agent();
    assert_eq!(mounts::below(bywash.root()), before, "nothing of anybody's was unmounted");
    paths.iter().for_each(|path| assert_eq!(fs::read(path).unwrap(), b"x", "{}", path.display()));
}

#[test]
fn what_is_mounted_while_the_agent_runs_is_captured_and_stays_whatever_becomes_of_the_agent() {
    let Some(mut bywash) = new("") else { return };
    bywash.start_agent();
    let below = bywash.file("disk");
    fs::create_dir(&below).unwrap();
    mount_tmpfs(&below, MsFlags::empty());
    until_overlaid(&below);
    let mut capture = Capture::attach(&bywash.ring);
    let file = below.join("f");
    append(&file, b"1");
    assert_eq!(captured(&mut capture), [(file.clone(), b"1".to_vec())]);
    drop(capture);

    bywash.stop_agent();
    append(&file, b"2");
    assert_eq!(top_of(&below).0, "tmpfs");
    bywash.start_agent();
    append(&file, b"3");
    bywash.agent().kill9();
    let Finished { code, stdout, .. } = bywash.fs_agent(&["cleanup"]);
    assert_eq!(code, Some(0), "{stdout}");
    append(&file, b"4");
    bywash.start_agent();
    append(&file, b"5");
    // The directory is not listened to any more.
    let section = format!("\n[[directory]]\npath = {:?}\n", bywash.directory());
    bywash.edit(&section, "\n");
    let said = bywash.reload_agent();
    assert!(said.contains("in force"), "{said}");
    append(&file, b"6");
    assert_eq!(fs::read(&file).unwrap(), b"123456");
    assert_eq!(mounts::below(bywash.directory()), [below.as_path()], "mounted once, as by who mounted it");
    let mut capture = Capture::attach(&bywash.ring);
    let data: Vec<_> = captured(&mut capture).into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, [b"3", b"5"], "what was written while an agent ran");
}

#[test]
fn who_unmounts_it_unmounts_the_filesystem() {
    let Some(mut bywash) = new("") else { return };
    let (there, later) = (bywash.file("there"), bywash.file("later"));
    fs::create_dir(&there).unwrap();
    mount_tmpfs(&there, MsFlags::empty());
    bywash.start_agent();
    fs::create_dir(&later).unwrap();
    mount_tmpfs(&later, MsFlags::empty());
    until_overlaid(&later);
    for below in [&there, &later] {
        append(&below.join("f"), b"x");
        let held = File::open(below.join("f")).unwrap();
        assert_eq!(umount(below), Err(Errno::EBUSY), "it is in use");
        drop(held);
        // A file's last close reaches the agent a moment after close(2).
        wait::until("it to be unmounted", TIMEOUT, || umount(below).map_err(|errno| errno.to_string()));
        // At once, as scripts do.
        fs::remove_dir(below).unwrap();
        assert!(!mounts::is_mounted(below), "nothing is left of it, under the overlay either");
    }
    bywash.stop_agent();
    assert!(mounts::below(bywash.root()).is_empty());
}

#[test]
fn a_part_of_the_directory_can_be_mounted_a_second_time() {
    let Some(mut bywash) = new("") else { return };
    bywash.start_agent();
    let (part, again) = (bywash.file("part"), bywash.file("again"));
    fs::create_dir(&part).unwrap();
    fs::create_dir(&again).unwrap();
    mount(Some(&part), &again, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    append(&again.join("f"), b"x");
    let mut capture = Capture::attach(&bywash.ring);
    assert_eq!(captured(&mut capture).len(), 1);
    bywash.stop_agent();
    assert_eq!(fs::read(again.join("f")).unwrap(), b"x");
    bywash.start_agent();
    assert_eq!(fs::read(again.join("f")).unwrap(), b"x");
    umount(&again).unwrap();
    fs::remove_dir(&again).unwrap();
    bywash.stop_agent();
    assert!(mounts::below(bywash.root()).is_empty());
}

#[test]
fn a_directory_above_a_mount_point_can_be_renamed() {
    let Some(mut bywash) = new("") else { return };
    fs::create_dir_all(bywash.file("a/disk")).unwrap();
    mount_tmpfs(&bywash.file("a/disk"), MsFlags::empty());
    bywash.start_agent();
    append(&bywash.file("a/disk/f"), b"1");
    fs::rename(bywash.file("a"), bywash.file("b")).unwrap();
    append(&bywash.file("b/disk/f"), b"2");
    umount(&bywash.file("b/disk")).unwrap();
    fs::remove_dir(bywash.file("b/disk")).unwrap();
    bywash.stop_agent();
    assert!(mounts::below(bywash.root()).is_empty());
}

#[test]
fn what_cannot_or_shall_not_be_captured_is_passed_and_said() {
    let Some(mut bywash) = new("submounts = \"capture\"\n") else { return };
    let passed = [bywash.file("read-only"), bywash.file("proc"), bywash.file("file")];
    fs::create_dir(&passed[0]).unwrap();
    mount_tmpfs(&passed[0], MsFlags::empty());
    append(&passed[0].join("f"), b"x");
    mount(None::<&str>, &passed[0], None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
        .unwrap();
    fs::create_dir(&passed[1]).unwrap();
    mount(Some("none"), &passed[1], Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
    File::create(&passed[2]).unwrap();
    let single = bywash.root().join("single");
    fs::write(&single, "one file").unwrap();
    mount(Some(&single), &passed[2], None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let devices: Vec<_> = passed.iter().map(|path| path.metadata().unwrap().dev()).collect();
    bywash.start_agent();
    let through: Vec<_> = passed.iter().map(|path| path.metadata().unwrap().dev()).collect();
    assert_eq!(through, devices, "they are the filesystems themselves");
    let refused = File::create(passed[0].join("g")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::EROFS as i32));
    assert!(passed[1].join("self").exists());
    assert_eq!(fs::read(&passed[2]).unwrap(), b"one file");
    let log = bywash.agent().log();
    for (path, why) in
        passed.iter().zip(["it is read-only", "its type holds no files", "it is not a directory"])
    {
        assert!(log.contains(&format!("{} is not captured: {why}", path.display())), "{log}");
    }
    bywash.stop_agent();
    assert_eq!(fs::read(&passed[2]).unwrap(), b"one file");
}

#[test]
fn a_directory_can_leave_them_uncaptured() {
    let Some(mut bywash) = new("submounts = \"pass\"\n") else { return };
    let below = bywash.file("disk");
    fs::create_dir(&below).unwrap();
    mount_tmpfs(&below, MsFlags::empty());
    bywash.start_agent();
    append(&below.join("f"), b"uncaptured");
    append(&bywash.file("f"), b"captured");
    let mut capture = Capture::attach(&bywash.ring);
    assert_eq!(captured(&mut capture), [(bywash.file("f"), b"captured".to_vec())]);
    assert_eq!(top_of(&below).0, "tmpfs");
}

#[test]
fn what_is_mounted_over_the_directory_itself_is_left_to_its_owner() {
    let Some(mut bywash) = new("") else { return };
    bywash.start_agent();
    append(&bywash.file("under"), b"x");
    mount_tmpfs(bywash.directory(), MsFlags::empty());
    append(&bywash.file("over"), b"x");
    bywash.stop_agent();
    assert_eq!(fs::read(bywash.file("over")).unwrap(), b"x");
    umount(bywash.directory()).unwrap();
    // What the agent could not reach then is dead, and cleanup takes it off.
    bywash.fs_agent(&["cleanup"]);
    assert_eq!(fs::read(bywash.file("under")).unwrap(), b"x");
}

#[test]
fn an_overlay_below_that_somebody_aborts_is_mounted_again() {
    let Some(mut bywash) = new("") else { return };
    let below = bywash.file("disk");
    fs::create_dir(&below).unwrap();
    mount_tmpfs(&below, MsFlags::empty());
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    for directory in [below.as_path(), below.as_path(), bywash.directory()] {
        let held = File::create(directory.join("held")).unwrap();
        // In use: the connection ends, and the mount stays.
        // One system call: umount(8) may try again, and meet the overlay that has taken the place.
        umount2(directory, MntFlags::MNT_FORCE).unwrap_err();
        wait::until("it to be mounted again", TIMEOUT, || {
            let opened = File::options().create(true).append(true).open(directory.join("f"));
            opened.and_then(|mut file| file.write_all(b"again")).map_err(|error| error.to_string())
        });
        assert_eq!(captured(&mut capture), [(directory.join("f"), b"again".to_vec())]);
        drop(held);
    }
    bywash.agent().signal(Signal::SIGTERM);
}
