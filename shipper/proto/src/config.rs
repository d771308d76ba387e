//! Settings, each with its unit, its default and what it costs.

use std::time::Duration;

use crate::message::{Features, Versions};

/// Protocol version that this crate speaks, and the only one so far.
pub const VERSION: u16 = 1;
/// Default of [`Config::window_bytes`].
pub const WINDOW_BYTES_DEFAULT: u64 = 8 << 20;
/// Least [`Config::window_bytes`].
pub const WINDOW_BYTES_MIN: u64 = 64 << 10;
/// Default of [`Config::run_bytes`].
pub const RUN_BYTES_DEFAULT: usize = 1 << 20;
/// Default of [`Config::heartbeat_interval`].
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// Default of [`Config::silence_max`].
pub const SILENCE_MAX_DEFAULT: Duration = Duration::from_secs(3);
/// Default of [`Config::handshake_timeout`].
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Default of [`Config::cut_timeout`].
pub const CUT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);

/// How a node speaks the protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Protocol versions.
    pub versions: Versions,
    /// Protocol features.
    pub features: Features,
    /// Most bytes of data in flight: sent and not acknowledged as received. A single frame that is
    /// longer goes alone. Default 8 MiB. It is the memory that a slow or stopped standby costs its
    /// primary, and the same again on the standby while its disk is slow.
    pub window_bytes: u64,
    /// Most bytes read from the log at once, in bytes. Default 1 MiB. A single frame may be longer.
    pub run_bytes: usize,
    /// Time between heartbeats. Default 1 s. A lease must be longer than this and a round trip.
    pub heartbeat_interval: Duration,
    /// A session in which nothing was heard for this long is over. Default 3 s; longer than
    /// `heartbeat_interval`.
    pub silence_max: Duration,
    /// How long one step of a handshake may take, a fsync of the standby's log included; and how
    /// long nothing may be heard while a lost tail is fetched. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a standby may take to put its forked tail in quarantine. Default 120 s.
    pub cut_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            versions: Versions {
                oldest: VERSION,
                newest: VERSION,
            },
            features: Features::default(),
            window_bytes: WINDOW_BYTES_DEFAULT,
            run_bytes: RUN_BYTES_DEFAULT,
            heartbeat_interval: HEARTBEAT_INTERVAL_DEFAULT,
            silence_max: SILENCE_MAX_DEFAULT,
            handshake_timeout: HANDSHAKE_TIMEOUT_DEFAULT,
            cut_timeout: CUT_TIMEOUT_DEFAULT,
        }
    }
}

impl Config {
    /// Asserts what the state machines rest on.
    pub(crate) fn assert_sound(&self) {
        assert!(
            self.window_bytes >= WINDOW_BYTES_MIN,
            "a window of {} bytes, at least {WINDOW_BYTES_MIN}",
            self.window_bytes
        );
        assert!(self.run_bytes > 0, "runs of no bytes");
        assert!(
            self.heartbeat_interval >= Duration::from_millis(1),
            "heartbeats every {:?}",
            self.heartbeat_interval
        );
        assert!(
            self.silence_max > self.heartbeat_interval,
            "silence of {:?} with heartbeats every {:?}",
            self.silence_max,
            self.heartbeat_interval
        );
        assert!(
            self.versions.oldest <= self.versions.newest,
            "versions {:?}",
            self.versions
        );
        assert!(
            self.features.required & !self.features.known == 0,
            "features {:?} required but unknown",
            self.features
        );
    }
}
