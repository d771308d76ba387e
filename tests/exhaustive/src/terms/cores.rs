//! What the product's own pure functions decide about the model's nodes: how two logs lie to each
//! other, and what a node that is dialled does.

use outlast_engine::format::{
    ClusterId, EpochId, EpochReason, EpochRecord, History, Lsn, NodeId, Position,
};
use outlast_proto::{
    Config, ConflictKind, Features, Hello, Identity, Local, LogEnd, Meeting, Mode, Nonce,
    PrimaryView, Relation, Term, meet, relate,
};

use super::log::Log;
use super::rules::Rule;
use super::{Greeting, Nodes, Role, State, Why};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const SEGMENT_SIZE: u64 = 1 << 16;

/// What becomes of somebody who dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Follow,
    Refuse,
    Fence,
    Hear,
    Conflict,
}

impl Nodes {
    /// What orders the epoch.
    pub(super) fn number(&self, s: &State, epoch: u8) -> u8 {
        let epoch = s.epoch(epoch);
        if self.on(Rule::OrderByTerm) {
            epoch.term
        } else {
            epoch.start
        }
    }

    /// The epoch by which the term of `epoch` is known.
    pub(super) fn opener(&self, s: &State, epoch: u8) -> u8 {
        if self.on(Rule::OrderByTerm) {
            s.epoch(epoch).opener
        } else {
            epoch
        }
    }

    /// The one of the higher number; the first of two equal ones.
    pub(super) fn higher(&self, s: &State, one: Option<u8>, other: Option<u8>) -> Option<u8> {
        let number = |epoch: Option<u8>| epoch.map_or(0, |epoch| self.number(s, epoch));
        if number(other) > number(one) {
            other
        } else {
            one
        }
    }

    fn id(&self, s: &State, epoch: u8) -> EpochId {
        if self.on(Rule::EpochsHaveIds) {
            EpochId([epoch + 1; 16])
        } else {
            EpochId([s.epoch(epoch).start; 16])
        }
    }

    pub(super) fn term(&self, s: &State, epoch: Option<u8>) -> Term {
        epoch.map_or(Term::NONE, |epoch| Term {
            number: u32::from(self.number(s, epoch)),
            opened_by: self.id(s, self.opener(s, epoch)),
        })
    }

    fn history(&self, s: &State, log: &Log) -> History {
        let mut history = History::new();
        for (epoch, fork) in log.epochs() {
            let Term { number, opened_by } = self.term(s, Some(epoch));
            let record = EpochRecord {
                term: number,
                start: u32::from(s.epoch(epoch).start),
                id: self.id(s, epoch),
                parent: history.last().map_or(EpochId::NONE, |last| last.id),
                opened_by,
                fork: Lsn(u64::from(fork)),
                node: node(s.epoch(epoch).node),
                node_name: String::new(),
                reason: match s.epoch(epoch).why {
                    Why::Init => EpochReason::Init,
                    Why::Restart => EpochReason::Restart,
                    Why::Promotion => EpochReason::Promotion,
                    Why::Alone => EpochReason::ResumeAlone,
                },
                note: String::new(),
                wall_ms: 0,
            };
            history
                .push(record)
                .expect("logs are sound as long as no promise is broken");
        }
        history
    }

    /// How a standby's log lies to its primary's.
    pub(super) fn relate(&self, s: &State, primary: &Log, standby: &Log) -> Relation {
        let side = |log: &Log| (self.history(s, log), Lsn(u64::from(log.end())));
        let ((ours, our_end), (theirs, their_end)) = (side(primary), side(standby));
        relate((&ours, our_end), (&theirs, their_end))
    }

    /// What node `to` does about somebody who dials.
    pub(super) fn meet(&self, s: &State, to: u8, greeting: &Greeting) -> Verdict {
        let config = Config::default();
        let history = self.history(s, &greeting.log);
        let end = Lsn(u64::from(greeting.log.end()));
        let at = Position::new(end, end.0);
        let last = history.last();
        let hello = Hello {
            versions: config.versions,
            features: Features::default(),
            nonce: Nonce([0; 8]),
            mode: if greeting.contact {
                Mode::Contact
            } else {
                Mode::Ship
            },
            cluster: CLUSTER,
            node: node(greeting.from),
            name: String::new(),
            to: node(to),
            segment_size: SEGMENT_SIZE,
            heard: self.term(s, greeting.heard),
            end: LogEnd {
                lsn: end,
                check: 0,
                epoch: last.map(|epoch| (epoch.term, epoch.start, epoch.id)),
                next_commit: end.0 + 1,
                log_ms: 0,
                visible: Lsn::ZERO,
                watermark: Lsn::ZERO,
            },
            view: PrimaryView {
                appended: at,
                durable: at,
                ..PrimaryView::default()
            },
            history,
            remembered: None,
        };
        let here = s.node(to);
        let claimed = self.higher(s, greeting.log.last(), greeting.heard);
        let (claimed, heard) = (self.term(s, claimed), self.term(s, here.heard));
        let forgets = claimed.number < heard.number && !self.on(Rule::FollowsHighestOnly)
            || claimed.number == heard.number && !self.on(Rule::EqualTermsConflict);
        let local = Local {
            identity: &Identity {
                cluster: CLUSTER,
                node: node(to),
                name: String::new(),
                segment_size: SEGMENT_SIZE,
            },
            role: match here.role {
                Role::Standby => outlast_proto::Role::Standby,
                Role::Primary | Role::Waiting => outlast_proto::Role::Primary,
                Role::Fenced => outlast_proto::Role::Fenced,
                Role::Conflict => outlast_proto::Role::Conflict(ConflictKind::EqualTerms),
            },
            heard: if forgets && here.role == Role::Standby {
                claimed
            } else {
                heard
            },
        };
        match meet(&config, &local, node(greeting.from), &hello) {
            Meeting::Follow => Verdict::Follow,
            Meeting::Refuse(_) => Verdict::Refuse,
            Meeting::Fence { .. } => Verdict::Fence,
            Meeting::Hear { .. } => Verdict::Hear,
            Meeting::Conflict { .. } => Verdict::Conflict,
        }
    }
}

fn node(index: u8) -> NodeId {
    NodeId([index + 1; 16])
}
