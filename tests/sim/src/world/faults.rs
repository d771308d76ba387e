//! Things that go wrong, and things that work again.

use std::io::ErrorKind;

use outlast_standby::status::Role;

use super::{Event, MS, World};
use crate::plan::Act;
use crate::violation::Checked;

impl World {
    pub(super) fn act(&mut self, act: Act) -> Checked {
        self.say(None, format_args!("{act:?}"));
        let operated = match act {
            Act::Stop(node)
            | Act::Promote { node, .. }
            | Act::ConfirmTime(node)
            | Act::Restore(node) => Some(node),
            Act::PromoteFor { .. } => Some(1),
            _ => None,
        };
        if operated.is_some_and(|node| self.is_paused(node)) {
            // Whoever asks a process that stands still gets no answer, and gives up.
            return Ok(());
        }
        match act {
            Act::Power(node) => self.power(node),
            Act::BothPower => {
                self.power(0)?;
                self.power(1)
            }
            Act::PowerAt { node, operations } => {
                if self.runs(node) && !self.node(node).failing {
                    self.node_mut(node).take_power_at(operations);
                }
                Ok(())
            }
            Act::Kill(node) => {
                if self.runs(node) {
                    self.kill(node)?;
                }
                Ok(())
            }
            Act::Stop(node) => self.stop(node),
            Act::DiskError {
                node,
                operations,
                sticky,
            } => {
                self.break_disk(node, operations, sticky);
                Ok(())
            }
            Act::DiskFull { node, for_ns } => {
                let found = self.node_mut(node);
                let used_bytes = found.fs.used_bytes();
                found.fs.limit(Some(used_bytes));
                found.failing = true;
                self.heal_after(node, for_ns);
                Ok(())
            }
            Act::SlowDisk { node, for_ns } => {
                self.node_mut(node).slow_until_ns = self.now_ns + for_ns;
                Ok(())
            }
            Act::Cut { from, for_ns } => {
                self.cut(from, for_ns);
                Ok(())
            }
            Act::Break => {
                self.break_links();
                Ok(())
            }
            Act::WallJump { node, by_ms } => {
                self.node(node).clock.jump(by_ms);
                Ok(())
            }
            Act::Promote { node, sick, dry } => self.promote(node, sick, dry),
            Act::ResumeAlone(node) => self.abandon(node),
            Act::ConfirmTime(node) => self.confirm_time(node),
            Act::Restore(node) => self.restore(node),
            Act::SetPolicy { policy, action } => self.set_policy(policy, action),
            Act::Suspend { lasts_ms } => self.suspend(lasts_ms),
            Act::ResumeProtection => self.resume_protection(),
            Act::Pause { node, for_ns } => {
                self.pause(node, for_ns);
                Ok(())
            }
            Act::TakeOver { from } => {
                self.take_over(from);
                Ok(())
            }
            Act::PromoteFor { accept, down, sick } => self.promote_for(accept, down, sick),
        }
    }

    pub(super) fn runs(&self, node: usize) -> bool {
        self.node(node).process.is_some()
    }

    fn power(&mut self, node: usize) -> Checked {
        if self.runs(node) {
            self.lose_power(node)?;
        }
        Ok(())
    }

    fn break_disk(&mut self, node: usize, operations: u64, sticky: bool) {
        let wait_ns = self.rng.u64(20 * MS..300 * MS);
        let found = self.node_mut(node);
        if found.failing || found.has_power_cut_ahead() {
            return;
        }
        let at = found.fs.operations() + operations;
        if sticky {
            found.fs.fail_from(at, ErrorKind::Other);
        } else {
            found.fs.fail_at(at, ErrorKind::Other);
        }
        found.failing = true;
        self.heal_after(node, wait_ns);
    }

    fn heal_after(&mut self, node: usize, wait_ns: u64) {
        let life = self.node(node).life;
        self.after(wait_ns, Event::Heal { node, life });
    }

    pub(super) fn heal(&mut self, node: usize) -> Checked {
        let found = self.node_mut(node);
        if found.failing {
            found.heal_disk();
            self.say(Some(node), format_args!("its disk works"));
        }
        Ok(())
    }

    /// Cuts the line. Links that get nothing through for long are found dead, at each end by
    /// itself.
    pub(super) fn cut(&mut self, from: [bool; 2], for_ns: u64) {
        self.line.cut = from;
        self.line.cuts += 1;
        let cuts = self.line.cuts;
        self.after(for_ns, Event::Mend { cuts });
        for link in 0..self.links.len() {
            for end in [0, 1] {
                let open = self.links.get(link).is_some_and(|found| found.is_open(end));
                if open {
                    let wait_ns = self.rng.u64(300 * MS..600 * MS);
                    let cuts = Some(cuts);
                    self.after(wait_ns, Event::Dead { link, end, cuts });
                }
            }
        }
    }

    /// A primary loses its power and its standby, and its operator lets it go on alone.
    fn abandon(&mut self, node: usize) -> Checked {
        if self.waits(node) {
            return self.resume_alone(node);
        }
        self.power(node)?;
        let for_ns = self.rng.u64(150 * MS..800 * MS);
        self.cut([true, true], for_ns);
        let wait_ns = self.rng.u64(20 * MS..400 * MS);
        self.after(wait_ns, Event::Resume { node });
        Ok(())
    }

    /// Whether a node waits to hear from its standby.
    pub(super) fn waits(&self, node: usize) -> bool {
        let process = self.node(node).process.as_ref();
        process.is_some_and(|process| process.role() == Role::WaitingForPeer)
    }

    fn break_links(&mut self) {
        for link in 0..self.links.len() {
            for end in [0, 1] {
                let open = self.links.get(link).is_some_and(|found| found.is_open(end));
                if open {
                    let wait_ns = self.rng.u64(..60 * MS);
                    let cuts = None;
                    self.after(wait_ns, Event::Dead { link, end, cuts });
                }
            }
        }
    }
}
