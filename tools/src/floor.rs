//! What this machine can do at best, whatever the engine: the measure for every figure of the
//! engine's own, taken in the same run.
//!
//! - [`writes`](WriteFloor): one thread appends to a file of zeros and makes each write durable.
//! - [`group commit`](GroupCommitFloor): many threads share such writes, as leader and followers.
//! - [`relay`](RelayFloor): what a hop through the relay costs, for runs that put it in between.

mod appender;
mod group_commit;
mod line;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

pub use appender::Mode;
pub use group_commit::GroupCommitFloor;
pub use line::{BulkFloor, RelayFloor};
pub use write::WriteFloor;

use crate::summary::LatencySummary;
use appender::ZeroedFile;

/// What to measure, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorSettings {
    /// The directory whose file system is measured; nothing is left behind in it.
    pub dir: PathBuf,
    /// The size of the file of zeros; appending begins again when it is full.
    pub file_bytes: u64,
    /// A row ends after so many writes …
    pub writes_max: u64,
    /// … or after this time, in milliseconds.
    #[serde(rename = "row_ms", with = "milliseconds")]
    pub row_time: Duration,
    /// How many threads share the group commits.
    pub threads: usize,
    /// The size of what each of them commits.
    pub record_bytes: usize,
}

impl FloorSettings {
    /// The usual measure of the file system that holds `dir`; takes about 20 s.
    pub fn usual(dir: PathBuf) -> Self {
        Self {
            dir,
            file_bytes: 64 << 20,
            writes_max: 20_000,
            row_time: Duration::from_secs(2),
            threads: 32,
            record_bytes: 128,
        }
    }
}

/// The floors of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// One thread, each write made durable.
    pub writes: Vec<WriteFloor>,
    /// Many threads that share durable writes.
    pub group_commits: Vec<GroupCommitFloor>,
    /// Why there are no rows with `direct`, if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_unavailable: Option<String>,
    /// A hop through the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayFloor>,
    /// QUIC between two processes, without an engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicFloor>,
}

/// QUIC as the shipper configures it, between two endpoints that do nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuicFloor {
    /// There and back, 64 bytes.
    pub ping: LatencySummary,
    /// Bulk, one way.
    pub bulk_bytes_per_s: f64,
}

impl Floors {
    /// The better median of appending `bytes` durably, in microseconds: buffered or direct.
    pub fn append_p50_us(&self, bytes: usize) -> Option<f64> {
        let rows = self.writes.iter().filter(|row| row.bytes == bytes);
        rows.map(|row| row.latency.p50_us).min_by(f64::total_cmp)
    }

    /// The better rate of group commits.
    pub fn group_commits_per_s(&self) -> Option<f64> {
        self.group_commits
            .iter()
            .map(|row| row.commits_per_s)
            .max_by(f64::total_cmp)
    }
}

const WRITE_SIZES: [usize; 3] = [128, 4096, 65_536];

/// Measures everything but QUIC, and calls `next` with the name of each row before it begins.
pub fn measure(settings: &FloorSettings, mut next: impl FnMut(&str)) -> anyhow::Result<Floors> {
    anyhow::ensure!(!settings.row_time.is_zero(), "a row needs some time");
    let disk = || format!("cannot measure in {}", settings.dir.display());
    next("preparing a file of zeros");
    let largest = (settings.threads * settings.record_bytes) as u64;
    let file =
        ZeroedFile::create(&settings.dir, settings.file_bytes.max(largest)).with_context(disk)?;
    let mut floors = Floors::default();
    for mode in [Mode::Buffered, Mode::Direct] {
        if mode == Mode::Direct
            && let Err(error) = file.appender(mode)
        {
            floors.direct_unavailable = Some(error.to_string());
            continue;
        }
        for bytes in WRITE_SIZES {
            next(&format!("{mode} writes of {bytes} B"));
            floors
                .writes
                .push(write::measure(&file, mode, bytes, settings).with_context(disk)?);
        }
        next(&format!(
            "{mode} group commits of {} threads",
            settings.threads
        ));
        let row = group_commit::measure(&file, mode, settings).with_context(disk)?;
        floors.group_commits.push(row);
    }
    next("a hop through the relay");
    floors.relay = Some(line::measure(settings.row_time)?);
    Ok(floors)
}

impl QuicFloor {
    /// Measures it on loopback: round trips of 64 bytes, and `bulk_bytes` one way.
    pub fn measure(pings: usize, bulk_bytes: u64) -> anyhow::Result<Self> {
        let config = outlast_shipper::LinkConfig::default();
        let mut histogram = crate::summary::latencies();
        for time in outlast_shipper::floor::ping(&config, 64, pings)? {
            crate::summary::record(&mut histogram, time);
        }
        let bulk = outlast_shipper::floor::bulk(&config, bulk_bytes)?;
        Ok(Self {
            ping: LatencySummary::of(&histogram),
            bulk_bytes_per_s: bulk.megabytes_per_second() * 1e6,
        })
    }
}

/// One file of zeros and single floors over it, for a run that takes turns between a floor and what
/// is judged beside it: on a machine that is never quiet only neighbours in time can be compared.
pub struct FloorFile {
    file: ZeroedFile,
    settings: FloorSettings,
}

impl FloorFile {
    /// Makes the file; it goes away with this handle.
    pub fn create(settings: FloorSettings) -> anyhow::Result<Self> {
        let file = ZeroedFile::create(&settings.dir, settings.file_bytes)
            .with_context(|| format!("cannot measure in {}", settings.dir.display()))?;
        Ok(Self { file, settings })
    }

    /// One thread appends `bytes` at a time, each made durable.
    pub fn append(&self, mode: Mode, bytes: usize) -> std::io::Result<WriteFloor> {
        write::measure(&self.file, mode, bytes, &self.settings)
    }

    /// Many threads share such writes.
    pub fn group_commit(&self, mode: Mode) -> std::io::Result<GroupCommitFloor> {
        group_commit::measure(&self.file, mode, &self.settings)
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let settings = FloorSettings {
            file_bytes: 1 << 20,
            writes_max: 20,
            row_time: Duration::from_millis(50),
            threads: 4,
            ..FloorSettings::usual(dir.path().to_owned())
        };
        let mut rows = Vec::new();
        let floors = measure(&settings, |row| rows.push(row.to_owned())).unwrap();
        let modes = if floors.direct_unavailable.is_some() {
            1
        } else {
            2
        };
        assert_eq!(floors.writes.len(), modes * WRITE_SIZES.len());
        assert_eq!(rows.len(), 1 + modes * (WRITE_SIZES.len() + 1) + 1);
        assert!(
            floors
                .writes
                .iter()
                .all(|row| row.latency.count > 0 && row.latency.p50_us > 0.0)
        );
        assert!(floors.group_commits_per_s() > Some(0.0));
        assert!(floors.append_p50_us(4096).is_some() && floors.append_p50_us(5).is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let settings = FloorSettings::usual(PathBuf::from("/does/not/exist"));
        let error = measure(&settings, |_| {}).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"));
    }
}
