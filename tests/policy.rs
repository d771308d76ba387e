//! The verbs about loss, with the real binary: `init`, `policy`, `protect`, `status`, and what a
//! node answers over HTTP.

// The helpers are part of the tests: what they did not expect fails the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use outlast_tools::pair::{NodePlace, PATIENCE};
use serde_json::Value;
use support::{Site, ended, json};

/// Types a line.
fn outlast(site: &Site, node: &NodePlace, line: &[&str]) -> Output {
    site.pair.run(node, line).unwrap()
}

fn status(site: &Site, node: &NodePlace) -> Value {
    json(&outlast(site, node, &["status", "-o", "json"]))
}

/// Waits until a status is as it should be.
fn until(site: &Site, node: &NodePlace, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(site, node);
        if holds(&status) {
            return status;
        }
        assert!(
            Instant::now() < deadline,
            "waited in vain: {what}: {status:#}"
        );
    }
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |status| status["protection"]["state"] == state
}

const BOUNDED: [&str; 10] = [
    "policy",
    "set",
    "bounded",
    "--commits",
    "5",
    "--time",
    "200ms",
    "--lease",
    "1s",
    "--reason",
];

#[test]
fn a_bound_is_set_shown_suspended_and_resumed_and_a_dry_run_changes_nothing() {
    let site = Site::new(1 << 20);
    let (_a, _b) = site.start();
    let (a, b) = (&site.pair.a, &site.pair.b);
    let before = until(&site, a, "both are ready", |it| {
        it["readiness"]["ready"] == true
    });
    assert_eq!(before["policy"], "async");
    assert_eq!(before["unprotected"]["now"]["by"], "async");
    let set = [&BOUNDED[..], &["half a second"]].concat();
    let dry = [&set[..], &["--dry-run"]].concat();
    let said = outlast(&site, a, &dry);
    ended(&said, 0);
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("nothing was changed; would be"));
    assert_eq!(
        status(&site, a)["positions"]["appended"],
        before["positions"]["appended"]
    );
    let written = json(&outlast(&site, a, &[&set[..], &["-o", "json"]].concat()));
    assert_eq!(written["bound_commits"], 5);
    assert_eq!(written["standing"], "in-force");
    until(&site, a, "it is kept", is("protected"));
    let shown = outlast(&site, a, &["policy", "show"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in [
        "bounded",
        "5 commits / 200 ms / lease 1000 ms",
        "PROTECTED since",
        "max(1h)",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let suspend = ["protect", "suspend", "--for", "30m", "--reason", "line cut"];
    let dry = [&suspend[..], &["--dry-run"]].concat();
    ended(&outlast(&site, a, &dry), 0);
    assert_eq!(status(&site, a)["protection"]["state"], "protected");
    ended(&outlast(&site, a, &suspend), 0);
    let suspended = until(&site, a, "it is suspended", is("suspended"));
    assert!(
        suspended["protection"]["why"]
            .as_str()
            .unwrap()
            .contains("line cut")
    );
    let said = ended(&outlast(&site, a, &["status", "--ready"]), 4);
    assert!(said.contains("SUSPENDED"), "{said}");
    until(&site, b, "the standby knows", |it| {
        it["readiness"]["ready"] == false
    });
    ended(&outlast(&site, b, &["status", "--ready"]), 4);
    ended(&outlast(&site, a, &["protect", "resume", "--dry-run"]), 0);
    assert_eq!(status(&site, a)["protection"]["state"], "suspended");
    ended(
        &outlast(&site, a, &["protect", "resume", "--reason", "mended"]),
        0,
    );
    until(&site, a, "it is kept again", is("protected"));
    let known = status(&site, a)["unprotected"].clone();
    assert_eq!(known["now"], Value::Null);
    assert_eq!(known["last"][0]["note"], "line cut");
    until(&site, b, "the standby knows the same", |it| {
        it["unprotected"] == known
    });
    until(&site, b, "it is ready again", |it| {
        it["readiness"]["ready"] == true
    });
    ended(&outlast(&site, b, &["status", "--ready"]), 0);
}

#[test]
fn what_cannot_be_promised_is_refused_with_what_to_type_instead() {
    let site = Site::new(1 << 20);
    let (_a, _b) = site.start();
    let (a, b) = (&site.pair.a, &site.pair.b);
    let cases: [(&NodePlace, &[&str], i32, &str); 11] = [
        (
            a,
            &["policy", "set", "bounded"],
            2,
            "--commits, --bytes or --time",
        ),
        (
            a,
            &["policy", "set", "sync", "--commits", "1"],
            2,
            "bounded",
        ),
        (
            a,
            &["policy", "set", "async", "--lease", "3s"],
            2,
            "no lease",
        ),
        (
            a,
            &["policy", "set", "sync", "--lease", "60ms"],
            2,
            "nothing was changed",
        ),
        (
            a,
            &["policy", "set", "bounded", "--time", "0s"],
            2,
            "a bound of time",
        ),
        (a, &["policy", "set", "quorum"], 2, "possible values"),
        (a, &["protect", "suspend", "--for", "30m"], 2, "--reason"),
        (
            a,
            &["protect", "suspend", "--for", "30m", "--reason", " "],
            2,
            "no reason",
        ),
        (
            a,
            &["protect", "suspend", "--for", "30m", "--reason", "x"],
            4,
            "no bound is in force",
        ),
        (a, &["protect", "resume"], 4, "not suspended"),
        (b, &["policy", "set", "sync"], 4, "on the primary's host"),
    ];
    for (node, line, code, why) in cases {
        for dry_run in [&[][..], &["--dry-run"]] {
            let line = [line, dry_run].concat();
            let output = outlast(&site, node, &line);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{line:?}: {said}");
            assert!(said.contains(why), "{line:?}: {said}");
        }
    }
    let shown = outlast(&site, b, &["policy", "show"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("ask the primary"));
    assert_eq!(status(&site, a)["protection"]["state"], "off");
}

#[test]
fn a_node_answers_over_http_where_it_is_told_to() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    let outlast = |line: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
        command.args(line).arg("--dir").arg(&dir);
        command.stdin(Stdio::null());
        command
    };
    ended(&outlast(&["init", "--name", "a"]).output().unwrap(), 0);
    let mut serving = outlast(&["serve", "-o", "jsonl", "--http", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(serving.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let started: Value = serde_json::from_str(&line).unwrap();
    let address = started["started"]["http"].as_str().unwrap().to_owned();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").contains("outlast_role{role=\"primary\"} 1"));
    let answered = get("/v1/status");
    let body = answered.split_once("\r\n\r\n").unwrap().1;
    let answered: Value = serde_json::from_str(body).unwrap();
    let typed = json(&outlast(&["status", "-o", "json"]).output().unwrap());
    for field in ["schema", "role", "node", "cluster", "policy", "pid", "http"] {
        assert_eq!(answered[field], typed[field], "{field}");
    }
    // One node alone has nobody to be ready.
    let alone = outlast(&["status", "--ready"]).output().unwrap();
    assert!(ended(&alone, 4).contains("no peer"));
    serving.kill().unwrap();
    serving.wait().unwrap();
}
