//! Log time: what puts expire by, carried by the log so that all nodes count the same.
//!
//! It follows the writer's wall clock, never falls, and never runs ahead of the monotonic clock by
//! more than a second, so that no jump of a clock takes away what two buildings hold. Between two
//! tenures of a writer there is no monotonic clock to hold it against. So where the wall clock then
//! shows much more than the log did, and puts wait to expire, log time stands still until somebody
//! has looked at the clock.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::writer::Writer;
use super::{Log, LogState};
use crate::error::Result;

/// How far log time may run ahead of the monotonic clock.
const AHEAD_MAX_MS: u64 = 1_000;
/// How often it is carried on while nobody commits and puts wait to expire.
const CARRIED_EVERY: Duration = Duration::from_secs(10);

/// What log time counts from in one epoch.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Base {
    /// The wall clock at the beginning.
    ms: u64,
    /// The monotonic clock at the same moment, in nanoseconds.
    at_ns: u64,
    /// It stands still.
    held: bool,
}

/// Log time that stands still: puts do not expire meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldLogTime {
    /// Log time, in milliseconds since 1970.
    pub log_ms: u64,
    /// What this node's wall clock shows, in milliseconds since 1970.
    pub wall_ms: u64,
}

impl Base {
    /// Log time of a frame formed at `now_ns`, when the wall clock shows `wall_ms` and the frame
    /// before has `last_ms`.
    pub(super) fn log_ms(&self, wall_ms: u64, now_ns: u64, last_ms: u64) -> u64 {
        if self.held {
            return last_ms;
        }
        let passed_ms = now_ns.saturating_sub(self.at_ns) / 1_000_000;
        let ceiling = self
            .ms
            .saturating_add(passed_ms)
            .saturating_add(AHEAD_MAX_MS);
        wall_ms.min(ceiling).max(last_ms)
    }
}

impl Log {
    /// What log time counts from in an epoch that begins now.
    pub(super) fn time_base(&self, writer: &Writer, wall_ms: u64) -> Base {
        let last_ms = writer.chain.log_ms;
        let ahead_max = self.config.log_time_ahead_max.as_millis();
        let ahead_max_ms = u64::try_from(ahead_max).unwrap_or(u64::MAX);
        let far_ahead = wall_ms > last_ms.saturating_add(ahead_max_ms);
        let held = far_ahead && last_ms > 0 && self.has_expiring();
        if held {
            tracing::error!(
                log_ms = last_ms,
                wall_ms,
                "ALARM: the wall clock is far ahead of the log: no put expires until somebody has \
                 looked at the clock and confirmed it (Store::confirm_log_time)"
            );
        }
        Base {
            ms: wall_ms.max(last_ms),
            at_ns: self.now_ns(),
            held,
        }
    }

    /// Lets log time count from `base`.
    pub(super) fn set_time_base(&self, writer: &mut Writer, base: Base) {
        let held_ms = if base.held { writer.chain.log_ms } else { 0 };
        self.held_log_ms.store(held_ms, Ordering::Relaxed);
        writer.log_base = base;
    }

    /// Log time, if it stands still. Waits for no disk.
    pub(crate) fn held_log_time(&self) -> Option<HeldLogTime> {
        let log_ms = self.held_log_ms.load(Ordering::Relaxed);
        (log_ms > 0 && self.state() == LogState::Writing).then(|| HeldLogTime {
            log_ms,
            wall_ms: self.clock.wall_ms(),
        })
    }

    /// Lets log time go on from what the wall clock shows, where it stood still.
    ///
    /// # Errors
    /// Those of a commit.
    pub(crate) fn confirm_log_time(&self) -> Result<()> {
        self.require(&LogState::Writing)?;
        let mut writer = self.writer();
        if !writer.log_base.held {
            return Ok(());
        }
        let base = Base {
            ms: self.clock.wall_ms().max(writer.chain.log_ms),
            at_ns: self.now_ns(),
            held: false,
        };
        self.set_time_base(&mut writer, base);
        drop(writer);
        self.append_watermark_and_wait()
    }

    /// Carries log time on while nobody commits and puts wait to expire.
    pub(super) fn time_step(&self) -> Option<Duration> {
        let stands = self.held_log_time().is_some();
        if self.state() != LogState::Writing || stands || !self.has_expiring() {
            return None;
        }
        let synced = Duration::from_nanos(self.synced_at_ns.load(Ordering::Relaxed));
        let due = CARRIED_EVERY.saturating_sub(self.clock.monotonic().saturating_sub(synced));
        if due > Duration::ZERO {
            return Some(due);
        }
        self.append_watermark();
        Some(CARRIED_EVERY)
    }

    fn has_expiring(&self) -> bool {
        let sink = self.sink.lock().clone();
        sink.is_some_and(|sink| sink.has_expiring())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_wall_clock_as_far_as_the_monotonic_one_allows_and_never_falls() {
        let base = Base {
            ms: 10_000,
            at_ns: 5_000_000_000,
            held: false,
        };
        let at = |wall_ms, after_ms: u64, last_ms| {
            base.log_ms(wall_ms, 5_000_000_000 + after_ms * 1_000_000, last_ms)
        };
        assert_eq!(at(10_000, 0, 0), 10_000);
        assert_eq!(at(10_700, 300, 10_000), 10_700);
        // A jump ahead is worth a second; one back is worth nothing.
        assert_eq!(at(99_000, 300, 10_000), 11_300);
        assert_eq!(at(2_000, 300, 10_000), 10_000);
        let held = Base { held: true, ..base };
        assert_eq!(held.log_ms(99_000, 9_000_000_000, 10_000), 10_000);
    }
}
