//! A reader of one node: follows its change feed, and knows from that what every read must give.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use outlast_engine::{Committed, ErrorKind, Keyspace, Lsn, Op, Snapshot, Store, Tail};

use crate::ledger::Ledger;
use crate::observer::Observer;
use crate::violation::{Checked, Violation, check};

/// The keyspace that all clients use.
pub(crate) const KEYSPACE: &str = "profiles";
/// How much log behind the newest state past states stay readable.
pub(crate) const HISTORY_LOG_BYTES: u64 = 4_000;
/// One that is made and dropped.
pub(crate) const DRAFTS: &str = "drafts";

/// The three keys of a user's profile that every batch writes as one.
pub(crate) fn profile_keys(user: u8) -> [Bytes; 3] {
    ["p", "v", "n"].map(|part| Bytes::from(format!("{part}{user:02}")))
}

/// A value, and the log time from which on there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    value: Bytes,
    expires_ms: Option<u64>,
}

impl Held {
    fn is_live(&self, log_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| log_ms < expires_ms)
    }
}

/// The keyspaces that are not dropped, by id, with what has expired.
pub(crate) type Model = BTreeMap<u32, BTreeMap<Bytes, Held>>;

pub(crate) struct Reader {
    tail: Tail,
    /// All commits that were given, in order.
    feed: Vec<Committed>,
    model: Model,
    ids: BTreeSet<u64>,
    /// An earlier state that somebody still looks at.
    held: Option<State>,
}

/// A state of a node, and what it must be.
struct State {
    snapshot: Snapshot,
    keyspaces: Vec<Keyspace>,
    model: Model,
    /// Log time there.
    log_ms: u64,
}

impl Reader {
    /// `feed` is what the last one on this node was given: what was compacted since is taken from
    /// there.
    pub(crate) fn new(store: &Store, feed: &[Committed], ledger: &mut Ledger) -> Checked<Self> {
        let from = store.log_size().whole_from;
        let tail = store.tail(from).map_err(|error| unreadable(&error))?;
        let mut reader = Self {
            tail,
            feed: Vec::new(),
            model: Model::new(),
            ids: BTreeSet::new(),
            held: None,
        };
        for commit in feed.iter().filter(|commit| commit.lsn <= from) {
            reader.ids.insert(ledger.compare(commit)?);
            reader.take(commit.clone());
        }
        Ok(reader)
    }

    /// What it was given, for the next one.
    pub(crate) fn into_feed(self) -> Vec<Committed> {
        self.feed
    }

    /// Follows the change feed to its end, and compares it with the ledger.
    pub(crate) fn advance(&mut self, ledger: &mut Ledger) -> Checked {
        while let Some(commit) = self.tail.poll().map_err(|error| unreadable(&error))? {
            let id = ledger.compare(&commit)?;
            check(self.ids.insert(id), "I9", || {
                format!("commit {id} is in one history twice")
            })?;
            let before = self.feed.last().map_or(0, |last| last.commit);
            check(commit.commit == before + 1, "I9", || {
                format!("commit {} is given after commit {before}", commit.commit)
            })?;
            self.take(commit);
        }
        Ok(())
    }

    fn take(&mut self, commit: Committed) {
        apply(&mut self.model, &commit);
        self.feed.push(commit);
    }

    /// Whether the history that is shown holds a commit.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Reads a profile as a whole, and compares it with what it must be. Answers whether it has
    /// expired.
    pub(crate) fn read(&self, store: &Store, observer: &Observer, user: u8) -> Checked<bool> {
        let Ok(keyspace) = store.find_keyspace(KEYSPACE) else {
            check(self.model.is_empty(), "I9", || {
                "commits are shown and their keyspace is not".to_owned()
            })?;
            return Ok(false);
        };
        let snapshot = store.snapshot();
        let log_ms = time_at(&snapshot, Some(observer))?;
        let keys = profile_keys(user);
        let values = snapshot
            .multi_get(&keyspace, &keys)
            .map_err(|error| unreadable(&error))?;
        let heads: BTreeSet<_> = values
            .iter()
            .map(|value| value.as_ref().and_then(|value| value.get(..8)))
            .collect();
        check(heads.len() == 1, "I7", || {
            format!("user {user} is seen in parts: {heads:?}")
        })?;
        let mut expired = false;
        for (key, value) in keys.iter().zip(values) {
            let held = self
                .model
                .get(&keyspace.id())
                .and_then(|keys| keys.get(key));
            let live = held.filter(|held| held.is_live(log_ms));
            expired |= held.is_some() && live.is_none();
            check(value.as_ref() == live.map(|held| &held.value), "I9", || {
                format!(
                    "{key:?} reads as {value:?} at {}, log time {log_ms}, and should be {held:?}",
                    snapshot.lsn()
                )
            })?;
        }
        Ok(expired)
    }

    /// Looks at an earlier state again, and lets go of it or takes another one.
    pub(crate) fn hold(&mut self, store: &Store, observer: &Observer) -> Checked {
        self.held = match self.held.take() {
            Some(held) => {
                held.compare()?;
                None
            }
            None => Some(self.state(store, Some(observer))?),
        };
        Ok(())
    }

