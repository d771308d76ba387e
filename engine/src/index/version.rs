//! The order of versions: by keyspace, then by key, then the newest first.

use std::borrow::Borrow;
use std::cmp::Ordering;

use crate::format::Lsn;

const HEAD_LEN: usize = 8;

/// How far a walk over all versions has come: behind this one.
#[derive(Clone, Debug, Default)]
pub(super) struct Resume {
    behind: Option<(u32, Vec<u8>, Lsn)>,
}

impl Resume {
    pub(super) fn probe(&self) -> Option<Probe<'_>> {
        let (keyspace, key, lsn) = self.behind.as_ref()?;
        Some(Probe::new(*keyspace, key, *lsn))
    }

    pub(super) fn set(&mut self, version: &VersionKey) {
        let (keyspace, key, lsn) = self
            .behind
            .get_or_insert_with(|| (0, Vec::new(), Lsn::ZERO));
        *keyspace = version.keyspace();
        key.clear();
        key.extend_from_slice(version.key());
        *lsn = version.lsn();
    }
}

/// What a version is found by. The key owns its bytes, so it lives apart from the log.
#[derive(Debug)]
pub(super) struct VersionKey {
    keyspace: u32,
    /// The key's first bytes, filled up with zeros: decides most comparisons without a look at the
    /// key, which lies elsewhere in memory.
    head: [u8; HEAD_LEN],
    lsn: Lsn,
    key: Box<[u8]>,
}

/// The same, borrowed, to search for. Nothing is copied for a search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    keyspace: u32,
    head: [u8; HEAD_LEN],
    lsn: Lsn,
    key: &'a [u8],
}

/// What owned and borrowed keys have in common: their place in the order.
pub(super) trait Place {
    fn probe(&self) -> Probe<'_>;
}

impl VersionKey {
    pub(super) fn new(keyspace: u32, key: &[u8], lsn: Lsn) -> Self {
        Self {
            keyspace,
            head: head(key),
            lsn,
            key: key.into(),
        }
    }

    pub(super) const fn keyspace(&self) -> u32 {
        self.keyspace
    }

    pub(super) const fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether it is a version of this key.
    pub(super) fn is_of(&self, keyspace: u32, key: &[u8]) -> bool {
        self.keyspace == keyspace && *self.key == *key
    }
}

impl<'a> Probe<'a> {
    /// The place of the version at `lsn`. [`Lsn::ZERO`] is behind all versions of the key, since no
    /// record lies there, and the highest position is before all of them.
    pub(super) fn new(keyspace: u32, key: &'a [u8], lsn: Lsn) -> Self {
        Self {
            keyspace,
            head: head(key),
            lsn,
            key,
        }
    }
}

impl Place for VersionKey {
    fn probe(&self) -> Probe<'_> {
        Probe {
            keyspace: self.keyspace,
            head: self.head,
            lsn: self.lsn,
            key: &self.key,
        }
    }
}

impl Place for Probe<'_> {
    fn probe(&self) -> Probe<'_> {
        *self
    }
}

impl<'a> Borrow<dyn Place + 'a> for VersionKey {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl Ord for Probe<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let newest_first = || other.lsn.cmp(&self.lsn);
        (self.keyspace, self.head)
            .cmp(&(other.keyspace, other.head))
            .then_with(|| self.key.cmp(other.key))
            .then_with(newest_first)
    }
}

/// The order of [`Probe`] for everything that has a place in it.
macro_rules! ordered_by_probe {
    ($($type:ty),*) => {$(
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl Eq for $type {}

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
    )*};
}

ordered_by_probe!(VersionKey, Probe<'_>, dyn Place + '_);

impl Ord for VersionKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probe().cmp(&other.probe())
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probe().cmp(&other.probe())
    }
}

fn head(key: &[u8]) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    head.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_never_decide_against_the_keys() {
        let keys: [&[u8]; 9] = [
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"abcdefgh",
            b"abcdefgh\0",
            b"abcdefghi",
            b"\xff",
        ];
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                let order = Probe::new(1, a, Lsn(5)).cmp(&Probe::new(1, b, Lsn(5)));
                assert_eq!(order, i.cmp(&j), "{a:?} against {b:?}");
            }
        }
    }

    #[test]
    fn keyspaces_come_first_and_the_newest_version_comes_first() {
        let probe = |keyspace, key, lsn| Probe::new(keyspace, key, Lsn(lsn));
        assert!(probe(1, b"z", 1) < probe(2, b"a", 9));
        assert!(probe(1, b"a", 9) < probe(1, b"a", 1));
        assert!(probe(1, b"a", 1) < probe(1, b"b", 9));
    }
}
