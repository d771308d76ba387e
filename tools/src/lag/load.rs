//! The load on a primary in this process, and how far each commit of it has come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::Result;
use outlast_engine::{
    Batch, CommitError, CommitFuture, CommitOptions, Keyspace, Level, Lsn, Positions, Store,
};

use super::recorder::{Latencies, Stage};
use super::report::Achieved;
use super::schedule::{Arrivals, Schedule};
use super::series::{LagSample, LagSeries};

/// How often the lag is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
/// How long the last commits of a run may take.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Keys are drawn from so many.
const KEYS: u64 = 1 << 20;

/// What the load is.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Commits a second; `None` for as fast as answers come.
    pub rate_per_s: Option<f64>,
    /// How they are spread over time.
    pub arrivals: Arrivals,
    /// How long before anything is counted.
    pub warm_up: Duration,
    /// How long after that.
    pub run: Duration,
    /// The size of each value.
    pub value_bytes: usize,
    /// The level at which a commit counts as answered.
    pub level: Level,
    /// Most commits on their way at a time.
    pub in_flight: usize,
    /// What keys and moments are drawn from.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// How long commits took to each stage.
    pub latencies: Latencies,
    /// How many there were.
    pub achieved: Achieved,
    /// The lag meanwhile.
    pub series: LagSeries,
}

impl Load {
    /// The stage that a level waits for.
    pub const fn stage(&self) -> Stage {
        match self.level {
            Level::Local => Stage::LocalDurable,
            Level::Replicated => Stage::Replicated,
            _ => Stage::Applied,
        }
    }

    /// When the last commit is meant to begin.
    pub fn ends(&self) -> Duration {
        self.warm_up + self.run
    }

    /// The key of a commit: 16 bytes, spread over their order.
    pub fn key(&self, number: u64) -> [u8; 16] {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ number);
        let key = u128::from(rng.u64(..KEYS));
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_le_bytes()
    }

    fn batch(&self, keyspace: &Keyspace, number: u64) -> outlast_engine::Result<Batch> {
        let mut batch = Batch::new();
        batch.put(keyspace, self.key(number), vec![0xa5; self.value_bytes])?;
        Ok(batch)
    }
}

/// Runs the load on the store of a primary.
pub fn run(store: &Store, load: &Load) -> Result<Measured> {
    let keyspace = store.keyspace("default")?;
    match load.rate_per_s {
        Some(rate) => open_loop(store, &keyspace, load, rate),
        None => closed_loop(store, &keyspace, load),
    }
}

/// Lets this thread sleep until `due` from `origin` on, as exactly as the system can.
pub(super) fn sleep_until(origin: Instant, due: Duration) {
    while let Some(rest) = due
        .checked_sub(origin.elapsed())
        .filter(|rest| !rest.is_zero())
    {
        thread::park_timeout(rest);
    }
}

/// By default the kernel lets a sleeper wake 50 us late; that would count as latency.
pub(super) fn wake_exactly() {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// A commit that was begun and whose receipt is not known.
struct Begun {
    intended: Duration,
    future: CommitFuture,
}

/// What the threads of an open loop share.
#[derive(Default)]
struct Shared {
    /// Commits begun and not answered at the level of the load.
    on_their_way: AtomicU64,
    /// When the oldest commit was meant to begin that is not on the standby; none is `u64::MAX`.
    oldest_ns: AtomicU64,
    /// When the oldest was answered that is not on the standby; none is `u64::MAX`.
    exposed_ns: AtomicU64,
    ended: AtomicBool,
}

fn open_loop(store: &Store, keyspace: &Keyspace, load: &Load, rate: f64) -> Result<Measured> {
    let shared = &Shared {
        oldest_ns: AtomicU64::new(u64::MAX),
        exposed_ns: AtomicU64::new(u64::MAX),
        ..Shared::default()
    };
    let origin = Instant::now();
    let (begin, begun) = mpsc::channel();
    let (latencies, achieved, series) = thread::scope(|scope| {
        let collect = move || Collector::new(store, load, shared, origin).run(&begun);
        let collector = scope.spawn(collect);
        let waker = collector.thread().clone();
        let sampler = scope.spawn(move || sample(store, load, shared, origin));
        let generated = generate(store, keyspace, load, rate, origin, shared, &begin, &waker);
        drop(begin);
        waker.unpark();
        let collected = collector
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        shared.ended.store(true, Ordering::Release);
        sampler.thread().unpark();
        let series = sampler
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        generated?;
        anyhow::Ok((collected.0, collected.1, series))
    })?;
    Ok(Measured {
        latencies,
        achieved,
        series,
    })
}

#[expect(clippy::too_many_arguments, reason = "all of it is the one loop's")]
fn generate(
    store: &Store,
    keyspace: &Keyspace,
    load: &Load,
    rate: f64,
    origin: Instant,
    shared: &Shared,
    begin: &mpsc::Sender<Begun>,
    collector: &Thread,
) -> Result<()> {
    wake_exactly();
    let moments = Schedule::new(load.arrivals, rate, load.seed);
    for (number, intended) in (0..).zip(moments.take_while(|at| *at < load.ends())) {
        sleep_until(origin, intended);
        while shared.on_their_way.load(Ordering::Acquire) >= load.in_flight as u64 {
            // Late from here on, and counted as such.
            thread::park_timeout(Duration::from_micros(100));
        }
        shared.on_their_way.fetch_add(1, Ordering::AcqRel);
        let future = store.commit_async(load.batch(keyspace, number)?, CommitOptions::default());
        if begin.send(Begun { intended, future }).is_err() {
            break;
        }
        collector.unpark();
    }
    Ok(())
}

/// Notes when each commit reaches which stage.
struct Collector<'a> {
    store: &'a Store,
    load: &'a Load,
    shared: &'a Shared,
    origin: Instant,
    begun: VecDeque<Begun>,
    /// Commits with a receipt, by the stage after local that they wait for.
    waiting: [VecDeque<(Duration, Lsn)>; 3],
    /// When each of those that are not on the standby was answered.
    exposed: VecDeque<Duration>,
    /// When each of these stages was seen to reach where. A commit's receipt may be known later.
    reached: [VecDeque<(Lsn, Duration)>; 3],
    latencies: Latencies,
    achieved: Achieved,
}

