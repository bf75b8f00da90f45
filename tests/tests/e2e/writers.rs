//! Who wrote, as records say it.

use std::process::Command;

use bywash_tests::harness::{
    Bywash, Capture, Settings,
    process::must_run,
    wait::{self, TIMEOUT},
};
use nix::unistd::Uid;

/// Runs the agent as its unit does: without CAP_SYS_PTRACE, by which it would know more of a process.
const CONFINED: [&str; 4] = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "--"];

/// With an agent that is run by the command `by`.
fn start(by: &[&str]) -> (Bywash, Capture) {
    let mut bywash = Bywash::new("localhost:9", &Settings { ring_size: "4MiB", ..Settings::default() });
    bywash.environment.extend(by.iter().map(|&word| word.to_owned()));
    bywash.start_agent();
    let capture = Capture::attach(&bywash.ring);
    (bywash, capture)
}

#[test]
fn the_command_is_that_of_the_program_that_wrote_right_after_an_exec() {
    assert_told_apart(&[]);
}

#[test]
fn so_it_is_without_the_privilege_to_look_into_processes() {
    if !Uid::effective().is_root() {
        return println!("skipped: only root has a capability to give up");
    }
    assert_told_apart(&CONFINED);
}

/// What one process runs after the other is told apart by an agent that is run by the command `by`.
#[track_caller]
fn assert_told_apart(by: &[&str]) {
    let (bywash, mut capture) = start(by);
    // The same process, name and open file, and no time between.
    let script =
        "exec 3>>\"$0\"; echo 1 >&3; exec sh -c 'echo 2 >&3; exec sh -c \"echo 3 >&3; : third\"; : second'";
    must_run(Command::new("sh").args(["-c", script]).arg(bywash.file("f")));
    let taken = capture.take();
    let commands: Vec<_> = taken.iter().map(|write| String::from_utf8_lossy(&write.command)).collect();
    let &[first, second, third] = &commands.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] else {
        panic!("three writes: {commands:?}");
    };
    assert!(
        first.starts_with("sh -c exec 3>>") && first.ends_with(&format!(" {} ", bywash.file("f").display())),
        "{first}"
    );
    assert!(second.starts_with("sh -c echo 2") && second.ends_with(": second "), "{second}");
    assert_eq!(third, "sh -c echo 3 >&3; : third ");
    assert!(taken.iter().all(|write| write.pid == taken[0].pid));
}

#[test]
fn a_process_that_changes_its_title_goes_by_the_new_one_before_long() {
    let (bywash, mut capture) = start(&[]);
    // Its name, which perl changes as well, stays what it was.
    let script = "open F, '>>', $ARGV[0]; syswrite F, 'x'; $0 = 'new title'; \
                  open N, '>', '/proc/self/comm'; syswrite N, 'perl'; \
                  for (1..3000) { syswrite F, 'x'; select undef, undef, undef, 0.01 }";
    let mut perl = Command::new("perl").args(["-e", script]).arg(bywash.file("f")).spawn().expect("perl");
    let mut seen = Vec::new();
    wait::until_true("the new title", TIMEOUT, || {
        seen.extend(capture.take().into_iter().map(|write| write.command));
        seen.last().is_some_and(|command| command.starts_with(b"new title"))
    });
    perl.kill().unwrap();
    perl.wait().unwrap();
    assert!(seen[0].starts_with(b"perl -e open F"), "{}", String::from_utf8_lossy(&seen[0]));
}
