//! `outlast pin`: who this node is, and whom it trusts.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use outlast_shipper::{Peer, Peers, Pin as KeyPin};
use outlast_standby::{Card, NodeDir, card};
use outlast_tools::exit::Exit;
use serde_json::json;

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;
use crate::output::table;

/// Show this node's card, and trust peers by theirs
#[derive(Debug, Subcommand)]
pub(crate) enum Pin {
    /// Print this node's card: name, id, cluster and the pin of its key, in one line
    Show,
    /// List the peers that this node trusts
    List,
    /// Trust a peer by its card
    Trust(Trust),
    /// Trust a key no longer
    Remove {
        /// The pin of the key, `sha256:…`
        pin: KeyPin,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The line that `outlast pin show` prints on the peer
    card: Card,
    /// Where the peer listens
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

impl Pin {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = NodeDir::new(global.dir()?);
        let own = card(dir.root()).map_err(failed)?;
        match self {
            Self::Show => {
                let value = json!({
                    "schema": 1,
                    "name": own.name,
                    "node": own.node,
                    "cluster": own.cluster,
                    "pin": own.pin.to_string(),
                });
                global.output.result(&value, || own.to_string())?;
            }
            Self::List => list(global, &load(&dir)?)?,
            Self::Trust(trust) => trust.run(global, &dir, &own)?,
            Self::Remove { pin } => {
                let mut peers = load(&dir)?;
                let Some(peer) = peers.remove(pin) else {
                    let error = anyhow::anyhow!("{pin} is not trusted here; nothing was changed");
                    return Err(Failure::new(Exit::Refused, error));
                };
                save(&dir, &peers)?;
                let text = || format!("{} is no longer trusted by {pin}", peer.name);
                global
                    .output
                    .result(&json!({ "schema": 1, "removed": peer }), text)?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Trust {
    fn run(&self, global: &Global, dir: &NodeDir, own: &Card) -> Result<(), Failure> {
        let Card {
            name,
            node,
            cluster,
            pin,
        } = self.card.clone();
        if cluster != own.cluster {
            let error = anyhow::anyhow!(
                "{name} belongs to cluster {cluster}, and this node to {}; nothing was changed",
                own.cluster
            );
            let failure = Failure::new(Exit::Refused, error);
            return Err(failure.hint("make the peer with --cluster and this cluster's id"));
        }
        if node == own.node {
            let error = anyhow::anyhow!("that is this node's own card; nothing was changed");
            return Err(Failure::new(Exit::Refused, error));
        }
        let mut peers = load(dir)?;
        let peer = Peer {
            name,
            node,
            pin,
            address: self.address,
        };
        peers
            .add(peer.clone())
            .map_err(|error| Failure::new(Exit::Refused, error))?;
        save(dir, &peers)?;
        let running = global.running()?.is_some();
        global
            .output
            .result(&json!({ "schema": 1, "trusted": peer }), || {
                let mut text = format!("{} is trusted now", peer.name);
                if running {
                    text += "; the running node takes it up within a second";
                }
                text
            })
    }
}

fn load(dir: &NodeDir) -> Result<Peers, Failure> {
    if !dir.peers().exists() {
        return Ok(Peers::default());
    }
    Peers::load(&dir.peers()).map_err(|error| Failure::new(Exit::Usage, error))
}

fn save(dir: &NodeDir, peers: &Peers) -> Result<(), Failure> {
    peers
        .save(&dir.peers())
        .map_err(|error| Failure::new(Exit::Failure, error))
}

fn list(global: &Global, peers: &Peers) -> Result<(), Failure> {
    let all: Vec<&Peer> = peers.iter().collect();
    global
        .output
        .result(&json!({ "schema": 1, "peers": all }), || {
            let rows = all.iter().map(|peer| {
                let address = peer
                    .address
                    .map_or("-".to_owned(), |address| address.to_string());
                vec![
                    peer.name.clone(),
                    peer.node.to_string(),
                    address,
                    peer.pin.to_string(),
                ]
            });
            table(["name", "node", "address", "pin"], rows)
        })
}
