//! Quantities as people write them on a command line: shares, rates, one value per direction.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// A share of something, between 0 % and 100 %, exact to one part in a billion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share {
    parts_per_billion: u32,
}

const BILLION: u32 = 1_000_000_000;
const PER_PERCENT: u32 = BILLION / 100;
const PERCENT_DECIMALS: usize = 7;

impl Share {
    /// Nothing of it.
    pub const NONE: Self = Self {
        parts_per_billion: 0,
    };
    /// All of it.
    pub const ALL: Self = Self {
        parts_per_billion: BILLION,
    };

    /// Whole percents; more than 100 count as 100.
    pub const fn percent(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self {
            parts_per_billion: percent as u32 * PER_PERCENT,
        }
    }

    /// Whether a number drawn uniformly from all of `u64` falls into this share.
    pub fn covers(self, draw: u64) -> bool {
        let billionth = (u128::from(draw) * u128::from(BILLION)) >> 64;
        billionth < u128::from(self.parts_per_billion)
    }

    /// The share in percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.parts_per_billion) / f64::from(PER_PERCENT)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a share: write percent, from 0% to 100%, for example 0.1%");
        let number = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > PERCENT_DECIMALS {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let decimals: u32 = format!("{decimals:0<PERCENT_DECIMALS$}")
            .parse()
            .map_err(|_| wrong())?;
        let parts = whole
            .checked_mul(PER_PERCENT)
            .and_then(|w| w.checked_add(decimals));
        match parts {
            Some(parts_per_billion) if parts_per_billion <= BILLION => {
                Ok(Self { parts_per_billion })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.as_percent())
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_percent())
    }
}

/// How fast a line carries bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate {
    bits_per_s: u64,
}

const RATE_UNITS: [(&str, u64); 8] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("GB/s", 8_000_000_000),
    ("MB/s", 8_000_000),
    ("kB/s", 8_000),
    ("bit/s", 1),
    ("B/s", 8),
];

impl Rate {
    /// A rate of so many bits per second; at least one.
    pub fn from_bits_per_s(bits_per_s: u64) -> Self {
        Self {
            bits_per_s: bits_per_s.max(1),
        }
    }

    /// Bits per second.
    pub fn bits_per_s(self) -> u64 {
        self.bits_per_s
    }

    /// How many bytes the line carries in `ms` milliseconds, rounded down.
    pub fn bytes_in_ms(self, ms: u64) -> u64 {
        let bytes = u128::from(self.bits_per_s) * u128::from(ms) / 8_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate: write for example 200Mbit/s or 25MB/s");
        // Case counts: `Mb/s` means bits to some and bytes to others, so it is refused.
        let (number, per_unit) = RATE_UNITS
            .iter()
            .find_map(|(name, factor)| Some((text.trim().strip_suffix(name)?, factor)))
            .ok_or_else(wrong)?;
        let whole: u64 = number.trim_end().parse().map_err(|_| wrong())?;
        match whole.checked_mul(*per_unit) {
            Some(bits_per_s) if bits_per_s > 0 => Ok(Self { bits_per_s }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_s;
        let fits = |unit: &&(&str, u64)| unit.0.ends_with("bit/s") && bits.is_multiple_of(unit.1);
        match RATE_UNITS.iter().find(fits) {
            Some((name, factor)) => write!(f, "{}{name}", bits / factor),
            None => write!(f, "{bits}bit/s"),
        }
    }
}

/// A value that can be given for both directions of a line at once or for one of them:
/// `5ms`, `up=5ms`, `up=5ms,down=1ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerDirection<T> {
    /// From the client to the destination, if it was given.
    pub up: Option<T>,
    /// From the destination back to the client, if it was given.
    pub down: Option<T>,
}

impl<T> Default for PerDirection<T> {
    fn default() -> Self {
        Self {
            up: None,
            down: None,
        }
    }
}

impl<T: Clone> PerDirection<T> {
    /// Reads the forms above, each value with `parse`.
    pub fn parse(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        if !text.contains('=') {
            let value = parse(text)?;
            return Ok(Self {
                up: Some(value.clone()),
                down: Some(value),
            });
        }
        let mut both = Self::default();
        for part in text.split(',') {
            let slot = match part.split_once('=') {
                Some(("up", value)) => (&mut both.up, value),
                Some(("down", value)) => (&mut both.down, value),
                _ => return Err(format!("`{part}`: write up=VALUE or down=VALUE")),
            };
            if slot.0.replace(parse(slot.1)?).is_some() {
                return Err(format!("`{text}` names one direction twice"));
            }
        }
        Ok(both)
    }
}

/// Reads a time such as `1ms`, `0.2ms`, `3s`.
pub fn parse_time(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|error| format!("`{text}` is not a time such as 1ms or 0.2ms: {error}"))
}

