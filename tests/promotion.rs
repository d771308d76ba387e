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
use outlast_standby::status::{ProtectionState, Role};
use outlast_standby::{HookEnd, NodeDir};
use outlast_tools::pair::{NodePlace, NodeProcess, PATIENCE};
use outlast_tools::relay;
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

/// A pair whose primary reaches its standby by way of a relay, in which the line can be cut.
fn apart() -> (Site, relay::RelayHandle) {
    let site = Site::new(SEGMENT);
    let relay = relay::spawn(relay::Settings::plain(site.pair.b.address())).unwrap();
    site.pair.reach(&site.pair.a, relay.address()).unwrap();
    // The standby dials nobody, and once it is promoted it cannot either: the line is cut.
    let nobody = "127.0.0.1:9".parse().unwrap();
    site.pair.reach(&site.pair.b, nobody).unwrap();
    (site, relay)
}

fn bounded(site: &Site, a: &NodeProcess, lease: &str) {
    let policy = [
        "policy",
        "set",
        "bounded",
        "--commits",
        "100",
        "--lease",
        lease,
    ];
    ended(&site.pair.run(&site.pair.a, policy).unwrap(), 0);
    let protected = |a: &NodeProcess| {
        let protection = a.status()?.protection;
        let protected = ProtectionState::Protected;
        Ok(protection
            .is_some_and(|now| now.state == protected)
            .then_some(()))
    };
    a.until("the bound is in force", protected).unwrap();
    // And the standby has heard of it.
    filled(site, 3);
}

/// What an operator types and reads, as the runbook shows it.
struct Transcript<'a> {
    site: &'a Site,
    text: String,
}

impl<'a> Transcript<'a> {
    fn new(site: &'a Site) -> Self {
        let text = String::new();
        Self { site, text }
    }

    /// Types a command on the standby, which ends with `code`.
    fn types(&mut self, line: &str, code: i32) -> String {
        let output = self.run(line);
        ended(&output, code);
        self.keep(line, &output)
    }

    /// Types a command again and again until it says `what`; the last time stays.
    fn types_until(&mut self, line: &str, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.run(line);
            if stdout(&output).contains(what) {
                return self.keep(line, &output);
            }
            assert!(Instant::now() < deadline, "{}", stdout(&output));
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn run(&self, line: &str) -> Output {
        let words = line
            .split('\'')
            .enumerate()
            .flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            });
        self.site.pair.run(&self.site.pair.b, words).unwrap()
    }

    fn keep(&mut self, line: &str, output: &Output) -> String {
        let said = stdout(output);
        let here = self.site.pair.b.dir().to_str().unwrap();
        let code = output.status.code().unwrap();
        let shown = shortened(&said).replace(here, "/var/lib/outlast");
        self.text += &format!("b$ outlast {line}\n{shown}");
        if code != 0 {
            self.text += &format!("(exit {code})\n");
        }
        said
    }

    /// The runbook shows it under this title, but for figures and ids.
    fn is_in_the_runbook(&self, title: &str) {
        let runbook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../RUNBOOK.md");
        let runbook = fs::read_to_string(runbook).unwrap();
        let (_, below) = runbook
            .split_once(&format!("\n**{title}**"))
            .unwrap_or_default();
        let (_, block) = below.split_once("```text\n").unwrap_or_default();
        let (block, _) = block.split_once("```").unwrap_or_default();
        let same = without_figures(block) == without_figures(&self.text);
        assert!(
            same,
            "the runbook should show, under {title:?}:\n{}",
            self.text
        );
    }
}

/// A promotion in full; of what comes before, the lines that decide.
fn shortened(said: &str) -> String {
    const DECIDE: [&str; 7] = [
        "REFUSED", "DRY RUN", "NOTHING", "fencing", "silence", "bound", "next",
    ];
    let decides = |line: &&str| DECIDE.iter().any(|name| line.starts_with(name));
    let all = said.starts_with("PROMOTED");
    let lines = said.lines().filter(|line| all || decides(line));
    let mut shown: String = lines.map(|line| format!("{line}\n")).collect();
    if !all {
        shown += "…\n";
    }
    shown
}

