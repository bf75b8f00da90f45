//! The systemd units: that systemd takes them, and that the agent can do its work with what its unit leaves it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{
    Bywash, Capture, Process, Settings, mounts, process, program,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::{
        signal::Signal,
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::Uid,
};

use crate::append;

const UNITS: [&str; 5] = [
    "fs-agent.service",
    "publisher.service",
    "bywash.target",
    "fs-agent-cleanup.service",
    "fs-agent-cleanup.timer",
];

/// A unit as it is shipped.
fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The most that `systemd-analyze security` may say of a service, in tenths: 0 is confined, 100 is not.
const EXPOSURE_MAX: [(&str, u32); 2] = [("fs-agent.service", 40), ("publisher.service", 17)];

/// Whether systemd's own tool is there to ask.
fn has_systemd_analyze() -> bool {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        println!("skipped: systemd-analyze is not there");
        return false;
    };
    println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default());
    true
}

/// The units with the programs that are tested: it is looked whether they are there.
fn installed(directory: &Path) -> Vec<PathBuf> {
    let installed = UNITS.iter().map(|name| {
        let mut text = unit(name);
        for name in ["fs-agent", "publisher"] {
            text = text.replace(&format!("/usr/bin/{name}"), program(name).to_str().unwrap());
        }
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    });
    installed.collect()
}

#[test]
fn systemd_finds_the_services_confined() {
    if !has_systemd_analyze() {
        return;
    }
    let directory = bywash_tests::harness::temporary_directory();
    installed(directory.path());
    for (name, most) in EXPOSURE_MAX {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", &format!("--threshold={most}")]);
        let said = process::run(command.arg(directory.path().join(name)), TIMEOUT);
        let figure = said.stdout.lines().last().unwrap_or_default();
        assert_eq!(said.code, Some(0), "{figure}{}", said.stderr);
    }
}

#[test]
fn no_unit_that_mounts_has_a_mount_namespace() {
    // Options that bring one along: exec_needs_mount_namespace() of systemd's src/core/execute.c.
    const PRIVATE: [&str; 24] = [
        "BindPaths",
        "BindReadOnlyPaths",
        "ExecPaths",
        "ExtensionImages",
        "InaccessiblePaths",
        "LogNamespace",
        "MountFlags",
        "MountImages",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "TemporaryFileSystem",
    ];
    for name in UNITS.iter().filter(|name| name.starts_with("fs-agent") && name.ends_with(".service")) {
        let unit = unit(name);
        let set: Vec<&str> =
            unit.lines().filter_map(|line| line.split_once('=').map(|(key, _)| key)).collect();
        for option in PRIVATE {
            assert!(!set.contains(&option), "{name} has {option}=");
        }
        let own_network = set.contains(&"PrivateNetwork");
        assert!(
            !own_network || unit.contains("\nPrivateMounts=no\n"),
            "{name}: PrivateNetwork= alone brings one"
        );
    }
}

#[test]
fn systemd_takes_the_units() {
    if !has_systemd_analyze() {
        return;
    }
    let directory = bywash_tests::harness::temporary_directory();
    let paths = installed(directory.path());
    let verified =
        process::run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths), TIMEOUT);
    let complaints = verified.stderr.lines().filter(|line| UNITS.iter().any(|name| line.contains(name)));
    assert_eq!((verified.code, complaints.collect::<Vec<_>>()), (Some(0), Vec::new()), "{verified:?}");
}

/// What the unit leaves of root's capabilities, as setpriv(1) takes it.
fn bounding_set() -> String {
    let unit = unit("fs-agent.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = lines.flat_map(str::split_whitespace);
    let names = names.map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    format!("-all,+{}", names.collect::<Vec<_>>().join(",+"))
}

/// The system calls that the unit leaves, by their names.
fn allowed_calls() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in unit("fs-agent.service").lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (names, allows) = line.strip_prefix('~').map_or((line, true), |names| (names, false));
        for call in names.split_whitespace().flat_map(calls) {
            if allows {
                allowed.insert(call);
            } else {
                allowed.remove(&call);
            }
        }
    }
    allowed
}

/// What a name in a filter stands for.
fn calls(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let group = process::must_run(Command::new("systemd-analyze").args(["syscall-filter", name]));
    // The first line repeats the name.
    let members =
        group.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(calls).collect()
}

