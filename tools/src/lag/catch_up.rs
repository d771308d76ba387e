//! A standby that was away: how fast it catches up, and what that does to the line; and how fast
//! its log is replayed when it is opened again.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outlast_engine::{Batch, CommitFuture, CommitOptions, Config, Keyspace, Store};
use serde::{Deserialize, Serialize};

use super::bed::{Bed, BedSettings};
use super::series::Spread;
use crate::floor::QuicFloor;
use crate::machine::{Machine, load_1min};
use crate::process::usage;
use crate::report::SCHEMA;

/// Puts in each commit of the fill.
const PUTS_PER_COMMIT: u64 = 16;
/// Commits of the fill on their way at a time.
const IN_FLIGHT: usize = 64;
const PATIENCE: Duration = Duration::from_secs(300);
const SAMPLE_EVERY: Duration = Duration::from_millis(2);
/// A line on which commits are replicated within this has no lag.
const LAG_IS_GONE_MS: f64 = 2.0;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUpSettings {
    /// How much log the standby lacks.
    pub fill_bytes: u64,
    /// The size of each value.
    pub value_bytes: usize,
    /// Commits a second that the primary goes on to take meanwhile.
    pub live_per_s: u32,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatchUp {
    /// The version of this form.
    pub schema: u32,
    /// The version of the program that measured.
    pub outlast_version: String,
    /// What it ran on.
    pub machine: Machine,
    /// How many threads wanted a processor, on average over the minute before.
    pub load_1min_before: f64,
    /// What was asked for.
    pub settings: CatchUpSettings,
    /// How much log the standby lacked.
    pub lacked_bytes: u64,
    /// How long the primary took to write that, as fast as it could, in seconds.
    pub written_in_s: f64,
    /// From the first byte that the standby reported received to the moment at which it had all.
    pub caught_up_in_s: f64,
    /// The former by the latter.
    pub bytes_per_s: f64,
    /// From the start of the standby's process to its first byte, in seconds.
    pub started_in_s: f64,
    /// What the connection's round trip was meanwhile, in microseconds, sampled.
    pub round_trip_us: Spread,
    /// Local commits meanwhile, one at a time: how long each took, in microseconds.
    pub local_commit_us: Spread,
    /// From the end of catching up until live commits were replicated within 2 ms again, in
    /// seconds.
    pub live_again_in_s: f64,
    /// How long opening the caught-up standby's log took, in seconds.
    pub replayed_in_s: f64,
    /// Processor time of the standby while it caught up, in percent of one core.
    pub standby_cpu_percent: f64,
    /// QUIC alone, in the same run.
    pub quic: QuicFloor,
}

impl CatchUp {
    /// The rate as a share of QUIC's.
    pub fn share_of_bulk(&self) -> f64 {
        self.bytes_per_s / self.quic.bulk_bytes_per_s.max(1.0)
    }
}

/// Fills a primary while its standby is away, lets that come back, and looks on.
pub fn catch_up(bed: &BedSettings, settings: &CatchUpSettings) -> Result<CatchUp> {
    let load_1min_before = load_1min();
    let quic = QuicFloor::measure(10_000, 256 << 20)?;
    let mut pair = Bed::make(bed)?;
    pair.start_standby()?;
    pair.wait_attached()?;
    pair.stop_standby()?;
    let store = pair.primary()?.store().clone();
    let keyspace = store.keyspace("default")?;
    let from = store.positions().appended.lsn;
    let began = Instant::now();
    fill(&store, &keyspace, settings)?;
    let written_in_s = began.elapsed().as_secs_f64();
    let lacked_bytes = store.positions().appended.lsn.bytes_since(from);
    let target = store.positions().appended.lsn;

    let spawned = Instant::now();
    let pid = pair.start_standby()?;
    let (mut round_trips, mut commits) = (Vec::new(), Vec::new());
    let mut first_byte = None;
    let mut next_live = Instant::now();
    let gap = Duration::from_secs(1) / settings.live_per_s.max(1);
    let mut number = 1 << 40;
    let began_usage = usage(pid)?;
    let done = loop {
        let positions = store.positions();
        let now = Instant::now();
        if positions.replica_received.lsn > from && first_byte.is_none() {
            first_byte = Some(now);
        }
        if positions.replicated.lsn >= target {
            break now;
        }
        ensure!(now - spawned < PATIENCE, "the standby does not catch up");
        if now >= next_live && settings.live_per_s > 0 {
            number += 1;
            store.commit(live(&keyspace, number)?, CommitOptions::default())?;
            commits.push(now.elapsed().as_secs_f64() * 1e6);
            next_live = now + gap;
        }
        if first_byte.is_some() {
            let peer = pair.primary()?.status().peer;
            round_trips.extend(peer.and_then(|peer| peer.rtt_us).map(|us| us as f64));
        }
        thread::park_timeout(SAMPLE_EVERY);
    };
    let used = usage(pid)?.cpu.saturating_sub(began_usage.cpu);
    let first_byte = first_byte.unwrap_or(done);
    let live_again_in_s = until_live(&store, &keyspace, done)?;
    let end = store.positions().appended;
    while store.positions().replica_applied < end {
        ensure!(done.elapsed() < PATIENCE, "the standby does not apply all");
        thread::park_timeout(SAMPLE_EVERY);
    }
    drop(store);
    pair.stop_standby()?;
    let began = Instant::now();
    let again = Store::open(&pair.standby_dir(), Config::default())?;
    let replayed_in_s = began.elapsed().as_secs_f64();
    let opened = again.positions();
    // What is shown at first is what the log vouches for: all but its last frame perhaps.
    ensure!(
        opened.appended >= end && opened.visible.lsn >= target,
        "opened, the log stands at {opened:?}, and it ended at {end:?}"
    );
    again.close()?;
    let caught_up_in_s = (done - first_byte).as_secs_f64();
    let standby_s = (done - spawned).as_secs_f64();
    Ok(CatchUp {
        schema: SCHEMA,
        outlast_version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::describe(&bed.parent)?,
        load_1min_before,
        settings: *settings,
        lacked_bytes,
        written_in_s,
        caught_up_in_s,
        bytes_per_s: lacked_bytes as f64 / caught_up_in_s.max(1e-9),
        started_in_s: (first_byte - spawned).as_secs_f64(),
        round_trip_us: Spread::of(round_trips),
        local_commit_us: Spread::of(commits),
        live_again_in_s,
        replayed_in_s,
        standby_cpu_percent: used.as_secs_f64() / standby_s.max(1e-9) * 100.0,
        quic,
    })
}

/// Commits one after the other until one is replicated soon; answers with how long that took.
fn until_live(store: &Store, keyspace: &Keyspace, since: Instant) -> Result<f64> {
    let options = CommitOptions {
        level: outlast_engine::Level::Replicated,
        deadline: Some(PATIENCE),
    };
    for number in (1 << 41).. {
        let began = Instant::now();
        store.commit(live(keyspace, number)?, options)?;
        if began.elapsed().as_secs_f64() * 1e3 < LAG_IS_GONE_MS {
            break;
        }
        ensure!(since.elapsed() < PATIENCE, "the lag does not go away");
    }
    Ok(since.elapsed().as_secs_f64())
}

fn live(keyspace: &Keyspace, number: u64) -> Result<Batch> {
    let mut batch = Batch::new();
    batch.put(keyspace, number.to_le_bytes(), [0xa5; 128])?;
    Ok(batch)
}

/// Writes as fast as the log takes it.
fn fill(store: &Store, keyspace: &Keyspace, settings: &CatchUpSettings) -> Result<()> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut waiting: VecDeque<CommitFuture> = VecDeque::new();
    let per_commit = PUTS_PER_COMMIT * settings.value_bytes as u64;
    let value = vec![0xa5; settings.value_bytes];
    for commit in 0..settings.fill_bytes.div_ceil(per_commit.max(1)) {
        let mut batch = Batch::new();
        for put in 0..PUTS_PER_COMMIT {
            let key = (commit * PUTS_PER_COMMIT + put).to_le_bytes();
            batch.put(keyspace, key, &value)?;
        }
        waiting.push_back(store.commit_async(batch, CommitOptions::default()));
        if waiting.len() >= IN_FLIGHT {
            wait_for_oldest(&mut waiting, &waker)?;
        }
    }
    while !waiting.is_empty() {
        wait_for_oldest(&mut waiting, &waker)?;
    }
    Ok(())
}

fn wait_for_oldest(waiting: &mut VecDeque<CommitFuture>, waker: &Waker) -> Result<()> {
    let Some(mut future) = waiting.pop_front() else {
        return Ok(());
    };
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(waker)) {
            Poll::Ready(outcome) => return Ok(outcome.map(drop)?),
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_as_long_as_it_was_asked_for() {
        let store = Store::open_in_memory().unwrap();
        let keyspace = store.keyspace("default").unwrap();
        let settings = CatchUpSettings {
            fill_bytes: 1 << 20,
            value_bytes: 1000,
            live_per_s: 0,
        };
        fill(&store, &keyspace, &settings).unwrap();
        let entries = store.snapshot();
        let bytes: usize = entries
            .iter(&keyspace)
            .map(|entry| entry.unwrap().1.len())
            .sum();
        assert!((1 << 20..(1 << 20) + 16_000).contains(&bytes), "{bytes}");
    }
}
