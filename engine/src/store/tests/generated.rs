//! A large set of odd keys on a pair of nodes that compact their logs each in its own order, and
//! lose their indexes in turn: both show what was committed.
//!
//! `OUTLAST_KEYS` says how many keys are drawn.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::*;
use crate::clock::Clock;
use crate::compaction::victims::Aim;
use crate::fs::OsFs;
use crate::log::check_on;

const KEYS: usize = 40_000;
const SEGMENT_SIZE: u64 = 512 << 10;
/// What a batch may hold, of bytes that are drawn.
const BATCH_BYTES_MAX: usize = 60_000;
const SHORT_MS: u64 = 5_000;
const LONG_MS: u64 = 1 << 40;

/// Moves when it is told to.
#[derive(Debug, Default)]
struct Hands(AtomicU64);

impl Hands {
    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for Hands {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.ms()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms())
    }
}

/// What a value is made from.
#[derive(Clone, Copy)]
struct Value {
    seed: u64,
    len: usize,
    /// By the hands.
    expires_ms: u64,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        fastrand::Rng::with_seed(self.seed).fill(&mut bytes);
        bytes
    }
}

type Expected = BTreeMap<Vec<u8>, Value>;

/// Two nodes on the disk, and what they should hold in one keyspace. There is another one that is
/// written like it, and dropped now and then.
struct Site {
    root: tempfile::TempDir,
    hands: Arc<Hands>,
    random: fastrand::Rng,
    expected: Expected,
    primary: Option<Store>,
    standby: Option<Store>,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            root: tempfile::tempdir().unwrap(),
            hands: Arc::default(),
            random: fastrand::Rng::with_seed(5),
            expected: Expected::new(),
            primary: None,
            standby: None,
        };
        let cluster = ClusterId::random();
        for name in ["a", "b"] {
            let options = InitOptions {
                segment_size: SEGMENT_SIZE,
                ..options(cluster, name)
            };
            Store::init(&site.dir(name), &options).unwrap();
        }
        site.opened()
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn opened(mut self) -> Self {
        let open = |dir: &Path| {
            let config = Config {
                background: false,
                flush_after_entries: 20_000,
                history_log_bytes: 0,
                retain_log_bytes: Some(0),
                ..Config::default()
            };
            Store::open_on(Arc::new(OsFs::new(dir)), self.hands.clone(), config).unwrap()
        };
        let (primary, standby) = (open(&self.dir("a")), open(&self.dir("b")));
        primary.begin_epoch(EpochReason::Restart, "").unwrap();
        standby.begin_following().unwrap();
        self.primary = Some(primary);
        self.standby = Some(standby);
        self
    }

    fn stores(&self) -> [&Store; 2] {
        [&self.primary, &self.standby].map(|store| store.as_ref().unwrap())
    }

    /// Closes both, throws the index of one away, and opens both again.
    fn without_index_of(mut self, name: &str) -> Self {
        self.primary.take().unwrap().close().unwrap();
        self.standby.take().unwrap().close().unwrap();
        for name in ["a", "b"] {
            let fs = OsFs::new(self.dir(name));
            assert_eq!(check_on(&fs).unwrap().faults, [], "{name}");
        }
        crate::index::forget(&OsFs::new(self.dir(name))).unwrap();
        let site = self.opened();
        site.ship();
        site
    }

    /// Commits until so many keys were put.
    fn write(&mut self, keys: usize) {
        let (mut put, mut batches) = (0, 0_u64);
        while put < keys {
            let primary = self.primary.as_ref().unwrap();
            let kept = primary.keyspace("kept").unwrap();
            let dropped = primary.keyspace("dropped").unwrap();
            let mut batch = Batch::new();
            let ops = match self.random.u8(..50) {
                0 => 3_000,
                1..20 => self.random.usize(20..200),
                _ => self.random.usize(1..20),
            };
            let mut bytes = 0;
            for _ in 0..ops {
                if bytes >= BATCH_BYTES_MAX {
                    break;
                }
                let key = odd_key(&mut self.random);
                let value = self.value();
                bytes += key.len() + value.len + 16;
                let data = value.bytes();
                match self.random.u8(..40) {
                    0 => batch.put(&dropped, key, data).unwrap(),
                    1..4 => {
                        let key = self.present().unwrap_or(key);
                        batch.delete(&kept, key.as_slice()).unwrap();
                        self.expected.remove(&key);
                    }
                    4..7 => {
                        let ms = if self.random.bool() {
                            SHORT_MS
                        } else {
                            LONG_MS
                        };
                        let expires_ms = self.hands.ms() + ms;
                        let ttl = Duration::from_millis(ms);
                        batch
                            .put_with_ttl(&kept, key.as_slice(), data, ttl)
                            .unwrap();
                        self.expected.insert(
                            key,
                            Value {
                                expires_ms,
                                ..value
                            },
                        );
                        put += 1;
                    }
                    7..10 => {
                        let key = self.present().unwrap_or(key);
                        batch.put(&kept, key.as_slice(), data).unwrap();
                        self.expected.insert(key, value);
                    }
                    _ => {
                        batch.put(&kept, key.as_slice(), data).unwrap();
                        self.expected.insert(key, value);
                        put += 1;
                    }
                }
            }
            if self.random.u8(..20) == 0 {
                self.delete_some(&kept, &mut batch);
            }
            let primary = self.primary.as_ref().unwrap();
            primary.commit(batch, CommitOptions::default()).unwrap();
            if self.random.u16(..400) == 0 {
                primary
                    .drop_keyspace(&dropped, CommitOptions::default())
                    .unwrap();
            }
            self.hands.advance(3);
            batches += 1;
            if batches.is_multiple_of(256) {
                self.ship();
            }
        }
        self.ship();
    }

    /// Deletes a range of about twenty keys, or one that holds none.
    fn delete_some(&mut self, kept: &Keyspace, batch: &mut Batch) {
        let Some(from) = self.present() else { return };
        let behind = self.expected.range(from.clone()..).nth(20);
        let to = behind.map_or_else(|| [&*from, &[0xff]].concat(), |(key, _)| key.clone());
        batch.delete_range(kept, from.clone()..to.clone()).unwrap();
        let within = (Bound::Included(from), Bound::Excluded(to));
        let gone: Vec<_> = self.expected.range(within).map(|it| it.0.clone()).collect();
        for key in gone {
            self.expected.remove(&key);
        }
    }

    /// A key that is there, or was and has expired.
    fn present(&mut self) -> Option<Vec<u8>> {
        let near = odd_key(&mut self.random);
        let found = self.expected.range(near..).next();
        found
            .or_else(|| self.expected.first_key_value())
            .map(|(key, _)| key.clone())
    }

    fn value(&mut self) -> Value {
        let len = match self.random.u16(..1000) {
            0..100 => 0,
            100..103 => self.random.usize(4_000..50_000),
            _ => self.random.usize(1..150),
        };
        Value {
            seed: self.random.u64(..),
            len,
            expires_ms: u64::MAX,
        }
    }

    /// Sends the standby all, and lets both do what is due.
    fn ship(&self) {
        let [primary, standby] = self.stores();
        ship_all(primary, standby);
        for store in [primary, standby] {
            while store.background_step() == Some(Duration::ZERO) {}
        }
    }

    /// Lets what has a short life expire.
    fn pass(&mut self) {
        // Log time follows, no faster than a second at once.
        self.hands.advance(SHORT_MS + 1);
        let primary = self.primary.as_ref().unwrap();
        for _ in 0..2 {
            primary
                .commit(Batch::new(), CommitOptions::default())
                .unwrap();
        }
        let now_ms = self.hands.ms();
        self.expected.retain(|_, value| value.expires_ms > now_ms);
        self.ship();
    }

    /// That both nodes show what is expected; how many keys that are.
    fn compare(&self) -> usize {
        let mut hash = Sha256::new();
        for (key, value) in &self.expected {
            hash_entry(&mut hash, key, &value.bytes());
        }
        let expected = (self.expected.len(), hash.finalize());
        for (store, name) in self.stores().into_iter().zip(["a", "b"]) {
            let kept = store.keyspace("kept").unwrap();
            let (mut hash, mut keys) = (Sha256::new(), 0);
            for entry in store.snapshot().iter(&kept) {
                let (key, value) = entry.unwrap();
                hash_entry(&mut hash, &key, &value);
                keys += 1;
            }
            assert!((keys, hash.finalize()) == expected, "{name}: {keys}");
        }
        expected.0
    }
}

