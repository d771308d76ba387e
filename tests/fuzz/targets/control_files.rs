//! The manifest, the durable mark, segment headers and footers, the index: any bytes, and any body
//! under a checksum that holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_engine::format::{SegmentFooter, SegmentHeader};
use outlast_engine::fs::{Access, Crash, Fs, MemFs, read_all, replace};

const FILES: [&str; 5] = [
    "manifest",
    "mark",
    "log/000000000001.seg",
    "index/manifest",
    "index/000000000001.run",
];

thread_local! {
    static STORE: MemFs = outlast_fuzz::small_store().0;
}

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    STORE.with(|fs| {
        let fs = fs.crash(Crash::KeepAll);
        let name = FILES[usize::from(how / 2) % FILES.len()];
        let old = read_all(&fs, name).expect("a file of a sound store");
        let bytes = if how % 2 == 0 {
            data.to_vec()
        } else {
            // A mark that was never noted has no envelope to take for a model.
            match outlast_fuzz::sealed_like(&old, data) {
                Some(bytes) => bytes,
                None => return,
            }
        };
        if name.starts_with("log") {
            let _ = SegmentHeader::decode(&bytes);
            let _ = SegmentFooter::decode(&bytes);
            let file = fs.open(name, Access::Write).expect("a segment");
            file.write_at(0, &bytes[..bytes.len().min(4096)])
                .expect("a disk in memory");
        } else {
            replace(&fs, "", name, &bytes).expect("a disk in memory");
        }
        if let Ok(store) = outlast_fuzz::open(&fs) {
            let _ = outlast_fuzz::contents(&store);
            let _ = store.recovered();
        }
    });
});
