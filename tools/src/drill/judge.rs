//! The judgement: what clients were told, the promoted state and the certificate against each
//! other and against what was promised. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use outlast_standby::certificate::{CertifiedBound, Fencing, MeasuredLoss};
use serde::Serialize;

pub use self::violation::{Unit, Violation};
use super::promise::{Limits, Promise};

#[cfg(test)]
mod tests;
mod violation;

/// One commit that the old primary answered OK, as its client saw it. Times count from the
/// beginning of the round, on the clients' clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Answered {
    /// Whose it is.
    pub writer: usize,
    /// How many batches of that writer come before it.
    pub batch: u64,
    /// The number of its commit, counted from 1.
    pub commit: u64,
    /// Where it ends in the log.
    pub lsn: u64,
    /// Before it was sent.
    #[serde(rename = "sent_us", serialize_with = "microseconds")]
    pub sent: Duration,
    /// After its answer had come.
    #[serde(rename = "answered_us", serialize_with = "microseconds")]
    pub answered: Duration,
}

/// The promoted node, and what its certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promoted {
    /// What keeps the old primary from answering.
    pub fencing: Fencing,
    /// The most that is lost, or why nobody can say.
    pub bound: Result<CertifiedBound, String>,
    /// What is missing of what the old primary last told of itself.
    pub measured: Option<MeasuredLoss>,
    /// How many commits it says that it holds.
    pub commits: u64,
    /// Where they end.
    pub lsn: u64,
    /// When the certificate had come.
    pub at: Duration,
}

/// All that is known of a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// What was promised.
    pub promise: Promise,
    /// Everything that the old primary answered OK, before and after.
    pub answered: Vec<Answered>,
    /// How many commits were sent to it, answered or not.
    pub sent: u64,
    /// For each writer, after how many of its batches its part of the promoted state is what it is.
    pub prefixes: Vec<Vec<u64>>,
    /// Keys of the promoted state that no writer writes.
    pub strange_keys: Vec<String>,
    /// The promoted node.
    pub promoted: Promoted,
    /// When the line had been cut, if it was, and stayed so.
    pub cut: Option<Duration>,
    /// When the old primary had said that a newer term fences it, if it had to.
    pub fenced: Option<Duration>,
}

/// What was answered OK and is not in the promoted state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Loss {
    /// Commits up to the last one.
    pub commits: u64,
    /// Bytes of log up to its end.
    pub bytes: u64,
    /// From the answer to the first to the last moment at which one was sent: the decisions to
    /// answer them lie at least so far apart.
    #[serde(rename = "span_us", serialize_with = "microseconds")]
    pub span: Duration,
}

/// What came of a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What was lost.
    pub loss: Loss,
    /// Answers that came to commits sent to the old primary after the promotion.
    pub answered_after_promotion: u64,
    /// Everything that must not be.
    pub violations: Vec<Violation>,
}

/// Compares all that is known.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let promoted = &evidence.promoted;
    let loss = loss(evidence);
    let mut violations = Vec::new();
    judge_state(evidence, &mut violations);
    if let Some(most) = evidence.promise.limits() {
        for (unit, lost, most) in over(&loss, &most) {
            violations.push(Violation::OverBound { unit, lost, most });
        }
    }
    judge_certificate(evidence, &loss, &mut violations);
    judge_fence(evidence, &mut violations);
    let late = sent_after(evidence, promoted.at);
    Verdict {
        loss,
        answered_after_promotion: late.count() as u64,
        violations,
    }
}

/// What lies beyond the promoted node's end. Answers come in the order of the log, so all up to the
/// last one were decided.
fn loss(evidence: &Evidence) -> Loss {
    let promoted = &evidence.promoted;
    let beyond = || {
        let beyond = |one: &&Answered| one.commit > promoted.commits || one.lsn > promoted.lsn;
        evidence.answered.iter().filter(beyond)
    };
    let commit = beyond().map(|one| one.commit).max().unwrap_or_default();
    let lsn = beyond().map(|one| one.lsn).max().unwrap_or_default();
    let first_answer = beyond().map(|one| one.answered).min().unwrap_or_default();
    let last_sent = beyond().map(|one| one.sent).max().unwrap_or_default();
    Loss {
        commits: commit.saturating_sub(promoted.commits),
        bytes: lsn.saturating_sub(promoted.lsn),
        span: last_sent.saturating_sub(first_answer),
    }
}

