//! What goes into a [`Sender`](crate::Sender) and what comes out, with the shell's duties.

use bytes::Bytes;
use outlast_engine::format::{FrameRun, Lsn, LsnRange, NodeId};

use crate::close::CloseReason;
use crate::facts::PrimaryView;
use crate::message::{ConflictKind, Message};
use crate::points::{Position, ProtectionPoint, Term};
use crate::session::RunHeader;
use crate::time::MonoTime;

/// What happens to a sender.
#[derive(Clone, Debug)]
pub enum SenderInput {
    /// A control message of the peer, decoded, in the order of its stream.
    Message(Message),
    /// A run of data of the peer begins (while a lost tail is fetched).
    RunStart(RunHeader),
    /// Bytes of the run that began last, in order, cut anywhere.
    RunBytes(Bytes),
    /// The control stream took every message handed out so far.
    ControlFlushed,
    /// The primary's positions, protection record or state moved. All of it is read at one moment;
    /// what came between two inputs may be left out, and an older view than the last is ignored.
    View(PrimaryView),
    /// The answer to [`SenderOutput::Read`]: whole frames from `from` on, at least one (the log was
    /// said to hold it), at most `max_bytes` unless the first is longer.
    LogBytes {
        /// Where the bytes begin, as it was asked.
        from: Lsn,
        /// The bytes.
        bytes: Bytes,
    },
    /// The log could not be read or written.
    LogFailed,
    /// Only a part of the log is left where it was to be read.
    LogTruncated,
    /// [`SenderOutput::NoteAttached`] is done, durably.
    AttachmentNoted,
    /// [`SenderOutput::Append`] is done: the log ends here.
    Appended(Position),
    /// The log is fsynced up to here (an answer to [`SenderOutput::Sync`]).
    Durable(Position),
    /// An epoch begins on this node: every session and handshake ends.
    EpochBegins,
    /// The process is closing.
    Stop,
    /// The moment of [`Sender::poll_timeout`](crate::Sender::poll_timeout) has come.
    Timeout,
    /// The connection is gone. Nothing comes out any more.
    Disconnected,
}

/// What a sender asks of its shell, in order.
#[derive(Clone, Debug)]
pub enum SenderOutput {
    /// Write it to the control stream. When all that was handed out is written, give
    /// [`SenderInput::ControlFlushed`].
    Send(Message),
    /// Write the bytes to a data stream. They follow those of the last `Data`: either go on with an
    /// open stream, or open another one and write the encoded header first. At most the window's
    /// bytes of them exist at any time.
    Data(RunHeader, Bytes),
    /// Read whole frames of the log, and answer with [`SenderInput::LogBytes`] or
    /// [`SenderInput::LogFailed`]. At most one is under way.
    Read {
        /// Where to begin: the start of a frame.
        from: Lsn,
        /// Most bytes, unless the first frame is longer.
        max_bytes: usize,
    },
    /// Note durably that this standby attached to the term, then give
    /// [`SenderInput::AttachmentNoted`]. From then on a restart must hear from a standby first. (At
    /// once, where it is noted already.)
    NoteAttached {
        /// The standby.
        standby: NodeId,
    },
    /// Append frames of this node's own lost tail, fetched from its standby; then give
    /// [`SenderInput::Appended`]. Only before the epoch begins. Finish it even when the session
    /// ends meanwhile, before the facts of the next one are read.
    Append(FrameRun),
    /// Fsync all that was handed out by `Append` before, then give [`SenderInput::Durable`]. One
    /// fsync may answer several.
    Sync,
    /// Note the term durably and stop acknowledging, before anything else: a node of a higher term
    /// exists. No answer.
    Fence {
        /// The higher term.
        term: Term,
        /// Who told.
        told_by: NodeId,
    },
    /// Stop acknowledging, durably, and show CONFLICT until an operator chooses. No answer.
    Conflict {
        /// Between what.
        kind: ConflictKind,
        /// The other node.
        with: NodeId,
        /// The highest term that it knows.
        heard: Term,
    },
    /// Something worth knowing.
    Event(SenderEvent),
    /// The session is over; the last output. Let what was sent leave (a second at most), then close
    /// the connection. Unless the reason forbids it, dial again with backoff, for ever.
    Close(CloseReason),
}

/// What a sender has learnt.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SenderEvent {
    /// The standby's log is a prefix of this one and data flows from here. What it had reported
    /// durable in earlier sessions counts no more; `Replicated` follows at once.
    Attached {
        /// The standby's name.
        name: String,
        /// Its end, where data begins.
        resume: Position,
        /// The protocol version agreed on.
        version: u16,
        /// The features agreed on.
        features: u64,
    },
    /// The standby has checked and written up to here.
    Received(Position),
    /// The standby has fsynced up to here. In this session, so it may be less than before.
    Replicated(Position),
    /// The standby's readers see up to here.
    Applied(Position),
    /// A heartbeat was echoed.
    Contact {
        /// When it was formed. Rises within a session.
        at: MonoTime,
        /// The newest protection record that it named, which the standby has noted durably.
        told: Option<ProtectionPoint>,
    },
    /// A standby of no higher term that has not withdrawn answered this process, and this log lacks
    /// nothing that it holds durable. The epoch may begin.
    ContactComplete {
        /// The standby.
        standby: NodeId,
        /// What was fetched back; empty when nothing was missing.
        fetched: LsnRange,
        /// The highest visible position that the standby was ever told.
        visible_told: Lsn,
    },
    /// The standby no longer holds what it had acknowledged. Its acknowledgements of this session
    /// count, and they are lower.
    AckedTailLost(LsnRange),
    /// The standby's log holds a tail that is not in this history; it was asked to put it aside.
    CutAsked {
        /// Where the histories part.
        fork: Lsn,
        /// Where the standby's log ended.
        standby_end: Lsn,
    },
}
