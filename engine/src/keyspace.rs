//! Keyspaces: names in the log, ids in its records.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::{KEYSPACE_NAME_LEN_MAX, KEYSPACES_MAX};
use crate::format::{KeyspaceRecord, Lsn};

/// A keyspace of one open store: an ordered map of its own. Cheap to clone.
///
/// A handle belongs to the [`Store`](crate::Store) that gave it and is refused by any other,
/// another opening of the same directory included.
#[derive(Clone)]
pub struct Keyspace {
    inner: Arc<Inner>,
}

struct Inner {
    id: u32,
    name: String,
    store: StoreTag,
    /// Where the record lies that drops it; the highest position while there is none.
    dropped_at: AtomicU64,
}

const NOT_DROPPED: u64 = u64::MAX;

/// A keyspace as the log makes it, up to some position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) record: KeyspaceRecord,
    /// Where the record lies that drops it.
    pub(crate) dropped: Option<Lsn>,
}

impl Keyspace {
    /// The id that records carry; never reused.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// The name that it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether it was dropped: it takes no writes any more, and only snapshots from before show
    /// what it held.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.inner.dropped_at.load(Ordering::Acquire) != NOT_DROPPED
    }

    pub(crate) fn store(&self) -> StoreTag {
        self.inner.store
    }

    /// From here on the handle says that it was dropped.
    pub(crate) fn mark_dropped(&self, at: Lsn) {
        self.inner.dropped_at.store(at.0, Ordering::Release);
    }

    /// # Errors
    /// `NoKeyspace` when it was dropped before `at`.
    fn check_at(&self, at: Lsn) -> Result<()> {
        if at.0 <= self.inner.dropped_at.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(dropped(self.name()))
    }
}

/// The error for a handle whose keyspace was dropped.
pub(crate) fn dropped(name: &str) -> Error {
    let message = format!(
        "keyspace {name:?} was dropped: ask the store for the keyspace again, which makes a new one"
    );
    Error::new(ErrorKind::NoKeyspace, message)
}

impl PartialEq for Keyspace {
    fn eq(&self, other: &Self) -> bool {
        (self.id(), self.store()) == (other.id(), other.store())
    }
}

impl Eq for Keyspace {}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({} {:?})", self.id(), self.name())
    }
}

/// Which opening of a store a handle belongs to: ids of two stores say nothing to one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StoreTag(u64);

impl StoreTag {
    /// One that no store of this process has.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// # Errors
    /// `NoKeyspace` when `keyspace` belongs to another store.
    pub(crate) fn check(self, keyspace: &Keyspace) -> Result<()> {
        if keyspace.store() == self {
            return Ok(());
        }
        Err(foreign(keyspace.name()))
    }

    /// The same for who reads at `at`.
    ///
    /// # Errors
    /// `NoKeyspace` when `keyspace` belongs to another store, or was dropped before that position.
    pub(crate) fn check_at(self, keyspace: &Keyspace, at: Lsn) -> Result<()> {
        self.check(keyspace)?;
        keyspace.check_at(at)
    }
}

/// The error for a handle that another store gave.
pub(crate) fn foreign(name: &str) -> Error {
    let message = format!(
        "the handle of keyspace {name:?} was given by another store: ask this one for the keyspace"
    );
    Error::new(ErrorKind::NoKeyspace, message)
}

/// The keyspaces that the log has made so far.
#[derive(Debug)]
pub(crate) struct Catalogue {
    tag: StoreTag,
    names: RwLock<Names>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    by_id: BTreeMap<u32, Keyspace>,
    /// Those that are not dropped.
    by_name: HashMap<String, u32>,
    dropped: BTreeMap<u32, Lsn>,
}

impl Catalogue {
    pub(crate) fn new(tag: StoreTag) -> Self {
        let names = RwLock::default();
        Self { tag, names }
    }

