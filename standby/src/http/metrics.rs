//! A node's figures in the text format of Prometheus.

use std::fmt::{Display, Write as _};

use outlast_engine::{Latency, Metrics};

use super::lookout::Look;
use crate::status::{ProtectionState, ProtectionStatus, Role, Status};

const STATES: [ProtectionState; 6] = [
    ProtectionState::Off,
    ProtectionState::Protected,
    ProtectionState::Suspended,
    ProtectionState::Stalled,
    ProtectionState::Shut,
    ProtectionState::Conflict,
];
const ROLES: [&str; 7] = [
    "primary",
    "waiting-for-peer",
    "standby",
    "not-following",
    "fenced",
    "conflict",
    "poisoned",
];

/// All figures; without a look, that there are none.
pub(super) fn text(look: Option<&Look>) -> String {
    let mut text = Text::default();
    let answers = u8::from(look.is_some());
    text.gauge(
        "outlast_answers",
        "Whether the node said how it is in time",
        answers,
    );
    text.family("outlast_build_info", "gauge", "The version that runs");
    text.sample(
        "outlast_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    if let Some(look) = look {
        node(&mut text, &look.status);
        if let Some(protection) = &look.status.protection {
            promise(&mut text, protection);
        }
        store(&mut text, &look.metrics);
    }
    text.out
}

fn node(text: &mut Text, status: &Status) {
    text.family("outlast_role", "gauge", "What the node is: 1 for that role");
    let is = role(&status.role);
    for role in ROLES {
        text.sample("outlast_role", &[("role", role)], u8::from(role == is));
    }
    if let Some(epoch) = &status.epoch {
        text.gauge("outlast_term", "The term of its newest epoch", epoch.term);
    }
    if let Some(peer) = &status.peer {
        let connected = u8::from(peer.connected);
        text.gauge(
            "outlast_peer_connected",
            "Whether a session is up",
            connected,
        );
        text.counter(
            "outlast_sessions_total",
            "Sessions with the peer",
            peer.sessions,
        );
        let age = peer.contact_age_ms.map(seconds);
        text.gauge_if(
            "outlast_contact_age_seconds",
            "Since the last heartbeat that was echoed, or received",
            age,
        );
        let rtt = peer.rtt_us.map(|us| us as f64 / 1e6);
        text.gauge_if("outlast_rtt_seconds", "Round trip to the peer", rtt);
    }
    if let Some(lag) = status.lag {
        text.gauge(
            "outlast_lag_bytes",
            "Bytes that the standby lacks",
            lag.bytes,
        );
        text.gauge("outlast_lag_commits", "Commits that it lacks", lag.commits);
        let ms = seconds(lag.ms);
        text.gauge("outlast_lag_seconds", "Age of the oldest of them", ms);
    }
    if !status.stages.is_empty() {
        text.family(
            "outlast_stage_lag_bytes",
            "gauge",
            "Bytes that a stage lacks",
        );
        for lag in &status.stages {
            let stage = [("stage", lag.stage.name())];
            text.sample("outlast_stage_lag_bytes", &stage, lag.bytes);
        }
        text.family(
            "outlast_stage_lag_commits",
            "gauge",
            "Commits that a stage lacks",
        );
        for lag in &status.stages {
            let stage = [("stage", lag.stage.name())];
            text.sample("outlast_stage_lag_commits", &stage, lag.commits);
        }
    }
    if let Some(unprotected) = &status.unprotected {
        text.counter(
            "outlast_unprotected_seconds_total",
            "For how long nothing limited what could be lost, as the log tells it",
            seconds(unprotected.total_ms),
        );
        let now = u8::from(unprotected.now.is_some());
        text.gauge("outlast_unprotected", "Whether nothing limits it now", now);
    }
    if let Some(readiness) = &status.readiness {
        text.gauge(
            "outlast_ready_to_promote",
            "Whether a promotion would come out as it should, but for the primary being well",
            u8::from(readiness.ready),
        );
    }
    text.gauge(
        "outlast_warnings",
        "Warnings in the status",
        status.warnings.len(),
    );
}

