//! JSON texts, written by hand: this is the hot path, and any bytes may come in.

use super::event::Part;

/// What U+FFFD, the replacement character, is in UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// The most bytes that one byte of valid UTF-8 becomes (`\u001f`).
const ESCAPED_BYTES_MAX: usize = 6;

/// Bytes that `,"@message_base64":""` and base64's padding add, rounded up.
const BESIDE_BYTES: usize = 24;

/// The most that a byte of no valid UTF-8 becomes: an escape in the text, and 4/3 beside it, rounded up.
const BYTES_PER_BYTE_MAX: usize = ESCAPED_BYTES_MAX + 2;

/// Appends `text` as a JSON string, quotes included.
pub fn push_str(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    push_escaped(text.as_bytes(), out);
    out.push(b'"');
}

/// Appends bytes as a JSON string, quotes included; what is not UTF-8 becomes U+FFFD. Returns whether all was UTF-8.
pub fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let is_utf8 = push_unquoted(bytes, out);
    out.push(b'"');
    is_utf8
}

/// The same without the quotes.
pub fn push_unquoted(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = bytes;
    // Not `utf8_chunks`, which looks at every byte by itself; `from_utf8` takes ASCII in words.
    let is_utf8 = loop {
        let Err(error) = std::str::from_utf8(rest) else { break rest.len() == bytes.len() };
        push_escaped(&rest[..error.valid_up_to()], out);
        out.extend_from_slice(REPLACEMENT.as_bytes());
        let invalid_bytes = error.error_len().unwrap_or(rest.len() - error.valid_up_to());
        rest = &rest[error.valid_up_to() + invalid_bytes..];
    };
    push_escaped(rest, out);
    is_utf8
}

/// Appends what is whole of the beginning of a text, escaped and without quotes, and gives how many bytes that was: unless it is
/// all of the text, up to three of a character that goes on later may be left. None, and nothing is appended, if it is no UTF-8.
pub fn push_beginning(bytes: &[u8], is_all: bool, out: &mut Vec<u8>) -> Option<usize> {
    let whole = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() && !is_all => error.valid_up_to(),
        Err(_) => return None,
    };
    push_escaped(&bytes[..whole], out);
    Some(whole)
}

/// Appends a JSON string with the bytes' base64.
pub fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    base64_simd::STANDARD.encode_append(bytes, out);
    out.push(b'"');
}

/// Appends a decimal number.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the items between the brackets, with commas between.
pub fn push_list<T>(
    brackets: &[u8; 2],
    items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    push: impl Fn(T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push(item, out);
    }
    out.push(brackets[1]);
}

/// Appends `,"KEY":`. Keys are ours and need no escapes.
pub fn push_key(key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends `,"KEY":NUMBER`.
pub fn push_number_at(key: &str, number: u64, out: &mut Vec<u8>) {
    push_key(key, out);
    push_number(number, out);
}

/// Appends `,"KEY":"TEXT"`.
pub fn push_text_at(key: &str, text: &str, out: &mut Vec<u8>) {
    push_key(key, out);
    push_str(text, out);
}

/// Appends `,"KEY_base64":"BASE64"`.
pub fn push_base64_beside(key: &str, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"_base64\":");
    push_base64(bytes, out);
}

/// Appends the number and the count of a part, if there is one.
pub fn push_part(keys: [&str; 2], part: Option<Part>, out: &mut Vec<u8>) {
    if let Some(Part { index, count }) = part {
        push_number_at(keys[0], index.into(), out);
        if count > 0 {
            push_number_at(keys[1], count.into(), out);
        }
    }
}

/// How many bytes a byte of valid UTF-8 becomes within a JSON string.
pub fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => ESCAPED_BYTES_MAX,
        _ => 1,
    }
}

