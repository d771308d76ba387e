//! Each way in which ledger, state and certificate can disagree is found, and nothing else is.

use outlast_engine::format::Lsn;

use super::*;

const LEASE_MS: u64 = 200;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn promise(limits: Limits) -> Promise {
    Promise::Bounded {
        bytes: limits.bytes,
        commits: limits.commits,
        ms: limits.span_ms,
        lease_ms: LEASE_MS,
    }
}

fn certified(limits: Limits) -> Result<CertifiedBound, String> {
    Ok(CertifiedBound {
        bytes: limits.bytes,
        commits: limits.commits,
        span_ms: limits.span_ms,
        lease_ms: LEASE_MS,
        record: Lsn(64),
    })
}

/// Commits of two writers in turn, 100 bytes and a millisecond each; the promoted node has the
/// first 10 of `answered`.
fn round(limits: Limits, answered: u64) -> Evidence {
    let one = |n: u64| Answered {
        writer: usize::from(n % 2 == 1),
        batch: n / 2,
        commit: n + 1,
        lsn: (n + 1) * 100,
        sent: ms(n),
        answered: ms(n + 1),
    };
    Evidence {
        promise: promise(limits),
        answered: (0..answered).map(one).collect(),
        sent: answered + 8,
        prefixes: vec![vec![5], vec![5]],
        strange_keys: Vec::new(),
        promoted: Promoted {
            fencing: Fencing::Fenced,
            bound: certified(limits),
            measured: None,
            commits: 10,
            lsn: 1000,
            at: ms(1000),
        },
        cut: None,
        fenced: None,
    }
}

fn commits(most: u64) -> Limits {
    Limits {
        commits: Some(most),
        ..Limits::default()
    }
}

fn violations(evidence: &Evidence) -> Vec<Violation> {
    judge(evidence).violations
}

#[test]
fn a_loss_up_to_the_bound_is_none_of_the_judges_business() {
    for lost in 0..=5 {
        let verdict = judge(&round(commits(5), 10 + lost));
        assert_eq!(verdict.violations, []);
        assert_eq!(
            (verdict.loss.commits, verdict.loss.bytes),
            (lost, lost * 100)
        );
    }
    // Less than the node holds, as when answers were on their way when the primary died.
    assert_eq!(violations(&round(commits(0), 3)), []);
}

#[test]
fn one_commit_over_the_bound_is_found_in_each_unit() {
    let over = |unit, lost, most| {
        vec![
            Violation::OverBound { unit, lost, most },
            Violation::OverCertificate { unit, lost, most },
        ]
    };
    assert_eq!(
        violations(&round(commits(5), 16)),
        over(Unit::Commits, 6, 5)
    );
    assert_eq!(
        violations(&round(commits(0), 11)),
        over(Unit::Commits, 1, 0)
    );
    let bytes = Limits {
        bytes: Some(599),
        ..Limits::default()
    };
    assert_eq!(violations(&round(bytes, 16)), over(Unit::Bytes, 600, 599));
    // The first is answered at 11 ms and the last sent at 39 ms.
    let span = |span_ms| Limits {
        span_ms: Some(span_ms),
        ..Limits::default()
    };
    assert_eq!(violations(&round(span(28), 40)), []);
    assert_eq!(violations(&round(span(27), 40)), over(Unit::Ms, 28, 27));
}

#[test]
fn under_sync_nothing_may_be_lost() {
    let sync = Promise::Sync { lease_ms: LEASE_MS };
    let none = sync.limits().unwrap();
    let mut evidence = Evidence {
        promise: sync,
        ..round(none, 10)
    };
    assert_eq!(violations(&evidence), []);
    evidence.answered = round(none, 11).answered;
    assert_eq!(violations(&evidence).len(), 4);
}

#[test]
fn the_highest_answer_counts_for_all_below_it() {
    let mut evidence = round(commits(5), 16);
    // Only the last of them reached its client.
    evidence
        .answered
        .retain(|one| one.commit <= 10 || one.commit == 16);
    assert_eq!(judge(&evidence).loss.commits, 6);
    assert!(!violations(&evidence).is_empty());
}

#[test]
fn a_certificate_that_says_too_little_or_too_much_is_found() {
    let mut evidence = round(commits(5), 14);
    evidence.promoted.bound = certified(commits(3));
    let (unit, lost, most) = (Unit::Commits, 4, 3);
    assert_eq!(
        violations(&evidence),
        [
            Violation::OverCertificate { unit, lost, most },
            Violation::OtherBound {
                certified: commits(3)
            }
        ]
    );
    evidence.promoted.bound = certified(commits(6));
    let other = Violation::OtherBound {
        certified: commits(6),
    };
    assert_eq!(violations(&evidence), [other]);
    evidence.promoted.bound = Err("not heard".into());
    let why = "not heard".into();
    assert_eq!(violations(&evidence), [Violation::NothingCertified { why }]);
    evidence.promise = Promise::Async;
    assert_eq!(violations(&evidence), []);
    evidence.promoted.bound = certified(commits(6));
    assert_eq!(violations(&evidence), [Violation::CertifiedUnpromised]);
}

