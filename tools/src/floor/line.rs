//! What a hop through the relay costs: the round trip of small datagrams and the rate of large
//! ones.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use crate::relay::socket::{Burst, Inbox, Socket};
use crate::relay::{self, RelayHandle, Settings};
use crate::summary::{LatencySummary, latencies, record};

/// The same on loopback, without and with a plain relay in between.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RelayFloor {
    /// There and back without it, 64 bytes.
    pub ping_direct: LatencySummary,
    /// There and back through it.
    pub ping_relayed: LatencySummary,
    /// Datagrams that were sent one by one, through it.
    pub single: BulkFloor,
    /// Datagrams that were sent ten at a time with segmentation offload, as QUIC does, through it.
    pub bursts: BulkFloor,
    /// The latter without it.
    pub bursts_direct: BulkFloor,
}

/// Large datagrams, one way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BulkFloor {
    /// The size of each.
    pub datagram_bytes: usize,
    /// How many arrived a second.
    pub datagrams_per_s: f64,
    /// Their payload.
    pub bytes_per_s: f64,
    /// How many never arrived.
    pub lost: u64,
}

const PING_BYTES: usize = 64;
const DATAGRAM_BYTES: usize = 1400;
const BURST: usize = 10;
/// So few that no socket's buffer overflows.
const IN_FLIGHT_MAX: u64 = 100;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn measure(row_time: Duration) -> anyhow::Result<RelayFloor> {
    measure_each(row_time).context("cannot measure UDP on loopback")
}

fn measure_each(row_time: Duration) -> anyhow::Result<RelayFloor> {
    Ok(RelayFloor {
        ping_direct: ping(row_time, Hop::None)?,
        ping_relayed: ping(row_time, Hop::Relay)?,
        single: bulk(row_time, 1, Hop::Relay)?,
        bursts: bulk(row_time, BURST, Hop::Relay)?,
        bursts_direct: bulk(row_time, BURST, Hop::None)?,
    })
}

/// What is between the two sockets.
#[derive(Debug, Clone, Copy)]
enum Hop {
    None,
    Relay,
}

impl Hop {
    /// Where to send so that it reaches `to`, as long as the handle lives.
    fn towards(self, to: SocketAddr) -> anyhow::Result<(SocketAddr, Option<RelayHandle>)> {
        Ok(match self {
            Self::None => (to, None),
            Self::Relay => {
                let relay = relay::spawn(Settings::plain(to))?;
                (relay.address(), Some(relay))
            }
        })
    }
}

fn ping(row_time: Duration, hop: Hop) -> anyhow::Result<LatencySummary> {
    let (client, echo) = (loopback()?, loopback()?);
    let end = echo.local_addr()?;
    let (to, _relay) = hop.towards(end)?;
    thread::scope(|scope| {
        let echoing = scope.spawn(|| echo_until_empty(&echo));
        let measured = ping_for(row_time, &client, to);
        client.send_to(&[], end)?;
        echoing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(measured?)
    })
}

fn ping_for(row_time: Duration, client: &UdpSocket, to: SocketAddr) -> io::Result<LatencySummary> {
    let mut histogram = latencies();
    let mut buffer = [0; PING_BYTES];
    let began = Instant::now();
    let mut last = began;
    while last - began < row_time {
        client.send_to(&buffer, to)?;
        client.recv(&mut buffer)?;
        let now = Instant::now();
        record(&mut histogram, now - last);
        last = now;
    }
    Ok(LatencySummary::of(&histogram))
}

fn echo_until_empty(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; PING_BYTES];
    loop {
        let (bytes, from) = socket.recv_from(&mut buffer)?;
        match buffer.get(..bytes) {
            Some(answer @ [_, ..]) => socket.send_to(answer, from)?,
            _ => return Ok(()),
        };
    }
}

fn loopback() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// Sends as fast as it receives; one thread does both, so that the relay has a core of its own.
fn bulk(row_time: Duration, at_once: usize, hop: Hop) -> anyhow::Result<BulkFloor> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let (sender, receiver) = (Socket::bind(loopback)?, Socket::bind(loopback)?);
    let (to, _relay) = hop.towards(receiver.local_addr()?)?;
    let mut burst = Burst::default();
    (0..at_once).for_each(|_| burst.push(None, &[0; DATAGRAM_BYTES]));
    let mut inbox = Inbox::new();
    let (mut in_flight, mut arrived, mut lost) = (0_u64, 0_u64, 0_u64);
    let began = Instant::now();
    while began.elapsed() < row_time {
        while in_flight + at_once as u64 <= IN_FLIGHT_MAX {
            let (taken, _) = sender.send(to, &burst);
            anyhow::ensure!(
                taken == at_once,
                "loopback refuses to send {at_once} datagrams"
            );
            in_flight += taken as u64;
        }
        wait_readable(&receiver)?;
        let mut new = 0_u64;
        inbox.receive(&receiver, |_, _, _| new += 1)?;
        if new == 0 {
            lost += in_flight;
            in_flight = 0;
        }
        arrived += new;
        in_flight = in_flight.saturating_sub(new);
    }
    let datagrams_per_s = arrived as f64 / began.elapsed().as_secs_f64();
    Ok(BulkFloor {
        datagram_bytes: DATAGRAM_BYTES,
        datagrams_per_s,
        bytes_per_s: datagrams_per_s * DATAGRAM_BYTES as f64,
        lost,
    })
}

/// Waits until something arrives, or so long that what is in flight must be lost.
fn wait_readable(socket: &Socket) -> io::Result<()> {
    let timeout = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
