//! What users without privilege may do in the directory of shared memory, and the ring's group with its objects (G7, G9).

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{
    Broker, Bywash, Process, Settings,
    process::{self, Finished},
    program,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::signal::Signal,
    unistd::{Group, Uid},
};

use crate::append;

/// Nobody in particular.
const UID: u32 = 65534;
/// A group that every system has.
const GROUP: &str = "daemon";

/// Runs a program as that user, in that group alone.
fn as_stranger(group: u32, arguments: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(identity(group)).args(arguments);
    process::run(&mut command, TIMEOUT)
}

fn identity(group: u32) -> [String; 4] {
    [format!("--reuid={UID}"), format!("--regid={group}"), "--clear-groups".to_owned(), "--".to_owned()]
}

fn group() -> u32 {
    Group::from_name(GROUP).unwrap().expect("a group `daemon`").gid.as_raw()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of the publisher: the build is not everybody's.
fn open_publisher(bywash: &Bywash) -> PathBuf {
    must_run(Command::new("chmod").arg("a+rX").arg(bywash.root()).arg(&bywash.config));
    let copy = bywash.root().join("publisher");
    fs::copy(program("publisher"), &copy).unwrap();
    copy
}

/// The publisher, run by a user who is in the ring's group and is nothing else.
fn start_as_member(bywash: &Bywash, publisher: &Path) -> Process {
    fs::create_dir(bywash.failed()).unwrap();
    chown(bywash.failed(), Some(UID), Some(group())).unwrap();
    let run = [text(publisher), "run", "--config", text(&bywash.config)].map(str::to_owned);
    let arguments = identity(group()).into_iter().chain(run);
    Process::spawn("publisher", Path::new("setpriv"), arguments, bywash.root(), Signal::SIGTERM)
}

fn must_run(command: &mut Command) {
    process::must_run(command);
}

const TO_STDOUT: Settings =
    Settings { publisher: "sink = \"stdout\"", spool: "size_max = 0", encoder: "text", ..Settings::DEFAULT };

#[test]
fn a_member_of_the_rings_group_drains_it_and_cannot_write_a_record() {
    assert!(Uid::effective().is_root(), "the tests run as root");
    let mut bywash = Bywash::new("localhost:9", &TO_STDOUT);
    bywash.edit("[ring]\n", &format!("[ring]\ngroup = {GROUP:?}\n"));
    bywash.start_agent();
    append(&bywash.file("f"), b"before");
    let program = open_publisher(&bywash);
    let publisher = start_as_member(&bywash, &program);
    let wait_for = |message: &str| {
        wait::until("an event", TIMEOUT, || {
            let printed = publisher.stdout();
            if printed.contains(message) { Ok(()) } else { Err(format!("{printed}{}", publisher.log())) }
        });
    };
    wait_for("before");
    let [data, ack] = ["ring", "ack"].map(|role| format!("/dev/shm/{}.1.{role}", bywash.ring));
    for attempt in [
        &["truncate", "-s", "4096", &data][..],
        &["dd", "if=/dev/zero", "conv=notrunc", "bs=1", "count=1", &format!("of={data}")],
        &["rm", "-f", &data, &ack],
        &["mv", "-f", &data, "/dev/shm/elsewhere"],
        &["chmod", "666", &data],
    ] {
        let refused = as_stranger(group(), attempt);
        assert!(
            refused.code != Some(0)
                && refused.stderr.contains("not permitted") | refused.stderr.contains("denied"),
            "{refused:?}"
        );
    }
    // Who is not in the group does not even get to see it.
    let refused = as_stranger(UID, &["cat", &data]);
    assert!(refused.stderr.contains("denied"), "{refused:?}");
    append(&bywash.file("f"), b"behind");
    wait_for("behind");
    let status = as_stranger(group(), &[text(&program), "status", "--config", text(&bywash.config)]);
    assert_eq!(status.code, Some(0), "{status:?}");
}

// Guarantee: G9
#[test]
fn names_that_a_stranger_makes_in_shared_memory_stop_nothing() {
    let broker = Broker::start();
    let mut bywash = Bywash::new(&broker.address(), &Settings::default());
    let ring = bywash.ring.clone();
    let path = |end: &str| format!("/dev/shm/{ring}.{end}");
    let squat = |ends: &[&str]| {
        for end in ends {
            assert_eq!(as_stranger(UID, &["touch", &path(end)]).code, Some(0));
        }
    };
    squat(&["0.ring", "1.ring", "1.ack", "2.ack", "1.ring.tmp", "1.ack.tmp"]);
    assert_eq!(as_stranger(UID, &["mkfifo", &path("3.ring")]).code, Some(0));
    bywash.start_agent();
    squat(&["999.ring", "999.ack"]);
    bywash.start_publisher();
    append(&bywash.file("f"), b"one");
    let mut reader = broker.read("logs");
    reader.events(1);
    // While both run.
    squat(&["4294967295.ring", "5.ring", "6.ring"]);
    append(&bywash.file("f"), b"two");
    reader.events(2);
    assert_eq!(bywash.agent_status()["ring"]["generation"], 4);
    bywash.publisher().terminate(TIMEOUT);
    bywash.stop_agent();
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"three");
    assert_eq!(reader.events(3).len(), 3);
    assert_eq!(bywash.agent_status()["ring"]["generation"], 4, "the ring is gone on with");
    let log = bywash.agent().log();
    assert!(log.contains("ignoring /dev/shm/") && log.contains("uid 65534") && log.contains("rm "), "{log}");
}
