//! What can be set about links, with units in the names, and what is right for two near buildings.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of data that one stream carries, at most. Data of any length is cut into such streams.
///
/// A stream is thus never longer than the window of a stream: a reader that lags cannot make the
/// transport keep so many pieces of one stream that it gives the connection up.
pub const DATA_STREAM_BYTES: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

/// How a node's links behave. Both ends should have the same, but need not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// Data that may be under way: handed over, and not yet acknowledged by the peer's transport.
    /// It bounds the sender's memory and, on a busy line, how old data is when it arrives: at least
    /// bandwidth times round trip, not much more. Bytes, rounded down to whole MiB. 4 MiB.
    pub send_window_bytes: u64,
    /// Data that may wait unread at the receiver; bounds its memory. Bytes, rounded down to whole
    /// MiB. 8 MiB.
    pub receive_window_bytes: u64,
    /// A link on which nothing arrived for so long is lost. Milliseconds. 3000.
    pub idle_timeout_ms: u64,
    /// After so long without sending, a sign of life is sent. Milliseconds, at most half the idle
    /// timeout. 1000.
    pub keep_alive_ms: u64,
    /// From the first packet to a link that both sides have authenticated. Milliseconds. 5000.
    pub handshake_timeout_ms: u64,
    /// The round trip that is assumed until one was measured. Milliseconds. 50.
    pub initial_rtt_ms: u64,
    /// Size of the first UDP payloads, before a larger one was tried. Bytes. 1200.
    pub initial_mtu_bytes: u16,
    /// The largest UDP payload that is tried. Larger is faster where the line takes jumbo frames
    /// (8952 for 9000), and must then be set at both ends. Bytes. 1452.
    pub mtu_upper_bound_bytes: u16,
    /// How the sender finds the rate that the line bears. `cubic`.
    pub congestion: Congestion,
    /// What may be sent in the first round trip. A link that carries little never learns that more
    /// would do, so this is also what one large commit can send at once. Bytes. 128 KiB.
    pub initial_window_bytes: u64,
    /// Hands several packets to the system at once. Without it links are three times slower; some
    /// virtual network cards cannot do it. true.
    pub segmentation_offload: bool,
    /// Asks the peer to acknowledge only every so many packets (and within 5 ms). 0 leaves it to
    /// the peer, which acknowledges every other one. Packets. 0.
    pub ack_every_packets: u32,
    /// What the system may keep of arriving packets. It may grant less, which is logged. Bytes. 4
    /// MiB.
    pub socket_receive_buffer_bytes: u64,
    /// What the system may keep of departing packets. It may grant less, which is logged. Bytes. 4
    /// MiB.
    pub socket_send_buffer_bytes: u64,
    /// Connections that may be in their handshake at a time; more are refused. 16.
    pub handshakes_max: u32,
    /// What is kept of one connection that is not yet looked at. Bytes. 64 KiB.
    pub incoming_bytes_max: u64,
    /// What is kept of all connections that are not yet looked at. Bytes. 1 MiB.
    pub incoming_total_bytes_max: u64,
    /// Links that one peer may have here at a time; a further one ends the oldest. 2, so that a
    /// peer that lost a link can come back before this side has noticed.
    pub links_per_peer_max: u32,
    /// Addresses from which connections are taken at all. Empty: any.
    pub allowed_sources: Vec<IpAddr>,
}

/// How the sender finds the rate that the line bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Congestion {
    /// Backs off at loss and probes fast. Right for lines that lose next to nothing.
    Cubic,
    /// Backs off at loss and probes slowly.
    NewReno,
    /// Goes by bandwidth and delay. For long lossy lines only: it floods lines that are slow.
    BbrExperimental,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            send_window_bytes: 4 * MIB,
            receive_window_bytes: 8 * MIB,
            idle_timeout_ms: 3_000,
            keep_alive_ms: 1_000,
            handshake_timeout_ms: 5_000,
            initial_rtt_ms: 50,
            initial_mtu_bytes: 1200,
            mtu_upper_bound_bytes: 1452,
            congestion: Congestion::Cubic,
            initial_window_bytes: 128 << 10,
            segmentation_offload: true,
            ack_every_packets: 0,
            socket_receive_buffer_bytes: 4 * MIB,
            socket_send_buffer_bytes: 4 * MIB,
            handshakes_max: 16,
            incoming_bytes_max: 64 << 10,
            incoming_total_bytes_max: MIB,
            links_per_peer_max: 2,
            allowed_sources: Vec::new(),
        }
    }
}

