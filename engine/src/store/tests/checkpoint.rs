//! Online backups, and nodes that are made of them.

use super::*;
use crate::fs::{Fs, OsFs};
use crate::log::{Checkpoint, RestoreOptions, restore_on};
use crate::store::{rebuild_index, restore};

fn fill(store: &Store, keyspace: &Keyspace, numbers: std::ops::Range<u32>) {
    for number in numbers {
        put(store, keyspace, &format!("key {number}"), &[7; 900]);
    }
}

#[test]
fn a_checkpoint_holds_the_state_that_readers_saw_and_makes_a_new_node() {
    let (fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    for count in [0, 3, 200] {
        fill(&store, &users, 0..count);
        while store.background_step() == Some(Duration::ZERO) {}
        let expected = contents(&store, &store.snapshot());
        let copy = MemFs::new();
        let checkpoint = store.checkpoint_on(&copy).unwrap();
        assert_eq!(checkpoint.position(), store.positions().visible);
        // What comes later is not in it.
        put(&store, &users, "later", b"x");

        let restored_fs = MemFs::new();
        let options = RestoreOptions::new("restored");
        restore_on(&copy, &restored_fs, &options).unwrap();
        let restored = open(&restored_fs);
        assert_eq!(contents(&restored, &restored.snapshot()), expected);
        assert_ne!(restored.node(), store.node());
        assert_eq!(restored.cluster(), store.cluster());
        // It goes on by itself, and the original does not notice.
        restored.begin_epoch(EpochReason::Promotion, "").unwrap();
        let users = restored.keyspace("users").unwrap();
        put(&restored, &users, "mine", b"y");
        assert_eq!(restored.history().term(), store.history().term() + 1);
        drop(restored);
        assert!(!crate::check_on(&restored_fs).unwrap().is_damaged());
        store
            .snapshot()
            .get(&store.keyspace("users").unwrap(), "later")
            .unwrap()
            .unwrap();
    }
    drop(store);
    assert!(!crate::check_on(&fs).unwrap().is_damaged());
}

#[test]
fn what_is_no_checkpoint_or_no_empty_directory_is_refused() {
    let (fs, store) = writer();
    let kind = |result: crate::Result<Checkpoint>| result.unwrap_err().kind();
    assert_eq!(
        kind(store.checkpoint_on(&fs)),
        ErrorKind::AlreadyInitialised
    );
    let options = RestoreOptions::new("restored");
    let nothing = restore_on(&fs, &MemFs::new(), &options);
    assert_eq!(kind(nothing), ErrorKind::NotInitialised);
    let copy = MemFs::new();
    let checkpoint = store.checkpoint_on(&copy).unwrap();
    assert_eq!(
        kind(restore_on(&copy, &fs, &options)),
        ErrorKind::AlreadyInitialised
    );
    let same = RestoreOptions {
        node: checkpoint.source,
        ..options
    };
    assert_eq!(
        kind(restore_on(&copy, &MemFs::new(), &same)),
        ErrorKind::Limit
    );
}

#[test]
fn sealed_segments_are_linked_and_the_original_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut made = options(ClusterId::random(), "a");
    made.has_peer = false;
    Store::init(&path("a"), &made).unwrap();
    let config = Config {
        background: false,
        ..Config::default()
    };
    let store = Store::open(&path("a"), config.clone()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let users = store.keyspace("users").unwrap();
    fill(&store, &users, 0..300);
    while store.background_step() == Some(Duration::ZERO) {}
    let expected = contents(&store, &store.snapshot());
    store.checkpoint(&path("copy")).unwrap();
    let links = |name: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path(name)).unwrap().nlink()
    };
    assert_eq!(links("copy/log/000000000001.seg"), 2);
    let last = OsFs::new(path("copy")).list("log").unwrap().pop().unwrap();
    assert_eq!(links(&format!("copy/log/{last}")), 1);
    fill(&store, &users, 300..600);
    store.close().unwrap();
    drop((store, users));

    restore(&path("copy"), &path("b"), &RestoreOptions::new("b")).unwrap();
    let size = rebuild_index(&path("b"), config.clone()).unwrap();
    assert_eq!(size.versions, 300);
    let restored = Store::open(&path("b"), config).unwrap();
    assert_eq!(contents(&restored, &restored.snapshot()), expected);
}
