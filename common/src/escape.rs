//! What a terminal would obey, or show as something else than it is, made visible.
//!
//! Paths, command lines, messages and what brokers say are chosen by others: an escape sequence in them would clear an
//! operator's screen or set its title, U+202E turn a name round, a newline forge a line of a log. Everything that leaves to
//! a terminal or a log leaves by way of this module: [`crate::output`] and [`crate::logging`] call it, and there is no other
//! way out (`tests/one_way_out.rs`).

use std::fmt::{self, Display, Formatter, Write};

/// Ranges of characters that no terminal shows as what they are, beside control characters (general category Cc): those
/// that change the direction or joining of others, have no width, or begin a line of their own (of the categories Cf, Zl and
/// Zp; the signs in front of Arabic, Syriac and Kaithi numbers are seen, and left out).
const UNSEEN: [(char, char); 15] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a character is not shown as what it is.
fn is_unseen(c: char) -> bool {
    c.is_control() || (c > '\u{7f}' && UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c)))
}

/// Bytes that others have chosen, in a line: whatever is not seen, newlines and tabs too, is `\n`, `\u{1b}` or the like, and
/// what is not UTF-8 is `\xff` or the like.
pub fn in_line<B: AsRef<[u8]> + ?Sized>(bytes: &B) -> Escaped<'_> {
    Escaped { bytes: bytes.as_ref(), layout: None }
}

/// The same in lines: tabs stay, and `line_end` stands for each newline.
pub fn in_lines<'a, B: AsRef<[u8]> + ?Sized>(bytes: &'a B, line_end: &'a str) -> Escaped<'a> {
    Escaped { bytes: bytes.as_ref(), layout: Some(line_end) }
}

/// JSON with what is not seen in JSON's own notation: it says the same to whoever parses it. Newlines stay.
pub fn in_json(json: &str) -> EscapedJson<'_> {
    EscapedJson(json)
}

/// See [`in_line`] and [`in_lines`].
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    /// What stands for a newline, where newlines and tabs are layout.
    layout: Option<&'a str>,
}

/// See [`in_json`].
#[derive(Clone, Copy, Debug)]
pub struct EscapedJson<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            write_seen(chunk.valid(), f, |c, f| match (c, self.layout) {
                ('\n', Some(line_end)) => f.write_str(line_end),
                ('\t', Some(_)) => f.write_char('\t'),
                _ => write!(f, "{}", c.escape_default()),
            })?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Display for EscapedJson<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_seen(self.0, f, |c, f| match c {
            // Between values: JSON has none within strings.
            '\n' | '\t' | '\r' => f.write_char(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(f, "\\u{unit:04x}")),
        })
    }
}

/// Writes a text, and `unseen` for each character that is not seen.
fn write_seen(
    text: &str,
    f: &mut Formatter<'_>,
    unseen: impl Fn(char, &mut Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    let mut begin = 0;
    for (at, c) in text.char_indices().filter(|(_, c)| is_unseen(*c)) {
        f.write_str(&text[begin..at])?;
        unseen(c, f)?;
        begin = at + c.len_utf8();
    }
    f.write_str(&text[begin..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_seen() {
        for (text, expected) in [
            ("plain text: äöü 漢字 🙂", "plain text: äöü 漢字 🙂"),
            ("\x1b]0;title\x07\x1b[2J", "\\u{1b}]0;title\\u{7}\\u{1b}[2J"),
            ("\u{9b}31m\u{7f}\u{85}", "\\u{9b}31m\\u{7f}\\u{85}"),
            ("a\r\n\tb", "a\\r\\n\\tb"),
            ("\u{202e}gol.\u{2066}\u{200f}\u{feff}", "\\u{202e}gol.\\u{2066}\\u{200f}\\u{feff}"),
            ("line\u{2028}paragraph\u{2029}", "line\\u{2028}paragraph\\u{2029}"),
            ("\u{e0041}", "\\u{e0041}"),
        ] {
            assert_eq!(in_line(text).to_string(), expected);
        }
        assert_eq!(in_line(b"/log/\xff\x9b\xc2").to_string(), "/log/\\xff\\x9b\\xc2");
        assert_eq!(in_lines("a\n\tb\r", "\n    ").to_string(), "a\n    \tb\\r");
        assert_eq!(
            in_json("{\"a\":\"\u{9b}\u{e0041}\"}\n").to_string(),
            "{\"a\":\"\\u009b\\udb40\\udc41\"}\n"
        );
    }

    proptest! {
        #[test]
        fn nothing_unseen_is_left(bytes: Vec<u8>, text: String) {
            for whole in [in_line(&bytes).to_string(), in_line(&text).to_string()] {
                prop_assert!(!whole.chars().any(is_unseen), "{whole:?}");
            }
            let lines = in_lines(&text, "\n").to_string();
            prop_assert!(!lines.chars().any(|c| is_unseen(c) && c != '\n' && c != '\t'), "{lines:?}");
        }

        #[test]
        fn json_says_the_same(text: String) {
            let json = Value::from(text).to_string();
            let escaped = in_json(&json).to_string();
            prop_assert!(!escaped.chars().any(is_unseen), "{escaped:?}");
            prop_assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), serde_json::from_str::<Value>(&json).unwrap());
        }
    }
}
