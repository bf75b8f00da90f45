//! Processes that do the same in two directories, each as another user, and tell what came of it.
//!
//! A test asks [`Company`] for a step; the process that it is for does it in the first directory, then in the second. One
//! line of JSON goes each way.

pub mod operation;
pub mod world;

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::fs::IFlags;
use serde::{Deserialize, Serialize};

use crate::harness::{process::must_run, program};
use operation::{Caller, Credentials, Seen, Step, Told};

/// What is set of FS_IOC_SETFLAGS.
pub const INODE_FLAGS: IFlags =
    IFlags::APPEND.union(IFlags::IMMUTABLE).union(IFlags::NODUMP).union(IFlags::NOATIME);

/// More bytes than these are told as a sum.
const BYTES_TOLD_MAX: usize = 64;

/// What a process is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Begins anew in two directories: nothing is open, the usual umask, no limit.
    Begin([PathBuf; 2]),
    /// Does this in both.
    Perform(Step),
}

/// What the two directories gave.
pub type Answer = [Told; 2];

/// The processes.
pub struct Company {
    actors: Vec<Actor>,
}

/// One process.
pub struct Actor {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Company {
    /// Starts all of them. `directory` is where a program is put that they run; all of them can reach it.
    pub fn start(directory: &Path) -> Self {
        let mapper = directory.join("map");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/map.c");
        must_run(Command::new("cc").args(["-Wall", "-Werror", "-O1", "-o"]).arg(&mapper).arg(source));
        // As a user it could not be run from a build directory that is root's alone.
        let copy = directory.join("actor");
        fs::copy(program("actor"), &copy).expect("a copy of the actor");
        let start = |caller: Caller| Actor::start(&copy, &mapper, caller.credentials());
        Self { actors: Caller::PROCESSES.map(start).into() }
    }

    /// Begins anew in two directories.
    pub fn begin(&mut self, directories: &[PathBuf; 2]) {
        self.actors.iter_mut().for_each(|actor| actor.begin(directories));
    }

    /// Has who is to do it do one step in both.
    pub fn perform(&mut self, step: &Step) -> Answer {
        self.actors[step.caller.process()].perform(step)
    }

    /// Each process, in the order of [`Caller::PROCESSES`], to act at the same time as the others.
    pub fn actors(&mut self) -> &mut [Actor] {
        &mut self.actors
    }
}

impl Actor {
    fn start(program: &Path, mapper: &Path, credentials: Option<Credentials>) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(Credentials { uid, gid, groups }) = credentials {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            if groups.is_empty() {
                command.arg("--clear-groups");
            } else {
                let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
                command.arg(format!("--groups={}", groups.join(",")));
            }
        }
        command.arg("--").arg(program).arg(mapper).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("an actor");
        let (requests, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, requests, answers }
    }

    /// Begins anew in two directories.
    pub fn begin(&mut self, directories: &[PathBuf; 2]) {
        self.ask(&Request::Begin(directories.clone()));
    }

    /// Does one step in both.
    pub fn perform(&mut self, step: &Step) -> Answer {
        let answer = self.ask(&Request::Perform(step.clone()));
        answer.unwrap_or_else(|| panic!("no answer to {step:?}"))
    }

    fn ask(&mut self, request: &Request) -> Option<Answer> {
        let mut line = serde_json::to_string(request).unwrap();
        line.push('\n');
        self.requests.write_all(line.as_bytes()).unwrap_or_else(|e| panic!("an actor has ended: {e}"));
        line.clear();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Bytes that are too many to be told become a sum.
pub fn abridged(seen: Seen) -> Seen {
    match seen {
        Seen::Bytes(bytes) if bytes.len() > BYTES_TOLD_MAX => {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            Seen::Many(bytes.len(), hasher.finish())
        }
        other => other,
    }
}
