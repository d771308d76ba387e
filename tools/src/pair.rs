//! Two nodes as processes of their own on this machine, and what is done to them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outlast_engine::format::ClusterId;
use outlast_shipper::{Peer, Peers};
use outlast_standby::certificate::{Certificate, Outcome};
use outlast_standby::config::{NodeConfig, Policy, Tuning};
use outlast_standby::control::Client;
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_standby::status::Status;
use outlast_standby::{Card, NewNode, NodeDir, card, init};
use rustix::process::{Pid, Signal, kill_process};

use crate::child::end_with_this;
use crate::exit::Exit;
use crate::model::State;

/// How long anything may take that takes milliseconds on a machine that does nothing else.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Below those that Linux gives out by itself.
const PORTS_NOT_GIVEN_OUT: std::ops::Range<u16> = 10_000..32_768;

/// How the nodes of a pair are made.
#[derive(Clone, Debug)]
pub struct PairSettings {
    /// Size of segment files in bytes.
    pub segment_size: u64,
    /// How both run.
    pub tuning: Tuning,
}

/// Two nodes that trust each other, each in a directory of its own. The first begins as the
/// primary.
#[derive(Clone, Debug)]
pub struct Pair {
    exe: PathBuf,
    settings: PairSettings,
    processes: Processes,
    /// The one that begins as the primary.
    pub a: NodePlace,
    /// The one that begins as its standby.
    pub b: NodePlace,
}

/// Where a node of a pair is.
#[derive(Clone, Debug)]
pub struct NodePlace {
    name: String,
    dir: PathBuf,
    address: SocketAddr,
}

impl NodePlace {
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is shown of it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens for its peer.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn new(root: &Path, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            dir: root.join(name),
            address: free_address()?,
        })
    }
}

impl Pair {
    /// Makes both nodes below `root`; `exe` is the `outlast` binary that will run them.
    pub fn make(exe: &Path, root: &Path, settings: PairSettings) -> Result<Self> {
        let a = NodePlace::new(root, "a")?;
        let b = NodePlace::new(root, "b")?;
        let exe = exe.to_owned();
        let pair = Self {
            exe,
            settings,
            processes: Processes::default(),
            a,
            b,
        };
        let first = pair.init(&pair.a, &pair.b, None)?;
        let second = pair.init(&pair.b, &pair.a, Some(first.cluster))?;
        trust(&pair.a, &second, &pair.b)?;
        trust(&pair.b, &first, &pair.a)?;
        Ok(pair)
    }

    /// The same pair, whose processes `processes` can end.
    pub fn under(self, processes: &Processes) -> Self {
        let processes = processes.clone();
        Self { processes, ..self }
    }

    /// Makes a new, empty standby of `b` in the place of `a`, whose directory is moved to `aside`.
    /// Neither may be running.
    pub fn replace_a(&self, aside: &Path) -> Result<()> {
        fs::rename(&self.a.dir, aside)?;
        let peer = card(&self.b.dir)?;
        let new = self.init(&self.a, &self.b, Some(peer.cluster))?;
        trust(&self.a, &peer, &self.b)?;
        trust(&self.b, &new, &self.a)
    }

    /// Lets a node reach its peer at `address` from its next start on, as by way of a relay.
    pub fn reach(&self, node: &NodePlace, address: SocketAddr) -> Result<()> {
        let path = NodeDir::new(&node.dir).peers();
        let mut there = Peers::default();
        for peer in Peers::load(&path)?.iter() {
            let address = Some(address);
            there.add(Peer {
                address,
                ..peer.clone()
            })?;
        }
        Ok(there.save(&path)?)
    }

    fn init(&self, node: &NodePlace, peer: &NodePlace, cluster: Option<ClusterId>) -> Result<Card> {
        let new = NewNode {
            name: node.name.clone(),
            cluster,
            standby: cluster.is_some(),
            peer: Some(peer.name.clone()),
            policy: Some(Policy::Async),
            listen: node.address,
            segment_size: self.settings.segment_size,
        };
        let card = init(&node.dir, &new)?;
        let dir = NodeDir::new(&node.dir);
        let mut config = NodeConfig::load(&dir)?;
        config.tuning = self.settings.tuning.clone();
        fs::write(dir.config(), config.to_text()?)?;
        Ok(card)
    }