const REMOTE: [Stage; 3] = [Stage::Received, Stage::Replicated, Stage::Applied];
const REPLICATED: usize = 1;

impl<'a> Collector<'a> {
    fn new(store: &'a Store, load: &'a Load, shared: &'a Shared, origin: Instant) -> Self {
        Self {
            store,
            load,
            shared,
            origin,
            begun: VecDeque::new(),
            waiting: Default::default(),
            exposed: VecDeque::new(),
            reached: Default::default(),
            latencies: Latencies::new(load.warm_up),
            achieved: Achieved::default(),
        }
    }

    fn run(mut self, begun: &mpsc::Receiver<Begun>) -> (Latencies, Achieved) {
        let this = thread::current();
        let waker = Waker::from(Arc::new(Unpark(this.clone())));
        self.store.on_change(move || this.unpark());
        let deadline = self.load.ends() + DRAIN_MAX;
        loop {
            let more = loop {
                match begun.try_recv() {
                    Ok(new) => {
                        self.achieved.begun += u64::from(new.intended >= self.load.warm_up);
                        self.begun.push_back(new);
                    }
                    Err(error) => break error == mpsc::TryRecvError::Empty,
                }
            };
            let now = self.origin.elapsed();
            self.note(now, &self.store.positions());
            self.take_receipts(now, &waker);
            self.match_up();
            let idle = self.begun.is_empty() && self.waiting.iter().all(VecDeque::is_empty);
            if !more && (idle || now > deadline) {
                break;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        let counted = |queue: &VecDeque<(Duration, Lsn)>| {
            let counted = queue.iter().filter(|(at, _)| *at >= self.load.warm_up);
            counted.count() as u64
        };
        let unanswered = match self.load.stage() {
            Stage::LocalDurable => 0,
            Stage::Received | Stage::Replicated => self.waiting.get(REPLICATED).map_or(0, counted),
            Stage::Applied => self.waiting.last().map_or(0, counted),
        };
        self.achieved.unknown += unanswered;
        self.achieved.ok = self.latencies.of(self.load.stage()).len();
        self.achieved.ok_per_s = self.achieved.ok as f64 / self.load.run.as_secs_f64();
        (self.latencies, self.achieved)
    }

    fn note(&mut self, now: Duration, positions: &Positions) {
        let places = [
            positions.replica_received.lsn,
            positions.replicated.lsn,
            positions.replica_applied.lsn,
        ];
        for (marks, place) in self.reached.iter_mut().zip(places) {
            if marks.back().is_none_or(|(lsn, _)| *lsn < place) {
                marks.push_back((place, now));
            }
        }
    }

    fn take_receipts(&mut self, now: Duration, waker: &Waker) {
        while let Some(front) = self.begun.front_mut() {
            let mut context = Context::from_waker(waker);
            let Poll::Ready(outcome) = Pin::new(&mut front.future).poll(&mut context) else {
                return;
            };
            let intended = front.intended;
            self.begun.pop_front();
            match outcome {
                Ok(receipt) => {
                    self.latencies.record(Stage::LocalDurable, intended, now);
                    for queue in &mut self.waiting {
                        queue.push_back((intended, receipt.lsn));
                    }
                    self.exposed.push_back(now);
                    if self.load.stage() == Stage::LocalDurable {
                        self.answered();
                    }
                }
                Err(error) => {
                    let counted = u64::from(intended >= self.load.warm_up);
                    match error {
                        CommitError::Failed(_) => self.achieved.failed += counted,
                        _ => self.achieved.unknown += counted,
                    }
                    self.answered();
                }
            }
        }
    }

    /// Matches receipts and positions, which are both in the log's order.
    fn match_up(&mut self) {
        let level = self.load.stage();
        let mut answered = 0;
        let queues = self.waiting.iter_mut().zip(&mut self.reached).zip(REMOTE);
        for ((waiting, reached), stage) in queues {
            while let Some((intended, lsn)) = waiting.front().copied() {
                while reached.len() > 1 && reached.front().is_some_and(|(at, _)| *at < lsn) {
                    reached.pop_front();
                }
                let Some((_, when)) = reached.front().filter(|(at, _)| *at >= lsn) else {
                    break;
                };
                self.latencies
                    .record(stage, intended, (*when).max(intended));
                waiting.pop_front();
                answered += u64::from(stage == level);
            }
        }
        (0..answered).for_each(|_| self.answered());
        let oldest = self
            .waiting
            .get(REPLICATED)
            .and_then(VecDeque::front)
            .map(|(intended, _)| *intended)
            .or_else(|| self.begun.front().map(|begun| begun.intended));
        let oldest = oldest.map_or(u64::MAX, nanoseconds);
        self.shared.oldest_ns.store(oldest, Ordering::Release);
        let still = self.waiting.get(REPLICATED).map_or(0, VecDeque::len);
        self.exposed
            .drain(..self.exposed.len().saturating_sub(still));
        let exposed = self.exposed.front().copied();
        let exposed = exposed.map_or(u64::MAX, nanoseconds);
        self.shared.exposed_ns.store(exposed, Ordering::Release);
    }

    fn answered(&self) {
        self.shared.on_their_way.fetch_sub(1, Ordering::AcqRel);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Looks at the lag at equal distances, from the end of the warm-up to the end of the load.
fn sample(store: &Store, load: &Load, shared: &Shared, origin: Instant) -> LagSeries {
    let mut series = LagSeries::default();
    let mut at = load.warm_up;
    while at < load.ends() && !shared.ended.load(Ordering::Acquire) {
        sleep_until(origin, at);
        let positions = store.positions();
        let oldest_ns = shared.oldest_ns.load(Ordering::Acquire);
        let now = origin.elapsed();
        let exposed_ns = shared.exposed_ns.load(Ordering::Acquire);
        let age_ms = |since_ns| nanoseconds(now).saturating_sub(since_ns) as f64 / 1e6;
        let appended = positions.appended.lsn;
        series.samples.push(LagSample {
            at_ms: now.as_secs_f64() * 1e3,
            lag_bytes: appended.bytes_since(positions.replicated.lsn),
            lag_ms: age_ms(oldest_ns),
            apply_lag_bytes: appended.bytes_since(positions.replica_applied.lsn),
            exposed_bytes: above(positions.visible.lsn.0, positions.replicated.lsn.0),
            exposed_commits: above(positions.visible.commit, positions.replicated.commit),
            exposed_ms: age_ms(exposed_ns),
        });
        at += SAMPLE_EVERY;
    }
    series
}

/// What was answered and may be lost: what readers see is what the gate let pass.
const fn above(visible: u64, replicated: u64) -> u64 {
    visible.saturating_sub(replicated)
}

/// As many threads as commits may be on their way; each begins the next when the last is answered.
fn closed_loop(store: &Store, keyspace: &Keyspace, load: &Load) -> Result<Measured> {
    let shared = Shared {
        oldest_ns: AtomicU64::new(u64::MAX),
        exposed_ns: AtomicU64::new(u64::MAX),
        ..Shared::default()
    };
    let origin = Instant::now();
    let (latencies, series) = thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(store, load, &shared, origin));
        let writer = |first: u64| commit_until_the_end(store, keyspace, load, origin, first << 32);
        let writers: Vec<_> = (0..load.in_flight as u64)
            .map(|first| scope.spawn(move || writer(first)))
            .collect();
        let mut all = Latencies::new(load.warm_up);
        for writer in writers {
            let own = writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.merge(&own);
        }
        shared.ended.store(true, Ordering::Release);
        let series = sampler
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok((all, series))
    })?;
    let ok = latencies.of(load.stage()).len();
    let achieved = Achieved {
        begun: ok,
        ok,
        ok_per_s: ok as f64 / load.run.as_secs_f64(),
        ..Achieved::default()
    };
    Ok(Measured {
        latencies,
        achieved,
        series,
    })
}

fn commit_until_the_end(
    store: &Store,
    keyspace: &Keyspace,
    load: &Load,
    origin: Instant,
    first: u64,
) -> Result<Latencies> {
    let mut latencies = Latencies::new(load.warm_up);
    let options = CommitOptions {
        level: load.level,
        deadline: Some(DRAIN_MAX),
    };
    for number in first.. {
        let batch = load.batch(keyspace, number)?;
        let begun = origin.elapsed();
        if begun >= load.ends() {
            break;
        }
        store.commit(batch, options)?;
        latencies.record(load.stage(), begun, origin.elapsed());
    }
    Ok(latencies)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
