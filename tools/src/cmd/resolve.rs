//! `outlast resolve`: which of two histories stays.

use clap::Args;
use outlast_standby::certificate::Finding;
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_standby::{Resolution, ResolveOptions, ResolveOutcome};
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Settle a conflict: say which history stays
///
/// Typed on the node whose history stays, it takes writes again, in a new epoch of a higher term;
/// the other one steps back when the two meet. Typed on the other one, with all digits of the epoch
/// that stays elsewhere, it steps back at once. What steps back stays readable, and its bytes are
/// kept: nothing is merged or cut.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  outlast resolve --keep 2.3/1f0a33c9 --dry-run --reason 'no client ever reached seoul-a'")]
pub(crate) struct Resolve {
    /// The newest epoch of the history that stays, as `outlast status` shows it there
    #[arg(long, value_name = "EPOCH")]
    keep: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

impl Resolve {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let ask = Ask::Resolve(ResolveOptions {
            keep: self.keep.clone(),
            dry_run: self.dry_run,
            reason: self.reason.clone(),
        });
        let resolution = match global.client()?.ask_one(ask).map_err(failed)? {
            Reply::Resolved(resolution) => *resolution,
            other => return Err(unexpected(&other)),
        };
        global.output.result(&resolution, || text(&resolution))?;
        Ok(match resolution.outcome {
            ResolveOutcome::Refused { .. } => Exit::Refused,
            _ => Exit::Ok,
        })
    }
}

fn text(resolution: &Resolution) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<16}{value}"));
    let name = &resolution.node_name;
    let goes_on = "in a new epoch of a higher term; the other node steps back when they meet";
    let stays = "stays readable and takes no writes; its bytes are kept where they are";
    match &resolution.outcome {
        ResolveOutcome::Kept => line("KEPT", format!("{name} takes writes again, {goes_on}")),
        ResolveOutcome::WouldKeep => line(
            "DRY RUN",
            format!("nothing was changed; {name} would take writes again, {goes_on}"),
        ),
        ResolveOutcome::Fork => line("FORK", format!("{name} {stays}")),
        ResolveOutcome::WouldBeFork => line(
            "DRY RUN",
            format!("nothing was changed; {name} would be a fork, which {stays}"),
        ),
        ResolveOutcome::Refused { why, next } => {
            line("REFUSED", format!("{why}; nothing was changed"));
            line("next", next.clone());
            return lines.join("\n");
        }
        other => line("OUTCOME", format!("{other:?}")),
    }
    if let Some(epoch) = &resolution.epoch {
        let id = epoch.id.short();
        line("epoch", format!("{}.{}/{id}", epoch.term, epoch.start));
    }
    for (name, finding) in [
        ("lost report", &resolution.lost_report),
        ("rejoin", &resolution.rejoin),
    ] {
        line(
            name,
            match finding {
                Finding::Known(value) => value.clone(),
                Finding::NotAvailable(why) => format!("not available ({why})"),
            },
        );
    }
    lines.join("\n")
}
