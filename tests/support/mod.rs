//! What the tests share that start the binary: pairs of nodes, loads, digests, kills.

// Each test includes this module by its path and uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use outlast_standby::config::Tuning;
use outlast_tools::load::{Batches, Ledger, LedgerLine, LoadBatch};
use outlast_tools::pair::{NodePlace, NodeProcess, PATIENCE, Pair, PairSettings};
use serde_json::Value;
use tempfile::TempDir;

/// A pair below a temporary directory. Its processes end with their handles.
pub struct Site {
    pub pair: Pair,
    pub root: TempDir,
}

impl Site {
    pub fn new(segment_size: u64) -> Self {
        Self::tuned(segment_size, Tuning::default())
    }

    /// One that finds out quickly who is gone, and else runs as `tuning` says.
    pub fn tuned(segment_size: u64, tuning: Tuning) -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PairSettings {
            segment_size,
            tuning: Tuning {
                heartbeat_interval: Duration::from_millis(50),
                silence_max: Duration::from_millis(400),
                ..tuning
            },
        };
        let exe = Path::new(env!("CARGO_BIN_EXE_outlast"));
        let pair = Pair::make(exe, root.path(), settings).unwrap();
        Self { pair, root }
    }

    /// Both nodes, met.
    pub fn start(&self) -> (NodeProcess, NodeProcess) {
        let (a, b) = (self.start_one(&self.pair.a), self.start_one(&self.pair.b));
        a.until_connected().unwrap();
        (a, b)
    }

    pub fn start_one(&self, node: &NodePlace) -> NodeProcess {
        self.pair.start(node).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes batches down as an input.
    pub fn input(&self, name: &str, lines: &[&str]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }

    pub fn load(&self, node: &NodePlace, input: &Path, arguments: &[&str]) -> Output {
        self.load_command(node, input, arguments).output().unwrap()
    }

    /// A load on its way; it is killed when dropped.
    pub fn begin_load(&self, node: &NodePlace, input: &Path, arguments: &[&str]) -> Loading {
        let said = fs::File::create(self.path("load.said")).unwrap();
        let child = self
            .load_command(node, input, arguments)
            .arg("--ledger")
            .arg(self.ledger())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        Loading {
            child,
            ledger: self.ledger(),
            said: self.path("load.said"),
        }
    }

    fn load_command(
        &self,
        node: &NodePlace,
        input: &Path,
        arguments: &[&str],
    ) -> std::process::Command {
        let mut command = self.pair.command(node, ["load", "-o", "json", "--input"]);
        command.arg(input).args(arguments);
        command
    }

    fn ledger(&self) -> PathBuf {
        self.path("ledger.jsonl")
    }

    /// Live keys and the SHA-256 of the state, as the binary says.
    pub fn digest(&self, node: &NodePlace) -> (u64, String) {
        let output = self.pair.run(node, ["digest", "-o", "json"]).unwrap();
        let value = json(&output);
        let keys = value["keys"].as_u64().unwrap();
        (keys, value["sha256"].as_str().unwrap().to_owned())
    }
}

/// A running `outlast load`.
pub struct Loading {
    child: Child,
    ledger: PathBuf,
    said: PathBuf,
}

impl Loading {
    /// Waits until so many batches are acknowledged.
    pub fn until_acknowledged(&mut self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = fs::read(&self.ledger).unwrap_or_default();
            let lines = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            if lines >= count {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{lines} of {count}: {}", self.said());
            assert!(Instant::now() < deadline, "only {lines} of {count}");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Waits for its end. What it acknowledged is in the ledger that comes with it.
    pub fn end(mut self) -> (ExitStatus, Vec<LedgerLine>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the load does not end");
            std::thread::park_timeout(Duration::from_millis(1));
        };
        (status, Ledger::read(&self.ledger).unwrap())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The batches of lines.
pub fn batches(lines: &[&str]) -> Vec<LoadBatch> {
    let text = std::io::Cursor::new(lines.join("\n").into_bytes());
    Batches::read(text).map(Result::unwrap).collect()
}

/// Checks that a command ended with `code`.
pub fn ended(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

pub fn json(output: &Output) -> Value {
    ended(output, 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A history of the shape of a repository's: long paths in folders, mostly overwrites, renames, and
/// now and then a folder that comes or goes as a whole.
pub fn history(seed: u64, count: usize) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let folders = [
        "src",
        "src/network/transport",
        "docs/한국어",
        "tests/data \"quoted\"",
        "",
    ];
    let content = |random: &mut fastrand::Rng| match random.u8(0..50) {
        0 => String::new(),
        1 => "v".repeat(random.usize(1000..9000)),
        _ => format!("100644 {:016x}{:016x}", random.u64(..), random.u64(..)),
    };
    let path = |random: &mut fastrand::Rng| {
        let folder = folders[random.usize(..folders.len())];
        format!("{folder}/module_{}.rs", random.u8(..60))
    };
    let mut lines = Vec::with_capacity(count);
    for number in 0..count {
        let mut ops = Vec::new();
        match random.u8(0..100) {
            0 => {
                let folder = folders[random.usize(..folders.len())];
                for file in 0..60 {
                    ops.push(serde_json::json!([
                        "delete",
                        format!("{folder}/module_{file}.rs")
                    ]));
                }
            }
            1..=10 => {
                ops.push(serde_json::json!(["delete", path(&mut random)]));
                let to = path(&mut random);
                ops.push(serde_json::json!(["put", to, content(&mut random)]));
            }
            _ => {
                for _ in 0..random.usize(1..6) {
                    let to = path(&mut random);
                    ops.push(serde_json::json!(["put", to, content(&mut random)]));
                }
            }
        }
        // So that every batch changes the state, and a state is that of one prefix alone.
        ops.push(serde_json::json!(["put", "HEAD", number.to_string()]));
        let time = 1_600_000_000_000_i64 - 7 * i64::try_from(number).unwrap();
        lines.push(serde_json::json!({ "ts_ms": time, "ops": ops }).to_string());
    }
    lines
}
