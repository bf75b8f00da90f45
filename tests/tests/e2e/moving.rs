//! Moving from fifo2kinesis: command lines, variables and what lies on disk mean what they meant.

use std::{fs, process::Command};

use bywash_tests::harness::{
    Bywash, Capture, Settings,
    process::{Finished, run},
    program,
    wait::{self, TIMEOUT},
};

fn no_directory() -> Settings {
    Settings { directories: &[], ..Settings::default() }
}

/// Variables, flags, and lines of what is then in force.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static [&'static str]);

/// What `publisher check --print` says in a directory of its own, with variables and flags.
fn check(bywash: &Bywash, variables: &[(&str, &str)], arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("publisher"));
    command.args(["check", "--print"]).args(arguments).current_dir(bywash.root());
    command.envs(variables.iter().copied());
    run(&mut command, TIMEOUT)
}

#[test]
fn command_lines_and_variables_of_fifo2kinesis_mean_what_they_meant() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    let root = bywash.root().to_str().unwrap();
    let plain = ["--fifo-name=./p", "--stream-name=s"];
    let cases: [Case; 14] = [
        // Relative, as typed.
        (&[], &[], &["sink = \"kinesis\"", "level = \"info\"", "partition_key = \"random\""]),
        (&[], &["--failed-attempts-dir=./failed"], &["dir = \"ROOT/failed\"", "path = \"ROOT/p\""]),
        (&[("FIFO2KINESIS_FAILED_ATTEMPTS_DIR", "failed")], &[], &["dir = \"ROOT/failed\""]),
        // Switches with a value.
        (&[], &["--debug"], &["level = \"debug\""]),
        (&[], &["--debug=true"], &["level = \"debug\""]),
        (&[], &["--debug=F"], &["level = \"info\""]),
        (&[("BYWASH_DEBUG", "1")], &[], &["level = \"debug\""]),
        (&[("FIFO2KINESIS_DEBUG", "t")], &[], &["level = \"debug\""]),
        // What is typed goes before a variable, under whichever name.
        (&[("BYWASH_DEBUG", "1")], &["--log-level=warn"], &["level = \"warn\""]),
        (&[("FIFO2KINESIS_DEBUG", "1")], &["--debug=false"], &["level = \"info\""]),
        (&[("BYWASH_SINK", "kafka")], &["--flush-handler=logger"], &["sink = \"stdout\""]),
        (&[("BYWASH_FLUSH_HANDLER", "logger")], &["--sink=kinesis"], &["sink = \"kinesis\""]),
        // The last of two counts.
        (&[], &["--region", "a", "--region=b"], &["region = \"b\""]),
        (&[], &["--partition-key="], &["partition_key = \"random\""]),
    ];
    for (variables, arguments, expected) in cases {
        let finished = check(&bywash, variables, &[&plain, arguments].concat());
        assert_eq!(finished.code, Some(0), "{variables:?} {arguments:?}: {finished:?}");
        for line in expected.iter().map(|line| line.replace("ROOT", root)) {
            assert!(
                finished.stdout.lines().any(|l| l == line),
                "no `{line}`: {variables:?} {arguments:?}: {finished:?}"
            );
        }
    }
    for (variables, arguments, words) in [
        (&[][..], &["--partition-key=random"][..], ["--partition-key", "one key for all"]),
        (&[("FIFO2KINESIS_DEBUG", "banana")], &[], ["FIFO2KINESIS_DEBUG", "banana"]),
        (&[("BYWASH_SINK", "fax")], &[], ["BYWASH_SINK", "fax"]),
    ] {
        let finished = check(&bywash, variables, &[&plain, arguments].concat());
        assert_eq!(finished.code, Some(78), "{variables:?} {arguments:?}: {finished:?}");
        assert!(words.iter().all(|word| finished.stderr.contains(word)), "{finished:?}");
    }
}

#[test]
fn what_fifo2kinesis_could_not_deliver_goes_through_its_fifo_again_and_is_removed() {
    let mut bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.add_fifo("app.pipe", "");
    let file = |name: &str| bywash.failed().join(name);
    fs::create_dir(bywash.failed()).unwrap();
    // It wrote no newline behind the last line.
    let left = [
        ("fifo2kinesis-20260101000000-abcdefgh", "line one\nline two"),
        ("fifo2kinesis-20260102000000-ABCDEFGH", "three\n"),
    ];
    left.iter().for_each(|(name, text)| fs::write(file(name), text).unwrap());
    fs::write(file("fifo2kinesis-notes"), "kept").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", file("fifo2kinesis-20260103000000-abcdefgh")).unwrap();
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let mut taken = Vec::new();
    wait::until("what was left", TIMEOUT, || {
        taken.extend(capture.take());
        if taken.len() >= 3 { Ok(()) } else { Err(format!("{} so far", taken.len())) }
    });
    let lines: Vec<_> = taken.iter().map(|c| String::from_utf8_lossy(&c.data).into_owned()).collect();
    assert_eq!(lines, ["line one", "line two", "three"]);
    assert!(taken.iter().all(|c| c.path == fifo.as_os_str().as_encoded_bytes()));
    let is_gone = || left.iter().all(|(name, _)| !bywash.failed().join(name).exists());
    wait::until_true("the files to be removed", TIMEOUT, is_gone);
    assert_eq!(fs::read_dir(bywash.failed()).unwrap().count(), 2, "what is not its own stays");
}

#[test]
fn a_group_that_does_not_exist_is_wrong_before_anything_is_made() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    bywash.add_fifo("app.pipe", "");
    bywash.edit("[ring]\n", "[ring]\ngroup = \"no-such-group\"\n");
    for command in ["check", "run"] {
        let finished = bywash.fs_agent(&[command]);
        assert_eq!(finished.code, Some(78), "{command}: {finished:?}");
        assert!(
            finished.stderr.contains("no-such-group") && finished.stderr.contains("groupadd"),
            "{finished:?}"
        );
    }
    assert!(bywash.segments().is_empty());
}

#[test]
fn what_lies_in_a_watched_directory_through_a_link_is_refused_by_both() {
    let bywash = Bywash::new("localhost:9", &Settings::default());
    std::os::unix::fs::symlink(bywash.directory(), bywash.root().join("link")).unwrap();
    bywash.edit(&format!("{:?}", bywash.spool()), &format!("{:?}", bywash.root().join("link/spool")));
    for command in ["check", "run"] {
        for finished in [bywash.fs_agent(&[command]), bywash.publisher_command(&[command])] {
            assert_eq!(finished.code, Some(78), "{command}: {finished:?}");
            assert!(
                finished.stderr.contains("spool.dir") && finished.stderr.contains("link/spool"),
                "{finished:?}"
            );
        }
    }
}
