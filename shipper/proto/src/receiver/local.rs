//! The standby's own log, as the protocol sees it, over all sessions.

use outlast_engine::format::{Chain, EpochId, FrameRun, History, Lsn, LsnRange};
use outlast_engine::planted::{Bug, on};

use crate::compare::{self, Relation};
use crate::facts::{LogView, StandbyFacts};
use crate::message::Hello;
use crate::points::{AckMark, LogEnd, Position};

/// Invariants: applied ≤ durable ≤ appended ≤ end; readers are never let above what is durable and
/// what the primary said its readers may see.
#[derive(Debug)]
pub(super) struct LocalLog {
    /// Behind everything handed out for appending.
    end: Chain,
    history: History,
    appended: Position,
    durable: Position,
    applied: Position,
    apply_asked: Lsn,
    visible_told: Lsn,
    acked: Option<AckMark>,
    tail_lost: Option<LsnRange>,
    cutting: bool,
}

impl LocalLog {
    pub(super) fn new(facts: &StandbyFacts) -> Self {
        let log = &facts.log;
        assert!(
            compare::agree(&log.history, &LogEnd::from(&log.end)),
            "a history that does not end in the epoch of its log: {log:?}"
        );
        assert_order(log);
        let mut local = Self {
            end: log.end,
            history: log.history.clone(),
            appended: Position::from(&log.end),
            durable: log.durable,
            applied: log.applied,
            apply_asked: log.applied.lsn,
            visible_told: facts.visible_told,
            acked: facts.acked,
            tail_lost: None,
            cutting: false,
        };
        local.tail_lost = facts.acked.and_then(|mark| {
            let promised = match local.history.end_of(mark.epoch, Lsn(u64::MAX)) {
                Some(left) => mark.durable.min(left),
                None => mark.durable,
            };
            local.lost_up_to(promised)
        });
        local
    }

    pub(super) const fn end(&self) -> &Chain {
        &self.end
    }

    pub(super) const fn history(&self) -> &History {
        &self.history
    }

    pub(super) const fn appended(&self) -> Position {
        self.appended
    }

    pub(super) const fn durable(&self) -> Position {
        self.durable
    }

    pub(super) const fn applied(&self) -> Position {
        self.applied
    }

    pub(super) const fn visible_told(&self) -> Lsn {
        self.visible_told
    }

    pub(super) const fn acked(&self) -> Option<AckMark> {
        self.acked
    }

    pub(super) const fn tail_lost(&self) -> Option<LsnRange> {
        self.tail_lost
    }

