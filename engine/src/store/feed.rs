//! Bringing the state up to a position of the log, when nobody commits.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::state::State;
use super::upkeep::Upkeep;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{EpochReason, EpochRecord, Lsn, Position};
use crate::kill_points::{Point, pass};
use crate::log::{Log, LogCursor, LogState};

/// Bytes that are read from the log at once.
const RUN_LEN: u64 = 4 << 20;

/// Where the state reads the log next. Its lock is what keeps two threads from applying at once.
///
/// Invariant: the cursor stands where the state ends, until the node writes: then its own frames go
/// to the state as they are formed, and the cursor is left behind.
pub(super) struct Feed {
    cursor: Mutex<LogCursor>,
}

impl Feed {
    /// At the replay point.
    pub(super) fn new(log: &Arc<Log>) -> Self {
        let cursor = Mutex::new(log.replay_cursor());
        Self { cursor }
    }

    /// Shows what opening may show: what readers might have seen before, as far as the disk is
    /// known to hold it. A node that has no peer shows all of that: nobody can have gone on without
    /// it.
    pub(super) fn show_recovered(&self, log: &Arc<Log>, state: &State) -> Result<()> {
        let durable = log.positions().durable.lsn;
        let shown = if log.has_peer() {
            log.chain().visible
        } else {
            durable
        };
        // The replay point was shown here, though no frame may say so, and so was what was
        // compacted, and by which horizon: of states below that not all is left.
        let replayed = self.cursor.lock().lsn().max(log.whole_from());
        let whole = frame_end(log, log.sparse_horizon().min(durable))?;
        self.show(log, state, shown.min(durable).max(replayed).max(whole))?;
        Ok(())
    }

    /// Applies whole frames up to `target` or up to what is durable, whichever is less, and shows
    /// them. Answers with the applied position.
    ///
    /// # Errors
    /// `NotWriter` on a node that writes, `Corrupt`, `Io`.
    pub(super) fn show(&self, log: &Log, state: &State, target: Lsn) -> Result<Position> {
        let mut cursor = self.cursor.lock();
        if log.state() == LogState::Writing {
            let message = "this node writes: what it commits is applied by itself";
            return Err(Error::new(ErrorKind::NotWriter, message));
        }
        let target = target.min(log.positions().durable.lsn);
        // Shown piece by piece: who is far behind is still seen to move.
        let mut progress = Progress::new(log, cursor.lsn(), target);
        loop {
            let more = apply_next(log, &mut cursor, state, target)?;
            let end = cursor.lsn();
            progress.reached(log, end);
            // After an epoch that could not begin, the state is ahead of what may be shown.
            if end > log.visible() && end <= target {
                log.show(cursor.chain().position());
            }
            if !more {
                return Ok(log.positions().visible);
            }
        }
    }

    /// Cuts the log at `fork`, above what readers have seen, and keeps the rest aside. Where the
    /// state holds some of what goes (a promotion applied it and then failed, or it could not be
    /// applied), it is replayed without it.
    pub(super) fn quarantine(
        &self,
        log: &Arc<Log>,
        state: &State,
        upkeep: &Upkeep,
        fork: Lsn,
    ) -> Result<String> {
        // In this order: who applies holds the cursor, and may have to help to write the index out.
        let mut cursor = self.cursor.lock();
        // The replay point stands still meanwhile.
        let _paused = upkeep.pause();
        let ahead = state.end() > fork || state.check().is_err();
        // Before the cut: a replay that fails then leaves everything as it was.
        let replayed = ahead.then(|| replay_visible(log, state)).transpose()?;
        let aside = log.quarantine(fork)?;
        if let Some((fresh, end)) = replayed {
            state.replace(fresh);
            *cursor = end;
        }
        Ok(aside)
    }

    /// Applies all that is left, and makes the node a writer. Shown together with the new epoch.
    pub(super) fn begin_epoch(
        &self,
        log: &Log,
        state: &State,
        reason: EpochReason,
        note: &str,
    ) -> Result<EpochRecord> {
        let mut cursor = self.cursor.lock();
        if matches!(log.state(), LogState::Reading | LogState::Following) {
            // From here on the log takes no frame that would have to be applied too.
            log.stop_following();
            log.settle()?;
            let end = log.chain().lsn;
            catch_up(log, &mut cursor, state, end)?;
            assert_eq!(state.end(), end, "all is applied before the next frame is");
        }
        let raise_term = reason == EpochReason::Promotion;
        log.begin_epoch(reason, note, raise_term)
    }
}

/// Tells of a replay that takes long.
struct Progress {
    from: Lsn,
    target: Lsn,
    told_at: Duration,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(2);

    fn new(log: &Log, from: Lsn, target: Lsn) -> Self {
        let told_at = log.now();
        Self {
            from,
            target,
            told_at,
        }
    }

    fn reached(&mut self, log: &Log, end: Lsn) {
        let now = log.now();
        if now.saturating_sub(self.told_at) < Self::EVERY || end >= self.target {
            return;
        }
        self.told_at = now;
        let done_bytes = end.bytes_since(self.from);
        let total_bytes = self.target.bytes_since(self.from);
        let percent = 100 * done_bytes / total_bytes.max(1);
        tracing::info!(
            done_bytes,
            total_bytes,
            percent,
            "the log is replayed into the index"
        );
    }
}

/// The end of the frame in which `lsn` lies, or `lsn` if one ends there.
fn frame_end(log: &Arc<Log>, lsn: Lsn) -> Result<Lsn> {
    if lsn <= log.whole_from() {
        return Ok(lsn);
    }
    let mut cursor = log.cursor_before(lsn)?;
    if cursor.lsn() < lsn {
        cursor.next_up_to(Lsn(u64::MAX), 0)?;
    }
    Ok(cursor.lsn())
}

/// A state that was replayed from its replay point up to what readers may see, and where it ends.
fn replay_visible(log: &Arc<Log>, state: &State) -> Result<(State, LogCursor)> {
    let (fresh, replay) = state.at_replay_point()?;
    let mut cursor = log.cursor_at(replay);
    catch_up(log, &mut cursor, &fresh, log.visible())?;
    Ok((fresh, cursor))
}

fn catch_up(log: &Log, cursor: &mut LogCursor, state: &State, target: Lsn) -> Result<()> {
    while apply_next(log, cursor, state, target)? {}
    Ok(())
}

/// Applies the next run of whole frames up to `target`, or what is left of a stretch that was
/// compacted; `false` when there is none.
fn apply_next(log: &Log, cursor: &mut LogCursor, state: &State, target: Lsn) -> Result<bool> {
    state.check()?;
    // A node that wrote has applied further than the cursor read.
    if cursor.lsn() < state.end() {
        return Ok(false);
    }
    if let Some(sparse) = cursor.next_sparse(target) {
        state.apply_sparse(log, &sparse)?;
        return Ok(true);
    }
    let Some(run) = cursor.next_up_to(target, RUN_LEN)? else {
        return Ok(false);
    };
    for (header, frame) in run.frames() {
        state.apply(header, &frame)?;
        pass(Point::FrameReplayed);
    }
    Ok(true)
}
