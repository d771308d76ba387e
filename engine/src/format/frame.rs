//! Frames: what is written at once, shipped verbatim and appended verbatim.
//!
//! ```text
//!   0 magic        u32   "OLF1"
//!   4 kind         u8    FrameKind; 0 is never a frame
//!   5 flags        u8    bit 0: first frame of its segment; others 0 (compression, encryption)
//!   6 reserved     u16   0
//!   8 check        u32   CRC-32 of the epoch id that seeds it, bytes 0..8 and bytes 12..88
//!  12 chain        u32   `check` of the frame before; 0 for the first of a log
//!  16 payload_len  u32
//!  20 payload_sum  u32   CRC-32 of the payload, or of the piece table behind it
//!  24 batches      u32
//!  28 reserved     u32   0
//!  32 lsn          u64   where this frame begins
//!  40 term         u32
//!  44 start        u32
//!  48 first_commit u64   commit number of the first batch
//!  56 wall_ms      u64   writer's wall clock, for people
//!  64 log_ms       u64   log time, never decreases
//!  72 visible      u64   what the writer's readers might see
//!  80 watermark    u64   what the writer knew fsynced when it formed this frame
//!  88 payload, piece table, zeros up to a multiple of 8
//! ```

use bytes::Bytes;
use thiserror::Error;

use super::checksum;
use super::epoch::EpochRecord;
use super::ids::{ClusterId, EpochId, Lsn, Position};
use super::limits::FRAME_LEN_MAX;

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_LEN: usize = 88;

const MAGIC: [u8; 4] = *b"OLF1";
const FLAG_FIRST_IN_SEGMENT: u8 = 1;
const ALIGNMENT: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum FrameKind {
    /// Batches of puts and deletes.
    Batches = 1,
    /// The start of an epoch.
    Epoch = 2,
    /// Nothing but its header: a durable watermark (and log time) for an idle log.
    Watermark = 3,
    /// A keyspace is made.
    Keyspace = 4,
    /// Policy, members, suspension or resumption.
    Protection = 5,
}

impl FrameKind {
    /// The kind that a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Batches,
            2 => Self::Epoch,
            3 => Self::Watermark,
            4 => Self::Keyspace,
            5 => Self::Protection,
            _ => return None,
        })
    }
}

/// Why bytes are not the frame that belongs at their place.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameFault {
    /// The bytes end before the frame does.
    #[error("the frame at {lsn} needs {need_bytes} bytes and {have_bytes} are there")]
    Short {
        /// Where the frame should begin.
        lsn: Lsn,
        /// Bytes needed to go on.
        need_bytes: u64,
        /// Bytes given.
        have_bytes: u64,
    },
    /// A header of zeros only: nothing was ever written here.
    #[error("nothing was written at {lsn}")]
    Zeros {
        /// Where the frame should begin.
        lsn: Lsn,
    },
    /// The header is none, or its checksum does not hold in this epoch.
    #[error("the frame header at {lsn} is damaged or belongs to another epoch or cluster")]
    Header {
        /// Where the frame should begin.
        lsn: Lsn,
    },
    /// A sound header that does not belong here: other position, chain, epoch or commit number.
    #[error("the frame at {lsn} does not continue the log before it ({what})")]
    Order {
        /// Where the frame should begin.
        lsn: Lsn,
        /// Which field does not fit.
        what: &'static str,
    },
    /// The header is sound, the payload is not.
    #[error("the payload of the frame at {lsn} is damaged")]
    Payload {
        /// Where the frame begins.
        lsn: Lsn,
    },
    /// A control record that does not decode or does not continue the history.
    #[error("the control record at {lsn} is not one that may stand here")]
    Control {
        /// Where the frame begins.
        lsn: Lsn,
    },
}

