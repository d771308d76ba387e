//! The control messages: who sends each, when, and what its receiver concludes.
//!
//! They travel on one ordered stream per session, in both directions. Data runs travel beside them,
//! each behind a [`RunHeader`](crate::RunHeader).

use outlast_engine::format::{ClusterId, CommonPoint, History, Lsn, LsnRange, NodeId};
use serde::{Deserialize, Serialize};

use crate::facts::PrimaryView;
use crate::points::{AckMark, LogEnd, Position, ProtectionPoint, Term};
use crate::session::{Binding, Nonce, SessionId};
use crate::time::Stamp;

/// A control message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Opens a session. Sent by the node that dials, once, before anything else.
    Hello(Box<Hello>),
    /// Accepts it. Sent by the standby that was dialled, once everything that it holds is durable
    /// and the dialler's term is noted. The dialler concludes that this node is alive, follows no
    /// higher term, has not withdrawn, and what its log holds.
    Welcome(Box<Welcome>),
    /// Declines it, or ends it. Sent by the node that was dialled, whatever its role. The dialler
    /// concludes from `heard` whether it must fence itself.
    Refuse(Refuse),
    /// "Your log holds bytes that my history does not." Sent by the primary in answer to a Welcome
    /// when the histories fork below the standby's end. The standby compares the histories itself
    /// and takes nothing from this message but the wish; it names the standby's nonce, so it is an
    /// answer to this process and not an old hello.
    Diverged {
        /// Session and epoch.
        binding: Binding,
        /// Where the histories part.
        fork: CommonPoint,
    },
    /// "My forked tail lies in quarantine, durably." Sent by the standby after
    /// [`Message::Diverged`]. The primary compares the histories again, with this end.
    CutDone {
        /// Session and epoch.
        binding: Binding,
        /// The standby's end now.
        end: LogEnd,
    },
    /// "Your log is a prefix of mine; I go on from here." Sent by the primary once it has noted
    /// durably that a standby attached to its term. The standby checks it against its own log,
    /// counts the primary's positions from here on, and answers with an [`Ack`].
    Attach {
        /// Session and epoch.
        binding: Binding,
        /// Where data begins: the standby's durable end.
        resume: Position,
    },
    /// Sent by the primary at every interval while a standby is attached, and at once on attaching.
    Heartbeat(Heartbeat),
    /// The primary's positions have moved and no frame follows that would say so. Sent by the
    /// primary, at most one at a time in the shell's hands. The standby may apply up to `visible`.
    Positions {
        /// Session and epoch.
        binding: Binding,
        /// The positions.
        view: PrimaryView,
    },
    /// Sent by the standby for the newest heartbeat of this session, after what that heartbeat told
    /// it is noted durably. The primary concludes that the standby had not withdrawn at a moment
    /// not before the stamp: this is what a lease runs from.
    Echo {
        /// Session and epoch.
        binding: Binding,
        /// The stamp of the heartbeat.
        stamp: Stamp,
    },
    /// Where the standby is. Sent by the standby when a position moved, coalesced; the first one
    /// accepts the Attach, and the primary ships nothing before it.
    Ack(Ack),
    /// "Send me these bytes of your log." Sent by a primary that restarted shorter than its standby
    /// and has not begun its epoch. The standby answers with a run of data that begins at
    /// `range.start` and goes on with whole frames until `range.end` is reached.
    Fetch {
        /// Session and epoch.
        binding: Binding,
        /// What is asked for. The end need not be the end of a frame.
        range: LsnRange,
    },
    /// The last message of an orderly end. Sent by either side. Nothing is concluded but that the
    /// peer is not lost.
    Bye {
        /// Session and epoch.
        binding: Binding,
        /// Why.
        reason: ByeReason,
    },
}

/// What the dialler wants of the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// It restarted, has begun no epoch, and wants to hear from its standby first.
    Contact,
    /// It is the writer of its history's newest epoch and ships its log.
    Ship,
}

/// Protocol versions that a node speaks, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// The newest version that both speak.
    #[must_use]
    pub fn agree(&self, other: &Self) -> Option<u16> {
        let version = self.newest.min(other.newest);
        (version >= self.oldest.max(other.oldest)).then_some(version)
    }
}

/// Feature bits of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    /// What this node knows.
    pub known: u64,
    /// What it cannot work without; a part of `known`.
    pub required: u64,
}

impl Features {
    /// The features that both know.
    ///
    /// # Errors
    /// The bits that one requires and the other does not know.
    pub const fn agree(&self, other: &Self) -> Result<u64, u64> {
        let missing = (self.required & !other.known) | (other.required & !self.known);
        if missing == 0 {
            Ok(self.known & other.known)
        } else {
            Err(missing)
        }
    }
}

/// What a node says of itself when it dials.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions that it speaks.
    pub versions: Versions,
    /// Protocol features.
    pub features: Features,
    /// Its half of the session's name.
    pub nonce: Nonce,
    /// What it wants.
    pub mode: Mode,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Whom it means to have dialled.
    pub to: NodeId,
    /// Size of the cluster's segment files in bytes.
    pub segment_size: u64,
    /// The highest term that it ever heard of.
    pub heard: Term,
    /// The epochs of its log. Names, notes and wall clocks of epochs are not sent.
    #[serde(with = "crate::history_wire")]
    pub history: History,
    /// The end of its log.
    pub end: LogEnd,
    /// Its positions.
    pub view: PrimaryView,
    /// What it remembers of this standby's acknowledgements in its newest epoch. A standby that
    /// holds less lost what it had promised to hold.
    pub remembered: Option<AckMark>,
}

