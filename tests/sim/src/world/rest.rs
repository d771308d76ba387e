//! The second phase: faults stop, and the pair must come to rest.

use outlast_engine::{Level, LogState};
use outlast_standby::status::Role;

use super::lives::missing;
use super::{Event, MS, World};
use crate::ledger::Outcome;
use crate::reader::KEYSPACE;
use crate::violation::{Checked, check};

/// How long the pair may take, in simulated time.
const REST_WITHIN_NS: u64 = 30_000 * MS;

impl World {
    /// Faults stop. What was broken works again, who was down starts.
    pub(super) fn calm(&mut self) -> Checked {
        self.say(None, format_args!("faults stop"));
        self.calm = true;
        self.calm_ns = self.now_ns;
        self.mend();
        for node in 0..self.count() {
            self.node_mut(node).heal_disk();
            self.node_mut(node).slow_until_ns = 0;
            self.node_mut(node).paused_until_ns = 0;
            self.restart_poisoned(node)?;
            if !self.runs(node) {
                self.bury(node)?;
                self.start_later(node);
            }
        }
        self.after(200 * MS, Event::Rest);
        Ok(())
    }

    /// Looks whether the pair has come to rest.
    pub(super) fn rest(&mut self) -> Checked {
        match self.at_rest()? {
            None if !self.last_asked => {
                self.last_asked = true;
                self.last_commit()?;
                self.after(50 * MS, Event::Rest);
                Ok(())
            }
            None => {
                self.over = true;
                self.last_look()
            }
            Some(why) => {
                let waited_ns = self.now_ns - self.calm_ns;
                check(waited_ns < REST_WITHIN_NS, "I15", || {
                    format!("{} s after the last fault: {why}", waited_ns / 1_000 / MS)
                })?;
                self.after(50 * MS, Event::Rest);
                Ok(())
            }
        }
    }

    /// Writes go on: one more commit, which waits for the standby if there is one.
    fn last_commit(&mut self) -> Checked {
        let follows = |node: usize| {
            let process = self.node(node).process.as_ref();
            process.is_some_and(|process| process.following.is_some())
        };
        let level = if (0..self.count()).any(follows) {
            Level::Applied
        } else {
            Level::Local
        };
        match self.writer() {
            Some(writer) => {
                if let Some(process) = &mut self.node_mut(writer).process {
                    process.finish_groups();
                    // One that was promoted may have been sent none. On a disk that fails it is
                    // not made, and the commit says so.
                    let _ = process.store.keyspace(KEYSPACE);
                }
                let id = self.ledger.next_id();
                self.commit_on(writer, level)?;
                self.last_id = Some(id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Why the pair is not at rest yet.
    fn at_rest(&mut self) -> Checked<Option<String>> {
        let mut roles = Vec::new();
        for node in 0..self.count() {
            let Some(process) = &self.node(node).process else {
                return Ok(Some(missing(node).what));
            };
            if !process.pending.is_empty() && (process.store.has_queued() || process.is_busy()) {
                return Ok(Some("commits wait for a group".to_owned()));
            }
            roles.push(process.role());
        }
        match roles.as_slice() {
            [Role::Primary] => Ok(None),
            [Role::Primary, Role::Standby] => Ok(self.has_caught_up(0, 1)),
            [Role::Standby, Role::Primary] => Ok(self.has_caught_up(1, 0)),
            [Role::Primary, Role::Fenced { .. }] | [Role::Fenced { .. }, Role::Primary] => Ok(None),
            [Role::Conflict { .. }, Role::Conflict { .. }] => {
                let acts = self.counts.promoted + self.counts.resumed_alone;
                check(acts > 0, "I6", || {
                    "a conflict that no operator brought about".to_owned()
                })?;
                self.counts.conflicts += 1;
                Ok(None)
            }
            roles => Ok(Some(format!("{roles:?}"))),
        }
    }

    fn has_caught_up(&mut self, primary: usize, standby: usize) -> Option<String> {
        let (Some(ahead), Some(behind)) =
            (&self.node(primary).process, &self.node(standby).process)
        else {
            return Some("one does not run".to_owned());
        };
        let (p, s) = (ahead.store.positions(), behind.store.positions());
        let equal = p.appended == s.visible
            && p.visible == p.appended
            && p.replicated == p.appended
            && p.replica_applied == p.appended;
        if !equal {
            return Some(format!("primary {p:?}, standby {s:?}"));
        }
        if ahead.pending.is_empty() {
            self.promise_lapsed(primary)
        } else {
            Some("commits wait for an answer".to_owned())
        }
    }

    /// What must hold when everything is over.
    fn last_look(&mut self) -> Checked {
        if let Some(last) = self.last_id {
            let entry = self.ledger.entries().find(|(id, _)| *id == last);
            let ok = entry.is_some_and(|(_, entry)| matches!(entry.outcome, Some(Outcome::Ok(_))));
            check(ok, "I15", || format!("the last commit, {last}: {entry:?}"))?;
        }
        for node in 0..self.count() {
            let Some(process) = &self.node(node).process else {
                return Err(missing(node));
            };
            process
                .reader
                .compare(&process.store, Some(&process.observer))?;
            self.check_own_commits(node)?;
        }
        if self.count() == 2 && self.counts.promoted == 0 {
            self.check_equal_logs()?;
        }
        for node in 0..self.count() {
            let follows = self
                .node(node)
                .process
                .as_ref()
                .is_some_and(|process| process.following.is_some());
            let writes = self
                .node(node)
                .process
                .as_ref()
                .is_some_and(|process| process.store.state() == LogState::Writing);
            if follows || writes {
                self.check_nothing_replicated_lost(node)?;
            }
        }
        Ok(())
    }

    /// What a node answered OK is in its own log, whatever it is by now.
    fn check_own_commits(&self, node: usize) -> Checked {
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        for (id, entry) in self.ledger.entries() {
            let Some(Outcome::Ok(receipt)) = entry.outcome else {
                continue;
            };
            let frame = process.observer.frame_of(receipt.lsn);
            let held = frame.is_some_and(|frame| frame.epoch == receipt.epoch);
            check(entry.node != node || held, "I1", || {
                format!("commit {id} was answered OK ({receipt:?}) and is gone")
            })?;
        }
        Ok(())
    }

    /// Both logs are the same bytes, and both states the same.
    fn check_equal_logs(&self) -> Checked {
        let [a, b] = &self.nodes;
        let (Some(one), Some(other)) = (&a.process, &b.process) else {
            return Ok(());
        };
        let roles = [one.role(), other.role()];
        if !matches!(
            roles,
            [Role::Primary, Role::Standby] | [Role::Standby, Role::Primary]
        ) {
            return Ok(());
        }
        let same = one.reader.model() == other.reader.model();
        check(same, "I8", || "the two states differ".to_owned())?;
        let times = [one, other].map(|process| process.store.snapshot().log_ms());
        check(times[0] == times[1], "I8", || {
            format!("the two read by different log times: {times:?}")
        })?;
        let (p, s) = (one.store.chain(), other.store.chain());
        check(p == s, "I2", || {
            format!("the two logs end as {p:?} and {s:?}")
        })?;
        let theirs = b.segments();
        for (name, mine) in a.segments() {
            // Each node compacts its log by itself. One that is being prepared has not its length
            // yet, one that is on its way out not any more.
            let other = theirs.get(&name).filter(|other| other.len() == mine.len());
            check(other.is_none_or(|other| *other == mine), "I2", || {
                format!("{name} differs")
            })?;
        }
        Ok(())
    }
}
