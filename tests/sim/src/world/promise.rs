//! The promise about loss: operators who change it, what a node does to keep it, and whether it is
//! kept.

use std::sync::Arc;
use std::time::Duration;

use outlast_engine::LogState;
use outlast_engine::clock::Clock;
use outlast_engine::format::limits::PROTECTIONS_MAX;
use outlast_engine::format::{EpochReason, Lsn, NodeId, Position};
use outlast_proto::{
    Action, Binding, GATE_WINDOW_BYTES_DEFAULT, GateConfig, Guard, Message, Policy, Protection,
    Stamp, Standing,
};
use outlast_shipper::drive::{Gatekeeper, protection_point};
use outlast_standby::certificate::{AcceptedLoss, Fencing, Finding, PromoteOptions};
use outlast_standby::drive::{Decision, Promotion, fence_of, proven};
use outlast_standby::status::Role;

use super::{Event, MS, World};
use crate::network::LinkId;
use crate::plan::Accept;
use crate::process::Process;
use crate::promise::{Answer, Certified, Echoed, Loss, Under, opening, promised};
use crate::violation::{Checked, check};

/// How often a node looks whether its promise may stand again, and whether a clock has jumped.
const KEEP_EVERY_NS: u64 = 10 * MS;
/// Further apart than a clock is slewed in that time.
const JUMP_MS: u64 = 500;
/// What may be in the log beyond the gate's window: a group, and control records.
const BEYOND_WINDOW_BYTES: u64 = 24 << 10;
/// Commits asked for around the moment at which a primary's lease ends.
const BURST: u8 = 40;
/// How long a primary that stood still goes on before its standby, which has withdrawn, is
/// promoted; and how much longer than its lease it stood still.
const STILL_NS: u64 = 15 * MS;

impl World {
    /// The gate of a process that starts.
    pub(super) fn gatekeeper(&self, node: usize) -> Arc<Gatekeeper> {
        let plan = self.plan.promise;
        let config = plan.map_or_else(GateConfig::default, |plan| GateConfig {
            window_bytes: plan.window_bytes,
            slope: plan.slope,
        });
        let clock = self.node(node).clock.clone();
        Gatekeeper::with(config, move || clock.now())
    }

    /// Who holds the copies of what a node writes.
    pub(super) fn members(&self, node: usize) -> Vec<NodeId> {
        if self.plan.pair {
            vec![self.node(1 - node).id]
        } else {
            Vec::new()
        }
    }

    /// An operator says how much may be lost, as the node's shell lets him.
    pub(super) fn set_policy(&mut self, policy: Policy, action: Action) -> Checked {
        let Some((node, newest)) = self.guarded()? else {
            return Ok(());
        };
        let lacks_little = self
            .node(node)
            .process
            .as_ref()
            .is_some_and(Process::standby_lacks_little);
        let standing = match (&policy, newest.standing) {
            (Policy::Async, _) => Standing::Off,
            (_, Standing::InForce) => Standing::InForce,
            _ if lacks_little => Standing::InForce,
            _ => Standing::Off,
        };
        let protection = Protection {
            policy,
            action,
            members: self.members(node),
            copies: u32::from(policy != Policy::Async),
            standing,
        };
        self.counts.policies += 1;
        self.write_promise(node, &protection)
    }

    pub(super) fn suspend(&mut self, lasts_ms: u64) -> Checked {
        let Some((node, newest)) = self.guarded()? else {
            return Ok(());
        };
        if newest.standing == Standing::Off {
            return Ok(());
        }
        let lasts = Duration::from_millis(lasts_ms);
        self.write_promise(node, &newest.standing(Standing::Suspended { lasts }))
    }

    pub(super) fn resume_protection(&mut self) -> Checked {
        match self.guarded()? {
            Some((node, newest)) if matches!(newest.standing, Standing::Suspended { .. }) => {
                self.write_promise(node, &newest.standing(Standing::InForce))
            }
            _ => Ok(()),
        }
    }

    /// A primary whose promise may be changed, and what it promised last.
    fn guarded(&mut self) -> Checked<Option<(usize, Protection)>> {
        let Some(node) = self.writer().filter(|node| !self.is_paused(*node)) else {
            return Ok(None);
        };
        if let Some(process) = &mut self.node_mut(node).process {
            process.finish_groups();
        }
        // What was answered by now was answered before the new record.
        self.settle(node)?;
        let Some(process) = &self.node(node).process else {
            return Ok(None);
        };
        let status = process.gatekeeper.status();
        let status = status.filter(|status| {
            let room = status.records_not_held < PROTECTIONS_MAX / 2;
            process.role() == Role::Primary && room
        });
        Ok(status.map(|status| (node, status.newest)))
    }

