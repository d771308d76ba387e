//! A file system that is really full. Needs to mount one, so it is run by name:
//! `cargo nextest run -p outlast-engine --run-ignored only full`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use outlast_engine::{
    Batch, CommitError, CommitOptions, Config, EpochReason, ErrorKind, InitOptions, Store,
};

/// A small file system in memory, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "only root can mount");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills what is left to the last byte.
    fn fill(&self) {
        let file = fs::File::create(self.path().join("filler")).unwrap();
        let mut at = 0;
        for piece in [1 << 20, 4096, 1] {
            while std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; piece], at).is_ok() {
                at += piece as u64;
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
#[ignore = "mounts a file system, which only root may"]
fn a_full_file_system_stops_commits_keeps_reads_and_lets_an_epoch_begin() {
    let mount = Mount::new("8m");
    let dir = mount.path().join("node");
    let options = InitOptions {
        segment_size: 1 << 20,
        ..InitOptions::new("a")
    };
    Store::init(&dir, &options).unwrap();
    let store = Store::open(&dir, Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    let put = |n: u32| {
        let mut batch = Batch::new();
        batch
            .put(&keyspace, n.to_le_bytes(), vec![1; 10_000])
            .unwrap();
        store.commit(batch, CommitOptions::default())
    };
    put(0).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !dir.join("reserve").exists() {
        assert!(Instant::now() < deadline, "no reserve");
        std::thread::yield_now();
    }
    mount.fill();
    let mut written = 1;
    let error = loop {
        match put(written) {
            Ok(_) => written += 1,
            Err(CommitError::Failed(error)) => break error,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(
        store
            .get(&keyspace, (written - 1).to_le_bytes())
            .unwrap()
            .is_some()
    );
    let _ = store.close();
    drop(store);

    // Started again with not a byte free.
    let store = Store::open(&dir, Config::default()).unwrap();
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..written {
        assert!(
            store.get(&keyspace, n.to_le_bytes()).unwrap().is_some(),
            "{n}"
        );
    }
    mount.free();
    let put = |n: u32| {
        let mut batch = Batch::new();
        batch
            .put(&keyspace, n.to_le_bytes(), vec![1; 10_000])
            .unwrap();
        store.commit(batch, CommitOptions::default())
    };
    for n in 0..200 {
        put(n).unwrap();
    }
    store.close().unwrap();
    assert_eq!(
        outlast_engine::check(&dir)
            .map(|report| report.faults)
            .unwrap_err()
            .kind(),
        ErrorKind::Locked
    );
    drop((store, keyspace));
    assert!(outlast_engine::check(&dir).unwrap().faults.is_empty());
}
