//! Online backups of a node, and making a new node from one.

use std::path::Path;

use outlast_engine::format::NodeId;
use outlast_engine::{Checkpoint, Config, RestoreOptions, Store};

use crate::config::NodeConfig;
use crate::control::protocol::FailureKind;
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::init::{Card, NewNode, make_around};

/// Makes a backup in `to`, which must be empty or not there, of the node in `dir`, which no process
/// runs. Of one that runs, ask it: [`Ask::Checkpoint`](crate::control::protocol::Ask::Checkpoint).
///
/// # Errors
/// Those of [`Store::open`] and [`Store::checkpoint`].
pub fn checkpoint_offline(dir: &Path, to: &Path) -> Result<Checkpoint> {
    let config = Config {
        background: false,
        ..Config::default()
    };
    // Dropped, and not closed: nothing is written that the node's next start would have to explain.
    Ok(Store::open(dir, config)?.checkpoint(to)?)
}

/// Makes a node in `dir` that begins with the log of the checkpoint in `from`, with a key and
/// settings of its own. Nothing that exists is overwritten, and the checkpoint stays as it is.
///
/// The cluster and the size of its segments are the checkpoint's: `new.segment_size` is not looked
/// at, and `new.cluster` may be left out.
///
/// # Errors
/// When there is a node already, `new.cluster` is not the checkpoint's, or an option is out of its
/// limits; when there is no checkpoint in `from`; when the files cannot be made.
pub fn restore(from: &Path, dir: &Path, new: &NewNode) -> Result<(Card, Checkpoint)> {
    let config = NodeConfig::of(new)?;
    let dir = NodeDir::new(dir);
    let options = RestoreOptions {
        node: NodeId::random(),
        node_name: new.name.clone(),
        has_peer: new.peer.is_some(),
        follower: new.standby,
    };
    let make = || {
        let held = Checkpoint::load(from)?;
        if let Some(cluster) = new.cluster.filter(|cluster| *cluster != held.cluster) {
            let what = format!(
                "the checkpoint in {} is of cluster {}, and not of {cluster}; nothing was changed",
                from.display(),
                held.cluster
            );
            return Err(Error::new(FailureKind::Usage, what));
        }
        Ok(outlast_engine::restore(from, dir.root(), &options)?)
    };
    let (identity, checkpoint) = make_around(&dir, &config, make)?;
    let card = Card {
        name: new.name.clone(),
        node: options.node,
        cluster: checkpoint.cluster,
        pin: identity.pin(),
    };
    Ok((card, checkpoint))
}
