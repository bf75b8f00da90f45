//! Patterns of file names.
//!
//! A pattern is compared with a path below some directory, without a leading slash. Case counts.
//!
//! | in a pattern | stands for |
//! |---|---|
//! | `?` | one byte, not `/` |
//! | `*` | any bytes, not `/` |
//! | `**/` at the beginning, `/**/` | any directories, or none |
//! | `/**` at the end | everything below |
//! | `[abc]`, `[a-z]`, `[!abc]` | one byte of these, or none of these |
//! | `{a,b}` | either |
//! | `\` | the next character as it is |
//!
//! A pattern without `/` is compared with a file's own name, so it holds at any depth: `*.gz` is `**/*.gz`. One that
//! contains a `/` is compared with the whole path, and a `/` at the beginning does nothing but make it one of
//! these: `/core` is the one at the top.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Several patterns; what one of them matches is matched.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
}

impl Globs {
    /// Makes ready to compare with `patterns`.
    ///
    /// # Errors
    /// Which pattern is wrong, in what, and what to write instead.
    pub fn new(patterns: Vec<String>) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in &patterns {
            let whole = whole(pattern)?;
            let glob = GlobBuilder::new(&whole).literal_separator(true).backslash_escape(true).build();
            set.add(glob.map_err(|error| format!("`{pattern}` is not a pattern: {}", error.kind()))?);
        }
        let set = set.build().map_err(|error| format!("the patterns cannot be used together: {error}"))?;
        Ok(Self { patterns, set })
    }

    /// As they were written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether one of them matches `path`, the path of a file below the directory, without a leading slash.
    pub fn match_path(&self, path: &[u8]) -> bool {
        !self.patterns.is_empty() && self.set.is_match(OsStr::from_bytes(path))
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Eq for Globs {}

/// The pattern for the whole path that `pattern` is short for.
fn whole(pattern: &str) -> Result<String, String> {
    let Some(below) = pattern.strip_prefix('/').or_else(|| pattern.contains('/').then_some(pattern)) else {
        return match pattern {
            "" => Err("`` is not a pattern: give at least one character".to_owned()),
            name => Ok(format!("**/{name}")),
        };
    };
    if let Some(directory) = below.strip_suffix('/') {
        return Err(format!(
            "`{pattern}` is not a pattern of files: for all below that directory write `{directory}/**`"
        ));
    }
    if below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("`{pattern}` matches nothing: write it without empty parts, `.` and `..`"));
    }
    Ok(below.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Globs::new(vec![pattern.to_owned()]).unwrap().match_path(path.as_bytes())
    }

    #[test]
    fn a_pattern_matches_as_it_is_documented() {
        for (pattern, path, expected) in [
            ("*.gz", "a.gz", true),
            ("*.gz", "old/2024/a.gz", true),
            ("*.gz", "a.gz/b", false),
            ("*.gz", "A.GZ", false),
            ("[Cc]ore*", "x/Core.17", true),
            ("core*", "core", true),
            ("core", "score", false),
            ("/core", "core", true),
            ("/core", "x/core", false),
            ("tmp/*", "tmp/a", true),
            ("tmp/*", "tmp/a/b", false),
            ("tmp/*", "x/tmp/a", false),
            ("tmp/**", "tmp/a/b", true),
            ("tmp/**", "tmp", false),
            ("**/tmp/**", "x/tmp/a", true),
            ("**/tmp/**", "tmp/a", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("**", "a/b", true),
            ("?.log", "a.log", true),
            ("?.log", "ab.log", false),
            ("[!a].log", "b.log", true),
            ("[!a].log", "a.log", false),
            ("*.{gz,xz}", "a.xz", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} and {path}");
        }
    }

    #[test]
    fn a_name_may_be_any_bytes() {
        let globs = Globs::new(vec!["*.gz".to_owned(), "\u{fc}*".to_owned()]).unwrap();
        assert!(globs.match_path(b"\xff/\xfe.gz"));
        assert!(globs.match_path("\u{fc}x".as_bytes()));
        assert!(!globs.match_path(b"\xff"));
    }

    #[test]
    fn a_wrong_pattern_is_named_with_the_way_out() {
        for (pattern, word) in [
            ("", "one character"),
            ("a[", "a["),
            ("{a", "{a"),
            ("tmp/", "tmp/**"),
            ("a//b", "a//b"),
            ("../a", ".."),
        ] {
            let message = Globs::new(vec!["*.gz".to_owned(), pattern.to_owned()]).unwrap_err();
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }

    #[test]
    fn no_patterns_match_nothing() {
        assert!(!Globs::default().match_path(b"a"));
    }
}