/// Whether the promoted state is one that was, and the one that its certificate names.
fn judge_state(evidence: &Evidence, violations: &mut Vec<Violation>) {
    let promoted = &evidence.promoted;
    let mut found = 0;
    for (writer, equal) in evidence.prefixes.iter().enumerate() {
        match equal.as_slice() {
            [one] => found += one,
            _ => violations.push(Violation::NeverWas {
                writer,
                equal: equal.clone(),
            }),
        }
    }
    if !violations.is_empty() {
        return;
    }
    for key in &evidence.strange_keys {
        violations.push(Violation::StrangeKey { key: key.clone() });
    }
    if found != promoted.commits {
        let certified = promoted.commits;
        violations.push(Violation::OtherCount { found, certified });
    }
    let mut numbers = BTreeMap::new();
    for answered in evidence.answered.iter().copied() {
        let prefix = evidence.prefixes.get(answered.writer);
        let held = prefix
            .and_then(|equal| equal.first())
            .is_some_and(|prefix| answered.batch < *prefix);
        let by_number = answered.commit <= promoted.commits;
        let by_place = answered.lsn <= promoted.lsn;
        if held && !(by_number && by_place) {
            violations.push(Violation::Misplaced { answered });
        } else if !held && (by_number || by_place) {
            violations.push(Violation::Missing { answered });
        }
        let other = numbers.insert(answered.commit, (answered.writer, answered.batch));
        if other.is_some() {
            let commit = answered.commit;
            violations.push(Violation::SameNumber { commit });
        }
    }
}

/// Whether the certificate says enough, and nothing that is not so.
fn judge_certificate(evidence: &Evidence, loss: &Loss, violations: &mut Vec<Violation>) {
    let promoted = &evidence.promoted;
    match (&promoted.bound, evidence.promise.limits()) {
        (Ok(bound), Some(limits)) => {
            let certified = Limits {
                bytes: bound.bytes,
                commits: bound.commits,
                span_ms: bound.span_ms,
            };
            for (unit, lost, most) in over(loss, &certified) {
                violations.push(Violation::OverCertificate { unit, lost, most });
            }
            if certified != limits {
                violations.push(Violation::OtherBound { certified });
            }
        }
        (Ok(_), None) => violations.push(Violation::CertifiedUnpromised),
        (Err(why), Some(_)) => {
            let why = why.clone();
            violations.push(Violation::NothingCertified { why });
        }
        (Err(_), None) => {}
    }
    let possible = evidence.sent.saturating_sub(promoted.commits);
    let measured = promoted.measured.map_or(0, |measured| measured.commits);
    if measured > possible {
        violations.push(Violation::MeasuredTooMuch { measured, possible });
    }
}

/// Whether the old primary answered when nothing allowed it to.
fn judge_fence(evidence: &Evidence, violations: &mut Vec<Violation>) {
    let promoted = &evidence.promoted;
    if promoted.fencing == Fencing::Fenced
        && let Some(answered) = sent_after(evidence, promoted.at).next()
    {
        violations.push(Violation::AnsweredAfterFence { answered });
    }
    if let (Some(cut), Some(lease)) = (evidence.cut, evidence.promise.lease())
        && let Some(answered) = sent_after(evidence, cut + lease).next()
    {
        violations.push(Violation::AnsweredAfterLease { answered });
    }
    if let Some(fenced) = evidence.fenced
        && let Some(answered) = sent_after(evidence, fenced).next()
    {
        violations.push(Violation::AnsweredAfterTerm { answered });
    }
}

/// Answers to what was sent after `moment`. What was sent before it may have been decided before
/// it, however late the answer came.
fn sent_after(evidence: &Evidence, moment: Duration) -> impl Iterator<Item = Answered> {
    let late = move |one: &&Answered| one.sent > moment;
    evidence.answered.iter().filter(late).copied()
}

/// In what the loss is over the limits.
fn over(loss: &Loss, limits: &Limits) -> Vec<(Unit, u64, u64)> {
    let span_ms = u64::try_from(loss.span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let parts = [
        (Unit::Commits, loss.commits, limits.commits),
        (Unit::Bytes, loss.bytes, limits.bytes),
        (Unit::Ms, span_ms, limits.span_ms),
    ];
    let over = |(unit, lost, most): (Unit, u64, Option<u64>)| {
        most.filter(|most| lost > *most)
            .map(|most| (unit, lost, most))
    };
    parts.into_iter().filter_map(over).collect()
}

fn microseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(time.as_micros())
}
