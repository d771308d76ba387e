//! A machine: its disk, its clocks, the process that runs on it or not, and what must outlive that
//! process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use outlast_engine::entropy::Entropy;
use outlast_engine::format::{
    EpochId, Lsn, LsnRange, NodeId, SEGMENT_HEADER_LEN, SegmentHeader, to_usize,
};
use outlast_engine::fs::{Crash, Fs, MemFs, read_all};
use outlast_engine::{Committed, Config, Store};
use parking_lot::Mutex;

use crate::clock::SimClock;
use crate::observer::Seen;
use crate::oracle::FrameEnd;
use crate::process::Process;
use crate::promise::{Answer, Echoed};
use crate::reader::HISTORY_LOG_BYTES;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) fs: MemFs,
    pub(crate) clock: Arc<SimClock>,
    entropy: Arc<SimEntropy>,
    /// Counts the processes that ran here.
    pub(crate) life: u32,
    pub(crate) process: Option<Process>,
    pub(crate) kept: Kept,
    /// What was read of its log, and is compacted by now.
    pub(crate) seen: Seen,
    pub(crate) feed: Vec<Committed>,
    /// The power goes at this operation of the disk.
    power_at: Option<u64>,
    /// The disk was told to fail.
    pub(crate) failing: bool,
    pub(crate) slow_until_ns: u64,
    /// Its process stands still until then.
    pub(crate) paused_until_ns: u64,
    /// Counts how often its clocks began anew.
    pub(crate) boots: u32,
    /// What it has answered as a writer, in the order of its log.
    pub(crate) answers: Vec<Answer>,
    /// The newest heartbeat of its peer that it has echoed.
    pub(crate) echoed: Option<Echoed>,
    /// The epochs under which it has echoed any.
    pub(crate) echoed_under: BTreeSet<EpochId>,
    /// How far ahead of the log its wall clock may be when it begins to write.
    ahead_max: Duration,
    /// A bit that was flipped in a log's file, and where.
    rotten: Option<Rotten>,
}

/// What is left of a process.
pub(crate) struct Ended {
    /// Commits whose callers were not answered.
    pub(crate) unheard: Vec<u64>,
    /// Stretches of its log that it compacted.
    pub(crate) compactions: u64,
}

