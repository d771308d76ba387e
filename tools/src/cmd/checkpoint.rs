//! `outlast checkpoint` and `outlast restore`: online backups, and new nodes from them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use outlast_engine::Checkpoint as Made;
use outlast_engine::format::{ClusterId, limits};
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_standby::{NewNode, checkpoint_offline, restore};
use outlast_tools::exit::Exit;
use serde_json::json;

use super::init::InitRole;
use super::protect::{Kind, Limits};
use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Make an online backup of a node in an empty directory
///
/// The node may run: commits, reads and shipping go on meanwhile. It holds the log as readers see
/// it at that moment. Sealed segments are linked where both directories are on one file system, and
/// copied else. `outlast restore` makes a new node of it.
///
/// Exits with 4 when the directory is not empty; nothing was changed then.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  outlast checkpoint --to /mnt/backup/2026-11-23")]
pub(crate) struct Checkpoint {
    /// The directory to make, or an empty one
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Make a new node with the log of a checkpoint
///
/// The node gets an id and a key of its own: it is not the node that the checkpoint was taken from,
/// and does not stand in for it until its peer is told to trust it. The checkpoint stays as it is.
/// All of its bytes are checked when the node is started, or beforehand by `outlast check`.
///
/// Exits with 4 when the directory holds a node already; nothing was changed then.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outlast restore --from /mnt/backup/2026-11-23 --dir alone --name seoul-c
  outlast restore --from /mnt/backup/2026-11-23 --dir b --name pangyo-c --role standby \\
      --peer seoul-a --policy async --listen 10.0.0.2:7411")]
pub(crate) struct Restore {
    /// The checkpoint
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The node's name: letters, digits, `-`, `_` and `.`
    #[arg(long)]
    name: String,
    /// Refuse a checkpoint of any other cluster
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// What the node begins as
    #[arg(long, default_value = "primary")]
    role: InitRole,
    /// The name of the other node of the pair
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// How much of what was acknowledged may be missing on the standby; with a peer it must be said
    #[arg(long)]
    policy: Option<Kind>,
    #[command(flatten)]
    limits: Limits,
    /// Where the node listens for its peer (UDP)
    #[arg(long, default_value = "127.0.0.1:7411", value_name = "ADDRESS")]
    listen: SocketAddr,
}

impl Checkpoint {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        // Another process may stand in another directory.
        let to = std::path::absolute(&self.to)?;
        let (running, made) = match global.running()? {
            Some(mut client) => {
                let ask = Ask::Checkpoint { to: to.clone() };
                match client.ask_one(ask).map_err(failed)? {
                    Reply::Checkpoint(made) => (true, *made),
                    other => return Err(unexpected(&other)),
                }
            }
            None => (false, checkpoint_offline(&dir, &to).map_err(failed)?),
        };
        let position = made.position();
        let value = json!({
            "schema": 1,
            "dir": dir,
            "to": to,
            "running": running,
            "cluster": made.cluster,
            "source": made.source,
            "end_lsn": position.lsn,
            "commit": position.commit,
        });
        let next = format!("outlast restore --from {} --dir NEW --name N", to.display());
        global.output.result(&value, || {
            format!(
                "made a checkpoint of node {} in {}: the log up to {position}\nnext     {next}",
                made.source.short(),
                to.display()
            )
        })?;
        Ok(Exit::Ok)
    }
}

impl Restore {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        let new = NewNode {
            name: self.name.clone(),
            cluster: self.cluster,
            standby: self.role == InitRole::Standby,
            peer: self.peer.clone(),
            policy: self.limits.of_said(self.policy)?,
            listen: self.listen,
            segment_size: limits::SEGMENT_SIZE_DEFAULT,
        };
        let (card, held) = restore(&self.from, &dir, &new).map_err(failed)?;
        let position = held.position();
        let value = json!({
            "schema": 1,
            "from": self.from,
            "name": card.name,
            "node": card.node,
            "cluster": card.cluster,
            "pin": card.pin.to_string(),
            "end_lsn": position.lsn,
            "commit": position.commit,
        });
        global.output.result(&value, || {
            format!(
                "made node {} in {} with the log up to {position}\ncluster  {}\ncard     \
                 {card}\nnext     {}",
                card.name,
                dir.display(),
                card.cluster,
                self.next(&dir, &held)
            )
        })?;
        Ok(Exit::Ok)
    }

    fn next(&self, dir: &Path, held: &Made) -> String {
        match &self.peer {
            Some(peer) => format!(
                "outlast pin trust --address HOST:PORT 'CARD' (of {peer}; there, of this node in \
                 the place of {})",
                held.source.short()
            ),
            None => format!("outlast serve --dir {}", dir.display()),
        }
    }
}
