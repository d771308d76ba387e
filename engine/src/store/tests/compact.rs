//! Compaction of the log: what readers may ask for is there, whatever was rewritten and whatever
//! the index is made from.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fs::{Crash, Fs};
use crate::log::{RestoreOptions, check_on, repair_on, restore_on};
use crate::{Compact, LogState};

const KEYS: u64 = 40;
/// Large, so that few of them fill a segment.
const VALUE_LEN: usize = 3000;

fn config() -> Config {
    Config {
        background: false,
        flush_after_entries: 12,
        flush_after_log_bytes: 40_000,
        history_log_bytes: 30_000,
        ..Config::default()
    }
}

fn open_with(fs: &MemFs, config: Config) -> Store {
    Store::open_on(Arc::new(fs.clone()), Arc::<SystemClock>::default(), config).unwrap()
}

fn alone() -> (MemFs, Store) {
    let fs = MemFs::new();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init_on(&fs, &options).unwrap();
    let store = open_with(&fs, config());
    store.begin_epoch(EpochReason::Init, "").unwrap();
    (fs, store)
}

fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(VALUE_LEN, u8::try_from(n % 251).unwrap());
    value
}

/// All work that is due, until there is none.
fn settle(store: &Store) {
    for _ in 0..100_000 {
        match store.background_step() {
            Some(Duration::ZERO) => {}
            Some(rest) if rest <= Duration::from_millis(5) => {}
            _ => return,
        }
    }
    panic!("background work does not end");
}

fn overwrite(store: &Store, keyspace: &Keyspace, from: u64, count: u64) {
    for n in from..from + count {
        put(store, keyspace, &format!("key-{:03}", n % KEYS), &value(n));
    }
}

fn files(fs: &MemFs, suffix: &str) -> Vec<String> {
    let names = fs.list("log").unwrap();
    let names = names.into_iter();
    names.filter(|name| name.ends_with(suffix)).collect()
}

fn forget_index(fs: &MemFs) {
    crate::index::forget(fs).unwrap();
}