fn promise(text: &mut Text, it: &ProtectionStatus) {
    let help = "How the promise about loss stands: 1 for that state";
    text.family("outlast_protection", "gauge", help);
    for state in STATES {
        let name = state.name().to_lowercase();
        let is = u8::from(state == it.state);
        text.sample("outlast_protection", &[("state", &name)], is);
    }
    let out = u8::from(it.lease_out);
    text.gauge(
        "outlast_lease_out",
        "Whether the lease is out, where one is asked for",
        out,
    );
    text.gauge_if(
        "outlast_lease_seconds",
        "The lease",
        it.lease_ms.map(seconds),
    );
    let exposed = &it.exposed;
    for (of, bound, headroom, now, p99, max) in [
        (
            "bytes",
            it.bound_bytes.map(float),
            it.headroom_bytes.map(float),
            Some(float(it.exposure_bytes)),
            Some(float(exposed.p99_bytes)),
            Some(float(exposed.max_bytes)),
        ),
        (
            "commits",
            it.bound_commits.map(float),
            it.headroom_commits.map(float),
            Some(float(it.exposure_commits)),
            Some(float(exposed.p99_commits)),
            Some(float(exposed.max_commits)),
        ),
        (
            "seconds",
            it.bound_ms.map(seconds),
            it.headroom_ms.map(seconds),
            it.exposure_ms.map(seconds),
            exposed.p99_ms.map(seconds),
            exposed.max_ms.map(seconds),
        ),
    ] {
        let mut gauge = |name: &str, help: &str, value| {
            text.gauge_if(&format!("outlast_{name}_{of}"), help, value);
        };
        gauge("bound", "The most that may be lost", bound);
        gauge("headroom", "What is left of that", headroom);
        gauge("exposure", "What would be lost now", now);
        gauge(
            "exposure_p99",
            "What 99 of 100 seconds of the last hour did not exceed",
            p99,
        );
        gauge("exposure_max", "The most in the last hour", max);
    }
}

fn store(text: &mut Text, metrics: &Metrics) {
    let positions = &metrics.positions;
    text.family("outlast_lsn", "gauge", "Where the log stands, in bytes");
    for (kind, position) in [
        ("appended", positions.appended),
        ("durable", positions.durable),
        ("visible", positions.visible),
        ("replicated", positions.replicated),
        ("replica_applied", positions.replica_applied),
    ] {
        text.sample("outlast_lsn", &[("kind", kind)], position.lsn.0);
    }
    let (log, index) = (&metrics.log, &metrics.index);
    for (name, help, value) in [
        (
            "commits",
            "Batches that were committed here",
            metrics.commits,
        ),
        ("groups", "Group commits in which they were", metrics.groups),
        (
            "formed_bytes",
            "Bytes of log formed here",
            metrics.formed_bytes,
        ),
        ("gets", "Keys that were looked up", metrics.gets),
        ("scanned", "Entries that ranges have read", metrics.scanned),
        (
            "flushes",
            "Memtables that were written out",
            metrics.flushes,
        ),
        ("merges", "Merges of runs", metrics.merges),
        (
            "stalls",
            "Commits that had to help the index",
            metrics.stalls,
        ),
        ("compactions", "Compactions of the log", log.compactions),
        (
            "rewritten_bytes",
            "Bytes that those wrote",
            log.rewritten_bytes,
        ),
    ] {
        text.counter(&format!("outlast_{name}_total"), help, value);
    }
    for (name, help, value) in [
        ("log_files", "Files of the log", log.files),
        (
            "log_whole_bytes",
            "Bytes of whole segments",
            log.whole_bytes,
        ),
        (
            "log_sparse_bytes",
            "Bytes of compacted segments",
            log.sparse_bytes,
        ),
        (
            "log_live_bytes",
            "Bytes of log that are still needed",
            log.live_bytes,
        ),
        (
            "index_memory_bytes",
            "Memory of the index",
            index.memory_bytes,
        ),
        ("index_disk_bytes", "Files of the index", index.disk_bytes),
        (
            "replay_lag_bytes",
            "Log that a start may have to read",
            metrics.replay_lag_bytes,
        ),
        (
            "open_snapshots",
            "Snapshots that are open",
            metrics.snapshots.count as u64,
        ),
    ] {
        text.gauge(&format!("outlast_{name}"), help, value);
    }
    histogram(
        text,
        "outlast_fsync_seconds",
        "Fsyncs of the log",
        &metrics.fsyncs,
    );
}

fn histogram(text: &mut Text, name: &str, help: &str, latency: &Latency) {
    text.family(name, "histogram", help);
    let bucket = format!("{name}_bucket");
    let mut below = 0;
    // The last one counts the rest.
    let bounded = latency.buckets.iter().take(Latency::BUCKETS - 1);
    for (power, count) in bounded.enumerate() {
        below += count;
        let le = ((1u64 << power) as f64 / 1e6).to_string();
        text.sample(&bucket, &[("le", &le)], below);
    }
    text.sample(&bucket, &[("le", "+Inf")], latency.count);
    text.sample(&format!("{name}_sum"), &[], latency.sum_us as f64 / 1e6);
    text.sample(&format!("{name}_count"), &[], latency.count);
}

const fn role(role: &Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::WaitingForPeer => "waiting-for-peer",
        Role::Standby => "standby",
        Role::NotFollowing { .. } => "not-following",
        Role::Fenced { .. } => "fenced",
        Role::Conflict { .. } => "conflict",
        Role::Poisoned { .. } => "poisoned",
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

const fn float(figure: u64) -> f64 {
    figure as f64
}

/// The text as it is written. Names and labels are ours, so nothing in them needs an escape.
#[derive(Default)]
struct Text {
    out: String,
}

impl Text {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn gauge_if(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.out, "{name}{labels} {value}");
    }
}
