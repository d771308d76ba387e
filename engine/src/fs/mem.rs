//! Files in memory that know what was synced and what was not.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Access, File, Fs, MapPages};

/// What a disk keeps or loses as one: the smallest write that is never torn.
const SECTOR_LEN: usize = 512;

/// What is left of unsynced writes after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Crash {
    /// Nothing that was not synced.
    LoseUnsynced,
    /// Everything, as after the death of a process.
    KeepAll,
    /// Each unsynced sector by the toss of a coin drawn from this seed; of the names that were
    /// made, changed and taken away since their directory was synced, the first so many: a file
    /// system's journal keeps their order.
    Random(u64),
}

/// Files in memory. Clones share them.
///
/// Live and durable bytes are kept apart: [`MemFs::crash`] gives the files as they would be found
/// after the power went, with any subset of the unsynced 512-byte sectors, and names only where
/// their directory was synced or as [`Crash`] says.
#[derive(Clone, Debug, Default)]
pub struct MemFs {
    state: Arc<Mutex<State>>,
}

type Names = BTreeMap<String, Arc<Mutex<Inode>>>;

#[derive(Debug, Default)]
struct State {
    live: Names,
    durable: Names,
    /// What was done to names since their directory was synced, oldest first.
    changes: Vec<NameChange>,
    operations: u64,
    fault: Option<Fault>,
    /// Most bytes in all files; no limit if there is none.
    capacity_bytes: Option<u64>,
    locked: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, Arc<Mutex<Inode>>),
    Rename(String, String),
    Unlink(String),
}

/// An error to come.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// The operation that fails.
    at: u64,
    kind: io::ErrorKind,
    /// Whether all later ones do, too.
    sticky: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Written since the last sync, successful or not. What lies outside is equal in both, or was
    /// forgotten by a sync that failed.
    dirty: Vec<Range<usize>>,
}

impl MemFs {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes made so far: creations, writes, syncs, renames, unlinks, cuts.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Lets operation `number` (counted as by [`MemFs::operations`]) fail once with `kind`.
    ///
    /// A sync that fails forgets what it was to make durable, as a page cache does: the next one
    /// succeeds without it.
    pub fn fail_at(&self, number: u64, kind: io::ErrorKind) {
        self.state.lock().fault = Some(Fault {
            at: number,
            kind,
            sticky: false,
        });
    }

    /// Lets operation `number` and all behind it fail with `kind`: nothing reaches the disk any
    /// more.
    pub fn fail_from(&self, number: u64, kind: io::ErrorKind) {
        self.state.lock().fault = Some(Fault {
            at: number,
            kind,
            sticky: true,
        });
    }

    /// Takes back what [`MemFs::fail_at`] and [`MemFs::fail_from`] announced.
    pub fn heal(&self) {
        self.state.lock().fault = None;
    }

    /// Limits the bytes in all files together: what would grow beyond is refused as on a full disk.
    pub fn limit(&self, capacity_bytes: Option<u64>) {
        self.state.lock().capacity_bytes = capacity_bytes;
    }

