//! Each call of a node to the disk fails once, or from then on, by strace.
//!
//! The workload is the same in every run: a few commits one after the other, over three segments.
//! The n-th fdatasync, fsync or pwrite64 of each thread fails, for every n that there is: counted
//! from the start of the process, where the faults meet the opening, and from the first commit on.
//! Whatever happens, the node says that it is poisoned or refuses, no failed sync is repeated on
//! the same file, and all that was acknowledged is there when it is opened again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outlast_standby::control::Client;
use outlast_standby::status::Role;
use outlast_tools::load::{Ledger, LoadBatch};
use outlast_tools::pair::{PATIENCE, scan};
use outlast_tools::{child::end_with_this, model};
use rustix::process::{Pid, Signal, kill_process};
use support::batches;
use tempfile::TempDir;

const COMMITS: usize = 48;
/// Three segments of the smallest size.
const VALUE_LEN: usize = 3000;
/// More calls than any thread makes in this workload: a run that meets no fault comes before.
const CALLS_MAX: u64 = 400;

/// From when calls are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum From {
    /// The start of the process, as far as its first thread is concerned.
    Start,
    /// The first commit.
    FirstCommit,
    /// The first commit, of the thread alone that works in the background: any other that meets the
    /// same fault in the run above poisons the log first.
    Lane,
}

/// What fails, and how.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Kind {
    from: From,
    call: &'static str,
    error: &'static str,
    sticky: bool,
}

const CALLS: &[(&str, &str)] = &[
    ("fdatasync", "EIO"),
    ("fsync", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
];

/// What a run has shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Shown {
    /// It did not start.
    Refused,
    /// It took writes no longer.
    Poisoned,
    /// It refused commits, and is not poisoned: nothing of them was written.
    FailedCommits,
    /// What failed was not needed, or was done again in another way.
    Went,
}

/// The directory that each run begins with a copy of, and its input.
struct Bed {
    root: TempDir,
    input: PathBuf,
    batches: Vec<LoadBatch>,
}

impl Bed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let output = outlast()
            .args(["init", "--name", "c", "--segment-size", "64KiB", "--dir"])
            .arg(root.path().join("new"))
            .output()
            .unwrap();
        support::ended(&output, 0);
        let line = |number| {
            let value = format!("{number:06}").repeat(VALUE_LEN / 6);
            format!(r#"{{"ts_ms":0,"ops":[["put","key","{number}"],["put","long","{value}"]]}}"#)
        };
        let lines: Vec<String> = (0..COMMITS).map(line).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let input = root.path().join("input.jsonl");
        fs::write(&input, lines.join("\n") + "\n").unwrap();
        let batches = batches(&lines);
        Self {
            root,
            input,
            batches,
        }
    }

    /// Runs the workload with a fault. `None` when there was no such call.
    fn run(&self, kind: Kind, n: u64) -> Option<Shown> {
        let what = format!("{kind:?}, call {n}");
        let home = tempfile::tempdir_in(self.root.path()).unwrap();
        let (dir, trace) = (home.path().join("node"), home.path().join("trace"));
        let (said, ledger) = (home.path().join("said"), home.path().join("ledger"));
        copy(&self.root.path().join("new"), &dir);
        let mut strace = strace(kind, n, &trace);
        let mut running = match kind.from {
            From::Start => Running::start(strace.args(["-f", OUTLAST]), &dir, &said),
            From::FirstCommit | From::Lane => {
                Running::start(end_with_this(&mut outlast()), &dir, &said)
            }
        };
        let up = running.until_up(&dir);
        match kind.from {
            From::Start => {}
            From::FirstCommit => running.attach(strace.arg("-f"), None),
            From::Lane => running.attach(&mut strace, Some("outlast-lane")),
        }
        let mut shown = Shown::Refused;
        if up {
            let loaded = load(&dir, &self.input, 0)
                .arg("--ledger")
                .arg(&ledger)
                .output();
            let loaded = loaded.unwrap().status;
            let status = status(&dir).unwrap_or_else(|| panic!("{what}: the node is gone"));
            shown = match (loaded.success(), status) {
                (_, Role::Poisoned { .. }) => Shown::Poisoned,
                (true, Role::Primary) => Shown::Went,
                (false, Role::Primary) => Shown::FailedCommits,
                (_, role) => panic!("{what}: {loaded}, {role:?}"),
            };
        }
        // Behind a quick writer that thread has yet to prepare the next segment.
        if up && kind.from == From::Lane && n == 1 {
            let met = || fs::read_to_string(&trace).unwrap().contains("(INJECTED)");
            until("the thread in the background meets its fault", || {
                met().then_some(())
            });
        }
        let main = running.end();
        let said = fs::read_to_string(said).unwrap();
        assert!(up || said.contains("error: "), "{what}: {said}");
        let mut trace = fs::read_to_string(trace).unwrap();
        if kind.from == From::Lane {
            // Of one thread strace does not say which.
            trace = trace.lines().map(|line| format!("0 {line}\n")).collect();
        }
        let acknowledged = match ledger.exists() {
            true => Ledger::read(&ledger).unwrap().len(),
            false => 0,
        };
        assert!(
            shown != Shown::Went || acknowledged == COMMITS,
            "{what}: {acknowledged}"
        );
        let repeated = repeated_syncs(&trace);
        assert!(
            repeated.is_empty(),
            "{what}: {shown:?}: repeated: {repeated:?}\n{trace}"
        );
        self.opens_again(&dir, acknowledged, &what);
        let injected = trace.lines().any(|line| {
            let of_main = line.split(' ').next() == main.map(|pid| pid.to_string()).as_deref();
            line.ends_with("(INJECTED)") && (!up || kind.from != From::Start || of_main)
        });
        injected.then_some(shown)
    }

    /// That a directory opens without faults, holds what was acknowledged, and takes the rest.
    fn opens_again(&self, dir: &Path, acknowledged: usize, what: &str) {
        let said = dir.with_extension("said-again");
        let mut again = Running::start(end_with_this(&mut outlast()), dir, &said);
        let up = again.until_up(dir);
        assert!(up, "{what}: {}", fs::read_to_string(said).unwrap());
        let held = self.prefix(dir, what);
        assert!(
            acknowledged <= held,
            "{what}: {acknowledged} acknowledged, {held} held"
        );
        support::ended(&load(dir, &self.input, held).output().unwrap(), 0);
        assert_eq!(self.prefix(dir, what), COMMITS, "{what}");
        again.end();
    }

    /// The only number of batches after which the state is what the node shows.
    fn prefix(&self, dir: &Path, what: &str) -> usize {
        let mut client = Client::connect(dir).unwrap();
        let status = client.status().unwrap();
        // The keyspace is not there before the first batch.
        if status.positions.visible.commit == 0 {
            return 0;
        }
        let state = scan(&mut client).unwrap();
        let equal = model::prefixes(&self.batches, &state);
        assert_eq!(equal.len(), 1, "{what}: a state that never was: {equal:?}");
        usize::try_from(equal[0]).unwrap()
    }
}

