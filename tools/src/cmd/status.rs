//! `outlast status`: how a node is.

use std::time::Duration;

use clap::Args;
use outlast_standby::engine::UnprotectedBy;
use outlast_standby::status::{Role, Status as NodeStatus, Unprotected, UnprotectedSpan};
use outlast_tools::exit::Exit;

use super::protect::moment;
use crate::Global;
use crate::failure::Failure;
use crate::node::failed;

/// How many spans of unprotected time that have ended are shown.
const SPANS_SHOWN: usize = 3;

/// Show how the node is
///
/// Works on either node, alone: it asks nobody but the node that runs in the directory.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Exit with 4 unless a promotion would now come out as it should, but for the primary being
    /// well: of this standby, or of this primary's
    #[arg(long)]
    ready: bool,
}

impl Status {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let status = global.client()?.status().map_err(failed)?;
        global.output.result(&status, || text(&status))?;
        if self.ready {
            return ready(&status);
        }
        Ok(Exit::Ok)
    }
}

fn ready(status: &NodeStatus) -> Result<Exit, Failure> {
    let why = match &status.readiness {
        Some(readiness) if readiness.ready => return Ok(Exit::Ok),
        Some(readiness) => readiness.why_not.join("; "),
        None => "this node has no peer".to_owned(),
    };
    let error = anyhow::anyhow!("a promotion would not come out as it should: {why}");
    Err(Failure::new(Exit::Refused, error))
}

fn text(status: &NodeStatus) -> String {
    let mut lines = Vec::new();
    let epoch = status.epoch.as_ref().map_or_else(
        || "no epoch".to_owned(),
        |epoch| format!("epoch {}.{}/{}", epoch.term, epoch.start, epoch.id.short()),
    );
    let positions = &status.positions;
    lines.push(format!(
        "{:<9}{}  {epoch}  policy {}",
        role(&status.role),
        status.node_name,
        status.policy
    ));
    lines.push(format!(
        "log      appended {}  durable {}  visible {}",
        positions.appended, positions.durable, positions.visible
    ));
    if let Some(peer) = &status.peer {
        let line = if peer.connected {
            "connected"
        } else {
            "NOT CONNECTED"
        };
        let mut text = format!("peer     {}  {line}", peer.name);
        if let Some(age) = peer.contact_age_ms {
            text += &format!("  heartbeat {age} ms ago");
        }
        if let Some(rtt) = peer.rtt_us {
            text += &format!("  rtt {rtt} us");
        }
        if let (false, Some(close)) = (peer.connected, &peer.last_close) {
            text += &format!("  ({close})");
        }
        lines.push(text);
    }
    if let Some(lag) = &status.lag {
        lines.push(format!(
            "lag      {} commits  {} bytes  {} ms",
            lag.commits, lag.bytes, lag.ms
        ));
    }
    if !status.stages.is_empty() {
        let stages = status.stages.iter();
        let stages: Vec<_> = stages
            .map(|lag| format!("{} -{}", lag.stage.name(), lag.bytes))
            .collect();
        lines.push(format!("stages   {} (bytes)", stages.join("  ")));
    }
    lines.extend(status.protection.as_ref().map(super::protect::stands));
    lines.extend(status.unprotected.as_ref().map(unprotected));
    if let Some(readiness) = &status.readiness {
        let ready = if readiness.ready {
            "ready to take over".to_owned()
        } else {
            format!("NOT READY to take over: {}", readiness.why_not.join("; "))
        };
        lines.push(format!("standby  {ready}"));
    }
    match &status.role {
        Role::Conflict { what }
        | Role::NotFollowing { reason: what }
        | Role::Poisoned { reason: what } => {
            lines.push(format!("why      {what}"));
        }
        _ => {}
    }
    lines.extend(
        status
            .warnings
            .iter()
            .map(|warning| format!("warning  {warning}")),
    );
    if let Some(next) = &status.next {
        lines.push(format!("next     {next}"));
    }
    lines.join("\n")
}

fn unprotected(unprotected: &Unprotected) -> String {
    let total = Duration::from_secs(unprotected.total_ms / 1000);
    let mut text = format!(
        "ledger   unprotected for {} in all, in {} spans",
        humantime::format_duration(total),
        unprotected.spans
    );
    if let Some(span) = &unprotected.now {
        text += &format!(
            "\n         NOW, {} since {}",
            why(span),
            moment(span.since_unix_ms)
        );
    }
    for span in unprotected.last.iter().take(SPANS_SHOWN) {
        text += &format!(
            "\n         {} from {} for {}",
            why(span),
            moment(span.since_unix_ms),
            humantime::format_duration(Duration::from_millis(span.ms))
        );
    }
    text
}

fn why(span: &UnprotectedSpan) -> String {
    let by = match span.by {
        UnprotectedBy::NewCluster => "new cluster",
        UnprotectedBy::Promotion => "promotion",
        UnprotectedBy::ResumeAlone => "resume-alone",
        UnprotectedBy::Suspension => "suspension",
        UnprotectedBy::Async => "policy async",
        UnprotectedBy::NotYet => "bound not in force yet",
        _ => "unknown to this version",
    };
    if span.note.is_empty() {
        by.to_owned()
    } else {
        format!("{by} ({})", span.note)
    }
}

fn role(role: &Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::WaitingForPeer => "WAITING",
        Role::Standby => "standby",
        Role::NotFollowing { .. } => "FAILED",
        Role::Fenced { .. } => "FENCED",
        Role::Conflict { .. } => "CONFLICT",
        Role::Poisoned { .. } => "POISONED",
        _ => "unknown",
    }
}
