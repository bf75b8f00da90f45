//! The machine on which the package is tried, and what is done there again and again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bywash_tests::harness::{
    Broker, Machine,
    wait::{self, TIMEOUT},
};

use crate::arrivals::{Arrivals, Written};

/// The directory that is watched.
pub const WATCHED: &str = "/srv/watched";
/// Where events go.
pub const TOPIC: &str = "packages";
/// Files that a resident has open.
const RESIDENT_FILES: u32 = 400;
/// How long a program may wait for the agent to be back, in milliseconds: `agent.restart_wait` is 10 s.
const WAIT_MS_MAX: u64 = 9_000;

/// The machine, the broker outside, and what has arrived there.
pub struct Installed {
    /// Where the package is.
    pub machine: Machine,
    /// Where events go.
    pub broker: Broker,
    /// What has come there.
    pub arrivals: Arrivals,
}

impl Installed {
    /// Boots the machine; both packages are in its `/root`.
    pub fn new(root: &Path, package: &PathBuf, next: &PathBuf) -> Self {
        let broker = Broker::start();
        let machine = Machine::boot(root);
        for (from, to) in [(package, "bywash.deb"), (next, "next.deb")] {
            fs::copy(from, machine.outside("/root").join(to)).unwrap_or_else(|e| panic!("{from:?}: {e}"));
        }
        let arrivals = Arrivals::of(&broker, TOPIC);
        Self { machine, broker, arrivals }
    }

    /// The configuration of most rows, with more sections behind it. Pages of a resident's mappings come as often as the kernel
    /// writes them: they are left out.
    pub fn configuration(&self, more: &str) -> String {
        let broker = self.broker.address();
        format!(
            "[ring]\ngroup = \"bywash\"\nsize = \"128MiB\"\n\n[[directory]]\npath = {WATCHED:?}\ncreate = true\nexclude = [\"mapped-*\"]\n\n\
             [kafka]\nbrokers = [{broker:?}]\ntopic = {TOPIC:?}\n\n{more}"
        )
    }

    /// Writes the configuration as an administrator does: the file keeps its owner and mode.
    pub fn configure(&self, text: &str) {
        fs::write(self.machine.outside("/etc/bywash/bywash.toml"), text).unwrap();
    }

    /// Both services run, and the directory is watched.
    #[track_caller]
    pub fn assert_runs(&self) {
        let machine = &self.machine;
        wait::until("both services to run", TIMEOUT, || {
            let state = machine.run("systemctl is-active fs-agent publisher").stdout;
            if state == "active\nactive\n" { Ok(()) } else { Err(state) }
        });
        machine.must(&format!("mountpoint -q {WATCHED}"));
    }

    /// Appends lines to a file of its own below the watched directory, one write each; gives directory and account.
    #[track_caller]
    pub fn write(&self, name: &str, lines: u64) -> (String, Written) {
        let directory = format!("{WATCHED}/{name}");
        let file = format!("{directory}/log");
        self.machine.must(&format!(
            "mkdir -p {directory} && for i in $(seq {lines}); do echo line $i of {name} || exit 1; done >>{file}"
        ));
        let bytes = self.machine.must(&format!("stat -c %s {file}")).parse().expect("a size");
        (directory, Written { writes: lines, bytes })
    }

    /// Has something happen while a program with everything that programs have in a directory lives there: it must notice
    /// nothing, and each of its writes must arrive. Gives what the row says of it.
    #[track_caller]
    pub fn live_through(&mut self, name: &str, happen: impl FnOnce(&mut Self)) -> String {
        let directory = format!("{WATCHED}/{name}");
        let unit = format!("resident-{name}");
        self.machine.settle(&unit, &directory, RESIDENT_FILES);
        happen(self);
        let report = self.machine.leave(&unit);
        let errors = report.errors();
        assert!(
            errors.is_empty(),
            "{} errors: {:#?}",
            errors.len(),
            errors.iter().take(10).collect::<Vec<_>>()
        );
        let (longest_ms, whose) = report.longest();
        assert!(longest_ms <= WAIT_MS_MAX, "{whose} waited {longest_ms} ms");
        let (writes, bytes) = report.written();
        let lost = self.arrivals.expect(&directory, Written { writes, bytes });
        assert_eq!(lost, Written::default(), "lost");
        format!("0 errors, {writes} writes arrived once, longest wait {longest_ms} ms")
    }

    /// Prints what the services logged, for a row that failed.
    pub fn explain(&self) {
        for unit in ["fs-agent", "publisher"] {
            eprintln!("--- {unit}:\n{}", self.machine.journal(unit));
        }
    }
}
