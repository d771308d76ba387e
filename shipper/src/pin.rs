//! By what a peer is known: the SHA-256 of its public key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The SHA-256 of a node's public key (its DER `SubjectPublicKeyInfo`), shown as `sha256:<64 hex
/// digits>`.
///
/// It is public: it says whom to trust and lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a public key given as DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn of(public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(public_key_info).into())
    }
}

/// A text that is not a pin.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{text}` is not a pin: write it as `sha256:` and 64 hexadecimal digits, as `outlast pin` shows it"
)]
pub struct PinFault {
    text: String,
}

const PREFIX: &str = "sha256:";

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = PinFault;

    fn from_str(text: &str) -> Result<Self, PinFault> {
        let fault = || PinFault {
            text: text.chars().take(80).collect(),
        };
        let digits = text.strip_prefix(PREFIX).ok_or_else(fault)?;
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(fault());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(2 * i..2 * i + 2).ok_or_else(fault)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| fault())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Pin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_sha256_of_the_key_and_survives_text() {
        let pin = Pin::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(pin.to_string(), text);
        assert_eq!(text.parse(), Ok(pin));
        assert_eq!(text.to_uppercase().replace("SHA", "sha").parse(), Ok(pin));
    }

    #[test]
    fn other_texts_are_refused() {
        let pin = Pin::of(b"abc").to_string();
        let cut = &pin[..pin.len() - 1];
        let bare = pin.strip_prefix(PREFIX).unwrap();
        let longer = format!("{pin}0");
        let signed = pin.replace("ba", "+a");
        let wide = format!("{}é", &pin[..pin.len() - 2]);
        for text in ["", "sha256:", cut, bare, &longer, &signed, &wide, "sha1:00"] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
