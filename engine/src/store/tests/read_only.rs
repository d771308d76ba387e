//! Reading a store beside the one who writes it, and one that nobody has open.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::fs::Fs;

fn view(fs: &MemFs) -> Store {
    let clock = Arc::<SystemClock>::default();
    Store::open_read_only_on(Arc::new(fs.clone()), clock, Config::default()).unwrap()
}

fn contents(snapshot: &Snapshot, keyspace: &Keyspace) -> Vec<(Bytes, Bytes)> {
    snapshot.iter(keyspace).map(crate::Result::unwrap).collect()
}

/// Every file below a directory with its bytes.
fn files(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_store_that_nobody_has_open_is_read_without_a_byte_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let config = Config {
        flush_after_entries: 7,
        ..Config::default()
    };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..40 {
        put(&store, &keyspace, &format!("{n:03}"), &[1; 3000]);
    }
    store.close().unwrap();
    let expected = contents(&store.snapshot(), &keyspace);
    drop(store);
    // A copy that was never opened has no lock file, and what a crash leaves stays too.
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    std::fs::write(dir.path().join("index/000000999999.run"), "left over").unwrap();
    std::fs::remove_file(dir.path().join("manifest.copy")).unwrap_or_default();
    let before = files(dir.path());

    let mut store = Store::open_read_only(dir.path(), config).unwrap();
    assert_eq!(store.state(), crate::LogState::ReadOnly);
    let keyspace = store.find_keyspace("k").unwrap();
    assert_eq!(contents(&store.snapshot(), &keyspace), expected);
    assert!(!store.refresh().unwrap());
    let mut tail = store.tail(Lsn::ZERO).unwrap();
    let commits = std::iter::from_fn(|| tail.poll().unwrap());
    assert_eq!(commits.count(), 40);

    let refused = |error: crate::Error| assert_eq!(error.kind(), ErrorKind::NotWriter, "{error}");
    refused(store.begin_epoch(EpochReason::Init, "").unwrap_err());
    refused(store.begin_following().unwrap_err());
    refused(store.compact_index().unwrap_err());
    let missing = store.keyspace("new").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NoKeyspace);
    let mut batch = Batch::new();
    batch.put(&keyspace, "x", "y").unwrap();
    let failed = store.commit(batch, CommitOptions::default()).unwrap_err();
    assert_eq!(failed.error().kind(), ErrorKind::NotWriter);
    assert_eq!(store.background_step(), None);
    store.close().unwrap();
    drop(store);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_view_stays_where_it_is_until_it_is_refreshed() {
    let (fs, store) = writer();
    let keyspace = store.keyspace("k").unwrap();
    put(&store, &keyspace, "a", b"1");
    let second = put(&store, &keyspace, "a", b"2");
    let mut view = view(&fs);
    let own = view.find_keyspace("k").unwrap();
    // The last commit is not vouched for yet: it may be seen once the log was idle, or goes on.
    let seen = view.get(&own, "a").unwrap();
    assert!(seen.as_deref() == Some(b"1") || seen.as_deref() == Some(b"2"));
    let snapshot = view.snapshot();
    let clone = view.clone();

    put(&store, &keyspace, "a", b"3");
    put(&store, &keyspace, "b", b"4");
    store.close().unwrap();
    assert_eq!(view.get(&own, "a").unwrap(), seen);
    assert!(view.refresh().unwrap());
    assert_eq!(view.get(&own, "a").unwrap().as_deref(), Some(&b"3"[..]));
    assert_eq!(view.get(&own, "b").unwrap().as_deref(), Some(&b"4"[..]));
    assert_eq!(snapshot.get(&own, "a").unwrap(), seen);
    assert_eq!(clone.get(&own, "a").unwrap(), seen);
    let mut tail = view.tail(second.lsn).unwrap();
    assert_eq!(tail.poll().unwrap().unwrap().commit, second.commit + 1);
    // Of a store that writes it asks nothing.
    let (_, mut store) = writer();
    assert!(!store.refresh().unwrap());
}

#[test]
fn a_file_that_was_taken_away_under_a_view_is_an_error_and_no_data() {
    let (fs, store) = writer();
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..60 {
        put(&store, &keyspace, &format!("{n:03}"), &[1; 3000]);
    }
    while store.background_step() == Some(Duration::ZERO) {}
    let view = view(&fs);
    let own = view.find_keyspace("k").unwrap();
    let name = "log/000000000001.seg";
    let mut bytes = crate::fs::read_all(&fs, name).unwrap();
    fs.unlink(name).unwrap();
    let error = view.get(&own, "000").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotHeld, "{error}");
    // Another file of that name is not taken for it.
    bytes.rotate_right(8);
    fs.create(name).unwrap().write_at(0, &bytes).unwrap();
    let error = view.get(&own, "000").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotHeld, "{error}");
    assert!(view.get(&own, "059").unwrap().is_some());
}

