//! One authenticated connection to a peer.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use quinn::{Connection, ConnectionError, VarInt};

use super::control::{MessageReader, MessageSender};
use super::data::{DataReceiver, DataSender};
use super::failure;
use super::shield::Shield;
use crate::config::LinkConfig;
use crate::error::{CloseCode, LinkError};
use crate::peers::Peer;

/// A link: messages and data, in both directions, with a peer that proved who it is.
///
/// Messages overtake data and never wait for it, whether or not the other side reads its data. The
/// parts can go to tasks of their own. The link ends when one is told to close it, when all parts
/// are dropped, or when the line is lost.
#[derive(Debug)]
#[non_exhaustive]
pub struct Link {
    /// Who it is with, how it does, and by what it is closed.
    pub handle: LinkHandle,
    /// Messages to the peer.
    pub messages_out: MessageSender,
    /// Messages from the peer.
    pub messages_in: MessageReader,
    /// Data to the peer.
    pub data_out: DataSender,
    /// Data from the peer.
    pub data_in: DataReceiver,
}

impl Link {
    pub(super) fn new(
        shared: Arc<Shared>,
        messages_out: MessageSender,
        messages_in: MessageReader,
        config: &LinkConfig,
    ) -> Self {
        Self {
            data_out: DataSender::new(shared.clone(), config),
            data_in: DataReceiver::new(shared.clone()),
            handle: LinkHandle(shared),
            messages_out,
            messages_in,
        }
    }
}

/// Who a link is with, how it does, and by what it is closed.
#[derive(Clone, Debug)]
pub struct LinkHandle(Arc<Shared>);

impl LinkHandle {
    /// The peer, as the list of trusted peers had it when the link was made.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// The peer's address on this link.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Closes the link at once. What was not yet acknowledged may or may not arrive: a side that
    /// wants its last words heard ends its messages and waits for the other side to close. The
    /// first to close gives the reason; closing again changes nothing.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.0.close(code, reason);
    }

    /// Waits until the link has ended, and says why. May be dropped at any time.
    pub async fn closed(&self) -> LinkError {
        let error = self.0.connection.closed().await;
        self.0.failure(error)
    }

    /// How the link does. All zeros if a panic has destroyed it.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let stats = self.0.touch(Connection::stats).unwrap_or_default();
        LinkStats {
            rtt: stats.path.rtt,
            min_rtt: stats.path.min_rtt,
            congestion_window_bytes: stats.path.cwnd,
            congestion_events: stats.path.congestion_events,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            lost_bytes: stats.path.lost_bytes,
            mtu_bytes: stats.path.current_mtu,
            black_holes: stats.path.black_holes_detected,
            sent_datagrams: stats.udp_tx.datagrams,
            sent_bytes: stats.udp_tx.bytes,
            send_calls: stats.udp_tx.ios,
            received_datagrams: stats.udp_rx.datagrams,
            received_bytes: stats.udp_rx.bytes,
        }
    }
}

/// How a link does, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Round trip, as estimated now.
    pub rtt: Duration,
    /// The shortest round trip seen.
    pub min_rtt: Duration,
    /// What may be in flight, in bytes.
    pub congestion_window_bytes: u64,
    /// How often the sender had to slow down.
    pub congestion_events: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets lost.
    pub lost_packets: u64,
    /// Bytes in lost packets.
    pub lost_bytes: u64,
    /// Largest UDP payload in use, in bytes.
    pub mtu_bytes: u16,
    /// How often the line ceased to take packets of that size.
    pub black_holes: u64,
    /// UDP datagrams sent.
    pub sent_datagrams: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// System calls that sent them; fewer than datagrams where the system takes several at once.
    pub send_calls: u64,
    /// UDP datagrams received.
    pub received_datagrams: u64,
    /// Bytes in them.
    pub received_bytes: u64,
}

/// What all parts of a link have in common. The connection ends with the last of them.
pub(super) struct Shared {
    pub(super) connection: Shield<Connection>,
    pub(super) peer: Peer,
    address: SocketAddr,
    idle_timeout_ms: u64,
    closed_here: OnceLock<(CloseCode, String)>,
}

impl Shared {
    pub(super) fn new(connection: Connection, peer: Peer, config: &LinkConfig) -> Self {
        Self {
            address: connection.remote_address(),
            connection: Shield::new(connection),
            peer,
            idle_timeout_ms: config.idle_timeout_ms,
            closed_here: OnceLock::new(),
        }
    }

    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        if self.closed_here.set((code, reason.to_owned())).is_ok() {
            self.touch(|connection| connection.close(VarInt::from_u32(code.0), reason.as_bytes()));
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        let reason = self.touch(Connection::close_reason);
        reason.is_none_or(|reason| reason.is_some())
    }

    /// Does something to the connection that must not panic even if the connection's own task did.
    fn touch<T>(&self, what: impl FnOnce(&Connection) -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(|| what(&self.connection))).ok()
    }

    pub(super) fn failure(&self, error: ConnectionError) -> LinkError {
        match (&error, self.closed_here.get()) {
            (ConnectionError::LocallyClosed, Some((code, reason))) => LinkError::ClosedHere {
                code: *code,
                reason: reason.clone(),
            },
            _ => failure::of_connection(error, self.idle_timeout_ms),
        }
    }

    /// Turns what a stream said into the link's error.
    pub(super) fn stream_failure(&self, told: Result<LinkError, ConnectionError>) -> LinkError {
        told.unwrap_or_else(|error| self.failure(error))
    }

    /// Closes the link because of what the peer sent, and says so to both sides.
    pub(super) fn fail(&self, error: LinkError) -> LinkError {
        let code = match error {
            LinkError::Version { .. } => CloseCode::VERSION,
            LinkError::BadData(_) => CloseCode::BAD_DATA,
            _ => CloseCode::BAD_MESSAGE,
        };
        self.close(code, &error.to_string());
        error
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.close(CloseCode::ABANDONED, "the link was let go");
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
