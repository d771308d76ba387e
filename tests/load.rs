//! What `outlast load` promises whoever feeds it, and what `outlast demo` shows.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::process::{Command, Stdio};

use outlast_tools::load::Ledger;
use support::{Site, batches, ended, history, json};

const SEGMENT_SIZE: u64 = 256 << 10;

#[test]
fn a_load_counts_notes_and_resumes() {
    let site = Site::new(SEGMENT_SIZE);
    let (a, b) = site.start();
    let history = history(1, 300);
    let lines: Vec<&str> = history.iter().map(String::as_str).collect();
    let input = site.input("whole.jsonl", &lines);
    let first = site.input("first.jsonl", &lines[..100]);
    let ledger = site.path("acknowledged.jsonl");
    let arguments = ["--level", "applied", "--ledger", ledger.to_str().unwrap()];
    let loaded = json(&site.load(a.place(), &first, &arguments));
    assert_eq!(loaded["acknowledged"]["applied"], 100);
    assert_eq!(loaded["resume_at"], 100);
    let arguments = [&arguments[..], &["--from", "100"]].concat();
    let loaded = json(&site.load(a.place(), &input, &arguments));
    assert_eq!(loaded["sent"], 200);
    let noted = Ledger::read(&ledger).unwrap();
    assert!(noted.iter().map(|line| line.batch).is_sorted());
    let commits: Vec<_> = noted.iter().map(|line| (line.batch, line.commit)).collect();
    assert_eq!(commits, (0..300).map(|n| (n, n + 1)).collect::<Vec<_>>());
    let expected = outlast_tools::model::state(&batches(&lines));
    assert_eq!(a.scan().unwrap(), expected);
    assert_eq!(b.scan().unwrap(), expected);
    for line in noted.iter().step_by(60) {
        let at = line.lsn.to_string();
        let digest = |node| {
            json(
                &site
                    .pair
                    .run(node, ["digest", "-o", "json", "--at", &at])
                    .unwrap(),
            )
        };
        let shown = digest(a.place());
        assert_eq!(shown["commit"], line.commit);
        assert_eq!(shown, digest(b.place()));
    }
    let beyond = site.load(a.place(), &input, &["--from", "301"]);
    assert!(ended(&beyond, 2).contains("300"));
}

#[test]
fn what_is_no_batch_ends_the_load_before_anything_behind_it_is_sent() {
    let site = Site::new(SEGMENT_SIZE);
    let (a, _b) = site.start();
    let put = |key: &str| format!(r#"{{"ops": [["put", "{key}", ""]]}}"#);
    let (good, behind) = (put("good"), put("behind"));
    for bad in [
        r#"{"ops": [["put", "\ud800", ""]]}"#,
        "{",
        r#"{"ops": [["put"]]}"#,
    ] {
        let input = site.input("bad.jsonl", &[&good, bad, &behind]);
        let said = ended(&site.load(a.place(), &input, &[]), 2);
        assert!(said.contains("line 2"), "{said}");
        assert!(said.contains("--from 1"), "{said}");
        assert_eq!(a.scan().unwrap().into_keys().collect::<Vec<_>>(), ["good"]);
    }
}

#[test]
fn a_batch_over_the_limit_of_a_frame_is_refused_and_nothing_behind_it_is_committed() {
    let site = Site::new(SEGMENT_SIZE);
    let (a, _b) = site.start();
    let put =
        |key: &str, len: usize| format!(r#"{{"ops": [["put", "{key}", "{}"]]}}"#, "v".repeat(len));
    let (good, long, behind) = (put("good", 30_000), put("long", 66_000), put("behind", 1));
    let input = site.input("long.jsonl", &[&good, &long, &behind]);
    let said = ended(&site.load(a.place(), &input, &[]), 2);
    assert!(said.contains("line 2") && said.contains("limit"), "{said}");
    assert_eq!(a.scan().unwrap().into_keys().collect::<Vec<_>>(), ["good"]);
}

#[test]
fn without_a_node_a_load_ends_with_3() {
    let site = Site::new(SEGMENT_SIZE);
    let input = site.input("none.jsonl", &[r#"{"ops": []}"#]);
    ended(&site.load(&site.pair.a, &input, &[]), 3);
}

#[test]
fn the_demo_shows_what_it_says() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_outlast"));
    demo.args(["demo", "--seed", "3", "-o", "json"])
        .stdin(Stdio::null());
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| shown[name].as_u64().unwrap();
    assert!(number("acknowledged") > number("killed_at"), "{shown}");
    assert!(
        number("promoted_batches") >= number("acknowledged"),
        "{shown}"
    );
    assert!(number("promoted_batches") < number("batches"), "{shown}");
    assert!(number("consistent_reads") > 0, "{shown}");
    assert_eq!(shown["certificate"]["outcome"], "promoted");
    assert!(
        said.contains("nothing acknowledged at level replicated is missing"),
        "{said}"
    );
}
