//! `outlast drill-kill`: losing primaries under load, again and again, on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use outlast_tools::drill::{
    Drill, FailedRound, How, Played, Promise, Summary, Times, Unit, can_do_without_network,
};
use outlast_tools::exit::Exit;
use outlast_tools::pair::Processes;

use crate::Global;
use crate::failure::Failure;
use crate::output::number;
use crate::signals::until_signal;

/// See primaries die under load and what was lost, against what was promised
///
/// Each round makes two nodes in a new directory, joins them by a relay on loopback, promises
/// POLICY, lets several clients write as fast as they are answered, takes the primary away at a
/// moment drawn from the seed, and promotes the standby with this binary. What clients were told is
/// noted outside of both nodes. Then it is compared: the promoted state must be the state after one
/// number of commits, the one that the certificate names; what was acknowledged beyond it must be
/// within the bound and within the certificate; and where the old primary goes on, none of its
/// clients may get an acknowledgement outside the bound, after the lease, or after the certificate
/// said FENCED. Exits 5 if anything is not so, and keeps the nodes and the evidence.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outlast drill-kill sync --rounds 200
  outlast drill-kill 100commits --lease 200ms
  outlast drill-kill 64KiB,100ms --how stop --how cut --seed 7
  outlast drill-kill async --how gone -o json")]
pub(crate) struct DrillKill {
    /// What is promised: async, sync, or bounds joined by commas, as in 100commits,64KiB,50ms
    policy: String,
    /// How long after the last echo of the standby commits may be answered [default: 3s]
    #[arg(long, value_parser = humantime::parse_duration)]
    lease: Option<Duration>,
    /// How many primaries to lose
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// What the first round is drawn from; each has the next [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How primaries are lost, one of these each round [default: all of them]
    #[arg(long, value_name = "HOW")]
    how: Vec<How>,
    /// Clients that write at the same time; in one round of three there is one
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    writers: u16,
    /// Batches that each client has in flight at most; how many is drawn
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// Delay of the line each way
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Make the nodes in this new directory and leave those with violations there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl DrillKill {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let usage = |error| Failure::new(Exit::Usage, error);
        let promise = Promise::read(&self.policy, self.lease)
            .map_err(|error| usage(anyhow::Error::new(error)))?;
        let dir = self.dir().map_err(usage)?;
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let processes = Processes::default();
        let mut drill = Drill {
            exe: std::env::current_exe().context("cannot find this program")?,
            dir: dir.clone(),
            promise,
            hows: match self.how.as_slice() {
                [] => How::ALL.to_vec(),
                some => some.to_vec(),
            },
            writers: self.writers.into(),
            in_flight: self.in_flight.into(),
            delay: self.delay,
            namespaces: can_do_without_network(),
            processes: processes.clone(),
            playing: Default::default(),
        };
        let left_out = drill.leave_out_impossible();
        if drill.hows.is_empty() {
            let what = format!("nothing that was asked for can be done here: {left_out:?}");
            return Err(Failure::new(Exit::Refused, anyhow::Error::msg(what)));
        }
        let rounds = self.rounds;
        let cleaner = drill.clone();
        let played = until_signal(move || play(&drill, seed, rounds, left_out));
        // Whatever happened: no process outlives the command.
        processes.end();
        cleaner.clean_up();
        if played.is_err() && self.keep.is_none() {
            // Interrupted amid a round: nothing in it tells anything.
            let _ = std::fs::remove_dir_all(&dir);
        }
        let summary = played?;
        // Only what has nothing wrong in it is empty now.
        let kept = std::fs::remove_dir(&dir).is_err();
        global.output.result(&summary, || text(&summary))?;
        if summary.is_clean() {
            return Ok(Exit::Ok);
        }
        Err(self.failure(&summary, &dir, kept))
    }

