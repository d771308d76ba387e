//! Damage of every kind, on a writer and on a follower.

use super::*;
use crate::log::segment::file_name;
use crate::log::survey::{Known, survey};

/// A writer of several segments and a follower that has received and fsynced all of it.
pub(super) struct Pair {
    pub(super) primary: MemFs,
    pub(super) standby: MemFs,
    /// Keeps the writer's log readable.
    pub(super) writer: Arc<Log>,
}

pub(super) fn pair(commits: u8) -> Pair {
    let cluster = ClusterId::random();
    let (primary, standby) = (MemFs::new(), MemFs::new());
    Log::init(&primary, &options(cluster, SMALL)).unwrap();
    let follower = InitOptions {
        follower: true,
        ..options(cluster, SMALL)
    };
    Log::init(&standby, &follower).unwrap();
    let (writer, _) = writing(&primary);
    for n in 0..commits {
        put(&writer, &[n], &[n; 8000]).unwrap();
    }
    let follower = open(&standby);
    follower.begin_following().unwrap();
    feed(&writer, &follower);
    follower.note_mark().unwrap();
    drop(follower);
    Pair {
        primary,
        standby,
        writer,
    }
}

pub(super) fn feed(from: &Arc<Log>, to: &Arc<Log>) {
    while let Some(run) = run(from, to.positions().appended.lsn) {
        to.append_run(&run).unwrap();
        to.sync().unwrap();
    }
    to.sync().unwrap();
}

pub(super) fn files(fs: &MemFs) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for dir in ["", "log", "aside"] {
        for name in fs.list(dir).unwrap() {
            let name = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            files.insert(name.clone(), read_all(fs, &name).unwrap());
        }
    }
    files
}

pub(super) fn logs(fs: &MemFs) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(fs);
    files.retain(|name, bytes| name.starts_with("log/") && bytes.iter().any(|byte| *byte != 0));
    files
}

