//! RocksDB: a write with `sync` is a write to its log and an fdatasync, shared by those that wait.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    IngestExternalFileOptions, Options, Snapshot, SstFileWriter, WaitForCompactOptions, WriteBatch,
    WriteOptions,
};

use super::{Engine, Reader, Show, Way};
use crate::data::{Key, Pair};

pub(super) struct RocksDb {
    database: DB,
    dir: PathBuf,
    options: Options,
}

const FAMILY: &str = "default";
const LOAD_BATCH: usize = 10_000;
/// So many records make a table of some 64 MiB when their values have 128 B.
const TABLE_RECORDS: usize = 500_000;

impl RocksDb {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(usize::try_from(cache_bytes)?));
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::None);
        options.set_block_based_table_factory(&blocks);
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let database = DB::open_cf_descriptors(&options, dir, [family])?;
        let dir = dir.to_owned();
        Ok(Self {
            database,
            dir,
            options,
        })
    }
}

fn durable() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

impl Engine for RocksDb {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &durable())?)
    }

    fn put_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        Ok(self.database.write_opt(batch, &durable())?)
    }

    fn load(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        loop {
            let mut batch = WriteBatch::default();
            for (key, value) in pairs.take(LOAD_BATCH) {
                batch.put(key, value);
            }
            if batch.is_empty() {
                break;
            }
            self.database.write_opt(batch, &without_log)?;
        }
        self.database.flush()?;
        Ok("batches of 10,000 without its log, then flush")
    }

    fn load_sorted(&self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<&'static str> {
        let mut pairs = pairs.peekable();
        let mut tables = Vec::new();
        while pairs.peek().is_some() {
            let path = self.dir.join(format!("load-{}", tables.len()));
            let mut table = SstFileWriter::create(&self.options);
            table.open(&path)?;
            for (key, value) in pairs.by_ref().take(TABLE_RECORDS) {
                table.put(key, value)?;
            }
            table.finish()?;
            tables.push(path);
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.database.ingest_external_file_opts(&options, tables)?;
        Ok("ingested tables")
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(View {
            database: &self.database,
            snapshot: self.database.snapshot(),
        }))
    }

    fn compact(&mut self) -> Result<Way> {
        let everything = None::<&[u8]>;
        let options = CompactOptions::default();
        self.database
            .compact_range_opt(everything, everything, &options);
        self.database
            .wait_for_compact(&WaitForCompactOptions::default())?;
        Ok(Way::By("compact_range"))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.flush()?;
        self.database.cancel_all_background_work(true);
        Ok(())
    }
}

struct View<'a> {
    database: &'a DB,
    snapshot: Snapshot<'a>,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, show: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.snapshot.get_pinned(key)?;
        Ok(value.map(|value| show(&value)).is_some())
    }

    fn multi_get(&mut self, keys: &[Key], show: &mut dyn FnMut(&[u8])) -> Result<()> {
        let family = self.database.cf_handle(FAMILY).context("no such family")?;
        let values = self.database.batched_multi_get_cf(&family, keys, false);
        for value in values {
            if let Some(value) = value? {
                show(&value);
            }
        }
        Ok(())
    }

    fn multi_get_way(&self) -> Way {
        Way::By("batched_multi_get_cf")
    }

    fn scan(&mut self, from: &Key, show: Show<'_>) -> Result<()> {
        let mut iterator = self.snapshot.raw_iterator();
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if show(key, value).is_break() {
                break;
            }
            iterator.next();
        }
        Ok(iterator.status()?)
    }
}
