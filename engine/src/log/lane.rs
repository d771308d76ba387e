//! Background work on one paced lane, and the thread that leads groups of asynchronous callers.
//!
//! The work is a step function: a thread calls it here, a simulation in its own order.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::mark::Mark;
use super::prepare::Preparation;
use super::segment::Segment;
use super::{Log, LogState};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SegmentHeader;

/// Whether what is written may use the space that is held in reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reserve {
    /// It is told that the disk is full.
    Kept,
    /// It must be written.
    Usable,
}

/// Work that others do on the lane, beside the log's own.
pub(crate) trait Background: Send + Sync {
    /// Does one piece. Answers when to call again: at once, after so long, or (`None`) once the
    /// lane was woken.
    ///
    /// # Errors
    /// Why it could not be done; it is tried again.
    fn step(&self) -> Result<Option<Duration>>;
}

/// How long the lane rests between two steps while it is ahead of the log: long beside a step, so
/// that few commits meet one.
const REST: Duration = Duration::from_millis(10);
/// How long it rests after an error (a full disk) before it tries again.
const REST_AFTER_ERROR: Duration = Duration::from_millis(500);

/// The handles by which a log reaches its threads.
#[derive(Default)]
pub(super) struct Lane {
    signals: Arc<Signals>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    trouble: Mutex<Trouble>,
    others_trouble: Mutex<Trouble>,
}

/// What keeps background work from being done. It is tried again at every commit, and told of once.
#[derive(Debug, Default)]
struct Trouble {
    now: Option<ErrorKind>,
    /// How often it came, became another one, or went.
    changes: u64,
}

impl Trouble {
    /// Takes how a step ended; answers whether that is news.
    fn becomes(&mut self, now: Option<ErrorKind>) -> bool {
        let news = self.now != now;
        self.now = now;
        self.changes += u64::from(news);
        news
    }

    /// When to call again after a step of `work`; tells of it where that is news.
    fn outcome(&mut self, work: &str, step: Result<Option<Duration>>) -> Option<Duration> {
        match step {
            Ok(rest) => {
                if self.becomes(None) {
                    tracing::info!("{work} goes on");
                }
                rest
            }
            Err(error) => {
                if self.becomes(Some(error.kind())) {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, source, "{work} failed, trying again");
                }
                Some(REST_AFTER_ERROR)
            }
        }
    }
}

#[derive(Default)]
struct Signals {
    flags: Mutex<Flags>,
    work: Condvar,
    lead: Condvar,
}

#[derive(Default)]
struct Flags {
    running: bool,
    stop: bool,
    work: bool,
    lead: bool,
}

impl Lane {
    /// Starts both threads. They end when the log is closed or dropped.
    pub(super) fn start(&self, log: &Arc<Log>) -> Result<()> {
        self.signals.flags.lock().running = true;
        for (name, body) in [
            ("outlast-lane", work as fn(&Signals, &Weak<Log>)),
            ("outlast-log", lead as fn(&Signals, &Weak<Log>)),
        ] {
            let signals = self.signals.clone();
            let log = Arc::downgrade(log);
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || body(&signals, &log))
                .map_err(|error| Error::io("start a thread", error))?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }

    /// There may be work for the lane.
    pub(super) fn wake(&self) {
        let mut flags = self.signals.flags.lock();
        flags.work = true;
        drop(flags);
        self.signals.work.notify_one();
    }

    /// Lets the log's thread lead the next group; `false` when there is no such thread.
    pub(super) fn lead(&self) -> bool {
        let mut flags = self.signals.flags.lock();
        if !flags.running || flags.stop {
            return false;
        }
        flags.lead = true;
        drop(flags);
        self.signals.lead.notify_one();
        true
    }

    /// How often what keeps background work from being done has changed.
    #[cfg(test)]
    pub(super) fn troubles(&self) -> u64 {
        self.trouble.lock().changes
    }

