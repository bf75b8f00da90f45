//! To do what the directory below does not let one do.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    process::Command,
};

use bywash_tests::harness::{Bywash, Settings, process, wait};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::{
    hostile::{Ground, assert_same, by_nobody, by_root, is_left_out},
    overlay::NO_BROKER,
    supervise::Supervised,
};

#[test]
fn nobody_makes_device_files_or_changes_what_is_others() {
    if is_left_out("nobody_makes_device_files_or_changes_what_is_others") {
        return;
    }
    let seen = assert_same(
        r#"
put("roots"); put("open", mode=0o666); put("secret", mode=0o600)
os.mkdir(f"{path}/sticky"); os.chmod(f"{path}/sticky", 0o1777); put("sticky/roots", mode=0o666)
os.symlink("secret", f"{path}/link")
"#,
        r#"
f = f"{path}/roots"
for kind, name in ((stat.S_IFCHR, "char"), (stat.S_IFBLK, "block")):
    attempt(f"mknod {name}", lambda: os.mknod(f"{path}/{name}", kind | 0o666, os.makedev(1, 3)))
for name in ("roots", "open", "secret", "link"):
    g = f"{path}/{name}"
    attempt(f"chmod {name}", lambda: os.chmod(g, 0o4777))
    attempt(f"chown {name}", lambda: os.chown(g, 65534, 65534, follow_symlinks=False))
    attempt(f"utime {name}", lambda: os.utime(g, (1, 1)))
    attempt(f"touch {name}", lambda: os.utime(g))
    attempt(f"truncate {name}", lambda: os.truncate(g, 0))
    attempt(f"read {name}", lambda: open(g).read())
    attempt(f"append {name}", lambda: open(g, "ab", 0).write(b"x"))
    for attribute in ("user.a", "trusted.a", "security.a", "security.capability", "security.ima",
                      "system.posix_acl_access", "system.posix_acl_default", "unknown.a"):
        attempt(f"set {attribute} of {name}", lambda: os.setxattr(g, attribute, b"\x02\0\0\0"))
        attempt(f"remove {attribute} of {name}", lambda: os.removexattr(g, attribute))
open(f"{path}/own", "w").close()
for attribute in ("user.a", "trusted.a", "security.a", "security.capability", "unknown.a"):
    attempt(f"set {attribute} of own", lambda: os.setxattr(f"{path}/own", attribute, b"\x01\0\0\2" + b"\xff\xff\0\0" * 4))
attempt("give away", lambda: os.chown(f"{path}/own", 0, 0))
attempt("take a group", lambda: os.chown(f"{path}/own", -1, 0))
attempt("own set-id", lambda: os.chmod(f"{path}/own", 0o6755))
attempt("unlink in sticky", lambda: os.unlink(f"{path}/sticky/roots"))
attempt("rename in sticky", lambda: os.rename(f"{path}/sticky/roots", f"{path}/sticky/mine"))
open(f"{path}/sticky/own", "w").close()
attempt("rename onto in sticky", lambda: os.rename(f"{path}/sticky/own", f"{path}/sticky/roots"))
attempt("list trusted", lambda: os.listxattr(f"{path}/roots"))
"#,
        r#"for name in sorted(os.listdir(path)): seen[name] = [mode(name), os.lstat(f"{path}/{name}").st_uid]"#,
    );
    // What the two agree on is a refusal.
    assert_eq!(seen[0]["mknod char"], json!("EPERM"));
    assert_eq!(seen[0]["read secret"], json!("EACCES"));
    assert_eq!(seen[0]["set security.capability of own"], json!("EPERM"));
}