/// Numbers as text, bytes of any value, long keys that differ at their end, and keys that begin
/// with another one; few enough that some come twice.
fn odd_key(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut any = |len: usize| -> Vec<u8> { (0..len).map(|_| random.u8(..)).collect() };
    match any(1)[0] {
        0..140 => {
            let number = u64::from_le_bytes(any(8).try_into().unwrap()) % 1_000_000_007;
            format!("user/{number:012}").into_bytes()
        }
        140..200 => {
            let len = usize::from(any(1)[0] % 40);
            any(len)
        }
        200..204 => [&vec![b'x'; 1_990][..], &any(5)].concat(),
        204..230 => {
            let zeros = usize::from(any(1)[0] % 9);
            [&any(3)[..], &vec![0; zeros]].concat()
        }
        _ => [b"a/very/long/folder/of/a/service/", &any(6)[..], b"/0"].concat(),
    }
}

fn hash_entry(hash: &mut Sha256, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
}

#[test]
fn odd_keys_are_the_same_on_both_nodes_whatever_each_compacts_and_whichever_index_is_lost() {
    let wanted = std::env::var("OUTLAST_KEYS").ok();
    let wanted = wanted.map_or(KEYS, |text| text.parse().expect("OUTLAST_KEYS is a number"));
    let mut site = Site::new();
    site.write(wanted);
    site.pass();
    let keys = site.compare();
    assert!(keys > wanted / 2, "{keys} of {wanted} are left");
    for (round, (forgetful, [ours, theirs])) in [
        ("b", [Aim::Order, Aim::Any(1)]),
        ("a", [Aim::Any(2), Aim::Reclaim]),
        ("b", [Aim::Reclaim, Aim::Any(3)]),
    ]
    .into_iter()
    .enumerate()
    {
        let [primary, standby] = site.stores();
        primary.shared.upkeep.compact(ours).unwrap();
        standby.shared.upkeep.compact(theirs).unwrap();
        assert!(primary.log_size().rewritten_bytes > 0, "{round}");
        assert!(standby.log_size().rewritten_bytes > 0, "{round}");
        site.compare();
        site = site.without_index_of(forgetful);
        site.compare();
        site.write(wanted / 4);
        site.pass();
        site.compare();
    }
    let keys = site.compare();
    eprintln!("{keys} keys are equal on both nodes, three times compacted and made again");
}