/// What a standby answers to a Hello that it accepts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The session, named in full.
    pub session: SessionId,
    /// The protocol version that both go on with.
    pub version: u16,
    /// The features that both know.
    pub features: u64,
    /// Itself.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The highest term that it ever heard of; the dialler's, unless something is wrong.
    pub heard: Term,
    /// The epochs of its log.
    #[serde(with = "crate::history_wire")]
    pub history: History,
    /// The end of its log. All of it is durable: a standby syncs before it answers.
    pub end: LogEnd,
    /// What its readers see.
    pub applied: Position,
    /// The highest visible position that it was ever told.
    pub visible_told: Lsn,
    /// The newest protection record that it noted.
    pub protection: Option<ProtectionPoint>,
    /// Most bytes that it takes beyond what it has acknowledged as received.
    pub window_bytes: u64,
    /// What it once acknowledged and does not hold any more.
    pub acked_tail_lost: Option<LsnRange>,
}

/// Why a node declines a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefuseReason {
    /// It belongs to another cluster.
    OtherCluster,
    /// The Hello was meant for another node.
    OtherNode,
    /// The dialler uses this node's own id.
    OwnNodeId,
    /// The key that the dialler proved belongs to another node than it claims to be.
    OtherKey,
    /// No protocol version in common; these are spoken here.
    Version(Versions),
    /// Features that one side requires and the other does not know.
    Features {
        /// The missing bits.
        missing: u64,
    },
    /// The cluster's segments have another size here.
    SegmentSize {
        /// The size here, in bytes.
        here_bytes: u64,
    },
    /// A higher term is known here: the dialler must fence itself.
    HigherTerm,
    /// The dialler heard of a higher term than its own and dials as a primary all the same.
    DiallerFenced,
    /// The newest epoch of the dialler's history was begun by another node.
    NotTheWriter,
    /// The Hello contradicts itself.
    Unsound,
    /// This node was a primary and is fenced now: it cannot follow before it has rejoined.
    Fenced,
    /// This node has withdrawn in order to be promoted.
    Withdrawn,
    /// Both sides may hold what callers were told OK: an operator must choose.
    Conflict(ConflictKind),
    /// This node's log takes nothing any more; it must be reopened.
    LogFailed,
    /// This node's process is closing.
    Stopping,
}

/// Two histories of which neither may give way by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ConflictKind {
    /// Two nodes were promoted under the same term.
    EqualTerms,
    /// The standby's tail is not in the primary's history, and reaches below what the standby's
    /// readers saw or were allowed to see.
    ForkBelowVisible {
        /// Where the histories part.
        fork: Lsn,
        /// The higher of the standby's applied position and the highest visible one it was told.
        seen: Lsn,
    },
    /// The standby's history goes on in an epoch of this same term that the primary does not have,
    /// although the primary alone writes in it.
    UnknownEpoch {
        /// Where the histories part.
        fork: Lsn,
    },
}

/// A declined session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Refuse {
    /// The nonce of the Hello that is declined.
    pub dialler: Nonce,
    /// The highest term known here.
    pub heard: Term,
    /// Who declines.
    pub node: NodeId,
    /// Why.
    pub reason: RefuseReason,
}

/// A primary's sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Session and epoch.
    pub binding: Binding,
    /// When it was formed, on the primary's clock. Rises within a session.
    pub stamp: Stamp,
    /// The primary's term, which cannot change within a session.
    pub term: Term,
    /// Positions, newest protection record, state.
    pub view: PrimaryView,
}

/// Where a standby is. Order: applied ≤ durable ≤ received; none moves back within a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// Session and epoch.
    pub binding: Binding,
    /// End of what is checked and written to the standby's log.
    pub received: Position,
    /// End of what is fsynced there.
    pub durable: Position,
    /// End of what its readers see.
    pub applied: Position,
}

/// Why an orderly session ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ByeReason {
    /// A restarted primary has heard what it needed.
    ContactComplete,
    /// The primary begins an epoch; it will dial again.
    EpochBegins,
    /// The standby has withdrawn in order to be promoted.
    Withdrawn,
    /// The process is closing.
    Stopping,
    /// The primary's log was compacted where the standby would have gone on: the standby must be
    /// made again, from a checkpoint.
    Truncated,
}

impl Message {
    /// What the message is bound to; `None` for those of the handshake, which carry nonces alone.
    #[must_use]
    pub const fn binding(&self) -> Option<&Binding> {
        match self {
            Self::Hello(_) | Self::Welcome(_) | Self::Refuse(_) => None,
            Self::Diverged { binding, .. }
            | Self::CutDone { binding, .. }
            | Self::Attach { binding, .. }
            | Self::Positions { binding, .. }
            | Self::Echo { binding, .. }
            | Self::Fetch { binding, .. }
            | Self::Bye { binding, .. } => Some(binding),
            Self::Heartbeat(heartbeat) => Some(&heartbeat.binding),
            Self::Ack(ack) => Some(&ack.binding),
        }
    }

    /// Its name, for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Welcome(_) => "Welcome",
            Self::Refuse(_) => "Refuse",
            Self::Diverged { .. } => "Diverged",
            Self::CutDone { .. } => "CutDone",
            Self::Attach { .. } => "Attach",
            Self::Heartbeat(_) => "Heartbeat",
            Self::Positions { .. } => "Positions",
            Self::Echo { .. } => "Echo",
            Self::Ack(_) => "Ack",
            Self::Fetch { .. } => "Fetch",
            Self::Bye { .. } => "Bye",
        }
    }
}