/// Whatever changes a file takes the bits away, so that nobody runs what they wrote as somebody else.
#[test]
fn who_changes_a_set_id_file_or_one_with_capabilities_leaves_neither() {
    if is_left_out("who_changes_a_set_id_file_or_one_with_capabilities_leaves_neither") {
        return;
    }
    let seen = assert_same(
        r#"
ways = ["write", "pwrite", "writev", "pwritev2", "append", "truncate", "ftruncate", "open", "fallocate", "punch",
        "copy", "send", "map", "direct", "sync"]
capability = struct.pack("<5I", 0x02000001, 1 << 7, 0, 0, 0)
for way in ways:
    put(way, b"content" * 1000, mode=0o6777)
    put(way + "-capable", b"content" * 1000, mode=0o777)
    os.setxattr(f"{path}/{way}-capable", "security.capability", capability)
"#,
        r#"
def opened(name, flags=os.O_RDWR): return os.open(f"{path}/{name}", flags)
source = os.open(f"{path}/source", os.O_RDWR | os.O_CREAT); os.write(source, b"other")
def mapped(name):
    fd = opened(name); m = mmap.mmap(fd, 4096); m[0] = 65; m.flush(); m.close(); os.close(fd)
def direct(name):
    m = mmap.mmap(-1, 4096); m[:] = b"d" * 4096
    os.writev(opened(name, os.O_WRONLY | os.O_DIRECT), [m])
ways = {
    "write": lambda n: os.write(opened(n), b"x"), "pwrite": lambda n: os.pwrite(opened(n), b"x", 9),
    "writev": lambda n: os.writev(opened(n), [b"x", b"y"]),
    "pwritev2": lambda n: os.pwritev(opened(n), [b"x"], 0, os.RWF_DSYNC),
    "append": lambda n: os.write(opened(n, os.O_WRONLY | os.O_APPEND), b"x"),
    "truncate": lambda n: os.truncate(f"{path}/{n}", 1), "ftruncate": lambda n: os.ftruncate(opened(n), 2),
    "open": lambda n: os.close(opened(n, os.O_WRONLY | os.O_TRUNC)),
    "fallocate": lambda n: os.posix_fallocate(opened(n), 0, 100_000),
    "punch": lambda n: checked(libc.fallocate(opened(n), 3, ctypes.c_long(0), ctypes.c_long(4096))),
    "copy": lambda n: os.copy_file_range(source, opened(n), 5, 0),
    "send": lambda n: os.sendfile(opened(n), source, 0, 5), "map": mapped, "direct": direct,
    "sync": lambda n: os.write(opened(n, os.O_WRONLY | os.O_SYNC), b"x"),
}
for way, do in ways.items():
    # A store to a mapping takes capabilities away in the overlay alone: there it arrives as a write.
    for suffix in ("",) if way == "map" else ("", "-capable"): attempt(way + suffix, lambda: do(way + suffix))
"#,
        r#"
for name in sorted(os.listdir(path)): seen[name] = [mode(name), os.listxattr(f"{path}/{name}")]
"#,
    );
    let left = seen[1].as_object().unwrap();
    for way in ["write", "pwritev2", "append", "truncate", "copy", "send", "direct"] {
        assert_eq!(left[way][0], json!("0o100777"), "{way} leaves the bits");
        assert_eq!(left[&format!("{way}-capable")][1], json!([]), "{way} leaves capabilities");
    }
}

#[test]
fn links_to_others_files_and_through_sticky_directories_are_refused_as_below() {
    if is_left_out("links_to_others_files_and_through_sticky_directories_are_refused_as_below") {
        return;
    }
    assert_same(
        r#"
put("secret", mode=0o600); put("readable"); put("writable", mode=0o666); put("set-id", mode=0o4777)
os.mkfifo(f"{path}/fifo"); os.chmod(f"{path}/fifo", 0o666)
os.mkdir(f"{path}/sticky"); os.chmod(f"{path}/sticky", 0o1777)
put("sticky/writable", mode=0o666)
os.mkfifo(f"{path}/sticky/fifo"); os.chmod(f"{path}/sticky/fifo", 0o666)
os.symlink("../writable", f"{path}/sticky/link")
"#,
        r#"
for name in ("secret", "readable", "writable", "set-id", "fifo"):
    attempt(f"link {name}", lambda: os.link(f"{path}/{name}", f"{path}/hard-{name}"))
attempt("follow", lambda: open(f"{path}/sticky/link").read())
# fs.protected_regular and fs.protected_fifos.
for name in ("writable", "fifo"):
    attempt(f"create {name}", lambda: os.close(os.open(f"{path}/sticky/{name}", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)))
os.symlink("../secret", f"{path}/sticky/mine")
"#,
        r#"
attempt("root follows", lambda: open(f"{path}/sticky/mine").read())
attempt("root writes", lambda: open(f"{path}/sticky/mine", "ab", 0).write(b"x"))
seen["names"] = sorted(os.listdir(path))
"#,
    );
}

