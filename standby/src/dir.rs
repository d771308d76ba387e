//! What lies where in a node's directory.

use std::path::{Path, PathBuf};

/// A node's directory. The engine's own files lie in it beside these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDir {
    root: PathBuf,
}

impl NodeDir {
    /// The directory `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The settings that an operator edits.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("node.toml")
    }

    /// The node's private key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// The peers that it trusts.
    #[must_use]
    pub fn peers(&self) -> PathBuf {
        self.root.join("peers.toml")
    }

    /// The socket of the running node.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Certificates of promotions.
    #[must_use]
    pub fn promotions(&self) -> PathBuf {
        self.root.join("promotions")
    }
}
