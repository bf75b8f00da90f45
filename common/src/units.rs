//! Durations and sizes as people write them: `5s`, `200ms` or bare seconds; `64MiB` or bare bytes.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// No duration that can be configured is longer: what is added to a time then stays a time.
pub const SPAN_MAX: Span = Span(Duration::from_secs(365 * 86_400));

/// Decimal places of a number that count; in microseconds of a day that is far below one.
const DECIMALS_MAX: usize = 18;

/// A value that is not a duration or a size.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is not a duration: use `200ms`, `5s`, `2m`, `1h`, `1d` or a bare number of seconds")]
    Duration(String),
    /// A duration longer than [`SPAN_MAX`].
    #[error("`{0}` is too long: use at most 365d")]
    TooLong(String),
    /// Not a size.
    #[error("`{0}` is not a size: use `64MiB`, `512KiB`, `1GiB`, `10MB` or a bare number of bytes")]
    Size(String),
}

/// A span of time. One that was configured is a whole number of microseconds, at most [`SPAN_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Splits `12.5MiB` into its digits before and behind the point, and its unit.
fn digits(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_empty = whole.is_empty() && fraction.is_empty();
    let is_number = !is_empty && !fraction.contains('.');
    is_number.then_some((whole, fraction, unit.trim()))
}

/// A decimal number times `unit`, rounded up, so that only nothing is nothing. None if it is too large.
fn times(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let parsed = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let (kept, rest) = fraction.split_at(fraction.len().min(DECIMALS_MAX));
    let scale = 10_u128.pow(u32::try_from(kept.len()).ok()?);
    let parts = parsed(kept)? * u128::from(unit) + u128::from(rest.bytes().any(|digit| digit != b'0'));
    let product = parsed(whole)?.checked_mul(u128::from(unit))?.checked_add(parts.div_ceil(scale))?;
    u64::try_from(product).ok()
}

/// Splits `12.5MiB` into its number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    Some((number, unit.trim()))
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Duration(text.to_owned());
        let (whole, fraction, unit) = digits(text).ok_or_else(bad)?;
        let unit_us = match unit {
            "us" => 1,
            "ms" => 1_000,
            "" | "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(bad()),
        };
        let span = times(whole, fraction, unit_us).map(|us| Self(Duration::from_micros(us)));
        span.filter(|span| *span <= SPAN_MAX).ok_or_else(|| UnitError::TooLong(text.to_owned()))
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Size(text.to_owned());
        let (number, unit) = split(text).ok_or_else(bad)?;
        let factor: u64 = match unit {
            "" | "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(bad()),
        };
        // Whole numbers stay exact; a fraction is rounded down to a byte.
        let digits = text.trim().split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        if number.fract() == 0.0 {
            let whole: u64 = digits.parse().map_err(|_| bad())?;
            return whole.checked_mul(factor).map(ByteSize).ok_or_else(bad);
        }
        let bytes = Duration::try_from_secs_f64(number)
            .ok()
            .and_then(|n| n.as_nanos().checked_mul(u128::from(factor)))
            .and_then(|n| u64::try_from(n / 1_000_000_000).ok());
        bytes.map(ByteSize).ok_or_else(bad)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            nanos if nanos % 1_000_000 == 0 => write!(f, "{}ms", self.0.as_millis()),
            _ => write!(f, "{}us", self.0.as_micros()),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A number of bytes to a tenth of a unit, rounded down: `1.5KiB`.
pub fn human_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{}{unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes}B")
}

/// A time in two units at most: `3d 4h`, `5m 0s`, `4.2s`.
pub fn human_seconds(seconds: f64) -> String {
    let whole = seconds as u64;
    let two = |large: u64, of: u64, small: u64, units: [&str; 2]| {
        format!("{}{} {}{}", whole / large, units[0], whole % large / small % of, units[1])
    };
    match whole {
        86_400.. => two(86_400, 24, 3_600, ["d", "h"]),
        3_600.. => two(3_600, 60, 60, ["h", "m"]),
        60.. => two(60, 60, 1, ["m", "s"]),
        _ => format!("{seconds:.1}s"),
    }
}

/// A value as a text or a bare number, as TOML has both.
struct Spelled {
    expected: &'static str,
}

impl de::Visitor<'_> for Spelled {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected =
            "a duration: `\"200ms\"`, `\"5s\"`, `\"2m\"`, `\"1h\"`, `\"1d\"` or a bare number of seconds";
        from.deserialize_any(Spelled { expected })?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "a size: `\"64MiB\"`, `\"512KiB\"`, `\"10MB\"` or a bare number of bytes";
        from.deserialize_any(Spelled { expected })?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn for_people_sizes_are_rounded_down_to_tenths_and_times_have_two_units() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (64 << 20, "64.0MiB"), (u64::MAX, "16777215.9TiB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
        for (seconds, text) in
            [(0.0, "0.0s"), (59.94, "59.9s"), (61.0, "1m 1s"), (3_600.0, "1h 0m"), (90_061.0, "1d 1h")]
        {
            assert_eq!(human_seconds(seconds), text);
        }
    }

    #[test]
    fn durations_take_units_and_bare_seconds() {
        for (text, millis) in
            [("5s", 5000), ("200ms", 200), ("5", 5000), ("0", 0), ("1.5", 1500), ("2m", 120_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "s", "5 weeks", "-1s", "1e3", "ms5"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("1000000", 1_000_000), ("10MB", 10_000_000), ("0", 0), ("1.5KiB", 1536)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "64 mib", "-1", "99999999999999999999", "20000000TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for bytes in [0, 1, 1023, 1024, 64 << 20, 1_000_000, 3 << 30] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }

    proptest! {
        /// From the shortest to the longest.
        #[test]
        fn every_duration_that_is_taken_is_printed_as_it_is_read_back(
            micros in prop_oneof![0..2_000u64, 0..5_000_000u64, 0..=SPAN_MAX.0.as_micros() as u64],
        ) {
            let span = Span(Duration::from_micros(micros));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }

    #[test]
    fn a_duration_is_never_rounded_to_nothing_and_never_too_long_to_be_added_to_a_time() {
        for (text, micros) in [
            ("0.1us", 1),
            ("0.0000000001s", 1),
            ("0.0000000000000000000000000001", 1),
            ("1.5ms", 1500),
            (".5", 500_000),
            ("1.", 1_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_micros(micros))), "{text}");
        }
        for text in
            ["365.1d", "10000000000000000000s", "1000000000000000000000000000000000000000000d", "366d"]
        {
            assert_eq!(text.parse::<Span>(), Err(UnitError::TooLong(text.to_owned())));
        }
        assert_eq!("365d".parse(), Ok(SPAN_MAX));
        assert!(std::time::Instant::now().checked_add(SPAN_MAX.0 * 2).is_some());
    }

    #[test]
    fn what_is_neither_text_nor_number_gets_an_answer_in_the_users_words() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Table {
            span: Option<Span>,
            size: Option<ByteSize>,
        }
        for (text, words) in
            [("span = true", "a duration"), ("size = []", "a size"), ("span = -1", "`-1` is not")]
        {
            let message = toml::from_str::<Table>(text).unwrap_err().to_string();
            assert!(message.contains(words) && !message.contains("Spelled"), "{message}");
        }
    }
}
