//! The nodes that this node trusts, in a file that people read and edit.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use outlast_engine::format::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::pin::Pin;
use crate::private_file::{self, FileError, Keep};

/// The longest peers file in bytes.
pub const PEERS_FILE_BYTES_MAX: u64 = 64 << 10;
/// Most entries of a peers file.
pub const PEERS_MAX: usize = 64;
/// The longest name of a peer in bytes.
pub const PEER_NAME_BYTES_MAX: usize = 64;

/// A node that is trusted, by one of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What people call it: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Which node it is.
    pub node: NodeId,
    /// Its public key.
    pub pin: Pin,
    /// Where it listens, if this node is to dial it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

/// All nodes that this node trusts.
///
/// A pin stands in one entry only. A node that changes its key has two entries, of the same name
/// and id, until the entry of the old key is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    entries: Vec<Peer>,
}

/// What is wrong with a list of peers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeersError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file does not say what it should.
    #[error("{} cannot be understood: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The file contradicts itself.
    #[error("{} cannot be used: {source}", .path.display())]
    Contradictory {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        source: PeerFault,
    },
    /// An entry that cannot be added.
    #[error(transparent)]
    Peer(#[from] PeerFault),
}

/// Why an entry cannot stand in a list of peers.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFault {
    /// A name that would not do in a file, a log or a command line.
    #[error(
        "`{name}` cannot name a peer: use at most {PEER_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The id of nothing.
    #[error(
        "peer {name} has node id {node}, which stands for no node: take the one that the peer shows"
    )]
    NoNode {
        /// The peer.
        name: String,
        /// The id.
        node: NodeId,
    },
    /// A key that is trusted already.
    #[error("{pin} is trusted already, as the key of {name}: remove that entry first")]
    PinTaken {
        /// The key.
        pin: Pin,
        /// Whose it is.
        name: String,
    },
    /// One name for two nodes, or one node under two names.
    #[error("{name} is node {node} already: a peer has one name and one id")]
    OtherNode {
        /// The name that is taken.
        name: String,
        /// By which node.
        node: NodeId,
    },
    /// Too many entries.
    #[error("{PEERS_MAX} keys are trusted already: remove those that are no longer used")]
    Full,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    peer: Vec<Peer>,
}

impl Peers {
    /// Reads the list at `path`.
    ///
    /// # Errors
    /// When the file is missing, may be changed by others than its owner, or cannot be understood.
    pub fn load(path: &Path) -> Result<Self, PeersError> {
        let bytes = private_file::read(path, Keep::Unchanged, PEERS_FILE_BYTES_MAX)?;
        let unreadable = |reason: String| PeersError::Unreadable {
            path: path.to_owned(),
            reason,
        };
        let text = str::from_utf8(&bytes).map_err(|error| unreadable(error.to_string()))?;
        let file: File = toml::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        let mut peers = Self::default();
        for peer in file.peer {
            peers
                .add(peer)
                .map_err(|source| PeersError::Contradictory {
                    path: path.to_owned(),
                    source,
                })?;
        }
        Ok(peers)
    }

    /// Puts the list in the place of what `path` holds, at once and durably, with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be written; the old one stands then.
    pub fn save(&self, path: &Path) -> Result<(), PeersError> {
        Ok(private_file::replace(path, self.to_text().as_bytes())?)
    }

    /// Trusts another key.
    ///
    /// # Errors
    /// When the entry contradicts one that is there; the list is unchanged then.
    pub fn add(&mut self, peer: Peer) -> Result<(), PeerFault> {
        if !is_name(&peer.name) {
            return Err(PeerFault::Name {
                name: peer.name.chars().take(PEER_NAME_BYTES_MAX).collect(),
            });
        }
        if peer.node == NodeId::NONE {
            return Err(PeerFault::NoNode {
                name: peer.name,
                node: peer.node,
            });
        }
        for other in &self.entries {
            if other.pin == peer.pin {
                return Err(PeerFault::PinTaken {
                    pin: other.pin,
                    name: other.name.clone(),
                });
            }
            if (other.name == peer.name) != (other.node == peer.node) {
                return Err(PeerFault::OtherNode {
                    name: other.name.clone(),
                    node: other.node,
                });
            }
        }
        if self.entries.len() >= PEERS_MAX {
            return Err(PeerFault::Full);
        }
        self.entries.push(peer);
        Ok(())
    }

    /// Trusts a key no longer, and returns what its entry said.
    pub fn remove(&mut self, pin: &Pin) -> Option<Peer> {
        let at = self.entries.iter().position(|peer| peer.pin == *pin)?;
        Some(self.entries.remove(at))
    }

    /// The entry of a key.
    #[must_use]
    pub fn by_pin(&self, pin: &Pin) -> Option<&Peer> {
        self.entries.iter().find(|peer| peer.pin == *pin)
    }

    /// The entries of a node: one for each key of it that is trusted.
    pub fn by_node(&self, node: NodeId) -> impl Iterator<Item = &Peer> {
        self.entries.iter().filter(move |peer| peer.node == node)
    }

