//! TEMPORARY reference implementation.
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Lsn, Op};
use crate::fs::{File, Fs, read_all};

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct RunMeta {
    pub(crate) entries: u64,
    pub(crate) last: (u32, Vec<u8>),
}
impl RunMeta {
    pub(crate) fn ends_before(&self, keyspace: u32, key: &[u8]) -> bool {
        (self.last.0, &self.last.1[..]) < (keyspace, key)
    }
}
type Entry = (u32, Vec<u8>, u64, u32, bool);
#[derive(Debug)]
pub(crate) struct RunWriter {
    file: Arc<dyn File>,
    entries: Vec<Entry>,
}
impl RunWriter {
    pub(crate) fn create(fs: &dyn Fs, name: &str) -> Result<Self> {
        let file = fs.create(name).map_err(|e| Error::io("create a run", e))?;
        Ok(Self { file, entries: vec![] })
    }
    pub(crate) fn push(&mut self, keyspace: u32, key: &[u8], v: Version) -> Result<()> {
        self.entries.push((keyspace, key.to_vec(), v.lsn.0, v.len, v.op == Op::Put));
        Ok(())
    }
    pub(crate) fn finish(self) -> Result<RunMeta> {
        let bytes = postcard::to_stdvec(&self.entries).unwrap();
        self.file.write_at(0, &bytes).map_err(|e| Error::io("write a run", e))?;
        self.file.sync().map_err(|e| Error::io("sync a run", e))?;
        let last = self.entries.last().unwrap();
        Ok(RunMeta { entries: self.entries.len() as u64, last: (last.0, last.1.clone()) })
    }
}
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) entries: Vec<Entry>,
    meta: RunMeta,
}
impl Run {
    pub(crate) fn open(fs: &dyn Fs, name: &str, meta: &RunMeta) -> Result<Self> {
        let bytes = read_all(fs, name).map_err(|e| Error::io("read a run", e))?;
        let entries = postcard::from_bytes(&bytes).map_err(|e| Error::new(ErrorKind::Corrupt, e.to_string()))?;
        Ok(Self { entries, meta: meta.clone() })
    }
    pub(crate) fn verify(&self) -> Result<()> {
        Ok(())
    }
    pub(crate) fn meta(&self) -> &RunMeta {
        &self.meta
    }
    pub(crate) fn get(&self, keyspace: u32, key: &[u8], at: Lsn) -> Result<Option<Version>> {
        Ok(self.entries.iter().find(|e| e.0 == keyspace && e.1 == key && e.2 < at.0).map(version))
    }
}
pub(super) fn version(e: &Entry) -> Version {
    Version { lsn: Lsn(e.2), len: e.3, op: if e.4 { Op::Put } else { Op::Delete } }
}
