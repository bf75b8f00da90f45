//! Values of `check --print`.

use indexmap::IndexMap;
use toml::{Table, Value};

/// A table of the pairs whose value is there.
pub(super) fn table<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Table {
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

pub(super) fn texts(list: &[String]) -> Option<Value> {
    Some(list.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>().into())
}

pub(super) fn map(pairs: &IndexMap<String, String>) -> Option<Value> {
    let shown = |(key, value): (&String, &String)| (key.clone(), Value::from(value.as_str()));
    Some(Value::Table(pairs.iter().map(shown).collect()))
}

pub(super) fn text(value: impl ToString) -> Option<Value> {
    Some(value.to_string().into())
}