    /// The entries of the node that people call so.
    pub fn by_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Peer> {
        self.entries.iter().filter(move |peer| peer.name == name)
    }

    /// All entries, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.entries.iter()
    }

    /// Number of keys that are trusted.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn to_text(&self) -> String {
        let mut text = String::from(
            "# The nodes that this node trusts, by the SHA-256 of their public keys.\n\
             # A node that changes its key has two entries until the old one is removed.\n",
        );
        for peer in &self.entries {
            // Names are checked, and the other fields have no character that TOML would take amiss.
            let _ = write!(
                text,
                "\n[[peer]]\nname = \"{}\"\nnode = \"{}\"\npin = \"{}\"\n",
                peer.name, peer.node, peer.pin
            );
            if let Some(address) = peer.address {
                let _ = writeln!(text, "address = \"{address}\"");
            }
        }
        text
    }
}

fn is_name(name: &str) -> bool {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=PEER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(usable)
        && !name.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn peer(name: &str, node: u8, key: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            node: NodeId([node; 16]),
            pin: Pin::of(key.as_bytes()),
            address: None,
        }
    }

    fn load(text: &str) -> Result<Peers, PeersError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.toml");
        private_file::create(&path, text.as_bytes()).unwrap();
        Peers::load(&path)
    }

    #[test]
    fn the_list_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.toml");
        let mut peers = Peers::default();
        peers.add(peer("pangyo-b", 1, "one")).unwrap();
        peers.add(peer("pangyo-b", 1, "its next key")).unwrap();
        peers
            .add(Peer {
                address: Some("[2001:db8::1]:7400".parse().unwrap()),
                ..peer("seoul-a", 2, "two")
            })
            .unwrap();
        peers.save(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        let mut read = Peers::load(&path).unwrap();
        assert_eq!(read, peers);

        assert_eq!(read.by_node(NodeId([1; 16])).count(), 2);
        assert_eq!(read.by_name("seoul-a").count(), 1);
        let removed = read.remove(&Pin::of(b"one")).unwrap();
        assert_eq!(removed, peer("pangyo-b", 1, "one"));
        assert_eq!(read.remove(&Pin::of(b"one")), None);
        read.save(&path).unwrap();
        let left = Peers::load(&path).unwrap();
        assert_eq!(left.len(), 2);
        assert!(left.by_pin(&Pin::of(b"one")).is_none());
        assert!(left.by_pin(&Pin::of(b"its next key")).is_some());
    }

    #[test]
    fn an_entry_that_contradicts_another_is_refused() {
        let mut peers = Peers::default();
        peers.add(peer("a", 1, "one")).unwrap();
        let before = peers.clone();
        let taken = peers.add(peer("b", 2, "one"));
        assert!(matches!(taken, Err(PeerFault::PinTaken { .. })));
        for other in [peer("a", 2, "two"), peer("b", 1, "two")] {
            let refused = peers.add(other);
            assert!(matches!(refused, Err(PeerFault::OtherNode { .. })));
        }
        for name in ["", "-a", ".a", "a b", "a\n", "a\"", "ä", &"a".repeat(65)] {
            let refused = peers.add(peer(name, 3, "three"));
            assert!(matches!(refused, Err(PeerFault::Name { .. })), "{name:?}");
        }
        let nothing = peers.add(peer("z", 0, "three"));
        assert!(matches!(nothing, Err(PeerFault::NoNode { .. })));
        assert_eq!(peers, before);
        for i in 1..PEERS_MAX {
            peers.add(peer("a", 1, &i.to_string())).unwrap();
        }
        assert_eq!(peers.add(peer("a", 1, "more")), Err(PeerFault::Full));
    }

    #[test]
    fn a_file_says_what_is_expected_or_is_refused() {
        assert_eq!(load("").unwrap(), Peers::default());
        let pin = Pin::of(b"one");
        let entry = |pin: &str, more: &str| {
            format!(
                "[[peer]]\nname = \"a\"\nnode = \"{}\"\npin = \"{pin}\"\n{more}",
                "1".repeat(32)
            )
        };
        assert_eq!(load(&entry(&pin.to_string(), "")).unwrap().len(), 1);
        let unreadable = [
            entry(&pin.to_string(), "trust = true\n"),
            entry(&pin.to_string(), "address = \"example.org:1\"\n"),
            entry("sha256:00", ""),
            "peer = 1".to_owned(),
            "nodes = []".to_owned(),
            entry(&pin.to_string(), "").replace("name = \"a\"\n", ""),
        ];
        for text in unreadable {
            let error = load(&text).unwrap_err();
            assert!(matches!(error, PeersError::Unreadable { .. }), "{error}");
        }
        let twice = entry(&pin.to_string(), "").repeat(2);
        let error = load(&twice).unwrap_err();
        assert!(matches!(error, PeersError::Contradictory { .. }), "{error}");
    }

    #[test]
    fn a_list_that_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.toml");
        Peers::default().save(&path).unwrap();
        for (mode, fine) in [(0o600, true), (0o644, true), (0o660, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Peers::load(&path).is_ok(), fine, "{mode:o}");
        }
    }
}
