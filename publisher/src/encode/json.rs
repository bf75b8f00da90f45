//! JSON texts, written by hand: this is the hot path, and any bytes may come in.

/// What U+FFFD, the replacement character, is in UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// The most bytes that one byte of valid UTF-8 becomes (`\u001f`).
pub const ESCAPED_BYTES_MAX: usize = 6;

/// Appends `text` as a JSON string, quotes included.
pub fn push_str(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    push_escaped(text.as_bytes(), out);
    out.push(b'"');
}

/// Appends bytes as a JSON string, quotes included; what is not UTF-8 becomes U+FFFD. Returns whether all was UTF-8.
pub fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let mut is_utf8 = true;
    for chunk in bytes.utf8_chunks() {
        push_escaped(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            is_utf8 = false;
            out.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
    out.push(b'"');
    is_utf8
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

/// How many bytes a byte of valid UTF-8 becomes within a JSON string.
pub fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => ESCAPED_BYTES_MAX,
        _ => 1,
    }
}

/// Appends valid UTF-8, escaped where JSON asks for it.
fn push_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| escaped_len(*b) > 1) {
        out.extend_from_slice(&rest[..at]);
        push_escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
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
