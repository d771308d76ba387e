//! One case: a store and its model, side by side.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::clock::Clock;
use outlast_engine::fs::{Crash, Fs, MemFs};
use outlast_engine::{
    Batch, CommitError, CommitOptions, Compact, Compared, Config, EpochReason, Error, ErrorKind,
    Expected, InitOptions, Keyspace, Lsn, Snapshot, Store, Transaction,
};

use crate::clock::Hands;
use crate::model::{
    Commit, Pair, Point, State, Told, Value, apply, is_within, keys_of, may_touch, shown,
};
use crate::steps::{KEYS, Kind, NAMES, Op, Read, Step};

const SEGMENT_SIZE: u64 = 64 << 10;
const AHEAD_MAX_MS: u64 = 3_600_000;

/// What differs between cases apart from their steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) flush_after_entries: usize,
    pub(crate) history_log_bytes: u64,
    /// Bytes of a value: large ones fill segments.
    pub(crate) value_len: usize,
}

pub(crate) struct Case {
    setting: Setting,
    fs: MemFs,
    clock: Arc<Hands>,
    /// None while it is closed.
    store: Option<Store>,
    /// Those that this opening of the store gave, dropped ones too.
    handles: BTreeMap<u32, Keyspace>,
    live: BTreeMap<usize, u32>,
    dropped: BTreeMap<u32, Lsn>,
    state: State,
    points: Vec<Point>,
    commits: Vec<Commit>,
    snapshots: Vec<(Snapshot, Point)>,
    /// What log time counts from: wall clock and monotonic clock; none while it stands still.
    base: Option<(u64, u64)>,
    number: u64,
    compacts: bool,
}

impl Case {
    pub(crate) fn run(setting: Setting, steps: &[Step]) {
        let mut case = Self::new(setting);
        for step in steps {
            case.step(step);
        }
        case.check_all();
        case.reopen(None, true, true);
        case.reopen(None, false, true);
    }

    fn new(setting: Setting) -> Self {
        let fs = MemFs::new();
        let options = InitOptions {
            segment_size: SEGMENT_SIZE,
            ..InitOptions::new("model")
        };
        Store::init_on(&fs, &options).unwrap();
        let clock = Arc::new(Hands::default());
        let store = open(&fs, &clock, setting);
        let mut case = Self {
            setting,
            fs,
            clock,
            store: Some(store),
            handles: BTreeMap::new(),
            live: BTreeMap::new(),
            dropped: BTreeMap::new(),
            state: State::new(),
            points: vec![Point {
                lsn: Lsn::ZERO,
                log_ms: 0,
                state: Rc::default(),
            }],
            commits: Vec::new(),
            snapshots: Vec::new(),
            base: None,
            number: 0,
            compacts: false,
        };
        case.begin(EpochReason::Init);
        case
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(ops) => self.commit(ops),
            Step::Transact {
                before,
                reads,
                between,
                after,
            } => self.transact(before, reads, between, after),
            Step::Compare {
                name,
                key,
                right,
                by_lsn,
                delete,
            } => self.compare(*name, *key, *right, *by_lsn, *delete),
            Step::Drop(name) => self.drop_keyspace(*name),
            Step::Snapshot => {
                let snapshot = self.store().snapshot();
                self.snapshots.push((snapshot, self.newest()));
            }
            Step::Forget(which) if !self.snapshots.is_empty() => {
                self.snapshots.swap_remove(which % self.snapshots.len());
            }
            Step::Forget(_) => {}
            Step::Past(which) => self.past(*which),
            Step::Advance(ms) => self.clock.advance(*ms),
            Step::Jump(ms) => self.clock.jump(*ms),
            Step::Work(count) => {
                for _ in 0..*count {
                    let _ = self.store().background_step();
                    self.observe();
                }
                self.compacts = true;
            }
            Step::CompactIndex => self.store().compact_index().unwrap(),
            Step::CompactNow(order) => {
                self.compacts = true;
                let what = if *order {
                    Compact::Order
                } else {
                    Compact::Reclaim
                };
                self.store().compact_now(what).unwrap();
            }
            Step::Reopen {
                crash,
                keep_index,
                confirm,
            } => self.reopen(*crash, *keep_index, *confirm),
            Step::Tail(which) => self.tail(*which),
            Step::Check => self.check_all(),
        }
        self.observe();
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn newest(&self) -> Point {
        self.points.last().unwrap().clone()
    }

