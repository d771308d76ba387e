//! Starting a node, and everything that must be true when it has started.

use outlast_engine::format::{EpochReason, LsnRange, NodeId, ProtectionRecord};
use outlast_engine::fs::Crash;
use outlast_engine::{LogState, Store};
use outlast_proto::Config;
use outlast_standby::drive::{Boot, boot};
use outlast_standby::status::Role;

use super::{Event, MS, World};
use crate::ledger::Outcome;
use crate::observer::Observer;
use crate::process::Process;
use crate::reader::{KEYSPACE, Reader};
use crate::violation::{Checked, Violation, check};

/// How nodes speak: everything a tenth of what is usual, so that more fits into a seed.
fn protocol() -> Config {
    let ms = std::time::Duration::from_millis;
    Config {
        heartbeat_interval: ms(100),
        silence_max: ms(300),
        handshake_timeout: ms(1_000),
        cut_timeout: ms(2_000),
        window_bytes: 64 << 10,
        run_bytes: 8 << 10,
        ..Config::default()
    }
}

impl World {
    /// Starts a node's process. The power may go again while it does.
    pub(super) fn start(&mut self, node: usize) -> Checked {
        self.counts.starts += 1;
        self.node_mut(node).life += 1;
        let chance = self.plan.nested;
        if !self.calm && self.now_ns > 0 && self.rng.u8(..100) < chance {
            let operations = self.rng.u64(1..30);
            self.node_mut(node).take_power_at(operations);
        }
        match self.begin(node)? {
            Ok(()) => self.settle(node),
            Err(error) => self.not_started(node, &error),
        }
    }

    fn not_started(&mut self, node: usize, error: &outlast_engine::Error) -> Checked {
        if self.node(node).has_lost_power() {
            self.counts.nested_cuts += 1;
            return self.lose_power(node);
        }
        if self.node_mut(node).put_back() {
            self.counts.rot_refused += 1;
            self.say(Some(node), format_args!("has a copy put back: {error}"));
            self.bury(node)?;
            self.start_later(node);
            return Ok(());
        }
        let excused = self.node(node).failing;
        check(excused, "I1", || format!("a node does not start: {error}"))?;
        self.say(Some(node), format_args!("does not start: {error}"));
        self.bury(node)?;
        let wait_ns = self.rng.u64(5 * MS..100 * MS);
        let life = self.node(node).life;
        self.after(wait_ns, Event::Start { node, life });
        Ok(())
    }

    fn begin(&mut self, node: usize) -> Checked<outlast_engine::Result<()>> {
        if self.rng.u8(..100) < 10 {
            self.say(Some(node), format_args!("its index is lost"));
            self.node(node).lose_index();
            self.counts.indexes_lost += 1;
        }
        let twice = self.rng.u8(..100) < 20;
        let mut copy = twice.then(|| self.node(node).open_copy());
        let mut store = match self.node(node).open() {
            Ok(store) => store,
            Err(error) => return Ok(Err(error)),
        };
        if self.node(node).is_rotten() {
            // Below the replay point nothing is read: a look at everything finds it there.
            let replay = store.index_size().replay;
            drop((store, copy.take()));
            check(self.node(node).is_rotten_unseen(replay), "I12", || {
                "a node starts though its log is damaged below what it had vouched for".to_owned()
            })?;
            self.node_mut(node).put_back();
            self.counts.rot_checked += 1;
            self.say(
                Some(node),
                format_args!("has a copy put back after a check"),
            );
            store = match self.node(node).open() {
                Ok(store) => store,
                Err(error) => return Ok(Err(error)),
            };
        }
        if let Some(Ok(copy)) = copy {
            self.compare_copies(node, &store, &copy)?;
        }
        let mut observer = Observer::new(&store, &self.node(node).seen)?;
        let id = self.node(node).id;
        observer.look(&store, id, &mut self.oracle)?;
        let mut reader = Reader::new(&store, &self.node(node).feed.clone(), &mut self.ledger)?;
        reader.advance(&mut self.ledger)?;
        let positions = store.positions();
        let state = store.state();
        self.say(
            Some(node),
            format_args!(
                "starts: {state:?} appended {} durable {} visible {}",
                positions.appended, positions.durable, positions.visible
            ),
        );
        self.check_kept(node, &store, &observer)?;
        let clock = self.node(node).clock.clone();
        let gatekeeper = self.gatekeeper(node);
        store.set_gate(gatekeeper.clone());
        let config = protocol();
        let mut process = Process::new(store.clone(), gatekeeper, clock, config, observer, reader);
        process.lane_ns = self.now_ns;
        let begun = take_up_role(&mut process, self.members(node));
        let torn = process.store.recovered().torn_bytes > 0;
        self.counts.torn_tails += u64::from(torn);
        self.node_mut(node).process = Some(process);
        Ok(begun)
    }

    /// Recovering twice gives what recovering once gives.
    fn compare_copies(&mut self, node: usize, one: &Store, other: &Store) -> Checked {
        let (a, b) = (one.log_view(), other.log_view());
        check(a == b, "I8", || format!("opened twice: {a:?} and {b:?}"))?;
        let mut reader = Reader::new(other, &self.node(node).feed.clone(), &mut self.ledger)?;
        reader.advance(&mut self.ledger)?;
        reader.compare(one, None)?;
        reader.compare(other, None)
    }

