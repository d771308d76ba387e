//! Primaries that are lost under load, at several promises, judged from outside.
//!
//! `OUTLAST_DRILLS` says how many are lost at each promise (5 without it).

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use outlast_tools::drill::{Drill, How, Promise, Unit, Violation};
use outlast_tools::pair::Processes;
use serde_json::Value;

fn drill_kill(policy: &str, lease: &str, seed: u64) -> Output {
    let rounds = std::env::var("OUTLAST_DRILLS").unwrap_or_else(|_| "5".to_owned());
    Command::new(env!("CARGO_BIN_EXE_outlast"))
        .args(["drill-kill", policy, "--lease", lease, "--rounds", &rounds])
        .args(["--seed", &seed.to_string(), "-o", "json"])
        .output()
        .unwrap()
}

/// Loses primaries at a promise; answers with the summary.
fn holds(policy: &str, lease: &str, seed: u64) -> Value {
    let output = drill_kill(policy, lease, seed);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{policy}: {said}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["schema"], 1);
    assert_eq!(summary["violations"], Value::Array(Vec::new()), "{said}");
    assert!(summary["answered"].as_u64().unwrap() > 0, "{summary}");
    let largest = &summary["largest_loss"];
    eprintln!(
        "{policy}: {} lost, largest loss {largest}",
        summary["kills"]
    );
    summary
}

#[test]
fn under_sync_nothing_is_lost() {
    let summary = holds("sync", "200ms", 10);
    assert_eq!(summary["rounds_with_loss"], 0);
    assert_eq!(summary["answered_after_promotion"], 0);
}

#[test]
fn a_bound_of_commits_holds_down_to_none() {
    assert_eq!(holds("0commits", "300ms", 20)["rounds_with_loss"], 0);
    holds("1commits", "200ms", 30);
    holds("100commits", "300ms", 40);
}

#[test]
fn a_bound_that_is_never_used_up_leaves_the_lease_alone_to_fence() {
    let summary = holds("10000commits", "600ms", 50);
    assert_eq!(summary["answered_after_promotion"], 0);
}

#[test]
fn a_bound_of_bytes_and_one_of_time_hold() {
    holds("64KiB,1s", "300ms", 60);
    holds("50ms", "300ms", 70);
}

#[test]
fn under_async_the_state_is_one_that_was_and_a_newer_term_ends_the_old_primary() {
    holds("async", "3s", 80);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let output = drill_kill("tight", "300ms", 0);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("100commits"), "{said}");
}

/// A binary that allows far more to be lost than it is told to, and accepts it.
const LOOSE: &str = r#"#!/bin/sh
dir="$2"
case "$3" in
policy) exec OUTLAST --dir "$dir" policy set bounded --commits 2000 --lease 300ms ;;
promote)
    shift 9
    exec OUTLAST --dir "$dir" promote -o json --accept-loss 2000 --reason loose "$@"
    ;;
esac
exec OUTLAST "$@"
"#;

#[test]
fn a_bound_that_is_not_kept_is_seen_and_its_nodes_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let exe = root.path().join("loose");
    fs::write(
        &exe,
        LOOSE.replace("OUTLAST", env!("CARGO_BIN_EXE_outlast")),
    )
    .unwrap();
    fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
    let drill = Drill {
        exe,
        dir: root.path().to_owned(),
        promise: Promise::read("10commits", Some(Duration::from_millis(300))).unwrap(),
        hows: vec![How::Cut],
        writers: 4,
        in_flight: 16,
        delay: Duration::from_millis(1),
        namespaces: false,
        processes: Processes::default(),
        playing: Default::default(),
    };
    let mut seen = BTreeSet::new();
    for seed in 0..3 {
        let played = drill.play(seed).unwrap();
        for violation in &played.verdict.violations {
            match violation {
                Violation::OverBound { unit, lost, most } => {
                    assert_eq!((*unit, *most), (Unit::Commits, 10));
                    assert!(*lost > 10);
                    seen.insert("more was lost than promised");
                }
                Violation::OtherBound { certified } => {
                    assert_eq!(certified.commits, Some(2000));
                    seen.insert("another bound is certified");
                }
                other => panic!("seed {seed}: {other}"),
            }
        }
        let evidence = played.kept.unwrap().join("evidence.json");
        let evidence: Value = serde_json::from_slice(&fs::read(evidence).unwrap()).unwrap();
        assert_eq!(evidence["promise"]["bound_commits"], 10);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}
