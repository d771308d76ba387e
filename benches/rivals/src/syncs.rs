//! That every commit is synced before it returns, as the kernel sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::engine::Kind;
use crate::job::{Job, Stage};
use crate::settings::Settings;

const PUTS: u64 = 300;
/// What a job writes to its output when the opening and each put have returned.
pub(crate) const RETURNED: &str = "returned";

/// Follows lone puts of each engine, and fails if one returned before a file that was written for
/// it was synced.
pub(crate) fn count(engines: &[Kind], dir: &Path) -> Result<()> {
    println!("{PUTS} puts   synced    fdatasync/put  fsync/put  O_DSYNC writes/put");
    for &kind in engines {
        let trace = Trace::read(&trace_of(kind, dir)?);
        let per_put = |count: u64| count as f64 / trace.puts.max(1) as f64;
        println!(
            "{:<10} {:>7} {:>16.2} {:>10.2} {:>19.2}",
            kind.name(),
            trace.synced_puts,
            per_put(trace.fdatasyncs),
            per_put(trace.fsyncs),
            per_put(trace.synced_writes),
        );
        let (puts, name) = (trace.puts, kind.name());
        ensure!(puts == PUTS, "{name} was seen to put {puts} times");
        let early = puts - trace.synced_puts;
        ensure!(early == 0, "{name} returned from {early} puts too early");
    }
    Ok(())
}

const TRACED: &str = "trace=openat,close,fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2";

fn trace_of(kind: Kind, dir: &Path) -> Result<String> {
    let files = tempfile::tempdir_in(dir)?;
    let trace = tempfile::NamedTempFile::new()?;
    let job = Job {
        engine: Some(kind),
        stage: Stage::Puts(PUTS),
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
    let status = Command::new("strace")
        .args(["-f", "-o"])
        .arg(trace.path())
        .args(["-e", TRACED])
        .arg(std::env::current_exe()?)
        .arg("job")
        .arg(serde_json::to_string(&job)?)
        .stdout(Stdio::null())
        .status()
        .context("cannot start strace")?;
    ensure!(status.success(), "{} ended with {status}", kind.name());
    Ok(fs::read_to_string(trace.path())?)
}

/// What puts did, from the return of the opening to that of the last put.
#[derive(Debug, Default, PartialEq, Eq)]
struct Trace {
    puts: u64,
    /// Those during which a file was written and then synced to the end.
    synced_puts: u64,
    fdatasyncs: u64,
    fsyncs: u64,
    /// Into a file that was opened with `O_DSYNC` or `O_SYNC`.
    synced_writes: u64,
}

impl Trace {
    /// Reads lines like `12 pwrite64(7, "x"..., 8, 0) = 8`, of which one may be in two parts:
    /// `12 fdatasync(7 <unfinished ...>` and later `12 <... fdatasync resumed>) = 0`.
    fn read(text: &str) -> Self {
        let mut own = Self::default();
        let mut always_synced = BTreeSet::new();
        let mut unfinished = BTreeMap::new();
        let mut written = BTreeSet::new();
        let (mut opened, mut is_synced) = (false, false);
        for line in text.lines() {
            let (process, call) = line.split_once(' ').unwrap_or_default();
            let call = call.trim_start();
            let (name, arguments) = match call.strip_prefix("<... ") {
                Some(rest) => (rest.split(' ').next().unwrap_or_default(), ""),
                None => call.split_once('(').unwrap_or_default(),
            };
            let file = match arguments.split([',', ')', ' ']).next() {
                None | Some("") => unfinished.remove(process).unwrap_or_default(),
                Some(file) => file,
            };
            let ended = !call.ends_with("<unfinished ...>");
            if !ended {
                unfinished.insert(process, file);
            }
            match name {
                "openat" if call.contains("O_DSYNC") || call.contains("O_SYNC") => {
                    always_synced.extend(call.rsplit_once("= ").map(|(_, file)| file));
                }
                "close" => {
                    always_synced.remove(file);
                }
                "fsync" | "fdatasync" if ended => {
                    let count = match name {
                        "fsync" => &mut own.fsyncs,
                        _ => &mut own.fdatasyncs,
                    };
                    *count += 1;
                    is_synced |= call.ends_with("= 0") && written.contains(file);
                }
                "write" if arguments.contains(RETURNED) && !opened => {
                    opened = true;
                    own = Self::default();
                    (is_synced, written) = (false, BTreeSet::new());
                }
                "write" if arguments.contains(RETURNED) => {
                    own.puts += 1;
                    own.synced_puts += u64::from(is_synced);
                    (is_synced, written) = (false, BTreeSet::new());
                }
                "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
                    if ended && always_synced.contains(file) {
                        own.synced_writes += 1;
                        is_synced = true;
                    }
                    if !arguments.is_empty() {
                        written.insert(file);
                    }
                }
                _ => {}
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETURN: &str = "7 write(1, \"returned\\n\", 9) = 9\n";

    fn put(calls: &str) -> Trace {
        Trace::read(&format!("{RETURN}{calls}{RETURN}"))
    }

    #[test]
    fn a_put_is_synced_when_its_file_is() {
        let synced = |calls| put(calls).synced_puts == 1;
        assert!(synced(
            "7 pwrite64(4, \"x\"..., 8, 0) = 8\n7 fdatasync(4) = 0\n"
        ));
        assert!(!synced(
            "7 pwrite64(4, \"x\"..., 8, 0) = 8\n7 fdatasync(5) = 0\n"
        ));
        assert!(!synced(
            "7 fdatasync(4) = 0\n7 pwrite64(4, \"x\"..., 8, 0) = 8\n"
        ));
        assert!(!synced(
            "7 write(4, \"x\", 1) = 1\n7 fsync(4) = -1 EIO (Input/output error)\n"
        ));
        assert!(synced(
            "7 openat(AT_FDCWD, \"a\", O_RDWR|O_DSYNC) = 5\n7 write(5, \"x\", 1) = 1\n"
        ));
    }

    #[test]
    fn a_call_in_two_parts_counts_when_it_ends() {
        let begun = "7 write(4, \"x\", 1) = 1\n8 fdatasync(4 <unfinished ...>\n";
        assert_eq!(put(begun).synced_puts, 0);
        let ended = format!("{begun}8 <... fdatasync resumed>) = 0\n");
        assert_eq!(put(&ended).synced_puts, 1);
    }

    #[test]
    fn what_opening_does_is_not_counted() {
        let sync = "7 write(4, \"x\", 1) = 1\n7 fsync(4) = 0\n";
        let trace = Trace::read(&format!("{sync}{RETURN}{RETURN}{sync}{RETURN}"));
        assert_eq!((trace.puts, trace.synced_puts, trace.fsyncs), (2, 1, 1));
        assert_eq!(Trace::read(sync).puts, 0);
    }
}
