use std::os::unix::fs::FileExt;

use outlast_engine::{Batch, CommitOptions, Config, EpochReason, InitOptions, Store};

use super::*;

/// A closed store, in small segments: of 47 commits it fills three and begins a fourth.
fn store(dir: &Path, commits: u32) {
    let options = InitOptions {
        segment_size: 64 << 10,
        ..InitOptions::new("a")
    };
    Store::init(dir, &options).unwrap();
    let store = Store::open(dir, Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("default").unwrap();
    for n in 0..commits {
        let mut batch = Batch::new();
        batch
            .put(&keyspace, format!("key{n}"), vec![7; 4000])
            .unwrap();
        store.commit(batch, CommitOptions::default()).unwrap();
    }
    store.close().unwrap();
}

struct Seen {
    sealed: u64,
    frames: Vec<(PathBuf, u64, Lsn, u64)>,
    torn_bytes: Option<u64>,
    fault: Option<Fault>,
}

fn walk_all(dir: &Path) -> Seen {
    let (files, about) = files_of(dir).unwrap();
    let mut walk = Walk::new(about, Lsn::ZERO..Lsn(u64::MAX));
    let mut seen = Seen {
        sealed: 0,
        frames: Vec::new(),
        torn_bytes: None,
        fault: None,
    };
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        let walked = walk.segment(file, bytes.into(), true, &mut |item| {
            match item {
                walk::Item::Segment { footer, .. } => seen.sealed += u64::from(footer.is_some()),
                walk::Item::Frame { offset, header, .. } => {
                    let commit = header.first_commit;
                    seen.frames.push((file.clone(), offset, header.lsn, commit));
                }
                walk::Item::End { torn_bytes, .. } => seen.torn_bytes = Some(torn_bytes),
                walk::Item::Unused { .. } => {}
            }
            Ok(())
        });
        match walked {
            Ok(()) => {}
            Err(walk::Stop::Fault(fault)) => {
                seen.fault = Some(fault);
                break;
            }
            Err(walk::Stop::Printing(failure)) => panic!("{failure}"),
        }
    }
    seen
}

fn flip(file: &Path, offset: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

#[test]
fn every_frame_of_a_sound_log_is_walked_and_the_lock_is_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), 47);
    let running = Store::open(dir.path(), Config::default()).unwrap();
    let seen = walk_all(dir.path());
    assert!(seen.fault.is_none(), "{:?}", seen.fault);
    assert!(seen.sealed >= 2, "{} sealed", seen.sealed);
    assert!(seen.frames.len() >= 40, "{} frames", seen.frames.len());
    assert_eq!(seen.torn_bytes, Some(0));
    drop(running);
}

#[test]
fn a_log_of_one_segment_is_walked_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), 1);
    let seen = walk_all(dir.path());
    assert!(seen.fault.is_none(), "{:?}", seen.fault);
    assert_eq!((seen.sealed, seen.torn_bytes), (0, Some(0)));
    assert!(seen.frames.len() >= 3, "{} frames", seen.frames.len());
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_named_with_file_offset_and_lsn() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), 47);
    let sound = walk_all(dir.path());
    let (file, offset, lsn, _) = sound.frames[5].clone();
    flip(&file, offset + 200);
    let seen = walk_all(dir.path());
    assert_eq!(seen.frames.len(), 5);
    let fault = seen.fault.expect("a fault").to_string();
    let expected = format!("{}: at offset {offset}, LSN {lsn}: ", file.display());
    assert!(fault.starts_with(&expected), "{fault}");
}

#[test]
fn a_torn_last_frame_is_no_fault_and_damage_below_a_later_watermark_is() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), 47);
    let sound = walk_all(dir.path());
    let (file, offset, _, _) = sound.frames.last().unwrap().clone();
    flip(&file, offset + 90);
    let torn = walk_all(dir.path());
    // The last frame of a closed log may be one without a payload; then its padding is flipped.
    assert!(torn.fault.is_none(), "{:?}", torn.fault);
    assert!(torn.frames.len() == sound.frames.len() - 1 || torn.torn_bytes > Some(0));
    let in_last = sound.frames.iter().filter(|(other, ..)| *other == file);
    let (_, first, lsn, _) = in_last.clone().next().unwrap();
    assert!(in_last.count() > 2, "several frames in the last segment");
    flip(&file, first + 90);
    let seen = walk_all(dir.path());
    let fault = seen.fault.expect("a fault").to_string();
    assert!(fault.contains(&format!("LSN {lsn}")), "{fault}");
    assert!(fault.contains("had everything below"), "{fault}");
}

#[test]
fn what_was_fetched_back_is_named_and_vouches_for_nothing_here() {
    let (here, peer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    store(here.path(), 20);
    assert!(
        outlast_engine::about(here.path())
            .unwrap()
            .received
            .is_empty()
    );
    std::fs::create_dir(peer.path().join("log")).unwrap();
    let (mut files, _) = files_of(here.path()).unwrap();
    files.extend(["manifest", "mark"].map(|name| here.path().join(name)));
    for file in files {
        let name = file.strip_prefix(here.path()).unwrap();
        std::fs::copy(&file, peer.path().join(name)).unwrap();
    }
    // What this node wrote before a crash, and the peer has.
    let more = Store::open(peer.path(), Config::default()).unwrap();
    more.begin_epoch(EpochReason::Restart, "").unwrap();
    let keyspace = more.keyspace("default").unwrap();
    for n in 0..5 {
        let mut batch = Batch::new();
        batch.put(&keyspace, format!("{n}"), vec![7; 4000]).unwrap();
        more.commit(batch, CommitOptions::default()).unwrap();
    }
    let lost = Store::open(here.path(), Config::default()).unwrap();
    lost.begin_following().unwrap();
    let mut cursor = more.log_cursor(lost.chain().lsn).unwrap();
    let run = cursor.next_up_to(Lsn(u64::MAX), 1 << 20).unwrap().unwrap();
    lost.note_fetched(run.range()).unwrap();
    lost.append_run(&run).unwrap();
    lost.sync().unwrap();
    lost.close().unwrap();

    let about = outlast_engine::about(here.path()).unwrap();
    assert_eq!(about.received, [run.range()]);
    let sound = walk_all(here.path());
    let fetched = sound
        .frames
        .iter()
        .filter(|(_, _, lsn, _)| *lsn >= run.range().start);
    // Behind the frame that begins their epoch, and before several others.
    let (file, offset, lsn, _) = fetched.clone().nth(2).unwrap();
    assert!(fetched.count() > 5);
    flip(file, offset + 90);
    let torn = walk_all(here.path());
    assert!(torn.fault.is_none(), "{:?}", torn.fault);
    assert!(torn.frames.iter().all(|(_, _, at, _)| at < lsn));
}
