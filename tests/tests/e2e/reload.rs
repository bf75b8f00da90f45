//! SIGHUP: the configuration is read again, and nobody who writes notices.

use std::{
    fs::{self, File},
    path::Path,
};

use bywash_tests::harness::{Bywash, Capture, Captured, Load, Settings, mounts, wait::TIMEOUT};

use crate::{append, write_once};

fn two() -> Settings {
    Settings { directories: &["a", "b"], ring_size: "16MiB", ..Settings::default() }
}

fn section(path: &Path) -> String {
    format!("\n[[directory]]\npath = {path:?}\n")
}

fn of<'a>(captured: &'a [Captured], path: &Path) -> Vec<&'a Captured> {
    captured.iter().filter(|c| c.path == path.as_os_str().as_encoded_bytes()).collect()
}

fn data(captured: &[Captured], path: &Path) -> Vec<u8> {
    of(captured, path).into_iter().flat_map(|c| c.data.clone()).collect()
}

#[test]
fn directories_come_and_go_and_no_write_is_lost_where_one_stays() {
    let mut bywash = Bywash::new("localhost:9", &two());
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let (a, b, c) = (bywash.root().join("a"), bywash.root().join("b"), bywash.root().join("c"));
    fs::create_dir(&c).unwrap();
    let load = Load { id: 1, files: vec![a.join("f")], count: 2_000, bytes: 100, rate: 4_000 };
    let writer = load.start(bywash.root());
    let mut open_in_b = File::create(b.join("open")).unwrap();
    let of_a = mounts::below(&a);

    bywash.edit(&section(&b), &section(&c));
    let said = bywash.reload_agent();
    assert!(said.contains("in force") && said.contains(&format!("listening on {}", c.display())), "{said}");
    assert_eq!((mounts::below(&a), mounts::is_mounted(&b), mounts::is_mounted(&c)), (of_a, false, true));
    let status = bywash.fs_agent(&["status"]).stdout;
    for (directory, listens) in [(&a, true), (&b, false), (&c, true)] {
        assert_eq!(status.contains(&format!("listening on {}\n", directory.display())), listens, "{status}");
    }
    // What was open in the one that went is served until it is closed; what is opened there now is not.
    write_once(&mut open_in_b, b"still captured");
    append(&b.join("later"), b"not captured");
    append(&c.join("new"), b"captured");
    writer.finish(TIMEOUT).assert_complete(&load);
    let captured = capture.take();
    assert_eq!(data(&captured, &b.join("open")), b"still captured");
    assert_eq!(data(&captured, &b.join("later")), b"");
    assert_eq!(data(&captured, &c.join("new")), b"captured");
    assert_eq!(of(&captured, &a.join("f")).len(), 2_000);
    assert_eq!(data(&captured, &a.join("f")), fs::read(a.join("f")).unwrap());
    assert_eq!(fs::read(b.join("open")).unwrap(), b"still captured");

    // Back again, with a file of the old overlay still open.
    bywash.edit("", &section(&b));
    bywash.reload_agent();
    append(&b.join("later"), b", captured");
    write_once(&mut open_in_b, b" twice");
    let captured = capture.take();
    assert_eq!(data(&captured, &b.join("later")), b", captured");
    assert_eq!(data(&captured, &b.join("open")), b" twice");
    drop(open_in_b);
    bywash.stop_agent();
    assert!([&a, &b, &c].into_iter().all(|directory| !mounts::is_mounted(directory)));
}

#[test]
fn a_broken_configuration_is_refused_with_its_error_and_the_old_one_stays() {
    let mut bywash = Bywash::new("localhost:9", &two());
    bywash.start_agent();
    let mut capture = Capture::attach(&bywash.ring);
    let (a, b) = (bywash.root().join("a"), bywash.root().join("b"));
    let good = fs::read_to_string(&bywash.config).unwrap();
    let gone = bywash.root().join("gone");
    let broken = [
        (good.replace(&section(&b), "\n[[directory]]\npath = 5\n"), "directory.path"),
        (good.replace(&section(&b), "\n[[directory]]\npaht = \"/x\"\n"), "paht"),
        // Right in itself, and one directory of it cannot be had: none of the rest is applied either.
        (good.replace(&section(&b), &section(&gone)), gone.to_str().unwrap()),
        (String::new(), "no directory and no FIFO is configured"),
    ];
    for (text, word) in broken {
        fs::write(&bywash.config, text).unwrap();
        let said = bywash.reload_agent();
        assert!(said.contains("refused") && said.contains(word), "`{word}` is not in: {said}");
        for directory in [&a, &b] {
            append(&directory.join("f"), b"x");
            assert_eq!(data(&capture.take(), &directory.join("f")), b"x", "after {word}");
        }
    }
    fs::remove_file(&bywash.config).unwrap();
    assert!(bywash.reload_agent().contains("cannot read"));
    append(&b.join("f"), b"x");
    assert_eq!(capture.take().len(), 1);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_applied() {
    let mut bywash = Bywash::new("localhost:9", &two());
    bywash.start_agent();
    let b = bywash.root().join("b");
    bywash.edit("16MiB", "8MiB");
    bywash.edit(&section(&b), "");
    let said = bywash.reload_agent();
    assert!(said.contains("ring.size has changed") && said.contains("restarted"), "{said}");
    assert!(!said.contains("ring.name has changed"), "{said}");
    assert!(said.contains("in force") && !mounts::is_mounted(&b), "{said}");
}
