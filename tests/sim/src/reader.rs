//! A reader of one node: follows its change feed, and knows from that what every read must give.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use outlast_engine::{Committed, Keyspace, Snapshot, Store, Tail};

use crate::ledger::Ledger;
use crate::violation::{Checked, Violation, check};

/// The keyspace that all clients use.
pub(crate) const KEYSPACE: &str = "profiles";

/// The three keys of a user's profile that every batch writes as one.
pub(crate) fn profile_keys(user: u8) -> [Bytes; 3] {
    ["p", "v", "n"].map(|part| Bytes::from(format!("{part}{user:02}")))
}

pub(crate) type Model = BTreeMap<Bytes, Bytes>;

pub(crate) struct Reader {
    tail: Tail,
    /// All commits that were given, in order.
    feed: Vec<Committed>,
    model: Model,
    ids: BTreeSet<u64>,
    /// An earlier state that somebody still looks at.
    held: Option<(Snapshot, Model)>,
}

impl Reader {
    /// `feed` is what the last one on this node was given: what was compacted since is taken from
    /// there.
    pub(crate) fn new(store: &Store, feed: &[Committed]) -> Checked<Self> {
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
            reader.ids.extend(Ledger::id_of(commit));
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
        for change in &commit.changes {
            let (key, value) = (change.key.clone(), change.value.clone());
            match change.op {
                outlast_engine::Op::Put => self.model.insert(key, value),
                _ => self.model.remove(&key),
            };
        }
        self.feed.push(commit);
    }

    /// Whether the history that is shown holds a commit.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Reads a profile as a whole, and compares it with what it must be.
    pub(crate) fn read(&self, store: &Store, user: u8) -> Checked {
        let Ok(keyspace) = store.find_keyspace(KEYSPACE) else {
            return check(self.model.is_empty(), "I9", || {
                "commits are shown and their keyspace is not".to_owned()
            });
        };
        let snapshot = store.snapshot();
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
        for (key, value) in keys.iter().zip(values) {
            check(value.as_ref() == self.model.get(key), "I9", || {
                format!("{key:?} reads as {value:?} at {}", snapshot.lsn())
            })?;
        }
        Ok(())
    }

    /// Looks at an earlier state again, and lets go of it or takes another one.
    pub(crate) fn hold(&mut self, store: &Store) -> Checked {
        let Ok(keyspace) = store.find_keyspace(KEYSPACE) else {
            return Ok(());
        };
        self.held = match self.held.take() {
            Some((snapshot, model)) => {
                compare(&snapshot, &keyspace, &model)?;
                None
            }
            None => Some((store.snapshot(), self.model.clone())),
        };
        Ok(())
    }

    /// Compares the whole state with what it must be.
    pub(crate) fn compare(&self, store: &Store) -> Checked {
        match store.find_keyspace(KEYSPACE) {
            Ok(keyspace) => compare(&store.snapshot(), &keyspace, &self.model),
            Err(_) => Ok(()),
        }
    }

    pub(crate) const fn model(&self) -> &Model {
        &self.model
    }
}

fn compare(snapshot: &Snapshot, keyspace: &Keyspace, model: &Model) -> Checked {
    let mut expected = model.iter();
    for entry in snapshot.iter(keyspace) {
        let (key, value) = entry.map_err(|error| unreadable(&error))?;
        check(expected.next() == Some((&key, &value)), "I9", || {
            format!(
                "{key:?} has another value than the log says at {}",
                snapshot.lsn()
            )
        })?;
    }
    check(expected.next().is_none(), "I9", || {
        format!("a key is missing at {}", snapshot.lsn())
    })
}

fn unreadable(error: &outlast_engine::Error) -> Violation {
    Violation::new("I12", format!("a state cannot be read: {error}"))
}
