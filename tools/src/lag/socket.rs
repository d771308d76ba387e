//! The load on a primary that runs already, over its control socket.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outlast_standby::control::protocol::{Ask, FailureKind, Reply, Stage as Told, WireOp};
use outlast_standby::control::{Answers, Client, next};
use outlast_standby::status::{ProtectionStatus, Status};

use super::load::{Load, Measured, sleep_until, wake_exactly};
use super::recorder::{Latencies, Stage};
use super::report::Achieved;
use super::schedule::Schedule;
use super::series::{LagSample, LagSeries};

const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// Commits that were asked for and not wholly answered, by the number of their request.
#[derive(Default)]
struct Asked(Mutex<HashMap<u64, Duration>>);

impl Asked {
    fn with<T>(&self, what: impl FnOnce(&mut HashMap<u64, Duration>) -> T) -> T {
        what(
            &mut self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

/// Runs the load on the primary in `dir`, which must run. Without a rate, `in_flight` commits are
/// always on their way, and each counts from when it was sent.
pub fn run(dir: &Path, load: &Load) -> Result<Measured> {
    let connect =
        || Client::connect(dir).with_context(|| format!("no node answers in {}", dir.display()));
    let (mut sender, mut answers) = connect()?.split()?;
    let mut watcher = connect()?;
    let asked = Asked::default();
    let all_sent = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    let origin = Instant::now();
    thread::scope(|scope| {
        let collector = scope.spawn(|| collect(&mut answers, load, &asked, &all_sent, origin));
        let sampler = scope.spawn(|| sample(&mut watcher, load, &ended, origin));
        let sent = send(&mut sender, load, &asked, origin);
        all_sent.store(true, Ordering::Release);
        // One more answer, so that a collector with nothing to wait for looks up.
        let last = sender.send(Ask::Status);
        let collected = collector
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ended.store(true, Ordering::Release);
        let series = sampler
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        sent?;
        last?;
        let (latencies, achieved) = collected?;
        Ok(Measured {
            latencies,
            achieved,
            series,
        })
    })
}

/// How the node in `dir` is.
pub fn status(dir: &Path) -> Result<Status> {
    Ok(Client::connect(dir)?.status()?)
}

fn send(client: &mut Client, load: &Load, asked: &Asked, origin: Instant) -> Result<()> {
    wake_exactly();
    let mut moments = load
        .rate_per_s
        .map(|rate| Schedule::new(load.arrivals, rate, load.seed));
    for number in 0.. {
        let scheduled = moments.as_mut().and_then(Iterator::next);
        if let Some(at) = scheduled {
            sleep_until(origin, at.min(load.ends()));
        }
        while asked.with(|asked| asked.len()) >= load.in_flight {
            thread::park_timeout(Duration::from_micros(20));
            anyhow::ensure!(
                origin.elapsed() < load.ends() + Duration::from_secs(30),
                "the node does not answer"
            );
        }
        let intended = scheduled.unwrap_or_else(|| origin.elapsed());
        if intended >= load.ends() {
            break;
        }
        let ask = Ask::Commit {
            keyspace: "default".to_owned(),
            ops: vec![WireOp::Put(
                load.key(number).to_vec(),
                vec![0xa5; load.value_bytes],
            )],
            level: load.level,
            trace: true,
            pipelined: false,
        };
        // The lock is held meanwhile, so that no answer is met whose request is not noted.
        asked.with(|asked| client.send(ask).map(|id| asked.insert(id, intended)))?;
    }
    Ok(())
}

fn collect(
    answers: &mut Answers,
    load: &Load,
    asked: &Asked,
    all_sent: &AtomicBool,
    origin: Instant,
) -> Result<(Latencies, Achieved)> {
    let mut latencies = Latencies::new(load.warm_up);
    let mut achieved = Achieved::default();
    while !all_sent.load(Ordering::Acquire) || asked.with(|asked| !asked.is_empty()) {
        let answer = next(answers)?;
        let now = origin.elapsed();
        let Some(intended) = asked.with(|asked| asked.get(&answer.id).copied()) else {
            continue;
        };
        let counted = u64::from(intended >= load.warm_up);
        match answer.reply {
            Reply::Reached { stage, .. } => latencies.record(stage_of(stage), intended, now),
            Reply::Failed(failure) if failure.kind == FailureKind::Unknown => {
                achieved.unknown += counted;
            }
            _ => achieved.failed += counted,
        }
        if answer.last {
            achieved.begun += counted;
            asked.with(|asked| asked.remove(&answer.id));
        }
    }
    achieved.ok = latencies.of(load.stage()).len();
    achieved.ok_per_s = achieved.ok as f64 / load.run.as_secs_f64();
    Ok((latencies, achieved))
}

const fn stage_of(told: Told) -> Stage {
    match told {
        Told::Durable => Stage::LocalDurable,
        Told::Received => Stage::Received,
        Told::Replicated => Stage::Replicated,
        Told::Applied => Stage::Applied,
    }
}

fn sample(
    client: &mut Client,
    load: &Load,
    ended: &AtomicBool,
    origin: Instant,
) -> Result<LagSeries> {
    let mut series = LagSeries::default();
    let mut at = load.warm_up;
    while at < load.ends() && !ended.load(Ordering::Acquire) {
        sleep_until(origin, at);
        let status = client.status()?;
        let positions = status.positions;
        let lag = status.lag.unwrap_or_default();
        let exposed = status.protection;
        let exposed = |of: fn(&ProtectionStatus) -> u64| exposed.as_ref().map(of);
        series.samples.push(LagSample {
            at_ms: origin.elapsed().as_secs_f64() * 1e3,
            lag_bytes: lag.bytes,
            lag_ms: lag.ms as f64,
            apply_lag_bytes: positions
                .appended
                .lsn
                .bytes_since(positions.replica_applied.lsn),
            exposed_bytes: exposed(|now| now.exposure_bytes).unwrap_or_default(),
            exposed_commits: exposed(|now| now.exposure_commits).unwrap_or_default(),
            exposed_ms: exposed(|now| now.exposure_ms.unwrap_or_default()).unwrap_or_default()
                as f64,
        });
        at += SAMPLE_EVERY;
    }
    Ok(series)
}
