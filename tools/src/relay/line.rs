//! One direction of the line: decides, from a seed, what becomes of each datagram, and when.
//!
//! Pure: time is an argument, counted from any fixed instant. For every datagram the same number of
//! values is drawn, whatever the settings are and however it ends; so changing the loss in the
//! middle of a run does not change the jitter of what follows, and a cut shifts nothing.

use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

use super::settings::LineSettings;

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    Gone(Cause),
    /// It arrives.
    Delivered {
        /// When.
        at: Duration,
        /// When it arrives once more, if it is duplicated; not before `at`.
        copy_at: Option<Duration>,
    },
}

/// Why a datagram never arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The line is cut.
    Cut,
    /// Drawn as lost.
    Loss,
    /// Too much waits already for a line of this rate.
    QueueFull,
}

/// What has become of the datagrams of one direction so far.
///
/// `offered + duplicated = delivered + lost + cut + queue_full + unsent`, plus what is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// Datagrams that came in.
    pub offered: u64,
    /// Datagrams that were sent on, copies included.
    pub delivered: u64,
    /// Their bytes of payload.
    pub delivered_bytes: u64,
    /// Drawn as lost.
    pub lost: u64,
    /// Gone because the line was cut, those that were under way included.
    pub cut: u64,
    /// Gone because too much waited for a line with a rate.
    pub queue_full: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Held back so that later ones overtake them.
    pub reordered: u64,
    /// Not drawn, but gone: the system refused to send them on, too much was under way, or the
    /// client was forgotten for a newer one.
    pub unsent: u64,
}

/// One direction of the line.
#[derive(Debug)]
pub struct Line {
    settings: LineSettings,
    rng: Rng,
    /// Until when the line is occupied by what was accepted before.
    busy_until: Duration,
    /// The latest delivery that later datagrams do not overtake.
    in_order_until: Duration,
    counts: LineCounts,
}

struct Draws {
    loss: u64,
    duplicate: u64,
    reorder: u64,
    jitter: u64,
    jitter_of_copy: u64,
}

impl Line {
    /// A line that draws its fates from `rng`.
    pub fn new(settings: LineSettings, rng: Rng) -> Self {
        Self {
            settings,
            rng,
            busy_until: Duration::ZERO,
            in_order_until: Duration::ZERO,
            counts: LineCounts::default(),
        }
    }

    /// The pair of lines, up and down, of a relay with this seed.
    pub fn pair(up: LineSettings, down: LineSettings, seed: u64) -> (Self, Self) {
        let mut root = Rng::with_seed(seed);
        (Self::new(up, root.fork()), Self::new(down, root.fork()))
    }

    /// What has become of everything so far.
    pub fn counts(&self) -> &LineCounts {
        &self.counts
    }

    pub(super) fn counts_mut(&mut self) -> &mut LineCounts {
        &mut self.counts
    }

    /// Behaves differently from the next datagram on.
    pub fn change(&mut self, settings: LineSettings) {
        if settings.rate != self.settings.rate {
            // What waits was promised its time already; a new rate begins with a free line.
            self.busy_until = Duration::ZERO;
        }
        if settings.delay != self.settings.delay {
            // As when a route changes: what takes the shorter way overtakes what is under way.
            self.in_order_until = Duration::ZERO;
        }
        self.settings = settings;
    }

    /// Decides about a datagram of `bytes` that comes in at `now`, which never goes back.
    pub fn offer(&mut self, now: Duration, bytes: usize) -> Fate {
        self.counts.offered += 1;
        let draws = self.draw();
        let fate = self.decide(now, bytes, &draws);
        match fate {
            Fate::Gone(Cause::Cut) => self.counts.cut += 1,
            Fate::Gone(Cause::Loss) => self.counts.lost += 1,
            Fate::Gone(Cause::QueueFull) => self.counts.queue_full += 1,
            Fate::Delivered { copy_at, .. } => {
                self.counts.duplicated += u64::from(copy_at.is_some())
            }
        }
        fate
    }

    fn draw(&mut self) -> Draws {
        let mut next = || self.rng.u64(..);
        Draws {
            loss: next(),
            duplicate: next(),
            reorder: next(),
            jitter: next(),
            jitter_of_copy: next(),
        }
    }

    fn decide(&mut self, now: Duration, bytes: usize, draws: &Draws) -> Fate {
        if self.settings.cut {
            return Fate::Gone(Cause::Cut);
        }
        if self.settings.loss.covers(draws.loss) {
            return Fate::Gone(Cause::Loss);
        }
        let Some(left) = self.transmit(now, bytes) else {
            return Fate::Gone(Cause::QueueFull);
        };
        let in_order = (left + self.delay(draws.jitter)).max(self.in_order_until);
        let at = if self.settings.reorder.covers(draws.reorder) {
            self.counts.reordered += 1;
            in_order + self.settings.reorder_by
        } else {
            self.in_order_until = in_order;
            in_order
        };
        let duplicated = self.settings.duplicate.covers(draws.duplicate);
        let copy_at = duplicated.then(|| at.max(left + self.delay(draws.jitter_of_copy)));
        Fate::Delivered { at, copy_at }
    }

    /// When the last bit of it leaves for a line with a rate; `None` if the queue is full.
    fn transmit(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let Some(rate) = self.settings.rate else {
            return Some(now);
        };
        let bits_per_s = u128::from(rate.bits_per_s());
        let begins = self.busy_until.max(now);
        let waiting = (begins - now).as_nanos() * bits_per_s / 8 / NANOS_PER_S;
        let bytes = bytes as u128;
        // A free line takes anything, so that no queue is too short for one datagram.
        if waiting > 0 && waiting + bytes > u128::from(self.settings.queue_bytes(rate)) {
            return None;
        }
        let takes_ns = (bytes * 8 * NANOS_PER_S).div_ceil(bits_per_s);
        self.busy_until = begins + nanoseconds(takes_ns);
        Some(self.busy_until)
    }

    /// The delay with its jitter, uniform in delay ± jitter and never below zero.
    fn delay(&self, draw: u64) -> Duration {
        let width = self.settings.jitter.as_nanos() * 2 + 1;
        let jitter = nanoseconds((u128::from(draw) * width) >> 64);
        (self.settings.delay + jitter).saturating_sub(self.settings.jitter)
    }
}

const NANOS_PER_S: u128 = 1_000_000_000;

fn nanoseconds(ns: u128) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
