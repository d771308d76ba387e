//! What goes into a [`Receiver`](crate::Receiver) and what comes out, with the shell's duties.

use bytes::Bytes;
use outlast_engine::format::{FrameRun, Lsn, LsnRange, NodeId};

use crate::close::CloseReason;
use crate::facts::LogView;
use crate::message::{ConflictKind, Hello, Message};
use crate::points::{Position, ProtectionPoint, Term};
use crate::session::{Nonce, RunHeader};

/// What happens to a receiver.
#[derive(Clone, Debug)]
pub enum ReceiverInput {
    /// A connection opened with this Hello, and [`Receiver::meet`](crate::Receiver::meet) said
    /// `Follow` or `Conflict`. Whatever connection was there before must be closed first; its
    /// session is over.
    Hello {
        /// A fresh random nonce of this node.
        nonce: Nonce,
        /// The node whose key the connection proved.
        peer: NodeId,
        /// The message.
        hello: Box<Hello>,
    },
    /// A higher term exists, as [`Meeting::Hear`](crate::Meeting::Hear) said of a dialler that is
    /// not followed.
    HeardTerm(Term),
    /// A further control message of the current connection, decoded, in the order of its stream.
    Message(Message),
    /// A run of data begins.
    RunStart(RunHeader),
    /// Bytes of the run that began last, in order, cut anywhere. Streams are read one after the
    /// other, in the order in which they were opened.
    RunBytes(Bytes),
    /// The control stream took every message handed out so far.
    ControlFlushed,
    /// [`ReceiverOutput::Append`] is done: the log ends here.
    Appended(Position),
    /// The log is fsynced up to here, and the durable mark says so or soon will.
    Durable(Position),
    /// [`ReceiverOutput::ApplyTo`] is done: readers see up to here. May be less than was asked (the
    /// last end of a frame below it).
    Applied(Position),
    /// [`ReceiverOutput::Note`] is done, durably.
    Noted,
    /// [`ReceiverOutput::Quarantine`] is done, durably: the log ends at the fork.
    Quarantined(Box<LogView>),
    /// The answer to [`ReceiverOutput::Read`]: whole frames from `from` on, at least one (the log
    /// is known to hold it), at most `max_bytes` unless the first is longer.
    LogBytes {
        /// Where the bytes begin, as it was asked.
        from: Lsn,
        /// The bytes.
        bytes: Bytes,
    },
    /// The log could not be read or written. The receiver takes no session any more; reopen the
    /// store and make another one.
    LogFailed,
    /// The connection of the session with this nonce of ours is gone.
    Disconnected {
        /// The nonce given with its Hello.
        nonce: Nonce,
    },
    /// Promotion begins: from this call on, no byte is accepted and nothing is echoed or
    /// acknowledged, in this session or another.
    Withdraw,
    /// The promotion was given up before its epoch was durable. Silence starts again. (Nothing
    /// happens where nothing had been withdrawn: a log that failed and a conflict remain.)
    Reinstate,
    /// The process is closing.
    Stop,
    /// The moment of [`Receiver::poll_timeout`](crate::Receiver::poll_timeout) has come.
    Timeout,
}

/// What a receiver asks of its shell, in order.
#[derive(Clone, Debug)]
pub enum ReceiverOutput {
    /// Write it to the control stream of the current connection. When all that was handed out is
    /// written, give [`ReceiverInput::ControlFlushed`].
    Send(Message),
    /// Write the bytes to a data stream of the current connection (a fetch is served). As
    /// [`SenderOutput::Data`](crate::SenderOutput::Data).
    Data(RunHeader, Bytes),
    /// Read whole frames of the log, and answer with [`ReceiverInput::LogBytes`] or
    /// [`ReceiverInput::LogFailed`]. At most one is under way.
    Read {
        /// Where to begin: the start of a frame.
        from: Lsn,
        /// Most bytes, unless the first frame is longer.
        max_bytes: usize,
    },
    /// Append the frames to the log, then give [`ReceiverInput::Appended`]. Even when the session
    /// ends meanwhile. Several waiting ones may be answered once, with the last end.
    Append(FrameRun),
    /// Fsync all that was handed out by `Append` before, then give [`ReceiverInput::Durable`]. One
    /// fsync may answer several.
    Sync,
    /// Let readers see up to here, then give [`ReceiverInput::Applied`]. All of it is durable and
    /// the primary's readers may see it too. A later one replaces those that wait.
    ApplyTo(Lsn),
    /// Write both durably beside the log, then give [`ReceiverInput::Noted`]. At most one is under
    /// way. Neither ever goes back.
    Note {
        /// The highest term ever heard of.
        heard: Term,
        /// The newest protection record ever heard of.
        protection: Option<ProtectionPoint>,
    },
    /// Put everything from here on into quarantine, durably, set the durable mark back to here, and
    /// cut the log; then give [`ReceiverInput::Quarantined`]. The tail is proven not to be in the
    /// primary's history, and nobody saw it.
    Quarantine {
        /// The fork.
        from: Lsn,
    },
    /// Stop, durably, and show CONFLICT until an operator chooses. No answer.
    Conflict {
        /// Between what.
        kind: ConflictKind,
        /// The other node.
        with: NodeId,
        /// The highest term that it knows.
        heard: Term,
    },
    /// Something worth knowing.
    Event(ReceiverEvent),
    /// The session is over. Let what was sent leave (a second at most), then close the current
    /// connection. The receiver goes on: the next session begins with a Hello.
    Close(CloseReason),
}

/// What a receiver has learnt.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReceiverEvent {
    /// This log is a prefix of the primary's, and data will come from here.
    Attached {
        /// The primary.
        primary: NodeId,
        /// Its name.
        name: String,
        /// Where data begins.
        resume: Position,
        /// Its term.
        term: Term,
    },
    /// This log ends below what this node acknowledged: ACKED TAIL LOST until it was sent again.
    AckedTailLost(LsnRange),
    /// What was lost has been sent again and is durable.
    AckedTailRestored,
    /// A restarted primary was sent back what it had lost.
    TailServed(LsnRange),
}
