//! Frames and what is in them: bytes as they come, and as the payload of a frame whose checksum
//! holds, which a standby would append and replay.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outlast_engine::ErrorKind;
use outlast_engine::format::{
    Chain, FrameFields, FrameHeader, FrameKind, FrameRun, Lsn, Records, decode_record,
};

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let origin = Chain::origin(outlast_engine::format::ClusterId([1; 16]));
    if how % 2 == 0 {
        let _ = FrameHeader::announced_len(data);
        let _ = origin.check_header(data);
        let _ = origin.check_frame(data);
        let _ = FrameRun::check(&origin, Bytes::copy_from_slice(data));
        let _ = decode_record(data);
        return;
    }
    for placed in Records::new(data, Lsn(0), u32::from(how >> 1)).take(10_000) {
        if placed.is_err() {
            break;
        }
    }
    replay(*how >> 1, data);
});

/// A standby takes a frame with this payload behind a sound log.
fn replay(how: u8, payload: &[u8]) {
    thread_local! {
        static LOG: outlast_engine::fs::MemFs = outlast_fuzz::small_store().0;
    }
    if payload.len() > 8_000 {
        return;
    }
    let fs = LOG.with(|fs| fs.crash(outlast_engine::fs::Crash::KeepAll));
    let store = outlast_fuzz::open(&fs).expect("a sound store");
    store.begin_following().expect("a follower");
    let mut chain = store.chain();
    let visible = store.positions().visible.lsn;
    let before = chain;
    let kinds = [
        FrameKind::Batches,
        FrameKind::Keyspace,
        FrameKind::Protection,
        FrameKind::Watermark,
    ];
    let kind = kinds[usize::from(how) % kinds.len()];
    let batches = match kind {
        FrameKind::Batches => u32::from(how / 4),
        _ => 0,
    };
    if kind == FrameKind::Batches && batches == 0
        || kind == FrameKind::Watermark && !payload.is_empty()
    {
        return;
    }
    let fields = FrameFields {
        kind,
        first_in_segment: false,
        batches,
        wall_ms: 0,
        log_ms: chain.log_ms,
        visible: chain.visible,
        watermark: chain.watermark,
    };
    let frame = chain.form(fields, [payload]);
    let run = FrameRun::check(&before, frame).expect("a frame that was just formed");
    // Refused before anything of it is written, or taken and replayed.
    match store.append_run(&run) {
        Err(_) => assert_eq!(store.chain(), before, "a refused frame is in the log"),
        Ok(_) => {
            store.sync().expect("a disk in memory");
            // What no writer forms is not replayed: the state stays as it was.
            if let Err(error) = store.apply_to(run.range().end) {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert_eq!(store.positions().visible.lsn, visible);
            }
            outlast_fuzz::contents(&store).expect("what is shown can be read");
        }
    }
}