/// What programs do in a directory.
const MUCH: &str = r#"
import fcntl, mmap, os, sys
os.chdir(sys.argv[1])
os.mkdir("d"); os.symlink("d/f", "link"); os.mkfifo("fifo")
fd = os.open("d/f", os.O_RDWR | os.O_CREAT | os.O_APPEND)
os.write(fd, b"x" * 10000); os.fsync(fd); os.fdatasync(fd); os.posix_fallocate(fd, 0, 20000); os.ftruncate(fd, 5000)
os.pwritev(fd, [b"y"], 0, os.RWF_DSYNC); os.lseek(fd, 0, os.SEEK_HOLE); os.sync(); os.utime("d/f", (1, 2))
fcntl.flock(fd, fcntl.LOCK_EX)
m = mmap.mmap(fd, 4096); m[0:1] = b"z"; m.flush(); m.close()
os.link("d/f", "hard"); os.rename("hard", "d/moved"); os.replace("d/moved", "d/f2"); os.truncate("d/f2", 1)
os.setxattr("d/f", "user.a", b"1"); os.listxattr("d/f"); os.getxattr("d/f", "user.a"); os.removexattr("d/f", "user.a")
assert sorted(os.listdir("d")) == ["f", "f2"] and os.readlink("link") == "d/f"
os.statvfs("."); os.copy_file_range(os.open("link", os.O_RDONLY), os.open("copy", os.O_WRONLY | os.O_CREAT), 100)
os.unlink("d/f"); os.unlink("d/f2"); os.rmdir("d")
"#;

/// What the agent tells the service manager next.
#[track_caller]
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut message = [0; 1000];
    let len = socket.recv(&mut message).expect("a message to the service manager");
    String::from_utf8_lossy(&message[..len]).lines().map(str::to_owned).collect()
}

#[test]
fn the_agent_works_with_what_its_unit_leaves_it_and_says_when_it_is_ready() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root can take capabilities from a process");
    }
    let mut bywash = Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() });
    let address = bywash.root().join("notify");
    let socket = UnixDatagram::bind(&address).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut arguments = vec![
        format!("NOTIFY_SOCKET={}", address.display()),
        "WATCHDOG_USEC=1000000".to_owned(),
        "setpriv".to_owned(),
        "--no-new-privs".to_owned(),
        format!("--bounding-set={}", bounding_set()),
        "--".to_owned(),
    ];
    if has_systemd_analyze() {
        let list = bywash.root().join("calls");
        fs::write(&list, allowed_calls().into_iter().collect::<Vec<_>>().join("\n")).unwrap();
        arguments.extend([program("confined"), list].map(|path| path.to_str().unwrap().to_owned()));
    }
    arguments.extend([
        program("fs-agent").to_str().unwrap().to_owned(),
        "run".to_owned(),
        "--config".to_owned(),
        bywash.config.to_str().unwrap().to_owned(),
    ]);
    let env = Path::new("/usr/bin/env");
    let agent = Process::spawn("fs-agent", env, arguments, bywash.root(), Signal::SIGTERM);
    bywash.agent = Some(agent);
    assert_eq!(heard(&socket), ["READY=1"]);
    assert!(mounts::is_mounted(bywash.directory()), "ready is when every overlay is there");
    assert_eq!(bywash.fs_agent(&["status"]).code, Some(0));

    // What callers may do, the agent can do for them.
    let mut capture = Capture::attach(&bywash.ring);
    let file = bywash.file("f");
    append(&file, b"x");
    assert_eq!(capture.take().len(), 1);
    chown(&file, Some(12345), Some(12345)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
    append(&file, b"y");
    assert_eq!(
        (fs::metadata(&file).unwrap().uid(), fs::metadata(&file).unwrap().mode() & 0o7777),
        (12345, 0o6755)
    );
    mknod(&bywash.file("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    assert!(fs::metadata(bywash.file("null")).unwrap().file_type().is_char_device());
    let script = "import os, sys; os.setxattr(sys.argv[1], 'trusted.t', b'1')";
    process::must_run(Command::new("python3").args(["-c", script]).arg(&file));
    process::must_run(Command::new("python3").args(["-c", MUCH]).arg(bywash.directory()));
    let as_owner = ["--reuid=12345", "--regid=12345", "--clear-groups", "--", "touch"];
    fs::set_permissions(bywash.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(bywash.root(), fs::Permissions::from_mode(0o755)).unwrap();
    process::must_run(Command::new("setpriv").args(as_owner).arg(bywash.file("own")));
    assert_eq!(fs::metadata(bywash.file("own")).unwrap().uid(), 12345);

    // The watchdog hears that the agent's loop goes round.
    wait::until("the watchdog to be told", TIMEOUT, || match heard(&socket) {
        state if state == ["WATCHDOG=1"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let skip_watchdog = || loop {
        let state = heard(&socket);
        if state != ["WATCHDOG=1"] {
            return state;
        }
    };
    bywash.reload_agent();
    let reloading = skip_watchdog();
    assert!(reloading[0] == "RELOADING=1" && reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    assert_eq!(skip_watchdog(), ["READY=1"]);
    bywash.stop_agent();
    // agent.stop_grace, and what is done before and after it.
    assert_eq!(skip_watchdog(), ["STOPPING=1", "EXTEND_TIMEOUT_USEC=20000000"]);
    assert!(!mounts::is_mounted(bywash.directory()));
}
