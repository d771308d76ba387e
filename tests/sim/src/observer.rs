//! Looks at every frame that enters a node's log, once, and at where the log stands.

use outlast_engine::format::{
    EpochRecord, FrameKind, LsnRange, NodeId, Position, ProtectionRecord,
};
use outlast_engine::{LogCursor, Lsn, Store};
use outlast_proto::{Protection, ProtectionPoint};

use crate::oracle::{FrameEnd, Oracle};
use crate::violation::{Checked, Violation, check};

pub(crate) struct Observer {
    cursor: LogCursor,
    /// The frames of the log, in order.
    ends: Vec<FrameEnd>,
    /// Its epochs, in order.
    epochs: Vec<EpochRecord>,
    /// Its protection records, in order.
    promises: Vec<(ProtectionPoint, Protection)>,
}

/// What was once in a node's log, for the part of it that was compacted since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    ends: Vec<FrameEnd>,
    epochs: Vec<EpochRecord>,
    /// Its protection records, in order.
    promises: Vec<(ProtectionPoint, Protection)>,
}

impl Observer {
    /// `seen` is what the last one on this node knew.
    pub(crate) fn new(store: &Store, seen: &Seen) -> Checked<Self> {
        let from = store.log_size().whole_from;
        let cursor = store.log_cursor(from).map_err(|error| unreadable(&error))?;
        let Seen {
            mut ends,
            mut epochs,
            mut promises,
        } = seen.clone();
        ends.retain(|frame| frame.end <= from);
        epochs.retain(|epoch| epoch.fork < from);
        promises.retain(|(point, _)| point.lsn <= from);
        Ok(Self {
            cursor,
            ends,
            epochs,
            promises,
        })
    }

    /// What it knows, for the next one.
    pub(crate) fn into_seen(self) -> Seen {
        Seen {
            ends: self.ends,
            epochs: self.epochs,
            promises: self.promises,
        }
    }

    /// Takes up what is new in the log. Answers with the range that was cut off it, if one was.
    pub(crate) fn look(
        &mut self,
        store: &Store,
        node: NodeId,
        oracle: &mut Oracle,
    ) -> Checked<Option<(Lsn, Lsn)>> {
        let appended = store.positions().appended.lsn;
        let before = self.cursor.lsn();
        let cut = (appended < before).then_some((appended, before));
        if cut.is_some() {
            self.ends.retain(|frame| frame.end <= appended);
            self.epochs.retain(|epoch| epoch.fork < appended);
            self.promises.retain(|(point, _)| point.lsn <= appended);
            self.cursor = store
                .log_cursor(appended)
                .map_err(|error| unreadable(&error))?;
        }
        while let Some(run) = self
            .cursor
            .next_up_to(Lsn(u64::MAX), 1 << 20)
            .map_err(|error| unreadable(&error))?
        {
            let mut begun = run.epochs().iter();
            for (header, bytes) in run.frames() {
                if header.kind == FrameKind::Epoch
                    && let Some(epoch) = begun.next()
                {
                    oracle.epoch(epoch)?;
                    self.epochs.push(epoch.clone());
                }
                let Some(epoch) = self.epochs.last() else {
                    return Err(Violation::new("I2", "a log begins without an epoch"));
                };
                if header.kind == FrameKind::Protection {
                    let point = ProtectionPoint {
                        term: epoch.term,
                        start: epoch.start,
                        lsn: header.end(),
                        epoch: epoch.id,
                    };
                    let promise = promise(header.payload(&bytes))?;
                    self.promises.push((point, promise));
                }
                let frame = FrameEnd {
                    end: header.end(),
                    commit: header.position().commit,
                    epoch: epoch.id,
                    check: header.check,
                    watermark: header.watermark,
                    log_ms: header.log_ms,
                };
                oracle.frame(node, frame)?;
                self.ends.push(frame);
            }
        }
        Ok(cut)
    }

    /// The epochs that the log holds.
    pub(crate) fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// The protection records that the log holds.
    pub(crate) fn promises(&self) -> &[(ProtectionPoint, Protection)] {
        &self.promises
    }

    /// The last end of a frame at or below `lsn`, as a position.
    pub(crate) fn position_at(&self, lsn: Lsn) -> Position {
        let below = self.ends.partition_point(|frame| frame.end <= lsn);
        let last = self.ends.get(..below).and_then(|ends| ends.last());
        last.map_or(Position::ZERO, |frame| Position {
            lsn: frame.end,
            commit: frame.commit,
        })
    }

    /// The frame that ends at `lsn`.
    pub(crate) fn frame_at(&self, lsn: Lsn) -> Option<FrameEnd> {
        let at = self
            .ends
            .binary_search_by_key(&lsn, |frame| frame.end)
            .ok()?;
        self.ends.get(at).copied()
    }

    /// The frame in which a batch that ends at `lsn` lies.
    pub(crate) fn frame_of(&self, lsn: Lsn) -> Option<FrameEnd> {
        let at = self.ends.partition_point(|frame| frame.end < lsn);
        self.ends.get(at).copied()
    }

    /// Log time at `lsn`: that of the frame in which it lies.
    pub(crate) fn log_ms_at(&self, lsn: Lsn) -> u64 {
        self.frame_of(lsn).map_or(0, |frame| frame.log_ms)
    }

    /// What frames vouch for that `node` itself wrote and fsynced, behind the start of its newest
    /// epoch.
    pub(crate) fn vouched(&self, node: NodeId, durable: Lsn) -> Option<LsnRange> {
        let epoch = self.epochs.last().filter(|epoch| epoch.node == node)?;
        let begun = self.ends.partition_point(|frame| frame.end <= epoch.fork);
        let own = self.ends.get(begun..)?;
        let last = own.iter().rev().find(|frame| frame.end <= durable)?;
        Some(LsnRange::new(own.first()?.end, last.watermark)).filter(|range| !range.is_empty())
    }

    /// Checks that a frame which this node must hold is there.
    pub(crate) fn check_holds(&self, frame: FrameEnd, what: &str) -> Checked {
        check(self.frame_at(frame.end) == Some(frame), "I1", || {
            let end = self.ends.last().map_or(Lsn::ZERO, |last| last.end);
            format!("{what} up to {} is gone: the log ends at {end}", frame.end)
        })
    }
}

fn promise(payload: &[u8]) -> Checked<Protection> {
    let record = ProtectionRecord::decode(payload);
    let record = record.map_err(|fault| Violation::new("I12", format!("{fault:?}")))?;
    Protection::try_from(&record).map_err(|fault| Violation::new("I12", fault.to_string()))
}

fn unreadable(error: &outlast_engine::Error) -> Violation {
    Violation::new("I12", format!("a log cannot be read: {error}"))
}
