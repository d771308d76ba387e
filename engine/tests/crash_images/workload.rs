//! What the disks go through: a primary and its standby, and for every moment what each of them has
//! answered for.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use outlast_engine::clock::Clock;
use outlast_engine::format::{ClusterId, FrameRun, ProtectionRecord};
use outlast_engine::{
    Batch, CommitOptions, Config, EpochReason, InitOptions, Keyspace, LogCursor, Lsn, Receipt,
    ReplicaPositions, Store,
};

use super::disk::{Disk, Failing};

pub(crate) const SEGMENT_SIZE: u64 = 64 << 10;
const KEYSPACES: [&str; 2] = ["users", "rooms"];

/// Keyspace and key, to value and the log time from which on there is none.
pub(crate) type Contents = BTreeMap<(String, Vec<u8>), (Vec<u8>, Option<u64>)>;

/// Keyspace and key, to the value that readers see.
pub(crate) type Shown = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// What may and must be found on a disk after a crash, by the number of changes made before it.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The state after each commit; the first is empty.
    pub(crate) states: Vec<Arc<Contents>>,
    /// At least this commit is there.
    must: Vec<(usize, u64)>,
    /// At most this commit is there.
    may: Vec<(usize, u64)>,
}

impl Ledger {
    pub(crate) fn must(&self, changes: usize) -> u64 {
        last(&self.must, changes)
    }

    /// The most that was ever possible is possible until something lower is said.
    pub(crate) fn may(&self, changes: usize) -> u64 {
        last(&self.may, changes)
    }
}

fn last(list: &[(usize, u64)], changes: usize) -> u64 {
    let said = list.iter().rev().find(|(at, _)| *at <= changes);
    said.map_or(0, |(_, commit)| *commit)
}

/// A clock that stands still unless it is told to go on.
#[derive(Debug, Default)]
pub(crate) struct StillClock(AtomicU64);

impl StillClock {
    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for StillClock {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

pub(crate) fn open(disk: &Disk, clock: &Arc<StillClock>) -> outlast_engine::Result<Store> {
    let config = Config {
        background: false,
        flush_after_entries: 20,
        flush_after_log_bytes: 40_000,
        history_log_bytes: 4_000,
        ..Config::default()
    };
    Store::open_on(Arc::new(disk.clone()), clock.clone(), config)
}

/// Numbers that look drawn.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// One node: its disk, its open store and its ledger.
pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Arc<StillClock>,
    store: Option<Store>,
}

impl Node {
    fn made(cluster: ClusterId, name: &str, follower: bool) -> Self {
        let disk = Disk::default();
        let options = InitOptions {
            cluster,
            segment_size: SEGMENT_SIZE,
            has_peer: true,
            follower,
            ..InitOptions::new(name)
        };
        Store::init_on(&disk, &options).unwrap();
        let clock = Arc::<StillClock>::default();
        let mut ledger = Ledger::default();
        ledger.states.push(Arc::default());
        let store = Some(open(&disk, &clock).unwrap());
        Self {
            disk,
            ledger,
            clock,
            store,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.store.take().unwrap().close().unwrap();
        self.store = Some(open(&self.disk, &self.clock).unwrap());
    }

    fn commits(&self) -> u64 {
        self.ledger.states.len() as u64 - 1
    }

    /// The ledger knows what the store shows before anything went wrong.
    fn check(&self) {
        let state = self.ledger.states.last().unwrap();
        assert_eq!(contents(self.store()).unwrap(), live(state, self.store()));
    }

    fn must_hold(&mut self, commit: u64) {
        self.ledger.must.push((self.disk.changes(), commit));
    }

    fn may_hold(&mut self, commit: u64) {
        self.ledger.may.push((self.disk.changes(), commit));
    }

    /// A batch of random writes, and the state behind it.
    fn batch(&mut self, keyspaces: &[Keyspace], dice: &mut Dice) -> Batch {
        let mut state = Contents::clone(self.ledger.states.last().unwrap());
        let log_ms = self.next_log_ms();
        let mut batch = Batch::new();
        for _ in 0..dice.below(5) {
            let number = dice.below(keyspaces.len());
            let (keyspace, name) = (&keyspaces[number], KEYSPACES[number].to_owned());
            let first = dice.below(24);
            let key = |at| vec![b'k', u8::try_from(at).unwrap()];
            let place = (name.clone(), key(first));
            let len = [3, 30, 600, 3_000][dice.below(4)];
            let value = vec![u8::try_from(dice.below(251)).unwrap(); len];
            match dice.below(10) {
                0 | 1 => {
                    batch.delete(keyspace, key(first)).unwrap();
                    state.remove(&place);
                }
                2 => {
                    let end = first + dice.below(6);
                    batch.delete_range(keyspace, key(first)..key(end)).unwrap();
                    let end = (name, key(end));
                    state.retain(|other, _| *other < place || *other >= end);
                }
                3 | 4 => {
                    let ttl_ms = [20, 100, 500, 1_000_000][dice.below(4)];
                    let ttl = Duration::from_millis(ttl_ms);
                    batch
                        .put_with_ttl(keyspace, key(first), &value, ttl)
                        .unwrap();
                    state.insert(place, (value, Some(log_ms + ttl_ms)));
                }
                _ => {
                    batch.put(keyspace, key(first), &value).unwrap();
                    state.insert(place, (value, None));
                }
            }
        }
        self.ledger.states.push(Arc::new(state));
        batch
    }

    /// Log time of what is committed next.
    fn next_log_ms(&self) -> u64 {
        self.store().snapshot().log_ms().max(self.clock.wall_ms())
    }

    /// Drops a keyspace with all that it holds.
    fn drop_keyspace(&mut self, name: &str) {
        let mut state = Contents::clone(self.ledger.states.last().unwrap());
        state.retain(|(other, _), _| other != name);
        self.ledger.states.push(Arc::new(state));
        self.may_hold(self.commits());
        let keyspace = self.store().find_keyspace(name).unwrap();
        let options = CommitOptions::default();
        self.store().drop_keyspace(&keyspace, options).unwrap();
        self.must_hold(self.commits());
    }

    /// Commits some batches, several at a time or one, and lets the background do its part.
    fn write(&mut self, commits: usize, dice: &mut Dice) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for _ in 0..commits {
            if dice.below(40) == 0 && self.commits() > 0 {
                self.drop_keyspace(KEYSPACES[1]);
            }
            let keyspaces = KEYSPACES.map(|name| self.store().keyspace(name).unwrap());
            let together = [1, 1, 3][dice.below(3)];
            let batches: Vec<_> = (0..together)
                .map(|_| self.batch(&keyspaces, dice))
                .collect();
            self.may_hold(self.commits());
            let store = self.store().clone();
            let options = CommitOptions::default();
            let mut under_way: Vec<_> = batches
                .into_iter()
                .map(|batch| store.commit_async(batch, options))
                .collect();
            for future in &mut under_way {
                receipts.push(finish(future).unwrap());
            }
            self.must_hold(self.commits());
            self.check();
            for _ in 0..dice.below(6) {
                let _ = self.store().background_step();
            }
            if dice.below(12) == 0 {
                // Idle for long enough that the log vouches for itself.
                self.clock.advance(60);
                let _ = self.store().background_step();
            }
        }
        receipts
    }

