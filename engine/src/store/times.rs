//! Log time by position: what has expired for a reader follows from where it reads, and from
//! nothing else.

use std::collections::VecDeque;

use crate::format::Lsn;

/// The log times of the newest frames.
///
/// Log time at a position is that of the last frame that begins below it, so it is the same
/// wherever the log is.
#[derive(Debug)]
pub(super) struct Times {
    /// Nothing is known below this position.
    from: Lsn,
    /// Log time there, in milliseconds.
    from_ms: u64,
    /// Where a frame begins with which log time moves on, and to what.
    moves: VecDeque<(Lsn, u64)>,
}

impl Times {
    pub(super) const fn new(from: Lsn, from_ms: u64) -> Self {
        Self {
            from,
            from_ms,
            moves: VecDeque::new(),
        }
    }

    /// Takes up the frame that begins at `lsn`, behind all others.
    pub(super) fn push(&mut self, lsn: Lsn, log_ms: u64) {
        let last = self.moves.back().map_or(self.from_ms, |(_, ms)| *ms);
        if log_ms != last {
            self.moves.push_back((lsn, log_ms));
        }
    }

    /// Log time at a position; `None` below those that are known.
    pub(super) fn at(&self, lsn: Lsn) -> Option<u64> {
        let behind = self.moves.partition_point(|(begins, _)| *begins < lsn);
        let last = behind.checked_sub(1).and_then(|last| self.moves.get(last));
        (lsn >= self.from).then(|| last.map_or(self.from_ms, |(_, ms)| *ms))
    }

    /// Forgets what lies below `from`.
    pub(super) fn forget_below(&mut self, from: Lsn) {
        if let Some(from_ms) = self.at(from) {
            let gone = self.moves.partition_point(|(begins, _)| *begins < from);
            self.moves.drain(..gone);
            (self.from, self.from_ms) = (from, from_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_is_that_of_the_last_frame_that_begins_below() {
        let mut times = Times::new(Lsn(100), 7);
        for (lsn, ms) in [(100, 7), (200, 9), (300, 9), (400, 12)] {
            times.push(Lsn(lsn), ms);
        }
        let known = [(100, 7), (200, 7), (201, 9), (400, 9), (401, 12), (900, 12)];
        for forgotten in [0, 201, 350, 400] {
            times.forget_below(Lsn(forgotten));
            for (lsn, ms) in known {
                let expected = (lsn >= forgotten.max(100)).then_some(ms);
                assert_eq!(times.at(Lsn(lsn)), expected, "{lsn} from {forgotten} on");
            }
        }
    }
}
