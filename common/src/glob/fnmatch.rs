//! Patterns of fnmatch(3) without flags, in the C locale, as regular expressions. The tests compare with the C library.

use super::set::{ByteSet, write_byte};

/// What no bytes match.
const NOTHING: &str = r"[^\x00-\xff]";

/// What one piece of a pattern matches.
enum Piece {
    Byte(u8),
    /// One byte of these.
    Set(ByteSet),
    /// Any bytes.
    Star,
    /// Nothing: no more of the pattern is looked at.
    Nothing,
}

/// What `pattern` matches.
pub(super) fn regex_of(pattern: &[u8]) -> String {
    let mut regex = String::new();
    let mut at = 0;
    while at < pattern.len() {
        let (piece, end) = piece_at(pattern, at);
        at = end;
        match piece {
            Piece::Byte(byte) => write_byte(byte, &mut regex),
            Piece::Set(set) => set.write_to(&mut regex),
            Piece::Star => regex.push_str(".*"),
            Piece::Nothing => return NOTHING.to_owned(),
        }
    }
    regex
}

/// Whether what `pattern` matches can begin with `byte`.
pub(super) fn can_begin_with(pattern: &[u8], byte: u8) -> bool {
    !pattern.is_empty()
        && match piece_at(pattern, 0).0 {
            Piece::Byte(first) => first == byte,
            Piece::Set(set) => set.contains(byte),
            Piece::Star => true,
            Piece::Nothing => false,
        }
}

/// The piece that begins at `at`, and where it ends.
fn piece_at(pattern: &[u8], at: usize) -> (Piece, usize) {
    let next = at + 1;
    match pattern[at] {
        b'?' => (Piece::Set(ByteSet::none().inverted()), next),
        b'*' => (Piece::Star, next),
        b'\\' => match pattern.get(next) {
            Some(byte) => (Piece::Byte(*byte), next + 1),
            None => (Piece::Nothing, next),
        },
        b'[' => match set_at(pattern, next) {
            Ok((set, end)) => (Piece::Set(set), end),
            Err(Unfit::Open) => (Piece::Byte(b'['), next),
            Err(Unfit::Wrong) => (Piece::Nothing, next),
        },
        byte => (Piece::Byte(byte), next),
    }
}

/// Why a `[` begins no set.
enum Unfit {
    /// It has no `]`: it stands for itself.
    Open,
    /// The pattern matches nothing.
    Wrong,
}

/// The set behind a `[`, and where it ends.
fn set_at(pattern: &[u8], begin: usize) -> Result<(ByteSet, usize), Unfit> {
    let byte = |at: usize| pattern.get(at).copied();
    let is_inverted = matches!(byte(begin), Some(b'!' | b'^'));
    let mut at = begin + usize::from(is_inverted);
    let first_at = at;
    let mut set = ByteSet::none();
    // A class of no known name ends the comparison: what stands behind it counts for nothing, and no byte is outside.
    let mut is_cut = false;
    loop {
        let mut low = byte(at).ok_or(Unfit::Open)?;
        at += 1;
        match low {
            b']' if at > first_at + 1 => break,
            b'\\' => {
                low = byte(at).ok_or(Unfit::Wrong)?;
                at += 1;
            }
            b'[' if byte(at) == Some(b':') => {
                if let Some((name, end)) = class_name(pattern, at + 1) {
                    match class(name) {
                        Some(is_in) if !is_cut => set.insert_where(is_in),
                        Some(_) => {}
                        None => is_cut = true,
                    }
                    at = end;
                    continue;
                }
            }
            // In the C locale nothing is equivalent to another.
            b'[' if byte(at) == Some(b'=') && pattern.get(at + 2..at + 4) == Some(b"=]") => {
                if !is_cut {
                    set.insert(pattern[at + 1]..=pattern[at + 1]);
                }
                at += 4;
                continue;
            }
            b'[' if byte(at) == Some(b'.') && pattern.get(at + 2..at + 4) == Some(b".]") => {
                low = pattern[at + 1];
                at += 4;
            }
            _ => {}
        }
        let mut high = low;
        if byte(at) == Some(b'-') && byte(at + 1).is_some_and(|byte| byte != b']') {
            high = pattern[at + 1];
            at += 2;
            if high == b'\\' {
                high = byte(at).ok_or(Unfit::Wrong)?;
                at += 1;
            } else if high == b'[' && byte(at) == Some(b'.') && pattern.get(at + 2..at + 4) == Some(b".]") {
                high = pattern[at + 1];
                at += 4;
            }
        }
        if !is_cut {
            set.insert(low..=high);
        }
    }
    let set = match (is_inverted, is_cut) {
        (false, _) => set,
        (true, false) => set.inverted(),
        (true, true) => ByteSet::none(),
    };
    Ok((set, at))
}

/// The name of a class, which ends with `:]`, and where it ends.
fn class_name(pattern: &[u8], begin: usize) -> Option<(&[u8], usize)> {
    let rest = pattern.get(begin..)?;
    let len = rest.windows(2).position(|two| two == b":]")?;
    rest[..len].iter().all(u8::is_ascii_lowercase).then_some((&rest[..len], begin + len + 2))
}

/// Which bytes a class of this name holds, in the C locale.
fn class(name: &[u8]) -> Option<fn(u8) -> bool> {
    Some(match name {
        b"alnum" => |byte| byte.is_ascii_alphanumeric(),
        b"alpha" => |byte| byte.is_ascii_alphabetic(),
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => |byte| byte.is_ascii_control(),
        b"digit" => |byte| byte.is_ascii_digit(),
        b"graph" => |byte| byte.is_ascii_graphic(),
        b"lower" => |byte| byte.is_ascii_lowercase(),
        b"print" => |byte| byte == b' ' || byte.is_ascii_graphic(),
        b"punct" => |byte| byte.is_ascii_punctuation(),
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => |byte| byte.is_ascii_uppercase(),
        b"xdigit" => |byte| byte.is_ascii_hexdigit(),
        _ => return None,
    })
}
