//! From the Hello to the Attach: what this node says of itself, and what it cuts.

use outlast_engine::format::{CommonPoint, NodeId};
use outlast_engine::planted::{Bug, on};

use super::follow::Following;
use super::io::{ReceiverEvent, ReceiverOutput};
use super::serve::Serving;
use super::session::{Phase, Session};
use super::{Receiver, Standing};
use crate::close::CloseReason;
use crate::compare::Relation;
use crate::facts::LogView;
use crate::meeting::Meeting;
use crate::message::{
    ByeReason, ConflictKind, Hello, Message, Mode, Refuse, RefuseReason, Welcome,
};
use crate::points::{LogEnd, Position, Term};
use crate::session::Nonce;

impl Receiver {
    pub(super) fn on_hello(
        &mut self,
        nonce: Nonce,
        peer: NodeId,
        hello: Box<Hello>,
    ) -> Result<(), CloseReason> {
        let meeting = self.meet(peer, &hello);
        self.forget_session();
        match meeting {
            Meeting::Follow => {}
            Meeting::Refuse(refuse)
            | Meeting::Hear { refuse, .. }
            | Meeting::Fence { refuse, .. } => {
                self.notes.hear_term(refuse.heard);
                self.out
                    .push_back(ReceiverOutput::Send(Message::Refuse(refuse)));
                return Err(CloseReason::Declined(refuse.reason));
            }
            Meeting::Conflict { kind, .. } => {
                self.session = Some(Session::new(self.now, nonce, hello));
                return Err(self.conflict(kind));
            }
        }
        self.notes.hear_term(Term::of(&hello.history));
        self.notes.hear_protection(hello.view.protection);
        if on(Bug::ResumeFromReceived) {
            self.log.on_durable(self.log.appended());
        } else if self.log.durable().lsn < self.log.end().lsn {
            self.out.push_back(ReceiverOutput::Sync);
        }
        self.session = Some(Session::new(self.now, nonce, hello));
        Ok(())
    }

    /// A standby follows only the highest term that it ever heard of, even if it cannot follow its
    /// writer. The writer of the lower one is told, so that it fences itself.
    pub(super) fn on_heard_term(&mut self, term: Term) -> Result<(), CloseReason> {
        self.notes.hear_term(term);
        let heard = self.notes.heard();
        match &self.session {
            Some(session) if session.term().number < heard.number => {
                let reason = RefuseReason::HigherTerm;
                self.end(reason, None, CloseReason::HigherTerm(heard))
            }
            _ => Ok(()),
        }
    }

