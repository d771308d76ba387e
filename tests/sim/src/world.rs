//! The world: time, what is to happen next, and the two nodes to which it happens.

mod clients;
mod faults;
mod lives;
mod operators;
mod promise;
mod rest;
mod settle;
mod traffic;
mod work;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use outlast_engine::format::{ClusterId, NodeId};
use outlast_engine::fs::MemFs;
use outlast_engine::{InitOptions, Store};
use outlast_proto::{Message, ProtectionPoint, Stamp};

use crate::clock::SimClock;
use crate::ledger::Ledger;
use crate::network::{Kind, Line, Link, LinkId};
use crate::node::Node;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::promise::Certified;
use crate::report::{Counts, Options};
use crate::trace::{FNV_OFFSET, Trace, fnv};
use crate::violation::{Checked, Violation};

pub(crate) const MS: u64 = 1_000_000;

/// Segments as small as they may be, so that logs rotate.
const SEGMENT_SIZE: u64 = 64 << 10;

/// Most events of a seed: one that goes on for longer turns in circles.
const STEPS_MAX: u64 = 60_000;

/// What happens at a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// A timer of a process may be due.
    Wake { node: usize, life: u32 },
    /// The next step of a group.
    Group { node: usize, life: u32 },
    /// A follower's jobs.
    Jobs { node: usize, life: u32 },
    /// A follower's replay.
    Replay { node: usize, life: u32 },
    /// What came of them.
    Done { node: usize, life: u32 },
    /// A dialler's handshake is through, or not.
    Established { node: usize, life: u32 },
    /// Something may arrive.
    Arrival {
        link: LinkId,
        from_end: usize,
        data: bool,
    },
    /// The control stream took what one end gave it.
    Flushed { link: LinkId, end: usize },
    /// One end notices that a link is dead; `cuts` names the cut that may have done it.
    Dead {
        link: LinkId,
        end: usize,
        cuts: Option<u32>,
    },
    /// A client commits.
    Commit,
    /// A client reads.
    Read,
    /// The next thing of the plan.
    Act(usize),
    /// An operator gives a standby up.
    Resume { node: usize },
    /// The line works again.
    Mend { cuts: u32 },
    /// A disk works again.
    Heal { node: usize, life: u32 },
    /// A node starts.
    Start { node: usize, life: u32 },
    /// Faults stop.
    Calm,
    /// A look at whether the pair has come to rest.
    Rest,
    /// A look at whether the standby's silence fences its primary; `near` when it soon does.
    Fence { near: bool },
    /// A standby that has withdrawn is promoted, or follows again.
    Promote { node: usize, life: u32 },
    /// A client that asks for much in a short time.
    Burst { left: u8 },
}

