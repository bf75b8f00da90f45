//! Everything between a test and the processes that it is about.
//!
//! Whatever a test starts is gone when it ends, passed, panicked or killed: each owner cleans up in its `Drop`; the
//! kernel signals the processes of a test that died without (`setpriv --pdeathsig`); and `make clean-up`
//! removes the mounts and rings of test processes that no longer exist.

mod acceptor;
pub mod aws_identity;
pub mod broker;
pub mod bywash;
pub mod capture;
pub mod cluster;
pub mod event;
pub mod fault_proxy;
pub mod http;
pub mod kafka_proxy;
pub mod kinesis;
pub mod ledger;
pub mod machine;
pub mod mounts;
pub mod process;
pub mod scrape;
pub mod token_endpoint;
pub mod topic;
pub mod tree;
pub mod trial;
pub mod wait;
pub mod workload;

pub use aws_identity::AwsIdentity;
pub use broker::Broker;
pub use bywash::{Bywash, Settings, spawn_in};
pub use capture::{Capture, Captured};
pub use cluster::Cluster;
pub use event::Event;
pub use fault_proxy::{Fault, FaultProxy};
pub use kafka_proxy::{Account, Authority, Cut, Guard, KafkaProxy, Mechanism};
pub use kinesis::Kinesis;
pub use machine::Machine;
pub use process::Process;
pub use scrape::Scrape;
pub use token_endpoint::TokenEndpoint;
pub use topic::{Message, Reader};
pub use trial::{Outcome, Trial};
pub use workload::{Load, LoadReport};

use std::path::{Path, PathBuf};

/// What begins the names of temporary directories and rings; the process id follows. `make clean-up` knows it.
pub const PREFIX: &str = "bywash-test";

/// A new temporary directory.
pub fn temporary_directory() -> tempfile::TempDir {
    let prefix = format!("{PREFIX}-{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory")
}

/// A program of this workspace, built with the same profile as the running one; or that of `TEST_PROGRAMS`, a directory, if it is
/// there: so that debug builds of tests measure release builds of what they test.
pub fn program(name: &str) -> PathBuf {
    let preferred = std::env::var_os("TEST_PROGRAMS").map(|directory| Path::new(&directory).join(name));
    if let Some(path) = preferred.filter(|path| path.exists()) {
        return path;
    }
    let path = profile_directory().join(name);
    assert!(path.exists(), "{} is missing: run cargo build --workspace first", path.display());
    path
}

/// A program that `make setup` puts beside the build.
pub fn tool(name: &str) -> PathBuf {
    let path = target_directory().join("tools").join(name);
    assert!(path.exists(), "{} is missing: run make setup first", path.display());
    path
}

/// The build, with what tools and tests have made beside it.
fn target_directory() -> PathBuf {
    profile_directory().parent().map(Path::to_owned).expect("a target directory")
}

/// `target/debug` or `target/release`: where the running program lies, or `deps` below it.
fn profile_directory() -> PathBuf {
    let exe = std::env::current_exe().expect("the running program's path");
    let directory = exe.parent().expect("a directory above the running program");
    let is_deps = directory.file_name().is_some_and(|name| name == "deps");
    if is_deps { directory.parent().map(Path::to_owned).unwrap_or_default() } else { directory.to_owned() }
}
