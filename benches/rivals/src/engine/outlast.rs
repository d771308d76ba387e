//! Outlast by its blocking, asynchronous and batch calls.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use outlast_engine::format::limits::SEGMENT_SIZE_DEFAULT;
use outlast_engine::{
    Batch, CommitOptions, Compact, Config, EpochReason, InitOptions, Keyspace, Snapshot, Store,
};

use super::{Commit, Engine, Reader, Show, Space, Way};
use crate::data::{Key, Pair};
use crate::wait::block_on;

pub(super) struct Outlast {
    store: Store,
    keyspace: Keyspace,
}

const LOAD_BATCH: usize = 1000;
const LOAD_IN_FLIGHT: usize = 16;

impl Outlast {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let new = fs::read_dir(dir)?.next().is_none();
        if new {
            Store::init(dir, &InitOptions::new("rivals"))?;
        }
        let store = Store::open(dir, Config::default())?;
        let reason = if new {
            EpochReason::Init
        } else {
            EpochReason::Restart
        };
        store.begin_epoch(reason, "")?;
        let keyspace = store.keyspace("default")?;
        Ok(Self { store, keyspace })
    }

    fn batch<'a>(&self, pairs: impl IntoIterator<Item = (&'a Key, &'a [u8])>) -> Result<Batch> {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(&self.keyspace, key, value)?;
        }
        Ok(batch)
    }
}

impl Engine for Outlast {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        let batch = self.batch([(key, value)])?;
        self.store.commit(batch, CommitOptions::default())?;
        Ok(())
    }

    fn put_batch(&self, pairs: &[Pair]) -> Result<()> {
        let batch = self.batch(pairs.iter().map(|(key, value)| (key, value.as_slice())))?;
        self.store.commit(batch, CommitOptions::default())?;
        Ok(())
    }

    fn put_async(&self, key: &Key, value: &[u8]) -> Option<Commit<'_>> {
        let commit = self
            .batch([(key, value)])
            .map(|batch| self.store.commit_async(batch, CommitOptions::default()));
        Some(Box::pin(async {
            commit?.await?;
            Ok(())
        }))
    }

    fn load(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        let mut on_their_way = VecDeque::new();
        loop {
            let pairs: Vec<Pair> = pairs.take(LOAD_BATCH).collect();
            let batch = self.batch(pairs.iter().map(|(key, value)| (key, value.as_slice())))?;
            let last = batch.is_empty();
            if !last {
                let commit = self.store.commit_async(batch, CommitOptions::default());
                on_their_way.push_back(commit);
            }
            while on_their_way.len() > if last { 0 } else { LOAD_IN_FLIGHT } {
                let commit = on_their_way.pop_front().context("one is on its way")?;
                block_on(commit)?;
            }
            if last {
                return Ok("durable batches of 1,000, 16 in flight");
            }
        }
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(View {
            snapshot: self.store.snapshot(),
            keyspace: &self.keyspace,
        }))
    }

    fn compact(&mut self) -> Result<Way> {
        self.store.compact_index()?;
        self.store.compact_now(Compact::Order)?;
        Ok(Way::By("compact_index and compact_now, ordered"))
    }

    fn space(&self) -> Option<Space> {
        let (log, index) = (self.store.log_size(), self.store.index_size());
        let active = SEGMENT_SIZE_DEFAULT.min(log.whole_bytes);
        Some(Space {
            settled_bytes: log.whole_bytes - active + log.sparse_bytes + index.disk_bytes,
            index_bytes: index.disk_bytes,
            versions: index.versions,
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.store.close()?)
    }
}

struct View<'a> {
    snapshot: Snapshot,
    keyspace: &'a Keyspace,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.snapshot.get(self.keyspace, key)?;
        Ok(value.map(|value| show(&value)).is_some())
    }

    fn multi_get(&mut self, keys: &[Key], show: &mut dyn FnMut(&[u8])) -> Result<()> {
        let values = self.snapshot.multi_get(self.keyspace, keys)?;
        values.iter().flatten().for_each(|value| show(value));
        Ok(())
    }

    fn multi_get_way(&self) -> Way {
        Way::By("multi_get")
    }

    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()> {
        let mut range = self.snapshot.range::<&Key>(self.keyspace, from..);
        Ok(range.visit(show)?)
    }
}
