//! What is said over the control socket: requests with a number, answers that carry it back.
//!
//! Both ways a stream of envelopes (`OLCS`) around postcard. A request is answered by one or more
//! [`Answer`]s with its number; the last one says so. Requests of one connection may overlap.

use std::io::{self, Read};
use std::path::PathBuf;

use outlast_engine::format::{Envelope, EpochRecord, Lsn, ProtectionRecord};
use outlast_engine::{Checkpoint, Level, Receipt, ReceiptStatus};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, PromoteOptions};
use crate::repair::{Repair, RepairOptions};
use crate::resolve::{Resolution, ResolveOptions};
use crate::status::Status;

/// Longest message in bytes: a batch of the largest frame and its keys, with room to spare.
pub const MESSAGE_LEN_MAX: u32 = 32 << 20;

const ENVELOPE: Envelope = Envelope {
    magic: *b"OLCS",
    version: 1,
    kind: 1,
    len_max: MESSAGE_LEN_MAX,
};

/// A request and the number that its answers carry.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; unique among its unanswered requests.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What a client may ask of a running node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ask {
    /// How the node is. Answered by [`Reply::Status`].
    Status,
    /// Commit one batch. Answered by one [`Reply::Reached`] for each stage, up to the one that
    /// `level` names (all four with `trace`).
    Commit {
        /// The keyspace of all operations; made when it is not there.
        keyspace: String,
        /// The operations.
        ops: Vec<WireOp>,
        /// What to wait for.
        level: Level,
        /// Whether to report every stage that the commit reaches, the standby's included.
        trace: bool,
        /// Whether to refuse it once an earlier one of this connection that was asked so has
        /// failed: what gets into the log of such commits is always a prefix.
        pipelined: bool,
    },
    /// The value of a key. Answered by [`Reply::Value`].
    Get {
        /// The keyspace.
        keyspace: String,
        /// The key.
        key: Vec<u8>,
        /// As of this position; `None` for what readers see now.
        at: Option<Lsn>,
    },
    /// Entries in key order. Answered by [`Reply::Entries`], several times where there are many.
    Scan {
        /// The keyspace.
        keyspace: String,
        /// Only keys that begin with this.
        prefix: Vec<u8>,
        /// Only keys from here on.
        start: Option<Vec<u8>>,
        /// Only keys before this.
        end: Option<Vec<u8>>,
        /// Last key first.
        reverse: bool,
        /// At most so many.
        limit: Option<u64>,
        /// As of this position; `None` for what readers see now.
        at: Option<Lsn>,
    },
    /// Count and SHA-256 of the live state of a keyspace. Answered by [`Reply::Digest`].
    Digest {
        /// The keyspace.
        keyspace: String,
        /// As of this position; `None` for what readers see now.
        at: Option<Lsn>,
    },
    /// The changes from a position on. Answered by [`Reply::Changes`] as they come.
    Tail {
        /// Where to begin: a frame's or a batch's end.
        from: Lsn,
        /// Whether to go on when the end is reached.
        follow: bool,
    },
    /// What this node knows of a receipt. Answered by [`Reply::Receipt`].
    Receipt(Receipt),
    /// Wait until readers of this node see a commit. Answered by [`Reply::Done`].
    WaitApplied {
        /// The commit.
        receipt: Receipt,
        /// How long at most, in milliseconds.
        timeout_ms: u64,
    },
    /// Promote this node, or say what it would do. Answered by [`Reply::Promoted`].
    Promote(PromoteOptions),
    /// Let a restarted primary go on without having heard from its standby. Answered by
    /// [`Reply::Epoch`].
    ResumeAlone {
        /// Why, for the record.
        reason: String,
    },
    /// Mend the node's sealed segments, or say what would be done. Answered by [`Reply::Repaired`].
    Repair(RepairOptions),
    /// Make an online backup. Answered by [`Reply::Checkpoint`].
    Checkpoint {
        /// The directory to make it in, as an absolute path: empty or not there.
        to: PathBuf,
    },
    /// Say that the node's wall clock is right, so that log time goes on where it stands still.
    /// Answered by [`Reply::Done`].
    ConfirmClock,
    /// Promise that no more is lost than this. Answered by [`Reply::Protection`].
    SetPolicy {
        /// Most bytes.
        bound_bytes: Option<u64>,
        /// Most commits.
        bound_commits: Option<u64>,
        /// Longest span, in milliseconds.
        bound_ms: Option<u64>,
        /// The lease, in milliseconds; `None` for the policy `async`.
        lease_ms: Option<u64>,
        /// Whether new commits are refused, and do not wait, while they cannot be answered.
        refuses: bool,
        /// Why, for the record.
        reason: String,
        /// Whether nothing is written: the answer is what would be.
        dry_run: bool,
    },
    /// Lift the bound for a while. Answered by [`Reply::Protection`].
    SuspendProtection {
        /// For how long, in milliseconds.
        lasts_ms: u64,
        /// Why, for the record.
        reason: String,
        /// Whether nothing is written: the answer is what would be.
        dry_run: bool,
    },
    /// End a suspension before its time. Answered by [`Reply::Protection`].
    ResumeProtection {
        /// Why, for the record.
        reason: String,
        /// Whether nothing is written: the answer is what would be.
        dry_run: bool,
    },
    /// Settle a conflict, or say what that would do. Answered by [`Reply::Resolved`].
    Resolve(ResolveOptions),
}

