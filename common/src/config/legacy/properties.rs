//! Lines of fuse_kafka's file: a key, `=`, a JSON list or object.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use crate::config::problem::{Origin, Problem};

/// What begins a line that fuse_kafka reads; it passed over all others.
const PREFIXES: [&str; 2] = ["fuse_kafka_", "monitoring_logging_"];
/// The one key that fuse_kafka reads besides those, and its name among them.
const SUBSTITUTIONS: [&str; 2] = ["monitoring_top_substitutions", "substitutions"];

/// One thing that a key was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// As fuse_kafka passed it on to its program.
    pub text: String,
    /// The line in the file, from 1.
    pub line: usize,
}

/// What a key was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// The line of the file, from 1, in which the key stands first.
    pub line: usize,
    /// A key that is given again adds to what it has; an object counts as its names and values in turn.
    pub items: Vec<Item>,
}

/// What each key was given, by its name without prefix.
pub(super) type Items = IndexMap<String, Given>;

/// Whether the line begins with a key.
pub(super) fn begins_with_a_key(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| bare(key.trim()).is_some())
}

/// A key's name without its prefix.
fn bare(key: &str) -> Option<&str> {
    if key == SUBSTITUTIONS[0] {
        return Some(SUBSTITUTIONS[1]);
    }
    PREFIXES.iter().find_map(|prefix| key.strip_prefix(prefix))
}

/// Reads all lines.
pub(super) fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Items {
    let mut items = Items::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let mut refuse = |key: &str, message: String| {
            let origin = Origin::File(path.to_owned(), line);
            problems.push(Problem { origin, key: key.to_owned(), message });
        };
        let (key, value) = content.split_once('=').map_or((content, ""), |(key, value)| (key.trim(), value));
        let Some(name) = bare(key).filter(|_| content.contains('=')) else {
            let shown = path.display();
            tracing::warn!(
                "{shown}:{line}: `{key}` is no key of fuse_kafka's: passed over, as fuse_kafka did"
            );
            continue;
        };
        match texts(value) {
            Ok(texts) => {
                let known = items.entry(name.to_owned()).or_insert_with(|| Given { line, items: Vec::new() });
                known.items.extend(texts.into_iter().map(|text| Item { text, line }));
            }
            Err(message) => refuse(key, message),
        }
    }
    items
}

/// The items of a JSON value.
fn texts(value: &str) -> Result<Vec<String>, String> {
    let shape = || {
        let value = value.trim();
        format!(
            "`{value}` is not JSON of the form [\"value\", ...] or {{\"name\": \"value\"}}, with odd numbers in quotes"
        )
    };
    match serde_json::from_str(value).map_err(|error| format!("{}: {error}", shape()))? {
        Value::Array(values) => values.into_iter().map(|value| text(value).ok_or_else(shape)).collect(),
        Value::Object(pairs) => pairs.into_iter().try_fold(Vec::new(), |mut texts, (name, value)| {
            texts.extend([name, text(value).ok_or_else(shape)?]);
            Ok(texts)
        }),
        _ => Err(shape()),
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        // Others were written in a way of Python's, or in full.
        Value::Number(ref number) if number.is_f64() && !number.as_f64().is_some_and(is_written_alike) => {
            None
        }
        Value::Number(_) => Some(value.to_string()),
        // As Python writes them.
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether Python and Rust write a number with a point, or too large for 64 bits, in the same way.
fn is_written_alike(number: f64) -> bool {
    (1e-4..1e16).contains(&number.abs()) || number == 0.0 && number.is_sign_positive()
}
