//! The state that the log describes, and the one function by which it grows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::times::Times;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Chain, EpochRecord, FrameHeader, FrameKind, FrameRun, KeyspaceRecord, Lsn, Op,
    ProtectionRecord, RecordRef, Records,
};
use crate::index::{Frozen, Index, Runs, Version};
use crate::keyspace::{Catalogue, StoreTag};
use crate::log::{FrameSink, Kept, Log, Sparse};
use crate::planted::{Bug, on};

/// When the memtable is frozen, to be written out as a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreezeAfter {
    /// Versions in it.
    pub(super) entries: usize,
    /// Bytes of the log that it stands for.
    pub(super) log_bytes: u64,
}

/// Index and catalogue.
///
/// Invariants: it holds every frame below `end` and none above; frames are applied one at a time,
/// in the order of the log, without a gap.
pub(crate) struct State {
    /// Replaced as a whole: by one with a new memtable, with another set of runs, or when the log
    /// is cut below `end`.
    index: RwLock<Arc<Index>>,
    pub(crate) catalogue: Catalogue,
    /// Where the memtable begins, and where the next frame goes on.
    chains: Mutex<Chains>,
    end: AtomicU64,
    freeze_after: FreezeAfter,
    times: RwLock<Times>,
    /// Told after a memtable was frozen.
    on_freeze: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Why no further frame can be applied.
    fault: Mutex<Option<Error>>,
}

#[derive(Clone, Copy, Debug)]
struct Chains {
    memtable_from: Lsn,
    next: Chain,
}

impl State {
    /// The state at the replay point of `runs`.
    pub(super) fn new(runs: Arc<Runs>, tag: StoreTag, freeze_after: FreezeAfter) -> Result<Self> {
        let catalogue = Catalogue::new(tag);
        for made in &runs.keyspaces {
            catalogue.take_up(made)?;
        }
        let next = runs.replay;
        let memtable_from = next.lsn;
        Ok(Self {
            index: RwLock::new(Arc::new(Index::new(runs))),
            catalogue,
            chains: Mutex::new(Chains {
                memtable_from,
                next,
            }),
            end: AtomicU64::new(next.lsn.0),
            freeze_after,
            times: RwLock::new(Times::new(next.lsn, next.log_ms)),
            on_freeze: OnceLock::new(),
            fault: Mutex::new(None),
        })
    }

    /// The versions of all keys. Who holds the answer reads on from it, whatever comes after.
    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Log time at a position up to which frames were applied, in milliseconds; `None` for one that
    /// lies so far back that it is not known any more.
    pub(crate) fn log_ms_at(&self, lsn: Lsn) -> Option<u64> {
        self.times.read().at(lsn)
    }

    /// Whether some put has yet to expire, as of the newest log time.
    pub(crate) fn has_expiring(&self) -> bool {
        let log_ms = self.chains.lock().next.log_ms;
        self.index().expires_last_ms() > log_ms
    }

