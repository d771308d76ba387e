//! Promotion: the decision (facts in, decision and report out), and the order of its steps. Nothing
//! here waits or looks at a clock.

use std::time::Duration;

use outlast_engine::Store;
use outlast_engine::format::{EpochReason, EpochRecord, Lsn};
use outlast_engine::kill_points::{Point, pass};

use crate::certificate::{
    AcceptedLoss, CertifiedBound, Fencing, Finding, MeasuredLoss, PrimaryLastSeen, PromoteOptions,
    StandbyPositions,
};
use crate::promise::fence_of;
use crate::status::Role;

/// A node that may be promoted.
pub trait Candidate {
    /// Why it could not be.
    type Error;

    /// Its store.
    fn store(&self) -> Store;

    /// What is true of it now.
    fn facts(&self) -> Facts;

    /// From the answer on this process accepts no byte of the old term, echoes and acknowledges
    /// nothing; everything accepted before is durable.
    ///
    /// # Errors
    /// When it cannot withdraw; it is reinstated then.
    fn withdraw(&self) -> Result<(), Self::Error>;

    /// Takes the withdrawal back.
    fn reinstate(&self);

    /// The epoch could not be made durable: the node is still a standby.
    fn epoch_failed(&self, error: outlast_engine::Error) -> Self::Error;
}

/// What became of a promotion.
#[derive(Clone, PartialEq, Debug)]
pub struct Promotion {
    /// What the decision rests on.
    pub facts: Facts,
    /// The decision.
    pub decision: Decision,
    /// The epoch that has begun, if one has.
    pub epoch: Option<EpochRecord>,
}

/// Promotes a node that follows, or says why not. One at a time.
///
/// # Errors
/// When it cannot withdraw, or its epoch cannot be made durable; the node is then still a standby.
pub fn promote<C: Candidate>(node: &C, options: &PromoteOptions) -> Result<Promotion, C::Error> {
    let before = node.facts();
    // What can be refused is refused before the withdrawal, which would stall a healthy primary.
    let decision = decide(&before, options);
    if options.dry_run || !matches!(decision, Decision::Promote(_)) {
        return Ok(Promotion {
            facts: before,
            decision,
            epoch: None,
        });
    }
    pass(Point::PromotionDecided);
    node.withdraw().inspect_err(|_| node.reinstate())?;
    pass(Point::PromotionWithdrawn);
    // The primary may have come back before the withdrawal took effect: silence is judged by what
    // was echoed up to then, and nothing is echoed from here on. The node is what it was; where it
    // stands and what it heard last may have changed.
    let now = node.facts();
    let facts = Facts {
        standing: before.standing,
        primary: now.primary.or(before.primary),
        ..now
    };
    let decision = decide(&facts, options);
    if !matches!(decision, Decision::Promote(_)) {
        node.reinstate();
        return Ok(Promotion {
            facts,
            decision,
            epoch: None,
        });
    }
    let epoch = node
        .store()
        .begin_epoch(EpochReason::Promotion, options.reason.trim())
        .map_err(|error| {
            node.reinstate();
            node.epoch_failed(error)
        })?;
    Ok(Promotion {
        facts,
        decision,
        epoch: Some(epoch),
    })
}

/// What a running node of this role is to a promotion.
#[must_use]
pub fn standing_of(store: &Store, role: &Role) -> Standing {
    match role {
        Role::Primary => Standing::Primary,
        // One that cannot follow may be all that is left.
        Role::Standby | Role::NotFollowing { .. } if store.history().last().is_some() => {
            Standing::Standby
        }
        Role::Standby | Role::NotFollowing { .. } => Standing::Empty,
        Role::WaitingForPeer => Standing::Barred(
            "this node was the primary and waits to hear from its standby".to_owned(),
        ),
        Role::Fenced { term } => {
            Standing::Barred(format!("this node is fenced: term {term} exists elsewhere"))
        }
        Role::Conflict { what } => Standing::Barred(what.clone()),
        Role::Poisoned { reason } => {
            Standing::Barred(format!("its disk failed ({reason}): start it again first"))
        }
    }
}