    /// Log time of a frame that is formed now.
    fn log_ms(&self) -> u64 {
        let last = self.newest().log_ms;
        match self.base {
            None => last,
            Some((wall_ms, at_ms)) => {
                let passed = self.clock.monotonic_ms() - at_ms;
                self.clock.wall_ms().min(wall_ms + passed + 1_000).max(last)
            }
        }
    }

    /// Takes up the position that is visible now, if it is a new one.
    fn observe(&mut self) {
        let lsn = self.store().positions().visible.lsn;
        let newest = self.newest();
        if lsn == newest.lsn {
            assert_eq!(
                *newest.state, self.state,
                "a state changed without a position"
            );
            return;
        }
        assert!(
            lsn > newest.lsn,
            "visible went back from {} to {lsn}",
            newest.lsn
        );
        self.points.push(Point {
            lsn,
            log_ms: self.log_ms(),
            state: Rc::new(self.state.clone()),
        });
    }

    fn begin(&mut self, reason: EpochReason) {
        let newest = self.newest();
        self.store().begin_epoch(reason, "").unwrap();
        let wall_ms = self.clock.wall_ms();
        let far_ahead = wall_ms > newest.log_ms.saturating_add(AHEAD_MAX_MS);
        let held = self.store().held_log_time().is_some();
        let mut values = newest.state.values().flat_map(BTreeMap::values);
        let waits = values.any(|value| value.expires_ms.is_some() && value.is_at(newest.log_ms));
        assert!(
            !held || far_ahead,
            "log time stands still at {}",
            newest.log_ms
        );
        assert!(
            held || !(far_ahead && waits),
            "log time jumped from {}",
            newest.log_ms
        );
        self.base = (!held).then(|| (wall_ms.max(newest.log_ms), self.clock.monotonic_ms()));
        self.observe();
    }

    /// The keyspace of a name, made if there is none.
    fn keyspace(&mut self, name: usize) -> Keyspace {
        let keyspace = self.store().keyspace(NAMES[name]).unwrap();
        match self.live.get(&name) {
            Some(id) => assert_eq!(keyspace.id(), *id),
            None => {
                let highest = self.dropped.keys().chain(self.live.values()).max();
                assert_eq!(
                    keyspace.id(),
                    highest.map_or(1, |id| id + 1),
                    "an id was used again"
                );
                self.live.insert(name, keyspace.id());
            }
        }
        self.handles.insert(keyspace.id(), keyspace.clone());
        self.observe();
        keyspace
    }

    fn value(&mut self) -> Value {
        self.number += 1;
        let mut bytes = self.number.to_string().into_bytes();
        bytes.resize(bytes.len().max(self.setting.value_len), b'.');
        Value {
            bytes,
            expires_ms: None,
            number: self.number,
        }
    }

    /// The operations with their keyspaces and values.
    fn prepare(&mut self, ops: &[Op]) -> Vec<(Keyspace, Kind, Value)> {
        let prepare = |op: &Op| (self.keyspace(op.name), op.kind.clone(), self.value());
        ops.iter().map(prepare).collect()
    }

    fn commit(&mut self, ops: &[Op]) {
        let ops = self.prepare(ops);
        let mut batch = Batch::new();
        for (keyspace, kind, value) in &ops {
            match kind {
                Kind::Put(key) => batch.put(keyspace, KEYS[*key], &value.bytes),
                Kind::PutWithTtl(key, ttl_ms) => {
                    batch.put_with_ttl(keyspace, KEYS[*key], &value.bytes, ttl(*ttl_ms))
                }
                Kind::Delete(key) => batch.delete(keyspace, KEYS[*key]),
                Kind::DeleteRange(lower, upper) => {
                    batch.delete_range::<&[u8]>(keyspace, (keys_of(lower), keys_of(upper)))
                }
                Kind::DeletePrefix(key) => batch.delete_prefix(keyspace, KEYS[*key]),
            }
            .unwrap();
        }
        let receipt = self
            .store()
            .commit(batch, CommitOptions::default())
            .unwrap();
        self.committed(&ops, receipt.lsn);
    }