    /// Starts a node and waits until it answers. It does not outlive the thread that starts it.
    pub fn start(&self, node: &NodePlace) -> Result<NodeProcess> {
        let process = self.spawn(node, &[])?;
        process.until("the node answers", |process| {
            Ok(process.status().ok().map(|_| ()))
        })?;
        Ok(process)
    }

    /// Starts a node with `variables` in its environment, and does not wait until it answers. It
    /// does not outlive the thread that starts it.
    pub fn spawn(&self, node: &NodePlace, variables: &[(&str, &str)]) -> Result<NodeProcess> {
        NodeProcess::start(&self.exe, node, variables, &self.processes)
    }

    /// Runs a command of the binary for a node.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        node: &NodePlace,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        let output = self.command(node, arguments).output();
        output.with_context(|| format!("cannot run {}", self.exe.display()))
    }

    /// A command of the binary for a node, in no way changed by the environment.
    pub fn command<A: AsRef<OsStr>>(
        &self,
        node: &NodePlace,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = binary(&self.exe);
        command.arg("--dir").arg(&node.dir).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Promotes a node through the binary: again while it is refused because the old primary still
    /// counts as answering.
    pub fn promote(&self, node: &NodePlace, reason: &str) -> Result<Certificate> {
        let arguments = [
            "promote",
            "-o",
            "json",
            "--primary-is-down",
            "--accept-loss",
            "unbounded",
            "--reason",
            reason,
        ];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.run(node, arguments)?;
            let said = String::from_utf8_lossy(&output.stderr);
            let refused = output.status.code() == Some(Exit::Refused as i32);
            if !refused && !output.status.success() {
                bail!("the standby was not promoted ({}): {said}", output.status);
            }
            let certificate: Certificate = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("the promotion gave no certificate: {said}"))?;
            match &certificate.outcome {
                Outcome::Promoted => return Ok(certificate),
                outcome if Instant::now() > deadline => {
                    bail!("the standby was not promoted: {outcome:?}");
                }
                Outcome::Refused { .. } => thread::park_timeout(LOOK_EVERY * 10),
                outcome => bail!("the standby was not promoted: {outcome:?}"),
            }
        }
    }
}

/// The processes of a pair, for whoever must end them all at any moment.
#[derive(Clone, Debug, Default)]
pub struct Processes(Arc<Mutex<Started>>);

#[derive(Debug, Default)]
struct Started {
    children: Vec<Weak<Mutex<OwnedChild>>>,
    ended: bool,
}

impl Processes {
    /// Kills and reaps all of them, and lets no other begin.
    pub fn end(&self) {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.ended = true;
        for child in started
            .children
            .drain(..)
            .filter_map(|child| child.upgrade())
        {
            child.lock().unwrap_or_else(PoisonError::into_inner).end();
        }
    }

    /// Whether they were ended.
    pub fn have_ended(&self) -> bool {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.ended
    }

    /// Starts one, in one step with remembering it.
    fn spawn(&self, command: &mut Command) -> io::Result<Arc<Mutex<OwnedChild>>> {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if started.ended {
            return Err(io::Error::other("the processes of this pair were ended"));
        }
        let child = Arc::new(Mutex::new(OwnedChild(command.spawn()?)));
        started.children.push(Arc::downgrade(&child));
        Ok(child)
    }
}

/// A node's process. It is killed and reaped when the last handle on it is dropped.
#[derive(Clone, Debug)]
pub struct NodeProcess {
    child: Arc<Mutex<OwnedChild>>,
    place: NodePlace,
}

#[derive(Debug)]
struct OwnedChild(Child);

impl OwnedChild {
    /// It may have ended by itself: then there is nothing to do.
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        self.end();
    }
}

impl NodeProcess {
    fn start(
        exe: &Path,
        place: &NodePlace,
        variables: &[(&str, &str)],
        processes: &Processes,
    ) -> Result<Self> {
        let said = File::options()
            .create(true)
            .append(true)
            .open(place.dir.with_extension("said"))?;
        let mut command = binary(exe);
        command
            .arg("serve")
            .arg("--dir")
            .arg(&place.dir)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            // A Ctrl-C is for whoever started it, who then ends the node.
            .process_group(0);
        let child = processes.spawn(end_with_this(&mut command));
        Ok(Self {
            child: child.with_context(|| format!("cannot run {}", exe.display()))?,
            place: place.clone(),
        })
    }

    /// Where it is.
    pub fn place(&self) -> &NodePlace {
        &self.place
    }

