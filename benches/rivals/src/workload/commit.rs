//! Small durable commits into a store that was empty.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outlast_tools::summary::{LatencySummary, latencies, record};

use super::Timed;
use crate::data::{Pair, key, scattered, value};
use crate::engine::{Commit, Engine, Kind};
use crate::job::{Job, Message};
use crate::results::Row;
use crate::settings::{BATCHES, IN_FLIGHT, THREADS, VALUE_BYTES};
use crate::syncs::RETURNED;
use crate::wait::waker;

/// The sizes of values that a lone writer puts.
pub(crate) const LONE_BYTES: [usize; 2] = [128, 1024];

/// The names of the rows, for the floor too.
pub(crate) fn lone(value_bytes: usize) -> String {
    format!("put/1-thread/{value_bytes}")
}

/// See [`lone`].
pub(crate) fn threads(count: usize) -> String {
    format!("put/{count}-threads/{VALUE_BYTES}")
}

/// All of them.
pub(crate) fn measure(job: &Job, kind: Kind) -> Result<()> {
    let engine = job.open(kind)?;
    let mut bench = Bench {
        engine: &*engine,
        time: job.settings.row_time(),
        begun: 0,
    };
    bench.warm_up()?;
    for bytes in LONE_BYTES {
        Message::Row(bench.threads(1, bytes)?.row(lone(bytes))).say()?;
    }
    for count in THREADS {
        Message::Row(bench.threads(count, VALUE_BYTES)?.row(threads(count))).say()?;
    }
    Message::Row(bench.in_flight()?).say()?;
    for records in BATCHES {
        Message::Row(bench.batches(records)?).say()?;
    }
    engine.close()
}

/// So many puts, with a word to whoever traces this process when the opening and each of them have
/// returned.
pub(crate) fn puts(job: &Job, kind: Kind, count: u64) -> Result<()> {
    let engine = job.open(kind)?;
    println!("{RETURNED}");
    for (key, value) in Series::new(0, VALUE_BYTES).take(usize::try_from(count)?) {
        engine.put(&key, &value)?;
        println!("{RETURNED}");
    }
    engine.close()
}

/// Records in no order, each key once. A series has 2^24 of them and shares none with another.
struct Series {
    number: u64,
    next: u64,
    value_bytes: usize,
}

const SERIES_BITS: u32 = 24;

impl Series {
    const fn new(number: u64, value_bytes: usize) -> Self {
        Self {
            number,
            next: 0,
            value_bytes,
        }
    }
}

impl Iterator for Series {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        assert!(self.next < 1 << SERIES_BITS, "the series has ended");
        // All series lie over all keys.
        let index = scattered(self.number << SERIES_BITS | self.next, 1 << 32);
        self.next += 1;
        Some((key(index), value(index, 0, self.value_bytes)))
    }
}

struct Bench<'a> {
    engine: &'a dyn Engine,
    time: Duration,
    /// How many series were begun.
    begun: u64,
}

const WARM_UP_PUTS: usize = 50;

impl Bench<'_> {
    fn series(&mut self, value_bytes: usize) -> Series {
        self.begun += 1;
        Series::new(self.begun - 1, value_bytes)
    }

    /// The first commits meet cold caches and are not counted.
    fn warm_up(&mut self) -> Result<()> {
        for (key, value) in self.series(VALUE_BYTES).take(WARM_UP_PUTS) {
            self.engine.put(&key, &value)?;
        }
        Ok(())
    }

    /// So many threads that each put and wait.
    fn threads(&mut self, count: usize, value_bytes: usize) -> Result<Timed> {
        let series: Vec<_> = (0..count).map(|_| self.series(value_bytes)).collect();
        let (engine, time) = (self.engine, self.time);
        let timed = thread::scope(|scope| {
            let writer = |series| move || put_until(time, engine, series);
            let writers: Vec<_> = series.into_iter().map(|s| scope.spawn(writer(s))).collect();
            let ended = writers.into_iter().map(|writer| {
                writer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ended.collect::<Result<Vec<_>>>()
        })?;
        Timed::together(timed).context("no thread")
    }

    /// One thread that keeps many commits on their way.
    fn in_flight(&mut self) -> Result<Row> {
        let workload = format!("put/{IN_FLIGHT}-in-flight/{VALUE_BYTES}");
        let mut series = self.series(VALUE_BYTES);
        let engine = self.engine;
        let mut begin = || {
            let (key, value) = series.next()?;
            Some((Instant::now(), engine.put_async(&key, &value)?))
        };
        let mut waiting: VecDeque<(Instant, Commit<'_>)> = VecDeque::new();
        let waker = waker();
        let mut done = latencies();
        let began = Instant::now();
        while began.elapsed() < self.time || !waiting.is_empty() {
            while waiting.len() < IN_FLIGHT && began.elapsed() < self.time {
                let Some(commit) = begin() else {
                    return Ok(Row::unavailable(workload, "no asynchronous commits"));
                };
                waiting.push_back(commit);
            }
            while let Some((since, commit)) = waiting.front_mut() {
                match commit.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(outcome) => {
                        outcome?;
                        record(&mut done, since.elapsed());
                        waiting.pop_front();
                    }
                    // Filled up before it is waited for, so that the next group is a large one.
                    Poll::Pending if waiting.len() < IN_FLIGHT => break,
                    Poll::Pending => thread::park(),
                }
            }
        }
        let per_s = done.len() as f64 / began.elapsed().as_secs_f64();
        Ok(Row::of(workload)
            .figure("per_s", per_s)
            .latency(&LatencySummary::of(&done)))
    }

    /// One thread that commits many records at once; they count, not the commits.
    fn batches(&mut self, records: usize) -> Result<Row> {
        let mut series = self.series(VALUE_BYTES);
        let mut last = None;
        let timed = Timed::repeat(self.time, || {
            let batch: Vec<Pair> = series.by_ref().take(records).collect();
            self.engine.put_batch(&batch)?;
            last = batch.into_iter().last();
            Ok(records as u64)
        })?;
        check(self.engine, last)?;
        Ok(timed.row(format!("batch/{records}/{VALUE_BYTES}")))
    }
}

fn put_until(time: Duration, engine: &dyn Engine, mut series: Series) -> Result<Timed> {
    let mut last = None;
    let timed = Timed::repeat(time, || {
        let pair = series.next().context("the series has ended")?;
        engine.put(&pair.0, &pair.1)?;
        last = Some(pair);
        Ok(1)
    })?;
    check(engine, last)?;
    Ok(timed)
}

/// What was committed last is there.
fn check(engine: &dyn Engine, last: Option<Pair>) -> Result<()> {
    let (key, value) = last.context("nothing was committed")?;
    let mut same = false;
    engine
        .reader()?
        .get(&key, &mut |found| same = found == value)?;
    ensure!(same, "what was committed last is not what is read");
    Ok(())
}
