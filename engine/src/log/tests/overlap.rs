//! A group is formed and written while the one before is being synced.

use std::io;
use std::thread::{ScopedJoinHandle, scope};

use parking_lot::Condvar;

use super::*;
use crate::fs::{Access, File, MapPages};

/// A disk whose syncs of segments end when they are told to, once it is held.
#[derive(Clone, Debug)]
struct Held {
    fs: MemFs,
    gate: Arc<Gate>,
}

/// A test that has failed does not wait for ever.
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    /// Syncs that began while it is held.
    begun: usize,
    /// How those end that were told to.
    ends: Vec<bool>,
    writes_fail: bool,
}

#[derive(Debug)]
struct HeldFile {
    file: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl Held {
    fn hold(&self) {
        self.gate.state.lock().held = true;
    }

    /// Lets the next sync end.
    fn end_sync(&self, well: bool) {
        self.gate.state.lock().ends.push(well);
        self.gate.changed.notify_all();
    }

    fn begun(&self) -> usize {
        self.gate.state.lock().begun
    }
}

impl Fs for Held {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.fs.create(name)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = self.fs.open(name, access)?;
        Ok(match access {
            Access::WriteDirect => Arc::new(HeldFile {
                file,
                gate: self.gate.clone(),
            }),
            Access::Read | Access::Write => file,
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.fs.unlink(name)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.fs.create_dir(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.fs.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.fs.sync_dir(dir)
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.fs.lock()
    }

    fn place(&self) -> String {
        self.fs.place()
    }
}

impl File for HeldFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.gate.state.lock().writes_fail {
            return Err(io::ErrorKind::Other.into());
        }
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.gate.state.lock();
        if !state.held {
            return self.file.sync();
        }
        let number = state.begun;
        state.begun += 1;
        while state.ends.len() <= number {
            if self.gate.changed.wait_for(&mut state, LONG).timed_out() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        if state.ends[number] {
            self.file.sync()
        } else {
            Err(io::ErrorKind::Other.into())
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn map(&self, pages: MapPages) -> io::Result<Bytes> {
        self.file.map(pages)
    }
}

fn held() -> (Held, Arc<Log>, Arc<Seen>) {
    let held = Held {
        fs: made(),
        gate: Arc::default(),
    };
    let config = Config {
        background: false,
        ..Config::default()
    };
    let clock = Arc::new(SystemClock::default());
    let log = Log::open(Arc::new(held.clone()), clock, config, &mut |_, _| None).unwrap();
    let seen = Arc::<Seen>::default();
    log.set_sink(seen.clone());
    log.begin_epoch(EpochReason::Init, "", false).unwrap();
    held.hold();
    (held, log, seen)
}

fn keys(seen: &Seen) -> Vec<Vec<u8>> {
    let records = seen.records.lock();
    records.values().map(|(_, key, _)| key.clone()).collect()
}

type Outcome = Result<crate::Receipt, CommitError>;

fn ended(threads: &[&ScopedJoinHandle<'_, Outcome>]) -> bool {
    threads.iter().any(|thread| thread.is_finished())
}

/// Whether the file holds the key, synced or not.
fn is_written(held: &Held, key: &[u8]) -> bool {
    let bytes = read_all(&held.fs, "log/000000000001.seg").unwrap();
    bytes.windows(key.len()).any(|window| window == key)
}

#[test]
fn the_next_group_is_written_meanwhile_and_each_is_shown_when_it_is_synced_itself() {
    let (held, log, seen) = held();
    let before = log.positions();
    scope(|scope| {
        let first = scope.spawn(|| put(&log, b"the first", b""));
        wait_until(|| held.begun() == 1);
        let second = scope.spawn(|| put(&log, b"the second", b""));
        wait_until(|| is_written(&held, b"the second"));
        let now = log.positions();
        assert_eq!(
            (now.durable, now.visible),
            (before.durable, before.visible),
            "nothing is synced yet"
        );
        assert_eq!(held.begun(), 1, "one fsync at a time");
        // Whoever needs all to be at rest waits for both.
        let fence = scope.spawn(|| log.chain());
        assert!(!ended(&[&first, &second]) && keys(&seen).is_empty());

        held.end_sync(true);
        let first = first.join().unwrap().unwrap();
        wait_until(|| held.begun() == 2);
        assert!(!ended(&[&second]) && !fence.is_finished());
        let visible = log.positions().visible.lsn;
        assert!(first.lsn <= visible && visible < log.positions().appended.lsn);
        assert_eq!(keys(&seen), [b"the first".to_vec()]);

        held.end_sync(true);
        let second = second.join().unwrap().unwrap();
        assert_eq!(fence.join().unwrap().lsn, log.positions().durable.lsn);
        assert!(first.lsn < second.lsn && second.lsn <= log.positions().visible.lsn);
        assert_eq!(keys(&seen).len(), 2);
    });
}

#[test]
fn after_a_failed_fsync_the_group_behind_is_not_synced_and_both_end_as_unknown() {
    let (held, log, seen) = held();
    let before = log.positions();
    scope(|scope| {
        let first = scope.spawn(|| put(&log, b"the first", b""));
        wait_until(|| held.begun() == 1);
        let second = scope.spawn(|| put(&log, b"the second", b""));
        wait_until(|| is_written(&held, b"the second"));
        held.end_sync(false);
        for thread in [first, second] {
            let outcome = thread.join().unwrap();
            assert!(
                matches!(outcome, Err(CommitError::Unknown { .. })),
                "{outcome:?}"
            );
        }
    });
    assert_eq!(held.begun(), 1);
    let now = log.positions();
    assert_eq!((now.durable, now.visible), (before.durable, before.visible));
    assert!(keys(&seen).is_empty() && matches!(log.state(), LogState::Poisoned(_)));
}

#[test]
fn after_a_failed_write_the_group_that_is_being_synced_ends_as_unknown_too() {
    let (held, log, seen) = held();
    scope(|scope| {
        let first = scope.spawn(|| put(&log, b"the first", b""));
        wait_until(|| held.begun() == 1);
        held.gate.state.lock().writes_fail = true;
        let second = scope.spawn(|| put(&log, b"the second", b""));
        wait_until(|| matches!(log.state(), LogState::Poisoned(_)));
        held.end_sync(true);
        for thread in [first, second] {
            let outcome = thread.join().unwrap();
            assert!(
                matches!(outcome, Err(CommitError::Unknown { .. })),
                "{outcome:?}"
            );
        }
    });
    assert_eq!((held.begun(), keys(&seen).len()), (1, 0));
}