/// A text without what is different each time: figures, and the digits of ids.
fn without_figures(text: &str) -> String {
    let is_digit = |c: char| c.is_ascii_hexdigit();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_digit) {
        let (before, run) = rest.split_at(at);
        let (run, after) = run.split_at(run.find(|c| !is_digit(c)).unwrap_or(run.len()));
        plain += before;
        let figure = run.len() >= 8 || run.contains(|c: char| c.is_ascii_digit());
        plain += if figure { "0" } else { run };
        rest = after;
    }
    plain + rest
}

#[test]
fn a_partitioned_primary_is_replaced_once_it_answers_nothing_any_more() {
    let (site, mut relay) = apart();
    let (a, b) = site.start();
    bounded(&site, &a, "2s");
    let mut typed = Transcript::new(&site);
    let said = typed.types("promote --dry-run", 4);
    assert!(
        said.contains("REFUSED         the primary answered"),
        "{said}"
    );
    // Both ways; and clients of the old primary go on.
    relay
        .change(|lines| (lines.up.cut, lines.down.cut) = (true, true))
        .unwrap();
    let more = lines(1000);
    let more: Vec<_> = more.iter().map(String::as_str).collect();
    let input = site.input("more.jsonl", &more);
    let mut load = site.begin_load(&site.pair.a, &input, &["--in-flight", "300"]);
    let line = "promote --dry-run --accept-loss 100 --reason 'hall 3 is cut off'";
    let said = typed.types_until(line, "may still answer");
    assert!(said.contains("fencing         NOT"), "{said}");
    let said = typed.types_until(line, "DRY RUN");
    for line in [
        "fencing         FENCED",
        "bound           at most 100 commits",
        "measured loss   0 commits",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let said = typed.types("promote --accept-loss 99 --reason 'hall 3 is cut off'", 4);
    assert!(said.contains("at most 100 commits can be lost"), "{said}");
    let said = typed.types("promote --accept-loss 100 --reason 'hall 3 is cut off'", 0);
    assert!(said.contains("PROMOTED        b is the primary"), "{said}");
    assert_eq!(b.status().unwrap().role, Role::Primary);
    // The old one runs, waits, and answered no more than was certified.
    assert!(!load.has_ended());
    assert_eq!(a.status().unwrap().role, Role::Primary);
    relay
        .change(|lines| (lines.up.cut, lines.down.cut) = (false, false))
        .unwrap();
    let fenced = |a: &NodeProcess| Ok((a.status()?.role == Role::Fenced { term: 2 }).then_some(()));
    a.until("it meets the new term", fenced).unwrap();
    let (status, answered) = load.end();
    assert!(!status.success());
    assert!(answered.len() <= 100, "{} were answered", answered.len());
    typed.is_in_the_runbook("A primary that was cut off");
}

#[test]
fn a_dead_primary_is_replaced_by_an_operator_who_accepts_the_loss() {
    let (site, _relay) = apart();
    let (a, b) = site.start();
    filled(&site, 10);
    a.kill().unwrap();
    let mut typed = Transcript::new(&site);
    let said = typed.types_until("promote --dry-run", "was not accepted");
    assert!(said.contains("the policy async has none"), "{said}");
    let line = "promote --primary-is-down --accept-loss unbounded --reason 'fire in hall 3'";
    let said = typed.types(line, 0);
    for line in [
        "fencing         STATED",
        "measured loss   0 commits, 0 bytes",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(b.scan().unwrap().len(), 10);
    let again = typed.types(line, 0);
    assert!(again.starts_with("NOTHING TO DO"), "{again}");
    typed.is_in_the_runbook("A primary that is gone, under async");
}

#[test]
fn a_suspended_bound_certifies_nothing() {
    let (site, _relay) = apart();
    let (a, _b) = site.start();
    bounded(&site, &a, "1s");
    let suspend = [
        "protect",
        "suspend",
        "--for",
        "30m",
        "--reason",
        "the line is mended",
    ];
    ended(&site.pair.run(&site.pair.a, suspend).unwrap(), 0);
    filled(&site, 10);
    a.kill().unwrap();
    let mut typed = Transcript::new(&site);
    let line = "promote --primary-is-down --accept-loss 100 --reason 'fire in hall 3'";
    let said = typed.types_until(line, "was not accepted");
    let why = "the loss has no bound (the bound was suspended at the old primary)";
    assert!(said.contains(why), "{said}");
    let line = "promote --primary-is-down --accept-loss unbounded --reason 'fire in hall 3'";
    let said = typed.types(line, 0);
    for line in [
        "fencing         STATED",
        "UNBOUNDED (the bound was suspended",
    ] {
        assert!(said.contains(line), "{said}");
    }
    typed.is_in_the_runbook("A primary whose bound was suspended");
}

#[test]
fn a_conflict_is_settled_by_the_history_that_an_operator_names() {
    let site = Site::new(SEGMENT);
    let (a, b) = site.start();
    filled(&site, 5);
    let (here, there) = (&site.pair.a, &site.pair.b);
    let backup = site.path("backup");
    let to = ["checkpoint", "--to", backup.to_str().unwrap()];
    ended(&site.pair.run(here, to).unwrap(), 0);
    a.kill().unwrap();
    b.kill().unwrap();
    // The backup is promoted in the primary's place, and the standby as well.
    fs::rename(here.dir(), site.path("lost")).unwrap();
    let address = here.address().to_string();
    let restore = [
        &["restore", "--from", backup.to_str().unwrap(), "--name", "a"][..],
        &[
            "--role", "standby", "--peer", "b", "--policy", "async", "--listen", &address,
        ],
    ];
    ended(&site.pair.run(here, restore.concat()).unwrap(), 0);
    for (node, other) in [(here, there), (there, here)] {
        let card = stdout(&site.pair.run(other, ["pin", "show"]).unwrap());
        let address = other.address().to_string();
        fs::remove_file(NodeDir::new(node.dir()).peers()).ok();
        let trust = ["pin", "trust", "--address", &address, card.trim()];
        ended(&site.pair.run(node, trust).unwrap(), 0);
        site.pair
            .promote(node, "each thinks that the other is gone")
            .unwrap();
    }
    let (a, b) = (site.start_one(here), site.start_one(there));
    for node in [&a, &b] {
        let conflict = |node: &NodeProcess| {
            let conflict = matches!(node.status()?.role, Role::Conflict { .. });
            Ok(conflict.then_some(()))
        };
        node.until("the conflict is seen", conflict).unwrap();
    }
    let shown = stdout(&site.pair.run(there, ["status"]).unwrap());
    assert!(shown.starts_with("CONFLICT"), "{shown}");
    assert!(shown.contains("outlast resolve --keep EPOCH"), "{shown}");
    let epoch = b.status().unwrap().epoch.unwrap();
    let short = format!("{}.{}/{}", epoch.term, epoch.start, epoch.id.short());
    let resolve = |node: &NodePlace, keep: &str, more: &[&str]| {
        let line = [
            "resolve",
            "--keep",
            keep,
            "--reason",
            "b has the newest orders",
        ];
        site.pair.run(node, [&line[..], more].concat()).unwrap()
    };
    let refused = resolve(here, &short, &[]);
    ended(&refused, 4);
    assert!(
        stdout(&refused).contains("all 32 digits"),
        "{}",
        stdout(&refused)
    );
    let dry = resolve(there, &short, &["--dry-run"]);
    ended(&dry, 0);
    assert!(stdout(&dry).starts_with("DRY RUN"), "{}", stdout(&dry));
    assert!(matches!(b.status().unwrap().role, Role::Conflict { .. }));
    let done = resolve(there, &short, &[]);
    ended(&done, 0);
    let text = stdout(&done);
    for line in [
        "KEPT            b takes writes",
        "lost report     not available",
        "rejoin          not",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(b.status().unwrap().role, Role::Primary);
    let fenced = |a: &NodeProcess| Ok((a.status()?.role == Role::Fenced { term: 3 }).then_some(()));
    a.until("the other one steps back", fenced).unwrap();
    assert_eq!(a.scan().unwrap().len(), 5, "readable and whole");
}
