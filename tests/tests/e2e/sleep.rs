//! `fs-agent sleep` and `fs-agent wake`.

use std::{fs::File, path::PathBuf};

use bywash_tests::harness::{Bywash, Capture, Settings, mounts};

use crate::{append, write_once};

/// An agent on `a` and `b`, of which `a` can sleep, and what it remembers in its own directory.
fn start() -> (Bywash, PathBuf, PathBuf) {
    let settings = Settings { directories: &["a", "b"], ring_size: "1MiB", ..Settings::default() };
    let mut bywash = Bywash::new("localhost:9", &settings);
    let (a, b) = (bywash.root().join("a"), bywash.root().join("b"));
    let state = bywash.root().join("state");
    bywash.edit("", &format!("\n[agent]\nsleep = [{a:?}]\nstate_dir = {state:?}\n"));
    bywash.start_agent();
    (bywash, a, b)
}

#[track_caller]
fn assert_done(bywash: &Bywash, command: &str, words: &str) {
    let done = bywash.fs_agent(&[command]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), words), "{done:?}");
}

#[test]
fn what_sleeps_is_a_plain_directory_until_it_is_woken_also_after_a_restart() {
    let (mut bywash, a, b) = start();
    let mut capture = Capture::attach(&bywash.ring);
    let mut captured = |what: &str| {
        append(&a.join("f"), what.as_bytes());
        append(&b.join("f"), what.as_bytes());
        capture.take().len()
    };
    assert_eq!(captured("awake"), 2);
    let mut open = File::create(a.join("open")).unwrap();

    assert_done(&bywash, "sleep", &format!("not listening on {}\n", a.display()));
    assert_eq!((mounts::is_mounted(&a), mounts::is_mounted(&b)), (false, true));
    assert_eq!(captured("asleep"), 1);
    // What was open goes on as it was.
    write_once(&mut open, b"still captured");
    assert_eq!(captured("asleep"), 2);
    drop(open);
    let status = bywash.fs_agent(&["status"]);
    assert_eq!(status.code, Some(0));
    assert!(status.stdout.contains(&format!("asleep, not listening on {}\n", a.display())), "{status:?}");
    // Twice is once.
    assert_done(&bywash, "sleep", &format!("not listening on {}\n", a.display()));
    // A reload, a restart and a crash wake nobody.
    bywash.reload_agent();
    assert_eq!(captured("asleep"), 1);
    drop(capture);
    bywash.stop_agent();
    for restart in 0..2 {
        start_agent_asleep(&mut bywash, &a);
        assert_eq!((mounts::is_mounted(&a), mounts::is_mounted(&b)), (false, true), "restart {restart}");
        bywash.agent().kill9();
    }

    start_agent_asleep(&mut bywash, &a);
    assert_done(&bywash, "wake", &format!("listening on {}\n", a.display()));
    assert!(mounts::is_mounted(&a) && mounts::is_mounted(&b));
    let mut capture = Capture::attach(&bywash.ring);
    append(&a.join("f"), b"awake");
    assert_eq!(capture.take().len(), 1);
    let content = std::fs::read_to_string(a.join("f")).unwrap();
    assert_eq!(content, "awakeasleepasleepasleepawake");
}

/// Starts the agent and waits until it says that it sleeps in `directory`.
#[track_caller]
fn start_agent_asleep(bywash: &mut Bywash, directory: &std::path::Path) {
    use bywash_tests::harness::{bywash as services, wait};
    let agent = services::spawn("fs-agent", &bywash.config, bywash.root());
    bywash.agent = Some(agent);
    let line = format!("asleep, not listening on {}\n", directory.display());
    wait::until("the agent to sleep", wait::TIMEOUT, || {
        let status = bywash.fs_agent(&["status"]);
        if status.code == Some(0) && status.stdout.contains(&line) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
}

#[test]
fn without_an_agent_sleep_and_wake_are_remembered() {
    let (mut bywash, a, _) = start();
    bywash.stop_agent();
    let later = "fs-agent is not running: it will take effect when it starts\n";
    assert_done(&bywash, "sleep", later);
    start_agent_asleep(&mut bywash, &a);
    bywash.stop_agent();
    assert_done(&bywash, "wake", later);
    bywash.start_agent();
    assert!(mounts::is_mounted(&a));
}

#[test]
fn an_agent_with_nothing_but_sleepers_runs_and_wakes_up() {
    let (mut bywash, a, b) = start();
    bywash.edit(&format!("sleep = [{a:?}]"), &format!("sleep = [{:?}]", bywash.root()));
    bywash.reload_agent();
    assert_done(
        &bywash,
        "sleep",
        &format!("not listening on {}\nnot listening on {}\n", a.display(), b.display()),
    );
    assert!(!mounts::is_mounted(&a) && !mounts::is_mounted(&b));
    assert_done(&bywash, "wake", &format!("listening on {}\nlistening on {}\n", a.display(), b.display()));
    assert!(mounts::is_mounted(&a) && mounts::is_mounted(&b));
}

#[test]
fn what_cannot_sleep_is_said() {
    let (bywash, a, _) = start();
    let state = bywash.root().join("state");
    bywash.edit(&format!("sleep = [{a:?}]"), "sleep = []");
    for command in ["sleep", "wake"] {
        let refused = bywash.fs_agent(&[command]);
        assert!(refused.code == Some(78) && refused.stderr.contains("agent.sleep"), "{refused:?}");
    }
    bywash.edit("sleep = []", "sleep = [\"/elsewhere\"]");
    let refused = bywash.fs_agent(&["sleep"]);
    assert!(refused.code == Some(78) && refused.stderr.contains("/elsewhere"), "{refused:?}");
    bywash.edit("sleep = [\"/elsewhere\"]", &format!("sleep = [{a:?}]"));
    // A file where the directory should be.
    std::fs::write(&state, "").unwrap();
    let refused = bywash.fs_agent(&["sleep"]);
    assert!(refused.code == Some(1) && refused.stderr.contains(state.to_str().unwrap()), "{refused:?}");
    assert!(mounts::is_mounted(&a));
}

#[test]
fn a_link_in_the_place_of_what_is_remembered_leads_to_no_other_file() {
    let (bywash, ..) = start();
    let (other, state) = (bywash.root().join("other"), bywash.root().join("state"));
    std::fs::write(&other, "kept").unwrap();
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::symlink(&other, state.join(format!("{}.asleep", bywash.ring))).unwrap();
    let refused = bywash.fs_agent(&["sleep"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(std::fs::read(&other).unwrap(), b"kept");
}
