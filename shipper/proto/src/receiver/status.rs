//! Where a receiver stands: plain data, for operators, promotions and tests.

use outlast_engine::format::{EpochId, Lsn, LsnRange, NodeId};

use super::{Phase, Receiver, Standing};
use crate::dropped::Dropped;
use crate::facts::PrimaryView;
use crate::message::ConflictKind;
use crate::points::{AckMark, Position, ProtectionPoint, Term};
use crate::time::MonoTime;

/// Where a receiver stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiverStatus {
    /// What it is doing.
    pub phase: ReceiverPhase,
    /// Whether nothing that it asked for touches the log any more: what was received is written and
    /// durable, and no cut is under way. A promotion waits for this after it withdrew.
    pub is_settled: bool,
    /// Behind everything that was handed out for appending.
    pub received: Lsn,
    /// What is written.
    pub appended: Position,
    /// What is durable.
    pub durable: Position,
    /// What readers see.
    pub applied: Position,
    /// The highest visible position that it was told, of the tail that it holds or will receive.
    pub visible_told: Lsn,
    /// The highest term that it ever heard of.
    pub heard: Term,
    /// The newest protection record that it noted.
    pub protection: Option<ProtectionPoint>,
    /// What it acknowledged last.
    pub acked: Option<AckMark>,
    /// What it once acknowledged and does not hold: ACKED TAIL LOST.
    pub acked_tail_lost: Option<LsnRange>,
    /// When it echoed last, or began to follow.
    pub silent_since: MonoTime,
    /// What a primary told it last, in whatever session.
    pub told: Option<Told>,
    /// What was dropped.
    pub dropped: Dropped,
}

/// What a primary said of itself last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// When it arrived here.
    pub at: MonoTime,
    /// Who said it.
    pub primary: NodeId,
    /// Its newest epoch.
    pub epoch: EpochId,
    /// What it said.
    pub view: PrimaryView,
}

/// What a receiver is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReceiverPhase {
    /// It waits for its primary to dial.
    Alone,
    /// A session begins.
    Handshake,
    /// Its forked tail is being put aside.
    Cutting,
    /// It is attached: frames come in.
    Following,
    /// It gives a restarted primary its lost tail back.
    Serving,
    /// It has withdrawn in order to be promoted.
    Withdrawn,
    /// Its log failed: reopen the store.
    Failed,
    /// It waits for an operator's choice.
    Conflict(ConflictKind),
}

impl Receiver {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> ReceiverStatus {
        ReceiverStatus {
            phase: self.phase(),
            is_settled: self.log.is_settled(),
            received: self.log.end().lsn,
            appended: self.log.appended(),
            durable: self.log.durable(),
            applied: self.log.applied(),
            visible_told: self.log.visible_told(),
            heard: self.notes.heard(),
            protection: self.notes.noted_protection(),
            acked: self.log.acked(),
            acked_tail_lost: self.log.tail_lost(),
            silent_since: self.silent_since,
            told: self.told,
            dropped: self.dropped,
        }
    }

    fn phase(&self) -> ReceiverPhase {
        match self.standing {
            Standing::Active => {}
            Standing::Withdrawn => return ReceiverPhase::Withdrawn,
            Standing::Failed => return ReceiverPhase::Failed,
            Standing::Conflict(kind) => return ReceiverPhase::Conflict(kind),
        }
        match self.session.as_ref().map(|session| &session.phase) {
            None => ReceiverPhase::Alone,
            Some(Phase::Preparing | Phase::Welcomed) => ReceiverPhase::Handshake,
            Some(Phase::Cutting) => ReceiverPhase::Cutting,
            Some(Phase::Following(_)) => ReceiverPhase::Following,
            Some(Phase::Serving(_)) => ReceiverPhase::Serving,
        }
    }
}
