//! The store: a lone durable commit, point reads, range scans, and opening a log again.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outlast_engine::{Batch, CommitOptions, Config, EpochReason, InitOptions, Keyspace, Store};

const KEYS: u64 = 20_000;
const VALUE: [u8; 128] = [0xa5; 128];

fn commit(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let (store, keyspace) = make(&dir);
    let mut number = 0;
    criterion.bench_function("commit/lone, 128 B, durable", |bencher| {
        bencher.iter(|| {
            number += 1;
            put(&store, &keyspace, number..number + 1);
        });
    });
}

/// The same two records with and without two reads that must still hold.
fn transaction(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let (store, keyspace) = filled(&dir);
    let mut number = 0;
    let mut next = || {
        number = (number + 7919) % KEYS;
        [key(number), key((number + 1) % KEYS)]
    };
    let mut group = criterion.benchmark_group("commit");
    group.bench_function("batch of 2, read before", |bencher| {
        bencher.iter(|| {
            let mut batch = Batch::new();
            for key in next() {
                black_box(store.get(&keyspace, key).expect("readable"));
                batch.put(&keyspace, key, VALUE).expect("it fits");
            }
            store.commit(batch, CommitOptions::default())
        });
    });
    group.bench_function("transaction of 2 reads and 2 writes", |bencher| {
        bencher.iter(|| {
            let mut transaction = store.transaction();
            for key in next() {
                black_box(transaction.get(&keyspace, key).expect("readable"));
                transaction.put(&keyspace, key, VALUE).expect("it fits");
            }
            transaction.commit(CommitOptions::default()).expect("alone")
        });
    });
    group.finish();
}

/// A thousand commits at once in memory: what the writer pays for each, without a disk.
fn many(criterion: &mut Criterion) {
    const COMMITS: u64 = 1_000;
    let store = Store::open_in_memory().expect("made");
    let keyspace = store.keyspace("default").expect("a keyspace");
    let mut group = criterion.benchmark_group("commit in memory");
    group.throughput(Throughput::Elements(COMMITS));
    for checked in [false, true] {
        let name = if checked {
            "1,000 transactions of 2 reads and 2 writes"
        } else {
            "1,000 batches of 2"
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let begin = |number: u64| {
                    let mut transaction = store.transaction();
                    for key in [key(2 * number), key(2 * number + 1)] {
                        if checked {
                            black_box(transaction.get(&keyspace, key).expect("readable"));
                        }
                        transaction.put(&keyspace, key, VALUE).expect("it fits");
                    }
                    transaction.commit_queued(CommitOptions::default())
                };
                let futures: Vec<_> = (0..COMMITS).map(begin).collect();
                while let Some(mut led) = store.lead() {
                    led.write();
                    led.sync();
                    led.finish();
                }
                futures
            });
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let (store, keyspace) = filled(&dir);
    let mut number = 0;
    criterion.bench_function("read/point", |bencher| {
        bencher.iter(|| {
            // A step that is prime to the number of keys goes round all of them.
            number = (number + 7919) % KEYS;
            let value = store.get(&keyspace, key(number)).expect("readable");
            assert!(black_box(value).is_some(), "key {number} is missing");
        });
    });
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("scan of 20,000 keys", |bencher| {
        bencher.iter(|| {
            let snapshot = store.snapshot();
            assert_eq!(snapshot.iter(&keyspace).count() as u64, KEYS);
        });
    });
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    filled(&dir).0.close().expect("closed");
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(KEYS));
    group.sample_size(10);
    group.bench_function("open a log of 20,000 puts", |bencher| {
        bencher.iter(|| Store::open(dir.path(), Config::default()).expect("opened"));
    });
    group.finish();
}

fn make(dir: &tempfile::TempDir) -> (Store, Keyspace) {
    Store::init(dir.path(), &InitOptions::new("bench")).expect("made");
    let store = Store::open(dir.path(), Config::default()).expect("opened");
    store.begin_epoch(EpochReason::Init, "").expect("begun");
    let keyspace = store.keyspace("default").expect("a keyspace");
    (store, keyspace)
}

fn filled(dir: &tempfile::TempDir) -> (Store, Keyspace) {
    let (store, keyspace) = make(dir);
    for first in (0..KEYS).step_by(100) {
        put(&store, &keyspace, first..first + 100);
    }
    (store, keyspace)
}

fn put(store: &Store, keyspace: &Keyspace, numbers: std::ops::Range<u64>) {
    let mut batch = Batch::new();
    for number in numbers {
        batch.put(keyspace, key(number), VALUE).expect("it fits");
    }
    store
        .commit(batch, CommitOptions::default())
        .expect("committed");
}

fn key(number: u64) -> [u8; 8] {
    // The most significant byte first, so that keys lie in the order of their numbers.
    number.swap_bytes().to_le_bytes()
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = short();
    targets = commit, transaction, many, read, replay
}
criterion_main!(benches);
