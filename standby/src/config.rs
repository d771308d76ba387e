//! The settings of a node, in `node.toml`.

use std::net::SocketAddr;
use std::time::Duration;

use outlast_engine::WriteMode;
use outlast_engine::format::NodeId;
use outlast_proto::{Action, Bound, LEASE_DEFAULT, Protection, Standing};
use serde::{Deserialize, Serialize};

use crate::control::protocol::FailureKind;
use crate::dir::NodeDir;
use crate::error::{Error, Result};

/// How much of what was acknowledged may be missing on the standby: what a cluster is made with. It
/// is a wish until the log has a record of it, and from then on what the log says is true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "PolicyText", into = "PolicyText")]
#[non_exhaustive]
pub enum Policy {
    /// No bound, and no fence by silence: a commit is acknowledged as its level says.
    #[default]
    Async,
    /// No more than this, from when the standby has nearly all.
    Bounded {
        /// The most that may be lost.
        bound: Bound,
        /// What becomes of new commits while the bound is used up.
        action: Action,
    },
}

impl Policy {
    /// Its name in settings and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.promise().name()
    }

    /// What it promises.
    #[must_use]
    pub const fn promise(self) -> outlast_proto::Policy {
        match self {
            Self::Async => outlast_proto::Policy::Async,
            Self::Bounded { bound, .. } => outlast_proto::Policy::Bounded(bound),
        }
    }

    /// The same, and what becomes of new commits meanwhile.
    #[must_use]
    pub const fn of(promise: outlast_proto::Policy, action: Action) -> Self {
        match promise {
            outlast_proto::Policy::Async => Self::Async,
            outlast_proto::Policy::Bounded(bound) => Self::Bounded { bound, action },
        }
    }

    /// The record that promises it to one standby, or to none that is known yet.
    pub(crate) fn protection(self, standby: Option<NodeId>, standing: Standing) -> Protection {
        match self {
            Self::Async => Protection::none(standby.into_iter().collect()),
            Self::Bounded { action, .. } => Protection {
                policy: self.promise(),
                action,
                members: standby.into_iter().collect(),
                copies: 1,
                standing,
            },
        }
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "async" => Ok(Self::Async),
            "sync" => Ok(Self::of(
                outlast_proto::Policy::sync(LEASE_DEFAULT),
                Action::Stall,
            )),
            "bounded" => Err(
                "the policy bounded needs its limits: a table [policy] with name = \"bounded\" and \
                 bytes, commits or time"
                    .to_owned(),
            ),
            _ => Err(format!(
                "`{text}` is no policy: use `async`, `sync` or `bounded`"
            )),
        }
    }
}

/// A policy as the file says it: a name, or a table.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a policy is \"async\", \"sync\", or a table of name, bytes, commits, time, lease and \
                 action"
)]
enum PolicyText {
    Name(String),
    Table(PolicyTable),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyTable {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<bytesize::ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commits: Option<u64>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "humantime_serde::option"
    )]
    time: Option<Duration>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "humantime_serde::option"
    )]
    lease: Option<Duration>,
    #[serde(default)]
    action: ActionText,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ActionText {
    #[default]
    Stall,
    Refuse,
}

impl TryFrom<PolicyText> for Policy {
    type Error = String;

    fn try_from(text: PolicyText) -> Result<Self, String> {
        let table = match text {
            PolicyText::Name(name) => return name.parse(),
            PolicyText::Table(table) => table,
        };
        let limited = table.bytes.is_some() || table.commits.is_some() || table.time.is_some();
        let lease = table.lease.unwrap_or(LEASE_DEFAULT);
        let promise = match table.name.as_str() {
            "bounded" => outlast_proto::Policy::Bounded(Bound {
                bytes: table.bytes.map(|bytes| bytes.as_u64()),
                commits: table.commits,
                time: table.time,
                lease,
            }),
            _ if limited => {
                return Err("bytes, commits and time belong to the policy bounded".to_owned());
            }
            "sync" => outlast_proto::Policy::sync(lease),
            "async" if table.lease.is_some() => {
                return Err("the policy async has no lease".to_owned());
            }
            name => return name.parse(),
        };
        let action = match table.action {
            ActionText::Stall => Action::Stall,
            ActionText::Refuse => Action::Refuse,
        };
        Ok(Self::of(promise, action))
    }
}

