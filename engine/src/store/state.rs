//! The state that the log describes, and the one function by which it grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{FrameHeader, FrameKind, FrameRun, KeyspaceRecord, Lsn, Records};
use crate::index::{Index, Version};
use crate::keyspace::{Catalogue, StoreTag};
use crate::log::{FrameSink, Log};
use crate::planted::{Bug, on};

/// Index and catalogue.
///
/// Invariants: it holds every frame below `end` and none above; frames are applied one at a time,
/// in the order of the log, without a gap.
#[derive(Debug)]
pub(crate) struct State {
    /// Replaced as a whole when the log is cut below `end`; never changed but by insertion
    /// otherwise.
    index: RwLock<Arc<Index>>,
    pub(crate) catalogue: Catalogue,
    end: AtomicU64,
    /// Why no further frame can be applied.
    fault: Mutex<Option<Error>>,
}

impl State {
    pub(super) fn new(tag: StoreTag) -> Self {
        Self {
            index: RwLock::default(),
            catalogue: Catalogue::new(tag),
            end: AtomicU64::new(0),
            fault: Mutex::new(None),
        }
    }

    /// The versions of all keys. Who holds the answer reads on from it, whatever comes after.
    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Up to where frames were applied.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.end.load(Ordering::Acquire))
    }

    /// Becomes `fresh`, which was replayed from the same log to a position that readers may see.
    /// Below that position both say the same, so a reader notices nothing.
    pub(super) fn replace(&self, fresh: Self) {
        *self.index.write() = fresh.index.into_inner();
        self.catalogue.replace(fresh.catalogue);
        let end = fresh.end.into_inner();
        self.end.store(end, Ordering::Release);
        *self.fault.lock() = None;
    }

    /// The keyspaces that `log` makes below `end`, whether they were applied or not.
    ///
    /// # Errors
    /// Those of reading what was not.
    pub(super) fn catalogue_at(&self, log: &Arc<Log>, end: Lsn) -> Result<Catalogue> {
        const RUN_LEN: u64 = 4 << 20;
        // The position first: what is applied meanwhile is only met twice.
        let mut cursor = log.cursor(self.end())?;
        let catalogue = self.catalogue.copy();
        while let Some(run) = cursor.next_up_to(end, RUN_LEN)? {
            for (header, frame) in run.frames() {
                if header.kind == FrameKind::Keyspace
                    && let Ok(record) = KeyspaceRecord::decode(header.payload(&frame))
                {
                    // One that cannot be applied stops the state where it lies, and not here.
                    let _ = catalogue.learn(record);
                }
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
        let end = self.end();
        assert_eq!(header.lsn, end, "a frame is applied where the state ends");
        if let Err(error) = self.add(header, frame) {
            *self.fault.lock() = Some(error.duplicate());
            return Err(error);
        }
        self.end.store(header.end().0, Ordering::Release);
        Ok(())
    }

    fn add(&self, header: &FrameHeader, frame: &Bytes) -> Result<()> {
        let payload = header.payload(frame);
        match header.kind {
            FrameKind::Batches => {
                let index = self.index();
                for placed in Records::new(payload, header.payload_lsn(), header.batches) {
                    let placed = placed.map_err(|fault| corrupt(header, &fault))?;
                    if on(Bug::HalfBatch) && placed.lsn.0 % 64 == 0 {
                        break;
                    }
                    let record = placed.record;
                    let version = Version {
                        lsn: placed.lsn,
                        len: u32::try_from(record.len)
                            .unwrap_or_else(|_| panic!("a record of {} bytes", record.len)),
                        op: record.op,
                    };
                    index.insert(record.keyspace, record.key, version);
                }
                Ok(())
            }
            FrameKind::Keyspace => {
                let record =
                    KeyspaceRecord::decode(payload).map_err(|fault| corrupt(header, &fault))?;
                self.catalogue.learn(record)
            }
            FrameKind::Epoch | FrameKind::Watermark | FrameKind::Protection => Ok(()),
        }
    }
}

/// A writer's own frames. They were formed here, so one that does not hold is a bug.
impl FrameSink for State {
    fn apply(&self, header: &FrameHeader, frame: &Bytes) {
        if let Err(error) = Self::apply(self, header, frame) {
            panic!("formed a frame that cannot be applied: {error}: {header:?}");
        }
    }
}

/// Checks the payloads of frames that came from elsewhere, before they reach this node's log: a
/// frame's checksum says that it is what its sender formed, not that it was well formed. What would
/// not be applied is refused. `catalogue` is asked for the keyspaces that the log makes before them.
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
        let fault = match header.kind {
            FrameKind::Batches => Records::new(payload, header.payload_lsn(), header.batches)
                .find_map(Result::err)
                .map(|fault| fault.to_string()),
            FrameKind::Keyspace => match KeyspaceRecord::decode(payload) {
                Ok(record) => {
                    let made = match &made {
                        Some(made) => made,
                        None => made.insert(catalogue()?),
                    };
                    made.learn(record).err().map(|error| error.to_string())
                }
                Err(fault) => Some(fault.to_string()),
            },
            FrameKind::Epoch | FrameKind::Watermark | FrameKind::Protection => None,
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

fn corrupt(header: &FrameHeader, fault: &dyn std::fmt::Display) -> Error {
    let message = format!(
        "the frame at {} cannot be applied ({fault}) though its checksum holds: a writer's bug; \
         keep the directory and report it",
        header.lsn
    );
    Error::new(ErrorKind::Corrupt, message)
}