    fn write_promise(&mut self, node: usize, protection: &Protection) -> Checked {
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.write_promise(protection);
        self.settle(node)
    }

    /// What a node does by itself, now and then, to keep its promise.
    pub(super) fn keep_promise(&mut self, node: usize) {
        let now_ns = self.now_ns;
        let Some(process) = &mut self.node_mut(node).process else {
            return;
        };
        let mut ask = process.gatekeeper.take_due();
        if process.keep_ns <= now_ns {
            process.keep_ns = now_ns + KEEP_EVERY_NS;
            if process.clocks_parted() {
                process.gatekeeper.on_clock_jump();
            }
            process.engage();
            ask = true;
        }
        if ask {
            process.store.ask_gate();
        }
        if process.waits_for_group() {
            self.group_soon(node);
        }
    }

    /// When a process is to look after its promise next, in true time.
    pub(super) fn keep_at(&self, process: &Process) -> Option<u64> {
        self.plan.promise?;
        let again = process.gatekeeper.again_at();
        let again_ns = again.map(|at| self.now_ns + process.clock.true_ns_until(at).max(1_000));
        Some(again_ns.map_or(process.keep_ns, |again_ns| again_ns.min(process.keep_ns)))
    }

    pub(super) fn is_paused(&self, node: usize) -> bool {
        self.node(node).paused_until_ns > self.now_ns
    }

    /// The line is cut, and somebody waits until the standby's silence fences the primary.
    pub(super) fn take_over(&mut self, from: [bool; 2]) {
        match self.plan.promise.filter(|plan| plan.withdraws_first) {
            Some(plan) => {
                let lease_ns = u64::try_from(plan.lease.as_nanos()).unwrap_or(u64::MAX);
                self.pause(0, lease_ns + STILL_NS);
            }
            None => {
                let for_ns = self.plan.chaos_ns.saturating_sub(self.now_ns);
                self.cut(from, for_ns);
            }
        }
        self.after(MS, Event::Fence { near: false });
    }

    /// Promotes the second node, if its silence fences the primary by now.
    pub(super) fn fence(&mut self, near: bool) -> Checked {
        if self.calm {
            return Ok(());
        }
        let remaining = self.node(1).process.as_ref().and_then(|process| {
            let following = process.following.as_ref()?;
            let now = process.clock.now();
            let silence = following.receiver().lock().silence(now);
            let bound = proven(&process.store);
            let fence = fence_of(bound.known()?);
            // Silence has to be longer.
            let left = (fence + Duration::from_nanos(1)).checked_sub(silence);
            let left = left.filter(|left| !left.is_zero());
            Some(left.map_or(0, |left| process.clock.true_ns_until(now.after(left))))
        });
        match remaining {
            Some(0) if self.plan.promise.is_some_and(|plan| plan.withdraws_first) => {
                self.withdraw(1);
                // The primary goes on before that, and hears whatever it still hears.
                let still_ns = self.node(0).paused_until_ns.saturating_sub(self.now_ns);
                let life = self.node(1).life;
                self.after(still_ns + STILL_NS, Event::Promote { node: 1, life });
                self.settle(1)
            }
            Some(0) => {
                let done = self.promote_for(Accept::Proven, false, true);
                self.burst_soon(BURST);
                done
            }
            Some(left_ns) => {
                if left_ns < 3 * MS && !near {
                    self.burst_soon(BURST);
                }
                let near = near || left_ns < 3 * MS;
                let wait_ns = if near { left_ns } else { (left_ns / 2).max(MS) };
                self.after(wait_ns, Event::Fence { near });
                Ok(())
            }
            None => {
                self.after(20 * MS, Event::Fence { near: false });
                Ok(())
            }
        }
    }

    /// Promotes a standby that has withdrawn; if that is refused, it follows again.
    pub(super) fn promote_withdrawn(&mut self, node: usize) -> Checked {
        if !self.calm {
            self.promote_for(Accept::Proven, false, true)?;
            self.burst_soon(BURST);
        }
        self.reinstate(node);
        Ok(())
    }

    fn burst_soon(&mut self, left: u8) {
        let wait_ns = self.rng.u64(30_000..200_000);
        self.after(wait_ns, Event::Burst { left });
    }

