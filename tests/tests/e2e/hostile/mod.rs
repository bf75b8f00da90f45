//! What a user without any privilege tries, to gain a right, to stop, slow, fill or blind the agent; and what comes of it
//! (G9). Each test is an attempt; its name says how it ends.
//!
//! Most do the same in the directory below first, before there is an overlay: the overlay gives nobody more than that.

mod access;
mod blind;
mod exhaust;
mod names;
mod rights;
mod stuck;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bywash_tests::harness::{Bywash, Settings, process};
use nix::unistd::Uid;
use serde_json::Value;

use crate::overlay::NO_BROKER;

/// The attacker.
const NOBODY: u32 = 65534;
/// For one script.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Attempts that succeed still, each with what is to be mended; a test is to be taken off when it is. `TEST_PENDING=1` has
/// them tried all the same.
const PENDING: &[(&str, &str)] = &[];

/// Scripts see `path`, fill `seen`, and have these.
const PRELUDE: &str = r#"
import ctypes, errno, fcntl, json, mmap, os, signal, socket, stat, struct, subprocess, sys, time
path = sys.argv[1]
seen = {}
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, do):
    try:
        result = do()
        seen[name] = result if isinstance(result, (bool, int, str, list)) else "done"
    except OSError as e:
        seen[name] = errno.errorcode[e.errno]
    except subprocess.CalledProcessError as e:
        seen[name] = f"exit code {e.returncode}"
def put(name, content=b"content", mode=0o644, uid=0, gid=0):
    with open(f"{path}/{name}", "wb") as f: f.write(content)
    os.chown(f"{path}/{name}", uid, gid); os.chmod(f"{path}/{name}", mode)
def mode(name): return oct(os.lstat(f"{path}/{name}").st_mode)
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), "system call")
    return result
"#;

/// Whether a test is to be left out; it says why.
fn is_left_out(test: &str) -> bool {
    if !Uid::effective().is_root() {
        println!("skipped: only root can act as others");
        return true;
    }
    if let Some((_, why)) = PENDING.iter().find(|(name, _)| *name == test)
        && std::env::var_os("TEST_PENDING").is_none()
    {
        println!("skipped: pending: {why}");
        return true;
    }
    false
}

/// A command that nobody in particular runs.
fn nobody() -> Command {
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL", "--"]);
    command
}

/// A Python that everybody may run: another one that root has may lie in root's home.
fn python() -> &'static str {
    const OF_ALL: &str = "/usr/bin/python3";
    if Path::new(OF_ALL).exists() { OF_ALL } else { "python3" }
}

/// Has a script run by a command before it; gives what it has seen.
#[track_caller]
fn script(mut command: Command, path: &Path, lines: &str) -> Value {
    command.arg(python()).arg("-c").arg(format!("{PRELUDE}\n{lines}\nprint(json.dumps(seen))")).arg(path);
    let finished = process::run(&mut command, TIME_MAX);
    assert_eq!(finished.code, Some(0), "a script failed: {}\n{}", finished.stdout, finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

/// The same, by nobody in particular.
#[track_caller]
fn by_nobody(path: &Path, lines: &str) -> Value {
    script(nobody(), path, lines)
}

/// The same, by root.
#[track_caller]
fn by_root(path: &Path, lines: &str) -> Value {
    script(Command::new("env"), path, lines)
}

/// A directory, and then one with its overlay, in both of which everybody may make files.
struct Ground {
    bywash: Bywash,
    below: PathBuf,
    above: PathBuf,
}

impl Ground {
    /// No agent runs yet.
    fn new() -> Self {
        Self::with(&Settings::default())
    }

    /// On a filesystem in memory: for what takes a disk longer than the agent.
    fn in_memory() -> Self {
        let bywash = Bywash::new(NO_BROKER, &Settings::default());
        process::must_run(Command::new("mount").args(["-t", "tmpfs", "bywash-test"]).arg(bywash.directory()));
        Self::on(bywash)
    }

    fn with(settings: &Settings) -> Self {
        Self::on(Bywash::new(NO_BROKER, settings))
    }

    fn on(bywash: Bywash) -> Self {
        let [below, above] = ["below", "above"].map(|name| bywash.file(name));
        for directory in [&below, &above] {
            fs::create_dir(directory).unwrap();
        }
        for directory in [bywash.root(), bywash.directory(), &below, &above] {
            open_to_all(directory);
        }
        Self { bywash, below, above }
    }

    /// The agent runs.
    fn overlaid() -> Self {
        let mut ground = Self::new();
        ground.bywash.start_agent();
        ground
    }

    /// What a series of scripts sees below, and then above. Those of root prepare and look; what they see comes last.
    #[track_caller]
    fn both(&mut self, prepare: &str, attack: &str, look: &str) -> [Value; 2] {
        let all = |path: &Path| {
            by_root(path, prepare);
            let attacked = by_nobody(path, attack);
            Value::from(vec![attacked, by_root(path, look)])
        };
        let below = all(&self.below);
        self.bywash.start_agent();
        [below, all(&self.above)]
    }
}

/// What a series of scripts sees above is what it sees below; gives that.
#[track_caller]
fn assert_same(prepare: &str, attack: &str, look: &str) -> Value {
    let [below, above] = Ground::new().both(prepare, attack, look);
    assert_eq!(above, below, "above the overlay and below");
    below
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
}

/// Somebody else's file operations work still, within a time that nobody minds.
#[track_caller]
fn assert_works(ground: &Ground) {
    let begin = std::time::Instant::now();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        r#"echo "still here" > "$1/of-root" && cat "$1/of-root" && ls "$1" > /dev/null"#,
        "sh",
    ]);
    let finished = process::run(command.arg(&ground.above), Duration::from_secs(20));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "still here\n"), "{finished:?}");
    println!("others' operations took {} ms", begin.elapsed().as_millis());
}
