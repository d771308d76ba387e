//! What an operator looks at on any day: how far each stage is behind, whether a promotion would
//! come out as it should, and for how long nothing limited what could be lost.

use outlast_engine::UnprotectedBy;
use outlast_engine::clock::{Clock, SystemClock};
use outlast_engine::format::Position;

use super::Inner;
use crate::certificate::Finding;
use crate::promise::proven;
use crate::status::{
    PeerStatus, ProtectionState, ProtectionStatus, Readiness, Role, Stage, StageLag, Unprotected,
    UnprotectedSpan,
};

/// How many spans that have ended a status names.
const SPANS_SHOWN: usize = 8;

impl Inner {
    /// How much each stage lacks.
    pub(super) fn stages(&self, role: &Role) -> Vec<StageLag> {
        let here = self.store.positions();
        let lags: &[(Stage, Position, Position)] = match role {
            _ if self.config.peer.is_none() => &[],
            Role::Primary => &[
                (Stage::Durable, here.appended, here.durable),
                (Stage::Visible, here.durable, here.visible),
                (Stage::Received, here.appended, here.replica_received),
                (Stage::Replicated, here.appended, here.replicated),
                (Stage::Applied, here.appended, here.replica_applied),
            ],
            _ => {
                let follower = self.follower.lock().clone();
                let told = follower.and_then(|follower| follower.status().told);
                let there = told.map(|told| told.view.appended);
                let there = there.filter(|there| there.covers(&here.appended));
                let there = there.unwrap_or(here.appended);
                &[
                    (Stage::Received, there, here.appended),
                    (Stage::Durable, here.appended, here.durable),
                    (Stage::Visible, here.durable, here.visible),
                ]
            }
        };
        let lag = |(stage, ahead, behind): &(Stage, Position, Position)| StageLag {
            stage: *stage,
            bytes: ahead.lsn.bytes_since(behind.lsn),
            commits: ahead.commit.saturating_sub(behind.commit),
        };
        lags.iter().map(lag).collect()
    }

    /// Whether a promotion would now come out as it should, but for the primary being well.
    pub(super) fn readiness(
        &self,
        role: &Role,
        peer: Option<&PeerStatus>,
        protection: Option<&ProtectionStatus>,
        policy: &str,
    ) -> Option<Readiness> {
        self.config.peer.as_ref()?;
        let mut why_not = Vec::new();
        match peer {
            None => why_not.push("the peer's key is not trusted yet".to_owned()),
            Some(peer) if !peer.connected => {
                why_not.push(format!("no session with {}", peer.name));
            }
            Some(_) => {}
        }
        match role {
            Role::Primary => {
                let off = protection.filter(|it| {
                    policy != "async"
                        && !matches!(
                            it.state,
                            ProtectionState::Protected | ProtectionState::Stalled
                        )
                });
                why_not.extend(off.map(|it| {
                    let why = it.why.as_deref().unwrap_or("nothing is promised");
                    format!("protection is {}: {why}", it.state.name())
                }));
            }
            Role::Standby => self.speaks_against_this_standby(policy, &mut why_not),
            Role::WaitingForPeer => {
                why_not.push("the primary waits to hear from its standby".to_owned());
            }
            Role::NotFollowing { reason } => {
                why_not.push(format!("this standby follows no longer: {reason}"));
            }
            Role::Fenced { term } => {
                why_not.push(format!("this node is fenced by term {term}"));
            }
            Role::Conflict { what } => why_not.push(format!("two histories contradict: {what}")),
            Role::Poisoned { reason } => why_not.push(format!("its disk failed: {reason}")),
        }
        Some(Readiness {
            ready: why_not.is_empty(),
            why_not,
        })
    }

    fn speaks_against_this_standby(&self, policy: &str, why_not: &mut Vec<String>) {
        if let Some(lsn) = self.store.recovered().acked_tail_lost {
            why_not.push(format!("what it acknowledged up to {lsn} is lost here"));
        }
        let no_room = self.follower.lock().as_ref().and_then(|it| it.no_room());
        why_not.extend(no_room.map(|why| format!("its disk is full ({why})")));
        if !self.store.holds_reserve() {
            why_not.push("no space is held in reserve for a promotion".to_owned());
        }
        let panicked = self.panics.lock();
        why_not.extend(panicked.keys().map(|task| format!("`{task}` has panicked")));
        drop(panicked);
        if policy != "async"
            && let Finding::NotAvailable(why) = proven(&self.store)
        {
            why_not.push(format!("no bound could be certified: {why}"));
        }
    }

    /// For how long nothing limited what could be lost.
    pub(super) fn unprotected(&self) -> Option<Unprotected> {
        self.config.peer.as_ref()?;
        let now_ms = SystemClock::default().wall_ms();
        let all = self.store.unprotected();
        let span = |span: &outlast_engine::UnprotectedSpan| UnprotectedSpan {
            since_unix_ms: span.since_ms,
            until_unix_ms: span.ended_ms(now_ms),
            ms: span.lasted_ms(now_ms),
            by: span.by,
            note: span.note.clone(),
        };
        let ended = all.spans().iter().rev();
        let ended = ended.filter(|span| span.ended_ms(now_ms).is_some());
        Some(Unprotected {
            total_ms: all.total_ms(now_ms),
            spans: all.count(),
            now: all.open(now_ms).map(span),
            last: ended.take(SPANS_SHOWN).map(span).collect(),
        })
    }
}

/// Why nothing is promised, for people.
pub(super) fn why_unprotected(span: &UnprotectedSpan) -> String {
    let why = match span.by {
        UnprotectedBy::NewCluster => "the cluster is new",
        UnprotectedBy::Promotion => "this node was promoted",
        UnprotectedBy::ResumeAlone => "this node was told to go on alone",
        UnprotectedBy::Suspension => "it was suspended",
        UnprotectedBy::Async => "the policy is async",
        UnprotectedBy::NotYet => "the standby lacked too much when the bound was set",
        _ => "a newer version wrote down why",
    };
    if span.note.is_empty() {
        why.to_owned()
    } else {
        format!("{why} ({})", span.note)
    }
}
