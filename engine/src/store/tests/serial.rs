//! Interleaved transactions against a serial execution in the order of the log.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::error::CommitError;
use crate::log::{CommitFuture, Group};
use crate::transaction::Transaction;

const OPEN: usize = 4;
const KEYS: u8 = 6;

/// What the driver does next. Transactions are named by their place.
#[derive(Clone, Debug)]
enum Action {
    Read(usize, u8),
    Scan(usize, Scan),
    Put(usize, u8, u8),
    Delete(usize, u8),
    /// Queues the transaction, and begins another in its place.
    Commit(usize),
    /// Queues a batch that read nothing.
    Batch(u8, Option<u8>),
    /// Forms the group that waits; it is finished by `Finish` or by the next one.
    Form,
    Finish,
    /// Does the work that a thread would do in the background.
    Upkeep,
}

/// Reads a range from its ends: true for the front.
#[derive(Clone, Debug)]
struct Scan {
    lower: u8,
    upper: u8,
    keys_only: bool,
    turns: Vec<bool>,
}

/// What a transaction did, with what it was answered.
#[derive(Clone, Debug)]
enum Step {
    Read(u8, Option<u8>),
    Scan(Scan, Vec<Option<(u8, Option<u8>)>>),
    Put(u8, u8),
    Delete(u8),
}

type State = BTreeMap<u8, u8>;

fn action() -> impl Strategy<Value = Action> {
    let (at, key) = (0..OPEN, 0..KEYS);
    let turns = vec(any::<bool>(), 0..5);
    let scan =
        (0..=KEYS, 0..=KEYS, any::<bool>(), turns).prop_map(|(lower, upper, keys_only, turns)| {
            Scan {
                lower,
                upper,
                keys_only,
                turns,
            }
        });
    prop_oneof![
        4 => (at.clone(), key.clone()).prop_map(|(at, key)| Action::Read(at, key)),
        3 => (at.clone(), scan).prop_map(|(at, scan)| Action::Scan(at, scan)),
        5 => (at.clone(), key.clone(), any::<u8>()).prop_map(|(at, k, v)| Action::Put(at, k, v)),
        2 => (at.clone(), key.clone()).prop_map(|(at, key)| Action::Delete(at, key)),
        5 => at.prop_map(Action::Commit),
        1 => (key, any::<Option<u8>>()).prop_map(|(key, value)| Action::Batch(key, value)),
        2 => Just(Action::Form),
        1 => Just(Action::Finish),
        1 => Just(Action::Upkeep),
    ]
}

/// Spreads keys over two keyspaces, three in each.
struct Spaces([Keyspace; 2]);

impl Spaces {
    fn place(&self, key: u8) -> (&Keyspace, [u8; 1]) {
        (&self.0[usize::from(key / 3)], [key % 3])
    }
}

/// The keyspace of the scan's lower bound is the one that is read.
fn scan(tx: &Transaction, spaces: &Spaces, scan: &Scan) -> Vec<Option<(u8, Option<u8>)>> {
    let space = scan.lower.min(KEYS - 1) / 3;
    let base = space * 3;
    let bounds = [scan.lower.saturating_sub(base)]..[scan.upper.saturating_sub(base)];
    let mut range = tx.range(&spaces.0[usize::from(space)], bounds);
    if scan.keys_only {
        let mut keys = range.keys();
        let turn = |front: &bool| match front {
            true => keys.next(),
            false => keys.next_back(),
        };
        let next = scan.turns.iter().map(turn);
        return next
            .map(|key| Some((base + key?.unwrap()[0], None)))
            .collect();
    }
    let turn = |front: &bool| match front {
        true => range.next(),
        false => range.next_back(),
    };
    let entry = |next: Option<crate::Result<(Bytes, Bytes)>>| {
        let (key, value) = next?.unwrap();
        Some((base + key[0], Some(value[0])))
    };
    scan.turns.iter().map(turn).map(entry).collect()
}

/// The same of the model.
fn scan_state(state: &State, scan: &Scan) -> Vec<Option<(u8, Option<u8>)>> {
    let space = scan.lower.min(KEYS - 1) / 3;
    let within = |key: u8| key / 3 == space && (scan.lower..scan.upper).contains(&key);
    let mut left: Vec<_> = state.iter().filter(|(key, _)| within(**key)).collect();
    let turn = |front: &bool| {
        let (key, value) = match (front, left.is_empty()) {
            (_, true) => return None,
            (true, _) => left.remove(0),
            (false, _) => left.pop()?,
        };
        Some((*key, (!scan.keys_only).then_some(*value)))
    };
    scan.turns.iter().map(turn).collect()
}

struct Open {
    tx: Transaction,
    steps: Vec<Step>,
}

struct Driver {
    store: Store,
    spaces: Spaces,
    open: Vec<Open>,
    queued: Vec<(Lsn, Vec<Step>, CommitFuture)>,
    group: Option<Group>,
}

impl Driver {
    fn new(store: Store) -> Self {
        let spaces = Spaces(["a", "b"].map(|name| store.keyspace(name).unwrap()));
        let open = (0..OPEN).map(|_| Open::new(&store)).collect();
        Self {
            store,
            spaces,
            open,
            queued: Vec::new(),
            group: None,
        }
    }

