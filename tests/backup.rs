//! Online backups through the binary, and what becomes of them: a node on its own, and a new
//! standby for a primary that has data.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use outlast_engine::{Batch, CommitOptions, Config, EpochReason, Store};
use outlast_standby::{NodeDir, card};
use support::{Site, ended, history, json};

const SEGMENT_SIZE: u64 = 256 << 10;

fn outlast(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    for variable in ["OUTLAST_DIR", "OUTLAST_CONFIG", "OUTLAST_OUTPUT"] {
        command.env_remove(variable);
    }
    let command = command.arg("--dir").arg(dir).args(arguments);
    command.output().unwrap()
}

#[test]
fn a_node_that_does_not_run_is_backed_up_and_restored() {
    let root = tempfile::tempdir().unwrap();
    let (node, backup, new) = (
        root.path().join("node"),
        root.path().join("backup"),
        root.path().join("new"),
    );
    json(&outlast(
        &node,
        &[
            "init",
            "--name",
            "a",
            "--segment-size",
            "64KiB",
            "-o",
            "json",
        ],
    ));
    let store = Store::open(&node, Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("default").unwrap();
    for n in 0..20u8 {
        let mut batch = Batch::new();
        batch.put(&keyspace, [n], vec![n; 5000]).unwrap();
        store.commit(batch, CommitOptions::default()).unwrap();
    }
    let to = backup.to_str().unwrap();
    // Whoever holds it without a socket cannot be asked.
    ended(&outlast(&node, &["checkpoint", "--to", to]), 4);
    assert!(!backup.exists());
    store.close().unwrap();
    drop(store);

    let made = json(&outlast(&node, &["checkpoint", "--to", to, "-o", "json"]));
    assert_eq!((&made["schema"], &made["commit"]), (&1.into(), &20.into()));
    assert_eq!(made["running"], false);
    assert_eq!(made["source"], card(&node).unwrap().node.to_string());
    let said = ended(&outlast(&node, &["checkpoint", "--to", to]), 4);
    assert!(said.contains("not empty"), "{said}");

    let restore = ["restore", "--from", to, "--name", "c", "-o", "json"];
    let foreign = ["--cluster", "00000000000000000000000000000001"];
    let said = ended(&outlast(&new, &[&restore[..], &foreign].concat()), 2);
    assert!(said.contains("of cluster"), "{said}");
    assert!(!new.exists(), "nothing was made");
    let restored = json(&outlast(&new, &restore));
    assert_eq!(restored["cluster"], made["cluster"]);
    assert_ne!(restored["node"], made["source"]);
    assert_eq!(restored["end_lsn"], made["end_lsn"]);
    ended(&outlast(&new, &restore), 4);
    let nowhere = root.path().join("nowhere");
    let missing = [
        "restore",
        "--from",
        nowhere.to_str().unwrap(),
        "--name",
        "d",
    ];
    ended(&outlast(&root.path().join("other"), &missing), 2);

    ended(&outlast(&new, &["check"]), 0);
    let store = Store::open(&new, Config::default()).unwrap();
    let keyspace = store.find_keyspace("default").unwrap();
    for n in 0..20u8 {
        let value = store.get(&keyspace, [n]).unwrap();
        assert_eq!(value.as_deref(), Some(&[n; 5000][..]));
    }
}

#[test]
fn a_standby_that_is_lost_is_made_again_from_a_backup_of_the_running_primary() {
    let site = Site::new(SEGMENT_SIZE);
    let (a, b) = site.start();
    let lines = history(7, 400);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let first = site.input("first.jsonl", &lines[..200]);
    json(&site.load(a.place(), &first, &["--level", "applied"]));

    // Relative to where the command stands, and not to where the node does.
    let made = site
        .pair
        .command(a.place(), ["checkpoint", "--to", "backup", "-o", "json"])
        .current_dir(site.root.path())
        .output();
    let made = json(&made.unwrap());
    assert_eq!(
        (&made["running"], &made["commit"]),
        (&true.into(), &200.into())
    );
    assert!(site.path("backup/log").is_dir());

    // The standby's disk is gone, with its key.
    let place = b.place().clone();
    b.kill().unwrap();
    drop(b);
    let (old, aside) = (NodeDir::new(place.dir()), site.path("gone"));
    let settings = fs::read_to_string(old.config()).unwrap();
    let old_card = card(place.dir()).unwrap();
    fs::rename(place.dir(), &aside).unwrap();
    let second = site.input("second.jsonl", &lines[200..300]);
    json(&site.load(a.place(), &second, &[]));

    let backup = site.path("backup");
    let restore = [
        "restore",
        "--from",
        backup.to_str().unwrap(),
        "--name",
        "b",
        "--role",
        "standby",
        "--peer",
        "a",
        "--policy",
        "async",
    ];
    ended(&site.pair.run(&place, restore).unwrap(), 0);
    fs::write(old.config(), settings).unwrap();
    // Each is told of the other; the primary, to trust the old one no longer.
    let on = |node: &_, arguments: &[&str]| ended(&site.pair.run(node, arguments).unwrap(), 0);
    let peers = fs::read_to_string(aside.join("peers.toml")).unwrap();
    fs::write(old.peers(), peers).unwrap();
    let new_card = card(place.dir()).unwrap();
    let known = fs::read_to_string(NodeDir::new(a.place().dir()).peers()).unwrap();
    let known: toml::Value = toml::from_str(&known).unwrap();
    let address = known["peer"][0]["address"].as_str().unwrap().to_owned();
    on(a.place(), &["pin", "remove", &old_card.pin.to_string()]);
    let trusted = new_card.to_string();
    on(
        a.place(),
        &["pin", "trust", "--address", &address, &trusted],
    );
    let b = site.start_one(&place);
    a.until_connected().unwrap();

    let third = site.input("third.jsonl", &lines[300..]);
    json(&site.load(a.place(), &third, &["--level", "applied"]));
    assert_eq!(site.digest(a.place()), site.digest(&place));
    let expected = outlast_tools::model::state(&support::batches(&lines));
    assert_eq!(b.scan().unwrap(), expected);
}
