//! README's guarantees and the tests that hold them name each other.
//!
//! A test that holds a guarantee says so above itself: the words `Guarantee` and the guarantee's id, with a colon between, in a comment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{all_sources, root};

/// How a citation begins, after the slashes.
const CITATION: &str = "Guarantee: ";

/// The tests that README's table names, by guarantee.
fn promised() -> BTreeMap<String, BTreeSet<String>> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let rows = readme.lines().skip_while(|line| *line != "| guarantee | what it says | tests |").skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
            let id = cells[0].split_whitespace().next().unwrap().to_owned();
            let tests = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            (id, tests)
        })
        .collect()
}

/// The tests of a source that cite guarantees, with the ids; what is cited by no test has an empty name.
fn cited_in(source: &str) -> Vec<(String, String)> {
    let mut cited = Vec::new();
    let mut pending: Vec<String> = Vec::new();
    for line in source.lines().map(str::trim) {
        let citation = line.trim_start_matches('/').trim().strip_prefix(CITATION);
        if let Some(ids) = citation.filter(|_| line.starts_with("//")) {
            pending.extend(ids.split(", ").map(|id| id.trim_end_matches('.').to_owned()));
        } else if let Some((before, name)) = line.split_once("fn ").filter(|_| !pending.is_empty()) {
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            let is_function = before.is_empty() || before.starts_with("async") || before.starts_with("pub");
            let name = if is_function { &name[..end] } else { "" };
            cited.extend(pending.drain(..).map(|id| (id, name.to_owned())));
        } else if !(line.starts_with("//") || line.starts_with('#')) {
            cited.extend(pending.drain(..).map(|id| (id, String::new())));
        }
    }
    cited
}

#[test]
fn each_guarantee_is_cited_by_its_tests_and_nothing_else_is_cited() {
    let promised = promised();
    let ids: Vec<&str> = promised.keys().map(String::as_str).collect();
    assert_eq!(ids, ["G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9"]);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in all_sources() {
        for (id, test) in cited_in(&fs::read_to_string(&path).unwrap()) {
            assert!(promised.contains_key(&id), "{} cites {id}, which README does not have", path.display());
            assert!(!test.is_empty(), "{}: {id} is cited above no function", path.display());
            found.entry(id).or_default().insert(test);
        }
    }
    for (id, tests) in &promised {
        assert!(!tests.is_empty(), "README names no test for {id}");
        let cited = found.get(id).cloned().unwrap_or_default();
        let missing: Vec<&String> = tests.difference(&cited).collect();
        assert!(
            missing.is_empty(),
            "README names {missing:?} for {id}: write `// {CITATION}{id}` above each"
        );
    }
}

#[test]
fn a_citation_is_found_above_its_test_alone() {
    let source = "// Guarantee: G1, G2\n#[test]\nfn one() {\n    // Guarantee: G3\n    let x = 1;\n}\n";
    let named = |id: &str, test: &str| (id.to_owned(), test.to_owned());
    assert_eq!(cited_in(source), [named("G1", "one"), named("G2", "one"), named("G3", "")]);
}
