//! A pair to measure: the primary in this process, its standby in a process of its own, perhaps
//! with a relay on the line between them.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use outlast_standby::config::Policy;
use outlast_standby::proto::Action;
use outlast_standby::status::{ProtectionState, ProtectionStatus};
use outlast_standby::{Card, NewNode, Node, NodeDir, init};
use rustix::process::{Pid, Signal, kill_process};

use super::load::sleep_until;
use super::report::BoundSettings;
use crate::child::end_with_this;
use crate::relay::{self, Lines, RelayHandle};

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a pair is made with.
#[derive(Debug, Clone)]
pub struct BedSettings {
    /// Where its directory is made.
    pub parent: PathBuf,
    /// The program that serves the standby.
    pub exe: PathBuf,
    /// Size of segment files, in bytes.
    pub segment_size: u64,
    /// How the relay in between behaves; `None` for no relay.
    pub lines: Option<Lines>,
    /// What the relay's faults are drawn from.
    pub seed: u64,
    /// What the pair is to promise.
    pub policy: Policy,
}

/// A pair and all that belongs to it. Dropping it ends the processes and removes the directory.
pub struct Bed {
    exe: PathBuf,
    standby: Option<Child>,
    primary: Option<Node>,
    relay: Option<RelayHandle>,
    /// Goes last.
    dir: tempfile::TempDir,
}

impl Bed {
    /// Makes both nodes and starts the primary.
    pub fn make(settings: &BedSettings) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("outlast-bench-")
            .tempdir_in(&settings.parent)
            .with_context(|| format!("cannot make a directory in {}", settings.parent.display()))?;
        let (at_a, at_b) = (free_address()?, free_address()?);
        let relay = settings.lines.clone().map(|lines| {
            relay::spawn(relay::Settings {
                seed: settings.seed,
                lines,
                ..relay::Settings::plain(at_b)
            })
        });
        let relay = relay.transpose()?;
        let new = |name: &str, peer: &str, listen, cluster: Option<_>| NewNode {
            name: name.to_owned(),
            cluster,
            standby: cluster.is_some(),
            peer: Some(peer.to_owned()),
            policy: Some(settings.policy),
            listen,
            segment_size: settings.segment_size,
        };
        let first = init(&dir.path().join("a"), &new("a", "b", at_a, None))?;
        let second = new("b", "a", at_b, Some(first.cluster));
        let second = init(&dir.path().join("b"), &second)?;
        let dialled = relay.as_ref().map_or(at_b, RelayHandle::address);
        trust(&dir.path().join("a"), &second, dialled)?;
        trust(&dir.path().join("b"), &first, at_a)?;
        let primary = Node::start(&dir.path().join("a"))?;
        Ok(Self {
            exe: settings.exe.clone(),
            standby: None,
            primary: Some(primary),
            relay,
            dir,
        })
    }

    /// The primary.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn primary(&self) -> Result<&Node> {
        self.primary.as_ref().context("the primary was stopped")
    }

    /// Directory of the primary.
    pub fn primary_dir(&self) -> PathBuf {
        self.dir.path().join("a")
    }

    /// Directory of the standby.
    pub fn standby_dir(&self) -> PathBuf {
        self.dir.path().join("b")
    }

    /// Starts the standby's process and answers with its id at once; see [`Bed::wait_attached`]. It
    /// does not outlive the thread that starts it.
    pub fn start_standby(&mut self) -> Result<u32> {
        ensure!(self.standby.is_none(), "the standby runs already");
        let mut command = Command::new(&self.exe);
        command
            .arg("serve")
            .arg("--dir")
            .arg(self.standby_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = end_with_this(&mut command)
            .spawn()
            .with_context(|| format!("cannot run {}", self.exe.display()))?;
        Ok(self.standby.insert(child).id())
    }

    /// Waits until the standby is attached.
    pub fn wait_attached(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let peer = self.primary()?.status().peer;
            if peer.is_some_and(|peer| peer.connected) {
                return Ok(());
            }
            let ended = self.standby.as_mut().map(Child::try_wait).transpose()?;
            if let Some(status) = ended.flatten() {
                bail!("the standby ended by itself: {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "the standby does not attach within {PATIENCE:?}"
            );
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// The relay on the line, for who changes how it behaves. The line stays as long as it does.
    pub const fn take_relay(&mut self) -> Option<RelayHandle> {
        self.relay.take()
    }

    /// Promises this from now on, and waits until it is so.
    pub fn promise(&self, policy: Policy) -> Result<()> {
        let action = match policy {
            Policy::Bounded { action, .. } => action,
            _ => Action::Stall,
        };
        self.primary()?
            .set_policy(policy.promise(), action, "measuring")?;
        self.wait_promised(policy)
    }

    /// Waits until the promise that the pair was made with is in force.
    pub fn wait_promised(&self, policy: Policy) -> Result<()> {
        let wanted = BoundSettings::from(policy);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.primary()?.status().protection;
            if policy == Policy::Async && now.as_ref().is_none_or(|now| !is_kept(now)) {
                return Ok(());
            }
            if now.is_some_and(|now| is_kept(&now) && bound_of(&now) == wanted) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the bound is not in force within {PATIENCE:?}"
            );
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Lets the standby close cleanly, and waits for its end.
    pub fn stop_standby(&mut self) -> Result<()> {
        let Some(mut child) = self.standby.take() else {
            return Ok(());
        };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = child.wait()?;
        ensure!(
            status.success(),
            "the standby did not close cleanly: {status}"
        );
        Ok(())
    }

    /// Lets the primary close cleanly.
    pub fn stop_primary(&mut self) -> Result<()> {
        match self.primary.take() {
            Some(primary) => Ok(primary.stop()?),
            None => Ok(()),
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut child) = self.standby.take() {
            // What is measured is over; its directory goes away with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const fn is_kept(now: &ProtectionStatus) -> bool {
    matches!(
        now.state,
        ProtectionState::Protected | ProtectionState::Stalled
    )
}

fn bound_of(now: &ProtectionStatus) -> BoundSettings {
    BoundSettings {
        bytes: now.bound_bytes,
        commits: now.bound_commits,
        ms: now.bound_ms.map(|ms| ms as f64),
        lease_ms: now.lease_ms.map(|ms| ms as f64),
    }
}

/// Cuts both directions of a line, `from` now on, and heals them after that has lasted.
///
/// # Errors
/// When the relay has ended.
pub fn cut(relay: &mut RelayHandle, (from, lasts): (Duration, Duration)) -> Result<()> {
    let origin = Instant::now();
    for (at, is_cut) in [(from, true), (from + lasts, false)] {
        sleep_until(origin, at);
        relay.change(|lines| (lines.up.cut, lines.down.cut) = (is_cut, is_cut))?;
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

fn trust(dir: &Path, card: &Card, address: SocketAddr) -> Result<()> {
    let mut peers = outlast_shipper::Peers::default();
    peers.add(outlast_shipper::Peer {
        name: card.name.clone(),
        node: card.node,
        pin: card.pin,
        address: Some(address),
    })?;
    Ok(peers.save(&NodeDir::new(dir).peers())?)
}