/// A frame's header, decoded and checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Whether it is the first frame of its segment.
    pub first_in_segment: bool,
    /// Its own checksum, which the next frame names.
    pub check: u32,
    /// The checksum of the frame before.
    pub chain: u32,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// Checksum of the payload.
    pub payload_sum: u32,
    /// Number of batches.
    pub batches: u32,
    /// Where the frame begins.
    pub lsn: Lsn,
    /// Term of the writer's epoch.
    pub term: u32,
    /// Start of the writer's epoch.
    pub start: u32,
    /// Commit number of the first batch (of the next batch, where there is none).
    pub first_commit: u64,
    /// The writer's wall clock in milliseconds since 1970.
    pub wall_ms: u64,
    /// Log time in milliseconds since 1970.
    pub log_ms: u64,
    /// What the writer's readers might see when the frame was formed.
    pub visible: Lsn,
    /// What the writer knew fsynced on its own disk when the frame was formed.
    pub watermark: Lsn,
}

impl FrameHeader {
    /// Length of the whole frame in bytes.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        encoded_frame_len(self.payload_len as usize)
    }

    /// Where the frame ends and the next one begins.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.lsn.advance(self.frame_len() as u64)
    }

    /// Where the frame ends, with the number of its last commit.
    #[must_use]
    pub fn position(&self) -> Position {
        let commit = self.first_commit + u64::from(self.batches) - 1;
        Position {
            lsn: self.end(),
            commit,
        }
    }

    /// Position of the payload's first byte.
    #[must_use]
    pub fn payload_lsn(&self) -> Lsn {
        self.lsn.advance(FRAME_HEADER_LEN as u64)
    }

    /// The payload within the bytes of the frame; empty when `frame` is too short.
    #[must_use]
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let end = FRAME_HEADER_LEN + self.payload_len as usize;
        frame.get(FRAME_HEADER_LEN..end).unwrap_or_default()
    }

    /// Length in bytes of the payload that begins `epoch`.
    #[must_use]
    pub fn epoch_payload_len(epoch: &EpochRecord) -> usize {
        super::control::encode(epoch).len()
    }

    /// Length of the frame whose header `bytes` begins with, as the header says, unchecked; `None`
    /// when the header is cut short, is none, or announces more than a frame may have.
    #[must_use]
    pub fn announced_len(bytes: &[u8]) -> Option<usize> {
        let header = Self::decode(bytes.first_chunk()?)?;
        let len = header.frame_len();
        (len as u64 <= FRAME_LEN_MAX).then_some(len)
    }

    /// The header that `bytes` begins with, as it says, with no look at its checksum; `None` when
    /// it is cut short or none.
    #[must_use]
    pub fn unchecked(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes.first_chunk()?)
    }

    /// The header at the start of `bytes`, if it is one that a writer of `epoch` formed for `lsn`.
    ///
    /// For looking past damage: such a frame is not verified to continue anything, but its
    /// watermark says what its writer knew fsynced.
    #[must_use]
    pub fn stray(bytes: &[u8], lsn: Lsn, epoch: &EpochKey) -> Option<Self> {
        let raw = bytes.first_chunk()?;
        let header = Self::decode(raw)?;
        let formed = header_check(raw, &epoch.id.0) == header.check
            && (header.term, header.start) == (epoch.term, epoch.start)
            && header.lsn == lsn
            && header.watermark <= lsn;
        formed.then_some(header)
    }

    fn encode(&self, seed: &[u8; 16], first_in_segment: bool) -> ([u8; FRAME_HEADER_LEN], u32) {
        let mut out = Vec::with_capacity(FRAME_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.push(self.kind as u8);
        out.push(if first_in_segment {
            FLAG_FIRST_IN_SEGMENT
        } else {
            0
        });
        out.extend_from_slice(&[0; 6]); // reserved, and the checksum's place
        for word in [
            self.chain,
            self.payload_len,
            self.payload_sum,
            self.batches,
            0,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.start.to_le_bytes());
        let words = [
            self.first_commit,
            self.wall_ms,
            self.log_ms,
            self.visible.0,
            self.watermark.0,
        ];
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let mut header = [0; FRAME_HEADER_LEN];
        header.copy_from_slice(&out);
        let check = header_check(&header, seed);
        header[8..12].copy_from_slice(&check.to_le_bytes());
        (header, check)
    }

    /// Decodes the fields without a look at the checksum.
    fn decode(bytes: &[u8; FRAME_HEADER_LEN]) -> Option<Self> {
        let u32_at = |at: usize| word::<4>(bytes, at).map(u32::from_le_bytes);
        let u64_at = |at: usize| word::<8>(bytes, at).map(u64::from_le_bytes);
        let (flags, reserved) = (bytes[5], [bytes[6], bytes[7]]);
        if word::<4>(bytes, 0)? != MAGIC
            || flags & !FLAG_FIRST_IN_SEGMENT != 0
            || reserved != [0; 2]
            || u32_at(28)? != 0
        {
            return None;
        }
        Some(Self {
            kind: FrameKind::from_byte(bytes[4])?,
            first_in_segment: flags & FLAG_FIRST_IN_SEGMENT != 0,
            check: u32_at(8)?,
            chain: u32_at(12)?,
            payload_len: u32_at(16)?,
            payload_sum: u32_at(20)?,
            batches: u32_at(24)?,
            lsn: Lsn(u64_at(32)?),
            term: u32_at(40)?,
            start: u32_at(44)?,
            first_commit: u64_at(48)?,
            wall_ms: u64_at(56)?,
            log_ms: u64_at(64)?,
            visible: Lsn(u64_at(72)?),
            watermark: Lsn(u64_at(80)?),
        })
    }
}

