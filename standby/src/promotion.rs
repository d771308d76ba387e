//! Promotion: the decision (facts in, decision and report out), and the order of its steps. Nothing
//! here waits or looks at a clock.

use std::time::Duration;

use outlast_engine::Store;
use outlast_engine::format::{EpochReason, EpochRecord, Lsn};
use outlast_engine::kill_points::{Point, pass};

use crate::certificate::{
    AcceptedLoss, Fencing, Finding, MeasuredLoss, PrimaryLastSeen, PromoteOptions, StandbyPositions,
};
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
    if options.accept_loss != Some(AcceptedLoss::Unbounded) {
        let why =
            "under the policy async the loss has no bound, and it was not accepted".to_owned();
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
    let fencing = if options.primary_is_down {
        Fencing::Stated
    } else {
        Fencing::Not
    };
    Decision::Promote(fencing)
}

/// The line to type that would not be refused for want of a flag.
fn command_line(facts: &Facts, options: &PromoteOptions) -> String {
    let mut line = "outlast promote --accept-loss unbounded".to_owned();
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
    let mut conditions = vec![
        "the policy is async: commits that the old primary acknowledged at level local after the \
         last byte that arrived here are lost, and nothing limits how many"
            .to_owned(),
        "every commit acknowledged at level replicated or applied is in this history, provided that \
         this node's disk kept what it had fsynced"
            .to_owned(),
    ];
    conditions.push(match fencing {
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
        }
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
