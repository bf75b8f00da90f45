//! Durations and sizes as people write them: `5s`, `200ms` or bare seconds; `64MiB` or bare bytes.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A value that is not a duration or a size.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is not a duration: use `200ms`, `5s`, `2m`, `1h`, `1d` or a bare number of seconds")]
    Duration(String),
    /// Not a size.
    #[error("`{0}` is not a size: use `64MiB`, `512KiB`, `1GiB`, `10MB` or a bare number of bytes")]
    Size(String),
}

/// A span of time, at a resolution of a millisecond or finer. At most 2^64 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

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
        let (number, unit) = split(text).ok_or_else(bad)?;
        let seconds = match unit {
            "us" => number / 1e6,
            "ms" => number / 1e3,
            "" | "s" => number,
            "m" => number * 60.0,
            "h" => number * 3600.0,
            "d" => number * 86400.0,
            _ => return Err(bad()),
        };
        Duration::try_from_secs_f64(seconds).map(Span).map_err(|_| bad())
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
        let millis = self.0.as_millis();
        if self.0.subsec_nanos() == 0 { write!(f, "{}s", self.0.as_secs()) } else { write!(f, "{millis}ms") }
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

/// Either spelling that TOML allows for these values.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelled {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl Spelled {
    fn text(self) -> String {
        match self {
            Self::Whole(n) => n.to_string(),
            Self::Fraction(n) => n.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Spelled::deserialize(from)?.text().parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Spelled::deserialize(from)?.text().parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for millis in [0, 1, 200, 5000, 61_500] {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
