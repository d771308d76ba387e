//! A disk in memory that remembers every change, so that the power can be taken away at any of them
//! afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use outlast_engine::fs::{Access, File, Fs, MapPages};

/// The smallest write that is never torn.
const SECTOR_LEN: usize = 512;

/// A file, whatever its name.
type Inode = usize;

/// One change that a program asked for.
#[derive(Clone, Debug)]
enum Change {
    Name(NameChange),
    SyncDir(String),
    Data(Inode, DataChange),
    Sync(Inode),
    /// A sync that failed: the system shows the bytes on and forgets that the disk lacks them.
    Forget(Inode),
}

#[derive(Clone, Debug)]
enum NameChange {
    Create {
        name: String,
        inode: Inode,
    },
    Rename {
        from: String,
        to: String,
        inode: Inode,
    },
    Unlink {
        name: String,
    },
}

#[derive(Clone, Debug)]
enum DataChange {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

/// Names and bytes as they are at one moment.
#[derive(Clone, Debug, Default)]
struct Files {
    names: BTreeMap<String, Inode>,
    bytes: Vec<Arc<Vec<u8>>>,
}

impl Files {
    fn rename(&mut self, change: &NameChange) {
        match change {
            NameChange::Create { name, inode } => {
                self.names.insert(name.clone(), *inode);
            }
            NameChange::Rename { from, to, inode } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *inode);
            }
            NameChange::Unlink { name } => {
                self.names.remove(name);
            }
        }
    }

    fn change(&mut self, inode: Inode, change: &DataChange) {
        let bytes = Arc::make_mut(&mut self.bytes[inode]);
        match change {
            DataChange::Write { offset, bytes: new } => {
                let end = offset + new.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(new);
            }
            DataChange::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

/// The disk. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What was there before the first change.
    first: Files,
    live: Files,
    changes: Vec<Change>,
    /// Calls that change something, failed ones included.
    calls: usize,
    fails: Option<Failing>,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failing {
    /// The number of the first, counted from 1.
    pub(crate) from: usize,
    /// Whether all behind it fail too.
    pub(crate) sticky: bool,
    pub(crate) kind: io::ErrorKind,
}

impl State {
    /// Counts a call, and answers with the error that it ends in, if it does.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.fails {
            Some(fails) if self.calls == fails.from || fails.sticky && self.calls > fails.from => {
                Err(fails.kind.into())
            }
            _ => Ok(()),
        }
    }
}

impl Disk {
    /// Calls so far that changed something or were to.
    pub(crate) fn calls(&self) -> usize {
        self.state().calls
    }

    /// Lets calls fail.
    pub(crate) fn fail(&self, fails: Option<Failing>) {
        self.state().fails = fails;
    }

    /// Files that were synced again after a sync of them had failed.
    pub(crate) fn repeated_syncs(&self) -> usize {
        let mut failed = BTreeSet::new();
        let repeats = |change: &&Change| match change {
            Change::Forget(inode) => {
                failed.insert(*inode);
                false
            }
            Change::Sync(inode) => failed.contains(inode),
            _ => false,
        };
        self.state().changes.iter().filter(repeats).count()
    }

    /// Changes so far.
    pub(crate) fn changes(&self) -> usize {
        self.state().changes.len()
    }

    /// Goes through all moments from the first one on.
    pub(crate) fn moments(&self) -> Moments {
        let state = self.state();
        Moments {
            durable: state.first.clone(),
            names: Vec::new(),
            data: Vec::new(),
            changes: state.changes.clone(),
            at: 0,
        }
    }