/// How many of the message's first bytes surely take at most `room_bytes` more than an empty message, as a string with its base64
/// beside it where it is not UTF-8.
pub fn fitting(message: &[u8], room_bytes: usize) -> usize {
    let Ok(text) = std::str::from_utf8(message) else {
        return message.len().min(room_bytes.saturating_sub(BESIDE_BYTES) / BYTES_PER_BYTE_MAX);
    };
    let mut used_bytes = 0;
    // A cut between characters keeps each part UTF-8.
    let end = text.char_indices().find(|(at, c)| {
        let bytes = &message[*at..*at + c.len_utf8()];
        used_bytes += bytes.iter().map(|b| escaped_len(*b)).sum::<usize>();
        used_bytes > room_bytes
    });
    end.map_or(message.len(), |(at, _)| at)
}

/// Appends valid UTF-8, escaped where JSON asks for it.
fn push_escaped(text: &[u8], out: &mut Vec<u8>) {
    // What is copied as it is lies between `copied` and the next byte that is not.
    let (mut copied, mut at) = (0, 0);
    while let Some(clean) = text.get(at..).map(clean_prefix) {
        at += clean;
        let Some(byte) = text.get(at) else { break };
        out.extend_from_slice(&text[copied..at]);
        push_escape(*byte, out);
        at += 1;
        copied = at;
    }
    out.extend_from_slice(&text[copied..]);
}

/// How many bytes are looked at together: the compiler makes vector instructions of it.
const LANES: usize = 32;

/// How many of the first bytes stand in a JSON string as they are.
fn clean_prefix(text: &[u8]) -> usize {
    let (chunks, _) = text.as_chunks::<LANES>();
    let is_clean = |chunk: &&[u8; LANES]| !chunk.iter().fold(false, |found, b| found | is_special(*b));
    let clean = chunks.iter().take_while(is_clean).count() * LANES;
    clean + first_special(&text[clean..])
}

/// Where the first byte is that does not stand in a JSON string as it is; all of them if there is none. Eight at a time.
fn first_special(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        // The lowest bit that is set is the first one's: a byte that is found by mistake stands behind one that is not.
        let found = specials_in(u64::from_le_bytes(*word));
        if found != 0 {
            return i * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().position(|b| is_special(*b)).unwrap_or(rest.len())
}

/// The upper bits of bytes that [`is_special`], up to the first at least.
fn specials_in(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    // Of bytes below `n`, which is at most 0x80.
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & (ONES * 0x80);
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, 0x20) | equal(b'"') | equal(b'\\')
}

fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let hex = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 0xf)];
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_become_the_string_that_serde_json_reads(bytes: Vec<u8>) {
            let mut out = Vec::new();
            let is_utf8 = push_bytes(&bytes, &mut out);
            let read: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
            prop_assert_eq!(is_utf8, std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn any_text_survives_and_its_length_is_foretold(text: String) {
            let mut out = Vec::new();
            push_str(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), &text[..]);
            prop_assert_eq!(out.len(), 2 + text.bytes().map(escaped_len).sum::<usize>());
        }

        /// Most bytes are next to those that are special.
        #[test]
        fn the_first_special_byte_is_found_wherever_it_is(
            bytes in prop::collection::vec(prop_oneof![
                any::<u8>(), 0x1e..0x24_u8, 0x5b..0x5e_u8, 0x7e..0x82_u8, 0xfe..=0xff_u8,
            ], 0..40),
        ) {
            let naive = bytes.iter().position(|b| is_special(*b)).unwrap_or(bytes.len());
            prop_assert_eq!((first_special(&bytes), clean_prefix(&bytes)), (naive, naive));
        }

        #[test]
        fn any_number_is_decimal(number: u64) {
            let mut out = Vec::new();
            push_number(number, &mut out);
            prop_assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn every_byte_below_128_survives() {
        let all: Vec<u8> = (0..128).collect();
        let mut out = Vec::new();
        assert!(push_bytes(&all, &mut out));
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap().as_bytes(), all);
    }
}
