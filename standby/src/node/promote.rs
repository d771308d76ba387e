//! Promotion: the shell around the decision.

use std::time::{Duration, Instant};

use outlast_engine::LogState;
use outlast_engine::clock::{Clock, SystemClock};
use outlast_engine::format::{EpochReason, EpochRecord};
use outlast_engine::{Config, Store};
use outlast_shipper::drive::boot_time;
use tokio::sync::oneshot;

use super::Inner;
use super::state::{as_ms, ms_since};
use crate::certificate::{
    Certificate, Fencing, Finding, Outcome, PrimaryLastSeen, PromoteOptions, StandbyPositions,
};
use crate::config::NodeConfig;
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::follow::Command;
use crate::promotion::{Decision, Facts, Standing, conditions, decide, measured_loss};
use crate::status::Role;

impl Inner {
    /// Promotes this running node, or says why not.
    pub(crate) fn promote(&self, options: &PromoteOptions) -> Result<Certificate> {
        let _changing = self.changing_role.lock();
        let start = Instant::now();
        let before = self.facts();
        // What can be refused is refused before the withdrawal, which would stall a healthy
        // primary.
        let decision = decide(&before, options);
        if options.dry_run || !matches!(decision, Decision::Promote(_)) {
            return Ok(self.certificate(&before, options, decision, None, start));
        }
        if let Err(error) = self.withdraw() {
            self.tell_follower(Command::Reinstate);
            return Err(error);
        }
        // The primary may have come back before the withdrawal took effect: silence is judged by
        // what was echoed up to then, and nothing is echoed from here on.
        let facts = self.facts_withdrawn(&before);
        let decision = decide(&facts, options);
        if !matches!(decision, Decision::Promote(_)) {
            self.tell_follower(Command::Reinstate);
            return Ok(self.certificate(&facts, options, decision, None, start));
        }
        let epoch = self
            .store
            .begin_epoch(EpochReason::Promotion, options.reason.trim());
        let epoch = match epoch {
            Ok(epoch) => epoch,
            Err(error) => {
                self.tell_follower(Command::Reinstate);
                let error = Error::from(error);
                return Err(error.hint("nothing was changed: this node is still a standby"));
            }
        };
        tracing::warn!(term = epoch.term, epoch = %epoch.id, "this node is the primary now");
        *self.follower.lock() = None;
        self.dial.notify_one();
        let certificate = self.certificate(&facts, options, decision, Some(epoch), start);
        if let Err(error) = certificate.store(&self.dir) {
            tracing::error!(%error, "the certificate could not be stored; it was printed");
        }
        Ok(certificate)
    }

    /// From the answer on this process accepts no byte of the old term, echoes and acknowledges
    /// nothing; everything accepted before is durable.
    fn withdraw(&self) -> Result<()> {
        let (barrier, passed) = oneshot::channel();
        self.tell_follower(Command::Withdraw(barrier));
        passed.blocking_recv().map_err(|_| {
            Error::refused("the task that follows the primary has ended: start the node again")
        })
    }

    fn tell_follower(&self, command: Command) {
        if let Some(follower) = &*self.follower.lock() {
            follower.tell(command);
        }
    }

    fn facts(&self) -> Facts {
        let follower = self.follower.lock().clone();
        let standing = match (self.role(), &follower) {
            (Role::Primary, _) => Standing::Primary,
            (Role::Standby, Some(_)) => standby(&self.store),
            (Role::WaitingForPeer, _) => Standing::Barred(
                "this node was the primary and waits to hear from its standby".to_owned(),
            ),
            (Role::Fenced { term }, _) => {
                Standing::Barred(format!("this node is fenced: term {term} exists elsewhere"))
            }
            (Role::Conflict { what }, _) => Standing::Barred(what),
            (Role::Poisoned { reason }, _) => {
                Standing::Barred(format!("its disk failed ({reason}): start it again first"))
            }
            (Role::Standby, None) => Standing::Barred("it does not follow yet".to_owned()),
        };
        let status = follower.as_ref().map(|follower| follower.status());
        let told = status.and_then(|status| status.told);
        let now = boot_time();
        Facts {
            node_name: self.store.node_name(),
            standing,
            positions: positions(&self.store),
            silence: follower.as_ref().map(|follower| follower.silence()),
            silence_max: self.config.tuning.silence_max,
            primary: told.map(|told| PrimaryLastSeen {
                appended: told.view.appended,
                durable: told.view.durable,
                age_ms: as_ms(now.since(told.at)),
            }),
            acked_tail_lost: self.store.recovered().acked_tail_lost,
        }
    }

    /// The facts once nothing moves any more. The node is what it was; where it stands and what it
    /// heard last may have changed until the withdrawal.
    fn facts_withdrawn(&self, before: &Facts) -> Facts {
        let now = self.facts();
        Facts {
            standing: before.standing.clone(),
            primary: now.primary.or(before.primary),
            ..now
        }
    }

