//! Names of things: positions, clusters, nodes, epochs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::entropy::{Entropy, SystemEntropy};

/// A byte position in the one logical log stream. File headers and footers consume none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The beginning of every log.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` further on.
    ///
    /// # Panics
    /// When the position does not fit in 64 bits, which no log reaches.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Self {
        match self.0.checked_add(bytes) {
            Some(lsn) => Self(lsn),
            None => panic!("position {self} + {bytes} bytes overflows"),
        }
    }

    /// Bytes from `earlier` to here; 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

impl FromStr for Lsn {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A length of at most 64 bits as this machine counts memory: the program is for 64-bit ones only.
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub const fn to_usize(length: u64) -> usize {
    const { assert!(usize::BITS == 64, "positions and lengths have 64 bits") }
    length as usize
}

/// A position together with the number of the last commit that ends at or below it.
///
/// The two move as one, so that a bound in commits is judged by the same instant as one in bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Position {
    /// The end of a frame.
    pub lsn: Lsn,
    /// The last commit at or below `lsn`; 0 before the first.
    pub commit: u64,
}

impl Position {
    /// The beginning of every log.
    pub const ZERO: Self = Self {
        lsn: Lsn::ZERO,
        commit: 0,
    };

    /// A position and the last commit at or below it.
    #[must_use]
    pub const fn new(lsn: Lsn, commit: u64) -> Self {
        Self { lsn, commit }
    }

    /// Whether both parts are at or above those of `earlier`.
    #[must_use]
    pub fn covers(&self, earlier: &Self) -> bool {
        self.lsn >= earlier.lsn && self.commit >= earlier.commit
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.lsn, self.commit)
    }
}

/// A half-open range of positions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LsnRange {
    /// First position in the range.
    pub start: Lsn,
    /// First position behind the range.
    pub end: Lsn,
}

impl LsnRange {
    /// The range from `start` up to, and without, `end`.
    #[must_use]
    pub const fn new(start: Lsn, end: Lsn) -> Self {
        Self { start, end }
    }

    /// Length in bytes; 0 when the end lies before the start.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.end.bytes_since(self.start)
    }

    /// Whether no position lies in the range.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len_bytes() == 0
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not an id: write it as 32 hexadecimal digits")]
pub struct IdFault {
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Sixteen zero bytes: the id of nothing.
            pub const NONE: Self = Self([0; 16]);

            /// A new id from the operating system's random numbers.
            ///
            /// # Panics
            /// When the operating system has no random numbers to give.
            #[must_use]
            pub fn random() -> Self {
                Self(SystemEntropy.id())
            }

            /// The first eight digits, for tables that people read.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdFault;

            fn from_str(text: &str) -> Result<Self, IdFault> {
                let fault = || IdFault { text: text.chars().take(64).collect() };
                if text.len() != 32 || !text.is_ascii() {
                    return Err(fault());
                }
                let mut bytes = [0; 16];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let digits = text.get(2 * i..2 * i + 2).ok_or_else(fault)?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| fault())?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id!(
    /// Which cluster a node, a file or a frame belongs to. Random, made by the cluster's first
    /// node.
    ClusterId
);
id!(
    /// Which node. Random, made when the node is made.
    NodeId
);
id!(
    /// Which epoch. Random, so that two epochs of the same term are never taken for one another.
    EpochId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text_and_refuse_anything_else() {
        let id = ClusterId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        for text in [
            "",
            "00",
            "zz112233445566778899aabbccddeeff",
            "+0112233445566778899aabbccddeef",
            "0é112233445566778899aabbccddeeff",
        ] {
            assert!(text.parse::<ClusterId>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_half_open() {
        let range = LsnRange::new(Lsn(8), Lsn(24));
        assert_eq!(
            (range.len_bytes(), range.to_string().as_str()),
            (16, "[8, 24)")
        );
        assert!(LsnRange::new(Lsn(9), Lsn(9)).is_empty());
    }
}