    /// A client of the first node that asks for much in a short time.
    pub(super) fn burst(&mut self, left: u8) -> Checked {
        if left > 0 && !self.calm {
            self.burst_soon(left - 1);
            self.commit_on(0, outlast_engine::Level::Local)?;
            // On a disk that takes no time, so that there are answers up to the last moment.
            if !self.is_paused(0)
                && let Some(process) = &mut self.node_mut(0).process
            {
                process.finish_groups();
                self.settle(0)?;
            }
        }
        Ok(())
    }

    /// Promotes the second node for a loss that its operator accepts.
    pub(super) fn promote_for(&mut self, accept: Accept, down: bool, sick: bool) -> Checked {
        let Some(process) = &self.node(1).process else {
            return Ok(());
        };
        let bound = proven(&process.store);
        let accept_loss = match (accept, bound.known()) {
            (Accept::Anything, _) => Some(AcceptedLoss::Unbounded),
            (Accept::Proven, None) => None,
            (Accept::Proven, Some(bound)) => match (bound.commits, bound.bytes) {
                (Some(commits), _) => Some(AcceptedLoss::Commits(commits)),
                (None, Some(bytes)) => Some(AcceptedLoss::Bytes(bytes)),
                (None, None) => Some(AcceptedLoss::Unbounded),
            },
        };
        let options = PromoteOptions {
            accept_loss,
            primary_is_down: down,
            primary_is_sick: sick,
            reason: "as the plan says".to_owned(),
            ..PromoteOptions::default()
        };
        self.promote_with(1, &options)
    }

    /// Takes down what a promoted node has stated, and holds it to that.
    pub(super) fn certify(&mut self, node: usize, promotion: &Promotion) -> Checked {
        let Some(epoch) = &promotion.epoch else {
            return Ok(());
        };
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        let fork = process.observer.position_at(epoch.fork);
        let bound = promotion.facts.bound.known().copied();
        let fenced = promotion.decision == Decision::Promote(Fencing::Fenced);
        let heard = process.store.protection_heard().map(protection_point);
        self.counts.bounded += u64::from(bound.is_some());
        self.counts.fenced_by_lease += u64::from(fenced);
        if let Finding::NotAvailable(why) = &promotion.facts.bound {
            self.say(Some(node), format_args!("UNBOUNDED: {why}"));
        } else {
            self.say(Some(node), format_args!("fenced {fenced}: {bound:?}"));
        }
        self.certified.push(Certified {
            node,
            true_ns: self.now_ns,
            fork,
            bound,
            fenced,
            heard,
        });
        self.check_certified(1 - node)
    }

    /// What a node has answered is within what others have stated of it.
    fn check_certified(&self, writer: usize) -> Checked {
        let answers = &self.node(writer).answers;
        for stated in self.certified.iter().filter(|stated| stated.node != writer) {
            let Some(last) = answers.last() else { continue };
            let first = answers.partition_point(|answer| answer.to.lsn <= stated.fork.lsn);
            let lost = answers.get(first..).unwrap_or_default();
            if lost.iter().any(|answer| self.is_excused(stated, answer)) {
                continue;
            }
            let after = lost.iter().find(|answer| answer.true_ns > stated.true_ns);
            check(after.is_none() || !stated.fenced, "I5", || {
                format!("called FENCED, and answered afterwards: {after:?}, {stated:?}")
            })?;
            if let Some(bound) = &stated.bound {
                let loss = Loss::of(answers, last.to, stated.fork);
                let time = bound.span_ms.map(Duration::from_millis);
                check(
                    loss.is_within(bound.bytes, bound.commits, time),
                    "I5",
                    || format!("certified {bound:?}, and lost {loss:?}: {stated:?}"),
                )?;
            }
        }
        Ok(())
    }

    /// Whether a certificate's condition does not hold for an answer: the promise was lifted there,
    /// and the promoted node cannot have known.
    fn is_excused(&self, stated: &Certified, answer: &Answer) -> bool {
        match answer.under {
            Under::Promise => false,
            Under::Lifted(point) => stated.heard < Some(point),
            Under::Nothing(epoch) => {
                let known = self.node(stated.node).echoed_under.contains(&epoch);
                let reason = self.oracle.record(epoch).map(|epoch| epoch.reason);
                reason == Some(EpochReason::ResumeAlone) && !known
            }
        }
    }

