use outlast_engine::format::limits::SEGMENT_SIZE_MIN;
use outlast_engine::format::{
    ClusterId, EpochId, EpochReason, EpochRecord, FrameFields, History, NodeId,
};

use super::*;
use crate::session::{Nonce, SessionId};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const BINDING: Binding = Binding {
    session: SessionId {
        dialler: Nonce([1; 8]),
        listener: Nonce([2; 8]),
    },
    epoch: EpochId([1; 16]),
};

fn fields(kind: FrameKind) -> FrameFields {
    FrameFields {
        kind,
        first_in_segment: false,
        batches: u32::from(kind == FrameKind::Batches),
        wall_ms: 0,
        log_ms: 0,
        visible: Lsn(0),
        watermark: Lsn(0),
    }
}

fn epoch(history: &mut History, fork: Lsn) -> EpochRecord {
    let start = u32::try_from(history.epochs().len()).unwrap() + 1;
    let id = EpochId([u8::try_from(start).unwrap(); 16]);
    let record = EpochRecord {
        term: 1,
        start,
        id,
        parent: history.last().map_or(EpochId::NONE, |last| last.id),
        opened_by: EpochId([1; 16]),
        fork,
        node: NodeId::NONE,
        node_name: String::new(),
        reason: EpochReason::Restart,
        note: String::new(),
        wall_ms: 0,
    };
    history.push(record.clone()).unwrap();
    record
}

/// Frames of many lengths, an epoch in the middle.
fn log() -> (Vec<u8>, Chain) {
    let mut history = History::new();
    let mut chain = Chain::origin(CLUSTER);
    let mut bytes = Vec::new();
    for (i, len) in [0, 1, 7, 4000, 90, 9000, 3].into_iter().enumerate() {
        if i % 4 == 0 {
            let record = epoch(&mut history, chain.lsn);
            bytes.extend_from_slice(&chain.form_epoch(fields(FrameKind::Epoch), &record));
        }
        let payload = vec![0xab; len];
        bytes.extend_from_slice(&chain.form(fields(FrameKind::Batches), [&payload[..]]));
    }
    (bytes, chain)
}

fn inflow() -> Inflow {
    let mut inflow = Inflow::new(BINDING, Chain::origin(CLUSTER), SEGMENT_SIZE_MIN);
    let first = Lsn::ZERO;
    let binding = BINDING;
    assert_eq!(inflow.begin_run(&RunHeader { binding, first }), Ok(true));
    inflow
}

#[test]
fn any_cut_of_the_bytes_gives_the_same_frames() {
    let (bytes, end) = log();
    for piece_len in (1..=200).chain([1000, 4000, 10_000, bytes.len()]) {
        let mut inflow = inflow();
        let mut got = Vec::new();
        for piece in bytes.chunks(piece_len) {
            for run in inflow.take(Bytes::copy_from_slice(piece)).unwrap() {
                assert_eq!(run.range().start, Lsn(got.len() as u64));
                got.extend_from_slice(run.bytes());
            }
            assert!(inflow.partial.len() < to_usize(frame_len_max(SEGMENT_SIZE_MIN)));
        }
        assert!(got == bytes, "pieces of {piece_len}");
        assert_eq!((inflow.chain, inflow.position()), (end, end.lsn));
    }
}

#[test]
fn any_flipped_bit_is_seen_before_a_frame_is_handed_out() {
    let (bytes, _) = log();
    for at in (0..bytes.len()).step_by(13) {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        let mut inflow = inflow();
        let mut len = 0;
        let fault =
            bad.chunks(500)
                .find_map(|piece| match inflow.take(Bytes::copy_from_slice(piece)) {
                    Ok(runs) => {
                        len += runs.iter().map(|run| run.bytes().len()).sum::<usize>();
                        None
                    }
                    Err(fault) => Some(fault),
                });
        assert!(
            fault.is_some() && len <= at,
            "bit in byte {at}, {len} bytes taken"
        );
    }
}

#[test]
fn whole_frames_share_the_memory_they_came_in() {
    let (bytes, _) = log();
    let bytes = Bytes::from(bytes);
    let runs = inflow().take(bytes.clone()).unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].bytes().as_ptr(), bytes.as_ptr());
}

#[test]
fn nothing_is_allocated_for_a_length_that_this_cluster_does_not_write() {
    let mut history = History::new();
    let mut chain = Chain::origin(CLUSTER);
    let record = epoch(&mut history, Lsn::ZERO);
    let mut bytes = chain.form_epoch(fields(FrameKind::Epoch), &record).to_vec();
    let at = bytes.len();
    // A sound frame of a cluster with larger segments: its header alone is refused.
    let payload = vec![0; to_usize(frame_len_max(SEGMENT_SIZE_MIN))];
    bytes.extend_from_slice(&chain.form(fields(FrameKind::Batches), [&payload[..]]));
    let mut inflow = inflow();
    let fault = inflow.take(Bytes::copy_from_slice(&bytes[..at + FRAME_HEADER_LEN]));
    let lsn = Lsn(at as u64);
    assert!(matches!(fault, Err(FrameFault::Header { lsn: refused }) if refused == lsn));
    assert!(inflow.partial.capacity() < 1024);
}

#[test]
fn a_run_of_another_binding_is_not_taken_and_a_gap_is_seen() {
    let mut inflow = inflow();
    let other = Binding {
        epoch: EpochId([9; 16]),
        ..BINDING
    };
    let header = |binding, first| RunHeader {
        binding,
        first: Lsn(first),
    };
    assert_eq!(inflow.begin_run(&header(other, 77)), Ok(false));
    assert!(!inflow.in_bound_run());
    let gap = CloseReason::Gap {
        expected: Lsn(0),
        got: Lsn(8),
    };
    assert_eq!(inflow.begin_run(&header(BINDING, 8)), Err(gap));
    assert_eq!(inflow.begin_run(&header(BINDING, 0)), Ok(true));
}
