//! Each call to the disk fails once, or from there on: no commit is acknowledged that is not there
//! when the store is opened again, none that failed ever appears, and no failed fsync is repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::{
    Batch, CommitError, CommitOptions, Compact, EpochReason, InitOptions, RestoreOptions, Result,
    Store, restore_on,
};

use super::disk::{Disk, Failing};
use super::workload::{SEGMENT_SIZE, StillClock, contents, life, open};

const COMMITS: u32 = 60;

/// What callers were told of the commits of one run, each by its key.
#[derive(Default)]
struct Told {
    ok: BTreeSet<u32>,
    failed: BTreeSet<u32>,
}

/// Opens the store and commits as long as anything can be tried, whatever was answered before.
fn work(disk: &Disk, clock: &Arc<StillClock>, told: &mut Told) -> Result<()> {
    let store = open(disk, clock)?;
    store.begin_epoch(EpochReason::Init, "")?;
    let (keyspace, others) = (store.keyspace("k")?, store.keyspace("others")?);
    for key in 0..COMMITS {
        let mut batch = Batch::new();
        batch.put(&keyspace, key.to_le_bytes(), vec![7; 3_000])?;
        if key % 7 == 0 {
            batch.delete_range(&others, [0]..[3])?;
        }
        batch.put(&others, [other(key)], key.to_le_bytes())?;
        batch.put_with_ttl(&others, [9], "never seen", Duration::ZERO)?;
        match store.commit(batch, CommitOptions::default()) {
            Ok(_) => told.ok.insert(key),
            Err(CommitError::Failed(_)) => told.failed.insert(key),
            Err(_) => true,
        };
        let _ = store.background_step();
    }
    // Whether or not it could be done, what was acknowledged is there.
    let _ = store.compact_now(Compact::Order);
    store.close()
}

/// The keys that a store holds once it was opened again, all of it shown.
fn found(disk: &Disk, clock: &Arc<StillClock>) -> Result<BTreeSet<u32>> {
    let store = open(disk, clock)?;
    store.begin_epoch(EpochReason::Restart, "")?;
    let Ok(keyspace) = store.find_keyspace("k") else {
        return Ok(BTreeSet::new());
    };
    let snapshot = store.snapshot();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let keys = snapshot.iter(&keyspace);
    let mut found = keys
        .map(|entry| Ok(number(&entry?.0)))
        .collect::<Result<Vec<_>>>()?;
    found.sort_unstable();
    // What the same batches did elsewhere, in their order.
    let mut expected = BTreeMap::new();
    for key in &found {
        if key % 7 == 0 {
            expected.retain(|place, _| *place >= 3);
        }
        expected.insert(other(*key), *key);
    }
    if let Ok(others) = store.find_keyspace("others") {
        let shown = snapshot.iter(&others).map(|entry| {
            let (place, key) = entry?;
            Ok((place[0], number(&key)))
        });
        assert_eq!(shown.collect::<Result<BTreeMap<_, _>>>()?, expected);
    }
    Ok(found.into_iter().collect())
}

/// Where a batch writes beside its own key.
fn other(key: u32) -> u8 {
    u8::try_from(key * 5 % 8).unwrap()
}

fn made() -> Disk {
    let disk = Disk::default();
    let options = InitOptions {
        segment_size: SEGMENT_SIZE,
        ..InitOptions::new("calls")
    };
    Store::init_on(&disk, &options).unwrap();
    disk
}

#[test]
fn every_call_may_fail_once_or_for_good() {
    let clock = Arc::<StillClock>::default();
    let disk = made();
    let before = disk.calls();
    work(&disk, &clock, &mut Told::default()).unwrap();
    let calls = disk.calls() - before;
    let mut runs = 0;
    for call in 1..=calls {
        for sticky in [false, true] {
            for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
                let disk = made();
                let fails = Failing {
                    from: disk.calls() + call,
                    sticky,
                    kind,
                };
                let what = |what: &str| format!("call {call} of {calls}, {fails:?}: {what}");
                disk.fail(Some(fails));
                let mut told = Told::default();
                // Whether it came to an end or not, what callers were told must be true.
                let _ = work(&disk, &clock, &mut told);
                disk.fail(None);
                assert_eq!(
                    disk.repeated_syncs(),
                    0,
                    "{}",
                    what("a failed sync repeated")
                );
                let mut moments = disk.moments();
                while moments.step() {}
                let units = moments.units();
                let images = [
                    moments.image(&units, |_| false),
                    moments.image(&units, |unit| unit % 2 == 0),
                    moments.image(&units, |_| true),
                ];
                // The process alone has gone, or the power with it.
                for again in images.iter().chain([&disk]) {
                    let found = found(again, &clock)
                        .unwrap_or_else(|error| panic!("{}", what(&error.to_string())));
                    let lost: Vec<_> = told.ok.difference(&found).collect();
                    assert!(lost.is_empty(), "{}", what(&format!("lost {lost:?}")));
                    let risen: Vec<_> = told.failed.intersection(&found).collect();
                    assert!(
                        risen.is_empty(),
                        "{}",
                        what(&format!("{risen:?} failed and is there"))
                    );
                }
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs, each opened again from 4 images, 0 violations");
    assert!(runs > 600, "{runs} runs");
}

#[test]
fn every_call_of_a_backup_may_fail_once_or_for_good() {
    let (primary, _) = life(1, 80);
    let expected = contents(primary.store()).unwrap();
    let disk = Disk::default();
    primary.store().checkpoint_on(&disk).unwrap();
    let (calls, mut made) = (disk.calls(), 0);
    for call in 1..=calls {
        for sticky in [false, true] {
            for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
                let disk = Disk::default();
                let fails = Failing {
                    from: call,
                    sticky,
                    kind,
                };
                disk.fail(Some(fails));
                let taken = primary.store().checkpoint_on(&disk);
                disk.fail(None);
                // Its source goes on, and what is there of it is refused or whole.
                assert_eq!(contents(primary.store()).unwrap(), expected, "{fails:?}");
                let again = Disk::default();
                let restored = restore_on(&disk, &again, &RestoreOptions::new("again"));
                assert!(restored.is_ok() || taken.is_err(), "{fails:?}");
                if restored.is_ok() {
                    let store = open(&again, &primary.clock).unwrap();
                    store.begin_epoch(EpochReason::Restart, "").unwrap();
                    assert_eq!(contents(&store).unwrap(), expected, "{fails:?}");
                    made += 1;
                }
            }
        }
    }
    eprintln!("{calls} calls of a backup, 4 ways each, {made} restored");
    assert!(calls > 10, "{calls} calls");
}
