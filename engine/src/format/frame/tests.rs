use super::super::epoch::EpochReason;
use super::super::ids::NodeId;
use super::super::limits::PIECE_LEN;
use super::super::run::FrameRun;
use super::*;

fn epoch(chain: &Chain, term: u32, start: u32) -> EpochRecord {
    let id = EpochId::random();
    EpochRecord {
        term,
        start,
        id,
        parent: chain.epoch.map_or(EpochId::NONE, |e| e.id),
        opened_by: id,
        fork: chain.lsn,
        node: NodeId::random(),
        node_name: "a".into(),
        reason: EpochReason::Init,
        note: String::new(),
        wall_ms: 1,
    }
}

fn fields(kind: FrameKind, batches: u32) -> FrameFields {
    FrameFields {
        kind,
        first_in_segment: false,
        batches,
        wall_ms: 7,
        log_ms: 7,
        visible: Lsn::ZERO,
        watermark: Lsn::ZERO,
    }
}

fn begun() -> (Chain, Chain, Bytes) {
    let origin = Chain::origin(ClusterId::random());
    let mut chain = origin;
    let record = epoch(&origin, 1, 1);
    let first = FrameFields {
        first_in_segment: true,
        ..fields(FrameKind::Epoch, 0)
    };
    let bytes = chain.form_epoch(first, &record);
    (origin, chain, bytes)
}

#[test]
fn a_run_of_formed_frames_checks_and_ends_where_the_writer_stands() {
    let (origin, mut chain, first) = begun();
    let mut log = first.to_vec();
    for len in [1, 7, 8, PIECE_LEN, PIECE_LEN + 1, 5 * PIECE_LEN] {
        let payload = vec![0xa5; len];
        log.extend(chain.form(
            fields(FrameKind::Batches, 2),
            [&payload[..1], &payload[1..]],
        ));
    }
    let next = epoch(&chain, 2, 2);
    let wm = FrameFields {
        watermark: chain.lsn,
        ..fields(FrameKind::Epoch, 0)
    };
    log.extend(chain.form_epoch(wm, &next));
    let run = FrameRun::check(&origin, log.clone().into()).unwrap();
    assert_eq!(*run.after(), chain);
    assert_eq!((run.epochs().len(), run.epochs()[1].id), (2, next.id));
    assert_eq!(chain.next_commit, 13);
    let joined: Vec<u8> = run.frames().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    assert_eq!(joined, log);
}

#[test]
fn every_flipped_bit_of_a_frame_is_seen() {
    let (_, mut chain, _) = begun();
    let before = chain;
    let frame = chain.form(fields(FrameKind::Batches, 1), [&[1, 2, 3][..]]);
    assert!(before.check_frame(&frame).is_ok());
    for bit in 0..frame.len() * 8 {
        let mut bad = frame.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(before.check_frame(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn every_cut_is_short_and_zeros_are_nothing() {
    let (_, mut chain, _) = begun();
    let before = chain;
    let frame = chain.form(fields(FrameKind::Batches, 1), [&[1, 2, 3][..]]);
    for len in 0..frame.len() {
        let fault = before.check_frame(&frame[..len]).unwrap_err();
        assert!(matches!(fault, FrameFault::Short { .. }), "{len}: {fault}");
    }
    let zeros = before.check_frame(&[0; 4096]).unwrap_err();
    assert_eq!(zeros, FrameFault::Zeros { lsn: before.lsn });
}

#[test]
fn a_frame_of_another_cluster_place_or_epoch_is_refused() {
    let (origin, mut chain, first) = begun();
    let stranger = Chain {
        cluster: ClusterId::random(),
        ..origin
    };
    let refused = stranger.check_frame(&first).unwrap_err();
    assert_eq!(refused, FrameFault::Header { lsn: Lsn::ZERO });

    let before = chain;
    let frame = chain.form(fields(FrameKind::Watermark, 0), []);
    let wrong = |chain: Chain, what| {
        let fault = chain.check_frame(&frame).unwrap_err();
        assert_eq!(
            fault,
            FrameFault::Order {
                lsn: chain.lsn,
                what
            }
        );
    };
    wrong(
        Chain {
            lsn: before.lsn.advance(8),
            ..before
        },
        "position",
    );
    wrong(
        Chain {
            check: before.check ^ 1,
            ..before
        },
        "chain",
    );
    wrong(
        Chain {
            next_commit: 2,
            ..before
        },
        "commit number",
    );
    wrong(
        Chain {
            log_ms: 8,
            ..before
        },
        "log time",
    );
    wrong(
        Chain {
            watermark: Lsn(8),
            ..before
        },
        "watermark falls within an epoch",
    );
    wrong(
        Chain {
            visible: Lsn(8),
            ..before
        },
        "visible falls within an epoch",
    );
    let key = before.epoch.unwrap();
    wrong(
        Chain {
            epoch: Some(EpochKey { start: 2, ..key }),
            ..before
        },
        "epoch",
    );
    let other = Chain {
        epoch: Some(EpochKey {
            id: EpochId::random(),
            ..key
        }),
        ..before
    };
    let fault = other.check_frame(&frame).unwrap_err();
    assert_eq!(fault, FrameFault::Header { lsn: before.lsn });
}

#[test]
#[should_panic(expected = "watermark above its frame")]
fn a_writer_cannot_form_a_watermark_above_its_own_frame() {
    let (_, mut chain, _) = begun();
    let above = chain.lsn.advance(8);
    let _ = chain.form(
        FrameFields {
            watermark: above,
            ..fields(FrameKind::Watermark, 0)
        },
        [],
    );
}
