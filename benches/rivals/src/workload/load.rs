//! Filling an empty store, and bringing it into its best shape.

use std::time::Instant;

use anyhow::Result;

use crate::data::{Pair, pair, scattered};
use crate::engine::{Engine, Kind, Way};
use crate::job::{Job, Message, Shape, mib};
use crate::memory::disk_bytes;
use crate::results::Row;
use crate::settings::{VALUE_BYTES, record_bytes};

/// The row of compaction; without it there is nothing compacted to read.
pub(crate) const COMPACT: &str = "compact";

/// Every key once, in order.
pub(crate) fn sorted(job: &Job, kind: Kind) -> Result<()> {
    let mut pairs = (0..job.settings.keys).map(|index| pair(index, 0, VALUE_BYTES));
    load(job, kind, "load/sorted", |engine| {
        engine.load_sorted(&mut pairs)
    })
}

/// Every key once, in no order; what all reads read.
pub(crate) fn in_no_order(keys: u64, value_bytes: usize) -> impl Iterator<Item = Pair> {
    (0..keys).map(move |nth| pair(scattered(nth, keys), 0, value_bytes))
}

/// See [`in_no_order`].
pub(crate) fn unsorted(job: &Job, kind: Kind) -> Result<()> {
    let mut pairs = in_no_order(job.settings.keys, VALUE_BYTES);
    load(job, kind, "load/unsorted", |engine| engine.load(&mut pairs))?;
    say_disk(job, Shape::Loaded)
}

fn load(
    job: &Job,
    kind: Kind,
    workload: &str,
    load: impl FnOnce(&dyn Engine) -> Result<&'static str>,
) -> Result<()> {
    let engine = job.open(kind)?;
    let began = Instant::now();
    let way = load(&*engine)?;
    let seconds = began.elapsed().as_secs_f64();
    let row = Row::of(workload)
        .figure("per_s", job.settings.keys as f64 / seconds)
        .way(way);
    Message::Row(row).say()?;
    engine.close()
}

/// Compacts what was loaded.
pub(crate) fn compact(job: &Job, kind: Kind) -> Result<()> {
    let mut engine = job.open(kind)?;
    let began = Instant::now();
    let row = match engine.compact()? {
        Way::Cannot(why) => Row::unavailable(COMPACT, why),
        Way::By(call) => Row::of(COMPACT)
            .figure("seconds", began.elapsed().as_secs_f64())
            .way(call),
    };
    let compacted = row.unavailable.is_none();
    Message::Row(row).say()?;
    engine.close()?;
    if compacted {
        say_disk(job, Shape::Compacted)?;
    }
    Ok(())
}

/// After a close in good order.
fn say_disk(job: &Job, shape: Shape) -> Result<()> {
    let bytes = disk_bytes(&job.dir)?;
    let data = job.settings.keys * record_bytes(VALUE_BYTES);
    let row = Row::of(format!("disk/{}", shape.name()))
        .figure("disk_mib", mib(bytes))
        .figure("times_the_data", bytes as f64 / data as f64);
    Message::Row(row).say()
}
