//! What follows from every event on a node: outputs leave, callers are answered, and the checkers
//! look.

use std::task::{Context, Poll, Waker};

use outlast_engine::{Level, LogState, Lsn};
use outlast_proto::Message;

use super::{Event, MS, World};
use crate::ledger::{Outcome, outcome};
use crate::process::Out;
use crate::violation::{Checked, check};

impl World {
    pub(super) fn settle(&mut self, node: usize) -> Checked {
        if self.node(node).has_lost_power() {
            return self.lose_power(node);
        }
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.pump();
        if process.take_changed() {
            process.lane_ns = 0;
        }
        if self.node(node).has_lost_power() {
            return self.lose_power(node);
        }
        self.observe(node)?;
        self.check_answers(node)?;
        self.send_out(node)?;
        self.answers(node)?;
        self.schedule(node);
        self.restart_poisoned(node)
    }

    /// The same for a process that was closed in order.
    pub(super) fn settle_closed(&mut self, node: usize) -> Checked {
        if let Some(process) = &mut self.node_mut(node).process {
            process.pump();
        }
        self.observe(node)?;
        self.check_answers(node)?;
        self.send_out(node)?;
        self.answers(node)
    }

    /// Looks at what is new in the log, and at where the node stands.
    fn observe(&mut self, node: usize) -> Checked {
        let Self {
            nodes,
            oracle,
            ledger,
            ..
        } = self;
        let Some(found) = nodes.get_mut(node) else {
            return Ok(());
        };
        let Some(process) = &mut found.process else {
            return Ok(());
        };
        let (store, observer) = (&process.store, &mut process.observer);
        let cut = observer.look(store, found.id, oracle)?;
        let positions = store.positions();
        let state = store.state();
        let durable = positions.durable.lsn;
        found.kept.durable = observer.frame_at(durable);
        let whole = found.kept.durable.is_some() || durable == Lsn::ZERO;
        check(whole, "I2", || {
            format!("no frame ends at {durable}, which is durable")
        })?;
        found.kept.fenced |= matches!(state, LogState::Fenced(_));
        found.kept.halted |= matches!(state, LogState::Halted(_));
        let visible = positions.visible.lsn;
        let newest = observer.epochs().last();
        if let Some(own) = newest.filter(|epoch| epoch.node == found.id) {
            oracle.show(own.id, visible);
        } else if store.has_peer() {
            let shown = oracle.shown(observer.epochs());
            check(visible <= shown, "I9", || {
                format!("{visible} is shown here, and its writer shows {shown}")
            })?;
        }
        process.reader.advance(ledger)?;
        match cut {
            Some((from, to)) => self.check_cut(node, from, to),
            None => Ok(()),
        }
    }

    /// A tail leaves a log only for an operator's act, and only into a file beside it.
    fn check_cut(&mut self, node: usize, from: Lsn, to: Lsn) -> Checked {
        self.counts.quarantined += 1;
        self.say(Some(node), format_args!("put [{from}, {to}) aside"));
        check(self.resumed_alone, "I14", || {
            format!("[{from}, {to}) was cut though nobody gave it up")
        })?;
        let node = self.node_mut(node);
        let names = node.forks_aside();
        node.kept.forks += 1;
        node.kept.acked = None;
        let whole = names.iter().any(|name| {
            let bytes = outlast_engine::fs::read_all(&node.fs, &format!("aside/{name}"));
            bytes.is_ok_and(|bytes| bytes.len() as u64 >= to.bytes_since(from))
        });
        check(whole && names.len() >= node.kept.forks, "I14", || {
            format!("[{from}, {to}) was cut and is not kept: {names:?}")
        })
    }

    fn send_out(&mut self, node: usize) -> Checked {
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let counts = std::mem::take(&mut process.counts);
        let out = std::mem::take(&mut process.out);
        self.counts += counts;
        for out in out {
            match out {
                Out::Message(link, message) => {
                    self.told_term(node, &message);
                    self.told_durable(node, &message);
                    self.check_echo(node, &message)?;
                    if let Message::Echo { binding, stamp } = &message {
                        self.told_echo(node, link, binding, *stamp);
                    }
                    self.send_message(node, link, message)?;
                }
                Out::Data(link, header, bytes) => self.send_data(node, link, header, bytes),
                Out::Close(link, why) => {
                    self.say(Some(node), format_args!("closes link {link}: {why}"));
                    self.close(node, link);
                    self.dial_later(node);
                }
                Out::Note(what) => {
                    self.decide(node, format_args!("{what}"));
                }
            }
        }
        Ok(())
    }

    /// A term that was told to anybody must never be forgotten.
    pub(super) fn told_term(&mut self, node: usize, message: &Message) {
        let term = match message {
            Message::Welcome(welcome) => welcome.heard.number,
            Message::Refuse(refuse) => refuse.heard.number,
            _ => return,
        };
        let own = self.node(node).process.as_ref().and_then(|process| {
            // A refusal of a stranger tells the term of the asker.
            process.store.term_heard().map(|heard| heard.term)
        });
        let kept = &mut self.node_mut(node).kept;
        if matches!(message, Message::Welcome(_)) || own.is_some_and(|own| own >= term) {
            kept.term = kept.term.max(term);
        }
    }

