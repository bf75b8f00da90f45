//! The documents name tests and files that are there, and their links lead somewhere.

use std::{collections::HashSet, fs, path::PathBuf};

use serde_json::Value;

use super::{all_sources, root};

/// The heads of the tables whose last column names the tests that hold what a row says.
const CLAIMS: [&str; 2] = ["| claim | test |", "| guarantee | what it says | tests |"];

/// The documents that have such a table.
const CLAIMED: [&str; 2] = ["README.md", "threat-model.md"];

/// What people read: the documents at the top and those below `docs`.
fn documents() -> Vec<PathBuf> {
    let top = ["README.md", "ARCHITECTURE.md"].map(|name| root().join(name));
    let below = fs::read_dir(root().join("docs")).unwrap().flatten().map(|entry| entry.path());
    top.into_iter().chain(below.filter(|path| path.extension().is_some_and(|end| end == "md"))).collect()
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
    let sources: Vec<String> = all_sources().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let tests: HashSet<&str> = sources.iter().flat_map(|source| tests_in(source)).collect();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let shown = document.display().to_string();
        let mut held = 0;
        let mut in_claims = false;
        for line in text.lines() {
            in_claims = CLAIMS.contains(&line) || (in_claims && line.starts_with('|'));
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
                !names.is_empty() || CLAIMS.contains(&line) || line.starts_with("|---"),
                "nothing holds: {line}"
            );
        }
        assert!(held > 0 || !CLAIMED.iter().any(|name| document.ends_with(name)), "{shown} names no test");
        for path in
            text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && name.ends_with(".rs"))
        {
            assert!(root().join(path).is_file(), "{shown} names {path}, which is not there");
        }
    }
}

/// The headings of a document, as links name them: GitHub's rule for what has no two alike.
fn anchors(text: &str) -> HashSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn what_the_documents_link_to_is_there() {
    let mut links = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let shown = document.display();
        for target in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(path.exists(), "{shown} links to {target}, which is not there");
            if !heading.is_empty() {
                let there = anchors(&fs::read_to_string(&path).unwrap());
                assert!(there.contains(heading), "{shown} links to {target}; there are {there:?}");
            }
            links += 1;
        }
    }
    assert!(links > 20, "{links} links");
}

/// Stands before a table of README's that has figures of `docs/report/benchmarks.json`; a part's id and a table's title follow.
const FIGURES: &str = "<!-- docs/report/benchmarks.json: ";

/// The cells of a line of a table.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// The one in a list of JSON whose `key` is that.
fn named<'a>(list: &'a Value, key: &str, name: &str) -> (usize, &'a Value) {
    let all = list.as_array().unwrap();
    let found = all.iter().enumerate().find(|(_, one)| one[key] == name);
    found.unwrap_or_else(|| panic!("docs/report/benchmarks.json has no {name:?} among {all:?}"))
}

#[test]
fn the_figures_of_readme_are_those_of_the_benchmarks_page() {
    let report: Value =
        serde_json::from_str(&fs::read_to_string(root().join("docs/report/benchmarks.json")).unwrap())
            .unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (what, key) in [("date", &report["began"]), ("command", &report["command"])] {
        let said = key.as_str().unwrap().split('T').next().unwrap();
        assert!(readme.contains(said), "README does not say the run's {what}, {said}");
    }
    let mut figures = 0;
    for behind in readme.split(FIGURES).skip(1) {
        let (place, text) = behind.split_once(" -->\n").unwrap();
        let (part, title) = place.split_once('/').unwrap();
        let (_, table) = named(&named(&report["parts"], "id", part).1["tables"], "title", title);
        let mut lines = text.lines().take_while(|line| line.starts_with('|'));
        let head = cells(lines.next().unwrap());
        for line in lines.skip(1) {
            let row = cells(line);
            let (_, of_row) = named(&table["rows"], "name", row[0]);
            for (name, shown) in head.iter().zip(&row).skip(1) {
                let (column, _) = named(&table["columns"], "name", name.split(',').next().unwrap());
                let median = of_row["cells"][column]["figure"]["median"].as_f64().unwrap();
                let digits = shown.split_once('.').map_or(0, |(_, behind)| behind.len());
                let figure: f64 = shown.replace(',', "").parse().unwrap();
                let off = (figure - median).abs() * 10f64.powi(i32::try_from(digits).unwrap());
                assert!(off <= 0.5 + 1e-6, "README has {shown} for {name} of {}; it is {median}", row[0]);
                figures += 1;
            }
        }
    }
    assert!(figures > 10, "{figures} figures");
}
