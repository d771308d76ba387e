//! A store against itself after it was opened again.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fs::{Access, Crash, Fs};

const NAMES: [&str; 2] = ["users", "rooms"];

#[derive(Clone, Debug)]
enum Step {
    /// Keyspace, key, value; no value is a delete.
    Commit(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    Reopen(Crash),
    /// A clean stop and a start.
    Restart,
    /// So many steps of background work.
    Work(usize),
    /// The index rots or is gone: it is made again.
    LoseIndex(u64),
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let key = vec(prop_oneof![Just(0), Just(b'k'), Just(0xff)], 0..4);
    let value = prop_oneof![
        3 => vec(any::<u8>(), 0..200),
        1 => vec(any::<u8>(), 9_000..12_000),
    ];
    let write = (0..NAMES.len(), key, proptest::option::weighted(0.7, value));
    let crash = prop_oneof![
        Just(Crash::LoseUnsynced),
        Just(Crash::KeepAll),
        any::<u64>().prop_map(Crash::Random),
    ];
    prop_oneof![
        12 => vec(write, 0..6)
            .prop_filter("fits a frame of the smallest segments", |writes| {
                let len = |(_, _, value): &(_, _, Option<Vec<u8>>)| {
                    value.as_ref().map_or(0, Vec::len)
                };
                writes.iter().map(len).sum::<usize>() < 15_000
            })
            .prop_map(Step::Commit),
        1 => crash.prop_map(Step::Reopen),
        1 => Just(Step::Restart),
        2 => (1usize..6).prop_map(Step::Work),
        1 => any::<u64>().prop_map(Step::LoseIndex),
        2 => Just(Step::Snapshot),
    ]
}

/// Cuts the manifest of the index, or takes a run away.
fn damage_index(fs: &MemFs, seed: u64) {
    let Ok(names) = fs.list("index") else { return };
    let Some(name) = names.get(usize::try_from(seed % names.len().max(1) as u64).unwrap()) else {
        return;
    };
    let name = format!("index/{name}");
    if name.ends_with(".run") {
        fs.unlink(&name).unwrap();
    } else {
        fs.open(&name, Access::Write)
            .unwrap()
            .set_len(seed % 30)
            .unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn it_holds_what_was_acknowledged_through_crashes_and_past_states_stay(
        steps in vec(step(), 1..80),
    ) {
        let (mut fs, mut store) = writer();
        NAMES.iter().for_each(|name| drop(store.keyspace(name).unwrap()));
        let mut model = Model::new();
        let mut past: Vec<(Lsn, Contents)> = Vec::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    let keyspaces = NAMES.map(|name| store.keyspace(name).unwrap());
                    let mut batch = Batch::new();
                    for (keyspace, key, value) in writes {
                        let (name, handle) = (NAMES[keyspace], &keyspaces[keyspace]);
                        match value {
                            Some(value) => {
                                batch.put(handle, &key, &value).unwrap();
                                model.insert((name, key), value);
                            }
                            None => {
                                batch.delete(handle, &key).unwrap();
                                model.remove(&(name, key));
                            }
                        }
                    }
                    let receipt = store.commit(batch, CommitOptions::default()).unwrap();
                    past.push((receipt.lsn, as_contents(&model, &NAMES)));
                }
                Step::Reopen(crash) => {
                    fs = fs.crash(crash);
                    store = open(&fs);
                    store.begin_epoch(EpochReason::Restart, "").unwrap();
                }
                Step::Restart => {
                    store.close().unwrap();
                    drop(store);
                    store = open(&fs);
                    store.begin_epoch(EpochReason::Restart, "").unwrap();
                }
                Step::Work(steps) => {
                    for _ in 0..steps {
                        let _ = store.background_step();
                    }
                }
                Step::LoseIndex(seed) => {
                    drop(store);
                    damage_index(&fs, seed);
                    store = open(&fs);
                    store.begin_epoch(EpochReason::Restart, "").unwrap();
                }
                Step::Snapshot => {
                    let expected = as_contents(&model, &NAMES);
                    prop_assert_eq!(contents(&store, &store.snapshot()), expected);
                }
            }
        }
        prop_assert_eq!(contents(&store, &store.snapshot()), as_contents(&model, &NAMES));
        for (lsn, expected) in past {
            let snapshot = store.snapshot_at(lsn).unwrap();
            prop_assert_eq!(&contents(&store, &snapshot), &expected, "at {}", lsn);
        }
    }
}

