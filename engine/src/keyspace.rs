//! Keyspaces: names in the log, ids in its records.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyspaceRecord;
use crate::format::limits::{KEYSPACE_NAME_LEN_MAX, KEYSPACES_MAX};

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

    pub(crate) fn store(&self) -> StoreTag {
        self.inner.store
    }
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

#[derive(Debug, Default)]
struct Names {
    by_id: BTreeMap<u32, Keyspace>,
    by_name: HashMap<String, u32>,
}

impl Catalogue {
    pub(crate) fn new(tag: StoreTag) -> Self {
        let names = RwLock::default();
        Self { tag, names }
    }

    /// Becomes `fresh`, of the same store.
    pub(crate) fn replace(&self, fresh: Self) {
        assert_eq!(self.tag, fresh.tag, "the keyspaces of another store");
        *self.names.write() = fresh.names.into_inner();
    }

    /// A copy, for trying what the log is about to make.
    pub(crate) fn copy(&self) -> Self {
        let names = self.names.read();
        let (by_id, by_name) = (names.by_id.clone(), names.by_name.clone());
        Self {
            tag: self.tag,
            names: RwLock::new(Names { by_id, by_name }),
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

    /// All of them, by id.
    pub(crate) fn all(&self) -> Vec<Keyspace> {
        self.names.read().by_id.values().cloned().collect()
    }

    /// The records that made them, by id.
    pub(crate) fn records(&self) -> Vec<KeyspaceRecord> {
        let record = |keyspace: Keyspace| KeyspaceRecord {
            id: keyspace.id(),
            name: keyspace.name().to_owned(),
        };
        self.all().into_iter().map(record).collect()
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
                "no room for keyspace {name:?}: a store holds at most {KEYSPACES_MAX}; use \
                 prefixes of keys instead"
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