    fn act(&mut self, action: Action) {
        let options = CommitOptions::default();
        match action {
            Action::Read(at, key) => {
                let (keyspace, bytes) = self.spaces.place(key);
                let open = &mut self.open[at];
                let found = open.tx.get(keyspace, bytes).unwrap();
                assert_eq!(
                    open.tx.contains_key(keyspace, bytes).unwrap(),
                    found.is_some()
                );
                open.steps
                    .push(Step::Read(key, found.map(|found| found[0])));
            }
            Action::Scan(at, what) => {
                let open = &mut self.open[at];
                let found = scan(&open.tx, &self.spaces, &what);
                open.steps.push(Step::Scan(what, found));
            }
            Action::Put(at, key, value) => {
                let (keyspace, bytes) = self.spaces.place(key);
                let open = &mut self.open[at];
                open.tx.put(keyspace, bytes, [value]).unwrap();
                open.steps.push(Step::Put(key, value));
            }
            Action::Delete(at, key) => {
                let (keyspace, bytes) = self.spaces.place(key);
                let open = &mut self.open[at];
                open.tx.delete(keyspace, bytes).unwrap();
                open.steps.push(Step::Delete(key));
            }
            Action::Commit(at) => {
                let Open { tx, steps } =
                    std::mem::replace(&mut self.open[at], Open::new(&self.store));
                self.queued
                    .push((tx.lsn(), steps, tx.commit_queued(options)));
            }
            Action::Batch(key, value) => {
                let (keyspace, bytes) = self.spaces.place(key);
                let mut batch = Batch::new();
                let step = match value {
                    Some(value) => {
                        batch.put(keyspace, bytes, [value]).unwrap();
                        Step::Put(key, value)
                    }
                    None => {
                        batch.delete(keyspace, bytes).unwrap();
                        Step::Delete(key)
                    }
                };
                let future = self.store.commit_queued(batch, options);
                self.queued.push((Lsn::ZERO, vec![step], future));
            }
            Action::Form => {
                self.finish();
                self.group = self.store.lead();
            }
            Action::Finish => self.finish(),
            Action::Upkeep => {
                // It may want what the group in flight holds.
                self.finish();
                for _ in 0..4 {
                    let _ = self.store.background_step();
                }
            }
        }
    }

    fn finish(&mut self) {
        if let Some(mut group) = self.group.take() {
            group.write();
            group.sync();
            group.finish();
        }
    }

    /// Ends everything. Answers with what was committed, in the order of the log, and what lost.
    fn end(mut self) -> (Vec<Committed>, Vec<Lost>, State) {
        self.finish();
        while let Some(group) = self.store.lead() {
            self.group = Some(group);
            self.finish();
        }
        let (mut committed, mut lost) = (Vec::new(), Vec::new());
        for (at, steps, future) in self.queued {
            match block_on(future) {
                Ok(receipt) => committed.push((receipt, steps)),
                Err(CommitError::Failed(error)) => {
                    assert_eq!(error.kind(), ErrorKind::TransactionConflict, "{error}");
                    let to = error.lost_to().unwrap().clone();
                    lost.push(Lost { at, to });
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        committed.sort_by_key(|(receipt, _)| receipt.lsn);
        let snapshot = self.store.snapshot();
        let mut state = State::new();
        for key in 0..KEYS {
            let (keyspace, bytes) = self.spaces.place(key);
            if let Some(value) = snapshot.get(keyspace, bytes).unwrap() {
                state.insert(key, value[0]);
            }
        }
        (committed, lost, state)
    }
}

type Committed = (Receipt, Vec<Step>);

/// Which position it had read, and what it lost to.
struct Lost {
    at: Lsn,
    to: crate::LostTo,
}

impl Open {
    fn new(store: &Store) -> Self {
        let tx = store.transaction();
        let steps = Vec::new();
        Self { tx, steps }
    }
}

/// Runs a transaction alone.
fn replay(state: &mut State, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Read(key, found) => assert_eq!(state.get(key), found.as_ref(), "{step:?}"),
            Step::Scan(scan, found) => assert_eq!(&scan_state(state, scan), found, "{step:?}"),
            Step::Put(key, value) => drop(state.insert(*key, *value)),
            Step::Delete(key) => drop(state.remove(key)),
        }
    }
}

fn writes(steps: &[Step], key: u8) -> bool {
    steps
        .iter()
        .any(|step| matches!(step, Step::Put(k, _) | Step::Delete(k) if *k == key))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_was_committed_read_what_it_would_have_read_alone(
        actions in vec(action(), 1..80),
        renewed_at in any::<Option<Index>>(),
    ) {
        let (_fs, store) = racing::store(false);
        let mut driver = Driver::new(store);
        let spaces = driver.spaces.0.each_ref().map(Keyspace::id);
        let renewed_at = renewed_at.map(|at| at.index(actions.len()));
        for (at, action) in actions.into_iter().enumerate() {
            // All open ones begin anew: what follows is read at another position.
            if renewed_at == Some(at) {
                for open in &mut driver.open {
                    *open = Open::new(&driver.store);
                }
            }
            driver.act(action);
        }
        let (committed, lost, end) = driver.end();
        let mut state = State::new();
        for (_, steps) in &committed {
            replay(&mut state, steps);
        }
        prop_assert_eq!(state, end);
        for Lost { at, to } in lost {
            // It lost to somebody, who is in the log, behind what it had read.
            prop_assert!(to.lsn >= at);
            let (space, key) = to.key.clone().unwrap();
            let key = if space == spaces[0] { key[0] } else { 3 + key[0] };
            let winner = committed.iter().find(|(receipt, _)| receipt.lsn > to.lsn).unwrap();
            prop_assert!(writes(&winner.1, key), "{to:?} against {winner:?}");
        }
    }
}
