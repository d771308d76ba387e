//! Up to three nodes, their terms and their logs: promotions, restarts, forks and fences, without
//! clocks. Every commit is answered at the level *replicated*: once all standbys of its writer
//! hold it.
//!
//! What a node that is dialled does, and how two logs lie to each other, is decided by the
//! product's own functions ([`outlast_proto::meet`], [`outlast_proto::relate`]); what follows from
//! it is written down again here.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers of nodes, epochs and frames are the model's own; one out of range is a fault"
)]

mod arrive;
mod cores;
mod log;
mod rules;
mod steps;
mod words;

pub use self::log::Log;
pub use self::rules::Rule;

/// Nodes, and the limits of what may happen to them.
#[derive(Clone, Copy, Debug)]
pub struct Nodes {
    /// The rule that is switched off.
    pub off: Option<Rule>,
    /// Whom each node dials when it is a primary, as bits: its standbys. Node 0 is the first
    /// primary.
    pub standbys: [u8; 3],
    /// Commits.
    pub commits: u8,
    /// Sessions that may begin.
    pub sessions: u8,
    /// Messages under way at once.
    pub under_way: usize,
    /// Promotions.
    pub promotions: u8,
    /// Crashes.
    pub crashes: u8,
    /// Nodes that an operator makes anew, from a backup of the newest primary.
    pub restores: u8,
    /// Primaries that are told to go on alone.
    pub alone: u8,
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// It follows, or would.
    Standby,
    /// It writes.
    Primary,
    /// It was a primary, started again, and waits.
    Waiting,
    /// It was a primary and met a higher term.
    Fenced,
    /// It waits for an operator's choice.
    Conflict,
}

/// Why an epoch began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Why {
    Init,
    Restart,
    Promotion,
    Alone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Epoch {
    term: u8,
    start: u8,
    opener: u8,
    node: u8,
    why: Why,
    /// End of what was answered of its frames.
    answered: u8,
    /// The newest term under which its node had answered somebody when it was promoted.
    knew: Option<u8>,
}

/// What a primary says first.
#[allow(missing_docs, reason = "the words of the protocol")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Greeting {
    pub session: u8,
    pub from: u8,
    /// Whether it only wants to hear from a standby.
    pub contact: bool,
    pub log: Log,
    pub heard: Option<u8>,
}

/// A message. All name their session.
#[allow(missing_docs, reason = "the words of the protocol")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Message {
    /// A primary begins a session.
    Hello { to: u8, greeting: Greeting },
    /// The standby agrees, and has this log.
    Welcome {
        session: u8,
        from: u8,
        to: u8,
        log: Log,
        heard: Option<u8>,
    },
    /// It does not; this is the highest term that it knows.
    Refuse {
        session: u8,
        from: u8,
        to: u8,
        heard: Option<u8>,
        conflict: bool,
    },
    /// The histories part below the standby's end.
    Diverged { session: u8, to: u8 },
    /// Frames from `resume` on.
    Data {
        session: u8,
        to: u8,
        resume: u8,
        log: Log,
    },
    /// This much is durable.
    Ack {
        session: u8,
        from: u8,
        to: u8,
        durable: u8,
    },
}

/// What may happen.
#[allow(missing_docs, reason = "node numbers")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A primary forms a frame.
    Append { node: u8 },
    /// And fsyncs.
    Fsync { node: u8 },
    /// It answers the next commit OK.
    Answer { node: u8 },
    /// This is sent.
    Send(Message),
    /// This arrives.
    Arrive(Message),
    /// This is lost.
    Drop(Message),
    /// A node crashes and boots; what was not synced is lost, or kept.
    Crash { node: u8, kept: bool },
    /// A primary that waited begins its epoch.
    Begin { node: u8 },
    /// One is told to go on alone.
    Alone { node: u8 },
    /// A standby is promoted.
    Promote { node: u8 },
    /// A node is made anew, from a backup of another.
    Restore { node: u8, from: u8 },
}

/// A primary's end of a line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Line {
    /// The session that it asked for; 0 for none.
    session: u8,
    up: bool,
    replicated: u8,
    /// Whether the standby has answered this process.
    contacted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Node {
    role: Role,
    log: Log,
    durable: u8,
    answered: u8,
    /// The highest term ever heard of, and what of that is durable.
    heard: Option<u8>,
    heard_durable: Option<u8>,
    fence_durable: bool,
    /// Whether a standby attached in this term, and whether that is durable.
    attached: bool,
    attached_durable: bool,
    following: Option<Greeting>,
    lines: [Line; 3],
    /// What it has promised to others: the newest term under which it has answered, or by which it
    /// was fenced. No process remembers this; the checks do.
    told: Option<u8>,
    fenced: bool,
}

/// What a promotion stated: nothing that was answered under this term is missing in this log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Certificate {
    term: u8,
    log: Log,
}

/// All nodes at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    nodes: [Node; 3],
    epochs: Vec<Epoch>,
    line: Vec<Message>,
    certificates: Vec<Certificate>,
    commits: u8,
    sessions: u8,
    promotions: u8,
    crashes: u8,
    restores: u8,
    alone: u8,
    fault: Option<&'static str>,
}

impl State {
    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    fn epoch(&self, epoch: u8) -> &Epoch {
        &self.epochs[usize::from(epoch)]
    }

    fn epoch_mut(&mut self, epoch: u8) -> &mut Epoch {
        &mut self.epochs[usize::from(epoch)]
    }

    /// Whether `log` holds all that was answered under the term that `term` opened.
    fn holds_answered(&self, log: &Log, term: u8) -> bool {
        (0..).zip(&self.epochs).all(|(number, epoch)| {
            let missing = epoch.opener == term && epoch.answered > 0;
            !missing || log.holds(number, epoch.answered)
        })
    }

    /// What promise is broken, if one is.
    fn judge(&self) -> Option<&'static str> {
        if self.fault.is_some() {
            return self.fault;
        }
        let lost = |c: &Certificate| !self.holds_answered(&c.log, c.term);
        if self.certificates.iter().any(lost) {
            return Some("CERTIFIED, and more was answered than the promoted log holds");
        }
        for node in &self.nodes {
            let term = node.log.last().map(|epoch| self.epoch(epoch).opener);
            if node.role == Role::Primary
                && term.is_some_and(|term| !self.holds_answered(&node.log, term))
            {
                return Some("DURABLE, and its writer lacks what was answered");
            }
        }
        let [a, b, c] = &self.nodes;
        let parted = |(one, other): &(&Node, &Node)| {
            let pairs = one.log.frames().iter().zip(other.log.frames());
            let same = (1..).zip(pairs).filter(|(_, (x, y))| x == y);
            let last = same.map(|(end, _)| end).last();
            last.is_some_and(|end| one.log.shared(&other.log) < end)
        };
        [(a, b), (a, c), (b, c)]
            .iter()
            .any(parted)
            .then_some("ONE HISTORY, and one frame has two pasts")
    }
}