    /// Looks at a state of the past that is still promised to readers. Answers whether there was
    /// one: `draw` chooses one of so many commits.
    pub(crate) fn recall(
        &self,
        store: &Store,
        observer: &Observer,
        draw: impl FnOnce(usize) -> usize,
    ) -> Checked<bool> {
        let visible = store.positions().visible.lsn;
        let promised = Lsn(visible.0.saturating_sub(HISTORY_LOG_BYTES));
        let from = self.feed.partition_point(|commit| commit.lsn < promised);
        let count = self.feed.len() - from;
        if count == 0 {
            return Ok(false);
        }
        let past = self.feed.get(..=from + draw(count)).unwrap_or_default();
        let Some(last) = past.last() else {
            return Ok(false);
        };
        let snapshot = match store.snapshot_at(last.lsn) {
            Ok(snapshot) => snapshot,
            // What was promised before the process began anew, or is not whole any more.
            Err(error) if error.kind() == ErrorKind::NotHeld => return Ok(false),
            Err(error) => return Err(unreadable(&error)),
        };
        let mut model = Model::new();
        past.iter().for_each(|commit| apply(&mut model, commit));
        let log_ms = time_at(&snapshot, Some(observer))?;
        let keyspaces = store.keyspaces();
        // One that was dropped since is shown by its handle only.
        model.retain(|id, _| keyspaces.iter().any(|keyspace| keyspace.id() == *id));
        let past = State {
            snapshot,
            keyspaces,
            model,
            log_ms,
        };
        past.compare()?;
        Ok(true)
    }

    /// Compares the whole state with what it must be: by the log time that `observer` has seen,
    /// where there is one.
    pub(crate) fn compare(&self, store: &Store, observer: Option<&Observer>) -> Checked {
        self.state(store, observer)?.compare()
    }

    fn state(&self, store: &Store, observer: Option<&Observer>) -> Checked<State> {
        let snapshot = store.snapshot();
        let log_ms = time_at(&snapshot, observer)?;
        Ok(State {
            snapshot,
            keyspaces: store.keyspaces(),
            model: self.model.clone(),
            log_ms,
        })
    }

    pub(crate) const fn model(&self) -> &Model {
        &self.model
    }

    /// All that it was given.
    pub(crate) fn feed(&self) -> &[Committed] {
        &self.feed
    }
}

impl State {
    fn compare(&self) -> Checked {
        let Self { snapshot, .. } = self;
        for id in self.model.keys() {
            let there = self.keyspaces.iter().any(|keyspace| keyspace.id() == *id);
            check(there, "I9", || {
                format!("keyspace {id} is not shown at {}", snapshot.lsn())
            })?;
        }
        for keyspace in &self.keyspaces {
            let keys = self.model.get(&keyspace.id()).into_iter().flatten();
            let mut expected = keys.filter(|(_, held)| held.is_live(self.log_ms));
            for entry in snapshot.iter(keyspace) {
                let (key, value) = entry.map_err(|error| unreadable(&error))?;
                let next = expected.next();
                let same = next.is_some_and(|(next, held)| (next, &held.value) == (&key, &value));
                check(same, "I9", || {
                    format!(
                        "{key:?} = {value:?} in {keyspace:?} is not what the log says at {}, log time {}: {next:?}",
                        snapshot.lsn(),
                        self.log_ms
                    )
                })?;
            }
            check(expected.next().is_none(), "I9", || {
                format!("a key of {keyspace:?} is missing at {}", snapshot.lsn())
            })?;
        }
        Ok(())
    }
}

/// What a commit makes of a state.
fn apply(model: &mut Model, commit: &Committed) {
    for change in &commit.changes {
        let id = change.keyspace.id();
        let (key, value) = (change.key.clone(), change.value.clone());
        let keys = model.entry(id).or_default();
        match change.op {
            Op::Put => {
                let expires_ms = change.expires_ms;
                keys.insert(key, Held { value, expires_ms });
            }
            Op::Delete => {
                keys.remove(&key);
            }
            Op::DeleteRange => {
                keys.retain(|other, _| *other < key || (!value.is_empty() && *other >= value));
            }
            Op::DropKeyspace => {
                model.remove(&id);
            }
            other => panic!("an operation that readers do not know: {other:?}"),
        }
    }
}

/// Log time at a snapshot, which is that of the log and of no clock.
fn time_at(snapshot: &Snapshot, observer: Option<&Observer>) -> Checked<u64> {
    let (lsn, log_ms) = (snapshot.lsn(), snapshot.log_ms());
    let expected_ms = observer.map_or(log_ms, |observer| observer.log_ms_at(lsn));
    check(log_ms == expected_ms || lsn == Lsn::ZERO, "I8", || {
        format!("log time at {lsn} is {log_ms} to readers, and {expected_ms} in the log")
    })?;
    Ok(expected_ms)
}

fn unreadable(error: &outlast_engine::Error) -> Violation {
    Violation::new("I12", format!("a state cannot be read: {error}"))
}
