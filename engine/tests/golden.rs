//! A directory as version 1 of the format wrote it. Every later version opens it and finds the
//! same.
//!
//! `OUTLAST_GOLDEN=DIR cargo nextest run -p outlast-engine --run-ignored only golden` makes another
//! one, for a later version of the format; the one that is here is never made again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::{
    Chain, ClusterId, FrameFields, FrameKind, NodeId, ProtectionRecord, ProtectionStanding,
    SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader, to_usize,
};
use outlast_engine::{
    Batch, CommitOptions, Compact, Config, EpochReason, InitOptions, Lsn, Op, Store, check,
};

const SEGMENT_SIZE: u64 = 64 << 10;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
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

/// All commits and the state that they leave, as text.
fn contents(store: &Store) -> String {
    let mut text = String::new();
    let mut tail = store.tail(Lsn::ZERO).unwrap();
    while let Some(committed) = tail.poll().unwrap() {
        writeln!(
            text,
            "commit {} ends at {}",
            committed.commit, committed.lsn
        )
        .unwrap();
        for change in &committed.changes {
            let (key, value) = (&change.key, &change.value);
            let sum = crc32fast::hash(value);
            let op = if change.op == Op::Put {
                "put"
            } else {
                "delete"
            };
            let key = String::from_utf8_lossy(key);
            writeln!(text, "  {op} {key} {} bytes, sum {sum:08x}", value.len()).unwrap();
        }
    }
    for keyspace in store.keyspaces() {
        writeln!(text, "keyspace {}", keyspace.name()).unwrap();
        for entry in store.snapshot().iter(&keyspace) {
            let (key, value) = entry.unwrap();
            let sum = crc32fast::hash(&value);
            let key = String::from_utf8_lossy(&key);
            writeln!(text, "  {key} {} bytes, sum {sum:08x}", value.len()).unwrap();
        }
    }
    for epoch in store.history().epochs() {
        writeln!(
            text,
            "epoch {} term {} start {} at {} {:?} {}",
            epoch.id, epoch.term, epoch.start, epoch.fork, epoch.reason, epoch.note
        )
        .unwrap();
    }
    text
}

#[test]
fn version_1_opens_without_a_fault_and_holds_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    copy(&golden().join("node"), &node);
    let report = check(&node).unwrap();
    assert_eq!(report.faults, []);
    assert_eq!(report.segments, 2);
    let store = Store::open(&node, Config::default()).unwrap();
    let expected = fs::read_to_string(golden().join("contents.txt")).unwrap();
    assert_eq!(contents(&store), expected);
    // And it can be written on.
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    let keyspace = store.keyspace("profiles").unwrap();
    let mut batch = Batch::new();
    batch.put(&keyspace, "later", "value").unwrap();
    store.commit(batch, CommitOptions::default()).unwrap();
    store.close().unwrap();
}

#[test]
fn forming_what_version_1_formed_gives_the_same_bytes() {
    let mut chain = Chain::origin(ClusterId::NONE);
    let mut kinds = Vec::new();
    for ordinal in 1..=2u64 {
        let file = golden().join(format!("node/log/{ordinal:012}.seg"));
        let bytes = Bytes::from(fs::read(file).unwrap());
        let header = SegmentHeader::decode(&bytes).unwrap();
        if ordinal == 1 {
            chain = Chain::origin(header.cluster);
        }
        assert_eq!(SegmentHeader::new(&chain, ordinal, SEGMENT_SIZE), header);
        assert_eq!(header.encode(), bytes[..to_usize(SEGMENT_HEADER_LEN)]);
        let mut at = to_usize(SEGMENT_HEADER_LEN);
        let mut frames = 0;
        while let Ok((header, epoch)) = chain.check_frame(&bytes[at..]) {
            let end = at + header.frame_len();
            let fields = FrameFields {
                kind: header.kind,
                first_in_segment: header.first_in_segment,
                batches: header.batches,
                wall_ms: header.wall_ms,
                log_ms: header.log_ms,
                visible: header.visible,
                watermark: header.watermark,
            };
            let formed = match &epoch {
                Some(epoch) => chain.form_epoch(fields, epoch),
                None => chain.form(fields, [header.payload(&bytes[at..end])]),
            };
            assert_eq!(formed, bytes[at..end], "the frame at {}", header.lsn);
            kinds.push(header.kind);
            (at, frames) = (end, frames + 1);
        }
        let footer_at = bytes.len() - to_usize(SEGMENT_FOOTER_LEN);
        assert!(bytes[at..footer_at].iter().all(|byte| *byte == 0));
        if ordinal == 1 {
            let footer = SegmentFooter::decode(&bytes[footer_at..]).unwrap();
            assert_eq!((footer.frames, footer.end.lsn), (frames, chain.lsn));
            assert_eq!(footer.encode(), bytes[footer_at..]);
        }
    }
    for kind in [
        FrameKind::Batches,
        FrameKind::Epoch,
        FrameKind::Watermark,
        FrameKind::Keyspace,
        FrameKind::Protection,
    ] {
        assert!(kinds.contains(&kind), "no frame of {kind:?}");
    }
}

