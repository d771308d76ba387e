//! Which blocks of a map were found to agree with their checksums.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One bit a block. Bytes under a map do not change, so whoever sees a bit set may believe them;
/// two threads that both find it clear both check, and do no harm.
#[derive(Debug)]
pub(super) struct Verified {
    words: Box<[AtomicU64]>,
    fences: AtomicBool,
}

impl Verified {
    pub(super) fn new(blocks: usize) -> Self {
        let words = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0));
        Self {
            words: words.collect(),
            fences: AtomicBool::new(false),
        }
    }

    pub(super) fn get(&self, block: usize) -> bool {
        let word = self.words.get(block / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (block % 64) & 1 == 1)
    }

    pub(super) fn set(&self, block: usize) {
        if let Some(word) = self.words.get(block / 64) {
            word.fetch_or(1 << (block % 64), Ordering::Relaxed);
        }
    }

    /// Whether all blocks of fences are.
    pub(super) fn fences(&self) -> bool {
        self.fences.load(Ordering::Relaxed)
    }

    pub(super) fn set_fences(&self) {
        self.fences.store(true, Ordering::Relaxed);
    }
}