    fn certificate(
        &self,
        facts: &Facts,
        options: &PromoteOptions,
        decision: Decision,
        epoch: Option<EpochRecord>,
        start: Instant,
    ) -> Certificate {
        certify(
            &self.store,
            &self.config,
            facts,
            options,
            decision,
            epoch,
            start,
        )
    }
}

/// Promotes the node in `dir` while no process runs it, alone: no network is touched.
///
/// # Errors
/// When a process runs it (talk to that one), or the epoch cannot be made durable.
pub fn promote_offline(dir: &std::path::Path, options: &PromoteOptions) -> Result<Certificate> {
    let dir = NodeDir::new(dir);
    let config = NodeConfig::load(&dir)?;
    let start = Instant::now();
    let engine = Config {
        write_mode: config.tuning.write_mode,
        ..Config::default()
    };
    let store = Store::open(dir.root(), engine)?;
    let was_writer = match store.history().last() {
        Some(epoch) => epoch.node == store.node(),
        None => !store.follower_at_init(),
    };
    let standing = match store.state() {
        LogState::Reading if was_writer => Standing::Primary,
        LogState::Reading => standby(&store),
        LogState::Fenced(by) => Standing::Barred(format!(
            "this node is fenced: term {} exists elsewhere",
            by.term
        )),
        other => Standing::Barred(format!("this node cannot be promoted: {other:?}")),
    };
    if standing == Standing::Standby && !options.dry_run {
        store.begin_following()?;
    }
    let facts = Facts {
        node_name: store.node_name(),
        standing,
        positions: positions(&store),
        silence: None,
        silence_max: config.tuning.silence_max,
        primary: None,
        acked_tail_lost: store.recovered().acked_tail_lost,
    };
    let decision = decide(&facts, options);
    let epoch = match &decision {
        Decision::Promote(_) if !options.dry_run => {
            Some(store.begin_epoch(EpochReason::Promotion, options.reason.trim())?)
        }
        _ => None,
    };
    let certificate = certify(&store, &config, &facts, options, decision, epoch, start);
    if certificate.epoch.is_some()
        && let Err(error) = certificate.store(&dir)
    {
        tracing::error!(%error, "the certificate could not be stored; it was printed");
    }
    store.close()?;
    Ok(certificate)
}

fn standby(store: &Store) -> Standing {
    if store.history().last().is_some() {
        Standing::Standby
    } else {
        Standing::Empty
    }
}

fn positions(store: &Store) -> StandbyPositions {
    let positions = store.positions();
    StandbyPositions {
        received: positions.appended,
        durable: positions.durable,
        applied: positions.visible,
    }
}

fn certify(
    store: &Store,
    config: &NodeConfig,
    facts: &Facts,
    options: &PromoteOptions,
    decision: Decision,
    epoch: Option<EpochRecord>,
    start: Instant,
) -> Certificate {
    let not_built = |what: &str| Finding::NotAvailable(format!("this version does not {what}"));
    let fencing = match decision {
        Decision::Promote(fencing) => fencing,
        _ if options.primary_is_down => Fencing::Stated,
        _ => Fencing::Not,
    };
    let outcome = match decision {
        Decision::AlreadyPrimary => Outcome::AlreadyPrimary,
        Decision::Refuse { why, next } => Outcome::Refused { why, next },
        Decision::Promote(_) if epoch.is_some() => Outcome::Promoted,
        Decision::Promote(_) => Outcome::WouldPromote,
    };
    let silence = facts.silence.map(|silence: Duration| as_ms(silence));
    let unheard = "no primary was heard since this process started";
    Certificate {
        schema: 1,
        cluster: store.cluster(),
        node: store.node(),
        node_name: facts.node_name.clone(),
        policy: config.policy.unwrap_or_default().name().to_owned(),
        fencing,
        silence_ms: silence.map_or_else(
            || Finding::NotAvailable("no process of this node was listening".to_owned()),
            Finding::Known,
        ),
        positions: facts.positions,
        primary: facts
            .primary
            .map_or_else(|| Finding::NotAvailable(unheard.to_owned()), Finding::Known),
        measured_loss: measured_loss(facts),
        bound: Finding::NotAvailable("the policy async has none".to_owned()),
        chain_verified_to: Finding::Known(facts.positions.durable.lsn),
        state_audit: not_built("compare the states of the two nodes"),
        scrub: not_built("re-read sealed files"),
        acked_tail_lost: facts.acked_tail_lost,
        conditions: conditions(facts, fencing),
        outcome,
        epoch,
        took_ms: ms_since(start),
        wall_ms: SystemClock::default().wall_ms(),
    }
}

impl Certificate {
    /// Stores the certificate beside the log, for later.
    fn store(&self, dir: &NodeDir) -> std::io::Result<()> {
        let Some(epoch) = &self.epoch else {
            return Ok(());
        };
        let folder = dir.promotions();
        std::fs::create_dir_all(&folder)?;
        let name = format!("cert-{}-{}.json", epoch.term, epoch.id.short());
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?;
        let file = std::fs::File::create(folder.join(name))?;
        std::io::Write::write_all(&mut &file, &text)?;
        file.sync_all()
    }
}