#[test]
#[ignore = "makes the directory of another version of the format"]
fn golden_directory_is_made() {
    let to = PathBuf::from(std::env::var_os("OUTLAST_GOLDEN").unwrap());
    fs::create_dir_all(&to).unwrap();
    let node = to.join("node");
    let options = InitOptions {
        segment_size: SEGMENT_SIZE,
        ..InitOptions::new("golden")
    };
    Store::init(&node, &options).unwrap();
    let config = Config {
        background: false,
        ..Config::default()
    };
    let store = Store::open(&node, config.clone()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let profiles = store.keyspace("profiles").unwrap();
    let viewers = store.keyspace("viewers").unwrap();
    let commit = |store: &Store, batch| store.commit(batch, CommitOptions::default()).unwrap();
    store
        .append_protection(&ProtectionRecord {
            bound_bytes: Some(1 << 20),
            bound_commits: None,
            bound_ms: Some(1000),
            lease_ms: Some(3000),
            members: vec![NodeId([7; 16])],
            copies: 1,
            standing: ProtectionStanding::InForce,
            refuses: false,
            note: "golden".to_owned(),
        })
        .unwrap();
    for n in 0..24u8 {
        let mut batch = Batch::new();
        let key = format!("user-{n:02}");
        // From nothing to values of several pieces.
        let value = vec![n; usize::from(n) * usize::from(n) * 20];
        batch.put(&profiles, &key, value).unwrap();
        batch.put(&viewers, format!("{key}/friend"), "").unwrap();
        if n % 5 == 4 {
            let gone = format!("user-{:02}", n - 3);
            batch.delete(&profiles, &gone).unwrap();
        }
        commit(&store, batch);
    }
    commit(&store, Batch::new());
    store.close().unwrap();
    drop((store, profiles, viewers));
    let store = Store::open(&node, config).unwrap();
    store
        .begin_epoch(EpochReason::Promotion, "for the golden directory")
        .unwrap();
    let profiles = store.keyspace("profiles").unwrap();
    let mut batch = Batch::new();
    batch.put(&profiles, "user-00", "again").unwrap();
    commit(&store, batch);
    fs::write(to.join("contents.txt"), contents(&store)).unwrap();
    store.close().unwrap();
    fs::remove_file(node.join("LOCK")).unwrap();
}

/// Everything that readers see, as text.
fn state(store: &Store) -> String {
    let mut text = String::new();
    for keyspace in store.keyspaces() {
        writeln!(text, "keyspace {}", keyspace.name()).unwrap();
        for entry in store.snapshot().iter(&keyspace) {
            let (key, value) = entry.unwrap();
            let sum = crc32fast::hash(&value);
            let key = String::from_utf8_lossy(&key);
            writeln!(text, "  {key} {} bytes, sum {sum:08x}", value.len()).unwrap();
        }
    }
    text
}

fn golden_index() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-index")
}

