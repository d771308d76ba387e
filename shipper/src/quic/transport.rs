//! From settings to quinn's own.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TimeSource, TransportConfig, VarInt,
};

use crate::config::{Congestion, DATA_STREAM_BYTES, LinkConfig};
use crate::error::LinkError;

/// What a stream of data has before its data.
pub(super) const DATA_HEADER_BYTES: u64 = 24;

/// Window of one stream: a whole stream of data. A single stream is never the bottleneck then, and
/// is too short to be cut into the 1024 separate pieces at which quinn gives a connection up.
const STREAM_WINDOW_BYTES: u64 = DATA_STREAM_BYTES + DATA_HEADER_BYTES;

/// Kept free of data, on both sides, so that messages pass when data does not.
const MESSAGE_WINDOW_BYTES: u64 = STREAM_WINDOW_BYTES;

/// Streams of messages: one.
const MESSAGE_STREAMS: u32 = 1;

pub(super) fn transport(config: &LinkConfig) -> TransportConfig {
    let sent = config.data_streams_sent_max() * STREAM_WINDOW_BYTES;
    let received_streams = config.data_streams_received_max();
    let received = received_streams * STREAM_WINDOW_BYTES;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(config.mtu_upper_bound_bytes);

    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(bounded(STREAM_WINDOW_BYTES))
        .receive_window(bounded(received + MESSAGE_WINDOW_BYTES))
        .send_window(sent + MESSAGE_WINDOW_BYTES)
        // Not for fairness, which priorities rule out between our streams: without it quinn goes on
        // with the stream of data that it began, whatever the priority of the message that waits.
        .send_fairness(true)
        .max_concurrent_bidi_streams(VarInt::from_u32(MESSAGE_STREAMS))
        .max_concurrent_uni_streams(bounded(received_streams))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(bounded(config.idle_timeout_ms).into()))
        .keep_alive_interval(Some(Duration::from_millis(config.keep_alive_ms)))
        .initial_rtt(Duration::from_millis(config.initial_rtt_ms))
        .initial_mtu(config.initial_mtu_bytes)
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(congestion(config))
        .enable_segmentation_offload(config.segmentation_offload)
        .ack_frequency_config(ack_frequency(config))
        .allow_spin(false);
    transport
}

pub(super) fn endpoint(config: &LinkConfig) -> Result<EndpointConfig, LinkError> {
    let mut endpoint = EndpointConfig::default();
    // Never below quinn's own default, which the peer may go up to whatever is set here.
    let largest = config.mtu_upper_bound_bytes.max(1472);
    endpoint.max_udp_payload_size(largest).map_err(unusable)?;
    Ok(endpoint)
}

pub(super) fn server(
    config: &LinkConfig,
    transport: Arc<TransportConfig>,
    tls: rustls::ServerConfig,
) -> Result<quinn::ServerConfig, LinkError> {
    let mut server = quinn::ServerConfig::with_crypto(server_crypto(tls)?);
    server
        .transport_config(transport)
        .migration(false)
        .max_incoming(usize::try_from(config.handshakes_max).unwrap_or(usize::MAX))
        .incoming_buffer_size(config.incoming_bytes_max)
        .incoming_buffer_size_total(config.incoming_total_bytes_max)
        .time_source(Arc::new(Monotonic(Instant::now())));
    Ok(server)
}

pub(super) fn server_crypto(
    tls: rustls::ServerConfig,
) -> Result<Arc<dyn quinn::crypto::ServerConfig>, LinkError> {
    Ok(Arc::new(QuicServerConfig::try_from(tls).map_err(unusable)?))
}

pub(super) fn client(
    transport: Arc<TransportConfig>,
    tls: rustls::ClientConfig,
) -> Result<quinn::ClientConfig, LinkError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(unusable)?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client
        .transport_config(transport)
        .token_store(Arc::new(quinn::NoneTokenStore));
    Ok(client)
}

fn congestion(config: &LinkConfig) -> Arc<dyn ControllerFactory + Send + Sync> {
    let window = config.initial_window_bytes;
    match config.congestion {
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            cubic.initial_window(window);
            Arc::new(cubic)
        }
        Congestion::NewReno => {
            let mut reno = NewRenoConfig::default();
            reno.initial_window(window);
            Arc::new(reno)
        }
        Congestion::BbrExperimental => {
            let mut bbr = BbrConfig::default();
            bbr.initial_window(window);
            Arc::new(bbr)
        }
    }
}

fn ack_frequency(config: &LinkConfig) -> Option<AckFrequencyConfig> {
    if config.ack_every_packets == 0 {
        return None;
    }
    let mut frequency = AckFrequencyConfig::default();
    frequency
        .ack_eliciting_threshold(VarInt::from_u32(config.ack_every_packets - 1))
        .max_ack_delay(Some(Duration::from_millis(5)));
    Some(frequency)
}

fn bounded(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

pub(crate) fn unusable(error: impl std::fmt::Display) -> LinkError {
    LinkError::Endpoint {
        reason: error.to_string(),
    }
}

/// The age of a retry token, by a clock that nobody sets.
struct Monotonic(Instant);

impl TimeSource for Monotonic {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.0.elapsed()
    }
}
