//! What links themselves cost on this machine, beside which everything built on them is judged.
//!
//! Each measurement starts two endpoints with new keys on loopback, each on a thread of its own, as
//! two nodes would have them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outlast_engine::format::NodeId;

use crate::config::LinkConfig;
use crate::error::{CloseCode, LinkError};
use crate::identity::Identity;
use crate::message::Message;
use crate::net::NetThread;
use crate::peers::{Peer, Peers};
use crate::quic::endpoint::Endpoint;
use crate::quic::link::{Link, LinkStats};
use crate::quic::transport::unusable;

/// Length of the pieces in which bulk data is handed over, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Kind of the messages that go back and forth.
const KIND: u16 = 1;

/// Bulk data that went over a link.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Bulk {
    /// Bytes that were counted; the first eighth of what was sent is not.
    pub bytes: u64,
    /// How long they took to arrive.
    pub elapsed: Duration,
    /// How the link did, at the sending end.
    pub stats: LinkStats,
}

impl Bulk {
    /// Megabytes (of 10⁶ bytes) a second.
    #[must_use]
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-9) / 1e6
    }
}

/// Round trips of messages of `message_bytes`, one after the other, in the order in which they were
/// measured. A tenth as many go before them, uncounted.
///
/// # Errors
/// When the two endpoints cannot be made, or their link fails.
pub fn ping(
    config: &LinkConfig,
    message_bytes: usize,
    count: usize,
) -> Result<Vec<Duration>, LinkError> {
    let pair = Pair::start(config)?;
    pair.right.spawn("echo", echo(pair.right_link));
    let link = pair.left_link;
    let measured = pair.left.run(measure_pings(link, message_bytes, count));
    measured.unwrap_or_else(|| Err(gone()))
}

/// How fast `total_bytes` of data arrive.
///
/// # Errors
/// When the two endpoints cannot be made, or their link fails.
pub fn bulk(config: &LinkConfig, total_bytes: u64) -> Result<Bulk, LinkError> {
    let pair = Pair::start(config)?;
    let mut left = pair.left_link;
    let handle = left.handle.clone();
    pair.left.spawn("send", async move {
        let _ = send_pieces(&mut left, total_bytes).await;
        left.handle.closed().await;
    });
    let mut right = pair.right_link;
    let received = pair.right.run(async move {
        let uncounted = total_bytes / 8;
        let mut seen = 0;
        let mut start = (Instant::now(), 0);
        while seen < total_bytes {
            let before = seen;
            seen += right.data_in.next().await?.len() as u64;
            if before < uncounted && seen >= uncounted {
                start = (Instant::now(), seen);
            }
        }
        let taken = (seen - start.1, start.0.elapsed());
        right.handle.close(CloseCode::DONE, "measured");
        Ok(taken)
    });
    let (bytes, elapsed) = received.unwrap_or_else(|| Err(gone()))?;
    Ok(Bulk {
        bytes,
        elapsed,
        stats: handle.stats(),
    })
}

/// Round trips as [`ping`] has them, while the link carries as much data as it can in one
/// direction.
///
/// # Errors
/// When the two endpoints cannot be made, or their link fails.
pub fn ping_under_bulk(
    config: &LinkConfig,
    message_bytes: usize,
    count: usize,
) -> Result<Vec<Duration>, LinkError> {
    let pair = Pair::start(config)?;
    let Link {
        handle: right_handle,
        messages_out,
        messages_in,
        data_in,
        ..
    } = pair.right_link;
    let mut data_in = data_in;
    pair.right
        .spawn("read", async move { while data_in.next().await.is_ok() {} });
    pair.right.spawn("echo", async move {
        let _handle = right_handle;
        echo_messages(messages_out, messages_in).await;
    });
    let Link {
        handle,
        messages_out,
        messages_in,
        mut data_out,
        ..
    } = pair.left_link;
    pair.left.spawn("send", async move {
        let piece = Bytes::from(vec![7; PIECE_BYTES]);
        while data_out.send([piece.clone()]).await.is_ok() {}
    });
    let measured = pair.left.run(async move {
        let times = measure(messages_out, messages_in, message_bytes, count).await;
        handle.close(CloseCode::DONE, "measured");
        times
    });
    measured.unwrap_or_else(|| Err(gone()))
}

async fn measure_pings(
    link: Link,
    message_bytes: usize,
    count: usize,
) -> Result<Vec<Duration>, LinkError> {
    let times = measure(link.messages_out, link.messages_in, message_bytes, count).await;
    link.handle.close(CloseCode::DONE, "measured");
    times
}