#[test]
fn the_index_and_the_compacted_log_of_version_1_are_read_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    copy(&golden_index().join("node"), &node);
    assert_eq!(check(&node).unwrap().faults, []);
    let expected = fs::read_to_string(golden_index().join("state.txt")).unwrap();
    let store = Store::open(&node, Config::default()).unwrap();
    let (index, log) = (store.index_size(), store.log_size());
    assert!(index.runs >= 2 && index.memory_bytes == 0, "{index:?}");
    let ranges = |name: &str| name.ends_with(".ranges");
    let files = fs::read_dir(node.join("index")).unwrap();
    let mut names = files.map(|entry| entry.unwrap().file_name());
    assert!(names.any(|name| ranges(name.to_str().unwrap())));
    assert_eq!(
        index.replay,
        store.positions().visible.lsn,
        "it was not made again"
    );
    assert!(
        log.sparse_bytes > 0 && log.whole_from > Lsn::ZERO,
        "{log:?}"
    );
    assert_eq!(state(&store), expected);
    assert!(expected.contains("session-29") && !expected.contains("gone-"));
    assert!(expected.contains("user-29") && !expected.contains("drafts"));
    // And it can be written on, merged and compacted with what is new.
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    let keyspace = store.keyspace("profiles").unwrap();
    let mut batch = Batch::new();
    batch.put(&keyspace, "user-00", "later").unwrap();
    store.commit(batch, CommitOptions::default()).unwrap();
    store.compact_now(Compact::Order).unwrap();
    let later = store.get(&keyspace, "user-00").unwrap();
    assert_eq!(later.as_deref(), Some(&b"later"[..]));
    store.close().unwrap();
    drop((store, keyspace));
    // The log alone tells the same.
    let node = dir.path().join("again");
    copy(&golden_index().join("node"), &node);
    fs::remove_dir_all(node.join("index")).unwrap();
    let store = Store::open(&node, Config::default()).unwrap();
    assert_eq!(state(&store), expected);
}

/// Does all background work that is due.
fn settle(store: &Store) {
    let due = |rest: Duration| rest <= Duration::from_millis(5);
    while store.background_step().is_some_and(due) {}
}

#[test]
#[ignore = "makes the directory of another version of the format"]
fn golden_index_is_made() {
    let to = PathBuf::from(std::env::var_os("OUTLAST_GOLDEN").unwrap());
    fs::create_dir_all(&to).unwrap();
    let node = to.join("node");
    let options = InitOptions {
        segment_size: SEGMENT_SIZE,
        ..InitOptions::new("golden")
    };
    Store::init(&node, &options).unwrap();
    let config = Config {
        background: false,
        flush_after_entries: 40,
        history_log_bytes: 10_000,
        ..Config::default()
    };
    let store = Store::open(&node, config.clone()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let fill = |store: &Store, from: u32, count: u32| {
        let profiles = store.keyspace("profiles").unwrap();
        let viewers = store.keyspace("viewers").unwrap();
        for n in from..from + count {
            let mut batch = Batch::new();
            let key = format!("user-{:02}", n * 7 % 50);
            let value = vec![n.to_le_bytes()[0]; 40 * (n as usize % 30)];
            batch.put(&profiles, &key, value).unwrap();
            batch.put(&viewers, format!("{key}/{}", n % 3), "").unwrap();
            if n % 6 == 5 {
                batch.delete(&viewers, format!("{key}/0")).unwrap();
                batch
                    .delete(&profiles, "x".repeat(n as usize % 200))
                    .unwrap();
            }
            if n % 40 == 39 {
                batch.delete_prefix(&viewers, "user-1").unwrap();
                batch.delete_range(&profiles, "user-30".."user-32").unwrap();
            }
            let century = Duration::from_secs(100 * 365 * 24 * 3600);
            let key = format!("session-{:02}", n % 30);
            batch.put_with_ttl(&viewers, &key, "", century).unwrap();
            let gone = format!("gone-{:02}", n % 30);
            batch
                .put_with_ttl(&viewers, &gone, "at once", Duration::ZERO)
                .unwrap();
            store.commit(batch, CommitOptions::default()).unwrap();
        }
    };
    let drafts = store.keyspace("drafts").unwrap();
    let mut batch = Batch::new();
    batch.put(&drafts, "a draft", "").unwrap();
    store.commit(batch, CommitOptions::default()).unwrap();
    fill(&store, 0, 300);
    store
        .drop_keyspace(&drafts, CommitOptions::default())
        .unwrap();
    fill(&store, 300, 20);
    settle(&store);
    store.compact_now(Compact::Order).unwrap();
    store.close().unwrap();
    drop(store);
    // What compaction left is taken away by the next start, if nothing did before.
    let store = Store::open(&node, config).unwrap();
    settle(&store);
    store.begin_epoch(EpochReason::Restart, "").unwrap();
    // Flushed runs above what was merged.
    fill(&store, 320, 60);
    fs::write(to.join("state.txt"), state(&store)).unwrap();
    store.close().unwrap();
    for name in ["LOCK", "reserve"] {
        fs::remove_file(node.join(name)).unwrap_or_default();
    }
}
