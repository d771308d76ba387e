//! Why a link could not be made, or why it ended, and who ended it.

use std::fmt;
use std::net::SocketAddr;

use outlast_engine::format::{EnvelopeFault, NodeId};
use thiserror::Error;

use crate::config::DATA_STREAM_BYTES;
use crate::pin::Pin;

/// What a node says when it closes a link. Codes from [`CloseCode::FIRST_FREE`] on belong to
/// whoever uses links.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// All was said.
    pub const DONE: Self = Self(0);
    /// The node stops.
    pub const STOPPING: Self = Self(1);
    /// The link was let go without a word.
    pub const ABANDONED: Self = Self(2);
    /// The key of the other side is trusted no longer.
    pub const UNTRUSTED: Self = Self(3);
    /// The other side made a newer link.
    pub const REPLACED: Self = Self(4);
    /// What arrived is no message.
    pub const BAD_MESSAGE: Self = Self(5);
    /// What arrived is no data, or not the data that comes next.
    pub const BAD_DATA: Self = Self(6);
    /// The other side speaks another version.
    pub const VERSION: Self = Self(7);
    /// Nobody here takes new links.
    pub const BUSY: Self = Self(8);
    /// The first code that is not the link's own.
    pub const FIRST_FREE: Self = Self(256);
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::DONE => "done",
            Self::STOPPING => "stopping",
            Self::ABANDONED => "abandoned",
            Self::UNTRUSTED => "untrusted",
            Self::REPLACED => "replaced",
            Self::BAD_MESSAGE => "bad message",
            Self::BAD_DATA => "bad data",
            Self::VERSION => "version",
            Self::BUSY => "busy",
            Self(code) => return write!(f, "code {code}"),
        })
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({}, {self})", self.0)
    }
}

/// Why there is no link, or no longer one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// This node closed it.
    #[error("this node closed the link ({code}): {reason}")]
    ClosedHere {
        /// What was said to the peer.
        code: CloseCode,
        /// The same in words.
        reason: String,
    },
    /// The peer closed it.
    #[error("the peer closed the link ({code}): {reason}")]
    ClosedByPeer {
        /// What the peer said.
        code: CloseCode,
        /// The same in words, the peer's own.
        reason: String,
    },
    /// Nothing arrived any more.
    #[error("nothing was heard from the peer for {idle_timeout_ms} ms: it, or the line, is down")]
    Silent {
        /// How long a link may be silent, in milliseconds.
        idle_timeout_ms: u64,
    },
    /// Nothing came of an attempt.
    #[error(
        "no link with {address} within {waited_ms} ms: check that the peer runs, listens there, and can be reached over UDP"
    )]
    NoAnswer {
        /// Who was asked, or who asked.
        address: SocketAddr,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The peer does not know this link.
    #[error("the peer knows nothing of this link any more: it was most likely restarted")]
    Forgotten,
    /// The peer has too much to do, or does not take connections.
    #[error("the peer takes no connections at the moment")]
    NotTaken,
    /// This node does not let the peer in.
    #[error("the peer was refused: {0}")]
    Refused(#[source] Refusal),
    /// The peer does not let this node in.
    #[error("the peer refused this node: {0}")]
    RefusedByPeer(#[source] PeerRefusal),
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {theirs} of links and this node version {ours}: bring both to the same release"
    )]
    Version {
        /// The version spoken here.
        ours: u16,
        /// The version that arrived.
        theirs: u16,
    },
    /// What arrived is no message.
    #[error("what the peer sent is no message: {0}")]
    BadMessage(#[source] EnvelopeFault),
    /// The peer's messages end in the middle of one, or before the first.
    #[error("the peer's messages end where they should not")]
    MessagesCut,
    /// What arrived is no data, or not the data that comes next.
    #[error("the peer's data cannot be used: {0}")]
    BadData(#[source] DataFault),
    /// The peer reads a stream no longer, though the link stands.
    #[error("the peer does not take what this node sends any more")]
    NotRead,
    /// QUIC itself gave the connection up.
    #[error("{} gave the connection up (QUIC error {code:#x}): {reason}", if *.by_peer { "the peer" } else { "this node" })]
    Transport {
        /// Which side did.
        by_peer: bool,
        /// The error's number in QUIC's own registry.
        code: u64,
        /// The same in words.
        reason: String,
    },
    /// This node's network side was closed, or never began.
    #[error("this node's endpoint cannot be used: {reason}")]
    Endpoint {
        /// Why.
        reason: String,
    },
}

/// Why this node does not let a peer in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It showed no certificate.
    #[error("it showed no key")]
    NoCertificate,
    /// It showed something else than one certificate.
    #[error("it showed {count} certificates where one is expected")]
    Certificates {
        /// How many.
        count: usize,
    },
    /// It showed what is no certificate.
    #[error("what it showed as its certificate is none")]
    NotACertificate,
    /// Its key is not among those that are trusted.
    #[error(
        "its key {pin} is not trusted here: if it should be, check it against what `outlast pin` shows on the peer, and trust it"
    )]
    UnknownKey {
        /// The key it showed.
        pin: Pin,
    },
    /// It is a trusted peer, but not the one that was dialled.
    #[error("it is {name} (node {node}), and node {expected} was dialled: correct the address")]
    OtherPeer {
        /// The node that was dialled.
        expected: NodeId,
        /// The node that answered.
        node: NodeId,
        /// What it is called.
        name: String,
    },
    /// It could not prove that the key is its own.
    #[error("it did not prove that the key which it showed is its own")]
    BadSignature,
    /// It speaks another protocol.
    #[error("it does not speak the protocol of this release")]
    OtherProtocol,
    /// It offers only versions of TLS that are too old.
    #[error("it does not speak TLS 1.3")]
    OldTls,
    /// It calls from an address from which nobody may.
    #[error("nobody may connect from {address}")]
    Source {
        /// The address.
        address: SocketAddr,
    },
}

/// Why a peer does not let this node in, as far as it says so.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// It does not trust this node's key, or expected another node.
    #[error(
        "it does not trust this node's key: run `outlast pin` here, and trust what it shows on the peer"
    )]
    Untrusted,
    /// It saw no certificate.
    #[error("it was shown no key")]
    NoCertificate,
    /// It does not take this node's certificate for one.
    #[error("it cannot read this node's certificate")]
    BadCertificate,
    /// It does not believe that this node's key is its own.
    #[error("it does not take this node's signature")]
    BadSignature,
    /// It speaks another protocol.
    #[error("it does not speak the protocol of this release")]
    OtherProtocol,
    /// It wants another version of TLS.
    #[error("it does not speak TLS 1.3")]
    OldTls,
    /// Something else.
    #[error("TLS alert {0}")]
    Other(u8),
}

/// What is wrong with data that arrived.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataFault {
    /// A stream does not begin as one.
    #[error("a stream of data does not begin as one: {0}")]
    Header(#[source] EnvelopeFault),
    /// A stream is missing, or arrived twice.
    #[error("stream {expected} should follow, and stream {found} did")]
    Order {
        /// The number of the stream that should follow.
        expected: u64,
        /// The number it has.
        found: u64,
    },
    /// A stream goes on where the next one should begin.
    #[error("stream {sequence} is longer than {DATA_STREAM_BYTES} bytes")]
    TooLong {
        /// Its number.
        sequence: u64,
    },
    /// A stream ended before its header did.
    #[error("stream {sequence} ends before it began")]
    Cut {
        /// Its number.
        sequence: u64,
    },
    /// The peer took a stream back.
    #[error("the peer took stream {sequence} back")]
    Reset {
        /// Its number.
        sequence: u64,
    },
}
