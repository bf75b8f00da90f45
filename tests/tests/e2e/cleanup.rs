//! `fs-agent cleanup`, and what becomes of overlays when their agent ends.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread,
};

use bywash_tests::harness::{
    Bywash, Capture, Settings, mounts,
    process::Finished,
    wait::{self, TIMEOUT},
};
use nix::{errno::Errno, sys::signal::Signal};

use crate::append;

fn start(directories: &'static [&'static str]) -> Bywash {
    let mut bywash =
        Bywash::new("localhost:9", &Settings { directories, ring_size: "1MiB", ..Settings::default() });
    bywash.start_agent();
    bywash
}

/// What `fs-agent cleanup` says, directory by directory.
#[track_caller]
fn cleanup(bywash: &Bywash, code: i32) -> Vec<String> {
    let Finished { code: ended, stdout, stderr } = bywash.fs_agent(&["cleanup"]);
    assert_eq!(ended, Some(code), "{stdout}{stderr}");
    stdout.lines().map(|line| line.replace(&format!("{}/", bywash.root().display()), "")).collect()
}

#[test]
fn an_overlay_that_answers_is_left_alone() {
    let bywash = start(&["a", "b"]);
    fs::create_dir(bywash.root().join("plain")).unwrap();
    assert_eq!(cleanup(&bywash, 0), ["a answers", "b answers"]);
    assert!(bywash.is_mounted());
}

#[test]
fn a_stopped_agents_overlays_are_taken_away_without_waiting_for_it() {
    let mut bywash = start(&["a", "b"]);
    let mut capture = Capture::attach(&bywash.ring);
    let file = bywash.file("f");
    append(&file, b"captured,");
    bywash.agent().stop();
    // Someone hangs there already.
    let (done, waiting) = channel();
    let hanging = {
        let file = file.clone();
        thread::spawn(move || {
            append(&file, b"late,");
            done.send(()).unwrap();
        })
    };
    let said = cleanup(&bywash, 0);
    assert_eq!(said, ["a does not answer within 2s: unmounted", "b does not answer within 2s: unmounted"]);
    assert!(mounts::below(bywash.root()).is_empty());
    // Programs write again, uncaptured.
    append(&file, b"uncaptured,");
    assert!(waiting.try_recv().is_err());
    // Who hung goes on when the agent does, as if nothing had been.
    bywash.agent().signal(Signal::SIGCONT);
    waiting.recv_timeout(TIMEOUT).unwrap();
    hanging.join().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "captured,uncaptured,late,");
    let captured: Vec<_> = capture.take().into_iter().map(|captured| captured.data).collect();
    assert_eq!(captured, [b"captured,".to_vec(), b"late,".to_vec()]);
}

#[test]
fn a_reload_mounts_again_what_was_taken_away() {
    let mut bywash = start(&["a", "b"]);
    let held = File::create(bywash.file("held")).unwrap();
    bywash.agent().stop();
    cleanup(&bywash, 0);
    bywash.agent().signal(Signal::SIGCONT);
    let said = bywash.reload_agent();
    assert!(said.contains("in force"), "{said}");
    assert_eq!(cleanup(&bywash, 0), ["a answers", "b answers"]);
    drop(held);
}