const OUTLAST: &str = env!("CARGO_BIN_EXE_outlast");

fn outlast() -> Command {
    let mut command = Command::new(OUTLAST);
    command.stdin(Stdio::null());
    command
}

fn load(dir: &Path, input: &Path, from: usize) -> Command {
    let mut command = outlast();
    command.args(["load", "--in-flight", "1", "--from", &from.to_string()]);
    command.arg("--input").arg(input).arg("--dir").arg(dir);
    command
}

/// strace as it makes a call fail; the paths of files are in its trace.
fn strace(kind: Kind, n: u64, trace: &Path) -> Command {
    let Kind {
        call,
        error,
        sticky,
        ..
    } = kind;
    let on = if sticky { "+" } else { "" };
    let mut command = Command::new("strace");
    command
        .args([
            "-y",
            "-e",
            "trace=fdatasync,fsync,pwrite64,openat,rename,unlink",
        ])
        .arg("-e")
        .arg(format!("inject={call}:error={error}:when={n}{on}"))
        .args(["-s", "0", "-e", "signal=none", "-o"])
        .arg(trace)
        .stdin(Stdio::null());
    command
}

/// A node, and what traces it.
struct Running {
    child: Child,
    tracer: Option<Child>,
    pid: Option<Pid>,
}

impl Running {
    fn start(command: &mut Command, dir: &Path, said: &Path) -> Self {
        let said = fs::File::create(said).unwrap();
        command.arg("serve").arg("--dir").arg(dir);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn();
        Self {
            child: child.expect("strace and outlast can be run"),
            tracer: None,
            pid: None,
        }
    }

    /// Waits until the node answers; `false` when it ends before.
    fn until_up(&mut self, dir: &Path) -> bool {
        until("the node answers or ends", || {
            if let Ok(mut client) = Client::connect(dir)
                && let Ok(status) = client.status()
            {
                let pid = i32::try_from(status.pid.unwrap()).unwrap();
                self.pid = Some(Pid::from_raw(pid).unwrap());
                return Some(true);
            }
            let status = self.child.try_wait().unwrap()?;
            assert!(!status.success(), "it ended with {status}");
            Some(false)
        })
    }

    /// Traces all threads of the node from here on, or the one of this name.
    fn attach(&mut self, strace: &mut Command, name: Option<&str>) {
        let pid = self.pid.unwrap().as_raw_nonzero().get().to_string();
        let named = |task: &fs::DirEntry| {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.is_none_or(|name| comm.trim_end() == name)
        };
        let tasks = || {
            fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .map(Result::unwrap)
        };
        let thread = match name {
            Some(_) => tasks().find(named).unwrap().file_name(),
            None => pid.clone().into(),
        };
        let strace = strace.arg("-p").arg(thread);
        let strace = strace.stdout(Stdio::null()).stderr(Stdio::null());
        self.tracer = Some(strace.spawn().expect("strace can be run"));
        let traced = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        until("its threads are traced", || {
            tasks().filter(named).all(traced).then_some(())
        });
    }

