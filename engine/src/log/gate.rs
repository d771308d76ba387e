//! Commits that are durable here and wait for a gate, which says how far they may be answered.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::levels::{Finished, Level};
use super::manifest::Protection;
use super::waiter::Waiter;
use super::{Log, LogState};
use crate::error::{CommitError, Error, Result};
use crate::format::{FrameKind, Lsn, Position};
use crate::receipt::Receipt;

/// Decides what may be answered, and seen: what a bound on loss needs of the place where commits
/// end.
///
/// It is called with locks held: it must be quick, and must not call the store. When it would
/// answer otherwise than before, it is asked again by [`Store::ask_gate`](crate::Store::ask_gate).
pub trait CommitGate: Send + Sync {
    /// Decides once: all of `waiting` (ends of frames, in the order of the log) that ends at or
    /// below the answer is answered OK. No more than `durable`.
    fn decide(&self, durable: Lsn, waiting: &mut dyn Iterator<Item = Position>)
    -> Option<Position>;

    /// Whether a commit that waited for more than this node's disk, and has got it, may be answered
    /// now.
    fn holds(&self) -> bool;

    /// Whether what is visible may be shown as what holds now.
    ///
    /// Asked before each such read, so it must be quicker than one.
    ///
    /// # Errors
    /// `NotCurrent` where another node may have taken this one's place, `NotConfirmed` where it may
    /// have done so before this process was started.
    fn reads(&self) -> Result<()>;

    /// What becomes of a commit that is to be appended, with the log ending at `appended` and all
    /// up to `visible` answered.
    ///
    /// # Errors
    /// Why it is refused; nothing of it is written then.
    fn admit(&self, appended: Lsn, visible: Lsn) -> Result<Admit>;

    /// A protection record is about to be appended; it binds every answer from now on.
    fn record(&self, protection: &Protection);
}

/// What becomes of a commit that is not in the log yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// It may be appended.
    Go,
    /// It waits outside of the log.
    Wait,
}

/// One group in its frame, which is durable and applied.
pub(super) struct Waiting {
    pub(super) end: Position,
    pub(super) receipts: Vec<(Receipt, Level, Option<Arc<Waiter>>)>,
}

impl Waiting {
    /// A frame that nobody waits for.
    pub(super) const fn nobody(end: Position) -> Self {
        let receipts = Vec::new();
        Self { end, receipts }
    }
}

/// What waits for the gate, in the order of the log.
///
/// Its lock is taken before that of the positions, of the gate and of the levels, and behind those
/// of the writer and the sink. On a writer, visible moves under it alone.
#[derive(Default)]
pub(super) struct Gated {
    gate: OnceLock<Arc<dyn CommitGate>>,
    waiting: Mutex<VecDeque<Waiting>>,
}

impl Gated {
    pub(super) fn gate(&self) -> Option<&dyn CommitGate> {
        self.gate.get().map(|gate| &**gate)
    }

    /// Ends all waiting: whether it will be answered is not known here any more.
    pub(super) fn abandon(&self, error: &Error, finished: &mut Finished) {
        end_unknown(&mut self.waiting.lock(), error, finished);
    }
}

fn end_unknown(waiting: &mut VecDeque<Waiting>, error: &Error, finished: &mut Finished) {
    for (receipt, _, waiter) in waiting.drain(..).flat_map(|group| group.receipts) {
        if let Some(waiter) = waiter {
            let error = error.duplicate();
            finished.push(waiter, Err(CommitError::Unknown { receipt, error }));
        }
    }
}

impl Log {
    /// Lets `gate` decide about every answer from now on.
    ///
    /// # Panics
    /// When there is one already.
    pub(crate) fn set_gate(&self, gate: Arc<dyn CommitGate>) {
        let set = self.gated.gate.set(gate);
        assert!(set.is_ok(), "a log has one gate");
    }

    /// Lets a group that is durable and applied wait for the gate, and answers what may be.
    pub(super) fn pass_gate(&self, group: Option<Waiting>, finished: &mut Finished) {
        let mut waiting = self.gated.waiting.lock();
        waiting.extend(group);
        let durable = self.cell.durable();
        let mut ends = waiting.iter().map(|group| group.end);
        let passed = match self.gated.gate() {
            Some(gate) => gate.decide(durable, &mut ends),
            None => ends.next_back(),
        };
        if let Some(passed) = passed {
            self.cell.change(|now| now.visible = passed);
            while let Some(group) = waiting.front()
                && group.end.lsn <= passed.lsn
                && let Some(group) = waiting.pop_front()
            {
                for (receipt, level, waiter) in group.receipts {
                    if let Some(waiter) = waiter {
                        self.levels.wait(level, receipt, waiter, finished);
                    }
                }
            }
        }
        // One that was durable when this node stopped to write comes here after all others ended.
        if !waiting.is_empty() && *self.state.read() != LogState::Writing {
            let error = self.not_writing();
            end_unknown(&mut waiting, &error, finished);
        }
    }

    /// Asks the gate again about all that waits, inside of the log and outside.
    pub(crate) fn ask_gate(&self) {
        let mut finished = Finished::default();
        let before = self.cell.visible();
        self.pass_gate(None, &mut finished);
        let positions = self.cell.read();
        if self.gated.gate().is_none_or(CommitGate::holds) {
            let (durable, applied) = (positions.replicated.lsn, positions.replica_applied.lsn);
            self.levels.reached(durable, applied, &mut finished);
        }
        finished.wake();
        if positions.visible.lsn > before {
            self.cell.notify();
        }
        if self.lead_again() {
            self.lead_group();
        }
    }

    /// Whether what is visible may be shown as what holds now.
    ///
    /// # Errors
    /// `NotCurrent`, `NotConfirmed`.
    pub(crate) fn reads(&self) -> Result<()> {
        self.gated.gate().map_or(Ok(()), CommitGate::reads)
    }

    /// What becomes of a frame of this kind that is to be appended now. Control records promise
    /// nothing to anybody, and do not wait.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn admit(&self, kind: FrameKind) -> Result<Admit> {
        if kind != FrameKind::Batches {
            return Ok(Admit::Go);
        }
        let Some(gate) = self.gated.gate() else {
            return Ok(Admit::Go);
        };
        let positions = self.cell.read();
        gate.admit(positions.appended.lsn, positions.visible.lsn)
    }
}
