//! Two nodes meet: what a node that was dialled does, whatever its role.
//!
//! After a promotion both sides may think that they are the primary. They must be able to meet and
//! tell each other their terms, so a primary answers a Hello too, whether it has a live session or
//! not: terms do not depend on it. Everything here is decided from the node's own facts and the
//! Hello; nothing is remembered.

use outlast_engine::format::NodeId;

use crate::compare;
use crate::config::Config;
use crate::facts::Identity;
use crate::message::{ConflictKind, Hello, Mode, Refuse, RefuseReason};
use crate::points::Term;

/// What a node is at the moment when it is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// It follows, or would.
    Standby,
    /// It is a standby that has withdrawn in order to be promoted.
    Withdrawn,
    /// It is a standby whose log failed.
    Failed,
    /// It is a primary: writing, or waiting to hear from its standby.
    Primary,
    /// It was a primary and met a higher term.
    Fenced,
    /// It waits for an operator's choice.
    Conflict(ConflictKind),
}

/// What a node knows of itself when it is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local<'a> {
    /// Who it is.
    pub identity: &'a Identity,
    /// What it is.
    pub role: Role,
    /// The highest term that it ever heard of, its own included.
    pub heard: Term,
}

/// What to do with the connection that a Hello opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Meeting {
    /// Follow the dialler: close the connection there was before, and hand the Hello to the
    /// [`Receiver`](crate::Receiver).
    Follow,
    /// Send this and close the connection. A live session goes on.
    Refuse(Refuse),
    /// For a node that was a writer, or stands in a conflict: a higher term exists. Note it
    /// durably, stop acknowledging and end every session; only then send the answer and close the
    /// connection.
    Fence {
        /// The higher term.
        term: Term,
        /// The answer.
        refuse: Refuse,
    },
    /// For a standby: a higher term exists, and its writer cannot be followed. Give the
    /// [`Receiver`](crate::Receiver) the term as `HeardTerm`, send the answer and close the
    /// connection.
    Hear {
        /// The higher term.
        term: Term,
        /// The answer.
        refuse: Refuse,
    },
    /// Stop, durably, and show CONFLICT until an operator chooses; then send the answer and close
    /// the connection. (A standby hands the Hello to its [`Receiver`](crate::Receiver), which does
    /// all of this and refuses everybody from then on.)
    Conflict {
        /// Between what.
        kind: ConflictKind,
        /// The answer.
        refuse: Refuse,
    },
}

/// Decides what to do about `hello`, which came over a connection whose key belongs to `peer`.
pub fn meet(config: &Config, local: &Local<'_>, peer: NodeId, hello: &Hello) -> Meeting {
    let refuse = |heard, reason| Refuse {
        dialler: hello.nonce,
        heard,
        node: local.identity.node,
        reason,
    };
    if let Some(reason) = stranger(local.identity, peer, hello) {
        // A stranger is told no term: it must not fence itself because of this cluster.
        return Meeting::Refuse(refuse(Term::NONE, reason));
    }
    let claimed = Term::of(&hello.history).or_higher(hello.heard);
    let conflict = |kind| Meeting::Conflict {
        kind,
        refuse: refuse(local.heard, RefuseReason::Conflict(kind)),
    };
    if claimed.conflicts_with(&local.heard) {
        return conflict(ConflictKind::EqualTerms);
    }
    if claimed.number < local.heard.number {
        return Meeting::Refuse(refuse(local.heard, RefuseReason::HigherTerm));
    }
    match declined(config, local, claimed, hello) {
        None => Meeting::Follow,
        Some(reason) if claimed.number > local.heard.number => {
            let (term, refuse) = (claimed, refuse(claimed, reason));
            match local.role {
                // In a conflict nobody but an operator opens a higher term: this is the choice.
                Role::Primary | Role::Fenced | Role::Conflict(_) => Meeting::Fence { term, refuse },
                Role::Standby | Role::Withdrawn | Role::Failed => Meeting::Hear { term, refuse },
            }
        }
        Some(reason) => Meeting::Refuse(refuse(local.heard, reason)),
    }
}

/// Why the dialler is nobody with whom to speak of terms.
fn stranger(identity: &Identity, peer: NodeId, hello: &Hello) -> Option<RefuseReason> {
    if hello.cluster != identity.cluster {
        Some(RefuseReason::OtherCluster)
    } else if hello.node == identity.node {
        Some(RefuseReason::OwnNodeId)
    } else if hello.node != peer {
        Some(RefuseReason::OtherKey)
    } else if hello.to != identity.node {
        Some(RefuseReason::OtherNode)
    } else {
        None
    }
}

/// Why a dialler of no lower term than any known here is not followed.
fn declined(
    config: &Config,
    local: &Local<'_>,
    claimed: Term,
    hello: &Hello,
) -> Option<RefuseReason> {
    match local.role {
        Role::Primary if claimed.number > local.heard.number => return Some(RefuseReason::Fenced),
        Role::Primary => return Some(RefuseReason::NotTheWriter),
        Role::Fenced => return Some(RefuseReason::Fenced),
        Role::Withdrawn => return Some(RefuseReason::Withdrawn),
        Role::Failed => return Some(RefuseReason::LogFailed),
        Role::Conflict(_) if claimed.number > local.heard.number => {
            return Some(RefuseReason::Fenced);
        }
        Role::Conflict(kind) => return Some(RefuseReason::Conflict(kind)),
        Role::Standby => {}
    }
    if config.versions.agree(&hello.versions).is_none() {
        return Some(RefuseReason::Version(config.versions));
    }
    if let Err(missing) = config.features.agree(&hello.features) {
        return Some(RefuseReason::Features { missing });
    }
    let here_bytes = local.identity.segment_size;
    if hello.segment_size != here_bytes {
        return Some(RefuseReason::SegmentSize { here_bytes });
    }
    if claimed.number > Term::of(&hello.history).number {
        return Some(RefuseReason::DiallerFenced);
    }
    let writer = hello.history.last().map(|epoch| epoch.node);
    let began = match hello.mode {
        Mode::Contact => writer.is_none_or(|node| node == hello.node),
        Mode::Ship => writer == Some(hello.node),
    };
    if !began {
        return Some(RefuseReason::NotTheWriter);
    }
    let sound = compare::agree(&hello.history, &hello.end)
        && hello.view.in_order()
        && hello.view.appended.lsn == hello.end.lsn;
    (!sound).then_some(RefuseReason::Unsound)
}
