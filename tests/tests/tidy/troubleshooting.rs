//! docs/troubleshooting.md and the log's warnings and errors name each other.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{root, sources};

/// Stands in the page for a value.
const VALUE: char = '…';

/// Messages that have no row, each with the reason.
const EXCEPTIONS: [(&str, &str); 4] = [
    ("…", "an error's own text, which names what failed, why, and the way out where there is one"),
    ("……", "the same, and how many others like it were left out"),
    ("…\n…", "a panic with its backtrace"),
    ("…: …", "an error of the system, with what was tried"),
];

/// A warning or an error of the programs.
struct Logged {
    file: PathBuf,
    text: String,
}

/// The messages of all warnings and errors, each value as [`VALUE`].
fn logged() -> Vec<Logged> {
    let mut paths = Vec::new();
    for of in ["common/src", "fs-agent/src", "publisher/src"] {
        sources(&root().join(of), &mut paths);
    }
    let mut found = Vec::new();
    for file in paths {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let is_test = name == "tests" || name.ends_with("_tests") || name == "testing";
        if is_test
            || file
                .strip_prefix(root())
                .unwrap()
                .components()
                .any(|part| ["tests", "simulation"].iter().any(|of| part.as_os_str() == *of))
        {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        let shipped = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for call in ["tracing::warn!(", "tracing::error!("] {
            for behind in shipped.split(call).skip(1) {
                if let Some(text) = first_text(behind) {
                    found.push(Logged { file: file.clone(), text });
                }
            }
        }
    }
    found
}

/// The text in quotes with which a call of a macro begins, or that is in its arguments, each value as [`VALUE`].
fn first_text(call: &str) -> Option<String> {
    let end = call.find(");").unwrap_or(call.len());
    let begin = call.find('"').filter(|begin| *begin < end)?;
    let mut text = String::new();
    let mut chars = call[begin + 1..].chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                'n' => text.push('\n'),
                other => text.push(other),
            },
            '{' => {
                while chars.next()? != '}' {}
                text.push(VALUE);
            }
            other => text.push(other),
        }
    }
    None
}

/// The first column of the page's tables.
fn listed() -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let message = |line: &str| {
        let (first, _) = line.strip_prefix("| `")?.split_once("` |")?;
        Some(first.to_owned())
    };
    page.lines().filter_map(message).collect()
}

/// Whether `message` is what a row of the page is about: it begins so. Backticks within a message would end the row's, so that values
/// in backticks are in the page as values.
fn is_about(row: &str, message: &str) -> bool {
    message.replace('`', "").starts_with(row)
}

fn is_exception(text: &str) -> bool {
    EXCEPTIONS.iter().any(|(of, _)| *of == text)
}

#[test]
fn each_warning_and_error_has_its_row_and_each_row_a_message() {
    let (logged, listed) = (logged(), listed());
    assert!(logged.len() > 150 && listed.len() > 100, "{} messages, {} rows", logged.len(), listed.len());
    let unlisted: Vec<String> = logged
        .iter()
        .filter(|one| !is_exception(&one.text) && !listed.iter().any(|row| is_about(row, &one.text)))
        .map(|one| format!("{}: {}", one.file.display(), one.text))
        .collect();
    assert!(unlisted.is_empty(), "docs/troubleshooting.md says nothing of:\n{}", unlisted.join("\n"));
    let idle: Vec<&String> =
        listed.iter().filter(|row| !logged.iter().any(|one| is_about(row, &one.text))).collect();
    assert!(idle.is_empty(), "no program logs what docs/troubleshooting.md has: {idle:#?}");
}
