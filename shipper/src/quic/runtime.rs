//! What quinn runs on: its tasks are supervised like all others of the network, and its socket
//! sends no more at once than UDP has room for.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::net::NetHandle;

/// The longest payload of UDP in bytes, and so of several packets that are handed over together.
const UDP_PAYLOAD_BYTES_MAX: usize = 65_507;

#[derive(Debug)]
pub(super) struct SupervisedRuntime {
    pub(super) net: NetHandle,
    /// The largest packet that may be sent, in bytes.
    pub(super) mtu_bytes: u16,
}

impl Runtime for SupervisedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.net.spawn("quic", future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket {
            inner: TokioRuntime.wrap_udp_socket(socket)?,
            segments_max: UDP_PAYLOAD_BYTES_MAX / usize::from(self.mtu_bytes.max(1)),
        }))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A socket that takes together no more packets of the largest size than fit in one payload.
///
/// quinn hands over up to ten. Of ten packets for a line with jumbo frames the system takes none at
/// all, quinn believes them lost, and goes back to the smallest packets for good.
#[derive(Debug)]
struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments_max: usize,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner
            .max_transmit_segments()
            .min(self.segments_max)
            .max(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