    /// Answers the Hello, now that the term is noted and the log durable.
    pub(super) fn welcome(&mut self) -> Result<(), CloseReason> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        match self.log.relate(&session.hello) {
            Relation::Prefix | Relation::StandbyAhead => {}
            Relation::Forked(point) => self.judge_fork(&point)?,
            Relation::UnknownEpoch(point) => {
                let fork = point.lsn;
                return Err(self.conflict(ConflictKind::UnknownEpoch { fork }));
            }
        }
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let hello = &session.hello;
        if let Some(lost) = self.log.compare_promises(hello) {
            let event = ReceiverEvent::AckedTailLost(lost);
            self.out.push_back(ReceiverOutput::Event(event));
        }
        let welcome = Welcome {
            session: session.binding.session,
            version: self.config.versions.agree(&hello.versions).unwrap_or(0),
            features: self.config.features.agree(&hello.features).unwrap_or(0),
            node: self.identity.node,
            name: self.identity.name.clone(),
            heard: self.notes.heard(),
            history: self.log.history().clone(),
            end: LogEnd::from(self.log.end()),
            applied: self.log.applied(),
            visible_told: self.log.visible_told(),
            protection: self.notes.noted_protection(),
            window_bytes: self.config.window_bytes,
            acked_tail_lost: self.log.tail_lost(),
        };
        session.phase = Phase::Welcomed;
        self.send(Message::Welcome(Box::new(welcome)));
        Ok(())
    }

    /// A fork is cut only where nothing that was seen lies above it.
    fn judge_fork(&mut self, point: &CommonPoint) -> Result<(), CloseReason> {
        let (fork, seen) = (point.lsn, self.log.seen());
        if fork >= seen {
            return Ok(());
        }
        Err(self.conflict(ConflictKind::ForkBelowVisible { fork, seen }))
    }

    pub(super) fn on_diverged(&mut self, fork: CommonPoint) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if session.hello.mode != Mode::Ship {
            return Err(CloseReason::Unexpected("Diverged"));
        }
        if self.log.relate(&session.hello) != Relation::Forked(fork) {
            return Err(CloseReason::Impossible(
                "a fork that its history does not prove",
            ));
        }
        session.phase = Phase::Cutting;
        self.judge_fork(&fork)?;
        self.log.cut(fork.lsn);
        let from = fork.lsn;
        self.out.push_back(ReceiverOutput::Quarantine { from });
        Ok(())
    }

    pub(super) fn on_quarantined(&mut self, view: LogView) {
        let end = LogEnd::from(&view.end);
        self.log.on_quarantined(view);
        let Some(session) = &mut self.session else {
            return;
        };
        if matches!(session.phase, Phase::Cutting) {
            session.phase = Phase::Welcomed;
            session.heard_at = self.now;
            let binding = session.binding;
            self.send(Message::CutDone { binding, end });
        }
    }

    pub(super) fn on_attach(&mut self, resume: Position) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if session.hello.mode != Mode::Ship {
            return Err(CloseReason::Unexpected("Attach"));
        }
        let is_prefix = self.log.relate(&session.hello) == Relation::Prefix;
        if !is_prefix || resume != self.log.durable() || !self.log.is_settled() {
            return Err(CloseReason::Impossible(
                "an attachment elsewhere than at this end",
            ));
        }
        self.log.attach();
        let term = session.term();
        let following = Following::new(
            &self.config,
            session.binding,
            term,
            &self.log,
            self.identity.segment_size,
        );
        session.phase = Phase::Following(Box::new(following));
        let event = ReceiverEvent::Attached {
            primary: session.hello.node,
            name: session.hello.name.clone(),
            resume,
            term,
        };
        self.event(event);
        Ok(())
    }

    pub(super) fn begin_serving(&mut self) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if session.hello.mode != Mode::Contact
            || self.log.relate(&session.hello) != Relation::StandbyAhead
        {
            return Err(CloseReason::Unexpected("Fetch"));
        }
        let serving = Serving::new(
            &self.config,
            self.identity.cluster,
            session.binding,
            &session.hello,
            self.log.end().lsn,
        );
        session.phase = Phase::Serving(Box::new(serving));
        Ok(())
    }

    /// Neither side may give way: this node stops and refuses everybody until an operator chooses.
    fn conflict(&mut self, kind: ConflictKind) -> CloseReason {
        self.standing = Standing::Conflict(kind);
        if let Some(session) = &self.session {
            let output = ReceiverOutput::Conflict {
                kind,
                with: session.hello.node,
                heard: session.term(),
            };
            self.out.push_back(output);
        }
        self.refuse(RefuseReason::Conflict(kind));
        CloseReason::Conflict(kind)
    }

    /// Ends the session, if there is one: with a Bye when the peer knows its name.
    pub(super) fn end(
        &mut self,
        refusal: RefuseReason,
        bye: Option<ByeReason>,
        reason: CloseReason,
    ) -> Result<(), CloseReason> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let binding = session.binding;
        let named = !matches!(session.phase, Phase::Preparing);
        match bye {
            Some(reason) if named => self.send(Message::Bye { binding, reason }),
            _ => self.refuse(refusal),
        }
        Err(reason)
    }

    fn refuse(&mut self, reason: RefuseReason) {
        if let Some(session) = &self.session {
            let refuse = Refuse {
                dialler: session.hello.nonce,
                heard: self.notes.heard(),
                node: self.identity.node,
                reason,
            };
            self.send(Message::Refuse(refuse));
        }
    }
}