/// Descriptors are reopened by /proc/self/fd: with the rights of the file then, not of whoever had opened it.
#[test]
fn a_descriptor_that_was_given_for_reading_gives_no_more() {
    if is_left_out("a_descriptor_that_was_given_for_reading_gives_no_more") {
        return;
    }
    let ground = Ground::overlaid();
    by_root(&ground.above, r#"put("secret", mode=0o600); put("shown", mode=0o644)"#);
    let given = r#"
def as_nobody(do):
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try: do()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
for name in ("secret", "shown"):
    for flags in (os.O_RDONLY, os.O_PATH, os.O_WRONLY):
        fd = os.open(f"{path}/{name}", flags)
        for again in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            done = as_nobody(lambda: os.open(f"/proc/self/fd/{fd}", again))
            seen[f"{name} {flags} {again}"] = errno.errorcode.get(done, done)
        if flags != os.O_WRONLY:
            done = as_nobody(lambda: os.ftruncate(fd, 0)); seen[f"{name} {flags} ftruncate"] = errno.errorcode.get(done, done)
        for name_, do in (("chmod", lambda: os.fchmod(fd, 0o777)), ("chown", lambda: os.fchown(fd, 65534, 65534))):
            done = as_nobody(do); seen[f"{name} {flags} {name_}"] = errno.errorcode.get(done, done)
"#;
    let above = by_root(&ground.above, given);
    for (attempt, ended) in above.as_object().unwrap() {
        let is_plain_reading = attempt.starts_with("shown") && attempt.ends_with(" 0");
        assert_eq!(*ended == json!(0), is_plain_reading, "{attempt}: {ended}");
    }
    assert_eq!(
        by_root(&ground.above, r#"seen = [open(f"{path}/{n}").read() for n in ("secret", "shown")]"#)[1],
        "content"
    );
}

/// Between a look-up and an open somebody exchanges the file for a link to one that only root may read.
#[test]
fn a_file_that_is_exchanged_for_a_link_all_the_time_never_leads_to_a_secret() {
    if is_left_out("a_file_that_is_exchanged_for_a_link_all_the_time_never_leads_to_a_secret") {
        return;
    }
    let ground = Ground::overlaid();
    by_root(&ground.above, r#"os.mkdir(f"{path}/kept", 0o700); put("kept/secret", b"secret", mode=0o600)"#);
    let seen = by_nobody(
        &ground.above,
        r#"
open(f"{path}/x", "w").write("plain")
os.mkdir(f"{path}/kept-too")
os.symlink("kept/secret", f"{path}/y"); os.symlink("kept", f"{path}/d"); os.mkdir(f"{path}/e"); open(f"{path}/e/secret", "w").write("plain")
def swap(a, b): libc.renameat2(-100, a.encode(), -100, b.encode(), 2)
swapper = os.fork()
if swapper == 0:
    while True:
        swap(f"{path}/x", f"{path}/y"); swap(f"{path}/d", f"{path}/e")
ended = time.monotonic() + 2
opened = refused = 0
found = []
while time.monotonic() < ended:
    for name in ("x", "d/secret", "y", "e/secret"):
        for flags in (os.O_RDONLY, os.O_RDONLY | os.O_NOFOLLOW, os.O_RDWR):
            try: fd = os.open(f"{path}/{name}", flags)
            except OSError: refused += 1; continue
            opened += 1
            content = os.read(fd, 100)
            if content != b"plain": found.append(content.decode())
            os.close(fd)
os.kill(swapper, signal.SIGKILL)
seen = {"found": found, "opened": opened, "refused": refused}
"#,
    );
    println!("{seen}");
    assert_eq!(seen["found"], json!([]));
    assert!(seen["opened"].as_u64() > Some(100) && seen["refused"].as_u64() > Some(100), "no race: {seen}");
}

/// A disk on which neither programs get rights nor devices open, below a watched directory.
#[test]
fn a_filesystem_below_that_gives_no_rights_gives_none_through_the_overlay() {
    if is_left_out("a_filesystem_below_that_gives_no_rights_gives_none_through_the_overlay") {
        return;
    }
    let mut ground = Ground::new();
    for on in [ground.below.join("usb"), ground.above.join("usb")] {
        std::fs::create_dir(&on).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "nosuid,nodev,mode=1777", "bywash-test"]).arg(on);
        process::must_run(&mut mount);
    }
    let [below, above] = ground.both(
        r#"
import shutil
for directory in ("usb", "."):
    shutil.copy("/usr/bin/id", f"{path}/{directory}/id"); os.chmod(f"{path}/{directory}/id", 0o4755)
    shutil.copy("/usr/bin/id", f"{path}/{directory}/group"); os.chmod(f"{path}/{directory}/group", 0o2755)
    os.mknod(f"{path}/{directory}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)); os.chmod(f"{path}/{directory}/null", 0o666)
"#,
        r#"
for directory in ("usb", "."):
    for program in ("id", "group"):
        attempt(f"{program} in {directory}", lambda: subprocess.check_output([f"{path}/{directory}/{program}"], text=True))
    attempt(f"device in {directory}", lambda: os.write(os.open(f"{path}/{directory}/null", os.O_WRONLY), b"x"))
    attempt(f"flags of {directory}", lambda: os.statvfs(f"{path}/{directory}").f_flag & 15)
attempt("one filesystem", lambda: os.lstat(path).st_dev == os.lstat(f"{path}/usb").st_dev)
attempt("link across", lambda: os.link(f"{path}/own", f"{path}/usb/own"))
attempt("rename across", lambda: os.rename(f"{path}/usb/null", f"{path}/null2"))
attempt("rename the mount", lambda: os.rename(f"{path}/usb", f"{path}/usb2"))
attempt("remove the mount", lambda: os.rmdir(f"{path}/usb"))
"#,
        "",
    );
    assert_eq!(above, below);
    assert!(!below[0]["id in usb"].as_str().unwrap().contains("euid=0"), "{below}");
    assert_eq!(below[0]["device in usb"], json!("EACCES"));
    assert!(below[0]["id in ."].as_str().unwrap().contains("euid=0"), "elsewhere they do: {below}");
}

// Guarantee: G9
/// In a namespace of its own users anybody is root, of nothing that the overlay has.
#[test]
fn root_of_a_user_namespace_is_nobody_as_below() {
    if is_left_out("root_of_a_user_namespace_is_nobody_as_below") {
        return;
    }
    assert_same(
        r#"put("roots"); put("set-id", mode=0o4777)"#,
        r#"
inside = r'''
import os, sys, errno, struct
path = sys.argv[1]
def attempt(do):
    try: do(); return "done"
    except OSError as e: return errno.errorcode[e.errno]
open(path + "/own-inside", "w").close()
for do in (lambda: os.mknod(path + "/node", 0o20666, os.makedev(1, 3)), lambda: os.chown(path + "/roots", 0, 0),
           lambda: os.chmod(path + "/roots", 0o777), lambda: open(path + "/roots", "ab"),
           lambda: os.chown(path + "/own-inside", 0, 0), lambda: os.chown(path + "/own-inside", 1, 1),
           lambda: os.setxattr(path + "/own-inside", "security.capability", struct.pack("<5I", 0x02000001, 1 << 7, 0, 0, 0)),
           lambda: os.setxattr(path + "/own-inside", "trusted.a", b"x"), lambda: os.chmod(path + "/own-inside", 0o6777),
           lambda: os.setxattr(path + "/roots", "user.a", b"x"), lambda: os.link(path + "/set-id", path + "/linked")):
    print(attempt(do))
'''
ran = subprocess.run(["unshare", "--user", "--map-root-user", sys.executable, "-c", inside, path], capture_output=True, text=True)
seen = {"inside": ran.stdout.split(), "ended": ran.returncode}
"#,
        r#"
for name in sorted(os.listdir(path)): seen[name] = [mode(name), os.lstat(f"{path}/{name}").st_uid, [a for a in os.listxattr(f"{path}/{name}")]]
"#,
    );
}

#[test]
fn what_is_open_comes_back_as_no_other_file_that_has_got_its_number_meanwhile() {
    const FILES_MAX: usize = 64;
    if is_left_out("what_is_open_comes_back_as_no_other_file_that_has_got_its_number_meanwhile") {
        return;
    }
    let bywash = Bywash::new(NO_BROKER, &Settings { ring_size: "1MiB", ..Settings::default() });
    let (image, below) = (bywash.root().join("image"), bywash.root().join("below"));
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    // So small an inode does not say when it came into being.
    let mut make = Command::new("mkfs.ext4");
    let made = process::run(make.args(["-q", "-I", "128", "-N", "64"]).arg(&image), wait::TIMEOUT);
    if made.code != Some(0) {
        return println!("skipped: no ext4 can be made here: {made:?}");
    }
    process::must_run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(bywash.directory()));
    fs::create_dir(&below).unwrap();
    process::must_run(Command::new("mount").arg("--bind").arg(bywash.directory()).arg(&below));
    let supervised = Supervised::over(bywash, "");
    let mine =
        File::options().read(true).write(true).create_new(true).open(supervised.bywash.file("f")).unwrap();
    let number = mine.metadata().unwrap().ino();
    let agent = supervised.agent_pid();
    // No agent until another file has the number.
    supervised.tell_supervisor(Signal::SIGSTOP);
    kill(agent, Signal::SIGKILL).unwrap();
    wait::until("the agent to have ended", wait::TIMEOUT, || {
        let stat = fs::read_to_string(format!("/proc/{agent}/stat")).unwrap_or_default();
        if stat.contains(") Z ") { Ok(()) } else { Err(stat) }
    });
    let path = below.join("f");
    fs::remove_file(&path).unwrap();
    let has_number = (0..FILES_MAX).any(|at| {
        fs::write(&path, "another's").unwrap();
        let is_it = fs::metadata(&path).unwrap().ino() == number;
        if !is_it {
            fs::rename(&path, below.join(format!("other-{at}"))).unwrap();
        }
        is_it
    });
    supervised.tell_supervisor(Signal::SIGCONT);
    supervised.agent_in_a_row(2);
    if !has_number {
        return println!("skipped: this filesystem does not give a number again at once");
    }
    let read = mine.read_at(&mut [0; 16], 0).map_err(|error| error.raw_os_error());
    let written = mine.write_at(b"mine", 0).map_err(|error| error.raw_os_error());
    assert_eq!((read, written), (Err(Some(nix::libc::EIO)), Err(Some(nix::libc::EIO))));
    assert_eq!(fs::read(&path).unwrap(), b"another's");
}