/// A setting that is out of its limits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{key} = {value} is out of its limits: choose from {min} to {max}")]
pub struct ConfigFault {
    /// Which setting.
    pub key: &'static str,
    /// What it was set to.
    pub value: u64,
    /// The least that is allowed.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
}

impl LinkConfig {
    /// Checks every setting against its limits.
    ///
    /// # Errors
    /// Names the first one that is out of them.
    pub fn validate(&self) -> Result<(), ConfigFault> {
        let mtu_max = u64::from(self.mtu_upper_bound_bytes);
        let half_idle = (self.idle_timeout_ms / 2).max(1);
        for (key, value, min, max) in [
            // With one stream alone the sender would wait for its last acknowledgement each time.
            (
                "send_window_bytes",
                self.send_window_bytes,
                2 * MIB,
                1024 * MIB,
            ),
            (
                "receive_window_bytes",
                self.receive_window_bytes,
                2 * MIB,
                1024 * MIB,
            ),
            ("idle_timeout_ms", self.idle_timeout_ms, 100, 600_000),
            ("keep_alive_ms", self.keep_alive_ms, 10, half_idle),
            (
                "handshake_timeout_ms",
                self.handshake_timeout_ms,
                100,
                60_000,
            ),
            ("initial_rtt_ms", self.initial_rtt_ms, 1, 10_000),
            ("mtu_upper_bound_bytes", mtu_max, 1200, 65_527),
            (
                "initial_mtu_bytes",
                self.initial_mtu_bytes.into(),
                1200,
                mtu_max,
            ),
            (
                "initial_window_bytes",
                self.initial_window_bytes,
                4 << 10,
                16 * MIB,
            ),
            ("ack_every_packets", self.ack_every_packets.into(), 0, 100),
            (
                "socket_receive_buffer_bytes",
                self.socket_receive_buffer_bytes,
                64 << 10,
                1024 * MIB,
            ),
            (
                "socket_send_buffer_bytes",
                self.socket_send_buffer_bytes,
                64 << 10,
                1024 * MIB,
            ),
            ("handshakes_max", self.handshakes_max.into(), 1, 1024),
            (
                "incoming_bytes_max",
                self.incoming_bytes_max,
                16 << 10,
                16 * MIB,
            ),
            (
                "incoming_total_bytes_max",
                self.incoming_total_bytes_max,
                self.incoming_bytes_max,
                256 * MIB,
            ),
            ("links_per_peer_max", self.links_per_peer_max.into(), 1, 16),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigFault {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// Streams of data that may be under way, unacknowledged.
    pub(crate) const fn data_streams_sent_max(&self) -> u64 {
        self.send_window_bytes / DATA_STREAM_BYTES
    }

    /// Streams of data that may wait unread.
    pub(crate) const fn data_streams_received_max(&self) -> u64 {
        self.receive_window_bytes / DATA_STREAM_BYTES
    }

    pub(crate) const fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_survives_its_file() {
        let config = LinkConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<LinkConfig>(&text).unwrap(), config);
        assert_eq!(toml::from_str::<LinkConfig>("").unwrap(), config);
        assert!(toml::from_str::<LinkConfig>("idle_timeout = 3").is_err());
        let bbr = toml::from_str::<LinkConfig>("congestion = \"bbr-experimental\"").unwrap();
        assert_eq!(bbr.congestion, Congestion::BbrExperimental);
    }

    #[test]
    fn a_setting_out_of_its_limits_is_named() {
        let faulty = |text: &str| {
            let config: LinkConfig = toml::from_str(text).unwrap();
            config.validate().unwrap_err()
        };
        for (text, key) in [
            ("send_window_bytes = 1048576", "send_window_bytes"),
            ("receive_window_bytes = 0", "receive_window_bytes"),
            ("idle_timeout_ms = 0", "idle_timeout_ms"),
            ("keep_alive_ms = 1501", "keep_alive_ms"),
            ("keep_alive_ms = 0", "keep_alive_ms"),
            ("mtu_upper_bound_bytes = 1199", "mtu_upper_bound_bytes"),
            ("mtu_upper_bound_bytes = 65535", "mtu_upper_bound_bytes"),
            ("initial_mtu_bytes = 1453", "initial_mtu_bytes"),
            ("links_per_peer_max = 0", "links_per_peer_max"),
            (
                "incoming_total_bytes_max = 65535",
                "incoming_total_bytes_max",
            ),
        ] {
            assert_eq!(faulty(text).key, key, "{text}");
        }
        let said = faulty("keep_alive_ms = 1501").to_string();
        assert_eq!(
            said,
            "keep_alive_ms = 1501 is out of its limits: choose from 10 to 1500"
        );
    }
}
