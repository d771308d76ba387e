//! The store against what was committed to it.

mod checkpoint;
mod compact;
mod figures;
mod follow;
mod gate;
mod generated;
mod racing;
mod read;
mod read_only;
mod reading;
mod reopen;
mod serial;
mod tail;
mod transact;
mod write;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;

use super::Store;
use crate::clock::SystemClock;
use crate::config::{Config, InitOptions};
use crate::format::limits::SEGMENT_SIZE_MIN;
use crate::format::{ClusterId, EpochReason, FrameRun, Lsn};
use crate::fs::MemFs;
use crate::keyspace::Keyspace;
use crate::log::{CommitOptions, LogCursor};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;
use crate::{Batch, ErrorKind};

/// Longer than any test waits for what does happen.
const LONG: Duration = Duration::from_secs(60);

/// Everything in a snapshot: keyspace, key, value.
type Contents = Vec<(String, Bytes, Bytes)>;

/// What a store should hold: by keyspace and key.
type Model = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

fn options(cluster: ClusterId, name: &str) -> InitOptions {
    InitOptions {
        cluster,
        segment_size: SEGMENT_SIZE_MIN,
        has_peer: true,
        ..InitOptions::new(name)
    }
}

fn open(fs: &MemFs) -> Store {
    let config = Config {
        background: false,
        // Most of the index is on the disk, in many runs.
        flush_after_entries: 5,
        flush_after_log_bytes: 10_000,
        ..Config::default()
    };
    Store::open_on(Arc::new(fs.clone()), Arc::<SystemClock>::default(), config).unwrap()
}

/// A store of its own with small segments, writing.
fn writer() -> (MemFs, Store) {
    let fs = MemFs::new();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init_on(&fs, &options).unwrap();
    let store = open(&fs);
    store.begin_epoch(EpochReason::Init, "").unwrap();
    (fs, store)
}

/// A primary, and a standby that has nothing yet.
struct Pair {
    primary_fs: MemFs,
    primary: Store,
    standby_fs: MemFs,
    standby: Store,
}

fn pair() -> Pair {
    let cluster = ClusterId::random();
    let (primary_fs, standby_fs) = (MemFs::new(), MemFs::new());
    Store::init_on(&primary_fs, &options(cluster, "a")).unwrap();
    Store::init_on(&standby_fs, &options(cluster, "b")).unwrap();
    let (primary, standby) = (open(&primary_fs), open(&standby_fs));
    primary.begin_epoch(EpochReason::Init, "").unwrap();
    standby.begin_following().unwrap();
    Pair {
        primary_fs,
        primary,
        standby_fs,
        standby,
    }
}

/// Sends the standby the next run of frames. Received, neither durable nor applied.
fn ship(cursor: &mut LogCursor, standby: &Store, len_max: u64) -> Option<FrameRun> {
    let run = cursor.next_up_to(Lsn(u64::MAX), len_max).unwrap()?;
    // As what came over a wire: checked again, against the standby's own chain.
    let run = FrameRun::check(&standby.chain(), run.bytes().clone()).unwrap();
    assert_eq!(standby.append_run(&run).unwrap(), run.range().end);
    Some(run)
}

/// Sends the standby all that the primary has, and applies it.
fn ship_all(primary: &Store, standby: &Store) {
    let mut cursor = primary.log_cursor(standby.chain().lsn).unwrap();
    while ship(&mut cursor, standby, 1 << 20).is_some() {}
    standby.sync().unwrap();
    standby.apply_to(primary.positions().visible.lsn).unwrap();
}

fn put(store: &Store, keyspace: &Keyspace, key: &str, value: &[u8]) -> Receipt {
    let mut batch = Batch::new();
    batch.put(keyspace, key, value).unwrap();
    store.commit(batch, CommitOptions::default()).unwrap()
}

fn contents(store: &Store, snapshot: &Snapshot) -> Contents {
    let of = |keyspace: Keyspace| {
        let name = keyspace.name().to_owned();
        snapshot.iter(&keyspace).map(move |entry| {
            let (key, value) = entry.unwrap();
            (name.clone(), key, value)
        })
    };
    store.keyspaces().into_iter().flat_map(of).collect()
}

fn as_contents(model: &Model, order: &[&'static str]) -> Contents {
    let of = |name: &'static str| {
        model
            .iter()
            .filter(move |((keyspace, _), _)| *keyspace == name)
            .map(|((keyspace, key), value)| {
                let (key, value) = (key.clone().into(), value.clone().into());
                ((*keyspace).to_owned(), key, value)
            })
    };
    order.iter().flat_map(|name| of(name)).collect()
}

fn kind<T: std::fmt::Debug>(result: crate::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Handles may go to other threads, and futures onto a runtime with several.
#[test]
fn everything_may_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>(_: &T) {}
    shared::<(Store, Keyspace, Batch, Snapshot)>();
    shared::<(crate::Range, crate::Keys, crate::Tail, crate::AsyncRange)>();
    shared::<(
        crate::Transaction,
        crate::TransactionRange,
        crate::TransactionKeys,
    )>();
    let (_fs, store) = writer();
    let future = store.commit_async(Batch::new(), CommitOptions::default());
    sent(&future);
    let receipt = block_on(future).unwrap();
    sent(&store.wait_applied_async(receipt));
    sent(&store.tail(Lsn::ZERO).unwrap().next());
    let keyspace = store.keyspace("k").unwrap();
    sent(&store.get_async(&keyspace, "key"));
    sent(&store.multi_get_async(&keyspace, ["key"]));
    sent(&store.snapshot().iter(&keyspace).into_async().next());
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park_timeout(LONG);
    }
}