/// What a node must not forget, whatever happens to its process.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The last frame of what it fsynced.
    pub(crate) durable: Option<FrameEnd>,
    /// The last frame of what it told its primary that it fsynced.
    pub(crate) acked: Option<FrameEnd>,
    /// The highest term that it told anybody of.
    pub(crate) term: u32,
    pub(crate) fenced: bool,
    pub(crate) halted: bool,
    /// Tails that it put aside.
    pub(crate) forks: usize,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        fs: MemFs,
        clock: SimClock,
        seed: u64,
        ahead_max: Duration,
    ) -> Self {
        Self {
            id,
            fs,
            clock: Arc::new(clock),
            entropy: Arc::new(SimEntropy(Mutex::new(Rng::with_seed(seed)))),
            life: 0,
            process: None,
            kept: Kept::default(),
            seen: Seen::default(),
            feed: Vec::new(),
            power_at: None,
            failing: false,
            slow_until_ns: 0,
            paused_until_ns: 0,
            boots: 0,
            answers: Vec::new(),
            echoed: None,
            echoed_under: BTreeSet::new(),
            ahead_max,
            rotten: None,
        }
    }

    /// Opens the store on this machine's disk.
    pub(crate) fn open(&self) -> outlast_engine::Result<Store> {
        self.open_on(self.fs.clone())
    }

    /// Opens the store on a copy of this machine's disk.
    pub(crate) fn open_copy(&self) -> outlast_engine::Result<Store> {
        self.open_on(self.fs.crash(Crash::KeepAll))
    }

    /// Opens a store of this machine on another disk.
    pub(crate) fn open_on(&self, fs: MemFs) -> outlast_engine::Result<Store> {
        let config = Config {
            background: false,
            flush_after_entries: 12,
            flush_after_log_bytes: 20_000,
            history_log_bytes: HISTORY_LOG_BYTES,
            log_time_ahead_max: self.ahead_max,
            ..Config::default()
        };
        let store = Store::open_on(Arc::new(fs), self.clock.clone(), config)?;
        store.draw_from(self.entropy.clone());
        Ok(store)
    }

    /// The index is gone, which is no loss: the log tells all of it.
    pub(crate) fn lose_index(&self) {
        for name in self.fs.list("index").unwrap_or_default() {
            // On a disk that fails it stays, in part or as a whole.
            let _ = self.fs.unlink(&format!("index/{name}"));
        }
    }

    /// Eight random bytes.
    pub(crate) fn nonce(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.entropy.id();
        [a, b, c, d, e, f, g, h]
    }

    /// Takes the power away at the `operations`th operation of the disk from now.
    pub(crate) fn take_power_at(&mut self, operations: u64) {
        let at = self.fs.operations() + operations;
        self.fs.fail_from(at, std::io::ErrorKind::BrokenPipe);
        self.power_at = Some(at);
    }

    /// Whether the power goes at some operation.
    pub(crate) const fn has_power_cut_ahead(&self) -> bool {
        self.power_at.is_some()
    }

    /// Whether that operation has come.
    pub(crate) fn has_lost_power(&self) -> bool {
        self.power_at.is_some_and(|at| self.fs.operations() >= at)
    }

    /// The process ends here and now. Answers with what its callers wait for.
    pub(crate) fn kill(&mut self) -> Option<Ended> {
        self.life += 1;
        let process = self.process.take()?;
        let compactions = process.store.log_size().compactions;
        self.seen = process.observer.into_seen();
        self.feed = process.reader.into_feed();
        Some(Ended {
            unheard: process.pending.iter().map(|(id, _)| *id).collect(),
            compactions,
        })
    }

    /// Whatever was announced for the disk will not come.
    pub(crate) fn heal_disk(&mut self) {
        self.fs.heal();
        self.fs.limit(None);
        self.power_at = None;
        self.failing = false;
    }

    /// The machine comes back with what its disk has kept.
    pub(crate) fn lose_power(&mut self, crash: Crash, origin_ns: u64) {
        self.fs = self.fs.crash(crash);
        self.power_at = None;
        self.failing = false;
        self.boots += 1;
        self.clock.boot(origin_ns);
    }

    /// Flips a bit of the running segment within `range`, if it holds any of it. `draw` chooses one
    /// of so many.
    pub(crate) fn rot(&mut self, range: LsnRange, draw: impl FnOnce(usize) -> usize) -> bool {
        let names = self.fs.list("log").unwrap_or_default();
        let headed = names.iter().rev().find_map(|name| {
            let name = format!("log/{name}");
            let bytes = read_all(&self.fs, &name).ok()?;
            let header = SegmentHeader::decode(bytes.get(..to_usize(SEGMENT_HEADER_LEN))?).ok()?;
            Some((name, header.base()))
        });
        let Some((name, base)) = headed.filter(|(_, base)| *base < range.end) else {
            return false;
        };
        let from = range.start.max(base);
        let len = to_usize(range.end.bytes_since(from));
        let behind_header = to_usize(from.bytes_since(base)) + draw(len);
        let offset = to_usize(SEGMENT_HEADER_LEN) + behind_header;
        let lsn = base.advance(behind_header as u64);
        self.rotten = Some(Rotten { name, offset, lsn });
        self.turn_rotten_bit();
        true
    }

    fn turn_rotten_bit(&self) {
        if let Some(Rotten { name, offset, .. }) = &self.rotten
            && let Err(error) = self.fs.rot(name, *offset, 0x10)
        {
            panic!("no byte {offset} in {name}: {error}");
        }
    }

    /// Whether a bit is flipped.
    pub(crate) const fn is_rotten(&self) -> bool {
        self.rotten.is_some()
    }

    /// Whether a bit is flipped that opening does not look at with this replay point, and that who
    /// looks at all finds.
    pub(crate) fn is_rotten_unseen(&self, replay: Lsn) -> bool {
        let below = self
            .rotten
            .as_ref()
            .is_some_and(|rotten| rotten.lsn < replay);
        below && outlast_engine::check_on(&self.fs).is_ok_and(|report| report.is_damaged())
    }

    /// An operator puts back a copy of the file. Answers whether there was need to.
    pub(crate) fn put_back(&mut self) -> bool {
        self.turn_rotten_bit();
        self.rotten.take().is_some()
    }

    /// The segments of its log of which all is left, by name.
    pub(crate) fn segments(&self) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.fs.list("log").unwrap_or_default();
        names.retain(|name| name.ends_with(".seg"));
        let read = |name: String| {
            let bytes = read_all(&self.fs, &format!("log/{name}")).ok()?;
            Some((name, bytes))
        };
        names.into_iter().filter_map(read).collect()
    }

    /// Names of tails that were put aside.
    pub(crate) fn forks_aside(&self) -> Vec<String> {
        let mut names = self.fs.list("aside").unwrap_or_default();
        names.retain(|name| name.starts_with("fork-"));
        names
    }
}

/// A bit that the disk flipped in what it had: the file, the byte, and its place in the log.
#[derive(Debug)]
struct Rotten {
    name: String,
    offset: usize,
    lsn: Lsn,
}

/// Random numbers of one machine, from the seed.
#[derive(Debug)]
struct SimEntropy(Mutex<Rng>);

impl Entropy for SimEntropy {
    fn id(&self) -> [u8; 16] {
        self.0.lock().u128(..).to_le_bytes()
    }
}