/// Where a node stands.
#[must_use]
pub fn positions_of(store: &Store) -> StandbyPositions {
    let positions = store.positions();
    StandbyPositions {
        received: positions.appended,
        durable: positions.durable,
        applied: positions.visible,
    }
}

/// What is true of the node that is to be promoted.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Its name.
    pub node_name: String,
    /// What it is.
    pub standing: Standing,
    /// Where it stands.
    pub positions: StandbyPositions,
    /// Nothing was heard for so long; `None` where no process was listening.
    pub silence: Option<Duration>,
    /// From what silence on a primary no longer counts as answering.
    pub silence_max: Duration,
    /// What the primary last said of itself.
    pub primary: Option<PrimaryLastSeen>,
    /// Up to where it had acknowledged what it no longer holds.
    pub acked_tail_lost: Option<Lsn>,
    /// The most that can be lost, as far as its log proves that.
    pub bound: Finding<CertifiedBound>,
}

/// What the node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It follows.
    Standby,
    /// It is the primary.
    Primary,
    /// It follows, but no primary has ever sent it anything.
    Empty,
    /// It cannot be promoted, for this reason.
    Barred(String),
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing: it is the primary.
    AlreadyPrimary,
    /// Nothing, for this reason.
    Refuse {
        /// Why not.
        why: String,
        /// What to type next.
        next: String,
    },
    /// Promote; this is what keeps the old primary from acknowledging.
    Promote(Fencing),
}

/// Decides. The same facts and options always give the same decision, in a dry run too.
pub(crate) fn decide(facts: &Facts, options: &PromoteOptions) -> Decision {
    match &facts.standing {
        Standing::Primary => return Decision::AlreadyPrimary,
        Standing::Barred(why) => {
            let next = "outlast status".to_owned();
            return Decision::Refuse {
                why: why.clone(),
                next,
            };
        }
        Standing::Empty => {
            let why =
                "this standby has never held anything of its primary's log: promoted, it would \
                       begin another history"
                    .to_owned();
            let next = "outlast status".to_owned();
            return Decision::Refuse { why, next };
        }
        Standing::Standby => {}
    }
    let answering = facts.primary.is_some()
        && facts
            .silence
            .is_some_and(|silence| silence < facts.silence_max);
    if answering && !options.primary_is_sick {
        let ago = facts.silence.unwrap_or_default().as_millis();
        let why = format!(
            "the primary answered {ago} ms ago: two primaries would take writes that cannot be merged"
        );
        let wait_ms = facts.silence_max.as_millis();
        let next = format!(
            "stop the primary, wait until it has been silent for {wait_ms} ms, then: {}",
            command_line(facts, options)
        );
        return Decision::Refuse { why, next };
    }
    let accepted = match (&facts.bound, options.accept_loss) {
        (_, Some(AcceptedLoss::Unbounded)) => true,
        (Finding::Known(bound), Some(accepted)) => accepted.covers(bound),
        _ => false,
    };
    if !accepted {
        let why = match &facts.bound {
            Finding::Known(bound) => format!("{}, and that was not accepted", at_most(bound)),
            Finding::NotAvailable(why) => {
                format!("the loss has no bound ({why}), and it was not accepted")
            }
        };
        return Decision::Refuse {
            why,
            next: command_line(facts, options),
        };
    }
    if options.reason.trim().is_empty() {
        let why = "no reason was given for the record".to_owned();
        return Decision::Refuse {
            why,
            next: command_line(facts, options),
        };
    }
    let fencing = fencing(facts, options);
    if fencing == Fencing::Not
        && options.accept_loss != Some(AcceptedLoss::Unbounded)
        && let Finding::Known(bound) = &facts.bound
    {
        let silent_ms = facts.silence.unwrap_or_default().as_millis();
        let fence_ms = fence_of(bound).as_millis();
        let why = format!(
            "the old primary may still answer: it has been silent for {silent_ms} ms, and its \
             lease is certainly out after {fence_ms} ms in which a process of this node listens"
        );
        let next = format!("wait, then again: {}", command_line(facts, options));
        return Decision::Refuse { why, next };
    }
    Decision::Promote(fencing)
}