    /// A standby's echo tells its primary that it knows the newest protection record.
    pub(super) fn told_echo(&mut self, node: usize, link: LinkId, binding: &Binding, stamp: Stamp) {
        let Some(life) = self
            .links
            .get(link)
            .map(|found| found.life(1 - found.end_of(node)))
        else {
            return;
        };
        self.node_mut(node).echoed = Some(Echoed {
            life,
            at: stamp.moment(),
        });
        let told = self.beats.get(&(binding.session.dialler.0, stamp));
        let told = told.copied().flatten().map(|point| point.epoch);
        let epochs = [Some(binding.epoch), told].into_iter().flatten();
        self.node_mut(node).echoed_under.extend(epochs);
    }

    /// Remembers what a heartbeat names, and checks an echo against it: the standby has noted it.
    pub(super) fn check_echo(&mut self, node: usize, message: &Message) -> Checked {
        match message {
            Message::Heartbeat(beat) => {
                let key = (beat.binding.session.dialler.0, beat.stamp);
                self.beats.insert(key, beat.view.protection);
                Ok(())
            }
            Message::Echo { binding, stamp } => {
                let key = (binding.session.dialler.0, *stamp);
                let told = self.beats.get(&key).copied().flatten();
                let store = self.node(node).process.as_ref().map(|p| p.store.clone());
                let noted = store.and_then(|store| store.protection_heard());
                check(noted.map(protection_point) >= told, "I5", || {
                    format!("echoed {told:?} before it was noted: {noted:?}")
                })
            }
            _ => Ok(()),
        }
    }

    /// Up to where the other node really holds what `writer` wrote.
    fn really_held(&self, writer: usize) -> Position {
        let Some(process) = &self.node(writer).process else {
            return Position::ZERO;
        };
        let Some(frame) = self.node(1 - writer).kept.durable else {
            return Position::ZERO;
        };
        let epochs = process.observer.epochs();
        let (mut id, mut end) = (frame.epoch, frame.end);
        loop {
            if let Some(index) = epochs.iter().position(|epoch| epoch.id == id) {
                let next = epochs.get(index + 1);
                let left = next.map_or(Lsn(u64::MAX), |epoch| epoch.fork);
                return process.observer.position_at(end.min(left));
            }
            let Some(record) = self.oracle.record(id) else {
                return Position::ZERO;
            };
            (id, end) = (record.parent, end.min(record.fork));
        }
    }

    /// Judges what a writer has answered since it was looked at last.
    pub(super) fn check_answers(&mut self, node: usize) -> Checked {
        let held = self.really_held(node);
        let now_ns = self.now_ns;
        let window_bytes = self.plan.promise.map(|plan| plan.window_bytes);
        let found = self.node_mut(node);
        let (id, boot, life) = (found.id, found.boots, found.life);
        let Some(process) = &mut found.process else {
            return Ok(());
        };
        let positions = process.store.positions();
        let shown = std::mem::replace(&mut process.shown, positions.visible);
        let epochs = process.observer.epochs();
        let own = epochs.last().is_some_and(|epoch| epoch.node == id);
        if process.store.state() != LogState::Writing || !own || window_bytes.is_none() {
            return Ok(());
        }
        let terms = promised(epochs, process.observer.promises(), held.lsn);
        let opened = opening(epochs).map(|epoch| epoch.id);
        let now = process.clock.now();
        let contact = process.contact;
        let lifted = process.look_at_suspension(terms.lease);
        if let Some((point, began_now)) = lifted
            && began_now
        {
            let silent = now.since(contact);
            let out = terms.lease.is_none_or(|lease| silent > lease);
            let other = self.node(1 - node).process.as_ref();
            let heard = other.and_then(|other| other.store.protection_heard());
            let known = heard.map(protection_point) >= Some(point);
            let down = other.is_none();
            check(out || known || down, "I5", || {
                format!("{point:?} lifts the promise, and the standby knows only {heard:?}")
            })?;
            self.counts.suspended += 1;
        }
        let free = terms.is_nothing() || lifted.is_some();
        let waiting = positions.appended.lsn.bytes_since(positions.visible.lsn);
        let most = window_bytes.unwrap_or_default() + BEYOND_WINDOW_BYTES;
        check(free || waiting <= most, "I16", || {
            format!("{waiting} bytes wait for the gate, whose window is {window_bytes:?}")
        })?;
        if positions.visible.lsn <= shown.lsn {
            return Ok(());
        }
        let under = match (lifted, opened) {
            _ if !free => Under::Promise,
            (Some((point, _)), _) => Under::Lifted(point),
            (None, Some(epoch)) => Under::Nothing(epoch),
            (None, None) => return Ok(()),
        };
        let to = positions.visible;
        let echoed = self.node(1 - node).echoed;
        let found = self.node_mut(node);
        found.answers.push(Answer {
            to,
            at: now,
            boot,
            true_ns: now_ns,
            under,
        });
        if !free {
            terms.judge(to, held, &found.answers)?;
            let contact = echoed.filter(|echoed| echoed.life == life);
            let age = contact.map(|contact| now.since(contact.at));
            let fresh = terms
                .lease
                .is_none_or(|lease| age.is_some_and(|age| age <= lease));
            check(fresh, "I4", || {
                format!("{to} was answered {age:?} after the last echo, under {terms:?}")
            })?;
            self.counts.bound_answers += 1;
        }
        self.check_certified(node)
    }

