//! Times as the formats write them, always UTC.

use jiff::{Timestamp, tz::Offset};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// Digits of a fraction that counts nanoseconds.
const NS_DIGITS: usize = 9;

/// Writes times. Remembers the last second, since events come many a second.
pub struct TimestampWriter {
    second: u64,
    /// `2014-09-11T14:19:09`, for `second`.
    text: String,
}

impl TimestampWriter {
    /// A writer that has not written yet.
    pub fn new() -> Self {
        Self { second: 0, text: text_of(0) }
    }

    /// Appends the time that is `time_ns` nanoseconds after the epoch as fuse_kafka's events have it:
    /// `2014-09-11T14:19:09.000+0000`.
    pub fn push(&mut self, time_ns: u64, out: &mut Vec<u8>) {
        self.push_fraction::<3>(time_ns, out);
        out.extend_from_slice(b"+0000");
    }

    /// The same in full, by RFC 3339: `2014-09-11T14:19:09.000000000Z`.
    pub fn push_rfc3339(&mut self, time_ns: u64, out: &mut Vec<u8>) {
        self.push_fraction::<9>(time_ns, out);
        out.push(b'Z');
    }

    fn push_fraction<const DIGITS: usize>(&mut self, time_ns: u64, out: &mut Vec<u8>) {
        let second = time_ns / NS_PER_SECOND;
        if second != self.second {
            self.second = second;
            self.text = text_of(second);
        }
        out.extend_from_slice(self.text.as_bytes());
        let mut digits = [b'0'; NS_DIGITS];
        let mut rest = time_ns % NS_PER_SECOND;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.push(b'.');
        out.extend_from_slice(&digits[..DIGITS]);
    }
}

fn text_of(second: u64) -> String {
    // 2^64 ns end in the year 2554, within jiff's range.
    let at = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default();
    Offset::UTC.to_datetime(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(time_ns: u64) -> String {
        let mut out = Vec::new();
        TimestampWriter::new().push(time_ns, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_look_like_the_seeds() {
        assert_eq!(written(0), "1970-01-01T00:00:00.000+0000");
        assert_eq!(written(1_410_445_149_000_000_000), "2014-09-11T14:19:09.000+0000");
        assert_eq!(written(1_410_445_149_987_654_321), "2014-09-11T14:19:09.987+0000");
        assert_eq!(written(u64::MAX), "2554-07-21T23:34:33.709+0000");
    }

    #[test]
    fn rfc_3339_has_every_nanosecond() {
        let mut out = Vec::new();
        TimestampWriter::new().push_rfc3339(1_410_445_149_007_654_321, &mut out);
        assert_eq!(out, b"2014-09-11T14:19:09.007654321Z");
    }

    #[test]
    fn a_writer_goes_from_second_to_second() {
        let (mut writer, mut out) = (TimestampWriter::new(), Vec::new());
        for second in [5, 5, 6, 4] {
            out.clear();
            writer.push(second * NS_PER_SECOND + 70_000_000, &mut out);
            assert_eq!(out, format!("1970-01-01T00:00:0{second}.070+0000").as_bytes());
        }
    }
}
