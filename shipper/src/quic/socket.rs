//! The UDP socket, with buffers that outlast a thread that is busy for some milliseconds.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::LinkConfig;

/// What the system granted of the socket buffers that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketBuffers {
    /// Bytes of arriving packets that the system keeps.
    pub receive_bytes: u64,
    /// Bytes of departing packets that the system keeps.
    pub send_bytes: u64,
}

pub(super) fn bind(
    address: SocketAddr,
    config: &LinkConfig,
) -> io::Result<(UdpSocket, SocketBuffers)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        // One socket for both families, where the system can.
        let _ = socket.set_only_v6(false);
    }
    let receive_wanted = config.socket_receive_buffer_bytes;
    let send_wanted = config.socket_send_buffer_bytes;
    socket.set_recv_buffer_size(size(receive_wanted))?;
    socket.set_send_buffer_size(size(send_wanted))?;
    // Linux doubles what it is asked for, to have room for its own records, and says the double.
    let granted = SocketBuffers {
        receive_bytes: socket.recv_buffer_size()? as u64 / 2,
        send_bytes: socket.send_buffer_size()? as u64 / 2,
    };
    warn_if_capped("receive", "rmem", receive_wanted, granted.receive_bytes);
    warn_if_capped("send", "wmem", send_wanted, granted.send_bytes);
    socket.bind(&address.into())?;
    Ok((socket.into(), granted))
}

fn warn_if_capped(which: &str, limit: &str, wanted_bytes: u64, granted_bytes: u64) {
    if granted_bytes < wanted_bytes {
        tracing::warn!(
            wanted_bytes,
            granted_bytes,
            "the system grants a smaller UDP {which} buffer than the link is set to, so a busy moment \
             loses packets: set net.core.{limit}_max to {wanted_bytes}"
        );
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