    /// Up to where frames were applied.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.end.load(Ordering::Acquire))
    }

    /// The state at the replay point, without what was applied since.
    pub(super) fn at_replay_point(&self) -> Result<(Self, Chain)> {
        let runs = self.index().runs().clone();
        let replay = runs.replay;
        let state = Self::new(runs, self.catalogue.tag(), self.freeze_after)?;
        Ok((state, replay))
    }

    /// Becomes `fresh`, which was replayed from the same log to a position that readers may see.
    /// Below that position both say the same, so a reader notices nothing.
    pub(super) fn replace(&self, fresh: Self) {
        let mut chains = self.chains.lock();
        *self.index.write() = fresh.index.into_inner();
        *self.times.write() = fresh.times.into_inner();
        self.catalogue.replace(fresh.catalogue);
        *chains = fresh.chains.into_inner();
        self.end.store(chains.next.lsn.0, Ordering::Release);
        *self.fault.lock() = None;
    }

    /// Calls `listener` after each time that a memtable was frozen, by the thread that applies.
    pub(super) fn on_freeze(&self, listener: impl Fn() + Send + Sync + 'static) {
        let set = self.on_freeze.set(Box::new(listener));
        assert!(set.is_ok(), "a state has one listener");
    }

    /// The keyspaces that `log` makes below `end`, whether they were applied or not.
    ///
    /// # Errors
    /// Those of reading what was not.
    pub(super) fn catalogue_at(&self, log: &Arc<Log>, end: Lsn) -> Result<Catalogue> {
        const RUN_LEN: u64 = 4 << 20;
        // The position first: what is applied meanwhile is only met twice.
        let mut cursor = log.cursor_at(self.chains.lock().next);
        let catalogue = self.catalogue.copy();
        while let Some(run) = cursor.next_up_to(end, RUN_LEN)? {
            for (header, frame) in run.frames() {
                // One that cannot be applied stops the state where it lies, and not here.
                let _ = try_on(&catalogue, header, header.payload(&frame));
            }
        }
        Ok(catalogue)
    }

    /// # Errors
    /// Why no further frame can be applied, if one could not be.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.fault.lock() {
            Some(fault) => Err(fault.duplicate()),
            None => Ok(()),
        }
    }

    /// Adds what a frame says. Replay at opening, a follower's replay and a writer's own commits
    /// all come through here.
    ///
    /// # Errors
    /// `Corrupt` when the frame holds what no writer forms. Nothing behind it is ever applied then:
    /// the state stays as it was at an earlier position.
    pub(super) fn apply(&self, header: &FrameHeader, frame: &Bytes) -> Result<()> {
        self.check()?;
        let mut chains = self.chains.lock();
        let end = chains.next.lsn;
        assert_eq!(header.lsn, end, "a frame is applied where the state ends");
        let epoch = self.add(header, frame).inspect_err(|error| {
            *self.fault.lock() = Some(error.duplicate());
        })?;
        chains.next = chains.next.after(header, epoch.as_ref());
        self.times.write().push(header.lsn, header.log_ms);
        self.end.store(header.end().0, Ordering::Release);
        self.freeze_if_full(chains);
        Ok(())
    }

    fn freeze_if_full(&self, mut chains: MutexGuard<'_, Chains>) {
        let log_bytes = chains.next.lsn.bytes_since(chains.memtable_from);
        let full = self.index().memtable_len() >= self.freeze_after.entries
            || log_bytes >= self.freeze_after.log_bytes;
        if full {
            self.freeze_at(&mut chains);
            drop(chains);
            if let Some(listener) = self.on_freeze.get() {
                listener();
            }
        }
    }

    /// Adds what is left of a stretch of the log that was compacted, as a whole: there was no state
    /// within it that could still be asked for.
    ///
    /// # Errors
    /// `Corrupt`, `Io`. The state stays as it was, but for versions that are found at no position.
    pub(super) fn apply_sparse(&self, log: &Log, sparse: &Sparse) -> Result<()> {
        self.check()?;
        let mut chains = self.chains.lock();
        let (start, end) = (sparse.range().start, &sparse.header.end);
        assert_eq!(
            start, chains.next.lsn,
            "a stretch is applied where the state ends"
        );
        let index = self.index();
        // What makes and drops keyspaces, by position: in the file it is apart, and by key.
        let mut of_keyspaces = BTreeMap::new();
        log.visit_sparse(sparse, &mut |kept| {
            match kept {
                Kept::Record(lsn, _, record) if record.op == Op::DropKeyspace => {
                    of_keyspaces.insert(lsn, Err(record.keyspace));
                }
                Kept::Record(lsn, _, record) => self.add_record(&index, lsn, &record)?,
                Kept::Control(lsn, FrameKind::Keyspace, payload) => {
                    let record = KeyspaceRecord::decode(payload).map_err(|fault| {
                        let message = format!("the keyspace record at {lsn}: {fault}");
                        Error::new(ErrorKind::Corrupt, message)
                    })?;
                    of_keyspaces.insert(lsn, Ok(record));
                }
                Kept::Control(..) => {}
            }
            Ok(())
        })?;
        for (lsn, of_keyspace) in of_keyspaces {
            match of_keyspace {
                Ok(made) => self.catalogue.learn(made)?,
                Err(dropped) => self.drop_keyspace(&index, lsn, dropped)?,
            }
        }
        self.times.write().push(start, end.log_ms);
        chains.next = end.chain(chains.next.cluster);
        self.end.store(end.lsn.0, Ordering::Release);
        self.freeze_if_full(chains);
        Ok(())
    }

    /// Begins a new memtable, so that the one before can be written out.
    pub(super) fn freeze(&self) {
        self.freeze_at(&mut self.chains.lock());
    }

    fn freeze_at(&self, chains: &mut Chains) {
        if chains.memtable_from == chains.next.lsn {
            return;
        }
        let keyspaces = self.catalogue.made();
        let mut index = self.index.write();
        *index = Arc::new(index.freeze(chains.next, keyspaces));
        chains.memtable_from = chains.next.lsn;
    }

    /// Takes other runs for those that it has. They hold what `written` holds, if it is given, and
    /// else the same as before.
    pub(super) fn set_runs(&self, runs: Arc<Runs>, written: Option<&Arc<Frozen>>) {
        if let Some(written) = written {
            // Readers are further on, or will be once they look again.
            self.times.write().forget_below(written.end.lsn);
        }
        let mut index = self.index.write();
        *index = Arc::new(index.with_runs(runs, written));
    }

    /// Takes up what a frame says; answers with the epoch that it begins.
    fn add(&self, header: &FrameHeader, frame: &Bytes) -> Result<Option<EpochRecord>> {
        let payload = header.payload(frame);
        match header.kind {
            FrameKind::Batches => {
                let index = self.index();
                for placed in Records::new(payload, header.payload_lsn(), header.batches) {
                    let placed = placed.map_err(|fault| corrupt(header, &fault))?;
                    if on(Bug::HalfBatch) && placed.lsn.0 % 64 == 0 {
                        break;
                    }
                    self.add_record(&index, placed.lsn, &placed.record)?;
                }
                Ok(None)
            }
            FrameKind::Keyspace => {
                let record =
                    KeyspaceRecord::decode(payload).map_err(|fault| corrupt(header, &fault))?;
                self.catalogue.learn(record)?;
                Ok(None)
            }
            FrameKind::Epoch => {
                let record =
                    EpochRecord::decode(payload).map_err(|fault| corrupt(header, &fault))?;
                Ok(Some(record))
            }
            FrameKind::Watermark | FrameKind::Protection => Ok(None),
        }
    }

    fn add_record(&self, index: &Index, lsn: Lsn, record: &RecordRef<'_>) -> Result<()> {
        match record.op {
            Op::Put | Op::Delete => {
                let version = Version {
                    lsn,
                    len: u32::try_from(record.len)
                        .unwrap_or_else(|_| panic!("a record of {} bytes", record.len)),
                    op: record.op,
                    expires_ms: record.expires_ms.map_or(0, |expires_ms| expires_ms.max(1)),
                };
                index.insert(record.keyspace, record.key, version);
            }
            Op::DeleteRange => {
                let end = Some(record.value).filter(|end| !end.is_empty());
                index.insert_range(record.keyspace, record.key, end, lsn);
            }
            Op::DropKeyspace => self.drop_keyspace(index, lsn, record.keyspace)?,
        }
        Ok(())
    }

    fn drop_keyspace(&self, index: &Index, lsn: Lsn, id: u32) -> Result<()> {
        self.catalogue.forget(id, lsn)?.mark_dropped(lsn);
        if !on(Bug::DropKeepsKeys) {
            index.insert_range(id, &[], None, lsn);
        }
        Ok(())
    }
}

