//! From the Welcome to the Attach, or to the end of a contact.

use outlast_engine::format::{EpochId, History, Lsn, LsnRange};
use outlast_engine::planted::{Bug, on};

use super::fetch::Fetching;
use super::ship::Shipping;
use super::{Phase, Sender, SenderEvent, SenderOutput};
use crate::close::CloseReason;
use crate::compare::{self, Relation};
use crate::config::WINDOW_BYTES_MIN;
use crate::facts::PrimaryFacts;
use crate::message::{ByeReason, ConflictKind, Message, Mode, Refuse, RefuseReason, Welcome};
use crate::points::{LogEnd, Term};
use crate::session::{Binding, SessionId};

impl Sender {
    pub(super) fn on_welcome(&mut self, welcome: Box<Welcome>) -> Result<(), CloseReason> {
        if welcome.session.dialler != self.nonce {
            self.dropped.other_session += 1;
            return Ok(());
        }
        if welcome.node != self.facts.peer {
            return Err(CloseReason::OtherPeer {
                expected: self.facts.peer,
                got: welcome.node,
            });
        }
        self.compare_terms(welcome.heard)?;
        self.check_welcome(&welcome)?;
        self.binding = Some(self.bind(welcome.session));
        if let Some(lost) = welcome.acked_tail_lost {
            self.link.event(SenderEvent::AckedTailLost(lost));
        }
        let relation = match self.relate(&welcome.history, welcome.end.lsn) {
            Relation::StandbyAhead if on(Bug::FetchBackSkipped) => Relation::Prefix,
            relation => relation,
        };
        match (self.mode, relation) {
            (_, Relation::UnknownEpoch(point)) => {
                let fork = point.lsn;
                Err(self.conflict(ConflictKind::UnknownEpoch { fork }, welcome.heard))
            }
            (_, Relation::Prefix) if self.ends_differ(&welcome.end) => {
                let at = welcome.end.lsn;
                Err(CloseReason::LogsDiffer { at })
            }
            (Mode::Contact, Relation::StandbyAhead) => {
                self.fetch(&welcome);
                Ok(())
            }
            (Mode::Contact, Relation::Prefix | Relation::Forked(_)) => {
                let end = self.facts.log.end.lsn;
                Err(self.contact_complete(LsnRange::new(end, end), welcome.visible_told))
            }
            (Mode::Ship, Relation::StandbyAhead) => Err(CloseReason::WriterBehind {
                standby_end: welcome.end.lsn,
            }),
            (Mode::Ship, Relation::Prefix) => {
                self.note_attached(welcome);
                Ok(())
            }
            (Mode::Ship, Relation::Forked(fork)) => {
                let binding = self.bind(welcome.session);
                self.link.event(SenderEvent::CutAsked {
                    fork: fork.lsn,
                    standby_end: welcome.end.lsn,
                });
                self.link.send(Message::Diverged { binding, fork });
                self.enter(Phase::Cutting(welcome), self.config.cut_timeout);
                Ok(())
            }
        }
    }

    /// Checks what an honest standby cannot get wrong.
    fn check_welcome(&self, welcome: &Welcome) -> Result<(), CloseReason> {
        let require = |holds, what| {
            if holds {
                Ok(())
            } else {
                Err(CloseReason::Impossible(what))
            }
        };
        let versions = &self.config.versions;
        let spoken = (versions.oldest..=versions.newest).contains(&welcome.version);
        require(spoken, "a version that was not offered")?;
        let known = welcome.features & !self.config.features.known == 0;
        require(known, "features that were not offered")?;
        let sound = compare::agree(&welcome.history, &welcome.end);
        require(sound, "a history without the end of its log")?;
        let applied_fits = welcome.applied.lsn <= welcome.end.lsn;
        require(applied_fits, "readers ahead of their log")?;
        let window_fits = welcome.window_bytes >= WINDOW_BYTES_MIN;
        require(window_fits, "a window below the least one")
    }

    fn relate(&self, standby: &History, standby_end: Lsn) -> Relation {
        let log = &self.facts.log;
        compare::relate((&log.history, log.end.lsn), (standby, standby_end))
    }

    /// Whether both logs end at the same place, and with different frames.
    fn ends_differ(&self, standby: &LogEnd) -> bool {
        let ours = &self.facts.log.end;
        ours.lsn == standby.lsn && LogEnd::from(ours) != *standby
    }