/// Reads a number of bytes such as `64KiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    text.trim()
        .parse::<ByteSize>()
        .map(|size| size.0)
        .map_err(|error| format!("`{text}` is not a size such as 64KiB: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_exact_at_both_ends_and_between() {
        let all: Share = "100%".parse().unwrap();
        let none: Share = "0%".parse().unwrap();
        let tenth_of_a_percent: Share = "0.1%".parse().unwrap();
        assert!(all.covers(u64::MAX) && all.covers(0));
        assert!(!none.covers(0));
        assert!(tenth_of_a_percent.covers(0) && tenth_of_a_percent.covers(u64::MAX / 1000));
        assert!(!tenth_of_a_percent.covers(u64::MAX / 1000 + u64::MAX / 1_000_000));
        assert_eq!(tenth_of_a_percent.to_string(), "0.1%");
        assert_eq!(Share::percent(5), "5%".parse().unwrap());
        assert_eq!(all, Share::ALL);
    }

    #[test]
    fn share_refuses_what_it_cannot_mean() {
        for text in [
            "",
            "5",
            "%",
            "-1%",
            "100.1%",
            "101%",
            "1e2%",
            "0.00000001%",
            "5 percent",
            ".%",
        ] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn rate_tells_bits_from_bytes() {
        let bits = |text: &str| text.parse::<Rate>().map(Rate::bits_per_s);
        assert_eq!(bits("200Mbit/s"), Ok(200_000_000));
        assert_eq!(bits("25MB/s"), Ok(200_000_000));
        assert_eq!(bits("9 bit/s"), Ok(9));
        assert_eq!(bits("2B/s"), Ok(16));
        for text in [
            "0Mbit/s",
            "200",
            "200Mb/s",
            "Mbit/s",
            "-1bit/s",
            "99999999999999GB/s",
        ] {
            assert!(bits(text).is_err(), "{text}");
        }
        assert_eq!(Rate::from_bits_per_s(200_000_000).to_string(), "200Mbit/s");
        assert_eq!(Rate::from_bits_per_s(1_500).to_string(), "1500bit/s");
        assert_eq!(
            Rate::from_bits_per_s(200_000_000).bytes_in_ms(50),
            1_250_000
        );
    }

    #[test]
    fn one_value_serves_both_directions_or_one() {
        let parse = |text| PerDirection::parse(text, parse_time);
        let ms = std::time::Duration::from_millis;
        assert_eq!(
            parse("5ms"),
            Ok(PerDirection {
                up: Some(ms(5)),
                down: Some(ms(5))
            })
        );
        assert_eq!(
            parse("down=1ms"),
            Ok(PerDirection {
                up: None,
                down: Some(ms(1))
            })
        );
        assert_eq!(
            parse("up=5ms,down=1ms"),
            Ok(PerDirection {
                up: Some(ms(5)),
                down: Some(ms(1))
            })
        );
        assert!(parse("up=5ms,up=1ms").is_err());
        assert!(parse("left=5ms").is_err());
        assert!(parse("5").is_err());
        assert_eq!(
            parse_time("0.2ms"),
            Ok(std::time::Duration::from_micros(200))
        );
    }
}