/// Length in bytes of the frame around a payload of `payload_len` bytes.
#[must_use]
pub const fn encoded_frame_len(payload_len: usize) -> usize {
    let len = FRAME_HEADER_LEN + payload_len + checksum::table_len(payload_len);
    len.next_multiple_of(ALIGNMENT)
}

/// An epoch as frames name it: its place in the order, and the id that seeds their checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochKey {
    /// Term.
    pub term: u32,
    /// Start.
    pub start: u32,
    /// Identity.
    pub id: EpochId,
}

impl From<&EpochRecord> for EpochKey {
    fn from(record: &EpochRecord) -> Self {
        Self {
            term: record.term,
            start: record.start,
            id: record.id,
        }
    }
}

impl From<&Chain> for Position {
    fn from(chain: &Chain) -> Self {
        chain.position()
    }
}

/// The fields of a frame that its writer chooses; all others follow from the [`Chain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameFields {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Whether it opens a segment.
    pub first_in_segment: bool,
    /// Number of batches in the payload.
    pub batches: u32,
    /// The writer's wall clock in milliseconds since 1970.
    pub wall_ms: u64,
    /// Log time in milliseconds since 1970; raised to the previous frame's where it is below.
    pub log_ms: u64,
    /// What readers may see by now.
    pub visible: Lsn,
    /// What is known fsynced by now.
    pub watermark: Lsn,
}

/// Where a log stands: all that is needed to check, or to form, its next frame.
///
/// Invariants: `watermark` and `visible` never exceed `lsn`; `lsn` is a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The cluster, whose id seeds the checksum of the very first frame.
    pub cluster: ClusterId,
    /// Where the next frame begins.
    pub lsn: Lsn,
    /// Checksum of the last frame; 0 before the first.
    pub check: u32,
    /// The epoch of the last frame; `None` before the first.
    pub epoch: Option<EpochKey>,
    /// Commit number of the next batch.
    pub next_commit: u64,
    /// Log time of the last frame.
    pub log_ms: u64,
    /// `visible` of the last frame.
    pub visible: Lsn,
    /// `watermark` of the last frame.
    pub watermark: Lsn,
}

impl Chain {
    /// The beginning of a cluster's log. Commits are numbered from 1.
    #[must_use]
    pub const fn origin(cluster: ClusterId) -> Self {
        Self {
            cluster,
            lsn: Lsn::ZERO,
            check: 0,
            epoch: None,
            next_commit: 1,
            log_ms: 0,
            visible: Lsn::ZERO,
            watermark: Lsn::ZERO,
        }
    }

