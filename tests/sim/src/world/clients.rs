//! Clients: what they commit and read, and whom they ask.

use std::time::Duration;

use bytes::Bytes;
use outlast_engine::{Batch, CommitOptions, Keyspace, Level, LogState, Op, ReceiptStatus};
use outlast_proto::Guard;

use super::{Event, World};
use crate::ledger::{ID_KEY, Operation, outcome};
use crate::process::Process;
use crate::reader::{DRAFTS, KEYSPACE, profile_keys};
use crate::violation::{Checked, check};

/// Users whose profiles are written.
const USERS: u8 = 8;
const DRAFTS_MAX: u8 = 12;
/// Receipts that a reader asks about.
const RECEIPTS: usize = 6;

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
        if self.rng.u8(..50) == 0 {
            self.turn_drafts(node)?;
        }
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
        if self.is_paused(node) {
            return Ok(());
        }
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        let Ok(profiles) = process.store.find_keyspace(KEYSPACE) else {
            return Ok(());
        };
        let drafts = process.store.find_keyspace(DRAFTS).ok();
        let id = self.ledger.next_id();
        let mut operations = self.profile(profiles.id());
        if let Some(drafts) = drafts.as_ref().filter(|_| self.rng.u8(..3) == 0) {
            operations.push(self.draft(drafts.id()));
        }
        operations.push(put(profiles.id(), ID_KEY, &id.to_le_bytes(), None));
        let mut batch = Batch::new();
        for operation in &operations {
            let keyspace = drafts
                .as_ref()
                .filter(|found| found.id() == operation.keyspace);
            add(&mut batch, keyspace.unwrap_or(&profiles), operation);
        }
        let options = CommitOptions::at(level);
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let future = process.store.commit_queued(batch, options);
        process.pending.push((id, future));
        let ranges = operations
            .iter()
            .filter(|asked| asked.op == Op::DeleteRange);
        self.counts.ranges_deleted += ranges.count() as u64;
        self.ledger.add(node, level, operations);
        self.say(Some(node), format_args!("commit {id} asked for, {level:?}"));
        self.group_soon(node);
        self.settle(node)
    }

    /// A profile as one batch, of three keys that belong together: written, for a while or for
    /// good, or withdrawn; or the profiles of several users withdrawn, and perhaps one of them
    /// written again.
    fn profile(&mut self, keyspace: u32) -> Vec<Operation> {
        let id = self.ledger.next_id();
        let user = self.rng.u8(..USERS);
        let keys = profile_keys(user);
        let mut operations = Vec::new();
        match self.rng.u8(..24) {
            0..4 => {
                let gone = keys.iter().map(|key| delete(keyspace, key));
                return gone.collect();
            }
            4..6 => {
                let end = self.rng.u8(user..USERS) + 1;
                let ends = profile_keys(end);
                for (first, end_key) in keys.iter().zip(&ends) {
                    // To the end of the keyspace: behind these keys there is none.
                    let to_end = end == USERS && first.starts_with(b"v");
                    let end_key: &[u8] = if to_end { b"" } else { end_key };
                    operations.push(range(keyspace, first, end_key));
                }
            }
            6 => {
                // Prefixes of all users.
                let ends: [(&[u8], &[u8]); 3] = [(b"p0", b"p1"), (b"v0", b"v1"), (b"n0", b"n1")];
                operations.extend(ends.map(|(first, end)| range(keyspace, first, end)));
            }
            _ => {}
        }
        if operations.is_empty() || self.rng.bool() {
            let ttl_ms = self.ttl_ms();
            for key in &keys {
                let value = self.value(id);
                operations.push(put(keyspace, key, &value, ttl_ms));
            }
        }
        operations
    }

    /// Something done to a draft, or to several.
    fn draft(&mut self, keyspace: u32) -> Operation {
        let id = self.ledger.next_id();
        let number = self.rng.u8(..DRAFTS_MAX);
        let name = |number: u8| format!("d{number:02}").into_bytes();
        match self.rng.u8(..8) {
            0 => delete(keyspace, &name(number)),
            1 => {
                let end = self.rng.u8(number..DRAFTS_MAX) + 1;
                range(keyspace, &name(number), &name(end))
            }
            2 => range(keyspace, b"", b""),
            _ => {
                let (value, ttl_ms) = (self.value(id), self.ttl_ms());
                put(keyspace, &name(number), &value, ttl_ms)
            }
        }
    }

    fn value(&mut self, id: u64) -> Vec<u8> {
        let id = id.to_le_bytes();
        let len = self.rng.usize(8..8 + self.plan.value_len_max);
        let mut value = vec![id[0]; len];
        value.iter_mut().zip(id).for_each(|(to, from)| *to = from);
        value
    }

    /// For how long a put has its value: some have it for good, and some longer than the seed
    /// takes unless log time leaps.
    fn ttl_ms(&mut self) -> Option<u64> {
        if self.rng.u8(..100) >= self.plan.expiring {
            return None;
        }
        Some(match self.rng.u8(..4) {
            0 => self.rng.u64(..20),
            1 | 2 => self.rng.u64(20..500),
            _ => self.rng.u64(1_000..40 * 3_600_000),
        })
    }

    /// Makes the keyspace of drafts, or drops it.
    fn turn_drafts(&mut self, node: usize) -> Checked {
        let id = self.ledger.next_id();
        if self.is_paused(node) {
            return Ok(());
        }
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        // Who drops a keyspace waits, and nobody else leads here.
        process.finish_groups();
        if process.store.state() != LogState::Writing {
            return self.settle(node);
        }
        let Ok(drafts) = process.store.find_keyspace(DRAFTS) else {
            // On a disk that fails there will be none.
            let _ = process.store.keyspace(DRAFTS);
            return self.settle(node);
        };
        let status = process.gatekeeper.status();
        if status.is_some_and(|status| status.guard != Guard::Off) {
            // It would wait for the gate, and nothing else happens meanwhile.
            return self.settle(node);
        }
        let answer = process
            .store
            .drop_keyspace(&drafts, CommitOptions::default());
        let dropped = Operation {
            keyspace: drafts.id(),
            op: Op::DropKeyspace,
            key: Bytes::new(),
            value: Bytes::new(),
            ttl_ms: None,
        };
        self.ledger.add(node, Level::Local, vec![dropped]);
        self.counts.keyspaces_dropped += u64::from(answer.is_ok());
        self.answered(node, id, outcome(answer))?;
        self.settle(node)
    }

    /// What a node says of the newest receipts is so: whoever has seen a commit is never shown an
    /// older state as if it held it.
    fn check_receipts(&self, node: usize) -> Checked {
        let Some(process) = &self.node(node).process else {
            return Ok(());
        };
        let visible = process.store.positions().visible.lsn;
        for receipt in self.ledger.receipts().take(RECEIPTS) {
            let said = process.store.receipt_status(&receipt);
            let frame = process.observer.frame_of(receipt.lsn);
            let here = frame.is_some_and(|frame| frame.epoch == receipt.epoch);
            let shown = here && receipt.lsn <= visible;
            let true_to = match said {
                ReceiptStatus::InThisHistory => shown,
                ReceiptStatus::Pending => !shown,
                ReceiptStatus::OnAFork => !here,
                _ => false,
            };
            check(true_to, "I10", || {
                format!("{receipt:?} is said to be {said:?}, up to {visible} is shown, {frame:?}")
            })?;
        }
        Ok(())
    }

    pub(super) fn read(&mut self) -> Checked {
        if !self.over {
            let wait_ns = self.rng.u64(2_000_000..30_000_000);
            self.after(wait_ns, Event::Read);
        }
        let user = self.rng.u8(..USERS);
        let node = self.rng.usize(..self.count());
        let hold = self.rng.u8(..6) == 0;
        let (recall, share) = (self.rng.u8(..6) == 0, self.rng.usize(..1 << 20));
        if self.is_paused(node) {
            return Ok(());
        }
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let expired = process
            .reader
            .read(&process.store, &process.observer, user)?;
        if hold {
            process.reader.hold(&process.store, &process.observer)?;
        }
        if recall {
            let Process {
                store, observer, ..
            } = &*process;
            let recalled = process.reader.recall(store, observer, |len| share % len)?;
            self.counts.recalled += u64::from(recalled);
        }
        self.check_receipts(node)?;
        self.counts.reads += 1;
        self.counts.expired += u64::from(expired);
        Ok(())
    }
}

