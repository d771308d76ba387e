//! What a store should hold: every state that ever was, as plain maps.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use bytes::Bytes;
use outlast_engine::{Lsn, Op as Done};

use crate::steps::{KEYS, Kind};

/// By keyspace, then by key.
pub(crate) type State = BTreeMap<u32, BTreeMap<Vec<u8>, Value>>;

/// A key with its value, as a store gives them.
pub(crate) type Pair = (Bytes, Bytes);

/// What a key was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Value {
    pub(crate) bytes: Vec<u8>,
    pub(crate) expires_ms: Option<u64>,
    /// Of the write: another one for every write.
    pub(crate) number: u64,
}

/// A position at which there was a state.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) lsn: Lsn,
    pub(crate) log_ms: u64,
    pub(crate) state: Rc<State>,
}

/// One change, as the feed tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) keyspace: u32,
    pub(crate) op: Done,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) expires_ms: Option<u64>,
}

/// One commit.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) lsn: Lsn,
    pub(crate) log_ms: u64,
    pub(crate) changes: Vec<Told>,
}

impl Point {
    /// What a keyspace shows here.
    pub(crate) fn shown(&self, keyspace: u32) -> Vec<Pair> {
        shown(&self.state, keyspace, self.log_ms)
    }
}

/// What a keyspace shows by a log time.
pub(crate) fn shown(state: &State, keyspace: u32, log_ms: u64) -> Vec<Pair> {
    let keys = state.get(&keyspace).into_iter().flatten();
    keys.filter(|(_, value)| value.is_at(log_ms))
        .map(|(key, value)| {
            let (key, value) = (key.clone(), value.bytes.clone());
            (Bytes::from(key), Bytes::from(value))
        })
        .collect()
}

impl Value {
    pub(crate) fn is_at(&self, log_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| expires_ms > log_ms)
    }
}

/// The bounds as keys.
pub(crate) fn keys_of(bound: &Bound<usize>) -> Bound<&'static [u8]> {
    bound.map(|key| KEYS[key])
}

pub(crate) fn is_within(key: &[u8], lower: &Bound<usize>, upper: &Bound<usize>) -> bool {
    let above = match keys_of(lower) {
        Bound::Unbounded => true,
        Bound::Included(lower) => key >= lower,
        Bound::Excluded(lower) => key > lower,
    };
    above
        && match keys_of(upper) {
            Bound::Unbounded => true,
            Bound::Included(upper) => key <= upper,
            Bound::Excluded(upper) => key < upper,
        }
}

/// Whether an operation may change what lies between the bounds.
pub(crate) fn may_touch(kind: &Kind, lower: &Bound<usize>, upper: &Bound<usize>) -> bool {
    match kind {
        Kind::Put(key) | Kind::PutWithTtl(key, _) | Kind::Delete(key) => {
            is_within(KEYS[*key], lower, upper)
        }
        Kind::DeleteRange(..) | Kind::DeletePrefix(_) => true,
    }
}

/// Does one operation, committed at `log_ms`; answers with what the feed tells of it, if anything.
pub(crate) fn apply(
    state: &mut State,
    keyspace: u32,
    kind: &Kind,
    value: &Value,
    log_ms: u64,
) -> Option<Told> {
    let keys = state.entry(keyspace).or_default();
    let told = |op, key: &[u8], value: &[u8], expires_ms| Told {
        keyspace,
        op,
        key: key.to_vec(),
        value: value.to_vec(),
        expires_ms,
    };
    match kind {
        Kind::Put(key) => {
            keys.insert(KEYS[*key].to_vec(), value.clone());
            Some(told(Done::Put, KEYS[*key], &value.bytes, None))
        }
        Kind::PutWithTtl(key, ttl_ms) => {
            let expires_ms = Some(log_ms.saturating_add(*ttl_ms));
            let value = Value {
                expires_ms,
                ..value.clone()
            };
            keys.insert(KEYS[*key].to_vec(), value.clone());
            Some(told(Done::Put, KEYS[*key], &value.bytes, expires_ms))
        }
        Kind::Delete(key) => {
            keys.remove(KEYS[*key]);
            Some(told(Done::Delete, KEYS[*key], b"", None))
        }
        Kind::DeleteRange(lower, upper) => {
            keys.retain(|key, _| !is_within(key, lower, upper));
            let behind = |key: &[u8]| [key, &[0]].concat();
            let first = match keys_of(lower) {
                Bound::Unbounded => Vec::new(),
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => behind(key),
            };
            let end = match keys_of(upper) {
                Bound::Unbounded => None,
                Bound::Included(key) => Some(behind(key)),
                Bound::Excluded(key) => Some(key.to_vec()),
            };
            let empty = end.as_ref().is_some_and(|end| *end <= first);
            let end = end.unwrap_or_default();
            (!empty).then(|| told(Done::DeleteRange, &first, &end, None))
        }
        Kind::DeletePrefix(key) => {
            let prefix = KEYS[*key];
            keys.retain(|key, _| !key.starts_with(prefix));
            let mut end = prefix.to_vec();
            while end.last() == Some(&u8::MAX) {
                end.pop();
            }
            if let Some(last) = end.last_mut() {
                *last += 1;
            }
            Some(told(Done::DeleteRange, prefix, &end, None))
        }
    }
}