    /// Bytes in all files together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// The files as they would be found after a crash now. The original goes on unharmed.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        let mut coin = match crash {
            Crash::Random(seed) => seed,
            Crash::LoseUnsynced | Crash::KeepAll => 0,
        };
        let mut toss = move || {
            coin = coin.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            coin >> 33
        };
        let state = self.state.lock();
        let names = match crash {
            Crash::LoseUnsynced => state.durable.clone(),
            Crash::KeepAll => state.live.clone(),
            Crash::Random(_) => {
                let kept = toss() % (state.changes.len() as u64 + 1);
                state.names_after(crate::format::to_usize(kept))
            }
        };
        let mut keeps = |_sector: usize| match crash {
            Crash::LoseUnsynced => false,
            Crash::KeepAll => true,
            Crash::Random(_) => toss() >> 30 == 1,
        };
        let files = names
            .iter()
            .map(|(name, inode)| {
                let bytes = inode.lock().after_crash(&mut keeps);
                let inode = Inode {
                    live: bytes.clone(),
                    durable: bytes,
                    dirty: Vec::new(),
                };
                (name.clone(), Arc::new(Mutex::new(inode)))
            })
            .collect::<Names>();
        let state = State {
            live: files.clone(),
            durable: files,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Flips bits of a file's live and durable bytes, as rot would.
    ///
    /// # Errors
    /// `NotFound` when there is no such byte.
    pub fn rot(&self, name: &str, offset: usize, mask: u8) -> io::Result<()> {
        let inode = self.inode(name)?;
        let mut inode = inode.lock();
        let Inode { live, durable, .. } = &mut *inode;
        for bytes in [live, durable] {
            *bytes.get_mut(offset).ok_or(io::ErrorKind::NotFound)? ^= mask;
        }
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<Arc<Mutex<Inode>>> {
        let state = self.state.lock();
        state
            .live
            .get(name)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        state.count()?;
        change(&mut state)
    }

    fn file(&self, inode: Arc<Mutex<Inode>>) -> Arc<dyn File> {
        Arc::new(MemFile {
            fs: self.clone(),
            inode,
        })
    }
}

impl State {
    fn count(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Some(fault) if fault.at == self.operations && !fault.sticky => {
                self.fault = None;
                Err(fault.kind.into())
            }
            Some(fault) if fault.at <= self.operations && fault.sticky => Err(fault.kind.into()),
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        let len = |inode: &Arc<Mutex<Inode>>| inode.lock().live.len() as u64;
        self.live.values().map(len).sum()
    }

    /// Whether there is room for `more_bytes`.
    fn check_room(&self, more_bytes: usize) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if self.used_bytes() + more_bytes as u64 > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// The names that are there when the first `kept` of their changes reached the disk.
    fn names_after(&self, kept: usize) -> Names {
        let mut names = self.durable.clone();
        for change in self.changes.iter().take(kept) {
            change.apply(&mut names);
        }
        names
    }

    /// Makes the changes in one directory durable. What was done to names elsewhere waits on.
    fn sync_names(&mut self, dir: &str) {
        let (synced, waiting) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change: &NameChange| dir_of(change.name()) == dir);
        self.changes = waiting;
        for change in synced {
            change.apply(&mut self.durable);
        }
    }
}

impl NameChange {
    fn name(&self) -> &str {
        match self {
            Self::Create(name, _) | Self::Rename(_, name) | Self::Unlink(name) => name,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), inode.clone());
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Inode {
    fn after_crash(&self, keeps: &mut dyn FnMut(usize) -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        // A length that was not synced may have reached the disk or not; as for a sector.
        if self.live.len() != self.durable.len() && keeps(usize::MAX) {
            bytes.resize(self.live.len(), 0);
        }
        let sectors = bytes
            .chunks_mut(SECTOR_LEN)
            .zip(self.live.chunks(SECTOR_LEN));
        for (number, (kept, live)) in sectors.enumerate() {
            let common = kept.len().min(live.len());
            if kept.get(..common) != live.get(..common) && keeps(number) {
                kept.iter_mut()
                    .zip(live)
                    .for_each(|(kept, live)| *kept = *live);
            }
        }
        bytes
    }
}

impl Fs for MemFs {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inode = self.change(|state| {
            if state.live.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = Arc::<Mutex<Inode>>::default();
            state.live.insert(name.to_owned(), inode.clone());
            let change = NameChange::Create(name.to_owned(), inode.clone());
            state.changes.push(change);
            Ok(inode)
        })?;
        Ok(self.file(inode))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.inode(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let inode = state.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.live.insert(to.to_owned(), inode);
            let change = NameChange::Rename(from.to_owned(), to.to_owned());
            state.changes.push(change);
            Ok(())
        })
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            state.live.remove(name).ok_or(io::ErrorKind::NotFound)?;
            state.changes.push(NameChange::Unlink(name.to_owned()));
            Ok(())
        })
    }

    fn create_dir(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = |name: &String| match name.rsplit_once('/') {
            Some((parent, file)) => (parent == dir).then(|| file.to_owned()),
            None => dir.is_empty().then(|| name.clone()),
        };
        Ok(state.live.keys().filter_map(inside).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.change(|state| {
            state.sync_names(dir);
            Ok(())
        })
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock(self.clone())))
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

