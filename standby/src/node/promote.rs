//! Promotion: the shell around the decision.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use outlast_engine::LogState;
use outlast_engine::Store;
use outlast_engine::clock::{Clock, SystemClock};
use outlast_engine::format::{EpochReason, EpochRecord};
use outlast_engine::kill_points::{Point, pass};
use outlast_shipper::Identity;
use outlast_shipper::drive::boot_time;

use super::Inner;
use super::protect::policy_name;
use super::state::{as_ms, ms_since};
use crate::certificate::{Certificate, Finding, Outcome, PrimaryLastSeen, PromoteOptions};
use crate::config::NodeConfig;
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::follow::Command;
use crate::promise::{proven, proven_with};
use crate::promotion::{
    Candidate, Decision, Facts, Promotion, Standing, conditions, decide, fencing, measured_loss,
    positions_of, promote, standing_of,
};
use crate::roles::was_writer;
use crate::status::Role;

#[cfg(test)]
mod tests;

impl Inner {
    /// Promotes this running node, or says why not.
    pub(crate) fn promote(&self, options: &PromoteOptions) -> Result<Certificate> {
        let _changing = self.changing_role.lock();
        let start = Instant::now();
        let Promotion {
            facts,
            decision,
            epoch,
        } = promote(self, options)?;
        let promoted = epoch.is_some();
        if let Some(epoch) = &epoch {
            pass(Point::PromotionOpened);
            tracing::warn!(term = epoch.term, epoch = %epoch.id, "this node is the primary now");
            *self.follower.lock() = None;
            self.guard(EpochReason::Promotion);
            self.dial.notify_one();
        }
        let certificate = self.certificate(&facts, options, decision, epoch, start);
        if promoted && let Err(error) = certificate.store(&self.dir, Ok(self.identity.clone())) {
            tracing::error!(%error, "the certificate could not be stored; it was printed");
        }
        if promoted {
            self.announce_role();
        }
        Ok(certificate)
    }

    /// A follower that has ended withdraws and reinstates nothing.
    fn tell_follower(&self, command: Command) {
        if let Some(follower) = &*self.follower.lock() {
            let _ = follower.tell(command);
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

impl Candidate for Inner {
    type Error = Error;

    fn store(&self) -> Store {
        self.store.clone()
    }

    fn facts(&self) -> Facts {
        let follower = self.follower.lock().clone();
        let status = follower.as_ref().map(|follower| follower.status());
        let told = status.and_then(|status| status.told);
        let now = boot_time();
        Facts {
            node_name: self.store.node_name(),
            standing: standing_of(&self.store, &self.role()),
            positions: positions_of(&self.store),
            silence: follower.as_ref().map(|follower| follower.silence()),
            silence_max: self.config.tuning.silence_max,
            primary: told.map(|told| PrimaryLastSeen {
                appended: told.view.appended,
                durable: told.view.durable,
                age_ms: as_ms(now.since(told.at)),
            }),
            acked_tail_lost: self.store.recovered().acked_tail_lost,
            bound: proven(&self.store),
        }
    }

    fn withdraw(&self) -> Result<()> {
        let (barrier, passed) = mpsc::channel();
        self.tell_follower(Command::Withdraw(barrier));
        passed.recv().map_err(|_| {
            let follower = self.follower.lock().clone();
            let why = follower.and_then(|follower| self.not_following(&follower));
            let why = why.unwrap_or_else(|| "it follows no longer".to_owned());
            let error = Error::refused(format!("this node could not withdraw: {why}"));
            error.hint("nothing was changed; end its process, then: outlast promote")
        })
    }

    fn reinstate(&self) {
        self.tell_follower(Command::Reinstate);
    }

    fn epoch_failed(&self, error: outlast_engine::Error) -> Error {
        Error::from(error).hint("nothing was changed: this node is still a standby")
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
    let store = Store::open(dir.root(), config.tuning.engine())?;
    let standing = match store.state() {
        LogState::Reading if was_writer(&store) => Standing::Primary,
        LogState::Reading => standing_of(&store, &Role::Standby),
        LogState::Fenced(by) => Standing::Barred(format!(
            "this node is fenced: term {} exists elsewhere",
            by.term
        )),
        other => Standing::Barred(format!("this node cannot be promoted: {other:?}")),
    };
    if standing == Standing::Standby && !options.dry_run {
        store.begin_following()?;
    }
    let positions = positions_of(&store);
    // A dry run writes nothing, so it leaves for later what a crash left to be made durable.
    let bound = proven_with(&store, positions.received.lsn);
    let facts = Facts {
        node_name: store.node_name(),
        standing,
        positions,
        silence: None,
        silence_max: config.tuning.silence_max,
        primary: None,
        acked_tail_lost: store.recovered().acked_tail_lost,
        bound,
    };
    let decision = decide(&facts, options);
    let epoch = match &decision {
        Decision::Promote(_) if !options.dry_run => {
            pass(Point::PromotionDecided);
            let epoch = store.begin_epoch(EpochReason::Promotion, options.reason.trim())?;
            pass(Point::PromotionOpened);
            Some(epoch)
        }
        _ => None,
    };
    let certificate = certify(&store, &config, &facts, options, decision, epoch, start);
    // A key that is lost or damaged keeps nobody from being promoted.
    let key = Identity::load(&dir.key()).map_err(|error| error.to_string());
    if certificate.epoch.is_some()
        && let Err(error) = certificate.store(&dir, key)
    {
        tracing::error!(%error, "the certificate could not be stored; it was printed");
    }
    store.close()?;
    Ok(certificate)
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
        _ => fencing(facts, options),
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
        policy: policy_name(store, config),
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
        bound: facts.bound.clone(),
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
