//! Recovery and replay of a segment with some bytes changed: it names the fault, or shows a state
//! that really was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_engine::fs::{Access, Crash, Fs, MemFs};
use outlast_fuzz::Contents;

const FILE: &str = "log/000000000001.seg";

thread_local! {
    static STORE: (MemFs, Vec<Contents>) = outlast_fuzz::small_store();
}

fuzz_target!(|data: &[u8]| {
    STORE.with(|(fs, states)| {
        let fs = fs.crash(Crash::KeepAll);
        let file = fs.open(FILE, Access::Write).expect("its first segment");
        let mut rest = data;
        // Pieces: where (folded into what is used), how long, and the bytes.
        while let [a, b, len, bytes @ ..] = rest {
            let at = u64::from(u16::from_le_bytes([*a, *b])) % 5_200;
            let (piece, after) = bytes.split_at(usize::from(*len).min(bytes.len()));
            file.write_at(at, piece).expect("a disk in memory");
            rest = after;
        }
        let Ok(store) = outlast_fuzz::open(&fs) else {
            return;
        };
        let Ok(found) = outlast_fuzz::contents(&store) else {
            return;
        };
        assert!(states.contains(&found), "a state that never was");
        if store.begin_following().is_ok() {
            let found = outlast_fuzz::contents(&store).expect("what is shown can be read");
            assert!(
                states.contains(&found),
                "a state that never was, after recovery"
            );
        }
    });
});