pub(crate) struct World {
    now_ns: u64,
    /// The same, for the clocks.
    true_ns: Arc<AtomicU64>,
    rng: Rng,
    plan: Plan,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Numbers events, so that those of one moment keep their order.
    events: u64,
    nodes: [Node; 2],
    links: Vec<Link>,
    line: Line,
    /// Messages of earlier sessions, by the node that sent them.
    old_messages: [Vec<(LinkId, Message)>; 2],
    ledger: Ledger,
    oracle: Oracle,
    /// Whether faults have stopped.
    calm: bool,
    /// When they did.
    calm_ns: u64,
    resumed_alone: bool,
    /// What promoted nodes have stated.
    certified: Vec<Certified>,
    /// The protection record that each heartbeat named, by session and stamp.
    beats: BTreeMap<([u8; 8], Stamp), Option<ProtectionPoint>>,
    /// The last commit of all, which shows that writes go on.
    last_asked: bool,
    last_id: Option<u64>,
    over: bool,
    pub(crate) counts: Counts,
    pub(crate) decisions: u64,
    trace: Trace,
}

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(seed, &mut rng);
        let true_ns = Arc::new(AtomicU64::new(0));
        let nodes = [0, 1].map(|index: usize| {
            let fs = MemFs::new();
            let id = NodeId([if index == 0 { 0xa } else { 0xb }; 16]);
            let made = InitOptions {
                cluster: ClusterId([0xc; 16]),
                node: id,
                segment_size: SEGMENT_SIZE,
                has_peer: plan.pair,
                follower: index == 1,
                ..InitOptions::new(crate::trace::node_name(index))
            };
            if let Err(error) = Store::init_on(&fs, &made) {
                panic!("no store can be made: {error}");
            }
            let [rate, _] = plan.rates_ppm;
            let [wall, _] = plan.wall_offsets_ms;
            let (rate, wall) = match (index, plan.rates_ppm, plan.wall_offsets_ms) {
                (0, ..) => (rate, wall),
                (_, [_, rate], [_, wall]) => (rate, wall),
            };
            let clock = SimClock::new(true_ns.clone(), rate, wall + options.wall_shift_ms);
            Node::new(
                id,
                fs,
                clock,
                rng.u64(..),
                Duration::from_millis(plan.ahead_max_ms),
            )
        });
        Self {
            now_ns: 0,
            true_ns,
            line: Line {
                cut: [false; 2],
                cuts: 0,
                latency_ns: plan.latency_ns,
            },
            rng,
            plan,
            queue: BinaryHeap::new(),
            events: 0,
            nodes,
            links: Vec::new(),
            old_messages: Default::default(),
            ledger: Ledger::default(),
            oracle: Oracle::default(),
            calm: false,
            calm_ns: 0,
            resumed_alone: false,
            certified: Vec::new(),
            beats: BTreeMap::new(),
            last_asked: false,
            last_id: None,
            over: false,
            counts: Counts::default(),
            decisions: FNV_OFFSET,
            trace: Trace::new(options.trace),
        }
    }

    pub(crate) fn into_trace(self) -> Trace {
        self.trace
    }

    /// Runs until the pair has come to rest, or an invariant does not hold.
    pub(crate) fn run(&mut self) -> Checked {
        let plan = format!("{:?}", self.plan);
        self.say(None, format_args!("{plan}"));
        self.start(0)?;
        if self.plan.pair {
            self.start(1)?;
        }
        for (index, (at, _)) in self.plan.acts.clone().into_iter().enumerate() {
            self.at(at, Event::Act(index));
        }
        self.at(2 * MS, Event::Commit);
        self.at(3 * MS, Event::Read);
        self.at(self.plan.chaos_ns, Event::Calm);
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            assert!(at >= self.now_ns, "time went from {} to {at}", self.now_ns);
            self.now_ns = at;
            self.true_ns.store(at, Ordering::Relaxed);
            self.counts.steps += 1;
            if self.counts.steps > STEPS_MAX {
                let what = format!("{STEPS_MAX} events and no rest");
                return Err(Violation::new("I15", what));
            }
            self.happen(event)?;
            if self.over {
                break;
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        if let Some(node) = self.subject(&event).filter(|node| self.is_paused(*node)) {
            // A process that stands still finds all of it when it goes on.
            let until_ns = self.node(node).paused_until_ns;
            self.at(until_ns, event);
            return Ok(());
        }
        match event {
            Event::Wake { node, life } => self.alive(node, life, Self::wake),
            Event::Group { node, life } => self.alive(node, life, Self::group_step),
            Event::Jobs { node, life } => self.alive(node, life, Self::do_jobs),
            Event::Replay { node, life } => self.alive(node, life, Self::do_replay),
            Event::Done { node, life } => self.alive(node, life, Self::tell_done),
            Event::Established { node, life } => self.alive(node, life, Self::established),
            Event::Arrival {
                link,
                from_end,
                data,
            } => {
                let kind = if data { Kind::Data } else { Kind::Control };
                self.arrive(link, from_end, kind)
            }
            Event::Flushed { link, end } => self.flushed(link, end),
            Event::Dead { link, end, cuts } => {
                let because = cuts.is_none_or(|cuts| cuts == self.line.cuts && self.is_cut());
                if because { self.die(link, end) } else { Ok(()) }
            }
            Event::Commit => self.commit(),
            Event::Read => self.read(),
            Event::Act(index) => match self.plan.acts.get(index) {
                Some((_, act)) if !self.calm => {
                    let act = *act;
                    self.act(act)
                }
                _ => Ok(()),
            },
            Event::Resume { node } => {
                if self.calm {
                    Ok(())
                } else {
                    self.resume_alone(node)
                }
            }
            Event::Mend { cuts } => {
                if cuts == self.line.cuts {
                    self.mend();
                }
                Ok(())
            }
            Event::Heal { node, .. } => self.heal(node),
            Event::Start { node, life } => {
                let due = self.node(node).life == life && self.node(node).process.is_none();
                if due { self.start(node) } else { Ok(()) }
            }
            Event::Calm => self.calm(),
            Event::Rest => self.rest(),
            Event::Fence { near } => self.fence(near),
            Event::Promote { node, life } => self.alive(node, life, Self::promote_withdrawn),
            Event::Burst { left } => self.burst(left),
        }
    }

    /// Does something to a process unless it is another one by now, then what follows from it.
    fn alive(
        &mut self,
        node: usize,
        life: u32,
        act: impl FnOnce(&mut Self, usize) -> Checked,
    ) -> Checked {
        if self.node(node).life != life || self.node(node).process.is_none() {
            return Ok(());
        }
        act(self, node)?;
        self.settle(node)
    }

    fn at(&mut self, at_ns: u64, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((at_ns, self.events, event)));
    }

    fn after(&mut self, wait_ns: u64, event: Event) {
        self.at(self.now_ns + wait_ns, event);
    }

    fn node(&self, node: usize) -> &Node {
        let [a, b] = &self.nodes;
        if node == 0 { a } else { b }
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        let [a, b] = &mut self.nodes;
        if node == 0 { a } else { b }
    }

    fn say(&mut self, node: Option<usize>, what: std::fmt::Arguments<'_>) {
        self.trace.say(self.now_ns, node, what);
    }

    /// Takes a decision into the account that must not depend on any date.
    fn decide(&mut self, node: usize, what: std::fmt::Arguments<'_>) {
        self.decisions = fnv(self.decisions, what.to_string().as_bytes());
        self.say(Some(node), what);
    }

    /// The nodes that there are.
    fn count(&self) -> usize {
        if self.plan.pair { 2 } else { 1 }
    }
}
