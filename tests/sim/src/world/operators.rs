//! Operators, who promote, resume and stop nodes at odd moments.

use std::cell::RefCell;

use outlast_engine::format::{EpochReason, NodeId};
use outlast_engine::fs::MemFs;
use outlast_engine::{Committed, Level, RestoreOptions, Store, restore_on};
use outlast_proto::ReceiverInput;
use outlast_proto::SenderInput;
use outlast_standby::certificate::{AcceptedLoss, PrimaryLastSeen, PromoteOptions};
use outlast_standby::drive::{
    Candidate, Facts, positions_of, promote, proven, resume, standing_of,
};
use outlast_standby::status::Role;

use super::World;
use crate::ledger::Outcome;
use crate::process::Process;
use crate::reader::Reader;
use crate::violation::{Checked, Violation, check};

impl World {
    pub(super) fn promote(&mut self, node: usize, sick: bool, dry: bool) -> Checked {
        let options = PromoteOptions {
            dry_run: dry,
            primary_is_sick: sick,
            accept_loss: Some(AcceptedLoss::Unbounded),
            reason: "as the plan says".to_owned(),
            ..PromoteOptions::default()
        };
        self.promote_with(node, &options)
    }

    pub(super) fn promote_with(&mut self, node: usize, options: &PromoteOptions) -> Checked {
        let members = self.members(node);
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.finish_groups();
        let outcome = promote(&OnProcess(RefCell::new(process)), options);
        if self.node(node).has_lost_power() {
            return self.settle(node);
        }
        match outcome {
            Ok(promotion) => match &promotion.epoch {
                Some(epoch) => {
                    let at = promotion.facts.positions.received;
                    let (term, fork) = (epoch.term, epoch.fork);
                    self.decide(node, format_args!("promoted: term {term} at {fork}, {at}"));
                    self.counts.promoted += 1;
                    if let Some(process) = &mut self.node_mut(node).process {
                        process.following = None;
                        process.session = None;
                        process.dial_ns = 0;
                        let reason = EpochReason::Promotion;
                        process.gatekeeper.begin(&process.store, reason, members);
                    }
                    self.settle(node)?;
                    self.certify(node, &promotion)?;
                    self.check_nothing_replicated_lost(node)
                }
                None => {
                    let decision = promotion.decision;
                    self.say(Some(node), format_args!("promotion: {decision:?}"));
                    self.counts.refused += 1;
                    self.settle(node)
                }
            },
            Err(error) => {
                self.say(Some(node), format_args!("promotion failed: {error}"));
                self.settle(node)
            }
        }
    }

    /// A standby withdraws, and nothing else happens yet.
    pub(super) fn withdraw(&mut self, node: usize) {
        if let Some(process) = &mut self.node_mut(node).process {
            process.begin_withdrawal();
            self.counts.withdrawn += 1;
        }
        self.say(Some(node), format_args!("withdraws"));
    }

    /// One that has withdrawn and was not promoted follows again.
    pub(super) fn reinstate(&mut self, node: usize) {
        if let Some(process) = &mut self.node_mut(node).process {
            OnProcess(RefCell::new(process)).reinstate();
        }
    }

    /// Everything that was answered as held by this node is in its history.
    pub(super) fn check_nothing_replicated_lost(&self, node: usize) -> Checked {
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        for (id, entry) in self.ledger.entries() {
            let replicated = entry.level != Level::Local && entry.node != node;
            let ok = matches!(entry.outcome, Some(Outcome::Ok(_)));
            check(!(replicated && ok) || process.reader.has(id), "I3", || {
                format!("commit {id} was answered as {:?} and is lost", entry.level)
            })?;
        }
        Ok(())
    }

    /// Somebody has looked at the clock, and lets log time go on.
    pub(super) fn confirm_time(&mut self, node: usize) -> Checked {
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.finish_groups();
        if process.store.held_log_time().is_some() {
            let confirmed = process.store.confirm_log_time().is_ok();
            self.counts.time_confirmed += u64::from(confirmed);
        }
        self.settle(node)
    }

