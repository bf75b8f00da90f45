//! `multiline` of a directory: which lines are one event.

use std::time::Duration;

use regex_automata::{meta::Regex, nfa::thompson::WhichCaptures, util::syntax};
use serde::Deserialize;
use toml::Value;

use crate::units::{ByteSize, Span};

use super::{
    context::{Context, Placed},
    toml_values::{table, text},
};

/// The longest text of a pattern, in bytes.
const PATTERN_TEXT_MAX: usize = 4096;
/// What a compiled pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// The most lines that can be asked for in one event.
const LINES_MAX: u32 = 100_000;
/// The longest event that can be asked for: it is kept in memory until it ends.
const BYTES_MAX: ByteSize = ByteSize(16 << 20);
/// The longest that more of an event can be waited for: what was written since stays in the ring.
const TIMEOUT_MAX: Span = Span(Duration::from_secs(60));

/// `multiline` of `[[directory]]`, for `framing = "multiline"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultilineConfig {
    /// What decides whether a line goes on with the event before it.
    pub boundary: Boundary,
    /// How long after the last write of an event another may still belong to it: more than nothing, at most a minute.
    pub timeout: Span,
    /// The most lines of an event, 1 to 100,000.
    pub lines_max: u32,
    /// The most bytes of an event, 1 to 16 MiB.
    pub bytes_max: ByteSize,
}

/// What decides whether a line goes on with the event before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Those go on that the pattern does not match.
    Start(Pattern),
    /// Those go on that it matches.
    Continuation(Pattern),
    /// Those go on that begin with a space or a tab.
    Indentation,
}

/// A regular expression over bytes, whose search takes time in proportion to what is searched. `\d`, `\w`, `\s`, `\b` and `(?i)`
/// are those of ASCII.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Default for MultilineConfig {
    fn default() -> Self {
        Self {
            boundary: Boundary::Indentation,
            timeout: Span(Duration::from_secs(1)),
            lines_max: 500,
            // In base64 it still fits into one message of Kafka (1,000,000 bytes) or Kinesis (1 MiB).
            bytes_max: ByteSize(256 << 10),
        }
    }
}

impl Boundary {
    /// Whether the line, with or without its end (LF or CRLF), goes on with the event before it.
    pub fn continues(&self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self {
            Self::Start(pattern) => !pattern.regex.is_match(line),
            Self::Continuation(pattern) => pattern.regex.is_match(line),
            Self::Indentation => matches!(line, [b' ' | b'\t', ..]),
        }
    }
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it, with the way out.
    pub fn new(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "`` matches every line: write a pattern, or leave the key out for indentation".to_owned()
            );
        }
        if text.len() > PATTERN_TEXT_MAX {
            let bytes = text.len();
            return Err(format!("the pattern has {bytes} bytes: write one of at most {PATTERN_TEXT_MAX}"));
        }
        let regex = Regex::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .configure(
                Regex::config()
                    .utf8_empty(false)
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(Some(PATTERN_BYTES_MAX)),
            )
            .build(&text)
            .map_err(|error| why(&text, &error))?;
        Ok(Self { text, regex })
    }
}

/// What is wrong with a pattern, in one line.
fn why(text: &str, error: &regex_automata::meta::BuildError) -> String {
    if error.size_limit().is_some() {
        return format!("`{text}` takes more than {PATTERN_BYTES_MAX} bytes: repeat less in it");
    }
    let cause = match error.syntax_error() {
        Some(syntax) => syntax.to_string(),
        None => error.to_string(),
    };
    // The last line says what, those before show where.
    let cause = cause.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    format!("`{text}` is not a regular expression: {cause}")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    start: Placed<String>,
    continuation: Placed<String>,
    timeout: Placed<Span>,
    lines_max: Placed<u32>,
    bytes_max: Placed<ByteSize>,
}