    /// Whether everything that was handed out is written, durable, and no cut is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.durable.lsn == self.end.lsn && !self.cutting
    }

    /// How this log lies to that of the primary that said `hello`.
    pub(super) fn relate(&self, hello: &Hello) -> Relation {
        compare::relate(
            (&hello.history, hello.end.lsn),
            (&self.history, self.end.lsn),
        )
    }

    /// What readers of this log saw, or readers of the primary may have seen of it.
    pub(super) fn seen(&self) -> Lsn {
        self.applied.lsn.max(self.visible_told)
    }

    /// A primary's history is known, and tells better than this node's own what was promised in it.
    /// Answers with what was promised and is not held, if that is news.
    pub(super) fn compare_promises(&mut self, hello: &Hello) -> Option<LsnRange> {
        let promised = [self.acked, hello.remembered]
            .into_iter()
            .flatten()
            .filter_map(|mark| {
                let left = hello.history.end_of(mark.epoch, Lsn(u64::MAX))?;
                Some(mark.durable.min(left))
            })
            .max()?;
        let lost = self.lost_up_to(promised);
        let known = std::mem::replace(&mut self.tail_lost, lost);
        lost.filter(|_| lost != known)
    }

    /// The primary's history goes on from this log's end. What was told of positions above it was
    /// told of bytes that never came, and of another tail than the one to come.
    pub(super) fn attach(&mut self) {
        self.visible_told = self.visible_told.min(self.end.lsn);
    }

    /// The primary's readers may see up to `visible`, in a history of which this log is a prefix.
    pub(super) fn tell_visible(&mut self, visible: Lsn) {
        self.visible_told = self.visible_told.max(visible);
    }

    /// Frames are handed out for appending.
    pub(super) fn append(&mut self, run: &FrameRun) {
        assert_eq!(run.range().start, self.end.lsn, "frames behind a gap");
        for epoch in run.epochs() {
            if let Err(fault) = self.history.push(epoch.clone()) {
                panic!("a checked frame begins an epoch that does not continue the log: {fault}");
            }
        }
        self.end = *run.after();
        self.tell_visible(run.after().visible);
    }

    pub(super) fn on_appended(&mut self, position: Position) {
        assert!(
            position.covers(&self.appended) && position.lsn <= self.end.lsn,
            "appended {position} behind {}, log ends at {}",
            self.appended,
            self.end.lsn
        );
        self.appended = position;
    }

    /// The fsync is done. Nothing else moves `durable` forward, and acks report nothing else.
    ///
    /// Answers whether this restores what was lost.
    pub(super) fn on_durable(&mut self, position: Position) -> bool {
        assert!(
            position.covers(&self.durable) && self.appended.covers(&position),
            "durable {position} behind {}, appended {}",
            self.durable,
            self.appended
        );
        self.durable = position;
        self.tail_lost
            .take_if(|lost| lost.end <= position.lsn)
            .is_some()
    }

    pub(super) fn on_applied(&mut self, position: Position) {
        assert!(
            position.covers(&self.applied) && self.durable.covers(&position),
            "applied {position} behind {}, durable {}",
            self.applied,
            self.durable
        );
        self.applied = position;
    }

    /// The position up to which readers may see and were not let yet.
    pub(super) fn next_apply(&mut self) -> Option<Lsn> {
        let target = if on(Bug::VisibilityOutOfOrder) {
            self.durable.lsn
        } else {
            self.visible_told.min(self.durable.lsn)
        };
        if target <= self.apply_asked {
            return None;
        }
        self.apply_asked = target;
        Some(target)
    }

    /// The tail from `fork` on is handed out for quarantine.
    pub(super) fn cut(&mut self, fork: Lsn) {
        assert!(
            self.is_settled() && fork >= self.seen() && fork < self.end.lsn,
            "a cut at {fork} of a log that ends at {} with {} seen",
            self.end.lsn,
            self.seen()
        );
        self.cutting = true;
    }

    pub(super) fn on_quarantined(&mut self, view: LogView) {
        assert!(self.cutting, "a quarantine that nobody asked for");
        assert_order(&view);
        assert!(
            view.applied.covers(&self.applied),
            "a cut to {:?} below what readers saw, {}",
            view.end,
            self.applied
        );
        self.cutting = false;
        self.appended = Position::from(&view.end);
        self.durable = view.durable;
        self.applied = view.applied;
        self.end = view.end;
        self.history = view.history;
        let newest = self.history.last().map_or(EpochId::NONE, |epoch| epoch.id);
        self.acked = self.acked.map(|mark| AckMark {
            epoch: newest,
            durable: mark.durable.min(self.end.lsn),
        });
    }

    /// An ack under this epoch reported what is durable.
    pub(super) fn on_acked(&mut self, epoch: EpochId) {
        let durable = self.durable.lsn;
        self.acked = Some(AckMark { epoch, durable });
    }

    fn lost_up_to(&self, promised: Lsn) -> Option<LsnRange> {
        let lost = LsnRange::new(self.end.lsn, promised);
        (!lost.is_empty()).then_some(lost)
    }
}

fn assert_order(log: &LogView) {
    let end = Position::from(&log.end);
    assert!(
        end.covers(&log.durable) && log.durable.covers(&log.applied),
        "positions out of order: {log:?}"
    );
}