    fn dir(&self) -> anyhow::Result<PathBuf> {
        match &self.keep {
            Some(dir) => {
                std::fs::create_dir(dir)
                    .with_context(|| format!("cannot make the directory {}", dir.display()))?;
                Ok(dir.canonicalize()?)
            }
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("outlast-drill-")
                    .tempdir()?;
                Ok(dir.keep())
            }
        }
    }

    fn failure(&self, summary: &Summary, dir: &Path, kept: bool) -> Failure {
        let wrong = summary.violations.len();
        let (exit, what) = if wrong > 0 {
            let what = format!("in {wrong} rounds something was that must not be");
            (Exit::Corruption, what)
        } else {
            let failed = summary.failures.len();
            (
                Exit::Failure,
                format!("{failed} rounds could not be played to their end"),
            )
        };
        let first = summary.violations.first().map(|round| round.seed);
        let first = first.or(summary.failures.first().map(|round| round.seed));
        let seed = first.unwrap_or(summary.seed);
        let again = format!(
            "again: outlast drill-kill {}{} --rounds 1 --seed {seed}",
            summary.promise,
            self.flags()
        );
        Failure::new(exit, anyhow::Error::msg(what)).hint(if kept {
            format!(
                "the nodes and evidence.json are in {}; {again}",
                dir.display()
            )
        } else {
            again
        })
    }

    /// What was asked for besides the policy, the seed and the rounds.
    fn flags(&self) -> String {
        let mut flags = String::new();
        if let Some(lease) = self.lease {
            flags += &format!(" --lease {}", humantime::format_duration(lease));
        }
        for how in &self.how {
            flags += &format!(" --how {how}");
        }
        let delay = humantime::format_duration(self.delay);
        flags += &format!(
            " --writers {} --in-flight {} --delay {delay}",
            self.writers, self.in_flight
        );
        flags
    }
}

/// Plays all rounds, and tells people of each that is not as it must be.
fn play(drill: &Drill, seed: u64, rounds: u64, left_out: Vec<String>) -> Summary {
    let mut played: Vec<Played> = Vec::new();
    let mut failures = Vec::new();
    for seed in seed..seed.saturating_add(rounds) {
        match drill.play(seed) {
            Ok(round) => {
                for violation in &round.verdict.violations {
                    eprintln!("VIOLATION seed {seed}, {}: {violation}", round.story);
                }
                tracing::info!(seed, story = round.story, loss = ?round.verdict.loss, "a round");
                played.push(round);
            }
            Err(_) if drill.processes.have_ended() => break,
            Err(error) => {
                eprintln!("FAILED {error:#}");
                let what = format!("{error:#}");
                failures.push(FailedRound { seed, what });
            }
        }
    }
    Summary::of(drill.promise, seed, &played, failures, left_out)
}

fn text(summary: &Summary) -> String {
    let count = summary.rounds();
    let violations: usize = summary
        .violations
        .iter()
        .map(|round| round.what.len())
        .sum();
    let losses = summary.losses().into_iter().map(|(unit, lost, most)| {
        let lost = match unit {
            Unit::Ms => number(lost),
            _ => format!("{lost:.0}"),
        };
        match most {
            Some(most) => format!("largest loss {lost} of bound {most} {unit}"),
            None => format!("largest loss {lost} {unit}, no bound"),
        }
    });
    let losses: Vec<_> = losses.collect();
    let mut lines = vec![format!(
        "{}: {count} kills, {violations} violations, {}",
        summary.promise,
        losses.join(", ")
    )];
    let mut line = |name: &str, value: String| lines.push(format!("{name:<12}{value}"));
    let kills = summary.kills.iter().filter(|(_, count)| **count > 0);
    let kills: Vec<_> = kills.map(|(how, count)| format!("{count} {how}")).collect();
    line("lost by", kills.join(", "));
    line(
        "answered",
        format!(
            "{} commits, some of them lost in {} rounds; {} sent after a promotion",
            summary.answered, summary.rounds_with_loss, summary.answered_after_promotion
        ),
    );
    let tightness = &summary.tightness;
    let shares = [
        ("commits", tightness.commits),
        ("bytes", tightness.bytes),
        ("time", tightness.span),
    ];
    let share = |(of, share): (&str, Option<f64>)| Some(format!("{} of {of}", number(share?)));
    let shares: Vec<_> = shares.into_iter().filter_map(share).collect();
    if !shares.is_empty() {
        line("tightness", shares.join(", "));
    }
    if summary.recovery_ms.count > 0 {
        line("recovery", times(&summary.recovery_ms));
    }
    line("promotion", times(&summary.promotion_ms));
    line(
        "seeds",
        format!(
            "{} and the {} after it",
            summary.seed,
            count.saturating_sub(1)
        ),
    );
    if violations == 0 && count > 0 {
        let most = number(300.0 / count as f64);
        line(
            "so",
            format!("at most {most} % of kills violate it (95 % confidence, 3/n)"),
        );
    }
    for what in &summary.left_out {
        line("LEFT OUT", what.clone());
    }
    lines.join("\n")
}

fn times(times: &Times) -> String {
    format!(
        "p50 {} ms, p99 {} ms, max {} ms ({} of them)",
        number(times.p50),
        number(times.p99),
        number(times.max),
        times.count
    )
}
