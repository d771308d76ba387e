//! Puts that expire, on both nodes of a pair, and what the commands tell of whatever is no plain
//! put or delete.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::clock::{Clock, SystemClock};
use outlast_engine::fs::OsFs;
use outlast_engine::{Batch, CommitOptions, Config, EpochReason, Store};
use outlast_tools::pair::NodePlace;
use serde_json::Value;
use support::{Site, ended, json};

const DAYS_BEHIND: u64 = 3;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A clock as it was days ago.
#[derive(Debug)]
struct Behind(SystemClock);

impl Clock for Behind {
    fn wall_ms(&self) -> u64 {
        self.0.wall_ms() - DAYS_BEHIND * DAY_MS
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Writes into the directory of a node that never ran, days ago.
fn write_days_ago(node: &NodePlace) {
    let clock = Arc::new(Behind(SystemClock::default()));
    let fs = Arc::new(OsFs::new(node.dir()));
    let store = Store::open_on(fs, clock, Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keys = store.keyspace("default").unwrap();
    let drafts = store.keyspace("drafts").unwrap();
    let commit = |batch| store.commit(batch, CommitOptions::default()).unwrap();
    let mut batch = Batch::new();
    let day = Duration::from_millis(DAY_MS);
    batch.put_with_ttl(&keys, "a day", "1", day).unwrap();
    batch.put_with_ttl(&keys, "a week", "7", 7 * day).unwrap();
    batch.put(&keys, "for good", "x").unwrap();
    batch.put(&keys, "gone/1", "").unwrap();
    batch.put(&drafts, "one", "").unwrap();
    commit(batch);
    let mut batch = Batch::new();
    batch.delete_prefix(&keys, "gone/").unwrap();
    commit(batch);
    store
        .drop_keyspace(&drafts, CommitOptions::default())
        .unwrap();
    store.close().unwrap();
}

fn printed(output: &Output) -> String {
    ended(output, 0);
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn operations(lines: &str) -> Vec<Value> {
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .flat_map(|line| line["ops"].as_array().unwrap().clone())
        .collect()
}

#[test]
fn nothing_expires_by_a_clock_that_nobody_confirmed_and_then_it_does_on_both_nodes() {
    let site = Site::new(256 << 10);
    write_days_ago(&site.pair.a);
    let (a, b) = site.start();
    let held = a.status().unwrap();
    let clock = held.held_log_time.expect("log time stands still");
    assert!(
        clock.wall_ms - clock.log_ms >= (DAYS_BEHIND - 1) * DAY_MS,
        "{clock:?}"
    );
    assert!(
        held.warnings.iter().any(|it| it.contains("stands still")),
        "{held:?}"
    );
    let next = held.next.unwrap();
    assert!(next.contains("outlast confirm-clock"), "{next}");
    let keys = |node: &outlast_tools::pair::NodeProcess| {
        let state = node.scan().unwrap();
        state.into_keys().collect::<Vec<_>>()
    };
    let all = ["a day", "a week", "for good"];
    assert_eq!(keys(&a), all);
    let end = a.status().unwrap().positions.visible;
    b.until("it has what its primary has", |b| {
        Ok((b.status()?.positions.visible >= end).then_some(()))
    })
    .unwrap();
    assert_eq!(keys(&b), all);

    let done = json(
        &site
            .pair
            .run(a.place(), ["confirm-clock", "-o", "json"])
            .unwrap(),
    );
    assert_eq!(done["confirmed"], true);
    let left = ["a week", "for good"];
    assert_eq!(keys(&a), left);
    b.until("it expires there too", |b| {
        Ok((keys(b) == left).then_some(()))
    })
    .unwrap();
    assert!(a.status().unwrap().held_log_time.is_none());

    let tail = site
        .pair
        .run(a.place(), ["tail", "--from", "0", "-o", "json"]);
    let told = operations(&printed(&tail.unwrap()));
    let kinds: Vec<_> = told.iter().map(|op| op[1].as_str().unwrap()).collect();
    let expected = [
        "put-expiring",
        "put-expiring",
        "put",
        "put",
        "put",
        "delete-range",
        "drop-keyspace",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(
        told[5],
        serde_json::json!(["default", "delete-range", "gone/", "gone0"])
    );
    let (place, node) = (a.place().clone(), a);
    node.terminate().unwrap();
    let dump = site.pair.run(&place, ["dump", "--records"]).unwrap();
    let dump = printed(&dump);
    for line in [
        "default  delete-range  gone/  to gone0",
        "drafts  drop-keyspace",
    ] {
        assert!(dump.contains(line), "{line} in {dump}");
    }
}
