//! What may be read, and how that changes with a reload.

use super::*;

#[test]
fn fifos_come_go_and_change_with_a_reload_and_lose_nothing() {
    let (mut bywash, a, mut capture) = reading(&no_directory(), "line_idle = '1h'");
    let mut writer = open(&a);
    writer.write_all(b"one\ntwo, be").unwrap();
    take(&mut capture, 1);
    let b = bywash.add_fifo("b.pipe", "create = true");
    bywash.edit("line_idle = '1h'", "line_idle = '1h'\nempty_lines = 'skip'");
    let said = bywash.reload_agent();
    assert!(said.contains("in force") && said.contains(&format!("listening on {}", b.display())), "{said}");
    writer.write_all(b"gun before\n\nthree\n").unwrap();
    send(&b, b"in b\n");
    let mut captured = texts(&take(&mut capture, 3));
    captured.sort();
    assert_eq!(captured, ["in b", "three", "two, begun before"]);

    // What is in it when it goes is read out.
    writer.write_all(b"the last of a\nwithout an end").unwrap();
    let section = fs::read_to_string(&bywash.config).unwrap();
    let section = section.split("\n[[fifo]]").nth(1).map(|s| format!("\n[[fifo]]{s}")).unwrap();
    bywash.edit(&section, "");
    bywash.reload_agent();
    assert_eq!(texts(&take(&mut capture, 2)), ["the last of a", "without an end"]);
    wait::until("the agent to let go of it", TIMEOUT, || match writer.write(b"x") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Err(format!("{other:?}")),
    });
    send(&b, b"b goes on\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["b goes on"]);
    let status = bywash.fs_agent(&["status"]).stdout;
    assert!(
        status.contains(&format!("{}\n", b.display())) && !status.contains(a.to_str().unwrap()),
        "{status}"
    );

    // One that cannot be read is refused, and nothing changes.
    bywash.edit("", "\n[[fifo]]\npath = \"/dev/null\"\n");
    let said = bywash.reload_agent();
    assert!(said.contains("refused") && said.contains("/dev/null"), "{said}");
    send(&b, b"b still\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["b still"]);
}

#[test]
fn a_fifo_that_cannot_be_read_is_refused_and_named() {
    let refused = |code: i32, setup: &dyn Fn(&Bywash) -> Vec<String>| {
        let bywash = Bywash::new("localhost:9", &no_directory());
        let words = setup(&bywash);
        for command in ["check", "run"] {
            let finished = bywash.fs_agent(&[command]);
            assert_eq!(finished.code, Some(code), "{command}: {finished:?}");
            for word in &words {
                assert!(finished.stderr.contains(word), "{command}: `{word}` is not in: {}", finished.stderr);
            }
        }
        assert!(bywash.segments().is_empty(), "nothing is left behind");
    };
    let section = |path: &Path| format!("\n[[fifo]]\npath = {path:?}\n");
    refused(78, &|bywash| {
        let path = bywash.root().join("file");
        fs::write(&path, "x").unwrap();
        bywash.edit("", &section(&path));
        vec![path.display().to_string(), "a regular file".to_owned()]
    });
    refused(78, &|bywash| {
        bywash.edit("", &section(bywash.root()));
        vec![bywash.root().display().to_string(), "a directory".to_owned()]
    });
    refused(78, &|bywash| {
        let path = bywash.root().join("missing");
        bywash.edit("", &section(&path));
        vec![path.display().to_string(), "does not exist".to_owned(), "mkfifo".to_owned()]
    });
    refused(78, &|bywash| {
        let path = bywash.add_fifo("twice", "");
        bywash.edit("", &section(&path));
        vec![bywash.config.display().to_string(), path.display().to_string(), "twice".to_owned()]
    });
    refused(78, &|_| vec!["--fifo".to_owned(), "--directory".to_owned()]);
}

#[test]
fn two_paths_to_one_fifo_are_refused() {
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.add_fifo("one", "");
    let link = bywash.root().join("two");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    bywash.edit("", &format!("\n[[fifo]]\npath = {link:?}\n"));
    let finished = bywash.fs_agent(&["run"]);
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!(finished.stderr.contains("one") && finished.stderr.contains("two"), "{}", finished.stderr);
}

#[test]
fn a_fifo_that_one_may_not_read_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can act as somebody else");
    }
    let bywash = Bywash::new("localhost:9", &no_directory());
    let fifo = bywash.add_fifo("closed", "create = true\nmode = '0600'");
    must_run(Command::new("mkfifo").args(["--mode", "0600"]).arg(&fifo));
    must_run(Command::new("chmod").arg("a+rX").arg(bywash.root()).arg(&bywash.config));
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    // The build is not everybody's.
    let program = bywash.root().join("fs-agent");
    fs::copy(bywash_tests::harness::program("fs-agent"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(nobody).arg(&program).args(["run", "--config"]).arg(&bywash.config);
    let finished = run(&mut command, TIMEOUT);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(fifo.to_str().unwrap()), "{}", finished.stderr);
    assert!(finished.stderr.contains("Permission denied"), "{}", finished.stderr);
}

#[test]
fn two_agents_do_not_share_out_the_lines_of_one_fifo() {
    let (bywash, fifo, mut capture) = reading(&no_directory(), "");
    let other = Bywash::new("localhost:9", &no_directory());
    other.edit("", &format!("\n[[fifo]]\npath = {fifo:?}\n"));
    let mut second = bywash::spawn("fs-agent", &other.config, other.root());
    assert_eq!(second.wait(TIMEOUT).code(), Some(1));
    let log = second.log();
    assert!(log.contains(fifo.to_str().unwrap()) && log.contains("another fs-agent"), "{log}");
    send(&fifo, b"still here\n");
    assert_eq!(texts(&take(&mut capture, 1)), ["still here"]);
    drop(bywash);
}