    /// A node that is made of a backup shows what the backup's source showed.
    pub(super) fn restore(&mut self, node: usize) -> Checked {
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        let (backup, disk) = (MemFs::new(), MemFs::new());
        let shown = process.store.positions().visible;
        let feed = process.reader.feed().to_vec();
        let Ok(checkpoint) = process.store.checkpoint_on(&backup) else {
            // Of a log that failed there is none.
            return self.settle(node);
        };
        check(checkpoint.position() == shown, "I9", || {
            format!("a backup of {shown:?} ends at {:?}", checkpoint.position())
        })?;
        let options = RestoreOptions::new("restored");
        let options = RestoreOptions {
            node: NodeId([0xd; 16]),
            ..options
        };
        let made = restore_on(&backup, &disk, &options)
            .and_then(|_| self.node(node).open_on(disk))
            .and_then(|store| store.begin_epoch(EpochReason::Restart, "").map(|_| store));
        let store = made.map_err(|error| {
            Violation::new("I1", format!("no node can be made of a backup: {error}"))
        })?;
        let mut reader = Reader::new(&store, &feed, &mut self.ledger)?;
        reader.advance(&mut self.ledger)?;
        let place = |commit: &Committed| (commit.commit, commit.lsn, commit.epoch, commit.log_ms);
        let same = reader.feed().iter().map(place).eq(feed.iter().map(place));
        check(same, "I9", || {
            format!("a backup of {shown:?} holds other commits")
        })?;
        reader.compare(&store, None)?;
        self.counts.restored += 1;
        self.settle(node)
    }

    pub(super) fn resume_alone(&mut self, node: usize) -> Checked {
        let members = self.members(node);
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        if process.role() != Role::WaitingForPeer {
            return Ok(());
        }
        let reason = EpochReason::ResumeAlone;
        process.gatekeeper.begin(&process.store, reason, members);
        let begun = resume(&process.store, reason, "as the plan says");
        match begun {
            Ok(epoch) => {
                process.end_session();
                process.dial_ns = 0;
                self.resumed_alone = true;
                self.counts.resumed_alone += 1;
                let (start, fork) = (epoch.start, epoch.fork);
                self.decide(node, format_args!("resumes alone: start {start} at {fork}"));
            }
            Err(error) => self.say(Some(node), format_args!("does not resume: {error}")),
        }
        self.settle(node)
    }

    /// Stops a node in an orderly way, and starts it again.
    pub(super) fn stop(&mut self, node: usize) -> Checked {
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.finish_groups();
        let now = process.clock.now();
        process.pump();
        if let Some(ship) = &mut process.ship {
            ship.shipping.handle(now, SenderInput::Stop);
        }
        if let Some(following) = &mut process.following {
            following.handle(now, ReceiverInput::Stop);
        }
        process.pump();
        while !process.jobs.is_empty() {
            process.do_jobs(usize::MAX);
        }
        process.following = None;
        let closed = process.store.close();
        let failing = self.node(node).failing;
        if self.node(node).has_lost_power() {
            return self.settle(node);
        }
        let poisoned = matches!(
            &closed,
            Err(error) if error.kind() == outlast_engine::ErrorKind::Poisoned
        );
        check(closed.is_ok() || failing || poisoned, "I15", || {
            format!("a node does not close: {closed:?}")
        })?;
        self.settle_closed(node)?;
        self.say(Some(node), format_args!("is stopped"));
        self.bury(node)?;
        self.start_later(node);
        Ok(())
    }
}

/// A process as a promotion sees it.
struct OnProcess<'a>(RefCell<&'a mut Process>);

impl Candidate for OnProcess<'_> {
    type Error = String;

    fn store(&self) -> Store {
        self.0.borrow().store.clone()
    }

    fn facts(&self) -> Facts {
        let process = self.0.borrow();
        let now = process.clock.now();
        let receiver = process
            .following
            .as_ref()
            .map(|following| following.receiver().lock());
        let told = receiver
            .as_ref()
            .and_then(|receiver| receiver.status().told);
        let store = &process.store;
        Facts {
            node_name: store.node_name(),
            standing: standing_of(store, &process.role()),
            positions: positions_of(store),
            silence: receiver.as_ref().map(|receiver| receiver.silence(now)),
            silence_max: process.config().silence_max,
            primary: told.map(|told| PrimaryLastSeen {
                appended: told.view.appended,
                durable: told.view.durable,
                age_ms: u64::try_from(now.since(told.at).as_millis()).unwrap_or(u64::MAX),
            }),
            acked_tail_lost: store.recovered().acked_tail_lost,
            bound: proven(store),
        }
    }

    fn withdraw(&self) -> Result<(), String> {
        if self.0.borrow_mut().withdraw() {
            Ok(())
        } else {
            Err("it follows nobody, or its log failed".to_owned())
        }
    }

    fn reinstate(&self) {
        let mut process = self.0.borrow_mut();
        let now = process.clock.now();
        if let Some(following) = &mut process.following {
            following.handle(now, ReceiverInput::Reinstate);
        }
        process.pump();
    }

    fn epoch_failed(&self, error: outlast_engine::Error) -> String {
        error.to_string()
    }
}