    /// A commit over several blocks whose fsync fails, and the store opened again, without the
    /// power having gone.
    fn fail(&mut self) {
        let users = self.store().keyspace(KEYSPACES[0]).unwrap();
        let (key, value) = (b"long".to_vec(), vec![7; 10_000]);
        let mut batch = Batch::new();
        batch.put(&users, &key, &value).unwrap();
        let mut state = Contents::clone(self.ledger.states.last().unwrap());
        state.insert((KEYSPACES[0].to_owned(), key), (value, None));
        self.ledger.states.push(Arc::new(state));
        self.may_hold(self.commits());
        // The call after the write of the frame is its sync.
        self.disk.fail(Some(Failing {
            from: self.disk.calls() + 2,
            sticky: false,
            kind: io::ErrorKind::Other,
        }));
        let failed = self.store().commit(batch, CommitOptions::default());
        assert!(failed.is_err(), "acknowledged what could not be synced");
        self.disk.fail(None);
        drop(users);
        self.store = None;
        self.store = Some(open(&self.disk, &self.clock).unwrap());
        self.store().begin_epoch(EpochReason::Restart, "").unwrap();
        let found = self.store().positions().durable.commit;
        self.ledger
            .states
            .truncate(usize::try_from(found).unwrap() + 1);
        self.must_hold(found);
        self.may_hold(found);
    }
}

/// What readers of a store see.
pub(crate) fn contents(store: &Store) -> outlast_engine::Result<Shown> {
    let mut found = Shown::new();
    let snapshot = store.snapshot();
    for keyspace in store.keyspaces() {
        for entry in snapshot.iter(&keyspace) {
            let (key, value) = entry?;
            found.insert((keyspace.name().to_owned(), key.to_vec()), value.to_vec());
        }
    }
    Ok(found)
}

/// What they ought to, by the log time that the store has come to.
pub(crate) fn live(state: &Contents, store: &Store) -> Shown {
    let log_ms = store.snapshot().log_ms();
    let is_live = |expires_ms: &Option<u64>| expires_ms.is_none_or(|at| log_ms < at);
    let live = state
        .iter()
        .filter(|(_, (_, expires_ms))| is_live(expires_ms));
    live.map(|(place, (value, _))| (place.clone(), value.clone()))
        .collect()
}

fn finish<T>(future: &mut (impl Future<Output = T> + Unpin)) -> T {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("a commit waits though nobody else can lead"),
    }
}

