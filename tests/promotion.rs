//! What an operator sees and keeps of a promotion, with the real binary: its certificate, the
//! command that is run for it, and what is printed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use outlast_standby::config::{NodeConfig, OnRoleChange};
use outlast_standby::status::Role;
use outlast_standby::{HookEnd, NodeDir};
use outlast_tools::pair::{NodePlace, PATIENCE};
use serde_json::Value;

use support::{Site, ended, json};

const SEGMENT: u64 = 1 << 20;

fn lines(count: usize) -> Vec<String> {
    let line = |n| format!("{{\"ops\": [[\"put\", \"key-{n}\", \"value\"]]}}");
    (0..count).map(line).collect()
}

fn filled(site: &Site, count: usize) {
    let lines = lines(count);
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let input = site.input("input.jsonl", &lines);
    ended(&site.load(&site.pair.a, &input, &["--level", "applied"]), 0);
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The certificate that the last promotion of a node left behind.
fn kept(site: &Site, node: &NodePlace) -> PathBuf {
    let listed = json(
        &site
            .pair
            .run(node, ["certificate", "list", "-o", "json"])
            .unwrap(),
    );
    let last = listed["certificates"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(last["has_signature"], true, "{last}");
    PathBuf::from(last["file"].as_str().unwrap())
}

#[test]
fn a_certificate_can_be_checked_where_there_is_no_node() {
    let site = Site::new(SEGMENT);
    let (a, b) = site.start();
    filled(&site, 10);
    a.kill().unwrap();
    site.pair.promote(&site.pair.b, "fire in hall 3").unwrap();
    drop(b);
    let b = &site.pair.b;
    let file = kept(&site, b);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));

    // With the node's own directory, with its peer's, and with nothing but its card.
    let verify = |node: &NodePlace, file: &Path| {
        let file = file.to_str().unwrap();
        site.pair
            .run(node, ["certificate", "verify", file])
            .unwrap()
    };
    for node in [b, &site.pair.a] {
        let output = verify(node, &file);
        ended(&output, 0);
        let text = stdout(&output);
        assert!(text.starts_with("VALID"), "{text}");
        assert!(text.contains("signed by b (node "), "{text}");
        assert!(text.contains("fire in hall 3"), "{text}");
    }
    let elsewhere = |file: &Path, trust: &[&str]| {
        let mut outlast = std::process::Command::new(env!("CARGO_BIN_EXE_outlast"));
        outlast
            .env_remove("OUTLAST_DIR")
            .arg("certificate")
            .arg("verify");
        outlast.arg(file).args(trust).output().unwrap()
    };
    let card = stdout(&site.pair.run(b, ["pin", "show"]).unwrap());
    let other = stdout(&site.pair.run(&site.pair.a, ["pin", "show"]).unwrap());
    ended(&elsewhere(&file, &["--trust", card.trim()]), 0);
    ended(&elsewhere(&file, &[]), 2);
    let said = ended(&elsewhere(&file, &["--trust", other.trim()]), 4);
    assert!(
        said.contains("NOT VALID") && said.contains("sha256:"),
        "{said}"
    );

    // What was changed, what was cut short, and what lost its signature.
    let whole = fs::read(&file).unwrap();
    let signature = fs::read(file.with_extension("json.sig")).unwrap();
    let copy = site.path("cert.json");
    fs::write(copy.with_extension("json.sig"), &signature).unwrap();
    let mut changed = whole.clone();
    let at = whole.len() / 2;
    changed[at] ^= 1;
    for damaged in [&changed[..], &whole[..whole.len() - 1], b""] {
        fs::write(&copy, damaged).unwrap();
        let said = ended(&verify(b, &copy), 5);
        assert!(
            said.contains("NOT VALID") && said.contains("changed or cut"),
            "{said}"
        );
    }
    fs::write(&copy, &whole).unwrap();
    ended(&verify(b, &copy), 0);
    fs::write(copy.with_extension("json.sig"), &signature[..40]).unwrap();
    ended(&verify(b, &copy), 5);
    fs::remove_file(copy.with_extension("json.sig")).unwrap();
    ended(&verify(b, &copy), 2);

    let shown = stdout(&site.pair.run(b, ["certificate", "show"]).unwrap());
    for line in [
        "PROMOTED        b is the primary",
        "bound           not available",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let listed = stdout(&site.pair.run(b, ["certificate", "list"]).unwrap());
    assert!(
        listed.contains("STATED") && listed.contains("yes"),
        "{listed}"
    );
}

#[test]
fn a_node_without_a_usable_key_is_promoted_all_the_same() {
    let site = Site::new(SEGMENT);
    let (a, b) = site.start();
    filled(&site, 3);
    a.kill().unwrap();
    b.kill().unwrap();
    fs::write(NodeDir::new(site.pair.b.dir()).key(), "nothing").unwrap();
    let promote = [
        "promote",
        "--primary-is-down",
        "--accept-loss",
        "unbounded",
        "--reason",
        "its key is gone",
    ];
    let output = site.pair.run(&site.pair.b, promote).unwrap();
    ended(&output, 0);
    let text = stdout(&output);
    assert!(
        text.contains("PROMOTED") && text.contains("NOT SIGNED"),
        "{text}"
    );
}

/// Has a node run a script when its role has changed.
fn on_role_change(node: &NodePlace, script: &str, timeout: Duration) {
    let path = node.dir().with_extension("hook");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let dir = NodeDir::new(node.dir());
    let mut config = NodeConfig::load(&dir).unwrap();
    config.on_role_change = Some(OnRoleChange {
        command: vec![path.to_str().unwrap().to_owned()],
        timeout,
    });
    fs::write(dir.config(), config.to_text().unwrap()).unwrap();
}

/// Waits until what was told to the script has so many lines.
fn told(node: &NodePlace, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(node.dir().with_extension("told")).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < deadline, "only {lines:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_command_is_told_of_every_change_of_role_and_changes_nothing_itself() {
    const TELL: &str = "echo \"$1 $2 $4 $3 $5\" >> $OUTLAST_DIR.told";
    let site = Site::new(SEGMENT);
    for node in [&site.pair.a, &site.pair.b] {
        on_role_change(node, TELL, Duration::from_secs(30));
    }
    let (a, b) = site.start();
    filled(&site, 3);
    assert!(told(&site.pair.a, 1)[0].starts_with("starting primary a 1.1/"));
    assert!(told(&site.pair.b, 1)[0].starts_with("starting standby b "));
    a.kill().unwrap();
    // A dry run tells nobody.
    let dry = [
        "promote",
        "--dry-run",
        "--accept-loss",
        "unbounded",
        "--reason",
        "try",
    ];
    site.pair.run(&site.pair.b, dry).unwrap();
    let certificate = site.pair.promote(&site.pair.b, "test").unwrap();
    let epoch = certificate.epoch.unwrap();
    let file = kept(&site, &site.pair.b);
    let lines = told(&site.pair.b, 2);
    let promoted = format!(
        "standby primary b {}.{}/{} {}",
        epoch.term,
        epoch.start,
        epoch.id,
        file.display()
    );
    assert_eq!(lines[1..], [promoted]);
    let status = b.status().unwrap();
    let run = status.role_change.unwrap();
    assert_eq!(
        (run.old_role, run.new_role),
        ("standby".into(), "primary".into())
    );
    // The old primary comes back, waits, and is fenced; each is told.
    let a = site.start_one(&site.pair.a);
    a.until("the fence", |a| {
        Ok((a.status()?.role == Role::Fenced { term: 2 }).then_some(()))
    })
    .unwrap();
    let lines = told(&site.pair.a, 2);
    let last = |lines: &[String]| lines.last().unwrap().split(' ').nth(1).unwrap().to_owned();
    let deadline = Instant::now() + PATIENCE;
    while last(&told(&site.pair.a, 2)) != "fenced" {
        assert!(Instant::now() < deadline, "{lines:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_command_that_hangs_or_fails_is_loud_and_holds_nothing_up() {
    let site = Site::new(SEGMENT);
    let script = "[ $2 = primary ] || exit 0; echo to the proxy; exec sleep 1000";
    on_role_change(&site.pair.b, script, Duration::from_millis(700));
    let (a, b) = site.start();
    filled(&site, 3);
    a.kill().unwrap();
    site.pair.promote(&site.pair.b, "test").unwrap();
    // It is the primary while the command still runs, and when it has been killed.
    let status = b.status().unwrap();
    assert_eq!(status.role, Role::Primary);
    let end = b.until("the command is killed", |b| {
        let run = b
            .status()?
            .role_change
            .filter(|run| run.new_role == "primary");
        Ok(run
            .map(|run| run.end)
            .filter(|end| *end != HookEnd::Running))
    });
    assert_eq!(end.unwrap(), HookEnd::TimedOut);
    let status = b.status().unwrap();
    assert_eq!(status.role, Role::Primary);
    let loud = |warning: &String| warning.contains("on_role_change was killed");
    assert!(status.warnings.iter().any(loud), "{:?}", status.warnings);
    let last = status.role_change.unwrap().output;
    assert_eq!(last, "to the proxy\n");
    let value: Value = json(
        &site
            .pair
            .run(&site.pair.b, ["status", "-o", "json"])
            .unwrap(),
    );
    assert_eq!(value["role_change"]["end"], "timed-out");
}
