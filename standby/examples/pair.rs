//! A service that runs as a pair, with both nodes in one process as its own tests would have them.
//!
//! ```text
//! cargo run -p outlast-standby --example pair
//! ```
//!
//! A profile and who may see it are written by one batch at level applied, so that a reader of the
//! standby sees both or neither. Then the primary is gone, the standby is promoted, and the service
//! goes on where it was.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use outlast_shipper::{Peer, Peers};
use outlast_standby::certificate::{AcceptedLoss, Outcome, PromoteOptions};
use outlast_standby::config::Policy;
use outlast_standby::engine::{Batch, CommitOptions, Level, Receipt};
use outlast_standby::{Card, NewNode, Node, NodeDir, init};

type Done<T> = Result<T, Box<dyn Error>>;

fn main() -> Done<()> {
    let place = tempfile::tempdir()?;
    let (seoul, pangyo) = (place.path().join("seoul"), place.path().join("pangyo"));
    make_pair(&seoul, &pangyo)?;

    let primary = Profiles(Node::start(&seoul)?);
    let standby = Profiles(Node::start(&pangyo)?);
    primary.publish("mina", "sailing in July", "jun", Level::Applied)?;
    println!("on the standby jun sees {:?}", standby.view("mina", "jun")?);

    primary.0.stop()?;
    let certificate = standby.0.promote(&PromoteOptions {
        primary_is_down: true,
        // This primary was closed, not cut off: it is known to be down, however lately it answered.
        primary_is_sick: true,
        accept_loss: Some(AcceptedLoss::Unbounded),
        reason: "the example ends its primary".to_owned(),
        ..PromoteOptions::default()
    })?;
    assert_eq!(certificate.outcome, Outcome::Promoted);
    println!("promoted in {} ms", certificate.took_ms);

    let promoted = standby;
    promoted.publish("mina", "a secret", "ara", Level::Local)?;
    println!("jun sees {:?} now", promoted.view("mina", "jun")?);
    println!("ara sees {:?} now", promoted.view("mina", "ara")?);
    assert_eq!(promoted.view("mina", "jun")?, None);
    assert_eq!(promoted.view("mina", "ara")?.as_deref(), Some("a secret"));
    promoted.0.stop()?;
    Ok(())
}

/// The service: profiles, each with the one viewer that may see it.
struct Profiles(Node);

impl Profiles {
    fn publish(&self, who: &str, text: &str, viewer: &str, level: Level) -> Done<Receipt> {
        let store = self.0.store();
        let (profiles, viewers) = (store.keyspace("profiles")?, store.keyspace("viewers")?);
        let mut batch = Batch::new();
        batch.put(&profiles, who, text)?;
        batch.put(&viewers, who, viewer)?;
        let deadline = Some(Duration::from_secs(30));
        Ok(store.commit(batch, CommitOptions { level, deadline })?)
    }

    fn view(&self, who: &str, viewer: &str) -> Done<Option<String>> {
        let store = self.0.store();
        // Found and not made, since a standby makes none; and both read at one position.
        let profiles = store.find_keyspace("profiles")?;
        let viewers = store.find_keyspace("viewers")?;
        let snapshot = store.snapshot();
        let may = snapshot.get(&viewers, who)?;
        if may.as_deref() != Some(viewer.as_bytes()) {
            return Ok(None);
        }
        let text = snapshot.get(&profiles, who)?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Makes both nodes, and lets each trust the other by its card.
fn make_pair(seoul: &Path, pangyo: &Path) -> Done<()> {
    let (here, there) = (free_address()?, free_address()?);
    let node = |name: &str, peer: &str, listen| NewNode {
        name: name.to_owned(),
        cluster: None,
        standby: false,
        peer: Some(peer.to_owned()),
        policy: Some(Policy::Async),
        listen,
        segment_size: 1 << 20,
    };
    let first = init(seoul, &node("seoul", "pangyo", here))?;
    let standby = NewNode {
        cluster: Some(first.cluster),
        standby: true,
        ..node("pangyo", "seoul", there)
    };
    let second = init(pangyo, &standby)?;
    trust(seoul, &second, there)?;
    trust(pangyo, &first, here)
}

fn trust(dir: &Path, card: &Card, address: SocketAddr) -> Done<()> {
    let mut peers = Peers::default();
    peers.add(Peer {
        name: card.name.clone(),
        node: card.node,
        pin: card.pin,
        address: Some(address),
    })?;
    peers.save(&NodeDir::new(dir).peers())?;
    Ok(())
}

fn free_address() -> Done<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}
