//! Nobody has more rights under an overlay than in the directory below.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use bywash_tests::harness::{
    Bywash, Settings, process,
    wait::{self, TIMEOUT},
};
use nix::{sys::statvfs::statvfs, unistd::Uid};

use crate::{append, overlay::NO_BROKER};

/// The bit of CAP_SYS_RESOURCE in a capability set.
const SYS_RESOURCE: u64 = 1 << 24;

/// As setpriv(1) takes them: a user, one who may exceed limits, and root.
const USER: &[&str] = &["--reuid=4000", "--regid=4000", "--clear-groups"];
const USER_WHO_MAY: &[&str] = &[
    "--reuid=4000",
    "--regid=4000",
    "--clear-groups",
    "--inh-caps=+sys_resource",
    "--ambient-caps=+sys_resource",
];
/// In the group that may use the reserve.
const MEMBER: &[&str] = &["--reuid=4000", "--regid=4000", "--groups=4001"];
const ROOT: &[&str] = &["--clear-groups"];
const ROOT_WHO_MAY_NOT: &[&str] = &["--clear-groups", "--bounding-set=-sys_resource"];

/// Takes up space in the new file `path` until there is none, and prints how many KiB that was.
const FILL: &str = r#"
import os, sys
path, how = sys.argv[1:]
fd = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if how == "append" else 0))
n, step = 0, 65536
try:
    while n < 60 << 20:
        if how == "fallocate": os.posix_fallocate(fd, n, step); n += step
        else: n += os.write(fd, b"x" * step)
except OSError as e:
    assert e.errno == 28, e
print(n >> 10)
os.unlink(path)
"#;

/// Mounts a new ext4 of 64 MiB on the watched directory, half of it reserved for root and the group 4001.
fn mount_half_reserved(bywash: &Bywash) -> Result<(), String> {
    let image = bywash.root().join("image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let run = |command: &mut Command| {
        let done = process::run(command, TIMEOUT);
        if done.code == Some(0) { Ok(()) } else { Err(format!("{done:?}")) }
    };
    run(Command::new("mkfs.ext4").args(["-q", "-m", "50"]).arg(&image))?;
    run(Command::new("mount").args(["-o", "loop,resgid=4001"]).arg(&image).arg(bywash.directory()))?;
    fs::set_permissions(bywash.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(bywash.root(), fs::Permissions::from_mode(0o755)).unwrap();
    Ok(())
}

/// How many KiB of the directory's filesystem each of `callers` can take up in each way.
fn filled(directory: &Path, callers: &[&[&str]]) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let free = || statvfs(directory).unwrap().blocks_free();
    let at_first = free();
    for caller in callers {
        for how in ["write", "append", "fallocate"] {
            let mut command = Command::new("setpriv");
            command.args(*caller).args(["--", "/usr/bin/python3", "-c", FILL]);
            let said = process::must_run(command.arg(directory.join("f")).arg(how));
            all.push((format!("{how} by {caller:?}"), said.trim().parse().unwrap()));
            // A file under an overlay is let go of after it is closed.
            wait::until_true("the space to be free again", TIMEOUT, || free() + 64 > at_first);
        }
    }
    all
}

fn has_sys_resource() -> bool {
    effective("/proc/self/status") & SYS_RESOURCE != 0
}

/// The capabilities in effect that a status in /proc tells of.
fn effective(status: impl AsRef<Path>) -> u64 {
    let status = fs::read_to_string(status).unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(bits.trim(), 16).unwrap()
}

#[test]
fn reserved_blocks_are_for_those_for_whom_they_are_below() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can mount a filesystem");
    }
    let mut bywash =
        Bywash::new(NO_BROKER, &Settings { directory: "exclude = [\"*\"]", ..Settings::default() });
    if let Err(error) = mount_half_reserved(&bywash) {
        return println!("skipped: a new ext4 cannot be mounted: {error}");
    }
    let mut callers = vec![USER, ROOT, MEMBER];
    if has_sys_resource() {
        callers.extend([USER_WHO_MAY, ROOT_WHO_MAY_NOT]);
    } else {
        println!("skipped in part: nobody here has CAP_SYS_RESOURCE");
    }
    let below = filled(bywash.directory(), &callers);
    let (user, root, member) = (below[0].1, below[3].1, below[6].1);
    assert!(user < root - 20_000 && user < member - 20_000, "half is reserved: {below:?}");
    bywash.start_agent();
    let above = filled(bywash.directory(), &callers);
    for ((who, below), (_, above)) in below.iter().zip(&above) {
        // Directories and times take a block or two.
        assert!(below.abs_diff(*above) <= 64, "{who}: {below} KiB below, {above} KiB under the overlay");
    }
}

#[test]
fn no_thread_of_the_agent_keeps_what_only_some_callers_have() {
    if !Uid::effective().is_root() {
        return println!("skipped: without root the agent has no rights to keep");
    }
    let mut bywash = Bywash::new(NO_BROKER, &Settings::default());
    bywash.add_fifo("fifo", "pipe_size = \"2MiB\"");
    bywash.start_agent();
    append(&bywash.file("f"), b"x");
    let tasks = format!("/proc/{}/task", bywash.agent().pid());
    for task in fs::read_dir(tasks).unwrap().flatten() {
        let status = task.path().join("status");
        assert_eq!(effective(&status) & SYS_RESOURCE, 0, "{}", status.display());
        let status = fs::read_to_string(&status).unwrap();
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        assert_eq!(groups.trim(), "");
    }
}
