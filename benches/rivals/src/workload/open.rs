//! Opening: after a close in good order, and after a kill.

use std::io::Read;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::data::{Pair, key, pair, scattered, value};
use crate::engine::{Engine, Kind};
use crate::job::{Job, Message};
use crate::results::Row;
use crate::settings::{Settings, VALUE_BYTES};

const CRASH_BATCH: usize = 100;

/// How many records were overwritten before the kill: one in fifty.
const fn crash_records(settings: &Settings) -> u64 {
    settings.keys.div_ceil(50)
}

fn overwritten(settings: &Settings) -> impl Iterator<Item = u64> {
    let keys = settings.keys;
    (0..crash_records(settings)).map(move |nth| scattered(nth, keys))
}

/// After a close.
pub(crate) fn clean(job: &Job, kind: Kind) -> Result<()> {
    let engine = open(job, kind, "open/clean", 0)?;
    engine.close()
}

/// Overwrites durably, says that it is time to kill, and waits for that.
pub(crate) fn crash(job: &Job, kind: Kind) -> Result<()> {
    let engine = job.open(kind)?;
    let mut pairs = overwritten(&job.settings).map(|index| pair(index, 1, VALUE_BYTES));
    loop {
        let batch: Vec<Pair> = pairs.by_ref().take(CRASH_BATCH).collect();
        if batch.is_empty() {
            break;
        }
        engine.put_batch(&batch)?;
    }
    Message::Kill.say()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// After the kill: all that was committed is there.
pub(crate) fn killed(job: &Job, kind: Kind) -> Result<()> {
    let engine = open(job, kind, "open/killed", 1)?;
    let mut reader = engine.reader()?;
    for index in overwritten(&job.settings) {
        let expected = value(index, 1, VALUE_BYTES);
        let mut same = false;
        reader.get(&key(index), &mut |found| same = found == expected)?;
        ensure!(
            same,
            "key {index} was committed before the kill and is lost"
        );
    }
    drop(reader);
    engine.close()
}

/// Until the first value is read.
fn open(job: &Job, kind: Kind, workload: &str, version: u32) -> Result<Box<dyn Engine>> {
    let index = scattered(0, job.settings.keys);
    let expected = value(index, version, VALUE_BYTES);
    let mut same = false;
    let began = Instant::now();
    let engine = job.open(kind)?;
    engine
        .reader()?
        .get(&key(index), &mut |found| same = found == expected)?;
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    ensure!(same, "key {index} has another value, or none");
    Message::Row(Row::of(workload).figure("open_ms", milliseconds)).say()?;
    Ok(engine)
}
