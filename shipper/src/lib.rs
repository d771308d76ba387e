//! Ships a log over QUIC: keys, pins, endpoints and the driver of the protocol.
//!
//! A node has an [`Identity`], trusts [`Peers`] by the [`Pin`]s of their keys, and keeps one
//! [`Endpoint`] on a [`NetThread`]. What it dials or accepts is a [`Link`]: messages and data, in
//! order, authenticated on both sides. What the messages and the data mean is not known at this
//! level.

mod backoff;
mod config;
pub mod drive;
mod error;
pub mod floor;
mod identity;
mod message;
mod net;
mod peers;
mod pin;
mod private_file;
mod quic;
mod signature;

pub use backoff::{Backoff, BackoffLimits};
pub use config::{ConfigFault, Congestion, DATA_STREAM_BYTES, LinkConfig};
pub use error::{CloseCode, DataFault, LinkError, PeerRefusal, Refusal};
pub use identity::{Identity, IdentityError, KEY_FILE_BYTES_MAX};
pub use message::{LINK_VERSION, MESSAGE_BYTES_MAX, Message};
pub use net::{NetHandle, NetThread, TaskPanic, panic_message};
pub use peers::{
    PEER_NAME_BYTES_MAX, PEERS_FILE_BYTES_MAX, PEERS_MAX, Peer, PeerFault, Peers, PeersError,
};
pub use pin::{Pin, PinFault};
pub use private_file::FileError;
pub use quic::control::{MessageReader, MessageSender};
pub use quic::data::{DataReceiver, DataSender};
pub use quic::endpoint::{Endpoint, Refused};
pub use quic::link::{Link, LinkHandle, LinkStats};
pub use quic::socket::SocketBuffers;
pub use signature::{PublicKey, SIGNATURE_ALGORITHM, SignatureFault};
