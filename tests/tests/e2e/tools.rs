//! Ordinary programs find nothing unusual about an overlay: they leave the same tree inside as outside (G1).

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_tests::harness::{
    Broker, Bywash, Settings, ledger, process::must_run, tree, wait::TIMEOUT, workload::noise,
};

/// Names, depths, sizes, modes and links as a source tree has them.
fn make_source_tree(root: &Path) {
    for (i, size) in [0, 1, 100, 4096, 70_000, 1 << 20].into_iter().enumerate() {
        let directory = root.join(format!("dir {i}/deep/er"));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("data.bin");
        fs::write(&file, noise(i as u64, size)).unwrap();
        must_run(Command::new("chmod").arg(["600", "644", "755", "400", "640", "711"][i]).arg(&file));
        symlink("../er/data.bin", root.join(format!("dir {i}/link"))).unwrap();
    }
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join(".hidden"), "hidden").unwrap();
    fs::write(root.join("name with äöü"), "text").unwrap();
    fs::hard_link(root.join(".hidden"), root.join("hard")).unwrap();
}

/// A watched directory and an ordinary one, in which the same is done.
struct Pair {
    broker: Broker,
    bywash: Bywash,
    outside: PathBuf,
}

impl Pair {
    fn start() -> Self {
        let broker = Broker::start();
        // Tools write a lot at once; what they write must not be lost to the ring's size.
        let bywash = Bywash::start(&broker, &Settings { ring_size: "256MiB", ..Settings::default() });
        let outside = bywash.root().join("outside");
        fs::create_dir(&outside).unwrap();
        Self { broker, bywash, outside }
    }

    fn inside(&self) -> &Path {
        self.bywash.directory()
    }

    /// Does the same in both.
    fn both(&self, mut act: impl FnMut(&Path)) {
        act(&self.outside);
        act(self.inside());
    }

    #[track_caller]
    fn assert_same(&self, differs_by_nature: impl Fn(&Path) -> bool) {
        tree::assert_same(&self.outside, self.inside(), differs_by_nature);
        let lost = self.bywash.agent_status()["lost"].clone();
        let events = lost.as_object().expect("losses by reason").values().map(|l| l["events"].as_u64());
        assert_eq!(events.map(Option::unwrap_or_default).sum::<u64>(), 0, "something was lost: {lost}");
    }

    /// The events of a file that was written once from its beginning to its end make that file.
    #[track_caller]
    fn assert_captured(&self, path: &Path) {
        let content = fs::read(path).unwrap();
        let events = self.broker.read("logs").events_of(&[(path, content.len() as u64)]);
        let (events, _) = ledger::distinct(events);
        let files = ledger::by_path(&events);
        let replayed = ledger::replay(files[path.to_str().unwrap()].iter().copied());
        ledger::assert_same_bytes(path.to_str().unwrap(), &content, &replayed);
    }
}

/// git without anyone's settings.
fn git(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(arguments);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        // How threads share the packing decides what the pack looks like.
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "pack.threads"),
        ("GIT_CONFIG_VALUE_0", "1"),
        ("GIT_AUTHOR_NAME", "a"),
        ("GIT_AUTHOR_EMAIL", "a@example.org"),
        ("GIT_COMMITTER_NAME", "a"),
        ("GIT_COMMITTER_EMAIL", "a@example.org"),
        ("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z"),
        ("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z"),
    ] {
        command.env(name, value);
    }
    command
}

#[test]
fn git_clones_and_commits() {
    let pair = Pair::start();
    let origin = pair.bywash.root().join("origin");
    fs::create_dir(&origin).unwrap();
    make_source_tree(&origin);
    must_run(&mut git(&origin, &["init", "--quiet", "--initial-branch=main"]));
    must_run(&mut git(&origin, &["add", "--all"]));
    must_run(&mut git(&origin, &["commit", "--quiet", "--message=first"]));
    pair.both(|directory| {
        must_run(&mut git(directory, &["clone", "--quiet", "--no-local", origin.to_str().unwrap(), "clone"]));
        let clone = directory.join("clone");
        fs::write(clone.join("new"), "new").unwrap();
        must_run(&mut git(&clone, &["add", "new"]));
        must_run(&mut git(&clone, &["commit", "--quiet", "--message=second"]));
        must_run(&mut git(&clone, &["gc", "--quiet"]));
        must_run(&mut git(&clone, &["fsck", "--strict"]));
        assert_eq!(must_run(&mut git(&clone, &["status", "--porcelain"])), "");
    });
    // The index holds inode numbers and times; the reflog of a clone holds the time of the clone.
    pair.assert_same(|path| path.ends_with(".git/index") || path.starts_with("clone/.git/logs"));
    pair.assert_captured(&pair.inside().join("clone/new"));
}

