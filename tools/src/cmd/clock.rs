//! `outlast confirm-clock`: lets log time go on where it stands still.

use clap::Args;
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_tools::exit::Exit;
use serde_json::json;

use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Say that this host's clock is right, so that puts expire again
///
/// Puts expire by log time, which follows the primary's wall clock. Where a node begins to write
/// and its clock is far ahead of the log, log time stands still, since a wrong clock would take
/// data away in both buildings. After this, what has expired by now is gone at once.
#[derive(Debug, Args)]
pub(crate) struct ConfirmClock {}

impl ConfirmClock {
    #[expect(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match global
            .client()?
            .ask_one(Ask::ConfirmClock)
            .map_err(failed)?
        {
            Reply::Done => {
                global
                    .output
                    .result(&json!({ "schema": 1, "confirmed": true }), || {
                        "log time follows this host's clock".to_owned()
                    })?;
                Ok(Exit::Ok)
            }
            other => Err(unexpected(&other)),
        }
    }
}