#[test]
fn a_node_without_a_peer_shows_what_was_vouched_for_before_it_writes() {
    let (fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    put(&store, &users, "a", b"1");
    let receipt = put(&store, &users, "b", b"2");
    store.close().unwrap();
    let before = contents(&store, &store.snapshot());
    drop((store, users));
    let store = open(&fs);
    assert_eq!(contents(&store, &store.snapshot()), before);
    store.wait_applied(&receipt, Duration::ZERO).unwrap();
    let size = store.index_size();
    assert_eq!(
        (size.versions, size.memory_bytes),
        (2, 0),
        "closing writes it out"
    );
}

#[test]
fn a_node_with_a_peer_shows_what_readers_might_have_seen_until_it_writes() {
    let Pair {
        primary_fs,
        primary,
        ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    put(&primary, &users, "a", b"1");
    let last = put(&primary, &users, "b", b"2");
    let image = primary_fs.crash(Crash::KeepAll);
    let again = open(&image);
    // The last frame carries what was visible when it was formed: the one before it.
    let users = again.find_keyspace("users").unwrap();
    assert_eq!(again.snapshot().iter(&users).count(), 1);
    assert_eq!(again.positions().visible.commit, 1);
    assert_eq!(again.receipt_status(&last), crate::ReceiptStatus::Pending);
    again.begin_epoch(EpochReason::Restart, "").unwrap();
    assert_eq!(again.snapshot().iter(&users).count(), 2);
    assert_eq!(
        again.receipt_status(&last),
        crate::ReceiptStatus::InThisHistory
    );
}

#[test]
fn a_standby_that_restarts_shows_nothing_that_its_primary_might_not_have_shown() {
    let Pair {
        primary,
        standby,
        standby_fs,
        ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    put(&primary, &users, "a", b"1");
    put(&primary, &users, "b", b"2");
    let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
    while ship(&mut cursor, &standby, 1 << 20).is_some() {}
    standby.sync().unwrap();
    standby.close().unwrap();
    drop(standby);
    let standby = open(&standby_fs);
    let positions = standby.positions();
    assert_eq!(positions.durable.commit, 2, "all of it is vouched for");
    // The frame of the second commit says that the first one was visible by then.
    assert_eq!(positions.visible.commit, 1);
    standby.begin_following().unwrap();
    assert_eq!(standby.positions().visible.commit, 1);
    ship_all(&primary, &standby);
    assert_eq!(standby.positions().visible.commit, 2);
}

#[test]
fn a_standby_that_restarts_goes_on_where_it_was() {
    let Pair {
        primary,
        standby,
        standby_fs,
        ..
    } = pair();
    let users = primary.keyspace("users").unwrap();
    for i in 0..50 {
        put(&primary, &users, &i.to_string(), &vec![b'v'; 4_000]);
        if i % 7 == 3 {
            ship_all(&primary, &standby);
        }
    }
    let applied = standby.positions().visible;
    standby.close().unwrap();
    drop(standby);
    let standby = open(&standby_fs);
    let shown = standby.positions().visible;
    assert!(
        shown <= applied && shown.commit >= applied.commit - 7,
        "{shown} of {applied}"
    );
    let theirs = primary.snapshot_at(shown.lsn).unwrap();
    assert_eq!(
        contents(&standby, &standby.snapshot()),
        contents(&primary, &theirs)
    );
    standby.begin_following().unwrap();
    ship_all(&primary, &standby);
    let state = contents(&primary, &primary.snapshot());
    assert_eq!(contents(&standby, &standby.snapshot()), state);
}

#[test]
fn a_log_goes_on_behind_its_last_sealed_segment_when_a_crash_took_the_one_after_it() {
    let mut between = 0;
    for operation in 1..=8 {
        let (fs, store) = writer();
        let users = store.keyspace("users").unwrap();
        let commit = |store: &Store, number: u32| {
            let mut batch = Batch::new();
            batch
                .put(&users, number.to_string(), vec![7; 10_000])
                .unwrap();
            store.commit(batch, CommitOptions::default())
        };
        // The next commit does not fit in the first segment any more.
        for number in 0..6 {
            commit(&store, number).unwrap();
        }
        fs.fail_from(fs.operations() + operation, std::io::ErrorKind::Other);
        let _ = commit(&store, 6);
        drop(store);
        let fs = fs.crash(Crash::LoseUnsynced);
        let store = open(&fs);
        let end = store.positions().appended.lsn;
        between += u32::from(store.log_cursor(end).unwrap().chain().lsn == end);
        store.begin_epoch(EpochReason::Restart, "").unwrap();
        drop(store);
        let store = open(&fs.crash(Crash::LoseUnsynced));
        let users = store.find_keyspace("users").unwrap();
        for number in 0..6 {
            let value = store.get(&users, number.to_string()).unwrap();
            assert_eq!(value.map(|value| value.len()), Some(10_000), "{operation}");
        }
    }
    assert!(between > 0);
}

#[test]
fn what_a_crash_left_of_a_merge_goes_in_the_background_and_no_run_takes_its_name() {
    let (fs, store) = writer();
    let users = store.keyspace("users").unwrap();
    let fill = |store: &Store, from: u32| {
        for n in from..from + 20 {
            put(store, &users, &n.to_string(), b"1");
        }
    };
    fill(&store, 0);
    store.close().unwrap();
    let runs = || {
        let mut names = fs.list("index").unwrap();
        names.retain(|name| name.ends_with(".run"));
        names.sort();
        names
    };
    let last = runs().pop().unwrap();
    let highest: u64 = last.trim_end_matches(".run").parse().unwrap();
    // The names that the next runs would get.
    let left: Vec<_> = (1..40)
        .map(|n| format!("{:012}.run", highest + n))
        .collect();
    for name in &left {
        fs.create(&format!("index/{name}")).unwrap();
    }
    drop(store);

    let store = open(&fs);
    assert!(
        left.iter().all(|name| runs().contains(name)),
        "{:?}",
        runs()
    );
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    let users = store.keyspace("users").unwrap();
    for n in 20..40 {
        put(&store, &users, &n.to_string(), b"1");
    }
    store.compact_index().unwrap();
    while left.iter().any(|name| runs().contains(name)) {
        assert!(store.background_step().is_some(), "{:?} are left", runs());
    }
    store.close().unwrap();
    let expected = contents(&store, &store.snapshot());
    assert_eq!(expected.len(), 40);
    drop(store);
    let store = open(&fs);
    assert_eq!(contents(&store, &store.snapshot()), expected);
}
