//! Lines of fuse_kafka's file: a key, `=`, a JSON list or object.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use crate::config::{Origin, Problem};

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

/// The items of each key, by its name without prefix. A key that is given again adds to what it has; an object counts
/// as its names and values in turn.
pub(super) type Items = IndexMap<String, Vec<Item>>;

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
        let Some((key, value)) = content.split_once('=').map(|(key, value)| (key.trim(), value)) else {
            refuse(content, "this is not a line of the form key=[\"value\"]".to_owned());
            continue;
        };
        let Some(name) = bare(key) else {
            let shown = path.display();
            tracing::warn!(
                "{shown}:{line}: `{key}` is no key of fuse_kafka's: passed over, as fuse_kafka did"
            );
            continue;
        };
        match texts(value) {
            Ok(texts) => {
                let known = items.entry(name.to_owned()).or_default();
                known.extend(texts.into_iter().map(|text| Item { text, line }));
            }
            Err(message) => refuse(key, message),
        }
    }
    items
}

/// The items of a JSON value.
fn texts(value: &str) -> Result<Vec<String>, String> {
    let shape =
        || format!("`{}` is not JSON of the form [\"value\", ...] or {{\"name\": \"value\"}}", value.trim());
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
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
