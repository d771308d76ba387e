//! `outlast promote`: making a standby the primary.

use clap::Args;
use outlast_standby::certificate::{
    AcceptedLoss, Certificate, CertifiedBound, Finding, Outcome, PromoteOptions,
};
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_standby::promote_offline;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Make this standby the primary, alone
///
/// Goes through the node that runs in the directory, or works on the directory itself when none
/// runs. No network is needed, and nothing of the old primary. Running it again is harmless.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  outlast promote --dry-run
  outlast promote --primary-is-down --accept-loss unbounded --reason 'fire in hall 3'")]
pub(crate) struct Promote {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The old primary is down, and stays down until it follows this node
    #[arg(long)]
    primary_is_down: bool,
    /// The old primary still answers but cannot do its work
    #[arg(long)]
    primary_is_sick: bool,
    /// The loss that you accept: a number of commits, a size such as 64KiB, or `unbounded`; under
    /// the policy async only the last can be
    #[arg(long, value_name = "AMOUNT")]
    accept_loss: Option<AcceptedLoss>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

impl Promote {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let options = PromoteOptions {
            dry_run: self.dry_run,
            primary_is_down: self.primary_is_down,
            primary_is_sick: self.primary_is_sick,
            accept_loss: self.accept_loss,
            reason: self.reason.clone(),
        };
        let certificate = match global.running()? {
            Some(mut client) => match client.ask_one(Ask::Promote(options)).map_err(failed)? {
                Reply::Promoted(certificate) => *certificate,
                other => return Err(unexpected(&other)),
            },
            None => promote_offline(&global.dir()?, &options).map_err(failed)?,
        };
        let kept = match certificate.outcome {
            Outcome::Promoted => super::certificate::kept_at(&global.dir()?, &certificate),
            _ => None,
        };
        global.output.result(&certificate, || {
            let kept = kept.map(|kept| format!("\n{:<16}{kept}", "certificate"));
            text(&certificate) + &kept.unwrap_or_default()
        })?;
        Ok(match certificate.outcome {
            Outcome::Refused { .. } => Exit::Refused,
            _ => Exit::Ok,
        })
    }
}

/// The certificate for people.
pub(super) fn text(certificate: &Certificate) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<16}{value}"));
    match &certificate.outcome {
        Outcome::Promoted => line(
            "PROMOTED",
            format!("{} is the primary", certificate.node_name),
        ),
        Outcome::AlreadyPrimary => line("NOTHING TO DO", "this node is the primary already".into()),
        Outcome::WouldPromote => line(
            "DRY RUN",
            "nothing was changed; nothing stands in the way".into(),
        ),
        Outcome::Refused { why, .. } => line("REFUSED", format!("{why}; nothing was changed")),
        other => line("OUTCOME", format!("{other:?}")),
    }
    if let Some(epoch) = &certificate.epoch {
        let id = epoch.id.short();
        line(
            "epoch",
            format!("{}.{}/{id} from {}", epoch.term, epoch.start, epoch.fork),
        );
    }
    line(
        "fencing",
        format!("{:?}", certificate.fencing).to_uppercase(),
    );
    line(
        "silence",
        finding(&certificate.silence_ms, |ms| format!("{ms} ms")),
    );
    let positions = &certificate.positions;
    line("received", positions.received.to_string());
    line("durable", positions.durable.to_string());
    line("applied", positions.applied.to_string());
    line(
        "primary had",
        finding(&certificate.primary, |seen| {
            format!(
                "{} (durable {}), {} ms ago",
                seen.appended, seen.durable, seen.age_ms
            )
        }),
    );
    let loss = |loss: &outlast_standby::certificate::MeasuredLoss| {
        format!("{} commits, {} bytes", loss.commits, loss.bytes)
    };
    line("measured loss", finding(&certificate.measured_loss, loss));
    line("bound", finding(&certificate.bound, bound));
    line(
        "chain verified",
        finding(&certificate.chain_verified_to, |lsn| format!("to {lsn}")),
    );
    line(
        "state audit",
        finding(&certificate.state_audit, Clone::clone),
    );
    line("scrub", finding(&certificate.scrub, Clone::clone));
    line("took", format!("{} ms", certificate.took_ms));
    for condition in &certificate.conditions {
        line("condition", condition.clone());
    }
    if let Outcome::Refused { next, .. } = &certificate.outcome {
        line("next", next.clone());
    }
    lines.join("\n")
}

fn finding<T>(finding: &Finding<T>, text: impl FnOnce(&T) -> String) -> String {
    match finding {
        Finding::Known(value) => text(value),
        Finding::NotAvailable(why) => format!("not available ({why})"),
    }
}

fn bound(bound: &CertifiedBound) -> String {
    let parts = [
        bound.commits.map(|commits| format!("{commits} commits")),
        bound.bytes.map(|bytes| format!("{bytes} bytes")),
        bound.span_ms.map(|ms| format!("a span of {ms} ms")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!("at most {} (record {})", parts.join(" and "), bound.record)
}
