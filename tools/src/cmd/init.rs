//! `outlast init`: making a node.

use std::net::SocketAddr;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use outlast_engine::format::ClusterId;
use outlast_standby::config::Policy;
use outlast_standby::{NewNode, init};
use outlast_tools::exit::Exit;
use serde_json::json;

use super::protect::{Kind, Limits};
use crate::Global;
use crate::failure::Failure;
use crate::node::failed;

/// Make a node in an empty directory
///
/// The first node of a cluster makes the cluster's id; its standby is given that id. Each node
/// makes its own key, and trusts the other by the line that `outlast pin show` prints there.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, a pair that may lose 200 commits, or half a second of them:
  outlast init --dir a --name seoul-a --peer pangyo-b --listen 10.0.0.1:7411 \\
      --policy bounded --commits 200 --time 500ms
  outlast init --dir b --name pangyo-b --role standby --cluster ID --peer seoul-a \\
      --listen 10.0.0.2:7411 --policy bounded --commits 200 --time 500ms
  outlast pin trust --dir a --address 10.0.0.2:7411 \"$(outlast pin show --dir b)\"
  outlast pin trust --dir b --address 10.0.0.1:7411 \"$(outlast pin show --dir a)\""
)]
pub(crate) struct Init {
    /// The node's name: letters, digits, `-`, `_` and `.`
    #[arg(long)]
    name: String,
    /// The cluster to join; without it a new one is made
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
    /// Size of a segment file; the same on every node of the cluster
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    segment_size: ByteSize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum InitRole {
    /// It takes writes
    Primary,
    /// It follows its peer
    Standby,
}

impl Init {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        let new = NewNode {
            name: self.name.clone(),
            cluster: self.cluster,
            standby: self.role == InitRole::Standby,
            peer: self.peer.clone(),
            policy: self.limits.of_said(self.policy)?,
            listen: self.listen,
            segment_size: self.segment_size.as_u64(),
        };
        let card = init(&dir, &new).map_err(failed)?;
        let value = json!({
            "schema": 1,
            "name": card.name,
            "node": card.node,
            "cluster": card.cluster,
            "pin": card.pin.to_string(),
        });
        global.output.result(&value, || {
            let mut text = format!("made node {} in {}\n", card.name, dir.display());
            text += &format!("cluster  {}\ncard     {card}\n", card.cluster);
            if self.peer.is_some() {
                if new.policy.is_some_and(|policy| policy != Policy::Async) {
                    text +=
                        "bound    OFF until the standby has nearly all, then in force by itself\n";
                }
                text += "next     outlast pin trust --address HOST:PORT 'CARD' (the peer's card)";
            } else {
                text += &format!("next     outlast serve --dir {}", dir.display());
            }
            text
        })?;
        Ok(Exit::Ok)
    }
}