#[test]
fn views_beside_a_writer_show_whole_batches_and_only_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let config = Config {
        flush_after_entries: 50,
        idle_mark_after: Duration::from_millis(1),
        history_log_bytes: 30_000,
        ..Config::default()
    };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    put(&store, &keyspace, "left", b"0");
    let (done, commits) = (AtomicBool::new(false), 1500u32);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..commits {
                let mut batch = Batch::new();
                let value = format!("{n:08}{}", "v".repeat(n as usize % 500));
                batch.put(&keyspace, "left", &value).unwrap();
                batch
                    .put(&keyspace, format!("{:03}", n % 97), &value)
                    .unwrap();
                batch.put(&keyspace, "right", &value).unwrap();
                store.commit(batch, CommitOptions::default()).unwrap();
                if n % 300 == 299 {
                    // Takes away segments that the view has mapped.
                    store.compact_now(crate::Compact::Order).unwrap();
                }
            }
            store.close().unwrap();
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let mut view = Store::open_read_only(dir.path(), config).unwrap();
            let (mut newest, mut moved) = (None, 0);
            loop {
                let last = done.load(Ordering::Acquire);
                moved += u32::from(view.refresh().unwrap());
                let Ok(own) = view.find_keyspace("k") else {
                    continue;
                };
                let snapshot = view.snapshot();
                let both = snapshot.multi_get(&own, ["left", "right"]);
                let [left, right] = match both.as_deref() {
                    Ok([left, right]) => [left.clone(), right.clone()],
                    Ok(other) => panic!("{other:?}"),
                    // Not read from before the writer took it away.
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotHeld, "{error}");
                        continue;
                    }
                };
                if left.as_deref() != Some(b"0") {
                    assert_eq!(left, right, "a batch that is seen in part");
                    assert!(left >= newest, "{left:?} after {newest:?}");
                    newest = left;
                }
                for entry in snapshot.iter(&own) {
                    match entry {
                        Ok((_, value)) => assert!(*value <= *newest.as_deref().unwrap_or(b"9")),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotHeld, "{error}"),
                    }
                }
                if last {
                    break;
                }
            }
            let newest = newest.unwrap();
            assert!(newest.starts_with(format!("{:08}", commits - 1).as_bytes()));
            assert!(moved > 3, "it moved {moved} times");
        });
    });
}

/// Files that are not there the first few times that somebody looks.
#[derive(Debug)]
struct Late {
    inner: MemFs,
    /// How many times a segment is yet missed.
    missed: std::sync::atomic::AtomicUsize,
}

impl Fs for Late {
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn crate::fs::File>> {
        self.inner.create(name)
    }

    fn open(
        &self,
        name: &str,
        access: crate::fs::Access,
    ) -> std::io::Result<Arc<dyn crate::fs::File>> {
        let miss = |left: usize| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if name.ends_with(".seg") && self.missed.fetch_update(order, order, miss).is_ok() {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        self.inner.open(name, access)
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.inner.rename(from, to)
    }

    fn unlink(&self, name: &str) -> std::io::Result<()> {
        self.inner.unlink(name)
    }

    fn create_dir(&self, name: &str) -> std::io::Result<()> {
        self.inner.create_dir(name)
    }

    fn list(&self, dir: &str) -> std::io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> std::io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self) -> std::io::Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

#[test]
fn what_changes_while_a_view_is_opened_is_read_again_but_not_for_ever() {
    let (fs, store) = writer();
    let keyspace = store.keyspace("k").unwrap();
    put(&store, &keyspace, "a", b"1");
    store.close().unwrap();
    for (times, opens) in [(0, true), (3, true), (usize::MAX, false)] {
        let late = Late {
            inner: fs.clone(),
            missed: times.into(),
        };
        let clock = Arc::<SystemClock>::default();
        let opened = Store::open_read_only_on(Arc::new(late), clock, Config::default());
        match opened {
            Ok(view) if opens => {
                let keyspace = view.find_keyspace("k").unwrap();
                assert!(view.get(&keyspace, "a").unwrap().is_some());
            }
            Ok(_) => panic!("opened without its segments"),
            Err(error) => assert!(!opens && error.kind() == ErrorKind::Io, "{error}"),
        }
    }
}

#[test]
fn what_a_view_has_mapped_stays_whatever_the_writer_takes_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(ClusterId::random(), "alone");
    options.has_peer = false;
    Store::init(dir.path(), &options).unwrap();
    let config = Config {
        background: false,
        flush_after_entries: 20,
        history_log_bytes: 0,
        ..Config::default()
    };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    let fill = |value: u8| {
        for n in 0..60 {
            put(&store, &keyspace, &format!("{n:03}"), &[value; 3000]);
        }
        let due = |rest: Duration| rest <= Duration::from_millis(5);
        while store.background_step().is_some_and(due) {}
    };
    fill(1);
    let view = Store::open_read_only(dir.path(), config).unwrap();
    let own = view.find_keyspace("k").unwrap();
    // Some of what lies in each of the first segments, and of their last bytes above all.
    let held: Vec<_> = (0..40)
        .map(|n| view.get(&own, format!("{n:03}")).unwrap().unwrap())
        .collect();
    fill(2);
    store.compact_now(crate::Compact::Reclaim).unwrap();
    let due = |rest: Duration| rest <= Duration::from_millis(100);
    let gone = || !dir.path().join("log/000000000001.seg").exists();
    for _ in 0..1000 {
        if gone() || !store.background_step().is_some_and(due) {
            break;
        }
    }
    assert!(gone(), "the writer takes away what it needs no more");
    // Pages of a file that was made shorter would end this process here.
    assert!(held.iter().all(|value| **value == [1; 3000]));
    assert_eq!(view.get(&own, "001").unwrap().unwrap(), &[1; 3000][..]);
    drop((view, held));
    let fs = crate::fs::OsFs::new(dir.path());
    assert!(fs.may_shorten().unwrap().is_some());
    let kept = fs.keep_lengths().unwrap();
    assert!(fs.may_shorten().unwrap().is_none());
    drop(kept);
}