    /// Ends both threads and waits for them.
    pub(super) fn stop(&self) {
        self.signals.flags.lock().stop = true;
        self.signals.work.notify_all();
        self.signals.lead.notify_all();
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads {
            // The last handle on the log may be dropped by one of these threads itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

fn lead(signals: &Signals, log: &Weak<Log>) {
    loop {
        let mut flags = signals.flags.lock();
        while !flags.lead && !flags.stop {
            signals.lead.wait(&mut flags);
        }
        // A group that was handed over is led even while stopping: its callers wait for it.
        if !std::mem::take(&mut flags.lead) {
            return;
        }
        drop(flags);
        match log.upgrade() {
            Some(log) => log.lead_group(),
            None => return,
        }
    }
}

fn work(signals: &Signals, log: &Weak<Log>) {
    loop {
        let rest = match log.upgrade() {
            Some(log) => log.background_step(),
            None => return,
        };
        let mut flags = signals.flags.lock();
        if !flags.work && !flags.stop {
            match rest {
                Some(rest) => {
                    signals.work.wait_for(&mut flags, rest);
                }
                None => signals.work.wait(&mut flags),
            }
        }
        if flags.stop {
            return;
        }
        flags.work = false;
    }
}

impl Log {
    /// Does one piece of background work. Answers when to call again: after so long, or (`None`)
    /// once something happened.
    pub(crate) fn background_step(&self) -> Option<Duration> {
        let background = self.background.lock().clone();
        let others = background.and_then(|background| background.upgrade());
        let others = others.and_then(|others| {
            let trouble = &mut self.lane.others_trouble.lock();
            trouble.outcome("index work", others.step())
        });
        let own = self.work_step();
        let own = self.lane.trouble.lock().outcome("background work", own);
        let rests = [self.mark_step(), self.time_step(), own, others];
        rests.into_iter().flatten().min()
    }

    /// Does the work of `background` on this log's lane.
    pub(crate) fn set_background(&self, background: Weak<dyn Background>) {
        *self.background.lock() = Some(background);
    }

    /// There is work for the lane.
    pub(crate) fn wake_lane(&self) {
        self.lane.wake();
    }

    fn work_step(&self) -> Result<Option<Duration>> {
        if matches!(
            self.state(),
            LogState::ReadOnly | LogState::Poisoned(_) | LogState::Closed
        ) {
            return Ok(None);
        }
        if let Some(segment) = self.segments.unreleased().first() {
            segment.release(&*self.fs)?;
            self.segments.turn();
            return Ok(Some(Duration::ZERO));
        }
        if let Some(active) = self.segments.last()
            && active.leave_to_file(&*self.fs, self.cell.durable(), !self.copies())?
        {
            self.segments.turn();
            return Ok(Some(Duration::ZERO));
        }
        let rest = self.prepare_step()?;
        if self.state() == LogState::Reading {
            return Ok(rest);
        }
        let retiring = self.retire_step()?;
        Ok(rest.into_iter().chain(retiring).min())
    }

    /// Keeps the next segment ahead of the log: twice as far filled as the active one.
    fn prepare_step(&self) -> Result<Option<Duration>> {
        let Some(active) = self.segments.last() else {
            return Ok(None);
        };
        if matches!(self.state(), LogState::Reading | LogState::ReadOnly) {
            return Ok(None);
        }
        let rest = self.prepare_behind(&active)?;
        // After the next segment, which commits need first.
        if let Err(error) = self.keep_reserve() {
            tracing::debug!(%error, "no reserve is held yet");
            return Ok(Some(
                rest.map_or(REST_AFTER_ERROR, |rest| rest.min(REST_AFTER_ERROR)),
            ));
        }
        Ok(rest)
    }

    /// Fills the next piece of the segment behind `active`.
    pub(super) fn prepare_behind(&self, active: &Segment) -> Result<Option<Duration>> {
        let mut ahead = self.preparation.lock();
        let ordinal = active.header.ordinal + 1;
        let last = self.segments.last().map(|last| last.header.ordinal);
        if ordinal <= ahead.taken || last != Some(active.header.ordinal) {
            // The log has rotated meanwhile (that file holds frames by now, or is about to), or was
            // cut. Whoever did it wakes the lane again.
            return Ok(None);
        }
        let preparation = match &mut ahead.next {
            Some(preparation) if !preparation.is_spoiled() => preparation,
            slot => slot.insert(Preparation::begin(self, ordinal)?),
        };
        if preparation.is_done() {
            return Ok(None);
        }
        let used = active.range().len_bytes();
        let capacity = SegmentHeader::capacity(self.segment_size);
        let due = 2 * used.min(capacity / 2) * self.segment_size / capacity;
        preparation.step(&*self.fs, due)?;
        Ok(Some(if preparation.zeroed_bytes() > due {
            REST
        } else {
            Duration::ZERO
        }))
    }

    /// Takes the prepared file of segment `ordinal`, finished here if it is not. What may use the
    /// `reserve` does so on a full disk.
    pub(super) fn take_prepared(&self, ordinal: u64, reserve: Reserve) -> Result<()> {
        let mut ahead = self.preparation.lock();
        let ready = ahead
            .next
            .take()
            .filter(|ready| ready.ordinal() == ordinal && !ready.is_spoiled());
        let prepared = match ready {
            Some(preparation) => Ok(preparation),
            None => Preparation::begin(self, ordinal),
        };
        let prepared = prepared.and_then(|mut preparation| {
            let finished = preparation.finish(&*self.fs);
            if finished.is_err() {
                ahead.next = Some(preparation);
            }
            finished
        });
        if let Err(error) = prepared {
            if error.kind() == ErrorKind::DiskFull {
                if reserve == Reserve::Usable && self.take_reserve(ordinal)? {
                    ahead.next = None;
                    ahead.taken = ordinal;
                    return Ok(());
                }
                let message = "the disk is full: no new segment can be made; writes go on once \
                               there is space, reads and shipping go on meanwhile";
                return Err(Error::new(ErrorKind::DiskFull, message).because(error));
            }
            return Err(error);
        }
        ahead.taken = ordinal;
        Ok(())
    }

    /// Once the log has been idle for a while, leaves evidence that all of it is durable: a
    /// watermark frame in a log that this node writes, its own mark in one that it receives or that
    /// can take no frame.
    fn mark_step(&self) -> Option<Duration> {
        let state = self.state();
        if matches!(
            state,
            LogState::Reading | LogState::ReadOnly | LogState::Poisoned(_) | LogState::Closed
        ) {
            return None;
        }
        let synced =
            Duration::from_nanos(self.synced_at_ns.load(std::sync::atomic::Ordering::Relaxed));
        let idle = self.clock.monotonic().saturating_sub(synced);
        let due = match state {
            // Under load every frame vouches for the one before; only the last needs help.
            LogState::Writing => self.config.idle_mark_after.saturating_sub(idle),
            _ => self.mark_due(),
        };
        if !self.mark_armed.load(std::sync::atomic::Ordering::Acquire) {
            return None;
        }
        if due > Duration::ZERO {
            return Some(due);
        }
        self.mark_armed
            .store(false, std::sync::atomic::Ordering::Release);
        if state == LogState::Writing && !self.is_vouched() {
            self.append_watermark();
        }
        // The mark where no frame could be written: on a full disk, or in a log that takes none.
        let vouched = state == LogState::Writing && self.is_vouched();
        if vouched || matches!(self.state(), LogState::Poisoned(_) | LogState::Closed) {
            return None;
        }
        if let Err(error) = self.note_mark() {
            self.poison(&error);
        }
        None
    }

    /// Whether the last frame is a watermark that vouches for all before it.
    fn is_vouched(&self) -> bool {
        let chain = self.chain();
        let watermark_frame = crate::format::FRAME_HEADER_LEN as u64;
        chain.lsn.bytes_since(chain.watermark) <= watermark_frame
    }

    /// How long until a follower's mark is due: that long after the first fsync that it misses.
    fn mark_due(&self) -> Duration {
        let armed =
            Duration::from_nanos(self.armed_at_ns.load(std::sync::atomic::Ordering::Relaxed));
        let since = self.clock.monotonic().saturating_sub(armed);
        self.config.idle_mark_after.saturating_sub(since)
    }

    /// Notes durably how far this node has fsynced.
    pub(super) fn note_mark(&self) -> Result<()> {
        let lsn = self.cell.durable();
        let epoch = self.history.read().epoch_before(lsn).map(|epoch| epoch.id);
        match epoch {
            Some(epoch) => self.mark.lock().note(Mark { epoch, lsn }),
            None => Ok(()),
        }
    }
}