struct MemLock(MemFs);

impl Drop for MemLock {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
    }
}

#[derive(Debug)]
struct MemFile {
    fs: MemFs,
    inode: Arc<Mutex<Inode>>,
}

impl MemFile {
    fn count(&self) -> io::Result<()> {
        self.fs.state.lock().count()
    }

    fn check_growth(&self, len: usize) -> io::Result<()> {
        let grows = len.saturating_sub(self.inode.lock().live.len());
        if grows == 0 {
            return Ok(());
        }
        self.fs.state.lock().check_room(grows)
    }
}

impl File for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let inode = self.inode.lock();
        let rest = inode
            .live
            .get(crate::format::to_usize(offset)..)
            .unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.count()?;
        let start = crate::format::to_usize(offset);
        let end = start + bytes.len();
        self.check_growth(end)?;
        let mut inode = self.inode.lock();
        if inode.live.len() < end {
            inode.live.resize(end, 0);
        }
        inode.dirty.push(start..end);
        if let Some(place) = inode.live.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if let Err(error) = self.count() {
            self.inode.lock().dirty.clear();
            return Err(error);
        }
        let mut inode = self.inode.lock();
        let Inode {
            live,
            durable,
            dirty,
        } = &mut *inode;
        durable.resize(live.len(), 0);
        for range in dirty.drain(..) {
            let range = range.start.min(live.len())..range.end.min(live.len());
            if let (Some(to), Some(from)) = (durable.get_mut(range.clone()), live.get(range)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.inode.lock().live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.count()?;
        let len = crate::format::to_usize(len);
        self.check_growth(len)?;
        self.inode.lock().live.resize(len, 0);
        Ok(())
    }

    fn map(&self, _: MapPages) -> io::Result<Bytes> {
        Ok(Bytes::from(self.inode.lock().live.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_all, replace};
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_no_name_that_was_not() {
        let fs = MemFs::new();
        let file = fs.create("log/a").unwrap();
        file.write_at(0, &[1; 1024]).unwrap();
        file.sync().unwrap();
        assert!(
            fs.crash(Crash::LoseUnsynced)
                .list("log")
                .unwrap()
                .is_empty()
        );
        fs.sync_dir("log").unwrap();
        file.write_at(512, &[2; 1024]).unwrap();
        assert_eq!(
            read_all(&fs.crash(Crash::LoseUnsynced), "log/a").unwrap(),
            [1; 1024]
        );
        let all = read_all(&fs.crash(Crash::KeepAll), "log/a").unwrap();
        assert_eq!((all.len(), all[511], all[512]), (1536, 1, 2));
        let torn = (0..64).map(|seed| read_all(&fs.crash(Crash::Random(seed)), "log/a").unwrap());
        let kinds: std::collections::HashSet<_> = torn.collect();
        assert!(kinds.len() >= 4, "{} images", kinds.len());
    }

    #[test]
    fn a_replaced_file_is_old_or_new_whatever_fails() {
        for number in 1..=6 {
            let fs = MemFs::new();
            replace(&fs, "", "m", b"old").unwrap();
            fs.fail_at(fs.operations() + number, io::ErrorKind::Other);
            let outcome = replace(&fs, "", "m", b"new");
            for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(number)] {
                let found = read_all(&fs.crash(crash), "m").unwrap();
                assert!(
                    found == b"new" || (outcome.is_err() && found == b"old"),
                    "{number}"
                );
            }
        }
    }
}
