//! How often each engine syncs for one commit, as the kernel sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::engine::Kind;
use crate::job::{Job, Stage};
use crate::settings::Settings;

const FEW: u64 = 100;
const MANY: u64 = 600;

/// Counts the calls of `FEW` and of `MANY` lone puts; the difference is what commits alone cost.
pub(crate) fn count(engines: &[Kind], dir: &Path) -> Result<()> {
    println!(
        "{:<10} {:>10} {:>10} {:>14}",
        "a put:", "fdatasync", "fsync", "O_DSYNC write"
    );
    for &kind in engines {
        let few = calls_of(kind, dir, FEW)?;
        let many = calls_of(kind, dir, MANY)?;
        let per_put = |call: Call| {
            let count = |calls: &BTreeMap<_, u64>| calls.get(&call).copied().unwrap_or_default();
            count(&many).saturating_sub(count(&few)) as f64 / (MANY - FEW) as f64
        };
        let [data, all, write] = [Call::Fdatasync, Call::Fsync, Call::SyncedWrite].map(per_put);
        println!("{:<10} {data:>10.2} {all:>10.2} {write:>14.2}", kind.name());
        // A file may end and be synced in between, so it is not less, and may be a little more.
        ensure!(data + all >= 1.0, "{} does not sync every put", kind.name());
    }
    Ok(())
}

/// What makes something durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Fdatasync,
    Fsync,
    /// Into a file that was opened with `O_DSYNC` or `O_SYNC`.
    SyncedWrite,
}

fn calls_of(kind: Kind, dir: &Path, puts: u64) -> Result<BTreeMap<Call, u64>> {
    let files = tempfile::tempdir_in(dir)?;
    let trace = tempfile::NamedTempFile::new()?;
    let job = Job {
        engine: Some(kind),
        stage: Stage::Puts(puts),
        dir: files.path().to_owned(),
        settings: Settings {
            keys: 0,
            overwrite_bytes: 0,
            row_ms: 0,
            rounds: 1,
            cache_bytes: 64 << 20,
        },
        memory_group: None,
    };
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o"])
        .arg(trace.path())
        .args([
            "-e",
            "trace=openat,close,fsync,fdatasync,write,pwrite64,writev,pwritev",
        ])
        .arg(std::env::current_exe()?)
        .arg("job")
        .arg(serde_json::to_string(&job)?)
        .stdout(Stdio::null());
    let status = command.status().context("cannot start strace")?;
    ensure!(
        status.success(),
        "{} under strace ended with {status}",
        kind.name()
    );
    Ok(calls_in(&fs::read_to_string(trace.path())?))
}

/// Reads lines like `123 openat(AT_FDCWD, "x", O_RDWR|O_DSYNC) = 7` and `123 fdatasync(7) = 0`.
fn calls_in(trace: &str) -> BTreeMap<Call, u64> {
    let mut calls = BTreeMap::new();
    let mut synced = BTreeSet::new();
    for line in trace.lines() {
        let line = line
            .split_once(' ')
            .map_or(line, |(_, call)| call.trim_start());
        let Some((name, rest)) = line.split_once('(') else {
            continue;
        };
        let file = rest.split([',', ')', ' ']).next().unwrap_or_default();
        let call = match name {
            "fdatasync" => Call::Fdatasync,
            "fsync" => Call::Fsync,
            "write" | "pwrite64" | "writev" | "pwritev" if synced.contains(file) => {
                Call::SyncedWrite
            }
            "openat" if rest.contains("O_DSYNC") || rest.contains("O_SYNC") => {
                let opened = rest.rsplit_once("= ").map_or("", |(_, file)| file);
                synced.insert(opened.to_owned());
                continue;
            }
            "close" => {
                synced.remove(file);
                continue;
            }
            _ => continue,
        };
        *calls.entry(call).or_default() += 1;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let trace = "\
7 openat(AT_FDCWD, \"a\", O_RDWR|O_DSYNC) = 5
7 pwrite64(5, \"x\"..., 8, 0) = 8
8 fdatasync(4 <unfinished ...>
7 pwrite64(4, \"x\"..., 8, 0) = 8
8 <... fdatasync resumed>) = 0
7 close(5) = 0
7 write(5, \"x\", 1) = 1
7 fsync(4) = 0";
        let calls = calls_in(trace);
        let expected = [Call::Fdatasync, Call::Fsync, Call::SyncedWrite].map(|call| (call, 1));
        assert_eq!(calls, BTreeMap::from(expected));
    }
}
