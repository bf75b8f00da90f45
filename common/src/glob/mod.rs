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
//! | `[abc]`, `[a-z]`, `[!abc]` | one byte of these, or none of these; never `/` |
//! | `{a,b}` | either |
//! | `\` | the next character as it is |
//!
//! A pattern without `/` is compared with a file's own name, so it holds at any depth: `*.gz` is `**/*.gz`. One that
//! contains a `/` is compared with the whole path, and a `/` at the beginning does nothing but make it one of
//! these: `/core` is the one at the top.
//!
//! With [`FNMATCH`] in front the rest is compared as fuse_kafka did: by fnmatch(3) without flags in the C locale, with a `/`
//! and the path behind it. There `?`, `*` and `[!a]` stand for a `/` too, and `{` for itself.

mod fnmatch;
mod pattern;
mod set;
#[cfg(test)]
mod tests;

use regex_automata::{MatchKind, meta::Regex, nfa::thompson::WhichCaptures, util::syntax};

/// What stands in front of a pattern that is compared by fnmatch(3).
pub const FNMATCH: &str = "fnmatch:";

/// The most memory that a directory's patterns take when they are made ready, in bytes.
const PATTERNS_BYTES_MAX: usize = 10 << 20;

/// Several patterns; what one of them matches is matched.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    patterns: Vec<String>,
    /// None without patterns.
    set: Option<Regex>,
}

impl Globs {
    /// Makes ready to compare with `patterns`.
    ///
    /// # Errors
    /// Which pattern is wrong, in what, and what to write instead.
    pub fn new(patterns: Vec<String>) -> Result<Self, String> {
        if patterns.is_empty() {
            return Ok(Self::default());
        }
        let regexes = patterns.iter().map(|pattern| regex_of(pattern)).collect::<Result<Vec<_>, _>>()?;
        let set = Regex::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true))
            .configure(
                Regex::config()
                    .utf8_empty(false)
                    // Which ones match can be asked, too.
                    .match_kind(MatchKind::All)
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(Some(PATTERNS_BYTES_MAX)),
            )
            .build_many(&regexes)
            .map_err(|error| match error.size_limit() {
                Some(_) => "the patterns are too many or too long: write fewer or shorter ones".to_owned(),
                None => format!("the patterns cannot be used together: {error}"),
            })?;
        Ok(Self { patterns, set: Some(set) })
    }

    /// As they were written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether one of them matches `path`: the path of a file below the directory, with a slash in front.
    pub fn match_path(&self, path: &[u8]) -> bool {
        self.set.as_ref().is_some_and(|set| set.is_match(path))
    }
}

/// What a pattern matches, as a regular expression of paths with a slash in front.
fn regex_of(pattern: &str) -> Result<String, String> {
    let below = match pattern.strip_prefix(FNMATCH) {
        Some(pattern) => fnmatch::regex_of(pattern.as_bytes()),
        None => {
            let regex = pattern::regex_of(whole(pattern)?.as_bytes());
            format!("/{}", regex.map_err(|fault| format!("`{pattern}` is not a pattern: {fault}"))?)
        }
    };
    Ok(format!(r"\A(?:{below})\z"))
}

/// Whether a pattern for fnmatch(3) can match any path that begins with a slash.
pub(crate) fn fnmatch_reaches_paths(pattern: &str) -> bool {
    fnmatch::can_begin_with(pattern.as_bytes(), b'/')
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
