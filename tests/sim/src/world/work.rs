//! What a process does by itself: timers, groups, a follower's jobs.

use super::{Event, MS, World};
use crate::process::Stage;
use crate::violation::Checked;
use outlast_proto::{ReceiverInput, SenderInput};

impl World {
    /// Does whatever is due.
    pub(super) fn wake(&mut self, node: usize) -> Checked {
        let now_ns = self.now_ns;
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        if now_ns < process.wake_ns {
            // An earlier one was scheduled, and this one is scheduled again.
            return Ok(());
        }
        process.wake_ns = u64::MAX;
        let now = process.clock.now();
        if process.lane_ns <= now_ns && !process.is_busy() {
            let rest = process.store.background_step();
            let rest_ns = rest.map(|rest| u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX));
            process.lane_ns = rest_ns.map_or(u64::MAX, |rest_ns| now_ns + rest_ns.max(MS / 10));
        }
        if self.plan.promise.is_some() {
            self.keep_promise(node);
        }
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        if let Some(ship) = &mut process.ship
            && ship.shipping.poll_timeout().is_some_and(|at| at <= now)
        {
            ship.shipping.handle(now, SenderInput::Timeout);
        }
        if let Some(following) = &mut process.following
            && following.poll_timeout().is_some_and(|at| at <= now)
        {
            following.handle(now, ReceiverInput::Timeout);
        }
        if process.wants_to_dial() && process.dial_ns <= now_ns {
            process.dialling = true;
            let life = self.node(node).life;
            let wait_ns = 2 * self.line.latency_ns;
            self.after(wait_ns, Event::Established { node, life });
        }
        Ok(())
    }

    /// Lets a group form soon, unless one is on its way.
    pub(super) fn group_soon(&mut self, node: usize) {
        let life = self.node(node).life;
        let wait_ns = self.rng.u64(1_000..2 * MS);
        if let Some(process) = &mut self.node_mut(node).process
            && !process.group_scheduled
        {
            process.group_scheduled = true;
            self.after(wait_ns, Event::Group { node, life });
        }
    }

    /// Leads a group: in one go, or one step of it.
    pub(super) fn group_step(&mut self, node: usize) -> Checked {
        let stepped = self.rng.u8(..100) < self.plan.stepped;
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.group_scheduled = false;
        let group = process.group.take();
        let stage = group.as_ref().map(|(_, stage)| *stage);
        match group {
            None => {
                process.group = process.store.lead().map(|group| (group, Stage::Formed));
            }
            Some((mut group, Stage::Formed)) => {
                group.write();
                process.group = Some((group, Stage::Written));
            }
            Some((mut group, Stage::Written)) => {
                group.sync();
                process.group = Some((group, Stage::Synced));
            }
            Some((group, Stage::Synced)) => group.finish(),
        }
        if !stepped {
            process.finish_groups();
        }
        // What the gate keeps outside of the log waits until it is asked again.
        let stalled = process.group.is_none() && stage.is_none();
        let more = process.group.is_some() || (process.waits_for_group() && !stalled);
        if more {
            self.step_soon(node);
        }
        Ok(())
    }

    fn step_soon(&mut self, node: usize) {
        let slow = self.node(node).slow_until_ns > self.now_ns;
        let fsync_ns = self.plan.fsync_ns * if slow { self.plan.slower } else { 1 };
        let wait_ns = self.rng.u64(fsync_ns / 8..fsync_ns * 2);
        let life = self.node(node).life;
        if let Some(process) = &mut self.node_mut(node).process {
            process.group_scheduled = true;
        }
        self.after(wait_ns, Event::Group { node, life });
    }

    /// Does some of a follower's jobs.
    pub(super) fn do_jobs(&mut self, node: usize) -> Checked {
        // A slow disk is seen between any two of them.
        let slow = self.node(node).slow_until_ns > self.now_ns;
        let some = if slow { 1 } else { self.rng.usize(1..12) };
        if let Some(process) = &mut self.node_mut(node).process {
            process.jobs_scheduled = false;
            process.do_jobs(some);
        }
        Ok(())
    }

    /// Shows a follower's readers what they may see.
    pub(super) fn do_replay(&mut self, node: usize) -> Checked {
        if let Some(process) = &mut self.node_mut(node).process {
            process.replay_scheduled = false;
            process.do_replay();
        }
        Ok(())
    }

    /// Tells a follower what came of them.
    pub(super) fn tell_done(&mut self, node: usize) -> Checked {
        let all = self.rng.bool();
        if let Some(process) = &mut self.node_mut(node).process {
            process.done_scheduled = false;
            process.tell_done();
            while all && !process.done.is_empty() {
                process.pump();
                process.tell_done();
            }
        }
        Ok(())
    }
}