#[test]
fn a_killed_agents_overlays_are_taken_away_and_the_next_agent_mounts_them_again() {
    let mut bywash = start(&["a", "b"]);
    bywash.agent().kill9();
    let error = fs::read(bywash.file("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOTCONN as i32));
    let said = cleanup(&bywash, 0);
    assert!(said.iter().all(|line| line.contains("is dead") && line.ends_with("unmounted")), "{said:?}");
    append(&bywash.file("f"), b"uncaptured");
    assert_eq!(cleanup(&bywash, 0), [""; 0]);
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    append(&bywash.file("f"), b"captured");
    assert_eq!(capture.take().len(), 1);
}

#[test]
fn overlays_that_are_to_be_kept_fail_until_the_agent_runs_again() {
    let mut bywash = start(&["a"]);
    bywash.edit("", "\n[agent]\non_agent_exit = \"keep\"\n");
    bywash.reload_agent();
    append(&bywash.file("f"), b"1");
    bywash.stop_agent();
    let fails = |bywash: &Bywash| {
        let error = File::options().append(true).open(bywash.file("f")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENOTCONN as i32), "nothing is written uncaptured");
        let said = cleanup(bywash, 0);
        assert!(said.len() == 1 && said[0].contains("kept, as agent.on_agent_exit says"), "{said:?}");
        assert!(bywash.is_mounted());
    };
    fails(&bywash);
    bywash.start_agent();
    append(&bywash.file("f"), b"2");
    bywash.agent().kill9();
    fails(&bywash);
    // One that hangs fails, so that nobody hangs with it; nothing is written uncaptured here either.
    bywash.start_agent();
    bywash.agent().stop();
    let said = cleanup(&bywash, 0);
    assert_eq!(
        said,
        ["a does not answer within 2s: fails from now on, and is kept, as agent.on_agent_exit says"]
    );
    fails(&bywash);
    // It was only standing still, and listens again.
    bywash.agent().signal(Signal::SIGCONT);
    let mut capture = Capture::attach(&bywash.ring);
    wait::until("the agent to mount it again", TIMEOUT, || {
        File::options().append(true).open(bywash.file("f")).map(drop).map_err(|error| error.to_string())
    });
    append(&bywash.file("f"), b"3");
    assert_eq!(capture.take().last().map(|last| last.data.clone()), Some(b"3".to_vec()));
    bywash.stop_agent();
    fails(&bywash);
}

#[test]
fn the_next_agent_takes_away_what_is_not_configured_any_more() {
    let mut bywash = start(&["a", "b"]);
    bywash.agent().kill9();
    let b = bywash.root().join("b");
    bywash.edit(&format!("\n[[directory]]\npath = {b:?}\n"), "");
    let agent = bywash_tests::harness::bywash::spawn("fs-agent", &bywash.config, bywash.root());
    bywash.agent = Some(agent);
    wait::until("the agent to listen", TIMEOUT, || {
        let status = bywash.fs_agent(&["status"]);
        if status.code == Some(0) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    assert!(bywash.is_mounted() && !mounts::is_mounted(&b));
}

#[test]
fn an_unprivileged_cleanup_says_what_it_cannot_do() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can run a command as somebody else");
    }
    let mut bywash = start(&["a"]);
    bywash.agent().kill9();
    // Who may read the configuration, and has no right to unmount.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bywash.root(), open).unwrap();
    let program = bywash_tests::harness::program("fs-agent");
    let copy = bywash.root().join("fs-agent");
    fs::copy(program, &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(&copy).args(["cleanup", "--config"]).arg(&bywash.config);
    let refused = bywash_tests::harness::process::run(&mut command, TIMEOUT);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("cannot unmount"), "{refused:?}");
    assert!(bywash.is_mounted());
    assert_eq!(File::open(bywash.file("f")).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn a_configuration_that_is_broken_or_has_changed_leaves_no_dead_overlay() {
    let mut bywash = start(&["a", "b"]);
    bywash.agent().kill9();
    bywash.edit("", "\nnonsense = 1\n");
    assert_eq!(cleanup(&bywash, 0), ["a is dead: unmounted", "b is dead: unmounted"]);
    bywash.edit("\nnonsense = 1\n", "");
    bywash.start_agent();
    bywash.agent().kill9();
    let b = bywash.root().join("b");
    bywash.edit(&format!("\n[[directory]]\npath = {b:?}\n"), "");
    assert_eq!(cleanup(&bywash, 0), ["a is dead: unmounted", "b is dead: unmounted"]);
}

#[test]
fn where_overlays_are_kept_a_failed_start_uncovers_nothing() {
    let mut bywash = start(&["a"]);
    bywash.edit("", "\n[agent]\non_agent_exit = \"keep\"\n");
    bywash.reload_agent();
    bywash.agent().kill9();
    bywash.edit("", "\n[[fifo]]\npath = \"/nonexistent/fifo\"\n");
    let mut refused = bywash_tests::harness::bywash::spawn("fs-agent", &bywash.config, bywash.root());
    assert!(!refused.wait(TIMEOUT).success());
    let error = File::create(bywash.file("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOTCONN as i32), "{}", refused.log());
}

#[test]
fn where_overlays_are_kept_no_write_gets_past_an_agent_that_is_killed_and_started_again() {
    const ROUNDS: usize = 3;
    // Room for what is written while nobody drains.
    let mut bywash = Bywash::new(
        "localhost:9",
        &Settings { directories: &["a"], ring_size: "64MiB", ..Settings::default() },
    );
    bywash.start_agent();
    bywash.edit("", "\n[agent]\non_agent_exit = \"keep\"\n");
    bywash.reload_agent();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, path) = (Arc::clone(&stop), bywash.file("f"));
        // Opens the file anew for each line, as a shell does: whenever that works, the line is to be captured.
        thread::spawn(move || {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let opened = File::options().create(true).append(true).open(&path);
                written += usize::from(opened.and_then(|mut file| file.write(b"x")).is_ok());
            }
            written
        })
    };
    let mut capture = Capture::attach(&bywash.ring);
    let mut captured = 0;
    for _ in 0..ROUNDS {
        let enough = captured + 100;
        wait::until("writes to get through", TIMEOUT, || {
            captured += capture.take().len();
            if captured > enough { Ok(()) } else { Err(format!("{captured}")) }
        });
        bywash.agent().kill9();
        bywash.start_agent();
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    captured += capture.take().len();
    let in_file = fs::read(bywash.file("f")).unwrap().len();
    // A write that was under way when the agent was killed may be in the file, or in the ring, without its writer's count.
    assert!(
        captured >= written && in_file >= written,
        "written {written}, captured {captured}, in the file {in_file}"
    );
    assert!(in_file - captured.min(in_file) <= ROUNDS, "captured {captured}, in the file {in_file}");
}
