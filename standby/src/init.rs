//! Making a node.

use std::net::SocketAddr;
use std::path::Path;

use outlast_engine::format::{ClusterId, NodeId};
use outlast_engine::{InitOptions, Store};
use outlast_shipper::{Identity, Pin};

use crate::config::{NodeConfig, Policy, Tuning};
use crate::control::protocol::FailureKind;
use crate::dir::NodeDir;
use crate::error::{Error, Result};

/// What a node is made with.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Its name, for people.
    pub name: String,
    /// The cluster; `None` makes a new one.
    pub cluster: Option<ClusterId>,
    /// Whether it begins as a standby.
    pub standby: bool,
    /// The peer's name, for a member of a pair.
    pub peer: Option<String>,
    /// The policy; must be said where there is a peer.
    pub policy: Option<Policy>,
    /// Where it listens for its peer.
    pub listen: SocketAddr,
    /// Size of segment files in bytes; the same on every node of the cluster.
    pub segment_size: u64,
}

/// What others must know of a node in order to trust it: one line, shown and pasted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its public key.
    pub pin: Pin,
}

impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.name, self.node, self.cluster, self.pin
        )
    }
}

impl std::str::FromStr for Card {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [name, node, cluster, pin] = parts[..] else {
            return Err(
                "a card is `NAME NODE CLUSTER sha256:PIN`, as `outlast pin show` prints it"
                    .to_owned(),
            );
        };
        Ok(Self {
            name: name.to_owned(),
            node: node.parse().map_err(|error| format!("{error}"))?,
            cluster: cluster.parse().map_err(|error| format!("{error}"))?,
            pin: pin.parse().map_err(|error| format!("{error}"))?,
        })
    }
}

/// Makes a node in `dir`: its store, its key, its settings. Nothing that exists is overwritten.
///
/// # Errors
/// When there is a node already, or an option is out of its limits; when the files cannot be made.
pub fn init(dir: &Path, new: &NewNode) -> Result<Card> {
    if new.standby && new.cluster.is_none() {
        return Err(usage(
            "a standby joins a cluster: give its id with --cluster",
        ));
    }
    let config = NodeConfig::of(new)?;
    let cluster = new.cluster.unwrap_or_else(ClusterId::random);
    let options = InitOptions {
        cluster,
        segment_size: new.segment_size,
        has_peer: new.peer.is_some(),
        follower: new.standby,
        ..InitOptions::new(&new.name)
    };
    let dir = NodeDir::new(dir);
    let make = || Ok(Store::init(dir.root(), &options)?);
    let (identity, node) = make_around(&dir, &config, make)?;
    Ok(Card {
        name: new.name.clone(),
        node,
        cluster,
        pin: identity.pin(),
    })
}

/// Makes what a node has beside its store, once `make` has made that.
pub(crate) fn make_around<T>(
    dir: &NodeDir,
    config: &NodeConfig,
    make: impl FnOnce() -> Result<T>,
) -> Result<(Identity, T)> {
    if dir.config().exists() {
        let what = format!(
            "{} holds a node already; nothing was changed",
            dir.root().display()
        );
        return Err(Error::refused(what));
    }
    let made = make()?;
    let identity = Identity::create(&dir.key()).map_err(|error| usage(&error.to_string()))?;
    write_private(dir, &config.to_text()?)?;
    Ok((identity, made))
}

impl NodeConfig {
    /// The settings that a new node begins with.
    pub(crate) fn of(new: &NewNode) -> Result<Self> {
        if new.standby && new.peer.is_none() {
            return Err(usage("a standby follows a peer: name it with --peer"));
        }
        let config = Self {
            listen: new.listen,
            peer: new.peer.clone(),
            policy: new.policy,
            http: None,
            tuning: Tuning::default(),
            on_role_change: None,
        };
        config.validate().map_err(|what| {
            let error = usage(&what);
            if config.peer.is_some() && config.policy.is_none() {
                return error.hint("--policy bounded --commits 200 --time 500ms, say");
            }
            error
        })?;
        Ok(config)
    }
}

fn usage(what: &str) -> Error {
    Error::new(FailureKind::Usage, what)
}

/// What others must know of the node in `dir`. Needs no running node, and disturbs none.
///
/// # Errors
/// When there is none, or its files cannot be read.
pub fn card(dir: &Path) -> Result<Card> {
    let dir = NodeDir::new(dir);
    let about = outlast_engine::about(dir.root())?;
    let identity = Identity::load(&dir.key())
        .map_err(|error| Error::new(FailureKind::Usage, error.to_string()))?;
    let (name, node, cluster) = (about.node_name, about.node, about.cluster);
    Ok(Card {
        name,
        node,
        cluster,
        pin: identity.pin(),
    })
}

fn write_private(dir: &NodeDir, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.config();
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::File::open(dir.root())?.sync_all()
    };
    write().map_err(|error| {
        outlast_engine::Error::io(format_args!("write {}", path.display()), error).into()
    })
}