    /// What a node had promised is still there.
    fn check_kept(&self, node: usize, store: &Store, observer: &Observer) -> Checked {
        let kept = &self.node(node).kept;
        if let Some(frame) = kept.durable {
            observer.check_holds(frame, "what was durable")?;
        }
        if let Some(frame) = kept.acked {
            observer.check_holds(frame, "what was acknowledged")?;
        }
        let recovered = store.recovered();
        check(recovered.acked_tail_lost.is_none(), "I1", || {
            format!("a false alarm, or a loss, after a crash: {recovered:?}")
        })?;
        let term = store.term_heard().map_or(0, |heard| heard.term);
        check(term >= kept.term, "I6", || {
            format!(
                "term {} was told and is forgotten: term {term} now",
                kept.term
            )
        })?;
        let state = store.state();
        let fenced = matches!(state, LogState::Fenced(_) | LogState::Halted(_));
        check(fenced || !kept.fenced, "I6", || {
            format!("a fenced node is {state:?} after it started again")
        })?;
        let halted = matches!(state, LogState::Halted(_));
        check(halted || !kept.halted, "I6", || {
            format!("a node in a conflict is {state:?} after it started again")
        })
    }

    /// Takes the power from a machine, and lets it come back.
    pub(super) fn lose_power(&mut self, node: usize) -> Checked {
        self.counts.power_cuts += 1;
        let crash = match self.rng.u8(..10) {
            0 => Crash::LoseUnsynced,
            1 => Crash::KeepAll,
            _ => Crash::Random(self.rng.u64(..)),
        };
        self.say(Some(node), format_args!("loses power: {crash:?}"));
        let vouched = self.vouched(node);
        self.bury(node)?;
        let origin_ns = self.rng.u64(..1_000 * MS);
        self.node_mut(node).lose_power(crash, origin_ns);
        let share: usize = self.rng.usize(..1 << 20);
        if self.plan.rots
            && !self.calm
            && self.rng.bool()
            && let Some(range) = vouched
            && self.node_mut(node).rot(range, |len| share % len)
        {
            self.counts.rotten += 1;
            self.say(Some(node), format_args!("a bit of its log rots in {range}"));
        }
        self.start_later(node);
        Ok(())
    }

    /// What a node has vouched for of what it formed itself.
    fn vouched(&self, node: usize) -> Option<LsnRange> {
        let found = self.node(node);
        let process = found.process.as_ref()?;
        // Only a writer has formed all of its newest epoch itself.
        if process.store.state() != LogState::Writing {
            return None;
        }
        let durable = found.kept.durable?;
        process.observer.vouched(found.id, durable.end)
    }

    /// Ends a process; what it wrote stays in the page cache.
    pub(super) fn kill(&mut self, node: usize) -> Checked {
        self.counts.kills += 1;
        self.say(Some(node), format_args!("is killed"));
        self.bury(node)?;
        self.node_mut(node).heal_disk();
        self.start_later(node);
        Ok(())
    }

    pub(super) fn start_later(&mut self, node: usize) {
        let wait_ns = match self.rng.u8(..10) {
            _ if self.calm => 5 * MS,
            0 => self.rng.u64(500 * MS..1_500 * MS),
            _ => self.rng.u64(2 * MS..200 * MS),
        };
        let life = self.node(node).life;
        self.after(wait_ns, Event::Start { node, life });
    }

    /// What is left when a process is gone: callers without an answer, and links that die.
    pub(super) fn bury(&mut self, node: usize) -> Checked {
        self.node_mut(node).paused_until_ns = 0;
        let Some(ended) = self.node_mut(node).kill() else {
            return Ok(());
        };
        self.counts.compactions += ended.compactions;
        for id in ended.unheard {
            self.counts.commits_unknown += 1;
            self.ledger.end(id, Outcome::Unheard)?;
        }
        for link in 0..self.links.len() {
            let Some(found) = self.links.get_mut(link) else {
                continue;
            };
            let mine = found.end_of(node);
            let other = 1 - mine;
            if found.shut(mine) && found.is_open(other) {
                let wait_ns = self.rng.u64(self.line.latency_ns..400 * MS);
                let (end, cuts) = (other, None);
                self.after(wait_ns, Event::Dead { link, end, cuts });
            }
        }
        Ok(())
    }
}

/// Becomes what the node last was, as its shell does.
fn take_up_role(process: &mut Process, members: Vec<NodeId>) -> outlast_engine::Result<()> {
    match boot(&process.store) {
        Boot::Follow => process.follow(),
        Boot::Begin(reason) => {
            process.gatekeeper.begin(&process.store, reason, members);
            process.store.begin_epoch(reason, "")?;
            if reason == EpochReason::Init {
                let record = ProtectionRecord::unbounded(Vec::new(), "as made".to_owned());
                process.store.append_protection(&record)?;
            }
            process.store.keyspace(KEYSPACE)?;
            Ok(())
        }
        Boot::Wait | Boot::Stand => Ok(()),
    }
}

impl World {
    /// A process that can do nothing more is started again by its operator.
    pub(super) fn restart_poisoned(&mut self, node: usize) -> Checked {
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        let poisoned = matches!(process.role(), Role::Poisoned { .. })
            || process.store.state() == LogState::Closed
            || process.follows_no_longer();
        if !poisoned {
            return Ok(());
        }
        self.counts.poisoned += 1;
        self.say(Some(node), format_args!("is poisoned, and started again"));
        if self.rng.bool() {
            self.lose_power(node)
        } else {
            self.kill(node)
        }
    }
}

/// Names a violation of a node that was not started.
pub(super) fn missing(node: usize) -> Violation {
    Violation::new("I15", format!("node {node} does not run"))
}