/// The standby takes all that the primary has, in runs of random length, with fsyncs in between.
fn ship(primary: &Node, standby: &mut Node, dice: &mut Dice) {
    let from = standby.store().chain().lsn;
    let mut cursor = primary.store().log_cursor(from).unwrap();
    while let Some(run) = next(&mut cursor, standby, dice) {
        standby.may_hold(run.after().position().commit);
        standby.store().append_run(&run).unwrap();
        if dice.below(3) > 0 {
            sync(primary, standby, dice);
        }
    }
    sync(primary, standby, dice);
}

fn next(cursor: &mut LogCursor, standby: &Node, dice: &mut Dice) -> Option<FrameRun> {
    let len_max = [1, 5_000, 80_000][dice.below(3)];
    let run = cursor.next_up_to(Lsn(u64::MAX), len_max).unwrap()?;
    Some(FrameRun::check(&standby.store().chain(), run.bytes().clone()).unwrap())
}

fn sync(primary: &Node, standby: &mut Node, dice: &mut Dice) {
    standby.store().sync().unwrap();
    let durable = standby.store().positions().durable.commit;
    standby.must_hold(durable);
    let visible = primary.store().positions().visible.lsn;
    standby.store().apply_to(visible).unwrap();
    if dice.below(4) == 0 {
        standby.clock.advance(60);
    }
    for _ in 0..dice.below(6) {
        let _ = standby.store().background_step();
    }
    // What the standby has, the primary may compact.
    let reached = standby.store().positions();
    primary.store().set_replica_positions(ReplicaPositions {
        received: reached.appended,
        durable: reached.durable,
        applied: reached.visible,
    });
}

/// The standby throws away the last of what it received, as after a fork, and is sent it again.
fn quarantine(primary: &mut Node, standby: &mut Node, dice: &mut Dice) {
    let fork = primary.store().chain().position();
    primary.write(3, dice);
    standby.ledger.states = primary.ledger.states.clone();
    let from = standby.store().chain().lsn;
    assert_eq!(from, fork.lsn, "the standby has all");
    let mut cursor = primary.store().log_cursor(from).unwrap();
    while let Some(run) = next(&mut cursor, standby, dice) {
        standby.may_hold(run.after().position().commit);
        standby.store().append_run(&run).unwrap();
    }
    standby.store().sync().unwrap();
    standby.must_hold(fork.commit);
    standby.store().quarantine(fork.lsn).unwrap();
    standby.may_hold(fork.commit);
    ship(primary, standby, dice);
}

/// Both nodes after a whole life: two epochs of the first, a standby that follows it, is closed and
/// opened, loses a tail, is promoted, and goes on alone.
pub(crate) fn life(seed: u64, commits: usize) -> (Node, Node) {
    let mut dice = Dice(seed);
    let cluster = ClusterId([9; 16]);
    let mut primary = Node::made(cluster, "a", false);
    let mut standby = Node::made(cluster, "b", true);
    primary.store().begin_epoch(EpochReason::Init, "").unwrap();
    standby.store().begin_following().unwrap();
    for round in 0..4 {
        primary.write(commits / 8, &mut dice);
        standby.ledger.states = primary.ledger.states.clone();
        ship(&primary, &mut standby, &mut dice);
        match round {
            0 => {
                let record = ProtectionRecord::unbounded(Vec::new(), "none".to_owned());
                primary.store().append_protection(&record).unwrap();
                primary.store().note_attached().unwrap();
            }
            1 => {
                primary.reopen();
                let store = primary.store();
                store.begin_epoch(EpochReason::Restart, "").unwrap();
                primary.fail();
            }
            2 => {
                standby.reopen();
                standby.store().begin_following().unwrap();
                quarantine(&mut primary, &mut standby, &mut dice);
            }
            _ => {}
        }
    }
    let store = standby.store();
    store.begin_epoch(EpochReason::Promotion, "a test").unwrap();
    standby.write(commits / 8, &mut dice);
    standby.fail();
    standby.write(commits / 8, &mut dice);
    for node in [&primary, &standby] {
        let compacted = node.store().log_size().sparse_bytes;
        assert!(compacted > 0, "a life without a compaction");
    }
    (primary, standby)
}