/// One operation of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WireOp {
    /// Gives the key a value.
    Put(Vec<u8>, Vec<u8>),
    /// Takes the key's value away.
    Delete(Vec<u8>),
}

/// One operation of a commit, as the log has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WireDone {
    /// The key was given a value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The log time from which on it has none, in milliseconds since 1970.
        expires_ms: Option<u64>,
    },
    /// The key's value was taken away.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// The values of a range of keys were taken away.
    DeleteRange {
        /// The first key.
        start: Vec<u8>,
        /// The first key behind it; `None` for the end of the keyspace.
        end: Option<Vec<u8>>,
    },
    /// The keyspace was dropped.
    DropKeyspace,
}

/// How far a commit has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Fsynced on the primary, and visible there.
    Durable,
    /// Received by the standby.
    Received,
    /// Fsynced on the standby.
    Replicated,
    /// Visible to the standby's readers.
    Applied,
}

/// One change as it is told over the socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WireChange {
    /// The commit.
    pub receipt: Receipt,
    /// Log time in milliseconds since 1970.
    pub log_ms: u64,
    /// The operations, each with its keyspace.
    pub ops: Vec<(String, WireDone)>,
}

/// An answer to the request of the same number.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The request's number.
    pub id: u64,
    /// Whether no further answer follows.
    pub last: bool,
    /// The answer.
    pub reply: Reply,
}

/// What a node answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reply {
    /// To [`Ask::Status`].
    Status(Box<Status>),
    /// To [`Ask::Commit`].
    Reached {
        /// The stage.
        stage: Stage,
        /// Names the commit.
        receipt: Receipt,
        /// Microseconds from the request's arrival in the node to this stage.
        after_us: u64,
    },
    /// To [`Ask::Get`]; `None` when the key has no value.
    Value(Option<Vec<u8>>),
    /// To [`Ask::Scan`]: keys and values.
    Entries(Vec<(Vec<u8>, Vec<u8>)>),
    /// To [`Ask::Digest`].
    Digest {
        /// Live keys.
        keys: u64,
        /// SHA-256 over `key TAB value LF` of every live entry, in key order, in hexadecimal.
        sha256: String,
        /// The position whose state this is.
        at: Lsn,
        /// The last commit in it.
        commit: u64,
    },
    /// To [`Ask::Tail`].
    Changes(Vec<WireChange>),
    /// To [`Ask::Receipt`].
    Receipt(ReceiptStatus),
    /// It is done.
    Done,
    /// To [`Ask::Promote`].
    Promoted(Box<Certificate>),
    /// To [`Ask::ResumeAlone`]: the epoch that began.
    Epoch(Box<EpochRecord>),
    /// The request failed, or was refused.
    Failed(Failure),
    /// To [`Ask::Repair`].
    Repaired(Box<Repair>),
    /// To [`Ask::Checkpoint`]: what it holds.
    Checkpoint(Box<Checkpoint>),
    /// What was written down about the promise.
    Protection(Box<ProtectionRecord>),
    /// To [`Ask::Resolve`].
    Resolved(Box<Resolution>),
}

/// Why a request came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What a caller can do about it.
    pub kind: FailureKind,
    /// What happened, and what it came from.
    pub what: String,
    /// What to do or type next, if there is anything.
    pub hint: Option<String>,
    /// For a commit whose outcome is unknown: its receipt, to be checked later.
    pub receipt: Option<Receipt>,
}

/// Kinds of failure, each with an exit code of its own on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FailureKind {
    /// None of the others.
    Failed,
    /// The request itself is wrong.
    Usage,
    /// A precondition does not hold; nothing was changed.
    Refused,
    /// Bytes do not hold.
    Corrupt,
    /// The deadline passed.
    Timeout,
    /// The commit may or may not last.
    Unknown,
    /// The peer cannot be reached.
    NotReachable,
}

/// The bytes of a message.
///
/// # Errors
/// `InvalidInput` when it is over [`MESSAGE_LEN_MAX`].
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if body.len() > MESSAGE_LEN_MAX as usize {
        let message = format!(
            "a message of {} bytes is over the limit of {MESSAGE_LEN_MAX}",
            body.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(ENVELOPE.seal(&body))
}

/// The whole length of a message whose first 16 bytes are `header`, checked before anything is
/// allocated for it.
///
/// # Errors
/// `InvalidData` when it is none, or of another version.
pub fn announced_len(header: &[u8]) -> io::Result<usize> {
    let body = ENVELOPE.body_len(header).map_err(invalid)?;
    Ok(Envelope::HEADER_LEN + body)
}

/// The message in `bytes`.
///
/// # Errors
/// `InvalidData` when it is damaged or none.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let body = ENVELOPE.open(bytes).map_err(invalid)?;
    postcard::from_bytes(body).map_err(invalid)
}

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// Those of the stream, and `InvalidData`.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut bytes = vec![0; Envelope::HEADER_LEN];
    match from.read(&mut bytes)? {
        0 => return Ok(None),
        n => from.read_exact(bytes.get_mut(n..).unwrap_or_default())?,
    }
    let len = announced_len(&bytes)?;
    bytes.resize(len, 0);
    from.read_exact(bytes.get_mut(Envelope::HEADER_LEN..).unwrap_or_default())?;
    decode(&bytes).map(Some)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
