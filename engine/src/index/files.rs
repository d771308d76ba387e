//! The index's files: opening what is there, writing a memtable out, taking away what is replaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::{DIR, IndexManifest, RunEntry, run_name, run_number};
use super::run::{Run, RunWriter};
use super::version::Resume;
use super::view::{Frozen, Runs};
use crate::error::{Error, Result};
use crate::format::{Chain, ChainRecord, ClusterId, Lsn, NodeId};
use crate::fs::Fs;

/// The index of one store on its disk. Whoever holds it is the only one who changes it.
#[derive(Debug)]
pub(crate) struct IndexFiles {
    fs: Arc<dyn Fs>,
    manifest: IndexManifest,
    runs: BTreeMap<u64, Arc<Run>>,
}

/// A memtable that is being written out.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) frozen: Arc<Frozen>,
    number: u64,
    writer: Option<RunWriter>,
    at: Resume,
}

impl IndexFiles {
    /// Opens the index in `fs`.
    ///
    /// # Errors
    /// When there is none (`NotInitialised`), or one that cannot be used: it is derived, and a new
    /// one is made from the log.
    pub(crate) fn open(fs: Arc<dyn Fs>, cluster: ClusterId, node: NodeId) -> Result<Option<Self>> {
        let Some(manifest) = IndexManifest::load(&*fs)? else {
            return Ok(None);
        };
        if (manifest.cluster, manifest.node) != (cluster, node) {
            // A copy of another node's directory: its runs may be right, but who knows.
            tracing::warn!(node = %manifest.node, "the index is another node's");
            return Ok(None);
        }
        let mut runs = BTreeMap::new();
        for entry in manifest.levels.iter().flatten() {
            let run = Run::open(&*fs, &run_name(entry.number), &entry.meta)?;
            runs.insert(entry.number, Arc::new(run));
        }
        Ok(Some(Self { fs, manifest, runs }))
    }

    /// An empty index, whatever lies in the directory.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn empty(fs: Arc<dyn Fs>, cluster: ClusterId, node: NodeId) -> Result<Self> {
        let used = numbers(&*fs)?;
        let manifest = IndexManifest {
            cluster,
            node,
            replay: ChainRecord::new(&Chain::origin(cluster)),
            horizon: Lsn::ZERO,
            keyspaces: Vec::new(),
            next_number: used.into_iter().max().unwrap_or(0) + 1,
            levels: Vec::new(),
        };
        let runs = BTreeMap::new();
        Ok(Self { fs, manifest, runs })
    }

    /// The replay point.
    pub(crate) const fn replay(&self) -> &ChainRecord {
        &self.manifest.replay
    }

    /// The lowest position at which a state is whole.
    pub(crate) const fn horizon(&self) -> Lsn {
        self.manifest.horizon
    }

    /// The runs as readers want them.
    pub(crate) fn runs(&self) -> Arc<Runs> {
        let opened = |entry: &RunEntry| match self.runs.get(&entry.number) {
            Some(run) => run.clone(),
            None => panic!("run {} is named and was never opened", entry.number),
        };
        let level = |level: &Vec<RunEntry>| level.iter().map(opened).collect();
        let levels = self.manifest.levels.iter().map(level).collect();
        Arc::new(Runs::new(&self.manifest, levels))
    }

    /// Takes away files that no manifest names: what a crash left of a flush or a merge.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn sweep(&self) -> Result<()> {
        for number in numbers(&*self.fs)? {
            if !self.runs.contains_key(&number) {
                self.unlink(number)?;
            }
        }
        Ok(())
    }

    /// Begins to write `frozen` out.
    pub(crate) fn begin_flush(&mut self, frozen: Arc<Frozen>) -> Result<Flush> {
        let number = self.manifest.next_number;
        self.manifest.next_number += 1;
        let writer = if frozen.memtable.versions() == 0 {
            None
        } else {
            self.fs
                .create_dir(DIR)
                .map_err(|error| Error::io(format_args!("make {DIR}"), error))?;
            Some(RunWriter::create(&*self.fs, &run_name(number))?)
        };
        let at = Resume::default();
        Ok(Flush {
            frozen,
            number,
            writer,
            at,
        })
    }

    /// Writes at most `limit` more versions; whether all are written.
    ///
    /// # Errors
    /// `DiskFull`, `Io`. The flush cannot go on then; another one may be begun.
    pub(crate) fn step_flush(flush: &mut Flush, limit: usize) -> Result<bool> {
        let Some(writer) = &mut flush.writer else {
            return Ok(true);
        };
        let memtable = &flush.frozen.memtable;
        memtable.export(&mut flush.at, limit, &mut |keyspace, key, version| {
            writer.push(keyspace, key, version)
        })
    }

    /// Makes what a flush wrote, and the replay point behind it, part of the durable index.
    ///
    /// # Errors
    /// `DiskFull`, `Io`. Nothing has changed then.
    pub(crate) fn end_flush(&mut self, flush: Flush) -> Result<Arc<Runs>> {
        let mut manifest = self.manifest.clone();
        manifest.replay = ChainRecord::new(&flush.frozen.end);
        manifest.keyspaces.clone_from(&flush.frozen.keyspaces);
        let mut run = None;
        if let Some(writer) = flush.writer {
            let meta = writer.finish()?;
            let opened = Run::open(&*self.fs, &run_name(flush.number), &meta)?;
            run = Some(Arc::new(opened));
            if manifest.levels.is_empty() {
                manifest.levels.push(Vec::new());
            }
            let number = flush.number;
            if let Some(newest) = manifest.levels.first_mut() {
                newest.insert(0, RunEntry { number, meta });
            }
        }
        self.adopt(manifest)?;
        self.runs.extend(run.map(|run| (flush.number, run)));
        Ok(self.runs())
    }

    /// Makes `manifest` the durable one, with the names of all that it names.
    fn adopt(&mut self, manifest: IndexManifest) -> Result<()> {
        let making = |error| Error::io(format_args!("make {DIR} last"), error);
        self.fs.create_dir(DIR).map_err(making)?;
        self.fs.sync_dir(DIR).map_err(making)?;
        self.fs.sync_dir("").map_err(making)?;
        manifest.store(&*self.fs)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Takes a file away that was given up: it is made again, or replaced.
    pub(crate) fn abandon(&self, flush: Flush) {
        let number = flush.number;
        if flush.writer.is_some()
            && let Err(error) = self.unlink(number)
        {
            tracing::warn!(%error, number, "a run that was given up stays until the next start");
        }
    }

    fn unlink(&self, number: u64) -> Result<()> {
        let name = run_name(number);
        match self.fs.unlink(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format_args!("unlink {name}"), error))
            }
            _ => Ok(()),
        }
    }
}

/// The numbers of all run files, in use or not.
fn numbers(fs: &dyn Fs) -> Result<Vec<u64>> {
    match fs.list(DIR) {
        Ok(names) => Ok(names.iter().filter_map(|name| run_number(name)).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format_args!("list {}/{DIR}", fs.place()), error)),
    }
}