#[test]
fn cargo_builds() {
    let pair = Pair::start();
    pair.both(|directory| {
        let package = directory.join("small");
        fs::create_dir_all(package.join("src")).unwrap();
        fs::write(
            package.join("Cargo.toml"),
            "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
        )
        .unwrap();
        fs::write(package.join("src/lib.rs"), "pub fn answer() -> u32 { 42 }\n").unwrap();
        fs::write(package.join("src/main.rs"), "fn main() { println!(\"{}\", small::answer()); }\n").unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(&package).args(["build", "--offline", "--quiet", "--target-dir", "target"]);
        for (name, _) in std::env::vars_os() {
            // What the cargo that runs this test says about itself.
            if name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME" {
                build.env_remove(name);
            }
        }
        must_run(&mut build);
        assert_eq!(must_run(&mut Command::new(package.join("target/debug/small"))), "42\n");
    });
    // Paths and times are part of what the compiler writes and of the names that it gives.
    let sources = ["Cargo.toml", "Cargo.lock", "src/lib.rs", "src/main.rs"];
    for name in sources {
        let read = |directory: &Path| fs::read(directory.join("small").join(name)).unwrap();
        assert_eq!(read(&pair.outside), read(pair.inside()), "{name}");
    }
    pair.assert_captured(&pair.inside().join("small/Cargo.lock"));
}

#[test]
fn sqlite_keeps_a_database_with_a_write_ahead_log() {
    let pair = Pair::start();
    let script = "PRAGMA journal_mode = WAL; CREATE TABLE t (i INTEGER PRIMARY KEY, v BLOB); BEGIN; \
                  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
                  INSERT INTO t SELECT i, zeroblob(i % 300) FROM n; COMMIT; \
                  UPDATE t SET v = 'changed' WHERE i % 7 = 0; DELETE FROM t WHERE i % 5 = 0;";
    pair.both(|directory| {
        let database = directory.join("db");
        let mode = must_run(Command::new("sqlite3").arg(&database).arg(script));
        assert_eq!(mode.trim(), "wal", "sqlite takes a write-ahead log here");
        let check = must_run(Command::new("sqlite3").arg(&database).arg("PRAGMA integrity_check;"));
        assert_eq!(check.trim(), "ok");
        // While one process reads, another writes: the locks and the shared index work.
        must_run(Command::new("sqlite3").arg(&database).arg("INSERT INTO t VALUES (100000, 'x');"));
    });
    let dump = |directory: &Path| must_run(Command::new("sqlite3").arg(directory.join("db")).arg(".dump"));
    assert_eq!(dump(&pair.outside), dump(pair.inside()));
    pair.assert_same(|path| path.ends_with("db"));
}

#[test]
fn tar_packs_and_unpacks() {
    let pair = Pair::start();
    let source = pair.bywash.root().join("source");
    fs::create_dir(&source).unwrap();
    make_source_tree(&source);
    pair.both(|directory| {
        let archive = directory.join("archive.tar");
        must_run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&source).arg("."));
        let unpacked = directory.join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        must_run(Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(&unpacked));
    });
    pair.assert_same(|_| false);
    tree::assert_same(&source, &pair.inside().join("unpacked"), |_| false);
    pair.assert_captured(&pair.inside().join("archive.tar"));
    for (path, length) in tree::files(&pair.inside().join("unpacked")) {
        if length > 0 && !path.ends_with(".hidden") && !path.ends_with("hard") {
            pair.assert_captured(&path);
        }
    }
}

#[test]
fn rsync_copies_and_updates() {
    let pair = Pair::start();
    let source = pair.bywash.root().join("source");
    fs::create_dir(&source).unwrap();
    make_source_tree(&source);
    let rsync = |directory: &Path| {
        let mut command = Command::new("rsync");
        command.args(["-aH", "--delete", "--checksum"]).arg(format!("{}/", source.display())).arg(directory);
        must_run(&mut command);
    };
    pair.both(rsync);
    fs::write(source.join("name with äöü"), "changed").unwrap();
    fs::remove_file(source.join("hard")).unwrap();
    pair.both(rsync);
    pair.assert_same(|_| false);
    tree::assert_same(&source, pair.inside(), |_| false);
}

#[test]
fn dd_writes_directly() {
    let pair = Pair::start();
    let input = pair.bywash.root().join("input");
    fs::write(&input, noise(7, 1 << 20)).unwrap();
    pair.both(|directory| {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", input.display())).arg(format!("of={}", directory.join("direct").display()));
        must_run(dd.args(["bs=4096", "oflag=direct", "status=none"]));
    });
    pair.assert_same(|_| false);
    pair.bywash.drain(TIMEOUT);
    pair.assert_captured(&pair.inside().join("direct"));
}

#[test]
fn appending_and_truncating_shells_see_what_they_expect() {
    let pair = Pair::start();
    pair.both(|directory| {
        let script = "set -e; cd \"$0\"; echo one > f; echo two >> f; : > empty; cp f g; mv g h; ln h i; \
                      truncate -s 2 h; sed -i s/one/1/ f; cat f f > ff; mkdir -p d/e; rm -r d; chmod 0604 ff; \
                      mkfifo p; ln -s nowhere dangling; head -c 100000 /dev/zero > zeros";
        must_run(Command::new("bash").args(["-c", script]).arg(directory));
    });
    pair.assert_same(|_| false);
}