    /// Kills the node, and waits until all is traced. Answers with the number of its first thread.
    fn end(mut self) -> Option<i32> {
        if let Some(pid) = self.pid {
            kill_process(pid, Signal::KILL).unwrap();
        }
        self.child.wait().unwrap();
        if let Some(tracer) = &mut self.tracer {
            tracer.wait().unwrap();
        }
        self.pid.take().map(|pid| pid.as_raw_nonzero().get())
    }
}

impl Drop for Running {
    /// After a failure: what is traced does not end with what traces it.
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, Signal::KILL);
        }
        for child in [Some(&mut self.child), self.tracer.as_mut()]
            .into_iter()
            .flatten()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn status(dir: &Path) -> Option<Role> {
    Some(Client::connect(dir).ok()?.status().ok()?.role)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Files that were synced again after a sync of them had failed, and that were not made anew in
/// between; and directories in which no name had changed in between.
fn repeated_syncs(trace: &str) -> Vec<String> {
    let (mut failed, mut repeated) = (BTreeSet::new(), Vec::new());
    // What each thread is in the middle of.
    let mut begun = BTreeMap::new();
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let rest = rest.trim_start();
        let made = rest.starts_with("openat(") && rest.contains("O_EXCL");
        if made || rest.starts_with("rename(") || rest.starts_with("unlink(") {
            for path in rest.split('"').skip(1).step_by(2) {
                failed.remove(path);
                failed.remove(path.rsplit_once('/').unwrap_or_default().0);
            }
        }
        let sync = rest
            .strip_prefix("fdatasync(")
            .or(rest.strip_prefix("fsync("));
        if let Some(sync) = sync {
            let path = sync.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            if failed.contains(&path) {
                repeated.push(path.clone());
            }
            begun.insert(thread, path);
        }
        let ended = sync.is_some() || rest.starts_with("<... f");
        if ended && rest.contains("= -1 ") {
            failed.extend(begun.get(thread).cloned());
        }
    }
    repeated
}

#[test]
fn a_repeated_sync_is_seen() {
    let of = |again: &str| {
        format!(
            "7 fdatasync(5</d/file> <unfinished ...>\n8 fsync(6</d>) = 0\n\
             7 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)\n{again}\n"
        )
    };
    assert_eq!(
        repeated_syncs(&of("8 fdatasync(9</d/file>) = 0")),
        ["/d/file"]
    );
    assert_eq!(repeated_syncs(&of("8 fdatasync(9</d/other>) = 0")), [""; 0]);
    let made = "8 openat(AT_FDCWD, \"/d/file\", O_RDWR|O_CREAT|O_EXCL) = 9</d/file>\n\
                8 fdatasync(9</d/file>) = 0";
    assert_eq!(repeated_syncs(&of(made)), [""; 0]);
    let dir = "7 fsync(6</d>) = -1 EIO (Input/output error) (INJECTED)\n";
    let again = "7 fsync(6</d>) = 0\n";
    assert_eq!(repeated_syncs(&[dir, again].concat()), ["/d"]);
    let renamed = "7 rename(\"/d/file.tmp\", \"/d/file\") = 0\n";
    assert_eq!(repeated_syncs(&[dir, renamed, again].concat()), [""; 0]);
}

#[test]
fn whatever_call_fails_nothing_acknowledged_is_lost() {
    let version = Command::new("strace").arg("--version").output();
    assert!(version.is_ok(), "strace is needed: install it");
    let bed = Bed::new();
    let mut kinds = Vec::new();
    for from in [From::FirstCommit, From::Start, From::Lane] {
        for (call, error) in CALLS {
            for sticky in [false, true] {
                kinds.push(Kind {
                    from,
                    call,
                    error,
                    sticky,
                });
            }
        }
    }
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut shown = BTreeMap::<Shown, u64>::new();
            let mut n = 1;
            while let Some(what) = bed.run(*kind, n) {
                *shown.entry(what).or_default() += 1;
                n += 1;
                assert!(n < CALLS_MAX, "{kind:?}: there is no end of calls");
            }
            eprintln!("{kind:?}: {} calls: {shown:?}", n - 1);
            found.lock().unwrap().insert(*kind, (n - 1, shown));
        }
    };
    std::thread::scope(|scope| {
        let others = [scope.spawn(work), scope.spawn(work)];
        work();
        for other in others {
            other.join().unwrap();
        }
    });
    let found = found.into_inner().unwrap();
    let runs: u64 = found.values().map(|(calls, _)| calls).sum();
    eprintln!("{runs} calls failed, each in a run of its own; 0 failed syncs repeated");
    for (kind, (calls, shown)) in found {
        // Each commit is a write and a sync.
        let least = match (kind.from, kind.call) {
            (From::FirstCommit, "fdatasync" | "pwrite64") => COMMITS as u64,
            _ => 1,
        };
        assert!(calls >= least, "{kind:?}: only {calls} calls");
        assert!(
            kind.from != From::FirstCommit
                || kind.call == "fsync"
                || shown.contains_key(&Shown::Poisoned),
            "{kind:?}: nothing was poisoned: {shown:?}"
        );
    }
}
