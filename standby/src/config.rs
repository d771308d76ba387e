//! The settings of a node, in `node.toml`.

use std::net::SocketAddr;
use std::time::Duration;

use outlast_engine::WriteMode;
use serde::{Deserialize, Serialize};

use crate::control::protocol::FailureKind;
use crate::dir::NodeDir;
use crate::error::{Error, Result};

/// How much of what was acknowledged may be missing on the standby.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Policy {
    /// No bound, and no fence by silence: a commit is acknowledged as its level says.
    #[default]
    Async,
}

impl Policy {
    /// Its name in settings and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
        }
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "async" => Ok(Self::Async),
            _ => Err(format!(
                "`{text}` is no policy of this version: use `async`"
            )),
        }
    }
}

/// A node's settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Where the node listens for its peer, over UDP.
    pub listen: SocketAddr,
    /// The peer's name in `peers.toml`; none for a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The cluster's policy; must be said where there is a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// How the log talks to the disk and the peer.
    #[serde(default)]
    pub tuning: Tuning,
}

/// Settings that most nodes leave alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// How segments are written: `auto`, `buffered` or `direct`. Default `auto`.
    pub write_mode: WriteMode,
    /// Time between heartbeats. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// After how long without a word the peer counts as gone. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub silence_max: Duration,
    /// Bytes of log in flight to the standby: what a slow one costs in memory. Default 8 MiB.
    pub window: bytesize::ByteSize,
    /// How much log behind the newest state past states stay readable, and the log whole. Default
    /// 16 MiB.
    pub history_log: bytesize::ByteSize,
    /// How much log at most is kept whole for a peer or a change feed that is behind; one that is
    /// further behind must be made again. Default no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_log: Option<bytesize::ByteSize>,
    /// After how much log, at most, the index is written out: what a start may have to read again.
    /// Default 16 MiB.
    pub flush_after_log: bytesize::ByteSize,
    /// How far the wall clock may be ahead of the log when this node begins to write while puts
    /// wait to expire; further, and none does until `outlast confirm-clock`. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub log_time_ahead_max: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            write_mode: WriteMode::Auto,
            heartbeat_interval: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
            window: bytesize::ByteSize::mib(8),
            history_log: bytesize::ByteSize::mib(16),
            retain_log: None,
            flush_after_log: bytesize::ByteSize::mib(16),
            log_time_ahead_max: Duration::from_secs(3600),
        }
    }
}

impl Tuning {
    /// What they say to the engine.
    #[must_use]
    pub fn engine(&self) -> outlast_engine::Config {
        outlast_engine::Config {
            write_mode: self.write_mode,
            flush_after_log_bytes: self.flush_after_log.as_u64(),
            history_log_bytes: self.history_log.as_u64(),
            retain_log_bytes: self.retain_log.map(|bytes| bytes.as_u64()),
            log_time_ahead_max: self.log_time_ahead_max,
            ..outlast_engine::Config::default()
        }
    }
}

impl NodeConfig {
    /// Reads the settings of the node in `dir`.
    ///
    /// # Errors
    /// When the file is missing, or does not say what it must.
    pub fn load(dir: &NodeDir) -> Result<Self> {
        let path = dir.config();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let what = format!("could not read {}", path.display());
            let own = Error::new(FailureKind::Usage, what).because(error);
            own.hint("name a node's directory with --dir, or make one with `outlast init`")
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            Error::new(FailureKind::Usage, format!("{}: {error}", path.display()))
        })?;
        config.validate().map_err(|what| {
            Error::new(FailureKind::Usage, format!("{}: {what}", path.display()))
        })?;
        Ok(config)
    }

    /// Checks that the settings go together.
    ///
    /// # Errors
    /// Says which do not.
    pub fn validate(&self) -> Result<(), String> {
        if self.peer.is_some() && self.policy.is_none() {
            return Err("with a peer the policy must be said: policy = \"async\"".to_owned());
        }
        let Tuning {
            heartbeat_interval,
            silence_max,
            window,
            ..
        } = &self.tuning;
        if *heartbeat_interval < Duration::from_millis(1) || silence_max <= heartbeat_interval {
            return Err(
                "silence_max must be longer than heartbeat_interval, and that at least 1 ms"
                    .to_owned(),
            );
        }
        let least = outlast_proto::WINDOW_BYTES_MIN;
        if window.as_u64() < least {
            return Err(format!("window must be at least {least} bytes"));
        }
        Ok(())
    }

    /// How the node speaks the protocol.
    pub(crate) fn protocol(&self) -> outlast_proto::Config {
        outlast_proto::Config {
            window_bytes: self.tuning.window.as_u64(),
            heartbeat_interval: self.tuning.heartbeat_interval,
            silence_max: self.tuning.silence_max,
            ..outlast_proto::Config::default()
        }
    }

    /// How its links behave.
    pub(crate) fn links(&self) -> outlast_shipper::LinkConfig {
        let silence_ms = u64::try_from(self.tuning.silence_max.as_millis()).unwrap_or(u64::MAX);
        let one = outlast_shipper::LinkConfig::default();
        outlast_shipper::LinkConfig {
            idle_timeout_ms: silence_ms,
            keep_alive_ms: silence_ms / 3,
            // One more, so that a repair never takes the place of a session.
            links_per_peer_max: one.links_per_peer_max + 1,
            ..one
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// When the settings cannot be written down.
    pub fn to_text(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| {
            Error::new(FailureKind::Failed, "the settings cannot be written").because(error)
        })
    }
}
