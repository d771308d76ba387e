//! Segment files: a header, frames, zeros, and a footer once sealed. Nothing in one is node-local.
//!
//! ```text
//! header, 4 KiB:  envelope "OLSG", body padded with zeros
//! frames
//! zeros
//! footer, the last 4 KiB:  zeros while the segment is active, then envelope "OLSF"
//! ```
//! Header and footer take whole blocks so that every write can be aligned. They use no LSNs: the
//! byte at `base_lsn + n` lies at offset `4096 + n`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::control;
use super::envelope::{Envelope, EnvelopeFault};
use super::frame::{Chain, EpochKey};
use super::ids::{ClusterId, EpochId, Lsn, to_usize};
use super::limits::{SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, SEGMENT_SIZE_STEP};

/// Bytes of a segment before its first frame.
pub const SEGMENT_HEADER_LEN: u64 = 4096;
/// Bytes at the end of a segment that only its footer uses.
pub const SEGMENT_FOOTER_LEN: u64 = 4096;

/// Feature bits without which a segment cannot be understood; none exist yet.
const FEATURES_KNOWN: u64 = 0;
const BLOCK_LEN: usize = to_usize(SEGMENT_HEADER_LEN);
const BODY_LEN_MAX: u32 = 4096 - 16;
const HEADER: Envelope = Envelope {
    magic: *b"OLSG",
    version: 1,
    kind: 1,
    len_max: BODY_LEN_MAX,
};
const FOOTER: Envelope = Envelope {
    magic: *b"OLSF",
    version: 1,
    kind: 1,
    len_max: BODY_LEN_MAX,
};

/// Bytes that are not the header or footer of a segment.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentFault {
    /// Zeros: the segment is prepared and not used yet (header), or not sealed (footer).
    #[error("nothing is written there yet")]
    Zeros,
    /// Damage, another version, or another kind of file.
    #[error("it is damaged or none of this program's: {0}")]
    Envelope(#[from] EnvelopeFault),
    /// The envelope is sound and its body is not.
    #[error("its fields do not decode")]
    Body,
    /// Features that this program does not know.
    #[error("it needs features {0:#x} that this program does not have: use a newer one")]
    Features(u64),
    /// A field with a value that no writer writes.
    #[error("its {0} is none that exists")]
    Field(&'static str),
}

/// A [`Chain`] on disk. The cluster stands beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChainRecord {
    /// Where the next frame begins.
    pub lsn: Lsn,
    /// Checksum of the frame before; 0 at the beginning of the log.
    pub check: u32,
    /// Term, start and id of the epoch of the frame before; zeros at the beginning of the log.
    pub epoch: (u32, u32, EpochId),
    /// Commit number of the next batch.
    pub next_commit: u64,
    /// Log time of the frame before.
    pub log_ms: u64,
    /// `visible` of the frame before.
    pub visible: Lsn,
    /// `watermark` of the frame before.
    pub watermark: Lsn,
}

impl ChainRecord {
    /// What is kept of `chain`.
    #[must_use]
    pub fn new(chain: &Chain) -> Self {
        Self {
            lsn: chain.lsn,
            check: chain.check,
            epoch: chain
                .epoch
                .map_or((0, 0, EpochId::NONE), |e| (e.term, e.start, e.id)),
            next_commit: chain.next_commit,
            log_ms: chain.log_ms,
            visible: chain.visible,
            watermark: chain.watermark,
        }
    }

    /// The chain in `cluster`.
    #[must_use]
    pub fn chain(&self, cluster: ClusterId) -> Chain {
        let (term, start, id) = self.epoch;
        Chain {
            cluster,
            lsn: self.lsn,
            check: self.check,
            epoch: (id != EpochId::NONE).then_some(EpochKey { term, start, id }),
            next_commit: self.next_commit,
            log_ms: self.log_ms,
            visible: self.visible,
            watermark: self.watermark,
        }
    }
}

/// The header of a segment: enough to check its first frame without any other file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// Features that a reader must know.
    pub features_incompatible: u64,
    /// Features that a writer must know.
    pub features_read_only: u64,
    /// Features that may be ignored.
    pub features_compatible: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// Which file this is, from 1.
    pub ordinal: u64,
    /// Size of the file in bytes.
    pub segment_size: u64,
    /// Where the log stands before the first frame.
    pub start: ChainRecord,
}

impl SegmentHeader {
    /// The header of file `ordinal`, whose first frame continues `chain`.
    #[must_use]
    pub fn new(chain: &Chain, ordinal: u64, segment_size: u64) -> Self {
        Self {
            features_incompatible: 0,
            features_read_only: 0,
            features_compatible: 0,
            cluster: chain.cluster,
            ordinal,
            segment_size,
            start: ChainRecord::new(chain),
        }
    }