impl From<Policy> for PolicyText {
    fn from(policy: Policy) -> Self {
        let name = policy.name().to_owned();
        let Policy::Bounded { bound, action } = policy else {
            return Self::Name(name);
        };
        // Of sync, the limits follow from the name.
        let limits = (name == "bounded").then_some(bound);
        Self::Table(PolicyTable {
            bytes: limits
                .and_then(|bound| bound.bytes)
                .map(bytesize::ByteSize::b),
            commits: limits.and_then(|bound| bound.commits),
            time: limits.and_then(|bound| bound.time),
            lease: Some(bound.lease),
            action: match action {
                Action::Stall => ActionText::Stall,
                Action::Refuse => ActionText::Refuse,
            },
            name,
        })
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
    /// Where status, readiness and metrics are answered over HTTP; none to answer nobody. Whoever
    /// reaches it may ask, and change nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// How the log talks to the disk and the peer.
    #[serde(default)]
    pub tuning: Tuning,
    /// What is run when the node's role has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_role_change: Option<OnRoleChange>,
}

/// A command that is run when the node's role has changed, and when the node starts.
///
/// No shell runs it. Behind its own arguments it gets the old role (`starting` at first), the new
/// one, the epoch, the node's name, and the path of the promotion's certificate (empty where there
/// is none); and the same in its environment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnRoleChange {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// How long it may take; then it is killed, with all that it started. Default 30 s.
    #[serde(with = "humantime_serde", default = "hook_timeout")]
    pub timeout: Duration,
}

const fn hook_timeout() -> Duration {
    Duration::from_secs(30)
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
            let what = "with a peer it must be said how much may be lost: the policy async (nothing \
                        limits it), sync, or bounded by bytes, commits or time";
            return Err(what.to_owned());
        }
        if let Some(policy) = self.policy {
            // Which standby it will be is not known yet.
            let promise = policy.protection(Some(NodeId::NONE), Standing::Off);
            promise.check().map_err(|fault| fault.to_string())?;
            self.check_lease(&promise.policy)?;
        }
        if let Some(OnRoleChange { command, timeout }) = &self.on_role_change {
            let absolute = command
                .first()
                .is_some_and(|program| program.starts_with('/'));
            if !absolute || timeout.is_zero() {
                return Err(
                    "on_role_change needs a command by its absolute path, as command = \
                     [\"/usr/local/bin/move-address\"], and a timeout that is not zero"
                        .to_owned(),
                );
            }
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

    /// Checks that heartbeats come often enough for a lease.
    ///
    /// # Errors
    /// Says what would be long enough.
    pub(crate) fn check_lease(&self, policy: &outlast_proto::Policy) -> Result<(), String> {
        let outlast_proto::Policy::Bounded(bound) = policy else {
            return Ok(());
        };
        let every = self.tuning.heartbeat_interval;
        let least = every * 2;
        if bound.lease >= least {
            return Ok(());
        }
        Err(format!(
            "a lease of {:?} with heartbeats every {every:?} would be out most of the time: choose \
             {least:?} or more",
            bound.lease
        ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(policy: Policy) -> NodeConfig {
        NodeConfig {
            listen: "127.0.0.1:7411".parse().unwrap(),
            peer: Some("b".to_owned()),
            policy: Some(policy),
            http: Some("127.0.0.1:7412".parse().unwrap()),
            tuning: Tuning::default(),
            on_role_change: None,
        }
    }

    fn parsed(policy: &str) -> Result<Policy, String> {
        let text = format!("listen = \"127.0.0.1:7411\"\npeer = \"b\"\n{policy}\n");
        let config: NodeConfig = toml::from_str(&text).map_err(|error| error.to_string())?;
        config.validate()?;
        Ok(config.policy.unwrap_or_default())
    }

    #[test]
    fn a_policy_is_read_as_it_was_written() {
        let bound = Bound {
            bytes: Some(1 << 20),
            commits: Some(200),
            time: Some(Duration::from_millis(500)),
            lease: Duration::from_secs(4),
        };
        let action = Action::Refuse;
        let sync = outlast_proto::Policy::sync(Duration::from_secs(2));
        for policy in [
            Policy::Async,
            Policy::of(sync, Action::Stall),
            Policy::Bounded { bound, action },
        ] {
            let text = config(policy).to_text().unwrap();
            let read: NodeConfig = toml::from_str(&text).unwrap();
            assert_eq!(read, config(policy), "{text}");
            assert_eq!(read.validate(), Ok(()));
        }
    }

    #[test]
    fn a_policy_is_a_name_or_a_table_and_says_what_it_needs() {
        assert_eq!(parsed("policy = \"async\""), Ok(Policy::Async));
        assert_eq!(parsed("policy = \"sync\"").unwrap().name(), "sync");
        let bounded = parsed("policy = { name = \"bounded\", commits = 5, time = \"50ms\" }");
        assert_eq!(bounded.unwrap().name(), "bounded");
        for (policy, why) in [
            ("", "how much may be lost"),
            ("policy = \"bounded\"", "needs its limits"),
            ("policy = \"quorum\"", "is no policy"),
            ("policy = { name = \"bounded\" }", "a bound of nothing"),
            ("policy = { name = \"sync\", commits = 5 }", "belong to"),
            ("policy = { name = \"async\", lease = \"3s\" }", "no lease"),
            ("policy = { name = \"sync\", lease = \"1s\" }", "2s or more"),
            (
                "policy = { name = \"bounded\", records = 1 }",
                "a policy is",
            ),
        ] {
            let said = parsed(policy).unwrap_err();
            assert!(said.contains(why), "{policy}: {said}");
        }
    }
}
