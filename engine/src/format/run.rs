//! Runs of whole frames that were checked: the only thing that a follower's log takes.

use bytes::Bytes;
use thiserror::Error;

use super::epoch::EpochRecord;
use super::frame::{Chain, FrameFault, FrameHeader};
use super::ids::{Lsn, LsnRange, to_usize};

/// Bytes that are not a run of whole frames which continues a chain.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{fault}, {} bytes into a run", .at_bytes)]
#[non_exhaustive]
pub struct RunFault {
    /// Where in the run the faulty frame begins, in bytes.
    pub at_bytes: usize,
    /// What is wrong with it.
    pub fault: FrameFault,
}

/// Whole frames that continue a chain, every checksum of them verified.
///
/// Cannot be made otherwise than by checking, so whoever holds one need not check again.
#[derive(Clone, Debug)]
pub struct FrameRun {
    bytes: Bytes,
    before: Chain,
    after: Chain,
    headers: Vec<FrameHeader>,
    epochs: Vec<EpochRecord>,
}

impl FrameRun {
    /// Checks that `bytes` is whole frames, one behind the other, the first at the end of `chain`.
    ///
    /// # Errors
    /// Names the first frame that is damaged, cut short, or does not continue the one before.
    pub fn check(chain: &Chain, bytes: Bytes) -> Result<Self, RunFault> {
        let mut run = Self {
            bytes,
            before: *chain,
            after: *chain,
            headers: Vec::new(),
            epochs: Vec::new(),
        };
        let mut at = 0;
        while at < run.bytes.len() {
            let rest = run.bytes.get(at..).unwrap_or_default();
            let (header, epoch) = run.after.check_frame(rest).map_err(|fault| RunFault {
                at_bytes: at,
                fault,
            })?;
            run.after = run.after.after(&header, epoch.as_ref());
            run.headers.push(header);
            run.epochs.extend(epoch);
            at += header.frame_len();
        }
        Ok(run)
    }

    /// Where the run begins and ends.
    #[must_use]
    pub const fn range(&self) -> LsnRange {
        LsnRange::new(self.before.lsn, self.after.lsn)
    }

    /// All bytes of the run.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The chain that the run continues.
    #[must_use]
    pub const fn before(&self) -> &Chain {
        &self.before
    }

    /// The chain behind the run.
    #[must_use]
    pub const fn after(&self) -> &Chain {
        &self.after
    }

    /// The epochs that begin in the run, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// The frames in order, each with its bytes (sharing the run's memory).
    pub fn frames(&self) -> impl Iterator<Item = (&FrameHeader, Bytes)> {
        self.headers
            .iter()
            .map(|header| (header, self.slice(header.lsn, header.end())))
    }

    /// The bytes of `[start, end)`, which must lie in the run.
    ///
    /// # Panics
    /// When they do not.
    #[must_use]
    pub fn slice(&self, start: Lsn, end: Lsn) -> Bytes {
        let offset = |lsn: Lsn| to_usize(lsn.bytes_since(self.before.lsn));
        self.bytes.slice(offset(start)..offset(end))
    }
}