fn put(keyspace: u32, key: &[u8], value: &[u8], ttl_ms: Option<u64>) -> Operation {
    Operation {
        keyspace,
        op: Op::Put,
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        ttl_ms,
    }
}

fn delete(keyspace: u32, key: &[u8]) -> Operation {
    Operation {
        op: Op::Delete,
        ..put(keyspace, key, b"", None)
    }
}

/// From the first key that goes to the first that stays.
fn range(keyspace: u32, first: &[u8], end: &[u8]) -> Operation {
    Operation {
        op: Op::DeleteRange,
        ..put(keyspace, first, end, None)
    }
}

fn add(batch: &mut Batch, keyspace: &Keyspace, operation: &Operation) {
    let Operation { key, value, .. } = operation;
    let added = match (operation.op, operation.ttl_ms) {
        (Op::Put, Some(ttl_ms)) => {
            batch.put_with_ttl(keyspace, key, value, Duration::from_millis(ttl_ms))
        }
        (Op::Put, None) => batch.put(keyspace, key, value),
        (Op::Delete, _) => batch.delete(keyspace, key),
        _ if value.is_empty() => batch.delete_range(keyspace, &key[..]..),
        _ if key.len() == 2 => batch.delete_prefix(keyspace, key),
        _ => batch.delete_range(keyspace, &key[..]..&value[..]),
    };
    if let Err(error) = added {
        panic!("an operation does not fit: {error}");
    }
}
