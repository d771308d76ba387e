//! What the targets share.

use std::collections::BTreeMap;
use std::sync::Arc;

use outlast_engine::clock::SystemClock;
use outlast_engine::format::{ClusterId, Envelope};
use outlast_engine::fs::MemFs;
use outlast_engine::{Batch, CommitOptions, Config, EpochReason, InitOptions, Store};

pub const SEGMENT_SIZE: u64 = 64 << 10;

/// Keyspace and key, to value.
pub type Contents = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Opens a store without threads.
pub fn open(fs: &MemFs) -> outlast_engine::Result<Store> {
    let config = Config {
        background: false,
        ..Config::default()
    };
    Store::open_on(Arc::new(fs.clone()), Arc::<SystemClock>::default(), config)
}

/// The files of a small closed store, with the states that it went through.
pub fn small_store() -> (MemFs, Vec<Contents>) {
    let fs = MemFs::new();
    let options = InitOptions {
        cluster: ClusterId([1; 16]),
        segment_size: SEGMENT_SIZE,
        ..InitOptions::new("fuzz")
    };
    Store::init_on(&fs, &options).expect("an empty directory");
    let store = open(&fs).expect("a new store");
    store.begin_epoch(EpochReason::Init, "").expect("a writer");
    let keyspace = store.keyspace("k").expect("a keyspace");
    let mut states = vec![Contents::new()];
    for number in 0..4u8 {
        let mut batch = Batch::new();
        batch.put(&keyspace, [number], [number; 40]).expect("a put");
        batch
            .delete(&keyspace, [number.wrapping_sub(2)])
            .expect("a delete");
        store
            .commit(batch, CommitOptions::default())
            .expect("a commit");
        states.push(contents(&store).expect("a state"));
    }
    store.close().expect("a clean end");
    (fs, states)
}

/// Everything that a store shows.
pub fn contents(store: &Store) -> outlast_engine::Result<Contents> {
    let snapshot = store.snapshot();
    let mut contents = Contents::new();
    for keyspace in store.keyspaces() {
        for entry in snapshot.iter(&keyspace) {
            let (key, value) = entry?;
            contents.insert((keyspace.name().to_owned(), key.to_vec()), value.to_vec());
        }
    }
    Ok(contents)
}

/// `body` under the mark, version and kind of `like`, with a checksum that holds: past what keeps
/// accidents out, at what is behind it.
pub fn sealed_like(like: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let envelope = Envelope {
        magic: like.get(..4)?.try_into().ok()?,
        version: u16::from_le_bytes(like.get(4..6)?.try_into().ok()?),
        kind: u16::from_le_bytes(like.get(6..8)?.try_into().ok()?),
        len_max: 1 << 20,
    };
    Some(envelope.seal(body))
}
