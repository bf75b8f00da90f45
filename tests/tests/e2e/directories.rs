//! What a directory must be, and what is said of one that is not.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use bywash_tests::harness::{
    Bywash, Capture, Settings, mounts,
    process::run,
    program,
    wait::{self, TIMEOUT},
};

use crate::append;

fn new() -> Bywash {
    Bywash::new("localhost:9", &Settings { ring_size: "1MiB", ..Settings::default() })
}

/// Sets the only directory.
fn set(bywash: &Bywash, path: &Path, more: &str) {
    let name = &bywash.ring;
    let text = format!("[ring]\nname = {name:?}\nsize = \"1MiB\"\n[[directory]]\npath = {path:?}\n{more}\n");
    fs::write(&bywash.config, text).unwrap();
}

/// `check` and `run` both refuse the configuration with these words, and nothing is mounted or made.
#[track_caller]
fn assert_refused(bywash: &Bywash, words: &[&str]) {
    let before = mounts::below(bywash.root());
    for command in ["check", "run"] {
        let refused = bywash.fs_agent(&[command]);
        assert_eq!(refused.code, Some(78), "{command}: {refused:?}");
        for word in words {
            assert!(refused.stderr.contains(word), "`{word}` is not in: {}", refused.stderr);
        }
    }
    assert_eq!(mounts::below(bywash.root()), before);
}

#[test]
fn what_is_no_directory_is_refused_by_its_path_and_with_the_way_out() {
    let bywash = new();
    let path = |name: &str| bywash.root().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    fs::write(path("file"), "").unwrap();
    symlink(path("logs"), path("link")).unwrap();
    fs::create_dir(path("logs/sub")).unwrap();
    set(&bywash, &path("missing"), "");
    assert_refused(&bywash, &[&text("missing"), "does not exist", "create = true"]);
    set(&bywash, &path("file"), "");
    assert_refused(&bywash, &[&text("file"), "is not a directory"]);
    set(&bywash, &path("file/below"), "");
    assert_refused(&bywash, &["is not a directory"]);
    set(&bywash, &path("link"), "");
    assert_refused(&bywash, &[&text("link"), "symbolic link", &text("logs")]);
    set(&bywash, &path("link/sub"), "");
    assert_refused(&bywash, &["symbolic link", &text("logs/sub")]);
    set(&bywash, Path::new("logs"), "");
    assert_refused(&bywash, &["`logs`", "not an absolute path", &format!("{}:5", bywash.config.display())]);
    set(&bywash, &path("logs"), &format!("[[directory]]\npath = {:?}", path("logs/sub")));
    assert_refused(
        &bywash,
        &[&text("logs/sub"), "contain one another", &format!("{}:7", bywash.config.display())],
    );
    set(&bywash, &path("logs"), &format!("[agent]\nstate_dir = {:?}", path("logs/sub")));
    assert_refused(&bywash, &["agent.state_dir", &text("logs/sub"), "watched directory"]);
    // Its own log in there would never end.
    set(&bywash, &path("logs"), "");
    let log = path("logs/agent.log");
    let script = "exec \"$0\" run --config \"$1\" 2> \"$2\"";
    let refused = run(
        Command::new("sh").args(["-c", script]).arg(program("fs-agent")).arg(&bywash.config).arg(&log),
        TIMEOUT,
    );
    let said = fs::read_to_string(&log).unwrap();
    assert!(refused.code == Some(78) && said.contains(log.to_str().unwrap()), "{refused:?}: {said}");
    assert!(!bywash.is_mounted());
}

#[test]
fn a_directory_that_does_not_exist_is_made_if_that_is_wanted() {
    let mut bywash = new();
    let path = bywash.root().join("new/deep");
    set(&bywash, &path, "create = true");
    let check = bywash.fs_agent(&["check"]);
    assert!(check.code == Some(0) && !path.exists(), "a check makes nothing: {check:?}");
    let agent = bywash_tests::harness::bywash::spawn("fs-agent", &bywash.config, bywash.root());
    bywash.agent = Some(agent);
    wait::until_true("the overlay", TIMEOUT, || mounts::is_mounted(&path));
    wait::until_true("the agent", TIMEOUT, || bywash.fs_agent(&["status"]).code == Some(0));
    let mut capture = Capture::attach(&bywash.ring);
    append(&path.join("f"), b"x");
    assert_eq!(capture.take().len(), 1);
}

#[test]
fn a_directory_that_the_agent_makes_is_nobody_elses_whatever_its_file_mode_mask() {
    for mask in ["000", "077"] {
        let mut bywash = new();
        let path = bywash.root().join("new/deep");
        set(&bywash, &path, "create = true");
        // What runs the agent instead of env(1).
        let shell = ["sh", "-c", &format!("umask {mask}; exec \"$0\" \"$@\"")].map(str::to_owned);
        let agent =
            bywash_tests::harness::bywash::spawn_in(&shell, "fs-agent", &bywash.config, bywash.root());
        bywash.agent = Some(agent);
        wait::until_true("the agent", TIMEOUT, || bywash.fs_agent(&["status"]).code == Some(0));
        for made in [&path, path.parent().unwrap()] {
            let mode = fs::metadata(made).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755, "{} with the mask {mask}", made.display());
        }
    }
}

#[test]
fn the_same_directory_twice_counts_once() {
    let mut bywash = new();
    let again = format!("\n[[directory]]\npath = \"{}/./\"\n", bywash.directory().display());
    bywash.edit("", &again);
    bywash.start_agent();
    assert_eq!(mounts::below(bywash.root()).len(), 1);
    assert!(bywash.agent().log().contains("configured twice"));
}

#[test]
fn a_directory_in_another_agents_overlay_is_refused() {
    let mut bywash = new();
    bywash.start_agent();
    fs::create_dir(bywash.file("sub")).unwrap();
    let other = new();
    set(&other, &bywash.file("sub"), "");
    let overlaid = bywash.directory().to_str().unwrap();
    assert_refused(&other, &[overlaid, "lies in", &bywash.ring]);
    assert_eq!(mounts::below(bywash.root()).len(), 1);
}