    /// Becomes `fresh`, of the same store. Handles that were given stay, and say what `fresh` does.
    pub(crate) fn replace(&self, fresh: Self) {
        assert_eq!(self.tag, fresh.tag, "the keyspaces of another store");
        let mut fresh = fresh.names.into_inner();
        let mut names = self.names.write();
        for (id, keyspace) in &mut fresh.by_id {
            let given = names
                .by_id
                .get(id)
                .filter(|given| given.name() == keyspace.name());
            if let Some(given) = given {
                let at = fresh.dropped.get(id).copied();
                given.mark_dropped(at.unwrap_or(Lsn(NOT_DROPPED)));
                *keyspace = given.clone();
            }
        }
        *names = fresh;
    }

    /// A copy, for trying what the log is about to make.
    pub(crate) fn copy(&self) -> Self {
        let names = self.names.read();
        Self {
            tag: self.tag,
            names: RwLock::new(names.clone()),
        }
    }

    pub(crate) const fn tag(&self) -> StoreTag {
        self.tag
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Keyspace> {
        let names = self.names.read();
        let id = names.by_name.get(name)?;
        names.by_id.get(id).cloned()
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<Keyspace> {
        self.names.read().by_id.get(&id).cloned()
    }

    /// All that are not dropped, by id.
    pub(crate) fn all(&self) -> Vec<Keyspace> {
        let names = self.names.read();
        let all = names.by_id.iter();
        let live = all.filter(|(id, _)| !names.dropped.contains_key(id));
        live.map(|(_, keyspace)| keyspace.clone()).collect()
    }

    /// What the log says of them, by id.
    pub(crate) fn made(&self) -> Vec<Made> {
        let names = self.names.read();
        let made = |(id, keyspace): (&u32, &Keyspace)| Made {
            record: KeyspaceRecord {
                id: *id,
                name: keyspace.name().to_owned(),
            },
            dropped: names.dropped.get(id).copied(),
        };
        names.by_id.iter().map(made).collect()
    }

    /// Takes up what the log said of one of them.
    ///
    /// # Errors
    /// As [`Catalogue::learn`] and [`Catalogue::forget`].
    pub(crate) fn take_up(&self, made: &Made) -> Result<()> {
        self.learn(made.record.clone())?;
        if let Some(lsn) = made.dropped {
            self.forget(made.record.id, lsn)?.mark_dropped(lsn);
        }
        Ok(())
    }

    /// Takes up that the record at `lsn` drops a keyspace. Its name is free then; its id never is.
    /// Its handles are the caller's to mark.
    ///
    /// # Errors
    /// `Corrupt` when no writer would have dropped it: there is none.
    pub(crate) fn forget(&self, id: u32, lsn: Lsn) -> Result<Keyspace> {
        let mut names = self.names.write();
        let keyspace = names.by_id.get(&id).cloned();
        let Some(keyspace) = keyspace.filter(|_| !names.dropped.contains_key(&id)) else {
            let message = format!("the log drops keyspace {id} at {lsn}, and there is none");
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        names.dropped.insert(id, lsn);
        names.by_name.remove(keyspace.name());
        Ok(keyspace)
    }

    /// The record that makes a keyspace of this name; nothing is made before it is in the log.
    ///
    /// # Errors
    /// `Limit` when the name is none that may be given, or when there are too many keyspaces.
    pub(crate) fn propose(&self, name: &str) -> Result<KeyspaceRecord> {
        check_name(name)?;
        let names = self.names.read();
        let id = names.by_id.last_key_value().map_or(1, |(id, _)| id + 1);
        if id > KEYSPACES_MAX {
            let message = format!(
                "no room for keyspace {name:?}: a store has at most {KEYSPACES_MAX} in its life, \
                 those that were dropped included; use prefixes of keys instead"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let name = name.to_owned();
        Ok(KeyspaceRecord { id, name })
    }

    /// Takes up a keyspace that the log makes.
    ///
    /// # Errors
    /// `Corrupt` when no writer would have made it: a name or an id that is taken or out of limits.
    pub(crate) fn learn(&self, record: KeyspaceRecord) -> Result<()> {
        let KeyspaceRecord { id, name } = record;
        let mut names = self.names.write();
        let fits = (1..=KEYSPACES_MAX).contains(&id) && check_name(&name).is_ok();
        if !fits || names.by_id.contains_key(&id) || names.by_name.contains_key(&name) {
            let message = format!("the log makes keyspace {id} {name:?}, which no writer would");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let inner = Inner {
            id,
            name: name.clone(),
            store: self.tag,
            dropped_at: AtomicU64::new(NOT_DROPPED),
        };
        names.by_name.insert(name, id);
        let inner = Arc::new(inner);
        names.by_id.insert(id, Keyspace { inner });
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !name.is_empty() && name.len() <= KEYSPACE_NAME_LEN_MAX && name.chars().all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    let message = format!(
        "keyspace name {shown:?} of {} bytes: use 1 to {KEYSPACE_NAME_LEN_MAX} bytes without spaces \
         and control characters",
        name.len()
    );
    Err(Error::new(ErrorKind::Limit, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u32, name: &str) -> KeyspaceRecord {
        let name = name.to_owned();
        KeyspaceRecord { id, name }
    }

    #[test]
    fn names_are_limited_and_may_be_of_any_language() {
        let catalogue = Catalogue::new(StoreTag::new());
        let longest = "n".repeat(KEYSPACE_NAME_LEN_MAX);
        for name in ["users", "프로필", "a/b.c:d", &longest] {
            assert_eq!(catalogue.propose(name).unwrap(), record(1, name));
        }
        let too_long = "n".repeat(KEYSPACE_NAME_LEN_MAX + 1);
        for name in ["", "two words", "tab\t", "\u{7f}", &too_long] {
            let error = catalogue.propose(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit, "{name:?}");
            let error = catalogue.learn(record(1, name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name:?}");
        }
    }

    #[test]
    fn a_dropped_name_is_free_and_its_id_is_not() {
        let catalogue = Catalogue::new(StoreTag::new());
        catalogue.learn(record(1, "users")).unwrap();
        let handle = catalogue.by_id(1).unwrap();
        let trial = catalogue.copy();
        trial.forget(1, Lsn(96)).unwrap();
        assert!(!handle.is_dropped() && catalogue.by_name("users").is_some());
        catalogue.forget(1, Lsn(96)).unwrap().mark_dropped(Lsn(96));
        assert!(catalogue.by_name("users").is_none() && catalogue.all().is_empty());
        assert_eq!(catalogue.by_id(1), Some(handle.clone()));
        for (at, open) in [(96, true), (97, false)] {
            assert_eq!(
                catalogue.tag().check_at(&handle, Lsn(at)).is_ok(),
                open,
                "at {at}"
            );
        }
        let error = catalogue.forget(1, Lsn(200)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(catalogue.propose("users").unwrap(), record(2, "users"));
        catalogue.learn(record(2, "users")).unwrap();
        assert!(!catalogue.by_name("users").unwrap().is_dropped());

        let again = Catalogue::new(catalogue.tag());
        catalogue
            .made()
            .iter()
            .for_each(|made| again.take_up(made).unwrap());
        assert_eq!(again.made(), catalogue.made());
        assert!(again.by_id(1).unwrap().is_dropped());

        // A log that was cut before the drop takes it back, for handles that were given too.
        let cut = Catalogue::new(catalogue.tag());
        cut.learn(record(1, "users")).unwrap();
        catalogue.replace(cut);
        assert!(!handle.is_dropped() && catalogue.by_name("users") == Some(handle));
    }

    #[test]
    fn what_the_log_makes_is_found_by_name_and_id_and_made_once() {
        let catalogue = Catalogue::new(StoreTag::new());
        catalogue.learn(record(1, "users")).unwrap();
        catalogue.learn(record(7, "rooms")).unwrap();
        assert_eq!(catalogue.propose("more").unwrap().id, 8);
        assert_eq!(catalogue.by_name("rooms").unwrap().id(), 7);
        assert_eq!(catalogue.by_id(1).unwrap().name(), "users");
        assert!(catalogue.by_name("none").is_none() && catalogue.by_id(2).is_none());
        for taken in [record(1, "other"), record(9, "users"), record(0, "zero")] {
            assert_eq!(
                catalogue.learn(taken).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        assert_eq!(catalogue.all().len(), 2);
        catalogue.learn(record(KEYSPACES_MAX, "last")).unwrap();
        assert_eq!(
            catalogue.propose("more").unwrap_err().kind(),
            ErrorKind::Limit
        );
    }
}