    /// A connection to it.
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(&self.place.dir)
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<Status> {
        Ok(self.client()?.status()?)
    }

    /// Waits until a session with its peer is up.
    pub fn until_connected(&self) -> Result<()> {
        self.until("the two nodes meet", |process| {
            let status = process.status()?;
            Ok(status.peer.is_some_and(|peer| peer.connected).then_some(()))
        })
    }

    /// All that its readers see in the keyspace `default`, at one moment. Nothing if the keyspace
    /// is not there.
    pub fn scan(&self) -> Result<State> {
        scan(&mut self.client()?)
    }

    /// Ends it at once, as a power cut would end its machine, and reaps it.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.lock();
        child.0.kill()?;
        child.0.wait()?;
        Ok(())
    }

    /// Makes it stand still, as a machine that is frozen does.
    pub fn stand_still(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on where it stood still.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.lock();
        Ok(kill_process(Pid::from_child(&child.0), signal)?)
    }

    /// Lets it close, and waits for that.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(
                    "node {} ended with {status}{}",
                    self.place.name,
                    self.said()
                ),
                None if Instant::now() > deadline => {
                    bail!("node {} does not close{}", self.place.name, self.said())
                }
                None => thread::park_timeout(LOOK_EVERY),
            }
        }
    }

    /// Waits until `look` finds something, while the node runs.
    pub fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            let name = &self.place.name;
            if let Some(status) = self.ended()? {
                bail!(
                    "node {name} ended with {status} before {what}{}",
                    self.said()
                );
            }
            if Instant::now() > deadline {
                let status = self.status().map(|status| format!("{status:?}"));
                let status = status.unwrap_or_else(|error| error.to_string());
                bail!(
                    "node {name}: waited in vain until {what}: {status}{}",
                    self.said()
                );
            }
            thread::park_timeout(LOOK_EVERY);
        }
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> io::Result<Option<ExitStatus>> {
        self.lock().0.try_wait()
    }

    fn lock(&self) -> MutexGuard<'_, OwnedChild> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it last said.
    pub fn said(&self) -> String {
        let said = fs::read_to_string(self.place.dir.with_extension("said"));
        let said = said.unwrap_or_default();
        let lines: Vec<_> = said.lines().rev().take(10).collect();
        lines
            .into_iter()
            .rev()
            .map(|line| format!("\n  {line}"))
            .collect()
    }
}

/// All that readers see in the keyspace `default`, at one moment.
pub fn scan(client: &mut Client) -> Result<State> {
    let ask = Ask::Scan {
        keyspace: "default".to_owned(),
        prefix: Vec::new(),
        start: None,
        end: None,
        reverse: false,
        limit: None,
        at: None,
    };
    let mut state = State::new();
    let mut other = None;
    let text = |bytes| String::from_utf8(bytes).context("the state holds what was never loaded");
    client.ask(ask, |reply| {
        match reply {
            Reply::Entries(entries) => {
                for (key, value) in entries {
                    match (text(key), text(value)) {
                        (Ok(key), Ok(value)) => {
                            state.insert(key, value);
                        }
                        (Err(error), _) | (_, Err(error)) => other = Some(error),
                    }
                }
            }
            reply => {
                other = Some(anyhow::anyhow!(
                    "the node answered something else: {reply:?}"
                ))
            }
        }
        Ok(())
    })?;
    other.map_or(Ok(state), Err)
}

fn binary(exe: &Path) -> Command {
    let mut command = Command::new(exe);
    for variable in ["OUTLAST_DIR", "OUTLAST_CONFIG", "OUTLAST_OUTPUT"] {
        command.env_remove(variable);
    }
    command
}

fn trust(node: &NodePlace, card: &Card, peer: &NodePlace) -> Result<()> {
    let mut peers = Peers::default();
    peers.add(Peer {
        name: card.name.clone(),
        node: card.node,
        pin: card.pin,
        address: Some(peer.address),
    })?;
    peers.save(&NodeDir::new(&node.dir).peers())?;
    Ok(())
}

/// An address that nobody listens on, and that the system gives to nobody who asks for any port:
/// it must still be free when the node starts, and when it starts again.
fn free_address() -> io::Result<SocketAddr> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        let port = fastrand::u16(PORTS_NOT_GIVEN_OUT);
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            return socket.local_addr();
        }
    }
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
