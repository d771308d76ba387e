//! Settling a conflict: the shell around the choice.

use outlast_engine::TermMark;
use outlast_engine::format::EpochReason;

use super::Inner;
use crate::certificate::Finding;
use crate::error::Result;
use crate::resolve::{Choice, Resolution, ResolveOptions, ResolveOutcome, choose};
use crate::roles;

impl Inner {
    /// Lets this node go on, or stay behind as a fork, as the operator has chosen.
    pub(crate) fn resolve(&self, options: &ResolveOptions) -> Result<Resolution> {
        let _changing = self.changing_role.lock();
        let newest = self.store.history().last().cloned();
        let choice = choose(&self.role(), newest.as_ref(), options);
        let mut epoch = None;
        let outcome = match choice {
            Choice::Refuse { why, next } => ResolveOutcome::Refused { why, next },
            Choice::Keep if options.dry_run => ResolveOutcome::WouldKeep,
            Choice::Fork(_) if options.dry_run => ResolveOutcome::WouldBeFork,
            Choice::Keep => {
                // It may have been a standby: it takes nothing from anybody any more.
                *self.follower.lock() = None;
                let note = format!("conflict resolved: {}", options.reason.trim());
                self.gatekeeper.open_again();
                let begun = self.store.settle_conflict(&note);
                let begun = begun.inspect_err(|_| self.gatekeeper.shut())?;
                self.guard(EpochReason::Promotion);
                tracing::warn!(term = begun.term, epoch = %begun.id, "this node's history stays");
                self.end_session();
                self.dial.notify_one();
                epoch = Some(begun);
                ResolveOutcome::Kept
            }
            Choice::Fork(kept) => {
                let term = roles::heard(&self.store).number;
                self.store.fence(TermMark {
                    term,
                    opened_by: kept,
                })?;
                self.end_session();
                tracing::warn!(%kept, "this node's history is a fork");
                ResolveOutcome::Fork
            }
        };
        self.announce_role();
        let not_built = |what: &str| Finding::NotAvailable(format!("this version does not {what}"));
        Ok(Resolution {
            schema: 1,
            outcome,
            node: self.store.node(),
            node_name: self.store.node_name(),
            newest,
            epoch,
            lost_report: not_built("list the commits of a fork: outlast dump shows them"),
            rejoin: not_built("bring a fork back: make a new standby from a backup"),
        })
    }
}
