//! What is known of all logs together: every frame that a writer formed, and what it has shown.

use std::collections::BTreeMap;

use outlast_engine::Lsn;
use outlast_engine::format::{EpochId, EpochRecord, NodeId};

use crate::violation::{Checked, check};

/// A frame in a log, as far as logs are compared: its checksum covers its payload and, by the
/// chain, all before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameEnd {
    pub(crate) end: Lsn,
    /// The last commit up to there.
    pub(crate) commit: u64,
    pub(crate) epoch: EpochId,
    pub(crate) check: u32,
    /// What it vouches for, where its writer wrote it.
    pub(crate) watermark: Lsn,
    /// Its log time.
    pub(crate) log_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    frames: BTreeMap<(EpochId, Lsn), u32>,
    epochs: BTreeMap<EpochId, EpochRecord>,
    /// What the writer of an epoch has shown to readers under it.
    shown: BTreeMap<EpochId, Lsn>,
}

impl Oracle {
    /// Takes an epoch that some log holds.
    pub(crate) fn epoch(&mut self, record: &EpochRecord) -> Checked {
        let known = self
            .epochs
            .entry(record.id)
            .or_insert_with(|| record.clone());
        check(known == record, "I2", || {
            format!("an epoch is two: {known:?} and {record:?}")
        })
    }

    /// Takes a frame that the log of `node` holds. Only the writer of an epoch adds to it.
    pub(crate) fn frame(&mut self, node: NodeId, frame: FrameEnd) -> Checked {
        let key = (frame.epoch, frame.end);
        if let Some(known) = self.frames.get(&key) {
            return check(*known == frame.check, "I2", || {
                format!(
                    "two logs differ in the frame that ends at {}: {frame:?}",
                    frame.end
                )
            });
        }
        let writer = self.epochs.get(&frame.epoch).map(|epoch| epoch.node);
        check(writer == Some(node), "I12", || {
            format!("a log holds a frame that its writer never formed: {frame:?}")
        })?;
        self.frames.insert(key, frame.check);
        Ok(())
    }

    /// The writer of `epoch` shows everything up to `visible`, that of the epochs before it
    /// included.
    pub(crate) fn show(&mut self, epoch: EpochId, visible: Lsn) {
        let (mut epoch, mut visible) = (epoch, visible);
        loop {
            let shown = self.shown.entry(epoch).or_default();
            if *shown >= visible {
                return;
            }
            *shown = visible;
            let Some(record) = self.epochs.get(&epoch) else {
                return;
            };
            (epoch, visible) = (record.parent, visible.min(record.fork));
        }
    }

    /// The highest position that the writers of these epochs have shown.
    pub(crate) fn shown<'a>(&self, epochs: impl IntoIterator<Item = &'a EpochRecord>) -> Lsn {
        epochs
            .into_iter()
            .filter_map(|epoch| self.shown.get(&epoch.id))
            .copied()
            .max()
            .unwrap_or_default()
    }

    /// An epoch that some log holds.
    pub(crate) fn record(&self, epoch: EpochId) -> Option<&EpochRecord> {
        self.epochs.get(&epoch)
    }

    /// Which node writes an epoch.
    pub(crate) fn writer(&self, epoch: EpochId) -> Option<NodeId> {
        self.epochs.get(&epoch).map(|epoch| epoch.node)
    }
}
