//! A time series: samples of many sensors, read by ranges of time, summed up, and given up when
//! they are old. Which sensors are heard at all is told by keys that expire.
//!
//! ```text
//! cargo run -p outlast-engine --example series            # in memory
//! cargo run -p outlast-engine --example series -- DIR     # in a directory
//! ```
//!
//! A key is the sensor and the time, with as many digits for every time, so that the order of the
//! keys is the order of the samples.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use outlast_engine::{
    Batch, CommitOptions, Config, EpochReason, ErrorKind, InitOptions, Keyspace, Store,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HOUR_MS: u64 = 3_600_000;
/// A sensor that has said nothing for so long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(120);

fn main() -> Outcome<()> {
    let store = match std::env::args().nth(1) {
        Some(dir) => open_or_make(Path::new(&dir))?,
        None => Store::open_in_memory()?,
    };
    run(&store)?;
    store.close()?;
    Ok(())
}

fn run(store: &Store) -> Outcome<()> {
    let series = Series::new(store)?;

    // Two sensors for five hours, a sample a minute: every commit takes what came at once.
    for minute in 0..300 {
        let at_ms = minute * 60_000;
        let degrees = 20.0 + (minute % 60) as f64 / 10.0;
        series.add(at_ms, &[("hall 3", degrees), ("roof", degrees - 15.0)])?;
    }

    let hour = 2 * HOUR_MS..3 * HOUR_MS;
    println!(
        "{} samples in the third hour",
        series.between("hall 3", hour.clone())?.len()
    );
    println!("the newest on the roof: {:?}", series.newest("roof")?);
    println!(
        "the mean of the third hour: {:.1}",
        series.sum_up("hall 3", 2)?
    );
    println!("heard of late: {:?}", series.heard()?);
    series.forget_before("hall 3", 4 * HOUR_MS)?;
    println!(
        "four hours were given up, their means are kept: {}",
        series.means("hall 3")?.len()
    );
    println!("{} are left", series.between("hall 3", 0..u64::MAX)?.len());
    Ok(())
}

/// Opens the store in `dir` and makes it first if there is none: only this call ever does.
fn open_or_make(dir: &Path) -> Outcome<Store> {
    let (store, reason) = match Store::open(dir, Config::default()) {
        Err(error) if error.kind() == ErrorKind::NotInitialised => {
            Store::init(dir, &InitOptions::new("series"))?;
            (Store::open(dir, Config::default())?, EpochReason::Init)
        }
        opened => (opened?, EpochReason::Restart),
    };
    store.begin_epoch(reason, "")?;
    Ok(store)
}

struct Series {
    store: Store,
    samples: Keyspace,
    /// The mean of each hour, for longer than the samples.
    means: Keyspace,
    /// The sensors that are not silent.
    heard: Keyspace,
}

impl Series {
    fn new(store: &Store) -> Outcome<Self> {
        Ok(Self {
            store: store.clone(),
            samples: store.keyspace("samples")?,
            means: store.keyspace("means")?,
            heard: store.keyspace("heard")?,
        })
    }

    /// Adds what several sensors said at one time: all of it is seen, or nothing.
    fn add(&self, at_ms: u64, samples: &[(&str, f64)]) -> Outcome<()> {
        let mut batch = Batch::new();
        for (sensor, value) in samples {
            batch.put(&self.samples, key(sensor, at_ms), value.to_le_bytes())?;
            batch.put_with_ttl(&self.heard, sensor, "", SILENT_AFTER)?;
        }
        self.store.commit(batch, CommitOptions::default())?;
        Ok(())
    }

    /// The samples of a sensor within a time, oldest first.
    fn between(&self, sensor: &str, time_ms: Range<u64>) -> Outcome<Vec<f64>> {
        let keys = key(sensor, time_ms.start)..key(sensor, time_ms.end);
        let range = self.store.snapshot().range(&self.samples, keys);
        range.map(|entry| value(&entry?.1)).collect()
    }

    /// The newest sample of a sensor.
    fn newest(&self, sensor: &str) -> Outcome<Option<f64>> {
        let mut range = self
            .store
            .snapshot()
            .prefix(&self.samples, format!("{sensor}/"));
        let newest = range.next_back().transpose()?;
        newest.map(|(_, bytes)| value(&bytes)).transpose()
    }

    /// Notes the mean of an hour, and answers with it.
    fn sum_up(&self, sensor: &str, hour: u64) -> Outcome<f64> {
        let samples = self.between(sensor, hour * HOUR_MS..(hour + 1) * HOUR_MS)?;
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let mut batch = Batch::new();
        batch.put(&self.means, key(sensor, hour * HOUR_MS), mean.to_le_bytes())?;
        self.store.commit(batch, CommitOptions::default())?;
        Ok(mean)
    }

    fn means(&self, sensor: &str) -> Outcome<Vec<f64>> {
        let range = self
            .store
            .snapshot()
            .prefix(&self.means, format!("{sensor}/"));
        range.map(|entry| value(&entry?.1)).collect()
    }

    /// The sensors that said something of late.
    fn heard(&self) -> Outcome<Vec<String>> {
        let keys = self.store.snapshot().iter(&self.heard).keys();
        keys.map(|key| Ok(String::from_utf8(key?.to_vec())?))
            .collect()
    }

    /// Sums up every hour before `end_ms`, and gives its samples up: one record, however many they
    /// are.
    fn forget_before(&self, sensor: &str, end_ms: u64) -> Outcome<()> {
        for hour in 0..end_ms / HOUR_MS {
            self.sum_up(sensor, hour)?;
        }
        let mut batch = Batch::new();
        batch.delete_range(&self.samples, key(sensor, 0)..key(sensor, end_ms))?;
        self.store.commit(batch, CommitOptions::default())?;
        Ok(())
    }
}

fn key(sensor: &str, at_ms: u64) -> String {
    format!("{sensor}/{at_ms:020}")
}

fn value(bytes: &[u8]) -> Outcome<f64> {
    Ok(f64::from_le_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs() {
        run(&Store::open_in_memory().unwrap()).unwrap();
    }

    #[test]
    fn a_range_of_time_holds_its_samples_and_no_other_sensor_s() {
        let store = Store::open_in_memory().unwrap();
        let series = Series::new(&store).unwrap();
        for at_ms in [9, 10, 99, 100, u64::MAX] {
            series
                .add(at_ms, &[("a", at_ms as f64), ("a/b", 0.0), ("b", 1.0)])
                .unwrap();
        }
        assert_eq!(series.between("a", 10..100).unwrap(), [10.0, 99.0]);
        assert_eq!(series.newest("b").unwrap(), Some(1.0));
        assert_eq!(series.newest("c").unwrap(), None);
        assert_eq!(series.heard().unwrap(), ["a", "a/b", "b"]);
        series.forget_before("b", 100).unwrap();
        assert_eq!(series.between("b", 0..u64::MAX).unwrap().len(), 1);
        assert_eq!(series.between("a", 0..100).unwrap().len(), 3);
    }
}
