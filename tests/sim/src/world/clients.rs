//! Clients: what they commit and read, and whom they ask.

use bytes::Bytes;
use outlast_engine::{Batch, CommitOptions, Level, LogState};

use super::{Event, World};
use crate::ledger::{ID_KEY, Operation};
use crate::reader::{KEYSPACE, profile_keys};
use crate::violation::Checked;

/// Users whose profiles are written.
const USERS: u8 = 8;

impl World {
    pub(super) fn commit(&mut self) -> Checked {
        if !self.calm {
            let gap_ns = self.plan.commit_gap_ns;
            let wait_ns = self.rng.u64(gap_ns / 8..gap_ns * 2);
            self.after(wait_ns, Event::Commit);
        }
        let count = if self.rng.u8(..4) == 0 { 4 } else { 1 };
        let node = match self.writer() {
            Some(writer) if self.rng.u8(..20) > 0 => writer,
            _ => self.rng.usize(..self.count()),
        };
        let level = match self.rng.u8(..100) {
            share if share >= self.plan.replicated || !self.plan.pair => Level::Local,
            share if share % 2 == 0 => Level::Replicated,
            _ => Level::Applied,
        };
        for _ in 0..count {
            self.commit_on(node, level)?;
        }
        Ok(())
    }

    /// A node that takes writes.
    pub(super) fn writer(&mut self) -> Option<usize> {
        let writes = |node: &usize| {
            let process = self.node(*node).process.as_ref();
            process.is_some_and(|process| process.store.state() == LogState::Writing)
        };
        let writers: Vec<usize> = (0..self.count()).filter(writes).collect();
        self.rng.choice(writers)
    }

    pub(super) fn commit_on(&mut self, node: usize, level: Level) -> Checked {
        let operations = self.operations();
        let id = self.ledger.next_id();
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let Ok(keyspace) = process.store.find_keyspace(KEYSPACE) else {
            return Ok(());
        };
        let mut batch = Batch::new();
        for (key, value) in &operations {
            let added = match value {
                Some(value) => batch.put(&keyspace, key, value),
                None => batch.delete(&keyspace, key),
            };
            if let Err(error) = added {
                panic!("an operation does not fit: {error}");
            }
        }
        let options = CommitOptions::at(level);
        let future = process.store.commit_queued(batch, options);
        process.pending.push((id, future));
        self.ledger.add(node, level, operations);
        self.say(Some(node), format_args!("commit {id} asked for, {level:?}"));
        self.group_soon(node);
        self.settle(node)
    }

    /// A profile as one batch: three keys that belong together, and the commit's own name.
    fn operations(&mut self) -> Vec<Operation> {
        let id = self.ledger.next_id().to_le_bytes();
        let user = self.rng.u8(..USERS);
        let withdrawn = self.rng.u8(..5) == 0;
        let mut operations: Vec<Operation> = profile_keys(user)
            .into_iter()
            .map(|key| {
                let len = self.rng.usize(8..8 + self.plan.value_len_max);
                let mut value = vec![id[0]; len];
                value.iter_mut().zip(id).for_each(|(to, from)| *to = from);
                (key, (!withdrawn).then(|| Bytes::from(value)))
            })
            .collect();
        let name = (
            Bytes::from_static(ID_KEY),
            Some(Bytes::copy_from_slice(&id)),
        );
        operations.push(name);
        operations
    }

    pub(super) fn read(&mut self) -> Checked {
        if !self.over {
            let wait_ns = self.rng.u64(2_000_000..30_000_000);
            self.after(wait_ns, Event::Read);
        }
        let user = self.rng.u8(..USERS);
        let node = self.rng.usize(..self.count());
        let hold = self.rng.u8(..6) == 0;
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        process.reader.read(&process.store, user)?;
        if hold {
            process.reader.hold(&process.store)?;
        }
        self.counts.reads += 1;
        Ok(())
    }
}
