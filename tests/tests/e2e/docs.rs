//! The documents name tests and files that are there.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

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

/// The names of all tests in a source: the function behind each `#[test]`.
fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    source.split("#[test]").skip(1).filter_map(|behind| {
        let name = behind.split_once("fn ")?.1;
        Some(&name[..name.find(|c: char| !c.is_alphanumeric() && c != '_')?])
    })
}

#[test]
fn what_the_documents_name_is_there() {
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
    let sources: Vec<String> = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let tests: HashSet<&str> = sources.iter().flat_map(|source| tests_in(source)).collect();
    for document in fs::read_dir(root().join("docs")).unwrap().flatten() {
        let text = fs::read_to_string(document.path()).unwrap();
        let shown = document.path().display().to_string();
        let mut held = 0;
        let mut in_claims = false;
        for line in text.lines() {
            in_claims = line == "| claim | test |" || (in_claims && line.starts_with('|'));
            let Some((claim, by)) =
                line.trim_end_matches([' ', '|']).rsplit_once(" | ").filter(|_| in_claims)
            else {
                continue;
            };
            let names: Vec<&str> = by.split('`').skip(1).step_by(2).collect();
            for name in &names {
                assert!(tests.contains(name), "{shown} names the test `{name}`, which is not there: {claim}");
            }
            held += names.len();
            assert!(
                !names.is_empty() || line.contains("| claim |") || line.starts_with("|---"),
                "nothing holds: {line}"
            );
        }
        assert!(held > 0, "{shown} names no test");
        for path in
            text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && name.ends_with(".rs"))
        {
            assert!(root().join(path).is_file(), "{shown} names {path}, which is not there");
        }
    }
}
