//! The systemd units: that systemd takes them, and that the agent can do its work with what its unit leaves it.

use std::{
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
    wait::{self, PATIENCE},
};
use nix::{
    sys::{
        signal::Signal,
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::Uid,
};

use crate::append;

const UNITS: [&str; 4] =
    ["fs-agent.service", "publisher.service", "fs-agent-cleanup.service", "fs-agent-cleanup.timer"];

/// A unit as it is shipped.
fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn systemd_takes_the_units() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        return println!("skipped: systemd-analyze is not there");
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    println!("{}", version.lines().next().unwrap_or_default());
    let directory = bywash_tests::harness::temporary_directory();
    let paths: Vec<PathBuf> = UNITS.iter().map(|name| directory.path().join(name)).collect();
    for (name, path) in UNITS.iter().zip(&paths) {
        // It looks whether the programs are there.
        let mut text = unit(name);
        for name in ["fs-agent", "publisher"] {
            text = text.replace(&format!("/usr/bin/{name}"), program(name).to_str().unwrap());
        }
        fs::write(path, text).unwrap();
    }
    let verified =
        process::run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths), PATIENCE);
    let complaints = verified.stderr.lines().filter(|line| UNITS.iter().any(|name| line.contains(name)));
    assert_eq!((verified.code, complaints.collect::<Vec<_>>()), (Some(0), Vec::new()), "{verified:?}");
}

/// What the unit leaves of root's capabilities, as setpriv(1) takes it.
fn bounding_set() -> String {
    let unit = unit("fs-agent.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names = line.split_whitespace().map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    format!("-all,+{}", names.collect::<Vec<_>>().join(",+"))
}

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
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let arguments = [
        format!("NOTIFY_SOCKET={}", address.display()),
        "WATCHDOG_USEC=1000000".to_owned(),
        "setpriv".to_owned(),
        "--no-new-privs".to_owned(),
        format!("--bounding-set={}", bounding_set()),
        "--".to_owned(),
        program("fs-agent").to_str().unwrap().to_owned(),
        "run".to_owned(),
        "--config".to_owned(),
        bywash.config.to_str().unwrap().to_owned(),
    ];
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
    let as_owner = ["--reuid=12345", "--regid=12345", "--clear-groups", "--", "touch"];
    fs::set_permissions(bywash.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(bywash.root(), fs::Permissions::from_mode(0o755)).unwrap();
    process::must_run(Command::new("setpriv").args(as_owner).arg(bywash.file("own")));
    assert_eq!(fs::metadata(bywash.file("own")).unwrap().uid(), 12345);

    // The watchdog hears that the agent's loop goes round.
    wait::until("the watchdog to be told", PATIENCE, || match heard(&socket) {
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
    assert_eq!(skip_watchdog(), ["STOPPING=1"]);
    assert!(!mounts::is_mounted(bywash.directory()));
}
