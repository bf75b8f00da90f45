//! To get at the agent itself, at its memory, its mounts, its ring.

use std::{fs, process::Command};

use bywash_tests::harness::{
    Capture, Settings, mounts, process, program,
    wait::{self, TIMEOUT},
};
use serde_json::json;

use crate::hostile::{Ground, assert_works, by_nobody, is_left_out, nobody, python, script};

#[test]
fn the_processes_are_neither_killed_nor_looked_into() {
    if is_left_out("the_processes_are_neither_killed_nor_looked_into") {
        return;
    }
    // It has no sink that answers, and runs all the same.
    let settings = Settings { publisher: "shutdown_timeout = \"100ms\"", ..Settings::default() };
    let mut ground = Ground::with(&settings);
    ground.bywash.start_agent();
    ground.bywash.start_publisher();
    let pids = [ground.bywash.agent().pid(), ground.bywash.publisher().pid()];
    let attack = r#"
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
for pid in (int(p) for p in sys.argv[2:]):
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, 0):
        attempt(f"signal {number}", lambda: os.kill(pid, number))
    for request in (PTRACE_ATTACH, PTRACE_SEIZE):
        attempt(f"ptrace {request}", lambda: checked(libc.ptrace(request, pid, 0, 0)))
    for name in ("mem", "maps", "environ", "syscall", "stack", "auxv"):
        attempt(name, lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    attempt("fd", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt("fd 0", lambda: os.readlink(f"/proc/{pid}/fd/0"))
    attempt("root", lambda: os.listdir(f"/proc/{pid}/root/"))
    attempt("limits", lambda: libc.prlimit(pid, 7, struct.pack("QQ", 10, 10), None) and checked(-1))
    attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt("affinity", lambda: os.sched_setaffinity(pid, {0}))
    attempt("pidfd", lambda: checked(libc.syscall(438, os.pidfd_open(pid), 0, 0)))
    attempt("oom", lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
    for name, result in seen.items():
        if result not in ("EPERM", "EACCES"): print("got through:", pid, name, result, file=sys.stderr); sys.exit(1)
"#;
    let mut command = nobody();
    command.args([python(), "-c"]).arg(format!("{}{attack}", super::PRELUDE)).arg(&ground.above);
    command.args(pids.map(|pid| pid.to_string()));
    let finished = process::run(&mut command, TIMEOUT);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(ground.bywash.publisher().ended().is_none() && ground.bywash.agent().ended().is_none());
    assert_works(&ground);
}

// Guarantee: G7
#[test]
fn the_ring_is_neither_read_nor_removed() {
    if is_left_out("the_ring_is_neither_read_nor_removed") {
        return;
    }
    let ground = Ground::overlaid();
    assert_works(&ground);
    let segments = ground.bywash.segments();
    assert!(!segments.is_empty());
    for segment in &segments {
        let seen = by_nobody(
            segment,
            r#"
for name, flags in (("read", os.O_RDONLY), ("write", os.O_WRONLY), ("cut", os.O_WRONLY | os.O_TRUNC)):
    attempt(name, lambda: os.close(os.open(path, flags)))
attempt("remove", lambda: os.unlink(path))
attempt("rename", lambda: os.rename(path, path + "x"))
attempt("chmod", lambda: os.chmod(path, 0o777))
attempt("link", lambda: os.link(path, path + ".linked"))
attempt("read all", lambda: subprocess.run(["cat", path], check=True, stderr=subprocess.DEVNULL))
"#,
        );
        let refused = ["EACCES", "EPERM", "exit code 1"];
        let all_refused =
            seen.as_object().unwrap().values().all(|how| refused.contains(&how.as_str().unwrap()));
        assert!(all_refused, "{}: {seen}", segment.display());
    }
    assert_eq!(ground.bywash.segments(), segments);
}

/// Names of shared memory are anybody's to make.
#[test]
fn objects_in_shared_memory_under_the_rings_names_stop_nothing() {
    if is_left_out("objects_in_shared_memory_under_the_rings_names_stop_nothing") {
        return;
    }
    let settings = Settings { publisher: "shutdown_timeout = \"100ms\"", ..Settings::default() };
    let mut ground = Ground::with(&settings);
    let ring = ground.bywash.ring.clone();
    let occupied = script(
        nobody(),
        &ground.above,
        &format!(
            r#"
for number in range(4):
    for end in ("ring", "ack", "ring.new", "ack.new", "ring.tmp", "lock"):
        name = f"/dev/shm/{ring}.{{number}}.{{end}}"
        attempt(name, lambda: os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o666)))
name = f"/dev/shm/{ring}"
attempt(name, lambda: os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o666)))
"#
        ),
    );
    assert!(occupied.as_object().unwrap().values().all(|how| how == "done"), "{occupied}");
    ground.bywash.start_agent();
    assert_works(&ground);
    // What of the names is his stays his, and no part of the ring.
    ground.bywash.start_publisher();
    wait::until("the publisher to see what was written", TIMEOUT, || {
        let status = ground.bywash.publisher_status();
        if status["lag_records"].as_u64() > Some(0) { Ok(()) } else { Err(status.to_string()) }
    });
    // While both run too.
    script(
        nobody(),
        &ground.above,
        &format!(
            r#"
for number in range(20):
    for end in ("ring", "ack"):
        try: os.close(os.open(f"/dev/shm/{ring}.{{number}}.{{end}}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        except OSError: pass
"#
        ),
    );
    // Those with an end go with the ring.
    fs::remove_file(format!("/dev/shm/{ring}")).unwrap();
    assert_works(&ground);
    assert_eq!(ground.bywash.fs_agent(&["status"]).code, Some(0));
}

#[test]
fn the_overlay_is_neither_unmounted_nor_covered() {
    if is_left_out("the_overlay_is_neither_unmounted_nor_covered") {
        return;
    }
    let ground = Ground::overlaid();
    let before = mounts::below(ground.bywash.root());
    let directory = ground.bywash.directory();
    for program in [&["fusermount3", "-u"][..], &["fusermount3", "-uz"], &["umount"], &["umount", "-l"]] {
        let ended = process::run(nobody().args(program).arg(directory), TIMEOUT);
        assert_ne!(ended.code, Some(0), "{program:?}: {ended:?}");
    }
    let refused = by_nobody(
        directory,
        r#"
attempt("mount", lambda: checked(libc.mount(b"none", path.encode(), b"tmpfs", 0, None)))
attempt("bind", lambda: checked(libc.mount(b"/tmp", path.encode(), None, 4096, None)))
attempt("umount", lambda: checked(libc.umount2(path.encode(), 2)))
attempt("move", lambda: os.rename(path, path + "x"))
attempt("remove", lambda: os.rmdir(path))
attempt("control", lambda: [open(f"/sys/fs/fuse/connections/{d}/abort", "w").write("1") for d in os.listdir("/sys/fs/fuse/connections")] or checked(-1))
attempt("device", lambda: os.close(os.open("/dev/fuse", os.O_RDWR)))
"#,
    );
    for act in ["mount", "bind", "umount"] {
        assert_eq!(refused[act], json!("EPERM"), "{refused}");
    }
    assert_ne!(refused["control"], json!("done"), "{refused}");
    assert_eq!(mounts::below(ground.bywash.root()), before);
    assert_works(&ground);
}

#[test]
fn who_may_not_see_the_ring_gets_no_status_and_hinders_nobody_by_asking() {
    if is_left_out("who_may_not_see_the_ring_gets_no_status_and_hinders_nobody_by_asking") {
        return;
    }
    const ROUNDS: usize = 10;
    const AT_ONCE: usize = 8;
    let mut ground = Ground::overlaid();
    // He may run the program and read the configuration.
    let copy = ground.bywash.root().join("fs-agent-of-all");
    fs::copy(program("fs-agent"), &copy).unwrap();
    super::open_to_all(&copy);
    fs::set_permissions(&ground.bywash.config, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for _ in 0..ROUNDS {
        let mut asking: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let mut command: Command = nobody();
                command.arg(&copy).args(["status", "--config"]).arg(&ground.bywash.config);
                command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
                command.spawn().unwrap()
            })
            .collect();
        for child in &mut asking {
            let ended = child.wait().unwrap();
            assert!(ended.code().is_some_and(|code| code != 0), "nobody is told: {ended}");
        }
    }
    assert_works(&ground);
    assert_eq!(ground.bywash.fs_agent(&["status"]).code, Some(0));
    let captured = Capture::attach(&ground.bywash.ring).take();
    assert_eq!(captured.iter().filter(|write| write.path.ends_with(b"/of-root")).count(), 1);
    assert!(ground.bywash.agent().ended().is_none());
}
