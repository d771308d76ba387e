//! Promoting the standby, as an operator does who waits for the proof.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outlast_standby::certificate::{Certificate, Fencing, Finding, Outcome};

use super::judge::Promoted;
use super::promise::Promise;
use super::round::wait;
use crate::exit::Exit;
use crate::pair::{NodePlace, PATIENCE, Pair};

/// What an operator types.
pub(super) struct Operator<'a> {
    pub(super) pair: &'a Pair,
    pub(super) node: &'a NodePlace,
    pub(super) promise: &'a Promise,
    /// What the operator states, as a flag.
    pub(super) states: Option<&'static str>,
    /// Whether nothing less than a fence will do.
    pub(super) fenced: bool,
    /// Whether it is typed where there is no network at all.
    pub(super) without_network: bool,
}

impl Operator<'_> {
    /// Promotes once a dry run says that nothing stands in the way.
    pub(super) fn promote(&self) -> Result<Certificate> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let dry_run = self.try_promotion(true)?;
            let fenced = !self.fenced || dry_run.fencing == Fencing::Fenced;
            if dry_run.outcome == Outcome::WouldPromote && fenced {
                let certificate = self.try_promotion(false)?;
                match &certificate.outcome {
                    Outcome::Promoted => return Ok(certificate),
                    Outcome::Refused { .. } => {}
                    other => bail!("the standby was not promoted: {other:?}"),
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the standby could not be promoted in {PATIENCE:?}: {:?}, {:?}",
                    dry_run.outcome,
                    dry_run.fencing
                );
            }
            wait(Duration::from_millis(5));
        }
    }

    /// Waits until the standby vouches for a bound, where one was promised; for which is judged
    /// later.
    pub(super) fn until_vouched_for(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let certificate = self.try_promotion(true)?;
            match (certificate.bound, self.promise.limits()) {
                (_, None) | (Finding::Known(_), _) => return Ok(()),
                (bound, _) if Instant::now() > deadline => {
                    bail!("the standby does not vouch for the bound: {bound:?}")
                }
                _ => wait(Duration::from_millis(5)),
            }
        }
    }

    fn try_promotion(&self, dry_run: bool) -> Result<Certificate> {
        let accepted = self.promise.accepted();
        let mut arguments = vec!["promote", "-o", "json", "--accept-loss", &accepted];
        arguments.extend(["--reason", "a drill"]);
        arguments.extend(self.states);
        arguments.extend(dry_run.then_some("--dry-run"));
        let mut command = self.pair.command(self.node, arguments);
        if self.without_network {
            command = without_network(&command);
        }
        let output = command.output().context("cannot run the promotion")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let refused = output.status.code() == Some(Exit::Refused as i32);
        if !refused && !output.status.success() {
            bail!("the promotion failed ({}): {said}", output.status);
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the promotion gave no certificate: {said}"))
    }
}

/// The command, in a network namespace of its own in which nothing is up.
fn without_network(command: &Command) -> Command {
    let mut alone = Command::new("unshare");
    alone.arg("--net").arg("--").arg(command.get_program());
    alone.args(command.get_args()).stdin(Stdio::null());
    alone
}

/// Whether a namespace without any network can be had here: it needs root and `unshare`.
#[must_use]
pub fn can_do_without_network() -> bool {
    let tried = without_network(&Command::new("true")).output();
    tried.is_ok_and(|output| output.status.success())
}

impl Promoted {
    /// What a certificate says that came at this moment of the round.
    pub(super) fn of(certificate: &Certificate, at: Duration) -> Self {
        let held = certificate.positions.durable;
        Self {
            fencing: certificate.fencing,
            bound: match &certificate.bound {
                Finding::Known(bound) => Ok(*bound),
                Finding::NotAvailable(why) => Err(why.clone()),
            },
            measured: certificate.measured_loss.known().copied(),
            commits: held.commit,
            lsn: held.lsn.0,
            at,
        }
    }
}
