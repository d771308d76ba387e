//! Reads of what was loaded: points, many points at once, short scans and everything.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::Timed;
use crate::data::{Key, key, value};
use crate::engine::{Kind, Reader, Way};
use crate::job::{Heat, Job, Message, Shape};
use crate::settings::{MULTI_GET_KEYS, SCAN_KEYS, VALUE_BYTES};

/// The names of the rows, for an engine that has none of them.
pub(crate) fn workloads(shape: Shape, heat: Heat) -> [String; 4] {
    let (shape, heat) = (shape.name(), heat.name());
    let multi_get = format!("multi-get-{MULTI_GET_KEYS}");
    let scan = format!("scan-{SCAN_KEYS}");
    ["get".to_owned(), multi_get, scan, "scan-all".to_owned()]
        .map(|what| format!("{what}/{heat}/{shape}"))
}

/// All of them, through one view of one thread.
pub(crate) fn measure(job: &Job, kind: Kind, shape: Shape, heat: Heat) -> Result<()> {
    let engine = job.open(kind)?;
    let mut bench = Bench {
        reader: engine.reader()?,
        keys: job.settings.keys,
        time: job.settings.row_time(),
        random: fastrand::Rng::with_seed(1),
        shown: 0,
    };
    if heat == Heat::Warm {
        bench.scan_all()?;
    }
    let [get, multi_get, scan, scan_all] = workloads(shape, heat);
    Message::Row(bench.gets()?.row(get)).say()?;
    let row = bench.multi_gets()?.row(multi_get);
    let row = match bench.reader.multi_get_way() {
        Way::By(call) => row.way(call),
        Way::Cannot(_) => row.way("one by one"),
    };
    Message::Row(row).say()?;
    Message::Row(bench.scans()?.row(scan)).say()?;
    let timed = match heat {
        Heat::Warm => Timed::repeat(bench.time, || bench.scan_all())?,
        // All of it may take minutes, of which the first seconds say enough.
        Heat::Limited => Timed::times(1, || bench.scan_for(4 * bench.time))?,
    };
    Message::Row(timed.row(scan_all)).say()?;
    drop(bench);
    engine.close()
}

struct Bench<'a> {
    reader: Box<dyn Reader + 'a>,
    keys: u64,
    time: Duration,
    random: fastrand::Rng,
    /// How many values were looked at.
    shown: u64,
}

/// One in so many values is compared; all have the right length.
const COMPARE_EVERY: u64 = 64;

impl Bench<'_> {
    fn gets(&mut self) -> Result<Timed> {
        Timed::repeat(self.time, || {
            let index = self.random.u64(..self.keys);
            let (mut right, shown) = (false, self.shown);
            let mut show = |found: &[u8]| right = is_right(index, found, shown);
            self.reader.get(&key(index), &mut show)?;
            ensure!(right, "key {index} has another value, or none");
            self.shown += 1;
            Ok(1)
        })
    }

    fn multi_gets(&mut self) -> Result<Timed> {
        Timed::repeat(self.time, || {
            let random = (0..MULTI_GET_KEYS).map(|_| self.random.u64(..self.keys));
            let indexes: Vec<_> = random.collect();
            let keys: Vec<Key> = indexes.iter().map(|&index| key(index)).collect();
            let mut expected = indexes.iter();
            let mut right = 0;
            self.reader.multi_get(&keys, &mut |found| {
                let index = expected.next();
                right += u64::from(index.is_some_and(|&i| is_right(i, found, self.shown)));
                self.shown += 1;
            })?;
            ensure!(
                right == keys.len() as u64,
                "{right} of {} values",
                keys.len()
            );
            Ok(right)
        })
    }

    fn scans(&mut self) -> Result<Timed> {
        let last_start = self.keys.saturating_sub(SCAN_KEYS as u64);
        Timed::repeat(self.time, || {
            let start = self.random.u64(..=last_start);
            let read = self.scan(start, (SCAN_KEYS as u64).min(self.keys))?;
            Ok(read)
        })
    }

    fn scan_all(&mut self) -> Result<u64> {
        self.scan(0, u64::MAX)
    }

    /// Reads from the first key on until the time is up or all is read.
    fn scan_for(&mut self, time: Duration) -> Result<(u64, Duration)> {
        let began = Instant::now();
        let mut read = 0;
        self.reader.scan(&key(0), &mut |found, value| {
            let right = found == key(read) && is_right(read, value, read);
            read += u64::from(right);
            if right && began.elapsed() < time {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let elapsed = began.elapsed();
        let ended = read == self.keys || elapsed >= time;
        ensure!(
            ended,
            "a scan shows something else in the place of key {read}"
        );
        Ok((read, elapsed))
    }

    /// Reads from a key on, `count` of them or all; checks that none is left out, and the order.
    fn scan(&mut self, start: u64, count: u64) -> Result<u64> {
        let mut next = start;
        let mut wrong = None;
        let end = self.keys.min(start.saturating_add(count));
        self.reader.scan(&key(start), &mut |found, value| {
            if next >= end || found != key(next) || !is_right(next, value, self.shown) {
                wrong = Some(next);
                return ControlFlow::Break(());
            }
            self.shown += 1;
            next += 1;
            if next == end && count != u64::MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if let Some(index) = wrong {
            bail!("a scan from key {start} shows something else in the place of key {index}");
        }
        ensure!(
            next == end,
            "a scan from key {start} ends before key {next} of {end}"
        );
        Ok(next - start)
    }
}

fn is_right(index: u64, found: &[u8], shown: u64) -> bool {
    found.len() == VALUE_BYTES
        && (!shown.is_multiple_of(COMPARE_EVERY) || found == value(index, 0, VALUE_BYTES))
}
