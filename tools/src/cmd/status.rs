//! `outlast status`: how a node is.

use clap::Args;
use outlast_standby::status::{Role, Status as NodeStatus};
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;

/// Show how the node is
///
/// Works on either node, alone: it asks nobody but the node that runs in the directory.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let status = global.client()?.status().map_err(failed)?;
        global.output.result(&status, || text(&status))?;
        Ok(Exit::Ok)
    }
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
    lines.extend(status.protection.as_ref().map(super::protect::stands));
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