    /// Takes up a commit that was answered.
    fn committed(&mut self, ops: &[(Keyspace, Kind, Value)], lsn: Lsn) {
        let log_ms = self.log_ms();
        let state = &mut self.state;
        let changes = ops
            .iter()
            .filter_map(|(keyspace, kind, value)| apply(state, keyspace.id(), kind, value, log_ms));
        let changes = changes.collect();
        self.told(lsn, log_ms, changes);
    }

    fn told(&mut self, lsn: Lsn, log_ms: u64, changes: Vec<Told>) {
        self.commits.push(Commit {
            lsn,
            log_ms,
            changes,
        });
        // A batch ends before its frame does, and both show the same.
        self.points.push(Point {
            lsn,
            log_ms,
            state: Rc::new(self.state.clone()),
        });
        self.observe();
    }

    fn transact(&mut self, before: &[Op], reads: &[Read], between: &[Vec<Op>], after: &[Op]) {
        // So that all keyspaces are there when it begins.
        for name in 0..NAMES.len() {
            self.keyspace(name);
        }
        let begun = self.newest();
        let mut transaction = self.store().transaction();
        assert_eq!(transaction.lsn(), begun.lsn);
        let mut seen = State::clone(&begun.state);
        let mut ops = self.prepare(before);
        for (keyspace, kind, value) in &ops {
            write(&mut transaction, keyspace, kind, value);
            apply(&mut seen, keyspace.id(), kind, value, begun.log_ms);
            if let Kind::PutWithTtl(key, _) = kind {
                // Its time begins with the commit.
                let keys = seen.get_mut(&keyspace.id()).unwrap();
                keys.get_mut(KEYS[*key]).unwrap().expires_ms = None;
            }
        }
        for read in reads {
            self.read(&transaction, read, &seen, begun.log_ms);
        }
        for ops in between {
            self.commit(ops);
        }
        let more = self.prepare(after);
        for (keyspace, kind, value) in &more {
            write(&mut transaction, keyspace, kind, value);
        }
        ops.extend(more);
        let (may, must) = self.conflicts(before, reads, between, &begun);
        match transaction.commit(CommitOptions::default()) {
            Ok(receipt) => {
                assert!(!must, "what it read was changed: {reads:?} {between:?}");
                // One without writes that reads is still a batch.
                self.committed(&ops, receipt.lsn);
            }
            Err(CommitError::Failed(error)) => {
                assert_eq!(error.kind(), ErrorKind::TransactionConflict, "{error}");
                assert!(
                    may,
                    "nothing of what it read was touched: {reads:?} {between:?}"
                );
                assert!(error.lost_to().unwrap().lsn >= begun.lsn);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&self, transaction: &Transaction, read: &Read, seen: &State, log_ms: u64) {
        let all = |name: &usize| shown(seen, self.live[name], log_ms);
        match read {
            Read::Get(name, key) => {
                let keyspace = &self.handles[&self.live[name]];
                let expected = all(name).into_iter().find(|(found, _)| found == KEYS[*key]);
                let found = transaction.get(keyspace, KEYS[*key]).unwrap();
                assert_eq!(
                    found.as_deref(),
                    expected.as_ref().map(|(_, value)| &**value)
                );
                let contains = transaction.contains_key(keyspace, KEYS[*key]).unwrap();
                assert_eq!(contains, expected.is_some());
            }
            Read::Range(name, lower, upper, count, back) => {
                let keyspace = &self.handles[&self.live[name]];
                let mut expected = all(name);
                expected.retain(|(key, _)| is_within(key, lower, upper));
                let range = transaction.range::<&[u8]>(keyspace, (keys_of(lower), keys_of(upper)));
                let found: Vec<_> = if *back {
                    expected.reverse();
                    range.rev().take(*count).map(Result::unwrap).collect()
                } else {
                    range.take(*count).map(Result::unwrap).collect()
                };
                expected.truncate(*count);
                assert_eq!(found, expected, "{read:?}");
            }
        }
    }

    /// Whether what was read may count as changed, and whether it must.
    fn conflicts(
        &self,
        before: &[Op],
        reads: &[Read],
        between: &[Vec<Op>],
        begun: &Point,
    ) -> (bool, bool) {
        let number = |state: &State, name: &usize, key: &[u8]| {
            let value = state.get(&self.live[name]).and_then(|keys| keys.get(key))?;
            value.is_at(begun.log_ms).then_some(value.number)
        };
        let changed = |name: &usize, key: &[u8]| {
            number(&begun.state, name, key) != number(&self.state, name, key)
        };
        let (mut may, mut must) = (false, false);
        for read in reads {
            let (name, lower, upper) = match read {
                Read::Get(name, key) => (name, Bound::Included(*key), Bound::Included(*key)),
                Read::Range(name, lower, upper, ..) => (name, *lower, *upper),
            };
            let others = between.iter().flatten().filter(|op| op.name == *name);
            may |= others
                .into_iter()
                .any(|op| may_touch(&op.kind, &lower, &upper));
            // What it has written itself, it has not read.
            let own = before.iter().any(|op| op.name == *name);
            must |= !own
                && match read {
                    Read::Get(name, key) => changed(name, KEYS[*key]),
                    Read::Range(name, lower, upper, count, _) => {
                        let within = |key: &&&[u8]| is_within(key, lower, upper);
                        *count > KEYS.len()
                            && KEYS.iter().filter(within).any(|key| changed(name, key))
                    }
                };
        }
        (may, must)
    }

    fn compare(&mut self, name: usize, key: usize, right: bool, by_lsn: bool, delete: bool) {
        let keyspace = self.keyspace(name);
        let key = KEYS[key];
        let newest = self.newest();
        let all = newest.shown(keyspace.id());
        let held = all
            .iter()
            .find(|(found, _)| found == key)
            .map(|(_, value)| value);
        let entry = self.store().get_entry(&keyspace, key).unwrap();
        assert_eq!(
            entry.as_ref().map(|entry| &*entry.value),
            held.map(|value| &**value)
        );
        let expected = match (&entry, right) {
            (None, true) | (Some(_), false) => Expected::Absent,
            (Some(entry), true) if by_lsn => Expected::Lsn(entry.lsn),
            (Some(entry), true) => Expected::value(&entry.value),
            (None, false) if by_lsn => Expected::Lsn(newest.lsn),
            (None, false) => Expected::value("nothing holds this"),
        };
        let value = self.value();
        let new = (!delete).then_some(&*value.bytes);
        let options = CommitOptions::default();
        let compared = self
            .store()
            .compare_and_set(&keyspace, key, expected, new, options);
        match compared.unwrap() {
            Compared::Set(receipt) => {
                assert!(right, "set though it held something else");
                let at = KEYS.iter().position(|other| *other == key).unwrap();
                let kind = if delete {
                    Kind::Delete(at)
                } else {
                    Kind::Put(at)
                };
                self.committed(&[(keyspace, kind, value)], receipt.lsn);
            }
            Compared::Differs(found) => {
                assert!(!right, "it held what was expected");
                assert_eq!(found, entry);
            }
            other => panic!("{other:?}"),
        }
    }

    fn drop_keyspace(&mut self, name: usize) {
        let Some(id) = self.live.remove(&name) else {
            let error = self.store().find_keyspace(NAMES[name]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoKeyspace);
            return;
        };
        let keyspace = self.store().find_keyspace(NAMES[name]).unwrap();
        self.handles.insert(id, keyspace.clone());
        let mut early = Batch::new();
        early.put(&keyspace, "late", "").unwrap();
        let mut transaction = self.store().transaction();
        assert!(transaction.get(&keyspace, "late").unwrap().is_none());
        let receipt = self
            .store()
            .drop_keyspace(&keyspace, CommitOptions::default())
            .unwrap();
        self.state.remove(&id);
        self.dropped.insert(id, receipt.lsn);
        let told = Told {
            keyspace: id,
            op: outlast_engine::Op::DropKeyspace,
            key: Vec::new(),
            value: Vec::new(),
            expires_ms: None,
        };
        let log_ms = self.log_ms();
        self.told(receipt.lsn, log_ms, vec![told]);

        let refused = |outcome: Result<_, CommitError>| match outcome {
            Err(CommitError::Failed(error)) => error.kind(),
            other => panic!("{other:?}"),
        };
        let options = CommitOptions::default();
        let gone = ErrorKind::NoKeyspace;
        assert!(keyspace.is_dropped());
        assert_eq!(refused(self.store().commit(early, options)), gone);
        assert_eq!(
            refused(self.store().drop_keyspace(&keyspace, options)),
            gone
        );
        assert_eq!(
            self.store().get(&keyspace, "late").unwrap_err().kind(),
            gone
        );
        assert_eq!(
            self.store().find_keyspace(NAMES[name]).unwrap_err().kind(),
            gone
        );
        // A transaction that read there conflicts.
        if let Some(other) = self.live.values().next() {
            transaction.delete(&self.handles[other], "late").unwrap();
            let lost = refused(transaction.commit(options));
            assert_eq!(lost, ErrorKind::TransactionConflict);
        }
    }

    fn past(&mut self, which: usize) {
        let newest = self.newest().lsn;
        let point = self.points[which % self.points.len()].clone();
        match self.store().snapshot_at(point.lsn) {
            Ok(snapshot) => {
                self.check(&snapshot, &point);
                self.snapshots.push((snapshot, point));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotHeld, "{error}");
                let held = newest.0.saturating_sub(self.setting.history_log_bytes);
                assert!(
                    point.lsn.0 < held,
                    "{error} though [{held}, {newest}] is promised"
                );
            }
        }
    }

    fn reopen(&mut self, crash: Option<u64>, keep_index: bool, confirm: bool) {
        self.snapshots.clear();
        self.handles.clear();
        match crash {
            Some(seed) => self.fs = self.fs.crash(Crash::Random(seed)),
            None => {
                self.store().close().unwrap();
                self.observe();
            }
        }
        // The lock goes with it.
        self.store = None;
        if !keep_index {
            match self.fs.unlink("index/manifest") {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                unlinked => unlinked.and_then(|()| self.fs.sync_dir("index")).unwrap(),
            }
        }
        self.store = Some(open(&self.fs, &self.clock, self.setting));
        // What nothing vouches for yet is shown once it writes.
        assert!(self.store().positions().visible.lsn <= self.newest().lsn);
        self.begin(EpochReason::Restart);
        let mut names: Vec<_> = self
            .live
            .iter()
            .map(|(name, id)| (*id, NAMES[*name]))
            .collect();
        names.sort_unstable();
        let keyspaces = self.store().keyspaces();
        let found: Vec<_> = keyspaces.iter().map(|one| (one.id(), one.name())).collect();
        assert_eq!(found, names);
        self.handles = keyspaces.into_iter().map(|one| (one.id(), one)).collect();
        self.check_all();
        if self.base.is_none() && confirm {
            self.store().confirm_log_time().unwrap();
            self.base = Some((
                self.clock.wall_ms().max(self.newest().log_ms),
                self.clock.monotonic_ms(),
            ));
            self.observe();
            self.check_all();
        }
    }

    fn tail(&self, which: usize) {
        let at = which % (self.commits.len() + 1);
        let from = at
            .checked_sub(1)
            .map_or(Lsn::ZERO, |at| self.commits[at].lsn);
        let mut tail = match self.store().tail(from) {
            Ok(tail) => tail,
            Err(error) => return self.truncated(&error),
        };
        for commit in &self.commits[at..] {
            let found = match tail.poll() {
                Ok(found) => found.expect("a commit is missing from the feed"),
                Err(error) => return self.truncated(&error),
            };
            assert_eq!((found.lsn, found.log_ms), (commit.lsn, commit.log_ms));
            let changes: Vec<_> = found
                .changes
                .iter()
                .map(|change| Told {
                    keyspace: change.keyspace.id(),
                    op: change.op,
                    key: change.key.to_vec(),
                    value: change.value.to_vec(),
                    expires_ms: change.expires_ms,
                })
                .collect();
            assert_eq!(changes, commit.changes, "commit at {}", commit.lsn);
        }
        assert_eq!(tail.poll().unwrap(), None);
    }

    fn truncated(&self, error: &Error) {
        let compacted = error.kind() == ErrorKind::LogTruncated;
        assert!(compacted && self.compacts, "{error}");
    }

    /// Looks at the newest state and at all that are open.
    fn check_all(&mut self) {
        self.observe();
        let newest = self.newest();
        let snapshot = self.store().snapshot();
        assert_eq!(snapshot.lsn(), newest.lsn);
        self.check(&snapshot, &newest);
        for id in self.live.values() {
            let (keyspace, all) = (&self.handles[id], newest.shown(*id));
            for key in KEYS {
                let expected = all.iter().find(|(found, _)| found == key);
                let found = self.store().get(keyspace, key).unwrap();
                assert_eq!(
                    found.as_deref(),
                    expected.map(|(_, value)| &**value),
                    "{key:?}"
                );
            }
        }
        for (snapshot, point) in &self.snapshots {
            self.check(snapshot, point);
        }
    }

    fn check(&self, snapshot: &Snapshot, point: &Point) {
        assert_eq!(
            (snapshot.lsn(), snapshot.log_ms()),
            (point.lsn, point.log_ms)
        );
        for (id, keyspace) in &self.handles {
            if self.dropped.get(id).is_some_and(|at| *at <= point.lsn) {
                let error = snapshot.get(keyspace, KEYS[0]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoKeyspace);
                let error = snapshot.iter(keyspace).next().unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoKeyspace);
                continue;
            }
            look(snapshot, keyspace, &point.shown(*id), point.lsn);
        }
    }
}