    fn holding(files: Files) -> Self {
        Self(Arc::new(Mutex::new(State {
            first: files.clone(),
            live: files,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn change_name(&self, change: impl FnOnce(&Files) -> io::Result<NameChange>) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        let change = change(&state.live)?;
        state.live.rename(&change);
        state.changes.push(Change::Name(change));
        Ok(())
    }

    fn file(&self, inode: Inode) -> Arc<dyn File> {
        Arc::new(DiskFile {
            disk: self.clone(),
            inode,
        })
    }
}

/// The moment after some number of changes.
pub(crate) struct Moments {
    durable: Files,
    names: Vec<NameChange>,
    data: Vec<(Inode, DataChange)>,
    changes: Vec<Change>,
    at: usize,
}

/// What the disk may keep or lose by itself.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    /// The change of a name, by its place in the list.
    Name(usize),
    /// One sector of a write.
    Sector(usize, Range<usize>),
    /// The length that a file had.
    Len(usize),
}

impl Moments {
    /// How many changes were made.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes on to the next moment; `false` at the end.
    pub(crate) fn step(&mut self) -> bool {
        let Some(change) = self.changes.get(self.at).cloned() else {
            return false;
        };
        self.at += 1;
        match change {
            Change::Name(change) => {
                if let NameChange::Create { inode, .. } = &change {
                    let files = &mut self.durable.bytes;
                    files.resize(files.len().max(inode + 1), Arc::default());
                }
                self.names.push(change);
            }
            Change::SyncDir(dir) => {
                let durable = &mut self.durable;
                self.names.retain(|change| {
                    let (NameChange::Create { name, .. }
                    | NameChange::Rename { to: name, .. }
                    | NameChange::Unlink { name }) = change;
                    let inside = parent(name) == dir;
                    if inside {
                        durable.rename(change);
                    }
                    !inside
                });
            }
            Change::Forget(lost) => self.data.retain(|(inode, _)| *inode != lost),
            Change::Data(inode, change) => self.data.push((inode, change)),
            Change::Sync(synced) => {
                let durable = &mut self.durable;
                self.data.retain(|(inode, change)| {
                    if *inode == synced {
                        durable.change(*inode, change);
                    }
                    *inode != synced
                });
            }
        }
        true
    }

    /// Everything that was not synced, piece by piece, in the order in which it was asked for.
    /// Sectors that change nothing are left out.
    pub(crate) fn units(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> = (0..self.names.len()).map(Unit::Name).collect();
        let mut files = self.durable.clone();
        for (number, (inode, change)) in self.data.iter().enumerate() {
            let before = files.bytes[*inode].clone();
            files.change(*inode, change);
            if files.bytes[*inode].len() != before.len() {
                units.push(Unit::Len(number));
            }
            let DataChange::Write { offset, bytes } = change else {
                continue;
            };
            let mut at = *offset;
            let end = offset + bytes.len();
            while at < end {
                let to = end.min((at / SECTOR_LEN + 1) * SECTOR_LEN);
                let new = &bytes[at - offset..to - offset];
                let old = before.get(at..to.min(before.len())).unwrap_or_default();
                let same = new.starts_with(old) && new[old.len()..].iter().all(|byte| *byte == 0);
                if !same {
                    units.push(Unit::Sector(number, at..to));
                }
                at = to;
            }
        }
        units
    }

    /// The disk as it is found after the power went: what was synced, and of the rest the units
    /// that are kept.
    pub(crate) fn image(&self, units: &[Unit], keeps: impl Fn(usize) -> bool) -> Disk {
        let mut files = self.durable.clone();
        for (number, unit) in units.iter().enumerate() {
            if !keeps(number) {
                continue;
            }
            match unit {
                Unit::Name(number) => files.rename(&self.names[*number]),
                Unit::Len(number) => {
                    let (inode, change) = &self.data[*number];
                    let bytes = Arc::make_mut(&mut files.bytes[*inode]);
                    match change {
                        DataChange::SetLen(len) => bytes.resize(*len, 0),
                        DataChange::Write { offset, bytes: new } => {
                            bytes.resize(bytes.len().max(offset + new.len()), 0);
                        }
                    }
                }
                Unit::Sector(number, place) => {
                    let (inode, change) = &self.data[*number];
                    let DataChange::Write { offset, bytes } = change else {
                        panic!("a sector of what is no write");
                    };
                    let sector = DataChange::Write {
                        offset: place.start,
                        bytes: bytes[place.start - offset..place.end - offset].into(),
                    };
                    files.change(*inode, &sector);
                }
            }
        }
        Disk::holding(files)
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Fs for Disk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inode = {
            let mut state = self.state();
            if state.live.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.live.bytes.push(Arc::default());
            state.live.bytes.len() - 1
        };
        let name = name.to_owned();
        self.change_name(|_| Ok(NameChange::Create { name, inode }))?;
        Ok(self.file(inode))
    }

    fn open(&self, name: &str, _: Access) -> io::Result<Arc<dyn File>> {
        let inode = self.state().live.names.get(name).copied();
        Ok(self.file(inode.ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_name(|files| {
            let inode = *files.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            let (from, to) = (from.to_owned(), to.to_owned());
            Ok(NameChange::Rename { from, to, inode })
        })
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.change_name(|files| {
            let name = name.to_owned();
            match files.names.contains_key(&name) {
                true => Ok(NameChange::Unlink { name }),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    fn create_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.live.names.keys().filter(|name| parent(name) == dir);
        Ok(inside
            .map(|name| name.rsplit('/').next().unwrap_or(name).to_owned())
            .collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.changes.push(Change::SyncDir(dir.to_owned()));
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn place(&self) -> String {
        "disk".to_owned()
    }
}

#[derive(Debug)]
struct DiskFile {
    disk: Disk,
    inode: Inode,
}

impl DiskFile {
    fn bytes(&self) -> Arc<Vec<u8>> {
        self.disk.state().live.bytes[self.inode].clone()
    }

    fn change(&self, change: DataChange) -> io::Result<()> {
        let mut state = self.disk.state();
        let called = state.call();
        let change = match (change, &called) {
            (change, Ok(())) => change,
            // A write that fails may have written some of it.
            (DataChange::Write { offset, bytes }, Err(_)) => DataChange::Write {
                offset,
                bytes: bytes[..bytes.len() / 2].into(),
            },
            (DataChange::SetLen(_), Err(_)) => return called,
        };
        state.live.change(self.inode, &change);
        state.changes.push(Change::Data(self.inode, change));
        called
    }
}

impl File for DiskFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes();
        let start = bytes.len().min(usize::try_from(offset).unwrap());
        let read = buf.len().min(bytes.len() - start);
        buf[..read].copy_from_slice(&bytes[start..start + read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(DataChange::Write {
            offset: usize::try_from(offset).unwrap(),
            bytes: bytes.into(),
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Err(error) = state.call() {
            state.changes.push(Change::Forget(self.inode));
            return Err(error);
        }
        state.changes.push(Change::Sync(self.inode));
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(DataChange::SetLen(usize::try_from(len).unwrap()))
    }

    fn map(&self, _: MapPages) -> io::Result<Bytes> {
        Ok(Bytes::from(self.bytes().to_vec()))
    }
}
