//! `outlast resume-alone`: a restarted primary that does not wait for its standby.

use clap::Args;
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Let a restarted primary go on without having heard from its standby
///
/// A restarted primary waits for its standby, which may have been promoted, or may hold commits
/// that this node lost. This gives up what only the standby holds. Make sure that it was not
/// promoted.
#[derive(Debug, Args)]
pub(crate) struct ResumeAlone {
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

impl ResumeAlone {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let ask = Ask::ResumeAlone {
            reason: self.reason.clone(),
        };
        match global.client()?.ask_one(ask).map_err(failed)? {
            Reply::Epoch(epoch) => {
                global.output.result(&epoch, || {
                    let id = epoch.id.short();
                    format!(
                        "this node takes writes again: epoch {}.{}/{id}",
                        epoch.term, epoch.start
                    )
                })?;
                Ok(Exit::Ok)
            }
            other => Err(unexpected(&other)),
        }
    }
}