    /// Why the promise of a primary with its standby does not stand, once all is quiet.
    pub(super) fn promise_lapsed(&self, primary: usize) -> Option<String> {
        self.plan.promise?;
        let process = self.node(primary).process.as_ref()?;
        let status = process.gatekeeper.status()?;
        let bounded = matches!(status.newest.policy, Policy::Bounded(_));
        let stands = status.newest.standing == Standing::InForce
            && status.guard == Guard::Protected
            && status.exposure.bytes == 0
            && status.records_not_held == 0;
        (bounded && !stands).then(|| format!("the promise does not stand: {status:?}"))
    }

    /// A process stands still.
    pub(super) fn pause(&mut self, node: usize, for_ns: u64) {
        if self.runs(node) {
            let until_ns = self.now_ns + for_ns;
            self.node_mut(node).paused_until_ns = until_ns;
            self.counts.pauses += 1;
        }
    }

    /// The node that an event happens to.
    pub(super) fn subject(&self, event: &Event) -> Option<usize> {
        let at = |link: LinkId, end| self.links.get(link).map(|found| found.node(end));
        match *event {
            Event::Wake { node, .. }
            | Event::Group { node, .. }
            | Event::Jobs { node, .. }
            | Event::Replay { node, .. }
            | Event::Done { node, .. }
            | Event::Established { node, .. }
            | Event::Promote { node, .. }
            | Event::Resume { node } => Some(node),
            Event::Arrival { link, from_end, .. } => at(link, 1 - from_end),
            Event::Flushed { link, end } | Event::Dead { link, end, .. } => at(link, end),
            _ => None,
        }
    }
}

impl Process {
    /// Whether the standby is attached and lacks less than what may wait for it.
    fn standby_lacks_little(&self) -> bool {
        let positions = self.store.positions();
        let lacks = positions.appended.lsn.bytes_since(positions.replicated.lsn);
        self.attached && lacks < GATE_WINDOW_BYTES_DEFAULT
    }

    fn write_promise(&mut self, protection: &Protection) {
        let record = protection.to_record("as the plan says".to_owned());
        match self.store.append_protection(&record) {
            Ok(_) => self.store.ask_gate(),
            // On a disk that fails it is not written.
            Err(error) => self.note(format_args!("no record: {error}")),
        }
        self.note(format_args!("promises {protection:?}"));
    }

    /// Writes down that a promise stands, once it may.
    fn engage(&mut self) {
        if self.is_busy() || self.role() != Role::Primary || !self.standby_lacks_little() {
            return;
        }
        if let Some(protection) = self.gatekeeper.to_engage() {
            self.write_promise(&protection);
        }
    }

    /// Whether the wall clock has jumped against the boot clock since the last look.
    fn clocks_parted(&mut self) -> bool {
        let boot_ms = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let apart_ms = self.clock.wall_ms().cast_signed() - boot_ms.cast_signed();
        let before = self.apart_ms.replace(apart_ms);
        before.is_some_and(|before| before.abs_diff(apart_ms) > JUMP_MS)
    }

    /// The suspension that is in effect, and whether it has just begun: it is the gate that says
    /// when, and its record for how long.
    fn look_at_suspension(
        &mut self,
        lease: Option<Duration>,
    ) -> Option<(outlast_proto::ProtectionPoint, bool)> {
        lease?;
        let (point, newest) = self.observer.promises().last()?;
        let Standing::Suspended { lasts } = newest.standing else {
            self.lifted = None;
            return None;
        };
        let point = *point;
        let now = self.clock.now();
        let began = self.lifted.filter(|(of, _)| *of == point);
        let (began_at, news) = match began {
            Some((_, at)) => (at, false),
            None => {
                let status = self.gatekeeper.status()?;
                let Guard::Suspended { .. } = status.guard else {
                    return None;
                };
                self.lifted = Some((point, now));
                (now, true)
            }
        };
        (now.since(began_at) < lasts).then_some((point, news))
    }
}
