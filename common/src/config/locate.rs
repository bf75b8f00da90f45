//! From a place in a TOML text to the line and key that a person looks for, and back.
//!
//! The text is taken apart as TOML, so that inline tables, dotted keys and texts over several lines are what they are; as far as it is
//! none, by its lines.

use std::fmt;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A key of the configuration by its parts, which may hold dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Vec<String>);

impl Key {
    /// One part more.
    #[must_use]
    pub fn with(mut self, part: &str) -> Self {
        self.0.push(part.to_owned());
        self
    }

    fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl From<&str> for Key {
    /// A key whose parts hold no dots.
    fn from(dotted: &str) -> Self {
        Self(dotted.split('.').map(str::to_owned).collect())
    }
}

impl fmt::Display for Key {
    /// As TOML has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.parts().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            let is_bare =
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            if is_bare {
                write!(f, "{dot}{part}")?;
            } else {
                write!(f, "{dot}{part:?}")?;
            }
        }
        Ok(())
    }
}

/// The line, from 1, of a byte of the text.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// The dotted key around a byte of the text.
pub(super) fn key_of(text: &str, at: usize) -> String {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut best: Option<(usize, Key)> = None;
    walk(root.get_ref(), &Key(Vec::new()), &mut |key, name, value| {
        let whole = name.start..value.span().end.max(name.end);
        let bytes = whole.len();
        // The narrowest one is the innermost.
        if whole.contains(&at) && best.as_ref().is_none_or(|(least, _)| bytes <= *least) {
            best = Some((bytes, key.clone()));
        }
    });
    best.map_or_else(|| key_in_lines(text, at), |(_, key)| key.to_string())
}

/// The line, from 1, in which a key is set, where it is.
pub(super) fn line_of_key(text: &str, key: &Key) -> Option<usize> {
    line_where(text, key, |_| true)
}

/// The line, from 1, in which a key is set to a value, or to a list in which that is; or else to a text that holds it.
pub(super) fn line_of_value(text: &str, key: &Key, value: &str) -> Option<usize> {
    let is_it = |at: &Spanned<DeValue<'_>>| at.get_ref().as_str() == Some(value);
    let holds = |at: &Spanned<DeValue<'_>>| text.get(at.span()).is_some_and(|text| text.contains(value));
    line_where(text, key, is_it).or_else(|| line_where(text, key, holds))
}

/// The line of the first value, or member of a list, of a key that is as it should be.
fn line_where(text: &str, key: &Key, is_it: impl Fn(&Spanned<DeValue<'_>>) -> bool) -> Option<usize> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut found = None;
    walk(root.get_ref(), &Key(Vec::new()), &mut |at, name, value| {
        if found.is_some() || at != key {
            return;
        }
        let members = value.get_ref().as_array().map(|list| list.iter()).into_iter().flatten();
        let member = members.filter(|member| !member.get_ref().is_table()).find(|member| is_it(member));
        found = match member {
            Some(member) => Some(member.span().start),
            None => is_it(value).then_some(name.start),
        };
    });
    found.map(|at| line_of(text, at))
}

/// Calls `visit` with each key, where its name stands, and its value: outer ones first.
fn walk(
    table: &DeTable<'_>,
    above: &Key,
    visit: &mut impl FnMut(&Key, std::ops::Range<usize>, &Spanned<DeValue<'_>>),
) {
    for (name, value) in table {
        let key = above.clone().with(name.get_ref());
        visit(&key, name.span(), value);
        match value.get_ref() {
            DeValue::Table(table) => walk(table, &key, visit),
            DeValue::Array(list) => {
                for table in list.iter().filter_map(|member| member.get_ref().as_table()) {
                    walk(table, &key, visit);
                }
            }
            _ => {}
        }
    }
}

/// The key of a line that is no TOML: its table's header and what stands before its `=`.
fn key_in_lines(text: &str, at: usize) -> String {
    let mut table = "";
    let mut key = "";
    for current in text.lines().take(line_of(text, at)) {
        let current = current.trim();
        if let Some(header) = current.strip_prefix('[') {
            table = header.trim_matches(|c: char| c == '[' || c == ']' || c.is_whitespace());
            key = "";
        } else if let Some((name, _)) = current.split_once('=')
            && !name.trim_start().starts_with('#')
        {
            key = name.trim();
        }
    }
    [table, key].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[kafka]
delivery = "once"
note = """
[ring]
name = "x"
"""
[kafka.properties]
"compression.type" = "zstd"
acks = 1
[event]
fields = { a = "1", b = { c = 2 } }
tags = [
  "one",
  "two",
]
[[directory]]
path = "/a"
[[directory]]
path = "/b/"
"#;

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let line = |key: Key| line_of_key(TEXT, &key);
        assert_eq!(line("kafka.delivery".into()), Some(3));
        assert_eq!(line(Key::from("kafka.properties").with("compression.type")), Some(9));
        assert_eq!(line("kafka.properties.acks".into()), Some(10));
        assert_eq!(line("event.fields.b.c".into()), Some(12));
        assert_eq!(line("ring.name".into()), None, "that is in a text");
        let dotted = "kafka.properties.\"linger.ms\" = 1\n";
        assert_eq!(line_of_key(dotted, &Key::from("kafka.properties").with("linger.ms")), Some(1));
    }

    #[test]
    fn a_value_is_found_among_several() {
        let line = |key: &str, value| line_of_value(TEXT, &key.into(), value);
        assert_eq!(line("directory.path", "/a"), Some(18));
        assert_eq!(line("directory.path", "/b"), Some(20));
        assert_eq!(line("event.tags", "two"), Some(15));
        assert_eq!(line("event.tags", "three"), None);
    }

    #[test]
    fn the_key_around_a_place_is_the_innermost() {
        let key = |part: &str| key_of(TEXT, TEXT.find(part).unwrap());
        assert_eq!(key("once"), "kafka.delivery");
        assert_eq!(key("zstd"), "kafka.properties.\"compression.type\"");
        assert_eq!(key("c = 2"), "event.fields.b.c");
        assert_eq!(key("two"), "event.tags");
        assert_eq!(key("name = "), "kafka.note");
        assert_eq!(key_of("[ring\nsize = ", 12), "ring.size");
    }
}
