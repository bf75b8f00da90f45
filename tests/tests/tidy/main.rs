//! What holds of the sources and documents themselves: layers, names, citations, tables. Nothing runs here, so `make check` is quick.

// A test says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod docs;
mod floors;
mod guarantees;
mod operations;
mod troubleshooting;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files of Rust below `directory`.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All files of Rust that may hold tests.
fn all_sources() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for directory in [
        "common/src",
        "common/tests",
        "fs-agent/src",
        "publisher/src",
        "publisher/tests",
        "tests/src",
        "tests/tests",
    ] {
        sources(&root().join(directory), &mut paths);
    }
    paths
}
