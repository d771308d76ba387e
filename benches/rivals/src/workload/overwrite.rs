//! The same records again and again: what the steady state costs in time, writes and space.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Timed, load};
use crate::data::{Pair, key, pair, value};
use crate::engine::{Engine, Kind, Reader};
use crate::job::{Job, Message};
use crate::memory::{device_written_bytes, disk_bytes, written_bytes};
use crate::settings::{OVERWRITE_BATCH, OVERWRITES, record_bytes};

/// The sizes of values.
pub(crate) const VALUE_SIZES: [usize; 2] = [128, 1024];

/// The name of the row.
pub(crate) fn workload(value_bytes: usize) -> String {
    format!("overwrite/{value_bytes}")
}

/// Loads, overwrites as much once to come to the steady state, and measures the rest.
pub(crate) fn measure(job: &Job, kind: Kind, value_bytes: usize) -> Result<()> {
    let engine = job.open(kind)?;
    let records = job.settings.overwrite_records(value_bytes).max(1);
    let live_bytes = (records * record_bytes(value_bytes)) as f64;
    engine.load(&mut load::in_no_order(records, value_bytes))?;
    let mut writer = Writer {
        engine: &*engine,
        versions: vec![0; usize::try_from(records)?],
        random: fastrand::Rng::with_seed(1),
        value_bytes,
    };
    writer.overwrite(records)?;

    let mut space = SettledSpace {
        records,
        record_bytes: record_bytes(value_bytes) + RECORD_OVERHEAD_BYTES,
        last: None,
        peak: 0.0,
    };
    let written_before = written_bytes();
    let device_before = device_written_bytes(&job.dir);
    let part = (OVERWRITES - 1) * records / PARTS;
    let mut timed = writer.overwrite(part)?;
    let mut peak_bytes = disk_bytes(&job.dir)?;
    for _ in 1..PARTS {
        timed = timed.then(writer.overwrite(part)?);
        peak_bytes = peak_bytes.max(disk_bytes(&job.dir)?);
        space.look(&*engine);
    }
    let written = written_bytes() - written_before;
    let device = device_written_bytes(&job.dir).zip(device_before);
    let end_bytes = disk_bytes(&job.dir)?;
    writer.check()?;

    let handed_over = (timed.records * record_bytes(value_bytes)) as f64;
    let mut row = timed
        .row(workload(value_bytes))
        .figure("write_amplification", written as f64 / handed_over)
        .figure("space_amplification", end_bytes as f64 / live_bytes)
        .figure("space_amplification_peak", peak_bytes as f64 / live_bytes);
    if let Some((after, before)) = device {
        let amplification = (after - before) as f64 / handed_over;
        row = row.figure("device_write_amplification", amplification);
    }
    if let Some(last) = space.last {
        row = row
            .figure("settled_amplification", last)
            .figure("settled_amplification_peak", space.peak);
    }
    Message::Row(row).say()?;
    engine.close()
}

/// Bytes that a record takes in a log beside key and value: Outlast's checksum, lengths and kind.
const RECORD_OVERHEAD_BYTES: u64 = 12;

/// Log and index that are not written any more, by the live records as encoded and their part of
/// the index: what an engine takes for good, without the files that it holds ready for writing.
struct SettledSpace {
    records: u64,
    record_bytes: u64,
    last: Option<f64>,
    peak: f64,
}

impl SettledSpace {
    fn look(&mut self, engine: &dyn Engine) {
        let Some(space) = engine.space() else {
            return;
        };
        let own_share = self.records as f64 / space.versions.max(1) as f64;
        let live = (self.records * self.record_bytes) as f64;
        let needed = live + space.index_bytes as f64 * own_share.min(1.0);
        let now = space.settled_bytes as f64 / needed;
        self.last = Some(now);
        self.peak = self.peak.max(now);
    }
}

/// How often the files are looked at meanwhile.
const PARTS: u64 = 20;

/// Overwrites random records in durable batches, and remembers which version is the last.
struct Writer<'a> {
    engine: &'a dyn Engine,
    versions: Vec<u32>,
    random: fastrand::Rng,
    value_bytes: usize,
}

impl Writer<'_> {
    fn overwrite(&mut self, records: u64) -> Result<Timed> {
        let batches = records.div_ceil(OVERWRITE_BATCH as u64).max(1);
        let mut prepared = Vec::new();
        Timed::times(batches, || {
            self.prepare(&mut prepared);
            let began = Instant::now();
            self.engine.put_batch(&prepared)?;
            Ok((prepared.len() as u64, began.elapsed()))
        })
    }

    fn prepare(&mut self, batch: &mut Vec<Pair>) {
        batch.clear();
        for _ in 0..OVERWRITE_BATCH {
            let at = self.random.usize(..self.versions.len());
            if let Some(version) = self.versions.get_mut(at) {
                *version += 1;
                batch.push(pair(at as u64, *version, self.value_bytes));
            }
        }
    }

    /// A sample of what was written is read as it was written last.
    fn check(&mut self) -> Result<()> {
        const SAMPLE: usize = 1000;
        let mut reader = self.engine.reader()?;
        let versions = self.versions.iter().enumerate();
        for (at, &version) in versions.step_by(self.versions.len().div_ceil(SAMPLE)) {
            let expected = value(at as u64, version, self.value_bytes);
            let is_same = shows(&mut *reader, at as u64, &expected)?;
            ensure!(is_same, "key {at} does not have its version {version}");
        }
        Ok(())
    }
}

fn shows(reader: &mut dyn Reader, index: u64, expected: &[u8]) -> Result<bool> {
    let mut same = false;
    reader.get(&key(index), &mut |found| same = found == expected)?;
    Ok(same)
}