    pub(super) fn on_refuse(&mut self, refuse: &Refuse) -> Result<(), CloseReason> {
        if refuse.dialler != self.nonce {
            self.dropped.other_session += 1;
            return Ok(());
        }
        if refuse.node != self.facts.peer {
            return Err(CloseReason::OtherPeer {
                expected: self.facts.peer,
                got: refuse.node,
            });
        }
        self.compare_terms(refuse.heard)?;
        if let RefuseReason::Conflict(kind) = refuse.reason {
            return Err(self.conflict(kind, refuse.heard));
        }
        Err(CloseReason::Refused(refuse.reason))
    }

    /// What a term that the peer knows means for this node: only a higher one fences, and an equal
    /// one that another epoch opened is a double promotion.
    fn compare_terms(&mut self, theirs: Term) -> Result<(), CloseReason> {
        let ours = self.facts.heard;
        if theirs.number > ours.number {
            self.link.out.push_back(SenderOutput::Fence {
                term: theirs,
                told_by: self.facts.peer,
            });
            return Err(CloseReason::HigherTerm(theirs));
        }
        if theirs.conflicts_with(&ours) {
            return Err(self.conflict(ConflictKind::EqualTerms, theirs));
        }
        Ok(())
    }

    fn conflict(&mut self, kind: ConflictKind, heard: Term) -> CloseReason {
        self.link.out.push_back(SenderOutput::Conflict {
            kind,
            with: self.facts.peer,
            heard,
        });
        CloseReason::Conflict(kind)
    }

    pub(super) fn on_cut_done(&mut self, end: LogEnd) -> Result<(), CloseReason> {
        let Phase::Cutting(mut welcome) = std::mem::replace(&mut self.phase, Phase::Over) else {
            unreachable!("called in this phase only");
        };
        welcome.history = welcome.history.cut(end.lsn);
        welcome.end = end;
        let sound = compare::agree(&welcome.history, &end);
        if !sound || self.relate(&welcome.history, end.lsn) != Relation::Prefix {
            return Err(CloseReason::Impossible("a cut that leaves the logs forked"));
        }
        self.note_attached(welcome);
        Ok(())
    }

    fn note_attached(&mut self, welcome: Box<Welcome>) {
        let standby = welcome.node;
        self.link
            .out
            .push_back(SenderOutput::NoteAttached { standby });
        self.enter(Phase::Noting(welcome), self.config.handshake_timeout);
    }

    pub(super) fn attach(&mut self) -> Result<(), CloseReason> {
        let Phase::Noting(welcome) = &self.phase else {
            panic!("an attachment was noted that nobody asked for");
        };
        let binding = self.bind(welcome.session);
        let shipping = Shipping::new(&self.config, &self.facts, binding, welcome);
        let resume = shipping.resume();
        self.link.send(Message::Attach { binding, resume });
        self.enter(
            Phase::Shipping(Box::new(shipping)),
            self.config.handshake_timeout,
        );
        Ok(())
    }

    fn fetch(&mut self, welcome: &Welcome) {
        let binding = self.bind(welcome.session);
        let fetching = Fetching::new(&self.config, &self.facts, binding, welcome, &mut self.link);
        self.enter(
            Phase::Fetching(Box::new(fetching)),
            self.config.handshake_timeout,
        );
    }

    /// This process has heard from its standby and lacks nothing that the standby holds.
    pub(super) fn contact_complete(&mut self, fetched: LsnRange, visible_told: Lsn) -> CloseReason {
        self.link.event(SenderEvent::ContactComplete {
            standby: self.facts.peer,
            fetched,
            visible_told,
        });
        self.bye(ByeReason::ContactComplete)
    }

    fn bind(&self, session: SessionId) -> Binding {
        let newest = self.facts.log.history.last();
        Binding {
            session,
            epoch: newest.map_or(EpochId::NONE, |epoch| epoch.id),
        }
    }
}

/// Asserts what a node must know of itself before it dials.
pub(super) fn assert_sound(facts: &PrimaryFacts, mode: Mode) {
    let own = Term::of(&facts.log.history);
    assert!(
        facts.heard.number <= own.number,
        "a node of term {own} that heard of term {} dials as a primary",
        facts.heard
    );
    assert!(
        compare::agree(&facts.log.history, &LogEnd::from(&facts.log.end)),
        "a history that does not end in the epoch of its log: {facts:?}"
    );
    let view = facts.view();
    assert!(view.in_order(), "positions out of order: {view:?}");
    let writer = facts.log.history.last().map(|epoch| epoch.node);
    assert!(
        mode == Mode::Contact || writer == Some(facts.identity.node),
        "a node ships an epoch that {writer:?} began"
    );
}
