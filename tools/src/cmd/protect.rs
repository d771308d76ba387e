//! `outlast policy` and `outlast protect`: how much may be lost, and lifting that for a while.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum};
use outlast_standby::config::Policy as Wish;
use outlast_standby::control::protocol::{Ask, Reply};
use outlast_standby::engine::format::{ProtectionRecord, ProtectionStanding};
use outlast_standby::proto::{Action, Bound, LEASE_DEFAULT, Policy as Promise};
use outlast_standby::status::ProtectionStatus;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Show or set how much may be lost
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    Show(Show),
    Set(Set),
}

/// Show how much may be lost, and how that stands
#[derive(Debug, Args)]
pub(crate) struct Show {}

/// Set how much may be lost
///
/// Typed on the primary. Tightening works at once. Loosening works once the standby has it on its
/// disk: while it cannot be reached, only `outlast protect suspend` lets commits go on.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// What is promised
    policy: Kind,
    #[command(flatten)]
    limits: Limits,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What goes with a policy
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// Most bytes of log that may be lost, as in 1MiB
    #[arg(long)]
    bytes: Option<ByteSize>,
    /// Most commits that may be lost
    #[arg(long)]
    commits: Option<u64>,
    /// Longest time from the answer to the first lost commit to that to the last, as in 500ms
    #[arg(long, value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// How long after the last echo of the standby commits may be answered
    #[arg(long, value_parser = humantime::parse_duration)]
    lease: Option<Duration>,
    /// What becomes of new commits while the bound is used up
    #[arg(long, default_value = "stall")]
    action: WhenFull,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Kind {
    /// Nothing: no bound, and no fence by silence
    Async,
    /// No more than the given bytes, commits and time
    Bounded,
    /// Nothing may be lost
    Sync,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum WhenFull {
    /// They wait, as long as their deadlines allow
    Stall,
    /// They fail before they are in the log
    Refuse,
}

/// Lift the bound for a while, or end that
#[derive(Debug, Subcommand)]
pub(crate) enum Protect {
    Suspend(Suspend),
    Resume(Resume),
}

/// Lift the bound for a while: the only way to go on past it
///
/// Typed on the primary. Takes effect once the standby has heard of it, or its lease is out, and
/// ends by itself. What is answered meanwhile may all be lost.
#[derive(Debug, Args)]
pub(crate) struct Suspend {
    /// For how long, as in 30m
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    lasts: Duration,
    /// Why, for the record
    #[arg(long)]
    reason: String,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Let the bound stand again before the suspension ends
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Policy {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Show(_) => show(global),
            Self::Set(set) => write(global, set.ask()?, set.dry_run),
        }
    }
}

impl Protect {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dry_run = match self {
            Self::Suspend(suspend) => suspend.dry_run,
            Self::Resume(resume) => resume.dry_run,
        };
        let ask = match self {
            Self::Suspend(suspend) => Ask::SuspendProtection {
                lasts_ms: as_ms(suspend.lasts),
                reason: suspend.reason.clone(),
                dry_run: suspend.dry_run,
            },
            Self::Resume(resume) => Ask::ResumeProtection {
                reason: resume.reason.clone(),
                dry_run: resume.dry_run,
            },
        };
        write(global, ask, dry_run)
    }
}

impl Set {
    fn ask(&self) -> Result<Ask, Failure> {
        let policy = self.limits.of(self.policy)?;
        let (bound, refuses) = match policy {
            Wish::Bounded { bound, action } => (Some(bound), action == Action::Refuse),
            _ => (None, false),
        };
        Ok(Ask::SetPolicy {
            bound_bytes: bound.and_then(|bound| bound.bytes),
            bound_commits: bound.and_then(|bound| bound.commits),
            bound_ms: bound.and_then(|bound| bound.time).map(as_ms),
            lease_ms: bound.map(|bound| as_ms(bound.lease)),
            refuses,
            reason: self.reason.clone(),
            dry_run: self.dry_run,
        })
    }
}

impl Limits {
    /// The policy of this kind with these limits.
    pub(super) fn of(&self, kind: Kind) -> Result<Wish, Failure> {
        if self.are_given() && kind != Kind::Bounded {
            let what = "--bytes, --commits and --time belong to the policy bounded";
            return Err(usage(what));
        }
        let lease = self.lease.unwrap_or(LEASE_DEFAULT);
        let promise = match kind {
            Kind::Async if self.lease.is_some() => {
                return Err(usage("the policy async has no lease"));
            }
            Kind::Async => Promise::Async,
            Kind::Sync => Promise::sync(lease),
            Kind::Bounded if !self.are_given() => {
                let what = "the policy bounded limits something: say --commits, --bytes or --time";
                return Err(usage(what));
            }
            Kind::Bounded => Promise::Bounded(Bound {
                bytes: self.bytes.map(|bytes| bytes.as_u64()),
                commits: self.commits,
                time: self.time,
                lease,
            }),
        };
        let action = match self.action {
            WhenFull::Stall => Action::Stall,
            WhenFull::Refuse => Action::Refuse,
        };
        Ok(Wish::of(promise, action))
    }

