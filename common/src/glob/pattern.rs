//! Patterns of bywash as regular expressions.

use super::set::{ByteSet, write_byte};

/// What is wrong with a pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Fault {
    #[error("its last `\\` has no character behind it")]
    Backslash,
    #[error("a `[` has no `]`: write `\\[` for the character itself")]
    OpenSet,
    #[error("`[{0}]` holds no byte that can be in a name")]
    EmptySet(String),
    #[error("the range `{0}-{1}` holds nothing: write the smaller character first")]
    BackwardRange(char, char),
    #[error("a range goes beyond ASCII: write its characters one by one")]
    WideRange,
    #[error("a `{{` has no `}}`: write `\\{{` for the character itself")]
    OpenChoice,
    #[error("a `}}` has no `{{`: write `\\}}` for the character itself")]
    ClosedChoice,
}

/// What `pattern`, of a whole path, matches.
pub(super) fn regex_of(pattern: &[u8]) -> Result<String, Fault> {
    let mut parser = Parser { pattern, at: 0, before: None, choices: 0, regex: String::new() };
    while let Some(byte) = parser.next() {
        parser.take(byte)?;
    }
    if parser.choices > 0 { Err(Fault::OpenChoice) } else { Ok(parser.regex) }
}

struct Parser<'a> {
    pattern: &'a [u8],
    at: usize,
    /// The byte before, unless it stands for itself because of a `\`.
    before: Option<u8>,
    /// How many `{` are open.
    choices: usize,
    regex: String,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, byte: u8) -> Result<(), Fault> {
        let mut before = Some(byte);
        match byte {
            b'?' => self.regex.push_str("[^/]"),
            b'*' => before = self.take_stars(),
            b'[' => self.take_set()?,
            b'{' => {
                self.choices += 1;
                self.regex.push_str("(?:");
            }
            b'}' if self.choices == 0 => return Err(Fault::ClosedChoice),
            b'}' => {
                self.choices -= 1;
                self.regex.push(')');
            }
            b',' if self.choices > 0 => self.regex.push('|'),
            b'\\' => {
                write_byte(self.next().ok_or(Fault::Backslash)?, &mut self.regex);
                before = Some(0);
            }
            byte => write_byte(byte, &mut self.regex),
        }
        self.before = before;
        Ok(())
    }

    /// One star has been taken. Gives the byte that now is before the next.
    fn take_stars(&mut self) -> Option<u8> {
        let begin = self.at;
        while self.peek() == Some(b'*') {
            self.at += 1;
        }
        let in_choice = |byte| self.choices > 0 && matches!(byte, b',' | b'{' | b'}');
        let begins_part = self.before.is_none_or(|byte| byte == b'/' || in_choice(byte));
        match self.peek() {
            Some(b'/') if begins_part && self.at == begin + 1 => {
                self.at += 1;
                self.regex.push_str("(?:[^/]+/)*");
                return Some(b'/');
            }
            next if begins_part && self.at == begin + 1 && next.is_none_or(in_choice) => {
                self.regex.push_str(".+");
            }
            _ => self.regex.push_str("[^/]*"),
        }
        Some(b'*')
    }

    /// The `[` has been taken.
    fn take_set(&mut self) -> Result<(), Fault> {
        let begin = self.at;
        let is_inverted = matches!(self.peek(), Some(b'!' | b'^'));
        self.at += usize::from(is_inverted);
        let mut set = ByteSet::none();
        let first_at = self.at;
        loop {
            let low = self.next().ok_or(Fault::OpenSet)?;
            if low == b']' && self.at > first_at + 1 {
                break;
            }
            let is_range =
                self.peek() == Some(b'-') && self.pattern.get(self.at + 1).is_some_and(|b| *b != b']');
            let high = if is_range { self.pattern[self.at + 1] } else { low };
            if is_range {
                self.at += 2;
                if !(low.is_ascii() && high.is_ascii()) {
                    return Err(Fault::WideRange);
                }
                if low > high {
                    return Err(Fault::BackwardRange(low.into(), high.into()));
                }
            }
            set.insert(low..=high);
        }
        let mut set = if is_inverted { set.inverted() } else { set };
        set.remove(b'/');
        if set.is_empty() {
            let shown = String::from_utf8_lossy(&self.pattern[begin..self.at - 1]);
            return Err(Fault::EmptySet(shown.into_owned()));
        }
        set.write_to(&mut self.regex);
        Ok(())
    }
}