    /// Where the log ends, with the number of its last commit.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            lsn: self.lsn,
            commit: self.next_commit - 1,
        }
    }

    fn seed(&self) -> &[u8; 16] {
        self.epoch
            .as_ref()
            .map_or(&self.cluster.0, |epoch| &epoch.id.0)
    }

    /// Checks the header that should stand at [`Chain::lsn`]; the payload need not be there yet.
    ///
    /// # Errors
    /// When `bytes` is too short, or not the header of this log's next frame.
    pub fn check_header(&self, bytes: &[u8]) -> Result<FrameHeader, FrameFault> {
        let lsn = self.lsn;
        let Some(raw) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
            let (need_bytes, have_bytes) = (FRAME_HEADER_LEN as u64, bytes.len() as u64);
            return Err(FrameFault::Short {
                lsn,
                need_bytes,
                have_bytes,
            });
        };
        if raw.iter().all(|byte| *byte == 0) {
            return Err(FrameFault::Zeros { lsn });
        }
        let header = FrameHeader::decode(raw).ok_or(FrameFault::Header { lsn })?;
        if header_check(raw, self.seed()) != header.check
            || header.frame_len() as u64 > FRAME_LEN_MAX
        {
            return Err(FrameFault::Header { lsn });
        }
        self.check_order(&header)
            .map_err(|what| FrameFault::Order { lsn, what })?;
        Ok(header)
    }

    fn check_order(&self, header: &FrameHeader) -> Result<(), &'static str> {
        let require = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        require(header.lsn == self.lsn, "position")?;
        require(header.chain == self.check, "chain")?;
        require(header.first_commit == self.next_commit, "commit number")?;
        require(header.log_ms >= self.log_ms, "log time")?;
        require(header.watermark <= header.lsn, "watermark above its frame")?;
        require(header.visible <= header.lsn, "visible above its frame")?;
        let batches_fit = (header.kind == FrameKind::Batches) == (header.batches > 0);
        require(batches_fit, "number of batches")?;
        let order = (header.term, header.start);
        if header.kind == FrameKind::Epoch {
            let above = self
                .epoch
                .is_none_or(|epoch| order > (epoch.term, epoch.start));
            return require(above, "epoch does not rise");
        }
        let same = self
            .epoch
            .is_some_and(|epoch| order == (epoch.term, epoch.start));
        require(same, "epoch")?;
        require(
            header.watermark >= self.watermark,
            "watermark falls within an epoch",
        )?;
        require(
            header.visible >= self.visible,
            "visible falls within an epoch",
        )
    }

    /// Checks the frame that should stand at [`Chain::lsn`], payload included, and answers with its
    /// header and, for the start of an epoch, that epoch. `bytes` may go on behind the frame.
    ///
    /// # Errors
    /// When `bytes` is too short, or not this log's next frame.
    pub fn check_frame(
        &self,
        bytes: &[u8],
    ) -> Result<(FrameHeader, Option<EpochRecord>), FrameFault> {
        let lsn = self.lsn;
        let header = self.check_header(bytes)?;
        let Some(frame) = bytes.get(..header.frame_len()) else {
            let (need_bytes, have_bytes) = (header.frame_len() as u64, bytes.len() as u64);
            return Err(FrameFault::Short {
                lsn,
                need_bytes,
                have_bytes,
            });
        };
        let payload = header.payload(frame);
        let table_start = FRAME_HEADER_LEN + payload.len();
        let table_end = table_start + checksum::table_len(payload.len());
        let table = frame.get(table_start..table_end).unwrap_or_default();
        let padding = frame.get(table_end..).unwrap_or_default();
        if !checksum::holds(payload, table, header.payload_sum)
            || padding.iter().any(|byte| *byte != 0)
        {
            return Err(FrameFault::Payload { lsn });
        }
        if header.kind != FrameKind::Epoch {
            return Ok((header, None));
        }
        let epoch: EpochRecord =
            super::control::decode(payload).map_err(|_| FrameFault::Control { lsn })?;
        let continues = epoch.order() == (header.term, header.start)
            && epoch.fork == lsn
            && epoch.parent == self.epoch.map_or(EpochId::NONE, |parent| parent.id)
            && epoch.within_limits();
        if !continues {
            return Err(FrameFault::Control { lsn });
        }
        Ok((header, Some(epoch)))
    }

    /// The chain behind a frame that [`Chain::check_frame`] passed.
    ///
    /// # Panics
    /// When the frame is not at this chain's position.
    #[must_use]
    pub fn after(&self, header: &FrameHeader, epoch: Option<&EpochRecord>) -> Self {
        assert_eq!(
            header.lsn, self.lsn,
            "a frame must stand where the chain ends"
        );
        Self {
            cluster: self.cluster,
            lsn: header.end(),
            check: header.check,
            epoch: epoch.map(EpochKey::from).or(self.epoch),
            next_commit: self.next_commit + u64::from(header.batches),
            log_ms: header.log_ms,
            visible: header.visible,
            watermark: header.watermark,
        }
    }

    /// Forms the next frame around `payload`, given in parts, and moves on behind it.
    ///
    /// # Panics
    /// When the frame would break a limit or the order of positions; its writer has checked both.
    #[must_use]
    pub fn form<'a>(
        &mut self,
        fields: FrameFields,
        parts: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
    ) -> Bytes {
        let epoch = self
            .epoch
            .unwrap_or_else(|| panic!("no epoch has begun at {}", self.lsn));
        assert_ne!(
            fields.kind,
            FrameKind::Epoch,
            "an epoch begins by form_epoch"
        );
        self.form_as(fields, parts, &epoch)
    }

    /// Forms the frame that begins `epoch`, and moves on behind it.
    ///
    /// # Panics
    /// When the epoch does not continue this chain.
    #[must_use]
    pub fn form_epoch(&mut self, fields: FrameFields, epoch: &EpochRecord) -> Bytes {
        assert_eq!(
            epoch.fork, self.lsn,
            "an epoch forks where its frame begins"
        );
        assert_eq!(fields.kind, FrameKind::Epoch);
        let payload = super::control::encode(epoch);
        let key = EpochKey::from(epoch);
        let frame = self.form_as(fields, [payload.as_slice()], &key);
        self.epoch = Some(key);
        frame
    }

    fn form_as<'a>(
        &mut self,
        fields: FrameFields,
        parts: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
        epoch: &EpochKey,
    ) -> Bytes {
        let parts = parts.into_iter();
        let payload_len = parts.clone().map(<[u8]>::len).sum();
        let mut frame = Vec::with_capacity(encoded_frame_len(payload_len));
        frame.resize(FRAME_HEADER_LEN, 0);
        for part in parts {
            frame.extend_from_slice(part);
        }
        let payload_sum = checksum::seal(&mut frame, FRAME_HEADER_LEN);
        frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
        assert_eq!(frame.len(), encoded_frame_len(payload_len));
        let header = FrameHeader {
            kind: fields.kind,
            first_in_segment: fields.first_in_segment,
            check: 0,
            chain: self.check,
            payload_len: u32::try_from(payload_len)
                .unwrap_or_else(|_| panic!("a payload of {payload_len} bytes is over every limit")),
            payload_sum,
            batches: fields.batches,
            lsn: self.lsn,
            term: epoch.term,
            start: epoch.start,
            first_commit: self.next_commit,
            wall_ms: fields.wall_ms,
            log_ms: fields.log_ms.max(self.log_ms),
            visible: fields.visible,
            watermark: fields.watermark,
        };
        if let Err(what) = self.check_order(&header) {
            panic!("formed a frame that no reader would take ({what}): {header:?} after {self:?}");
        }
        assert!(
            frame.len() as u64 <= FRAME_LEN_MAX,
            "a frame of {} bytes",
            frame.len()
        );
        let (raw, check) = header.encode(self.seed(), fields.first_in_segment);
        if let Some(place) = frame.first_chunk_mut::<FRAME_HEADER_LEN>() {
            *place = raw;
        }
        *self = self.after(&FrameHeader { check, ..header }, None);
        Bytes::from(frame)
    }
}

fn header_check(header: &[u8; FRAME_HEADER_LEN], seed: &[u8; 16]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(seed);
    hasher.update(&header[..8]);
    hasher.update(&header[12..]);
    hasher.finalize()
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