/// A writer's own frames. They were formed here, so one that does not hold is a bug.
impl FrameSink for State {
    fn apply(&self, header: &FrameHeader, frame: &Bytes) {
        if let Err(error) = Self::apply(self, header, frame) {
            panic!("formed a frame that cannot be applied: {error}: {header:?}");
        }
    }

    fn has_expiring(&self) -> bool {
        Self::has_expiring(self)
    }
}

/// Checks the payloads of frames that came from elsewhere, before they reach this node's log: a
/// frame's checksum says that it is what its sender formed, not that it was well formed. What would
/// not be applied is refused. `catalogue` is asked for the keyspaces that the log makes before
/// them.
///
/// # Errors
/// `Incompatible`, with the frame's position; those of `catalogue`.
pub(super) fn check_payloads(
    run: &FrameRun,
    catalogue: impl Fn() -> Result<Catalogue>,
) -> Result<()> {
    let mut made = None;
    for (header, frame) in run.frames() {
        let payload = header.payload(&frame);
        let fault = if changes_keyspaces(header, payload) {
            let made = match &made {
                Some(made) => made,
                None => made.insert(catalogue()?),
            };
            try_on(made, header, payload).err()
        } else if header.kind == FrameKind::Batches {
            let mut records = Records::new(payload, header.payload_lsn(), header.batches);
            records.find_map(Result::err).map(|fault| fault.to_string())
        } else if header.kind == FrameKind::Protection {
            let decoded = ProtectionRecord::decode(payload);
            decoded.err().map(|fault| fault.to_string())
        } else {
            None
        };
        if let Some(fault) = fault {
            let message = format!(
                "the frame at {} is not one that this program takes ({fault}): nothing of it was \
                 written; run the same version on both nodes",
                header.lsn
            );
            return Err(Error::new(ErrorKind::Incompatible, message));
        }
    }
    Ok(())
}

/// Whether a frame makes or drops a keyspace. A batch that drops one has a frame of its own.
fn changes_keyspaces(header: &FrameHeader, payload: &[u8]) -> bool {
    let drops = || {
        let mut records = Records::new(payload, header.payload_lsn(), header.batches);
        let first = records.next().and_then(Result::ok);
        first.is_some_and(|placed| placed.record.op == Op::DropKeyspace)
    };
    header.kind == FrameKind::Keyspace || header.kind == FrameKind::Batches && drops()
}

/// Takes the keyspaces that a frame makes or drops up in a catalogue that nobody has handles of.
fn try_on(catalogue: &Catalogue, header: &FrameHeader, payload: &[u8]) -> Result<(), String> {
    match header.kind {
        FrameKind::Keyspace => {
            let record = KeyspaceRecord::decode(payload).map_err(|fault| fault.to_string())?;
            catalogue.learn(record).map_err(|error| error.to_string())
        }
        FrameKind::Batches => {
            for placed in Records::new(payload, header.payload_lsn(), header.batches) {
                let placed = placed.map_err(|fault| fault.to_string())?;
                if placed.record.op == Op::DropKeyspace {
                    let dropped = catalogue.forget(placed.record.keyspace, placed.lsn);
                    dropped.map_err(|error| error.to_string())?;
                }
            }
            Ok(())
        }
        FrameKind::Epoch | FrameKind::Watermark | FrameKind::Protection => Ok(()),
    }
}

fn corrupt(header: &FrameHeader, fault: &dyn std::fmt::Display) -> Error {
    let message = format!(
        "the frame at {} cannot be applied ({fault}) though its checksum holds: a writer's bug; \
         keep the directory and report it",
        header.lsn
    );
    Error::new(ErrorKind::Corrupt, message)
}
