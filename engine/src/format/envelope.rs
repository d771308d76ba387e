//! The envelope around small files and messages whose body is postcard.
//!
//! ```text
//!  0 magic    [u8; 4]
//!  4 version  u16
//!  6 kind     u16
//!  8 len      u32    bytes of the body
//! 12 check    u32    CRC-32 of bytes 0..12 and of the body
//! 16 body
//! ```

use thiserror::Error;

/// One kind of enveloped thing: how it is recognised, and how large it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The first four bytes.
    pub magic: [u8; 4],
    /// The version that this program writes, and the only one that it reads.
    pub version: u16,
    /// What the body is, among things of one magic.
    pub kind: u16,
    /// Longest body in bytes.
    pub len_max: u32,
}

/// Bytes that are not the enveloped thing expected.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvelopeFault {
    /// The bytes end too early.
    #[error("{have_bytes} bytes where {need_bytes} are needed")]
    Short {
        /// Bytes needed to go on.
        need_bytes: usize,
        /// Bytes given.
        have_bytes: usize,
    },
    /// Something else altogether.
    #[error("it does not begin with the mark of its kind")]
    Magic,
    /// Written by another version.
    #[error("it is of version {theirs} and this program reads version {ours}")]
    Version {
        /// Version found.
        theirs: u16,
        /// Version read here.
        ours: u16,
    },
    /// A body longer than its kind allows.
    #[error("its body of {len_bytes} bytes is over the limit of {len_max_bytes}")]
    Length {
        /// Length found.
        len_bytes: u32,
        /// Longest length allowed.
        len_max_bytes: u32,
    },
    /// Damage.
    #[error("its checksum does not hold")]
    Checksum,
}

impl Envelope {
    /// Bytes before the body.
    pub const HEADER_LEN: usize = 16;

    /// Puts the envelope around `body`.
    ///
    /// # Panics
    /// When the body is over the limit; whoever made it has checked that.
    #[must_use]
    pub fn seal(&self, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        assert!(
            len <= self.len_max,
            "a body of {len} bytes, limit {}",
            self.len_max
        );
        let mut out = Vec::with_capacity(Self::HEADER_LEN + body.len());
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        let check = check(&out, body);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    /// The length of the body that a header announces, checked before anything is allocated for it.
    ///
    /// # Errors
    /// When the header is short, of another kind or version, or announces too much.
    pub fn body_len(&self, header: &[u8]) -> Result<usize, EnvelopeFault> {
        let Some(header) = header.first_chunk::<{ Self::HEADER_LEN }>() else {
            let have_bytes = header.len();
            return Err(EnvelopeFault::Short {
                need_bytes: Self::HEADER_LEN,
                have_bytes,
            });
        };
        let [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3, ..] = *header;
        if [m0, m1, m2, m3] != self.magic {
            return Err(EnvelopeFault::Magic);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != self.version {
            return Err(EnvelopeFault::Version {
                theirs: version,
                ours: self.version,
            });
        }
        if u16::from_le_bytes([k0, k1]) != self.kind {
            return Err(EnvelopeFault::Magic);
        }
        let len_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        if len_bytes > self.len_max {
            return Err(EnvelopeFault::Length {
                len_bytes,
                len_max_bytes: self.len_max,
            });
        }
        Ok(len_bytes as usize)
    }

    /// The body within `bytes`, which may go on behind it.
    ///
    /// # Errors
    /// When the bytes are not a whole, undamaged thing of this kind and version.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], EnvelopeFault> {
        let need_bytes = Self::HEADER_LEN + self.body_len(bytes)?;
        let Some(whole) = bytes.get(..need_bytes) else {
            return Err(EnvelopeFault::Short {
                need_bytes,
                have_bytes: bytes.len(),
            });
        };
        let (header, body) = whole.split_at(Self::HEADER_LEN);
        let (fields, stored) = header.split_at(12);
        if check(fields, body).to_le_bytes() != stored {
            return Err(EnvelopeFault::Checksum);
        }
        Ok(body)
    }
}

fn check(fields: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Envelope = Envelope {
        magic: *b"TEST",
        version: 3,
        kind: 1,
        len_max: 64,
    };

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let sealed = KIND.seal(b"some body");
        assert_eq!(KIND.open(&sealed), Ok(&b"some body"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(KIND.open(&bad).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(matches!(
                KIND.open(&sealed[..len]),
                Err(EnvelopeFault::Short { .. })
            ));
        }
    }

    #[test]
    fn refusals_name_what_differs() {
        let newer = Envelope { version: 4, ..KIND }.seal(b"x");
        assert_eq!(
            KIND.open(&newer),
            Err(EnvelopeFault::Version { theirs: 4, ours: 3 })
        );
        let larger = Envelope {
            len_max: 100,
            ..KIND
        }
        .seal(&[0; 65]);
        let fault = EnvelopeFault::Length {
            len_bytes: 65,
            len_max_bytes: 64,
        };
        assert_eq!(KIND.open(&larger), Err(fault));
        let other = Envelope { kind: 2, ..KIND }.seal(b"x");
        assert_eq!(KIND.open(&other), Err(EnvelopeFault::Magic));
    }
}