    /// The policy of this kind, if one was said.
    pub(super) fn of_said(&self, kind: Option<Kind>) -> Result<Option<Wish>, Failure> {
        match kind {
            None if self.are_given() || self.lease.is_some() => {
                Err(usage("limits belong to a policy: say --policy bounded too"))
            }
            kind => kind.map(|kind| self.of(kind)).transpose(),
        }
    }

    const fn are_given(&self) -> bool {
        self.bytes.is_some() || self.commits.is_some() || self.time.is_some()
    }
}

fn show(global: &Global) -> Result<Exit, Failure> {
    let status = global.client()?.status().map_err(failed)?;
    global.output.result(&status.protection, || {
        let stands = status.protection.as_ref().map(stands);
        let stands = stands.unwrap_or_else(|| "ask the primary how it stands".to_owned());
        format!("policy   {}\n{stands}", status.policy)
    })?;
    Ok(Exit::Ok)
}

fn write(global: &Global, ask: Ask, dry_run: bool) -> Result<Exit, Failure> {
    match global.client()?.ask_one(ask).map_err(failed)? {
        Reply::Protection(record) => {
            global.output.result(&record, || {
                let said = if dry_run {
                    "nothing was changed; would be "
                } else {
                    ""
                };
                format!("{said}{}", written(&record))
            })?;
            Ok(Exit::Ok)
        }
        other => Err(unexpected(&other)),
    }
}

fn written(record: &ProtectionRecord) -> String {
    let limits = limits(
        record.bound_bytes,
        record.bound_commits,
        record.bound_ms,
        record.lease_ms,
    );
    let standing = match record.standing {
        ProtectionStanding::InForce => "in force".to_owned(),
        ProtectionStanding::Suspended { lasts_ms } => {
            let lasts = humantime::format_duration(Duration::from_millis(lasts_ms));
            format!(
                "suspended for {lasts}, from when the standby has heard of it or its lease is out"
            )
        }
        _ if record.lease_ms.is_some() => {
            "off, until the standby lacks little: it comes into force by itself".to_owned()
        }
        _ => "nothing is promised from when the standby has this on its disk".to_owned(),
    };
    format!("{limits}: {standing}")
}

/// How a promise stands, in lines.
pub(crate) fn stands(protection: &ProtectionStatus) -> String {
    let state = protection.state.name();
    let since = protection
        .since_unix_ms
        .map_or_else(String::new, |ms| format!(" since {}", moment(ms)));
    let why = protection
        .why
        .as_ref()
        .map_or_else(String::new, |why| format!(": {why}"));
    let limits = limits(
        protection.bound_bytes,
        protection.bound_commits,
        protection.bound_ms,
        protection.lease_ms,
    );
    let left = headroom(protection).map_or_else(String::new, |left| format!("  left: {left}"));
    let now = figures(
        protection.exposure_commits,
        protection.exposure_bytes,
        protection.exposure_ms,
    );
    let exposed = &protection.exposed;
    let p99 = figures(exposed.p99_commits, exposed.p99_bytes, exposed.p99_ms);
    let max = figures(exposed.max_commits, exposed.max_bytes, exposed.max_ms);
    format!(
        "bound    {limits}  {state}{since}{why}\nexposed  now {now}  p99 {p99}  max(1h) {max}{left}"
    )
}

/// A moment as people read it.
pub(super) fn moment(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| format!("{unix_ms} ms after 1970"),
        |moment| format!("{moment:.0}"),
    )
}

fn figures(commits: u64, bytes: u64, ms: Option<u64>) -> String {
    let span = ms.map_or_else(|| "unknown span".to_owned(), |ms| format!("{ms} ms"));
    format!("{commits} commits / {bytes} bytes / {span}")
}

/// How much more may be lost before commits are held back.
fn headroom(protection: &ProtectionStatus) -> Option<String> {
    let parts = [
        protection
            .headroom_commits
            .map(|commits| format!("{commits} commits")),
        protection
            .headroom_bytes
            .map(|bytes| format!("{bytes} bytes")),
        protection.headroom_ms.map(|ms| format!("{ms} ms")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" / "))
}

fn limits(
    bytes: Option<u64>,
    commits: Option<u64>,
    ms: Option<u64>,
    lease_ms: Option<u64>,
) -> String {
    let Some(lease_ms) = lease_ms else {
        return "none".to_owned();
    };
    let parts = [
        commits.map(|commits| format!("{commits} commits")),
        bytes.map(|bytes| format!("{bytes} bytes")),
        ms.map(|ms| format!("{ms} ms")),
        Some(format!("lease {lease_ms} ms")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(" / ")
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn usage(what: &'static str) -> Failure {
    Failure::new(Exit::Usage, anyhow::Error::msg(what)).hint("outlast policy set --help")
}