/// What keeps the old primary from acknowledging.
pub(crate) fn fencing(facts: &Facts, options: &PromoteOptions) -> Fencing {
    let out = |bound: &CertifiedBound| {
        facts
            .silence
            .is_some_and(|silence| silence > fence_of(bound))
    };
    if facts.bound.known().is_some_and(out) {
        Fencing::Fenced
    } else if options.primary_is_down {
        Fencing::Stated
    } else {
        Fencing::Not
    }
}

fn at_most(bound: &CertifiedBound) -> String {
    let parts = [
        bound.commits.map(|commits| format!("{commits} commits")),
        bound.bytes.map(|bytes| format!("{bytes} bytes")),
        bound.span_ms.map(|ms| format!("a span of {ms} ms")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!("at most {} can be lost", parts.join(" and "))
}

/// The line to type that would not be refused for want of a flag.
fn command_line(facts: &Facts, options: &PromoteOptions) -> String {
    let accept = match &facts.bound {
        Finding::Known(CertifiedBound {
            commits: Some(commits),
            ..
        }) => commits.to_string(),
        Finding::Known(CertifiedBound {
            bytes: Some(bytes), ..
        }) => format!("{bytes}B"),
        _ => "unbounded".to_owned(),
    };
    let mut line = format!("outlast promote --accept-loss {accept}");
    if options.primary_is_down {
        line.push_str(" --primary-is-down");
    }
    if options.primary_is_sick {
        line.push_str(" --primary-is-sick");
    }
    let reason = match options.reason.trim() {
        "" => format!("why {} takes over", facts.node_name),
        given => given.replace('\'', "'\\''"),
    };
    line.push_str(&format!(" --reason '{reason}'"));
    line
}

/// What is missing here of what the primary was last known to have. Its later commits are not in
/// it.
pub(crate) fn measured_loss(facts: &Facts) -> Finding<MeasuredLoss> {
    let Some(primary) = &facts.primary else {
        let why = "no primary was heard since this process started".to_owned();
        return Finding::NotAvailable(why);
    };
    let here = facts.positions.received;
    Finding::Known(MeasuredLoss {
        bytes: primary.appended.lsn.bytes_since(here.lsn),
        commits: primary.appended.commit.saturating_sub(here.commit),
    })
}

/// What the certificate rests on, in words.
pub(crate) fn conditions(facts: &Facts, fencing: Fencing) -> Vec<String> {
    let loss = match &facts.bound {
        Finding::Known(bound) => format!(
            "BOUNDED: {} of what the old primary acknowledged, unless protection was suspended, or \
             this node removed, at the old primary after record {}",
            at_most(bound),
            bound.record
        ),
        Finding::NotAvailable(why) => format!(
            "UNBOUNDED ({why}): commits that the old primary acknowledged at level local after the \
             last byte that arrived here are lost, and nothing limits how many"
        ),
    };
    let mut conditions = vec![
        loss,
        "every commit acknowledged at level replicated or applied is in this history, provided that \
         this node's disk kept what it had fsynced"
            .to_owned(),
    ];
    if let Finding::Known(CertifiedBound {
        bytes: None,
        commits: None,
        ..
    }) = &facts.bound
    {
        conditions.push(
            "the bound is one of time alone: if the old primary's machine can be paused together \
             with its clocks, as a virtual machine can, it is none for what was answered after \
             such a pause"
                .to_owned(),
        );
    }
    conditions.push(match fencing {
        Fencing::Fenced => {
            "FENCED: the old primary's lease is out, so it acknowledges nothing any more, unless \
             protection was suspended there after that record, or its machine stood still \
             together with its clocks"
                .to_owned()
        }
        Fencing::Stated => "the operator states that the old primary is down".to_owned(),
        Fencing::Not => {
            "NOT FENCED: if the old primary still runs, it goes on acknowledging until \
                         it meets this node"
                .to_owned()
        }
    });
    if let Some(lsn) = facts.acked_tail_lost {
        conditions.push(format!(
            "ACKED TAIL LOST: this node had acknowledged bytes up to {lsn} and no longer holds them"
        ));
    }
    conditions
}

#[cfg(test)]
mod tests {
    use outlast_engine::format::Position;

    use super::*;

    fn facts() -> Facts {
        let at = |lsn, commit| Position {
            lsn: Lsn(lsn),
            commit,
        };
        Facts {
            node_name: "b".into(),
            standing: Standing::Standby,
            positions: StandbyPositions {
                received: at(100, 10),
                durable: at(100, 10),
                applied: at(90, 9),
            },
            silence: Some(Duration::from_secs(4)),
            silence_max: Duration::from_secs(3),
            primary: Some(PrimaryLastSeen {
                appended: at(130, 12),
                durable: at(120, 11),
                age_ms: 4000,
            }),
            acked_tail_lost: None,
            bound: Finding::NotAvailable("the policy async has none".into()),
        }
    }

    fn bounded(silence_ms: u64) -> Facts {
        let bound = CertifiedBound {
            bytes: None,
            commits: Some(223),
            span_ms: Some(500),
            lease_ms: 3000,
            record: Lsn(80),
        };
        Facts {
            silence: Some(Duration::from_millis(silence_ms)),
            silence_max: Duration::from_millis(500),
            bound: Finding::Known(bound),
            ..facts()
        }
    }

    #[test]
    fn a_bound_is_accepted_by_its_amount_and_no_less() {
        let with = |accept_loss, facts: &Facts| {
            let accept_loss = Some(accept_loss);
            decide(
                facts,
                &PromoteOptions {
                    accept_loss,
                    ..options()
                },
            )
        };
        let fenced = Decision::Promote(Fencing::Fenced);
        let silent = bounded(4000);
        assert_eq!(with(AcceptedLoss::Commits(223), &silent), fenced);
        assert_eq!(with(AcceptedLoss::Commits(1000), &silent), fenced);
        assert_eq!(with(AcceptedLoss::Unbounded, &silent), fenced);
        for less in [AcceptedLoss::Commits(222), AcceptedLoss::Bytes(1 << 40)] {
            let Decision::Refuse { why, next } = with(less, &silent) else {
                panic!("{less:?} was enough")
            };
            assert!(why.contains("at most 223 commits"), "{why}");
            assert!(next.contains("--accept-loss 223 "), "{next}");
        }
        // Nothing that was accepted covers what is not bounded.
        let refused = with(AcceptedLoss::Commits(u64::MAX), &facts());
        assert!(matches!(refused, Decision::Refuse { .. }), "{refused:?}");
    }

    #[test]
    fn silence_fences_only_once_it_is_longer_than_any_clock_lets_the_lease_be() {
        let accepting = PromoteOptions {
            accept_loss: Some(AcceptedLoss::Commits(223)),
            ..options()
        };
        // The lease of 3 s, with both clocks as wrong as they may be.
        for (silence_ms, fenced) in [
            (2_999, false),
            (3_000, false),
            (3_006, false),
            (3_007, true),
        ] {
            let facts = bounded(silence_ms);
            let decision = decide(&facts, &accepting);
            let promoted = decision == Decision::Promote(Fencing::Fenced);
            assert_eq!(promoted, fenced, "{silence_ms}: {decision:?}");
            let unbounded = decide(&facts, &options());
            let fencing = if fenced {
                Fencing::Fenced
            } else {
                Fencing::Not
            };
            assert_eq!(unbounded, Decision::Promote(fencing), "{silence_ms}");
            let stated = PromoteOptions {
                primary_is_down: true,
                ..accepting.clone()
            };
            let fencing = if fenced {
                Fencing::Fenced
            } else {
                Fencing::Stated
            };
            assert_eq!(decide(&facts, &stated), Decision::Promote(fencing));
        }
        let offline = Facts {
            silence: None,
            ..bounded(0)
        };
        let refused = decide(&offline, &accepting);
        assert!(matches!(refused, Decision::Refuse { .. }), "{refused:?}");
    }

    fn options() -> PromoteOptions {
        PromoteOptions {
            accept_loss: Some(AcceptedLoss::Unbounded),
            reason: "fire".into(),
            ..PromoteOptions::default()
        }
    }

    #[test]
    fn a_silent_primary_is_replaced_and_the_loss_is_what_it_last_told() {
        assert_eq!(
            decide(&facts(), &options()),
            Decision::Promote(Fencing::Not)
        );
        let stated = PromoteOptions {
            primary_is_down: true,
            ..options()
        };
        assert_eq!(
            decide(&facts(), &stated),
            Decision::Promote(Fencing::Stated)
        );
        let loss = MeasuredLoss {
            bytes: 30,
            commits: 2,
        };
        assert_eq!(measured_loss(&facts()), Finding::Known(loss));
        let unheard = Facts {
            primary: None,
            silence: None,
            ..facts()
        };
        assert!(measured_loss(&unheard).known().is_none());
        assert_eq!(
            decide(&unheard, &options()),
            Decision::Promote(Fencing::Not)
        );
    }

    #[test]
    fn a_bound_of_time_alone_says_on_what_it_rests() {
        let said = |bound| {
            let facts = Facts {
                bound: Finding::Known(bound),
                ..facts()
            };
            conditions(&facts, Fencing::Fenced).join("; ")
        };
        let time = CertifiedBound {
            bytes: None,
            commits: None,
            span_ms: Some(100),
            lease_ms: 3000,
            record: Lsn(80),
        };
        let paused = |said: String| said.contains("can be paused");
        assert!(paused(said(time)));
        let bytes = Some(65_536);
        assert!(!paused(said(CertifiedBound { bytes, ..time })));
    }

    #[test]
    fn an_answering_primary_is_not_replaced_whatever_the_operator_states() {
        let answering = Facts {
            silence: Some(Duration::from_millis(200)),
            ..facts()
        };
        for primary_is_down in [false, true] {
            let options = PromoteOptions {
                primary_is_down,
                ..options()
            };
            let decision = decide(&answering, &options);
            assert!(matches!(decision, Decision::Refuse { .. }), "{decision:?}");
        }
        let sick = PromoteOptions {
            primary_is_sick: true,
            ..options()
        };
        assert_eq!(decide(&answering, &sick), Decision::Promote(Fencing::Not));
    }

    #[test]
    fn what_is_missing_is_named_by_the_line_to_type() {
        for options in [
            PromoteOptions {
                accept_loss: None,
                ..options()
            },
            PromoteOptions {
                reason: " ".into(),
                ..options()
            },
        ] {
            let Decision::Refuse { next, .. } = decide(&facts(), &options) else {
                panic!("not refused")
            };
            assert!(next.contains("--accept-loss unbounded"), "{next}");
            assert!(next.contains("--reason '"), "{next}");
        }
    }

    #[test]
    fn a_primary_stays_one_and_a_barred_node_says_why() {
        let primary = Facts {
            standing: Standing::Primary,
            ..facts()
        };
        assert_eq!(
            decide(&primary, &PromoteOptions::default()),
            Decision::AlreadyPrimary
        );
        let empty = Facts {
            standing: Standing::Empty,
            ..facts()
        };
        assert!(matches!(
            decide(&empty, &options()),
            Decision::Refuse { .. }
        ));
        let barred = Facts {
            standing: Standing::Barred("fenced".into()),
            ..facts()
        };
        assert!(matches!(
            decide(&barred, &options()),
            Decision::Refuse { .. }
        ));
    }
}