/// Takes over what the table says.
pub(super) fn apply(table: Table, to: &mut MultilineConfig, context: &mut Context<'_>) {
    if let (Some(_), Some(continuation)) = (&table.start, &table.continuation) {
        let message = "`start` and `continuation` exclude one another: keep the one that says more";
        context.refuse(continuation.span().start, message);
    }
    context.set(&mut to.boundary, table.start, |text| Pattern::new(text).map(Boundary::Start));
    context.set(&mut to.boundary, table.continuation, |text| Pattern::new(text).map(Boundary::Continuation));
    context.set(&mut to.timeout, table.timeout, |timeout| {
        if !timeout.0.is_zero() && timeout <= TIMEOUT_MAX {
            return Ok(timeout);
        }
        Err(format!("`{timeout}` cannot be how long an event is waited for: use 1ms to {TIMEOUT_MAX}"))
    });
    context.set(&mut to.lines_max, table.lines_max, |lines| {
        if (1..=LINES_MAX).contains(&lines) {
            return Ok(lines);
        }
        Err(format!("`{lines}` lines cannot be the most of an event: use 1 to {LINES_MAX}"))
    });
    context.set(&mut to.bytes_max, table.bytes_max, |size| {
        if (1..=BYTES_MAX.0).contains(&size.0) {
            return Ok(size);
        }
        Err(format!("`{size}` cannot be the length of an event: use 1 byte to {BYTES_MAX}"))
    });
}

/// The table, as the file has it.
pub(super) fn print(multiline: &MultilineConfig) -> Value {
    let (start, continuation) = match &multiline.boundary {
        Boundary::Start(pattern) => (Some(pattern), None),
        Boundary::Continuation(pattern) => (None, Some(pattern)),
        Boundary::Indentation => (None, None),
    };
    let pattern = |pattern: Option<&Pattern>| pattern.map(|pattern| pattern.text.clone().into());
    Value::Table(table([
        ("start", pattern(start)),
        ("continuation", pattern(continuation)),
        ("timeout", text(multiline.timeout)),
        ("lines_max", Some(i64::from(multiline.lines_max).into())),
        ("bytes_max", text(multiline.bytes_max)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_judges_lines_with_or_without_their_end() {
        let start = Boundary::Start(Pattern::new(r"^\d{4}-\d\d-\d\d$".to_owned()).unwrap());
        let continuation = Boundary::Continuation(Pattern::new(r"^\s|^Caused by:".to_owned()).unwrap());
        for end in ["", "\n", "\r\n"] {
            let continues =
                |boundary: &Boundary, line: &str| boundary.continues(format!("{line}{end}").as_bytes());
            assert!(!continues(&start, "2026-11-27") && continues(&start, "on 2026-11-27"));
            assert!(continues(&continuation, "\tat a.b.C") && continues(&continuation, "Caused by: x"));
            assert!(!continues(&continuation, "Exception"));
            assert!(continues(&Boundary::Indentation, "\tat") && continues(&Boundary::Indentation, "  File"));
            assert!(!continues(&Boundary::Indentation, "") && !continues(&Boundary::Indentation, "at"));
        }
        // Bytes that are no text are bytes like others.
        let pattern = Boundary::Start(Pattern::new(r"^(?-u)\xff.$".to_owned()).unwrap());
        assert!(!pattern.continues(b"\xff\xfe\n") && pattern.continues(b"x"));
    }

    #[test]
    fn what_is_no_pattern_or_takes_too_much_is_refused_in_one_line() {
        for (text, words) in [
            ("", "matches every line"),
            ("a(b", "unclosed group"),
            ("[z-a]", "[z-a]"),
            ("(?:(?:a{1000}){1000}){1000}", "repeat less"),
            (r"\p{Greek}", "not a regular expression"),
            ("(a)\\1", "backreferences are not supported"),
            (&"a".repeat(PATTERN_TEXT_MAX + 1), "4097 bytes"),
        ] {
            let refused = Pattern::new(text.to_owned()).unwrap_err();
            assert!(refused.contains(words) && !refused.contains('\n'), "{text}: {refused}");
        }
    }
}