    /// The chain that the segment's first frame continues.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.start.chain(self.cluster)
    }

    /// Where the first frame begins.
    #[must_use]
    pub const fn base(&self) -> Lsn {
        self.start.lsn
    }

    /// Bytes that frames may take in a segment of `segment_size` bytes.
    #[must_use]
    pub const fn capacity(segment_size: u64) -> u64 {
        segment_size - SEGMENT_HEADER_LEN - SEGMENT_FOOTER_LEN
    }

    /// Whether a segment may have this size.
    #[must_use]
    pub const fn size_fits(segment_size: u64) -> bool {
        segment_size >= SEGMENT_SIZE_MIN
            && segment_size <= SEGMENT_SIZE_MAX
            && segment_size.is_multiple_of(SEGMENT_SIZE_STEP)
    }

    /// The whole block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        block(&HEADER, &control::encode(self))
    }

    /// Decodes the block at the start of a file.
    ///
    /// # Errors
    /// [`SegmentFault::Zeros`] for a segment that is prepared and not used; others for damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentFault> {
        let header: Self = open(&HEADER, bytes)?;
        let unknown = header.features_incompatible & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(SegmentFault::Features(unknown));
        }
        if !Self::size_fits(header.segment_size) {
            return Err(SegmentFault::Field("segment size"));
        }
        if header.ordinal == 0 || !header.base().0.is_multiple_of(8) {
            return Err(SegmentFault::Field("ordinal or base"));
        }
        Ok(header)
    }
}

/// The footer of a sealed segment. Its presence says that all before it was fsynced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentFooter {
    /// Where the segment's frames begin.
    pub base: Lsn,
    /// How many frames.
    pub frames: u64,
    /// Where the log stands behind the last one.
    pub end: ChainRecord,
}

impl SegmentFooter {
    /// The whole block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        block(&FOOTER, &control::encode(self))
    }

    /// Decodes the last block of a file.
    ///
    /// # Errors
    /// [`SegmentFault::Zeros`] for a segment that is not sealed; others for damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentFault> {
        let footer: Self = open(&FOOTER, bytes)?;
        if footer.end.lsn < footer.base {
            return Err(SegmentFault::Field("end"));
        }
        Ok(footer)
    }
}

pub(super) fn block(envelope: &Envelope, body: &[u8]) -> Vec<u8> {
    let mut out = envelope.seal(body);
    out.resize(BLOCK_LEN, 0);
    out
}

pub(super) fn open<T: serde::de::DeserializeOwned>(
    envelope: &Envelope,
    bytes: &[u8],
) -> Result<T, SegmentFault> {
    let need_bytes = BLOCK_LEN;
    let Some(block) = bytes.get(..need_bytes) else {
        return Err(EnvelopeFault::Short {
            need_bytes,
            have_bytes: bytes.len(),
        }
        .into());
    };
    if block.iter().all(|byte| *byte == 0) {
        return Err(SegmentFault::Zeros);
    }
    let body = envelope.open(block)?;
    let padding = block
        .get(Envelope::HEADER_LEN + body.len()..)
        .unwrap_or_default();
    if padding.iter().any(|byte| *byte != 0) {
        return Err(SegmentFault::Field("padding"));
    }
    control::decode(body).map_err(|_| SegmentFault::Body)
}

const _: () = assert!(SEGMENT_HEADER_LEN.is_multiple_of(SEGMENT_SIZE_STEP));
const _: () = assert!(
    SEGMENT_FOOTER_LEN == SEGMENT_HEADER_LEN,
    "block() serves both"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_footer_come_back_and_every_flipped_bit_is_seen() {
        let chain = Chain {
            lsn: Lsn(4096),
            check: 9,
            ..Chain::origin(ClusterId::random())
        };
        let header = SegmentHeader::new(&chain, 2, 65_536);
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(header.clone()));
        assert_eq!(header.chain(), chain);
        let footer = SegmentFooter {
            base: Lsn(0),
            frames: 2,
            end: ChainRecord::new(&chain),
        };
        let last = footer.encode();
        assert_eq!(SegmentFooter::decode(&last), Ok(footer));
        for bit in 0..block.len() * 8 {
            let flip = |block: &[u8]| {
                let mut bad = block.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                bad
            };
            assert!(SegmentHeader::decode(&flip(&block)).is_err(), "bit {bit}");
            assert!(SegmentFooter::decode(&flip(&last)).is_err(), "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(SegmentFault::Zeros));
    }
}
