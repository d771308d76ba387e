//! One thread that appends and makes every write durable.

use std::io;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::FloorSettings;
use super::appender::{Mode, ZeroedFile};
use crate::summary::{LatencySummary, latencies, record};

/// Durable appends of one size by one thread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WriteFloor {
    /// The size of each append.
    pub bytes: usize,
    /// The way to the disk.
    pub mode: Mode,
    /// How many a second.
    pub writes_per_s: f64,
    /// How long each takes.
    pub latency: LatencySummary,
}

/// The first writes meet cold caches and are not counted.
const WARM_UP_WRITES: u32 = 50;

pub(super) fn measure(
    file: &ZeroedFile,
    mode: Mode,
    bytes: usize,
    settings: &FloorSettings,
) -> io::Result<WriteFloor> {
    let mut appender = file.appender(mode)?;
    let data = vec![0xa5; bytes];
    for _ in 0..WARM_UP_WRITES {
        appender.append(&data)?;
    }
    let mut histogram = latencies();
    let began = Instant::now();
    let mut last = began;
    while histogram.len() < settings.writes_max.max(1) && last - began < settings.row_time {
        appender.append(&data)?;
        let now = Instant::now();
        record(&mut histogram, now - last);
        last = now;
    }
    let latency = LatencySummary::of(&histogram);
    let writes_per_s = latency.count as f64 / (last - began).as_secs_f64();
    Ok(WriteFloor {
        bytes,
        mode,
        writes_per_s,
        latency,
    })
}
