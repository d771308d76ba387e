//! What is drawn for a round.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::how::How;
use super::line::Cut;
use super::round::Drill;

const ANSWERS_LEAST: u64 = 20;
const DOUBLINGS_MOST: u32 = 6;
const DOUBLINGS_NARROW: u32 = 2;
const PAUSE_MAX_MS: u64 = 20;
/// What stands for a lease where there is none.
const NO_LEASE: Duration = Duration::from_millis(200);

/// What happens in a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// How the primary is lost.
    pub(super) how: How,
    /// How many clients write at the same time.
    pub(super) writers: usize,
    /// How many batches each client has in flight.
    pub(super) in_flight: usize,
    /// After how many answers.
    pub(super) answers: u64,
    /// And how much later.
    pub(super) pause: Duration,
    /// What becomes of the line.
    pub(super) line: LineEnd,
    /// Whether the standby's process ends too, and its directory is promoted.
    pub(super) offline: bool,
    /// For how long the old primary goes on beside the new one.
    pub(super) zombie: Duration,
}

/// What becomes of the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineEnd {
    /// Nothing: what is under way arrives.
    Stays,
    /// It is cut right after the primary is lost.
    With,
    /// It is cut so long before that.
    Before {
        /// Which way.
        cut: Cut,
        /// How long.
        by: Duration,
    },
}

impl Plan {
    /// Draws a round.
    pub(super) fn draw(how: How, drill: &Drill, random: &mut Rng) -> Self {
        let lease = drill.promise.lease().unwrap_or(NO_LEASE);
        // Even over the orders of magnitude, so that early moments are met as well.
        // One client that waits for each answer makes groups of one commit, which use up a bound to
        // the last, and answers that lie close to when they were sent.
        let narrow = random.u8(..3) == 0;
        let doublings = if narrow {
            DOUBLINGS_NARROW
        } else {
            DOUBLINGS_MOST
        };
        let order = ANSWERS_LEAST << random.u32(..=doublings);
        let answers = order + random.u64(..order);
        let in_flight = random.usize(1..=drill.in_flight.max(1));
        let (writers, in_flight) = match narrow {
            true => (1, 1),
            false => (drill.writers.max(1), in_flight),
        };
        let up_to = |random: &mut Rng, most: Duration| most.mul_f64(random.f64());
        let (one_in_three, in_time) = (random.u8(..3), up_to(random, lease * 2));
        let both_before = LineEnd::Before {
            cut: Cut::Both,
            by: in_time,
        };
        let line = match (how, one_in_three) {
            (How::Cut, which) => LineEnd::Before {
                cut: match which {
                    0 => Cut::Both,
                    1 => Cut::ToSecond,
                    _ => Cut::ToFirst,
                },
                by: Duration::ZERO,
            },
            (How::Gone, 0) | (How::Kill | How::Restart, 2) => both_before,
            (How::Gone, _) | (_, 1) => LineEnd::With,
            _ => LineEnd::Stays,
        };
        Self {
            how,
            writers,
            in_flight,
            answers,
            pause: Duration::from_millis(random.u64(..=PAUSE_MAX_MS)),
            line,
            offline: how == How::Gone && random.bool(),
            zombie: up_to(random, lease) + Duration::from_millis(50),
        }
    }

    /// Whether the primary is lost at one instant.
    pub(super) fn is_sudden(&self) -> bool {
        match self.line {
            LineEnd::Before { .. } => self.how == How::Cut,
            LineEnd::With | LineEnd::Stays => self.how != How::Full,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            how,
            answers,
            writers,
            in_flight,
            ..
        } = self;
        write!(
            f,
            "{how} after {answers} answers to {writers} clients of {in_flight} each"
        )?;
        match self.line {
            LineEnd::Stays => f.write_str(", the line stays")?,
            LineEnd::With => f.write_str(", the line is cut with it")?,
            LineEnd::Before { cut, by } => {
                f.write_str(match cut {
                    Cut::Both => ", the line is cut both ways",
                    Cut::ToSecond => ", the line is cut towards the standby",
                    Cut::ToFirst => ", the line is cut towards the primary",
                })?;
                if !by.is_zero() {
                    write!(f, " {} ms before", by.as_millis())?;
                }
            }
        }
        if self.offline {
            f.write_str(", the standby's process ends as well")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::Promise;
    use crate::pair::Processes;

    #[test]
    fn every_way_is_drawn_and_one_seed_draws_one() {
        let drill = Drill {
            exe: "outlast".into(),
            dir: "nowhere".into(),
            promise: Promise::Sync { lease_ms: 200 },
            hows: How::ALL.to_vec(),
            writers: 1,
            in_flight: 8,
            delay: Duration::ZERO,
            namespaces: false,
            processes: Processes::default(),
            playing: Default::default(),
        };
        let draw = |how, seed| Plan::draw(how, &drill, &mut Rng::with_seed(seed));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            for how in How::ALL {
                let plan = draw(how, seed);
                assert_eq!(plan, draw(how, seed));
                assert!((20..2_560).contains(&plan.answers));
                assert!((1..=8).contains(&plan.in_flight));
                let line = match plan.line {
                    LineEnd::Stays => "stays",
                    LineEnd::With => "with",
                    LineEnd::Before { cut: Cut::Both, .. } => "both",
                    LineEnd::Before { .. } => "one way",
                };
                seen.insert((how, line, plan.offline));
            }
        }
        assert_eq!(seen.len(), 3 + 3 + 2 + 2 + 4 + 2, "{seen:?}");
    }
}
