//! What all rounds of a drill came to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::how::How;
use super::judge::{Unit, Violation};
use super::promise::{Limits, Promise};
use super::round::Played;

/// What all rounds came to. `"schema": 1`; fields are only ever added.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Version of this layout.
    pub schema: u32,
    /// What was promised.
    pub promise: Promise,
    /// The seed of the first round; each has the next.
    pub seed: u64,
    /// Primaries that were lost, by how.
    pub kills: BTreeMap<&'static str, u64>,
    /// Rounds that could not be played to their end.
    pub failures: Vec<FailedRound>,
    /// Rounds in which something was that must not be.
    pub violations: Vec<RoundSummary>,
    /// Commits that old primaries answered OK.
    pub answered: u64,
    /// Rounds in which any of them was lost.
    pub rounds_with_loss: u64,
    /// The largest loss, in each unit.
    pub largest_loss: LargestLoss,
    /// The largest loss as a share of the bound, where there is one above 0: 1 where it was used
    /// up.
    pub tightness: Tightness,
    /// Answers that old primaries gave to commits sent after the promotion.
    pub answered_after_promotion: u64,
    /// From the loss of the primary to the first answer of the promoted node, in milliseconds.
    pub recovery_ms: Times,
    /// The promotion itself, as certified, in milliseconds.
    pub promotion_ms: Times,
    /// What could not be done here, in words.
    pub left_out: Vec<String>,
}

/// A round with violations.
#[derive(Clone, Debug, Serialize)]
pub struct RoundSummary {
    /// Its seed.
    pub seed: u64,
    /// What was done.
    pub story: String,
    /// What was wrong.
    pub violations: Vec<Violation>,
    /// The same in words.
    pub what: Vec<String>,
    /// Where its nodes and the evidence are.
    pub kept: Option<PathBuf>,
}

/// A round without a verdict.
#[derive(Clone, Debug, Serialize)]
pub struct FailedRound {
    /// Its seed.
    pub seed: u64,
    /// What failed.
    pub what: String,
}

/// The largest loss.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct LargestLoss {
    /// In commits.
    pub commits: u64,
    /// In bytes of log.
    pub bytes: u64,
    /// From answer to answer, in milliseconds.
    pub span_ms: f64,
}

/// The largest loss as a share of the bound.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Tightness {
    /// In commits.
    pub commits: Option<f64>,
    /// In bytes of log.
    pub bytes: Option<f64>,
    /// In time.
    pub span: Option<f64>,
}

/// Times of rounds in milliseconds; zero where there were none.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Times {
    /// How many.
    pub count: usize,
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 in a hundred are at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Summary {
    /// Of rounds that were played, and of those that could not be.
    #[must_use]
    pub fn of(
        promise: Promise,
        seed: u64,
        played: &[Played],
        failures: Vec<FailedRound>,
        left_out: Vec<String>,
    ) -> Self {
        let most = |of: fn(&Played) -> u64| played.iter().map(of).max().unwrap_or(0);
        let largest_loss = LargestLoss {
            commits: most(|round| round.verdict.loss.commits),
            bytes: most(|round| round.verdict.loss.bytes),
            span_ms: played
                .iter()
                .map(|round| ms(round.verdict.loss.span))
                .fold(0.0, f64::max),
        };
        let mut kills: BTreeMap<_, _> = How::ALL.map(|how| (how.name(), 0)).into();
        for round in played {
            *kills.entry(round.how.name()).or_default() += 1;
        }
        let wrong = |round: &&Played| !round.verdict.violations.is_empty();
        let lossy = |round: &&Played| round.verdict.loss.commits > 0;
        Self {
            schema: 1,
            promise,
            seed,
            kills,
            failures,
            violations: played.iter().filter(wrong).map(RoundSummary::of).collect(),
            answered: played.iter().map(|round| round.answered).sum(),
            rounds_with_loss: played.iter().filter(lossy).count() as u64,
            tightness: Tightness::of(&largest_loss, &promise.limits().unwrap_or_default()),
            largest_loss,
            answered_after_promotion: played
                .iter()
                .map(|round| round.verdict.answered_after_promotion)
                .sum(),
            recovery_ms: Times::of(
                played
                    .iter()
                    .filter_map(|round| Some(ms(round.recovery?)))
                    .collect(),
            ),
            promotion_ms: Times::of(
                played
                    .iter()
                    .map(|round| round.certificate.took_ms as f64)
                    .collect(),
            ),
            left_out,
        }
    }

    /// Rounds that were played to their end.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Whether all were, and nothing was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.failures.is_empty()
    }

    /// The largest loss against each bound, or what was lost where there is none.
    #[must_use]
    pub fn losses(&self) -> Vec<(Unit, f64, Option<u64>)> {
        let limits = self.promise.limits();
        let largest = &self.largest_loss;
        let all = [
            (
                Unit::Commits,
                largest.commits as f64,
                limits.and_then(|most| most.commits),
            ),
            (
                Unit::Bytes,
                largest.bytes as f64,
                limits.and_then(|most| most.bytes),
            ),
            (
                Unit::Ms,
                largest.span_ms,
                limits.and_then(|most| most.span_ms),
            ),
        ];
        let told = |(unit, _, most): &(Unit, f64, Option<u64>)| match limits {
            Some(_) => most.is_some(),
            None => *unit == Unit::Commits,
        };
        all.into_iter().filter(told).collect()
    }
}

impl RoundSummary {
    fn of(round: &Played) -> Self {
        let violations = &round.verdict.violations;
        Self {
            seed: round.seed,
            story: round.story.clone(),
            what: violations.iter().map(ToString::to_string).collect(),
            violations: violations.clone(),
            kept: round.kept.clone(),
        }
    }
}

impl Tightness {
    fn of(loss: &LargestLoss, limits: &Limits) -> Self {
        let share = |lost: f64, most: Option<u64>| {
            let most = most.filter(|most| *most > 0)?;
            Some(lost / most as f64)
        };
        Self {
            commits: share(loss.commits as f64, limits.commits),
            bytes: share(loss.bytes as f64, limits.bytes),
            span: share(loss.span_ms, limits.span_ms),
        }
    }
}

impl Times {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let count = all.len();
        let at = |percent: usize| {
            let rank = (count * percent).div_ceil(100).max(1);
            all.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            count,
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up_by_rank() {
        assert_eq!(Times::of(Vec::new()), Times::default());
        let times = Times::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((times.p50, times.p99, times.max), (100.0, 198.0, 200.0));
        assert_eq!(Times::of(vec![7.0]).p50, 7.0);
    }

    #[test]
    fn a_bound_of_nothing_has_no_tightness() {
        let loss = LargestLoss {
            commits: 50,
            ..LargestLoss::default()
        };
        let limits = |commits| Limits {
            commits: Some(commits),
            ..Limits::default()
        };
        assert_eq!(Tightness::of(&loss, &limits(100)).commits, Some(0.5));
        assert_eq!(Tightness::of(&loss, &limits(0)).commits, None);
    }
}