/// Reads a keyspace in every way.
fn look(snapshot: &Snapshot, keyspace: &Keyspace, all: &[Pair], at: Lsn) {
    let forward: Vec<_> = snapshot.iter(keyspace).map(Result::unwrap).collect();
    assert_eq!(forward, all, "{keyspace:?} at {at}");
    let mut back: Vec<_> = snapshot.iter(keyspace).rev().map(Result::unwrap).collect();
    back.reverse();
    assert_eq!(back, all, "{keyspace:?} at {at}, from its end");
    let keys: Vec<_> = snapshot.iter(keyspace).keys().map(Result::unwrap).collect();
    assert!(
        keys.iter().eq(all.iter().map(|(key, _)| key)),
        "{keyspace:?} at {at}"
    );
    let gets = snapshot.multi_get(keyspace, KEYS).unwrap();
    for (key, found) in KEYS.iter().zip(gets) {
        let expected = all.iter().find(|(other, _)| other == key);
        let expected = expected.map(|(_, value)| &**value);
        assert_eq!(
            found.as_deref(),
            expected,
            "{key:?} of {keyspace:?} at {at}"
        );
        assert_eq!(
            snapshot.contains_key(keyspace, key).unwrap(),
            expected.is_some()
        );
        let begins = all.iter().filter(|(other, _)| other.starts_with(key));
        let prefix: Vec<_> = snapshot.prefix(keyspace, key).map(Result::unwrap).collect();
        assert!(
            prefix.iter().eq(begins),
            "prefix {key:?} of {keyspace:?} at {at}"
        );
    }
    // From both ends in turns, within bounds.
    let (lower, upper) = (Bound::Excluded(1), Bound::Included(6));
    let mut within: Vec<_> = all.to_vec();
    within.retain(|(key, _)| is_within(key, &lower, &upper));
    let mut range = snapshot.range::<&[u8]>(keyspace, (keys_of(&lower), keys_of(&upper)));
    while let Some(found) = range.next() {
        assert_eq!(found.unwrap(), within.remove(0));
        if let Some(found) = range.next_back() {
            assert_eq!(found.unwrap(), within.pop().unwrap());
        }
    }
    assert!(within.is_empty());
}

fn write(transaction: &mut Transaction, keyspace: &Keyspace, kind: &Kind, value: &Value) {
    match kind {
        Kind::Put(key) => transaction.put(keyspace, KEYS[*key], &value.bytes),
        Kind::PutWithTtl(key, ttl_ms) => {
            transaction.put_with_ttl(keyspace, KEYS[*key], &value.bytes, ttl(*ttl_ms))
        }
        Kind::Delete(key) => transaction.delete(keyspace, KEYS[*key]),
        Kind::DeleteRange(lower, upper) => {
            transaction.delete_range::<&[u8]>(keyspace, (keys_of(lower), keys_of(upper)))
        }
        Kind::DeletePrefix(key) => transaction.delete_prefix(keyspace, KEYS[*key]),
    }
    .unwrap();
}

fn ttl(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn open(fs: &MemFs, clock: &Arc<Hands>, setting: Setting) -> Store {
    let config = Config {
        background: false,
        flush_after_entries: setting.flush_after_entries,
        flush_after_log_bytes: 40_000,
        history_log_bytes: setting.history_log_bytes,
        ..Config::default()
    };
    Store::open_on(Arc::new(fs.clone()), clock.clone(), config).unwrap()
}