#[test]
fn what_is_overwritten_leaves_the_log_by_itself_and_what_is_left_is_whole() {
    let (fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    overwrite(&store, &keyspace, 0, 1000);
    settle(&store);
    let size = store.log_size();
    // 1,000 values of 3,000 bytes were written; 40 are needed, and some of the last are kept whole.
    assert!(size.compactions > 0, "{size:?}");
    assert!(size.whole_bytes + size.sparse_bytes < 600_000, "{size:?}");
    let after = contents(&store, &store.snapshot());
    assert_eq!(after.len(), usize::try_from(KEYS).unwrap());
    for n in 960..1000 {
        let key = format!("key-{:03}", n % KEYS);
        assert_eq!(store.get(&keyspace, key).unwrap().unwrap(), value(n));
    }
    assert_eq!(kind(store.tail(Lsn::ZERO)), ErrorKind::LogTruncated);
    let truncated = store.tail(Lsn::ZERO).unwrap_err();
    assert_eq!(truncated.oldest(), Some(size.whole_from));
    assert_eq!(truncated.duplicate().oldest(), Some(size.whole_from));
    assert_eq!(
        kind(store.log_cursor(Lsn(8)).map(drop)),
        ErrorKind::LogTruncated
    );
    let mut tail = store.tail(size.whole_from).unwrap();
    assert!(tail.poll().unwrap().is_some());
    store.close().unwrap();
    drop((store, keyspace, tail));
    assert_eq!(check_on(&fs).unwrap().faults, []);

    // The same from the disk, with the index and made again without it.
    for index in [true, false] {
        if !index {
            forget_index(&fs);
        }
        let store = open_with(&fs, config());
        assert_eq!(contents(&store, &store.snapshot()), after, "index {index}");
        assert_eq!(store.log_size().whole_from, size.whole_from);
        assert_eq!(kind(store.snapshot_at(Lsn(8))), ErrorKind::NotHeld);
        store.begin_epoch(EpochReason::Restart, "").unwrap();
        let keyspace = store.keyspace("default").unwrap();
        put(&store, &keyspace, "later", b"1");
        store.close().unwrap();
        drop((store, keyspace));
        let store = open_with(&fs, config());
        let keyspace = store.keyspace("default").unwrap();
        assert_eq!(store.get(&keyspace, "later").unwrap().unwrap(), "1");
        store.begin_epoch(EpochReason::Restart, "").unwrap();
        let mut batch = Batch::new();
        batch.delete(&keyspace, "later").unwrap();
        store.commit(batch, CommitOptions::default()).unwrap();
        store.close().unwrap();
    }
}

#[test]
fn a_deleted_key_stays_deleted_whatever_is_rewritten_first() {
    let (fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    // The first segments hold the only values of keys that nobody overwrites.
    for n in 0..60 {
        put(&store, &keyspace, &format!("cold-{n:02}"), &value(n));
    }
    let mut batch = Batch::new();
    for n in 0..60 {
        if n % 3 == 0 {
            batch.delete(&keyspace, format!("cold-{n:02}")).unwrap();
        }
    }
    store.commit(batch, CommitOptions::default()).unwrap();
    overwrite(&store, &keyspace, 0, 400);
    settle(&store);
    store.compact_now(Compact::Reclaim).unwrap();
    let after = contents(&store, &store.snapshot());
    assert_eq!(after.len(), 40 + usize::try_from(KEYS).unwrap());
    store.close().unwrap();
    drop((store, keyspace));
    for _ in 0..2 {
        forget_index(&fs);
        let store = open_with(&fs, config());
        assert_eq!(contents(&store, &store.snapshot()), after);
        // Everything below was rewritten: the deletes go, and nothing comes back.
        store.begin_epoch(EpochReason::Restart, "").unwrap();
        store.compact_now(Compact::Order).unwrap();
        store.compact_now(Compact::Order).unwrap();
        store.compact_now(Compact::Reclaim).unwrap();
        assert_eq!(contents(&store, &store.snapshot()), after);
        store.close().unwrap();
    }
}

/// A range looks its records up in the files that it met before.
#[test]
fn a_range_that_was_begun_goes_on_over_a_log_that_is_rewritten_under_it() {
    let (_fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    overwrite(&store, &keyspace, 0, 400);
    for n in 0..60 {
        put(&store, &keyspace, &format!("more-{n:02}"), &value(n));
    }
    settle(&store);
    let snapshot = store.snapshot();
    let expected: Vec<_> = snapshot.iter(&keyspace).map(Result::unwrap).collect();
    let mut range = snapshot.iter(&keyspace);
    let mut read = Vec::new();
    for what in [Compact::Reclaim, Compact::Order, Compact::Order] {
        read.extend(range.by_ref().take(15).map(Result::unwrap));
        overwrite(&store, &keyspace, 0, 50);
        settle(&store);
        store.compact_now(what).unwrap();
        assert!(store.log_size().whole_from > Lsn::ZERO);
    }
    read.extend(range.map(Result::unwrap));
    assert_eq!(read, expected);
    let compacted: Vec<_> = snapshot.iter(&keyspace).map(Result::unwrap).collect();
    assert_eq!(compacted, expected);
}

#[test]
fn nobody_who_reads_the_log_is_cut_off() {
    let (_fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    let mut tail = store.tail(Lsn::ZERO).unwrap();
    let old = put(&store, &keyspace, "old", b"1");
    overwrite(&store, &keyspace, 0, 300);
    settle(&store);
    store.compact_now(Compact::Reclaim).unwrap();
    assert_eq!(store.log_size().whole_from, Lsn::ZERO);
    for n in 0..=300 {
        assert_eq!(tail.poll().unwrap().unwrap().commit, n + 1);
    }
    assert!(tail.poll().unwrap().is_none());
    assert!(tail.position() > old.lsn);
    settle(&store);
    assert!(store.log_size().whole_from > Lsn::ZERO);
    assert!(tail.poll().unwrap().is_none());
}

#[test]
fn a_reader_that_is_too_far_behind_is_told_so() {
    let (fs, store) = alone();
    drop(store);
    let config = Config {
        retain_log_bytes: Some(100_000),
        ..config()
    };
    let store = open_with(&fs, config);
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    let keyspace = store.keyspace("default").unwrap();
    let mut tail = store.tail(Lsn::ZERO).unwrap();
    overwrite(&store, &keyspace, 0, 300);
    settle(&store);
    assert!(store.log_size().whole_from > Lsn::ZERO);
    let error = tail.poll().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LogTruncated);
    assert_eq!(error.oldest(), Some(store.log_size().whole_from));
}

#[test]
fn a_log_is_not_compacted_before_its_standby_has_it_and_both_hold_the_same_after() {
    let cluster = ClusterId::random();
    let (primary_fs, standby_fs) = (MemFs::new(), MemFs::new());
    Store::init_on(&primary_fs, &options(cluster, "a")).unwrap();
    Store::init_on(&standby_fs, &options(cluster, "b")).unwrap();
    let primary = open_with(&primary_fs, config());
    let standby = open_with(&standby_fs, config());
    primary.begin_epoch(EpochReason::Init, "").unwrap();
    standby.begin_following().unwrap();
    let keyspace = primary.keyspace("default").unwrap();
    overwrite(&primary, &keyspace, 0, 300);
    settle(&primary);
    primary.compact_now(Compact::Reclaim).unwrap();
    assert_eq!(primary.log_size().whole_from, Lsn::ZERO);
    ship_all(&primary, &standby);
    let reached = standby.positions();
    primary.set_replica_positions(crate::ReplicaPositions {
        received: reached.appended,
        durable: reached.durable,
        applied: reached.visible,
    });
    primary.compact_now(Compact::Order).unwrap();
    assert!(primary.log_size().whole_from > Lsn::ZERO);
    settle(&standby);
    let both = contents(&primary, &primary.snapshot());
    assert_eq!(contents(&standby, &standby.snapshot()), both);
    standby.compact_now(Compact::Reclaim).unwrap();
    assert_eq!(contents(&standby, &standby.snapshot()), both);
    overwrite(&primary, &keyspace, 300, 50);
    ship_all(&primary, &standby);
    let both = contents(&primary, &primary.snapshot());
    assert_eq!(contents(&standby, &standby.snapshot()), both);
    standby.close().unwrap();
    drop(standby);
    forget_index(&standby_fs);
    let standby = open_with(&standby_fs, config());
    standby.apply_to(Lsn(u64::MAX)).unwrap();
    assert_eq!(contents(&standby, &standby.snapshot()), both);
    assert_eq!(standby.state(), LogState::Reading);
}

#[test]
fn a_damaged_victim_is_left_as_it_is() {
    let (fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    overwrite(&store, &keyspace, 0, 300);
    store.close().unwrap();
    drop((store, keyspace));
    fs.rot("log/000000000001.seg", 30_000, 4).unwrap();
    let store = open_with(&fs, config());
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    assert_eq!(
        kind(store.compact_now(Compact::Reclaim)),
        ErrorKind::Corrupt
    );
    assert!(files(&fs, ".seg").contains(&"000000000001.seg".to_owned()));
    assert_eq!(files(&fs, ".sparse"), Vec::<String>::new());
    assert_eq!(files(&fs, ".tmp"), Vec::<String>::new());
}

#[test]
fn every_flipped_byte_of_a_sparse_segment_is_found() {
    let (fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    overwrite(&store, &keyspace, 0, 300);
    settle(&store);
    let expected = contents(&store, &store.snapshot());
    store.close().unwrap();
    drop((store, keyspace));
    let name = format!("log/{}", files(&fs, ".sparse")[0]);
    let len = crate::fs::read_all(&fs, &name).unwrap().len();
    let strange = |at: usize| at < 400 || at > len - 400 || at.is_multiple_of(997);
    for at in (0..len).filter(|at| strange(*at)) {
        let image = fs.crash(Crash::KeepAll);
        image.rot(&name, at, 1).unwrap();
        let report = check_on(&image).unwrap();
        assert!(report.is_damaged(), "byte {at} of {len}");
        forget_index(&image);
        // What cannot be read is an error; what can is right.
        let opened = Store::open_on(
            Arc::new(image.clone()),
            Arc::<SystemClock>::default(),
            config(),
        );
        let Ok(store) = opened else { continue };
        let keyspace = store.keyspace("default").unwrap();
        for entry in store.snapshot().iter(&keyspace) {
            let Ok((key, value)) = entry else { continue };
            assert!(expected.contains(&("default".to_owned(), key, value)));
        }
    }
}

#[test]
fn a_file_on_the_disk_stays_whole_as_long_as_somebody_has_bytes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "disk");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let store = Store::open(dir.path(), config()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("default").unwrap();
    put(&store, &keyspace, "read", &value(7));
    overwrite(&store, &keyspace, 0, 40);
    settle(&store);
    let first = dir.path().join("log/000000000001.seg");
    let len = || std::fs::metadata(&first).map(|file| file.len()).ok();
    assert_eq!(len(), Some(SEGMENT_SIZE_MIN));
    // A slice of the map of the first segment.
    let held = store.get(&keyspace, "read").unwrap().unwrap();
    overwrite(&store, &keyspace, 40, 300);
    settle(&store);
    assert!(store.log_size().compactions > 0);
    assert_eq!(len(), Some(SEGMENT_SIZE_MIN), "shortened under a reader");
    assert_eq!(held, value(7));
    drop(held);
    settle(&store);
    let _ = store.background_step();
    store.compact_now(Compact::Reclaim).unwrap();
    assert_eq!(len(), None);
    let files = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    assert_eq!(files as u64, store.log_size().files + 1, "and one prepared");
}

#[test]
fn damage_beside_a_sparse_segment_is_mended_from_a_copy() {
    let (fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    overwrite(&store, &keyspace, 0, 300);
    settle(&store);
    let expected = contents(&store, &store.snapshot());
    store.close().unwrap();
    drop((store, keyspace));
    let copy = fs.crash(Crash::KeepAll);
    let whole = files(&fs, ".seg");
    assert!(whole.len() > 1 && !files(&fs, ".sparse").is_empty());
    let name = format!("log/{}", whole[0]);
    for (offset, mask) in [(20_000, 1), (5, 8)] {
        fs.rot(&name, offset, mask).unwrap();
    }
    assert!(check_on(&fs).unwrap().is_damaged());
    let report = repair_on(&fs, Some(&copy), false).unwrap();
    assert_eq!(report.left, []);
    assert_eq!(report.repaired.len(), 1, "{report:?}");
    let bytes = |fs: &MemFs| crate::fs::read_all(fs, &name).unwrap();
    assert_eq!(bytes(&fs), bytes(&copy));
    let store = open_with(&fs, config());
    assert_eq!(contents(&store, &store.snapshot()), expected);
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    assert_eq!(store.repair_sealed(None, false).unwrap().left, []);
}

#[test]
fn a_checkpoint_of_a_compacted_log_becomes_a_node_that_holds_the_same() {
    let (_fs, store) = alone();
    let keyspace = store.keyspace("default").unwrap();
    overwrite(&store, &keyspace, 0, 300);
    settle(&store);
    let expected = contents(&store, &store.snapshot());
    let (backup, fs) = (MemFs::new(), MemFs::new());
    store.checkpoint_on(&backup).unwrap();
    // What the node does to its own files later is nothing to the checkpoint.
    overwrite(&store, &keyspace, 300, 300);
    settle(&store);
    assert!(!files(&backup, ".sparse").is_empty());
    restore_on(&backup, &fs, &RestoreOptions::new("again")).unwrap();
    assert_eq!(check_on(&fs).unwrap().faults, []);
    let again = open_with(&fs, config());
    assert_eq!(contents(&again, &again.snapshot()), expected);
    again.begin_epoch(EpochReason::Restart, "").unwrap();
    again.compact_now(Compact::Order).unwrap();
    assert_eq!(contents(&again, &again.snapshot()), expected);
}

/// How many cases are tried: so many, or what `OUTLAST_MODEL_CASES` says.
fn cases(default: u32) -> u32 {
    let asked = std::env::var("OUTLAST_MODEL_CASES");
    asked.map_or(default, |count| count.parse().unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, u64),
    Delete(u64),
    Snapshot,
    Forget(usize),
    Work(usize),
    Compact(bool),
    Reopen { crash: Option<u64>, index: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0..KEYS, any::<u64>()).prop_map(|(key, n)| Step::Put(key, n)),
        8 => (0..KEYS).prop_map(Step::Delete),
        3 => Just(Step::Snapshot),
        3 => any::<usize>().prop_map(Step::Forget),
        8 => (1usize..60).prop_map(Step::Work),
        2 => any::<bool>().prop_map(Step::Compact),
        1 => (any::<Option<u64>>(), any::<bool>())
            .prop_map(|(crash, index)| Step::Reopen { crash, index }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(100)))]

    #[test]
    fn every_state_that_may_be_asked_for_is_the_one_that_was(
        steps in vec(step(), 100..500),
    ) {
        let (mut fs, mut store) = alone();
        let mut model = Model::new();
        let mut snapshots: Vec<(Snapshot, Contents)> = Vec::new();
        let order = ["default"];
        for step in &steps {
            let keyspace = store.keyspace("default").unwrap();
            match step {
                Step::Put(key, n) => {
                    let key = format!("key-{key:03}");
                    put(&store, &keyspace, &key, &value(*n));
                    model.insert(("default", key.into_bytes()), value(*n));
                }
                Step::Delete(key) => {
                    let key = format!("key-{key:03}");
                    let mut batch = Batch::new();
                    batch.delete(&keyspace, &key).unwrap();
                    store.commit(batch, CommitOptions::default()).unwrap();
                    model.remove(&("default", key.into_bytes()));
                }
                Step::Snapshot => {
                    snapshots.push((store.snapshot(), as_contents(&model, &order)));
                }
                Step::Forget(which) if !snapshots.is_empty() => {
                    snapshots.swap_remove(which % snapshots.len());
                }
                Step::Forget(_) => {}
                Step::Work(count) => {
                    for _ in 0..*count {
                        let _ = store.background_step();
                    }
                }
                Step::Compact(order) => {
                    let what = if *order { Compact::Order } else { Compact::Reclaim };
                    store.compact_now(what).unwrap();
                }
                Step::Reopen { crash, index } => {
                    snapshots.clear();
                    match crash {
                        Some(seed) => fs = fs.crash(Crash::Random(*seed)),
                        None => store.close().unwrap(),
                    }
                    drop((store, keyspace));
                    if !index {
                        forget_index(&fs);
                    }
                    store = open_with(&fs, config());
                    store.begin_epoch(EpochReason::Restart, "").unwrap();
                }
            }
            for (snapshot, was) in &snapshots {
                if matches!(step, Step::Work(_) | Step::Compact(_)) {
                    prop_assert_eq!(&contents(&store, snapshot), was);
                }
            }
        }
        prop_assert_eq!(contents(&store, &store.snapshot()), as_contents(&model, &order));
        store.close().unwrap();
        drop((store, snapshots));
        prop_assert_eq!(check_on(&fs).unwrap().faults, []);
        forget_index(&fs);
        let store = open_with(&fs, config());
        prop_assert_eq!(contents(&store, &store.snapshot()), as_contents(&model, &order));
    }
}