    /// What was reported as durable must never be gone.
    fn told_durable(&mut self, node: usize, message: &Message) {
        let found = self.node_mut(node);
        if let Message::Ack(ack) = message
            && let Some(process) = &found.process
        {
            found.kept.acked = process.observer.frame_at(ack.durable.lsn);
        }
    }

    /// Takes the answers that clients have got.
    fn answers(&mut self, node: usize) -> Checked {
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let mut context = Context::from_waker(Waker::noop());
        let mut answered = Vec::new();
        process.pending.retain_mut(|(id, future)| {
            match std::pin::Pin::new(future).poll(&mut context) {
                Poll::Ready(answer) => {
                    answered.push((*id, outcome(answer)));
                    false
                }
                Poll::Pending => true,
            }
        });
        for (id, outcome) in answered {
            self.answered(node, id, outcome)?;
        }
        Ok(())
    }

    /// Takes the answer to one commit.
    pub(super) fn answered(&mut self, node: usize, id: u64, outcome: Outcome) -> Checked {
        self.decide(node, format_args!("commit {id}: {outcome:?}"));
        match outcome {
            Outcome::Ok(receipt) => {
                self.counts.commits_ok += 1;
                self.check_ok(node, id, &receipt)?;
            }
            Outcome::Failed(_) => self.counts.commits_failed += 1,
            Outcome::Unknown(_) | Outcome::Unheard => self.counts.commits_unknown += 1,
        }
        self.ledger.end(id, outcome)
    }

    fn check_ok(&self, node: usize, id: u64, receipt: &outlast_engine::Receipt) -> Checked {
        let this = self.node(node);
        let writer = self.oracle.writer(receipt.epoch);
        check(writer == Some(this.id), "I6", || {
            format!("commit {id} was answered under an epoch of {writer:?}")
        })?;
        check(!this.kept.fenced && !this.kept.halted, "I6", || {
            format!("commit {id} was answered OK by a node that is fenced")
        })?;
        let positions = this
            .process
            .as_ref()
            .map(|process| process.store.positions());
        let visible = positions.is_some_and(|now| receipt.lsn <= now.visible.lsn);
        check(visible, "I1", || {
            format!("commit {id} was answered OK before it is durable and visible: {positions:?}")
        })?;
        let level = self
            .ledger
            .entries()
            .nth(usize::try_from(id).unwrap_or(usize::MAX));
        let replicated = level.is_some_and(|(_, entry)| entry.level != Level::Local);
        let peer = self.node(1 - node).kept.durable;
        let held = peer.is_some_and(|frame| receipt.lsn <= frame.end);
        check(held || !replicated, "I3", || {
            format!("commit {id} was answered as replicated, and the standby has {peer:?}")
        })
    }

    /// Schedules what the node waits for.
    fn schedule(&mut self, node: usize) {
        let now_ns = self.now_ns;
        let life = self.node(node).life;
        let slow = self.node(node).slow_until_ns > now_ns;
        let fsync_ns = self.plan.fsync_ns * if slow { self.plan.slower } else { 1 };
        let jobs_ns = self.rng.u64(fsync_ns / 4..fsync_ns.max(8));
        let done_ns = self.rng.u64(1_000..200_000);
        let replay_ns = self.rng.u64(1_000..2 * MS);
        let keep_ns = self
            .node(node)
            .process
            .as_ref()
            .and_then(|process| self.keep_at(process));
        let Some(process) = &mut self.node_mut(node).process else {
            return;
        };
        let jobs = !process.jobs.is_empty() && !process.jobs_scheduled;
        let done = !process.done.is_empty() && !process.done_scheduled;
        let replay = process.replay.is_some() && !process.replay_scheduled;
        process.replay_scheduled |= replay;
        process.jobs_scheduled |= jobs;
        process.done_scheduled |= done;
        let due = [
            Some(process.lane_ns.max(now_ns + MS / 2)).filter(|at| *at < u64::MAX),
            process
                .ship
                .as_ref()
                .and_then(|ship| ship.shipping.poll_timeout())
                .map(|at| now_ns + process.clock.true_ns_until(at)),
            process
                .following
                .as_ref()
                .and_then(|following| following.poll_timeout())
                .map(|at| now_ns + process.clock.true_ns_until(at)),
            keep_ns.map(|at| at.max(now_ns)),
            process
                .wants_to_dial()
                .then(|| process.dial_ns.max(now_ns + MS / 4)),
        ];
        let due = due.into_iter().flatten().min().unwrap_or(u64::MAX);
        let wake = due < process.wake_ns;
        if wake {
            process.wake_ns = due;
        }
        if jobs {
            self.after(jobs_ns, Event::Jobs { node, life });
        }
        if replay {
            self.after(replay_ns, Event::Replay { node, life });
        }
        if done {
            self.after(done_ns, Event::Done { node, life });
        }
        if wake {
            self.at(due.max(now_ns), Event::Wake { node, life });
        }
    }
}