#[test]
fn known_lost_cannot_be_more_than_what_was_sent_and_is_missing() {
    let mut evidence = round(commits(5), 14);
    let measured = |commits| Some(MeasuredLoss { bytes: 0, commits });
    evidence.promoted.measured = measured(12);
    assert_eq!(violations(&evidence), []);
    evidence.promoted.measured = measured(13);
    let (measured, possible) = (13, 12);
    assert_eq!(
        violations(&evidence),
        [Violation::MeasuredTooMuch { measured, possible }]
    );
}

#[test]
fn a_state_that_never_was_is_found() {
    for equal in [vec![], vec![4, 5]] {
        let mut evidence = round(commits(5), 10);
        evidence.prefixes[1].clone_from(&equal);
        let writer = 1;
        assert_eq!(
            violations(&evidence),
            [Violation::NeverWas { writer, equal }]
        );
    }
    let mut evidence = round(commits(5), 10);
    evidence.strange_keys.push("ghost".into());
    let key = "ghost".into();
    assert_eq!(violations(&evidence), [Violation::StrangeKey { key }]);
}

#[test]
fn a_promoted_node_that_holds_less_or_more_than_it_says_is_found() {
    let mut evidence = round(commits(5), 10);
    evidence.prefixes[1] = vec![4];
    let (found, certified) = (9, 10);
    let answered = evidence.answered[9];
    assert_eq!(
        violations(&evidence),
        [
            Violation::OtherCount { found, certified },
            Violation::Missing { answered }
        ]
    );
    let mut evidence = round(commits(5), 12);
    evidence.prefixes[0] = vec![6];
    let (found, certified) = (11, 10);
    let answered = evidence.answered[10];
    assert_eq!(
        violations(&evidence),
        [
            Violation::OtherCount { found, certified },
            Violation::Misplaced { answered }
        ]
    );
}

#[test]
fn a_hole_that_keeps_the_count_is_found() {
    // Writer 0 lacks its last, and writer 1 has one that nobody was told of.
    let mut evidence = round(commits(5), 10);
    evidence.prefixes = vec![vec![4], vec![6]];
    let answered = evidence.answered[8];
    assert_eq!(violations(&evidence), [Violation::Missing { answered }]);
}

#[test]
fn one_number_for_two_commits_is_found() {
    let mut evidence = round(commits(5), 10);
    evidence.answered[3].commit = 3;
    assert_eq!(violations(&evidence), [Violation::SameNumber { commit: 3 }]);
}

#[test]
fn a_commit_sent_after_the_fence_and_answered_is_found_whatever_the_bound() {
    let mut evidence = round(commits(5), 12);
    evidence.answered[11].sent = ms(1001);
    evidence.answered[11].answered = ms(1002);
    let answered = evidence.answered[11];
    let verdict = judge(&evidence);
    assert_eq!(
        verdict.violations,
        [Violation::AnsweredAfterFence { answered }]
    );
    assert_eq!(verdict.answered_after_promotion, 1);
    // One that was sent before may have been decided before, however late its answer is.
    evidence.answered[11].sent = ms(1000);
    assert_eq!(violations(&evidence), []);
    // Nobody promised a fence.
    evidence.answered[11].sent = ms(1001);
    for fencing in [Fencing::Not, Fencing::Stated] {
        evidence.promoted.fencing = fencing;
        assert_eq!(violations(&evidence), []);
    }
}

#[test]
fn a_commit_sent_after_the_lease_of_a_cut_line_and_answered_is_found() {
    let mut evidence = round(commits(5), 12);
    evidence.cut = Some(ms(5));
    evidence.answered[11].sent = ms(5 + LEASE_MS);
    assert_eq!(violations(&evidence), []);
    evidence.answered[11].sent = ms(5 + LEASE_MS + 1);
    let answered = evidence.answered[11];
    assert_eq!(
        violations(&evidence),
        [Violation::AnsweredAfterLease { answered }]
    );
    evidence.promise = Promise::Async;
    evidence.promoted.bound = Err("async".into());
    assert_eq!(violations(&evidence), []);
}

#[test]
fn an_answer_of_a_node_that_knows_of_a_newer_term_is_found_under_any_policy() {
    let mut evidence = round(commits(5), 12);
    evidence.promise = Promise::Async;
    evidence.promoted.bound = Err("async".into());
    evidence.promoted.fencing = Fencing::Not;
    evidence.fenced = Some(ms(2000));
    evidence.answered[11].sent = ms(2001);
    let answered = evidence.answered[11];
    assert_eq!(
        violations(&evidence),
        [Violation::AnsweredAfterTerm { answered }]
    );
}
