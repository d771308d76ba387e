//! A UDP socket that reads and writes in batches.
//!
//! On loopback a sender's segmentation offload reaches the receiver unsplit. Reading with the
//! receiving offload gives such a burst as one buffer, which is taken apart here, since each
//! datagram has a fate of its own; survivors of equal size leave joined again.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt;

#[derive(Debug)]
pub(crate) struct Socket {
    io: UdpSocket,
    offload: UdpSocketState,
}

/// As large as a burst with offload can be.
const BUFFER_BYTES: usize = 1 << 16;
/// The most that one call may carry over IPv6, IPv4 allows a little more.
pub(crate) const BURST_MAX_BYTES: usize = 65_487;
/// Asked for, so that bursts are not dropped before their fate was drawn.
const KERNEL_BUFFER_BYTES: usize = 8 << 20;

impl Socket {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let io = UdpSocket::bind(address)?;
        let offload = UdpSocketState::new((&io).into())?;
        // With the privilege beyond the system's limit, otherwise as far as that goes.
        if sockopt::set_socket_recv_buffer_size_force(&io, KERNEL_BUFFER_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&io, KERNEL_BUFFER_BYTES)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&io, KERNEL_BUFFER_BYTES).is_err() {
            sockopt::set_socket_send_buffer_size(&io, KERNEL_BUFFER_BYTES)?;
        }
        Ok(Self { io, offload })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// How many datagrams of equal size one call may send.
    pub(crate) fn max_burst(&self) -> usize {
        self.offload.max_gso_segments()
    }

    /// Sends `burst`; returns how many of its datagrams the system took, and their bytes.
    pub(crate) fn send(&self, to: SocketAddr, burst: &Burst) -> (usize, usize) {
        let transmit = |contents, segment_size| {
            let ecn = burst.ecn;
            let transmit = Transmit {
                destination: to,
                ecn,
                contents,
                segment_size,
                src_ip: None,
            };
            self.offload.try_send((&self.io).into(), &transmit)
        };
        let segment_size = (burst.datagrams > 1).then_some(burst.segment_bytes);
        match transmit(&burst.bytes, segment_size) {
            Ok(()) => (burst.datagrams, burst.bytes.len()),
            Err(error) if burst.datagrams == 1 || error.kind() == io::ErrorKind::WouldBlock => {
                (0, 0)
            }
            // The interface may not know the offload; the datagrams are good one by one.
            Err(_) => {
                let singly = burst.bytes.chunks(burst.segment_bytes.max(1));
                let taken = singly.filter(|datagram| transmit(datagram, None).is_ok());
                taken.fold((0, 0), |sum, datagram| (sum.0 + 1, sum.1 + datagram.len()))
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// Memory for one batch of reads.
pub(crate) struct Inbox {
    memory: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; BATCH_SIZE * BUFFER_BYTES],
        }
    }

    /// Reads what has arrived, at most one batch, and passes on each datagram and its sender.
    pub(crate) fn receive(
        &mut self,
        socket: &Socket,
        mut each: impl FnMut(SocketAddr, Option<EcnCodepoint>, Bytes),
    ) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut memory = self.memory.chunks_exact_mut(BUFFER_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(memory.next().unwrap_or_default()));
        let received = match socket
            .offload
            .recv((&socket.io).into(), &mut buffers, &mut metas)
        {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        for (meta, buffer) in metas.iter().zip(&buffers).take(received) {
            let burst = Bytes::copy_from_slice(buffer.get(..meta.len).unwrap_or_default());
            let mut from = 0;
            loop {
                let end = (from + meta.stride).min(burst.len());
                each(meta.addr, meta.ecn, burst.slice(from..end));
                from = end;
                if from == burst.len() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Datagrams to one peer that one call can send: of equal size, but for a shorter last one.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    bytes: Vec<u8>,
    datagrams: usize,
    segment_bytes: usize,
    ecn: Option<EcnCodepoint>,
    ended: bool,
}

impl Burst {
    /// Whether it can go with the others; an empty burst takes anything.
    pub(crate) fn takes(&self, ecn: Option<EcnCodepoint>, bytes: usize, max: usize) -> bool {
        self.datagrams == 0
            || !self.ended
                && self.ecn == ecn
                && self.datagrams < max
                && (1..=self.segment_bytes).contains(&bytes)
                && self.bytes.len() + bytes <= BURST_MAX_BYTES
    }

    pub(crate) fn push(&mut self, ecn: Option<EcnCodepoint>, datagram: &[u8]) {
        if self.datagrams == 0 {
            self.segment_bytes = datagram.len();
            self.ecn = ecn;
        }
        self.ended = datagram.len() < self.segment_bytes;
        self.bytes.extend_from_slice(datagram);
        self.datagrams += 1;
    }

    pub(crate) fn datagrams(&self) -> usize {
        self.datagrams
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams = 0;
        self.ended = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_of_one_size_and_ends_with_a_shorter_one() {
        let mut burst = Burst::default();
        assert!(burst.takes(None, 0, 64), "an empty datagram goes alone");
        burst.push(None, &[1; 100]);
        assert!(!burst.takes(None, 101, 64) && !burst.takes(None, 0, 64));
        assert!(!burst.takes(Some(EcnCodepoint::Ce), 100, 64));
        assert!(burst.takes(None, 100, 2) && !burst.takes(None, 100, 1));
        burst.push(None, &[2; 40]);
        assert!(!burst.takes(None, 40, 64), "the shorter one was the last");
        assert_eq!((burst.datagrams(), burst.bytes.len()), (2, 140));
        burst.clear();
        burst.push(None, &[0; 40_000]);
        assert!(!burst.takes(None, 40_000, 64), "too large for one call");
    }
}