async fn measure(
    mut out: crate::MessageSender,
    mut into: crate::MessageReader,
    message_bytes: usize,
    count: usize,
) -> Result<Vec<Duration>, LinkError> {
    let message = Message {
        kind: KIND,
        body: Bytes::from(vec![7; message_bytes]),
    };
    let uncounted = count / 10;
    let mut times = Vec::with_capacity(count);
    for i in 0..uncounted + count {
        let start = Instant::now();
        out.send(&message).await?;
        let answer = into.next().await?;
        let time = start.elapsed();
        assert!(
            answer.as_ref() == Some(&message),
            "another answer came back"
        );
        if i >= uncounted {
            times.push(time);
        }
    }
    Ok(times)
}

async fn echo(link: Link) {
    echo_messages(link.messages_out, link.messages_in).await;
}

async fn echo_messages(mut out: crate::MessageSender, mut into: crate::MessageReader) {
    while let Ok(Some(message)) = into.next().await {
        if out.send(&message).await.is_err() {
            return;
        }
    }
}

async fn send_pieces(link: &mut Link, total_bytes: u64) -> Result<(), LinkError> {
    let piece = Bytes::from(vec![7; PIECE_BYTES]);
    let mut left = total_bytes;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        link.data_out.send([piece.slice(..len)]).await?;
        left -= len as u64;
    }
    Ok(())
}

/// A thread with its endpoint.
struct Side {
    net: NetThread,
    _endpoint: Arc<Endpoint>,
}

impl Side {
    fn start(
        name: &str,
        identity: Identity,
        peer: Peer,
        config: &LinkConfig,
    ) -> Result<(Self, SocketAddr), LinkError> {
        let net = NetThread::start(name, |_| {}).map_err(unusable)?;
        let mut peers = Peers::default();
        peers.add(peer).map_err(unusable)?;
        let (handle, config) = (net.handle(), config.clone());
        let endpoint = net.handle().wait("endpoint", async move {
            let address = (Ipv4Addr::LOCALHOST, 0).into();
            Endpoint::start(&handle, address, identity, peers, config).await
        });
        let endpoint = endpoint.unwrap_or_else(|| Err(gone()))?;
        let address = endpoint.local_address()?;
        let _endpoint = Arc::new(endpoint);
        Ok((Self { net, _endpoint }, address))
    }

    fn spawn(&self, task: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.net.handle().spawn(task, future);
    }

    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.net.handle().wait("measure", future)
    }
}

struct Pair {
    left: Side,
    left_link: Link,
    right: Side,
    right_link: Link,
}

impl Pair {
    fn start(config: &LinkConfig) -> Result<Self, LinkError> {
        let keys = [Identity::ephemeral(), Identity::ephemeral()];
        let [left_key, right_key] = keys.map(|key| key.map_err(unusable));
        let (left_key, right_key) = (left_key?, right_key?);
        let nodes = [NodeId::random(), NodeId::random()];
        let [left_peer, right_peer] = [
            ("left", nodes[0], &left_key),
            ("right", nodes[1], &right_key),
        ]
        .map(|(name, node, key)| Peer {
            name: name.to_owned(),
            node,
            pin: key.pin(),
            address: None,
        });
        let (right, address) = Side::start("net-right", right_key, left_peer, config)?;
        let (left, _) = Side::start("net-left", left_key, right_peer, config)?;

        let dialling = left._endpoint.clone();
        let dialled = left.run(async move { dialling.dial(address, nodes[1]).await });
        let left_link = dialled.unwrap_or_else(|| Err(gone()))?;
        let accepting = right._endpoint.clone();
        let accepted = right.run(async move { accepting.accept().await });
        let right_link = match accepted.flatten() {
            Some(Ok(link)) => link,
            Some(Err(refused)) => return Err(refused.error),
            None => return Err(gone()),
        };
        Ok(Self {
            left,
            left_link,
            right,
            right_link,
        })
    }
}

fn gone() -> LinkError {
    unusable("the network's thread has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_rates_are_measured() {
        let config = LinkConfig::default();
        let pings = ping(&config, 64, 50).unwrap();
        assert_eq!(pings.len(), 50);
        assert!(pings.iter().all(|ping| *ping > Duration::ZERO));
        let bulk = bulk(&config, 8 << 20).unwrap();
        assert!((6 << 20..=7 << 20).contains(&bulk.bytes), "{bulk:?}");
        assert!(bulk.megabytes_per_second() > 0.1, "{bulk:?}");
        assert_eq!(ping_under_bulk(&config, 64, 50).unwrap().len(), 50);
    }
}
