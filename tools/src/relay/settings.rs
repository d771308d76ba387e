//! What a relay is told: where to listen and send, and how each direction behaves.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::units::{Rate, Share};

/// How a relay begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where clients send to; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where their datagrams go.
    pub to: SocketAddr,
    /// What the fates are drawn from.
    pub seed: u64,
    /// How each direction behaves at first.
    pub lines: Lines,
}

impl Settings {
    /// A relay to `to` that listens on a free loopback port and passes everything on at once.
    pub fn plain(to: SocketAddr) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen,
            to,
            seed: 0,
            lines: Lines::default(),
        }
    }
}

/// The behaviour of both directions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// From the clients to the destination.
    pub up: LineSettings,
    /// From the destination to the clients.
    pub down: LineSettings,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up {} | down {}", self.up, self.down)
    }
}

/// The behaviour of one direction. The default passes everything on at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineSettings {
    /// How long every datagram is under way.
    #[serde(rename = "delay_us", serialize_with = "microseconds")]
    pub delay: Duration,
    /// The delay varies by up to this much, either way; by itself that reorders nothing.
    #[serde(rename = "jitter_us", serialize_with = "microseconds")]
    pub jitter: Duration,
    /// How many datagrams vanish.
    #[serde(rename = "loss_percent")]
    pub loss: Share,
    /// How many datagrams arrive twice.
    #[serde(rename = "duplicate_percent")]
    pub duplicate: Share,
    /// How many datagrams are held back, so that later ones overtake them.
    #[serde(rename = "reorder_percent")]
    pub reorder: Share,
    /// For how long those are held back.
    #[serde(rename = "reorder_by_us", serialize_with = "microseconds")]
    pub reorder_by: Duration,
    /// How fast the line carries UDP payload; `None` is without limit.
    #[serde(rename = "rate_bits_per_s")]
    pub rate: Option<Rate>,
    /// How many bytes may wait for a line with a rate before further ones are dropped; `None`
    /// stands for what the line carries in 50 ms.
    #[serde(rename = "queue_bytes")]
    pub queue: Option<u64>,
    /// Whether nothing passes at all.
    pub cut: bool,
}

const REORDER_BY: Duration = Duration::from_millis(1);
const QUEUE_MS: u64 = 50;

impl Default for LineSettings {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Share::NONE,
            duplicate: Share::NONE,
            reorder: Share::NONE,
            reorder_by: REORDER_BY,
            rate: None,
            queue: None,
            cut: false,
        }
    }
}

impl LineSettings {
    /// How many bytes may wait for a line of this rate.
    pub(super) fn queue_bytes(&self, rate: Rate) -> u64 {
        self.queue.unwrap_or_else(|| rate.bytes_in_ms(QUEUE_MS))
    }
}

impl fmt::Display for LineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        write!(f, "delay {} loss {}", time(self.delay), self.loss)?;
        if !self.jitter.is_zero() {
            write!(f, " jitter {}", time(self.jitter))?;
        }
        if self.duplicate != Share::NONE {
            write!(f, " duplicate {}", self.duplicate)?;
        }
        if self.reorder != Share::NONE {
            write!(f, " reorder {} by {}", self.reorder, time(self.reorder_by))?;
        }
        if let Some(rate) = self.rate {
            write!(
                f,
                " rate {rate} queue {}",
                bytesize::ByteSize(self.queue_bytes(rate))
            )?;
        }
        if self.cut {
            f.write_str(" CUT")?;
        }
        Ok(())
    }
}

fn microseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(time.as_micros())
}
