//! The parts of the file, its footer, and its limits.
//!
//! ```text
//! blocks of entries | filter | fences | checks of all blocks before | footer
//! ```
//! All of them begin at multiples of [`BLOCK_LEN`]; zeros fill up.

use serde::{Deserialize, Serialize};

use super::{RunMeta, damaged, filter};
use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::KEY_LEN_MAX;
use crate::format::{Envelope, EnvelopeFault, Lsn};

/// Everything in a run is read and checked in blocks of this many bytes.
pub(super) const BLOCK_LEN: usize = 4096;
/// Longest key with its keyspace before it.
pub(super) const PREFIXED_LEN_MAX: usize = KEY_LEN_MAX + 4;
/// Blocks of checksums in a run: what the footer has room for.
pub(super) const CHECK_BLOCKS_MAX: usize = 768;
/// Blocks in a run apart from those of checksums and the footer: 3 GiB.
pub(super) const BLOCKS_MAX: usize = CHECK_BLOCKS_MAX * CHECKS_PER_BLOCK;

const CHECKS_PER_BLOCK: usize = BLOCK_LEN / 4;
/// Feature: puts that expire. Their blocks say when, and the footer when the last one does.
const EXPIRING: u64 = 1;
/// Features without which a run cannot be read.
const FEATURES_KNOWN: u64 = EXPIRING;
const FOOTER: Envelope = Envelope {
    magic: *b"OLIR",
    version: 1,
    kind: 1,
    len_max: 4096 - 16,
};
/// Bytes of the footer's fields beside the checks: nine numbers of at most ten bytes each and four
/// of at most five, with the length of the list.
const FOOTER_FIELDS_LEN_MAX: usize = 9 * 10 + 4 * 5;

// The footer fits in its block, and offsets of fence texts fit in 31 bits.
const _: () = assert!(FOOTER_FIELDS_LEN_MAX + 4 * CHECK_BLOCKS_MAX <= BLOCK_LEN - 16);
const _: () = assert!(BLOCKS_MAX * (PREFIXED_LEN_MAX + 8) < 1 << 31);

/// The last block.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Footer {
    pub(super) features_incompatible: u64,
    pub(super) features_compatible: u64,
    pub(super) entries: u64,
    pub(super) deletes: u64,
    pub(super) keys: u64,
    pub(super) lowest: Lsn,
    pub(super) highest: Lsn,
    pub(super) entry_blocks: u32,
    pub(super) fence_blocks: u32,
    /// Lines of the filter.
    pub(super) filter_lines: u32,
    /// Bytes that all keys begin with.
    pub(super) common_len: u16,
    /// Checksums of the blocks of checksums.
    pub(super) checks: Vec<[u8; 4]>,
    /// When the last of the puts expires; 0 if none does. Behind the rest, with the feature.
    #[serde(skip)]
    pub(super) expires_last_ms: u64,
    /// The envelope's own.
    #[serde(skip)]
    pub(super) check: u32,
}

/// Where the parts begin, in blocks. The blocks of entries begin the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) filter: usize,
    pub(super) fences: usize,
    pub(super) checks: usize,
    pub(super) footer: usize,
}

impl Footer {
    /// The whole block; sets [`Footer::check`].
    pub(super) fn encode(&mut self) -> Vec<u8> {
        if self.expires_last_ms > 0 {
            self.features_incompatible |= EXPIRING;
        }
        let expiry = (self.expires_last_ms > 0).then_some(self.expires_last_ms);
        let body = match postcard::to_stdvec(self).map(|body| with_expiry(body, expiry)) {
            Ok(body) => body,
            Err(error) => panic!("a run's footer does not encode: {error}"),
        };
        let mut block = FOOTER.seal(&body);
        self.check = envelope_check(&block);
        block.resize(BLOCK_LEN, 0);
        block
    }

    /// # Errors
    /// `Incompatible` for another version's, `Corrupt` for what is none.
    pub(super) fn decode(block: &[u8], name: &str) -> Result<Self> {
        let offset = 0;
        let refuse = |what: &str| damaged(name, offset, &format!("its footer: {what}"));
        let body = FOOTER.open(block).map_err(|fault| match fault {
            EnvelopeFault::Version { .. } => incompatible(name, &fault.to_string()),
            _ => refuse(&fault.to_string()),
        })?;
        let padding = block.get(Envelope::HEADER_LEN + body.len()..);
        if padding.unwrap_or_default().iter().any(|byte| *byte != 0) {
            return Err(refuse("something lies behind it"));
        }
        let (mut footer, rest): (Self, _) =
            postcard::take_from_bytes(body).map_err(|_| refuse("its fields do not decode"))?;
        if footer.features_incompatible & !FEATURES_KNOWN != 0 {
            let features = footer.features_incompatible;
            return Err(incompatible(
                name,
                &format!("it needs features {features:#x}"),
            ));
        }
        let mut rest = rest;
        if footer.features_incompatible & EXPIRING != 0 {
            (footer.expires_last_ms, rest) =
                postcard::take_from_bytes(rest).map_err(|_| refuse("its fields do not decode"))?;
        }
        if !rest.is_empty() {
            return Err(refuse("its fields do not decode"));
        }
        footer.check = envelope_check(block);
        Ok(footer)
    }

    /// The parts of a file of `file_len` bytes, if they are exactly that file.
    pub(super) fn parts(&self, file_len: usize) -> Option<Parts> {
        let filter = self.entry_blocks as usize;
        let fences = filter.checked_add(filter::blocks(self.filter_lines))?;
        let checks = fences.checked_add(self.fence_blocks as usize)?;
        let footer = checks.checked_add(check_blocks(checks))?;
        let whole = filter > 0
            && self.filter_lines > 0
            && checks <= BLOCKS_MAX
            && self.checks.len() == check_blocks(checks)
            && (footer + 1).checked_mul(BLOCK_LEN)? == file_len;
        whole.then_some(Parts {
            filter,
            fences,
            checks,
            footer,
        })
    }

    pub(super) fn agrees(&self, meta: &RunMeta) -> bool {
        (self.entries, self.deletes, self.keys) == (meta.entries, meta.deletes, meta.keys)
            && (self.lowest, self.highest) == (meta.lowest, meta.highest)
            && self.expires_last_ms == meta.expires_last_ms
    }
}

/// Blocks that the checksums of `blocks` blocks take.
pub(super) const fn check_blocks(blocks: usize) -> usize {
    blocks.div_ceil(CHECKS_PER_BLOCK)
}

/// Which block of checksums has a block's, and which one of it.
pub(super) const fn check_place(block: usize) -> (usize, usize) {
    (block / CHECKS_PER_BLOCK, block % CHECKS_PER_BLOCK)
}

/// A footer's body with what stands behind its fields.
fn with_expiry(mut body: Vec<u8>, expires_last_ms: Option<u64>) -> Vec<u8> {
    let expiry = expires_last_ms.map(|expires_ms| postcard::to_stdvec(&expires_ms));
    match expiry.transpose() {
        Ok(expiry) => body.extend(expiry.unwrap_or_default()),
        Err(error) => panic!("a number does not encode: {error}"),
    }
    body
}

fn envelope_check(block: &[u8]) -> u32 {
    match block.get(12..16).and_then(<[u8]>::first_chunk) {
        Some(check) => u32::from_le_bytes(*check),
        None => 0,
    }
}

fn incompatible(name: &str, what: &str) -> Error {
    let message = format!(
        "the index run {name} is none of this program's ({what}): use the program that wrote it, \
         or have the index built again"
    );
    Error::new(ErrorKind::Incompatible, message)
}