fn corrupt(fs: &MemFs) -> String {
    let before = files(fs);
    let error = open_with(fs, false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(files(fs), before, "a refused log was changed");
    error.to_string()
}

#[test]
fn a_writer_refuses_damage_in_a_sealed_segment_and_names_place_range_and_repair() {
    let Pair {
        primary, writer, ..
    } = pair(30);
    drop(writer);
    let image = primary.crash(Crash::LoseUnsynced);
    image.rot(&file_name(2), 9000, 1).unwrap();
    let message = corrupt(&image);
    for part in [
        "log/000000000002.seg",
        "[",
        "outlast check",
        "outlast repair",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn a_follower_keeps_damaged_bytes_aside_and_says_what_it_lost_until_it_is_sent_again() {
    // In the middle of the log, in its first frame, in the segment that was not sealed yet, and a
    // file that is gone.
    for (ordinal, offset) in [(2, 9000), (1, 4100), (5, 5000), (3, 0)] {
        let Pair {
            standby, writer, ..
        } = pair(30);
        let image = standby.crash(Crash::LoseUnsynced);
        let before = logs(&image);
        assert_eq!(before.len(), 5);
        if offset == 0 {
            image.unlink(&file_name(ordinal)).unwrap();
            image.sync_dir("log").unwrap();
        } else {
            image.rot(&file_name(ordinal), offset, 1).unwrap();
        }
        let acked = writer.positions().appended.lsn;
        let log = open(&image);
        let end = log.positions().appended.lsn;
        assert!(end < acked, "segment {ordinal}");
        assert_eq!(log.recovered().acked_tail_lost, Some(acked));
        assert!(log.durable_mark().unwrap().1 == acked);
        log.begin_following().unwrap();
        let recovered = log.recovered();
        assert!(!recovered.aside.is_empty(), "{recovered:?}");
        let kept: usize = recovered
            .aside
            .iter()
            .map(|name| read_all(&image, name).unwrap().len())
            .sum();
        assert!(kept as u64 >= recovered.torn_bytes && recovered.torn_bytes > 1000);

        // Still said after a restart, whatever came meanwhile, until all was sent again.
        if let Some(run) = log_run(&writer, end) {
            log.append_run(&run).unwrap();
            log.sync().unwrap();
            log.note_mark().unwrap();
        }
        drop(log);
        let log = open(&image.crash(Crash::LoseUnsynced));
        assert_eq!(log.recovered().acked_tail_lost, Some(acked), "{ordinal}");
        drop(log);
        let image = image.crash(Crash::LoseUnsynced);
        let log = open(&image);
        log.begin_following().unwrap();
        feed(&writer, &log);
        assert_eq!(log.recovered().acked_tail_lost, None, "segment {ordinal}");
        assert_eq!(log.chain(), writer.chain());
        drop(log);
        assert_eq!(logs(&image), before, "segment {ordinal}");
        assert_eq!(open(&image).recovered().acked_tail_lost, None);
    }
}

/// The next frame alone, so that what was lost is not yet all there.
fn log_run(log: &Arc<Log>, from: Lsn) -> Option<FrameRun> {
    log.cursor(from)
        .unwrap()
        .next_up_to(Lsn(u64::MAX), 1)
        .unwrap()
}

#[test]
fn headers_and_footers_that_the_chain_tells_are_written_again_and_nothing_is_lost() {
    let size = to_usize(SMALL);
    // The header of a sealed segment, of the first, of the active one; footers; the zeros between.
    let places = [
        (2, 20),
        (1, 3),
        (5, 30),
        (3, size - 4090),
        (4, size - 4000),
        (2, size - 4100),
    ];
    for follower in [false, true] {
        for (ordinal, offset) in places {
            let Pair {
                primary,
                standby,
                writer,
            } = pair(30);
            writer.append_watermark_and_wait().unwrap();
            let chain = if follower {
                open(&standby).chain()
            } else {
                writer.chain()
            };
            drop(writer);
            let fs = if follower { &standby } else { &primary };
            let image = fs.crash(Crash::LoseUnsynced);
            let before = logs(&image);
            image.rot(&file_name(ordinal), offset, 0x40).unwrap();
            let log = open(&image);
            assert_eq!(log.chain(), chain, "segment {ordinal}, offset {offset}");
            log.settle().unwrap();
            assert_eq!(log.recovered().acked_tail_lost, None);
            drop(log);
            let image = image.crash(Crash::LoseUnsynced);
            assert_eq!(logs(&image), before, "segment {ordinal}, offset {offset}");
        }
    }
}

#[test]
fn a_segment_of_another_place_or_cluster_is_no_part_of_the_log() {
    let Pair {
        primary, writer, ..
    } = pair(30);
    drop(writer);
    let image = primary.crash(Crash::LoseUnsynced);
    // Two files that were exchanged.
    for (from, to) in [(2, 9), (3, 2), (9, 3)] {
        image.rename(&file_name(from), &file_name(to)).unwrap();
    }
    assert!(corrupt(&image).contains("misplaced"));
    // One of another cluster.
    let stranger = pair(30);
    drop(stranger.writer);
    let image = primary.crash(Crash::LoseUnsynced);
    let foreign = read_all(&stranger.primary, &file_name(2)).unwrap();
    image.unlink(&file_name(2)).unwrap();
    let file = image.create(&file_name(2)).unwrap();
    file.write_at(0, &foreign).unwrap();
    assert!(corrupt(&image).contains("belongs to cluster"));
}

#[test]
fn damage_to_what_a_promoted_node_once_received_is_refused_and_not_cut() {
    let Pair {
        standby, writer, ..
    } = pair(20);
    drop(writer);
    let log = open(&standby);
    log.begin_following().unwrap();
    let fork = log.positions().durable.lsn;
    let epoch = log.begin_epoch(EpochReason::Promotion, "", true).unwrap();
    // What it received is vouched for by the mark before the epoch stands on it.
    assert_eq!(log.durable_mark().map(|mark| mark.1), Some(epoch.fork));
    assert_eq!(epoch.fork, fork);
    put(&log, b"mine", b"").unwrap();
    drop(log);
    let image = standby.crash(Crash::LoseUnsynced);
    image.rot(&file_name(1), 6000, 1).unwrap();
    corrupt(&image);
}

#[test]
fn what_was_fetched_back_vouches_for_nothing_but_what_is_written_later_does() {
    let fs = made();
    let (log, _) = writing(&fs);
    put(&log, b"a", &[1; 500]).unwrap();
    let end = log.positions().appended.lsn;
    log.note_fetched(LsnRange::new(end, end.advance(50_000)))
        .unwrap();
    drop(log);
    // Told to go on alone: the new epoch lies where a fetch would have.
    let log = open(&fs);
    log.begin_epoch(EpochReason::ResumeAlone, "", false)
        .unwrap();
    let second = put(&log, b"b", &[2; 500]).unwrap();
    put(&log, b"c", &[3; 500]).unwrap();
    drop(log);
    let offset = to_usize(SEGMENT_HEADER_LEN + second.lsn.0) - 3;
    fs.rot(&file_name(1), offset, 1).unwrap();
    corrupt(&fs);
}

#[test]
fn a_tail_that_the_peer_holds_is_lost_and_not_torn() {
    let fs = MemFs::new();
    let with_peer = InitOptions {
        has_peer: true,
        ..options(ClusterId::random(), SMALL)
    };
    Log::init(&fs, &with_peer).unwrap();
    let (log, _) = writing(&fs);
    put(&log, b"a", &[1; 500]).unwrap();
    let last = put(&log, b"b", &[1; 500]).unwrap();
    drop(log);
    let offset = to_usize(SEGMENT_HEADER_LEN + last.lsn.0) - 3;
    fs.rot(&file_name(1), offset, 1).unwrap();
    let before = files(&fs);
    let log = open(&fs);
    let end = log.positions().appended.lsn;
    assert_eq!(files(&fs), before, "opening wrote");
    log.note_peer_holds(last.lsn);
    log.begin_following().unwrap();
    let recovered = log.recovered();
    assert_eq!(recovered.lost_tail, Some(LsnRange::new(end, last.lsn)));
    assert_eq!(recovered.aside.len(), 1);
}

#[test]
fn a_log_goes_on_in_the_next_file_when_it_ends_with_a_sealed_one() {
    let Pair {
        standby, writer, ..
    } = pair(30);
    let before = logs(&standby);
    // The last segment is gone: the log ends where the one before was sealed.
    standby.unlink(&file_name(5)).unwrap();
    standby.sync_dir("log").unwrap();
    let log = open(&standby);
    log.begin_following().unwrap();
    feed(&writer, &log);
    drop(log);
    assert_eq!(logs(&standby), before);
}

#[test]
fn a_survey_names_the_length_of_a_hole_and_every_one_of_several() {
    let Pair {
        primary, writer, ..
    } = pair(30);
    let frames: Vec<_> = {
        let run = writer
            .cursor(Lsn::ZERO)
            .unwrap()
            .next_up_to(Lsn(u64::MAX), 40_000)
            .unwrap()
            .unwrap();
        run.frames().map(|(h, _)| (h.lsn, h.end())).collect()
    };
    drop(writer);
    let offset = |lsn: Lsn| to_usize(SEGMENT_HEADER_LEN + lsn.0);
    // One in a payload, one in a header.
    primary
        .rot(&file_name(1), offset(frames[1].0) + 200, 1)
        .unwrap();
    primary
        .rot(&file_name(1), offset(frames[3].0) + 20, 1)
        .unwrap();
    let manifest = Manifest::load(&primary).unwrap();
    let found = survey(&primary, &Known::from(&manifest), None).unwrap();
    let holes: Vec<_> = found
        .faults
        .iter()
        .filter_map(|fault| fault.range)
        .collect();
    let expected: Vec<_> = [frames[1], frames[3]]
        .map(|(start, end)| LsnRange::new(start, end))
        .to_vec();
    assert_eq!(holes, expected, "{:?}", found.faults);
    assert_eq!(found.end.lsn, frames[1].0);
}
