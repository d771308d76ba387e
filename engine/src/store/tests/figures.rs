//! Metrics against what was done.

use super::*;

#[test]
fn figures_tell_what_was_done() {
    let (_fs, store) = writer();
    let before = store.metrics();
    assert_eq!((before.commits, before.gets, before.scanned), (0, 0, 0));
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..40usize {
        put(&store, &keyspace, &format!("{:02}", n * 7 % 40), &[1; 700]);
        if n % 10 == 9 {
            while store.background_step() == Some(Duration::ZERO) {}
        }
    }
    let filled = store.metrics();
    assert_eq!((filled.commits, filled.groups), (40, 40));
    assert!(filled.fsyncs.count >= 40, "{:?}", filled.fsyncs);
    let formed = filled.positions.appended.lsn.0 - before.positions.appended.lsn.0;
    assert!(filled.formed_bytes <= formed && filled.formed_bytes > 40 * 700);
    assert!(filled.flushes >= 5 && filled.index.runs > 0, "{filled:?}");
    assert_eq!(filled.runs_by_level.iter().sum::<u64>(), filled.index.runs);
    assert_eq!(
        filled.index.replay.0 + filled.replay_lag_bytes,
        filled.positions.durable.lsn.0
    );
    assert!(filled.merges > 0, "{filled:?}");
    put(&store, &keyspace, "20", b"again");
    store.compact_index().unwrap();
    assert!(store.metrics().merges > filled.merges);
    assert_eq!(store.metrics().replay_lag_bytes, 0);

    let snapshot = store.snapshot();
    store.get(&keyspace, "01").unwrap();
    snapshot.get_entry(&keyspace, "02").unwrap();
    snapshot.multi_get(&keyspace, ["03", "x", "04"]).unwrap();
    block_on(store.get_async(&keyspace, "05")).unwrap();
    assert_eq!(snapshot.iter(&keyspace).count(), 40);
    let read = store.metrics();
    assert_eq!((read.gets, read.scanned), (6, 40));
    assert_eq!(read.async_inline + read.async_pooled, 1);
    assert_eq!(read.snapshots.count, 1);
}

#[cfg(feature = "metrics")]
#[test]
fn figures_are_handed_to_whoever_records_them() {
    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Names(Mutex<Vec<String>>);

    impl metrics::Recorder for Names {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.0.lock().push(key.name().to_owned());
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.0.lock().push(key.name().to_owned());
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    let (_fs, store) = writer();
    let keyspace = store.keyspace("k").unwrap();
    put(&store, &keyspace, "a", b"1");
    store.compact_index().unwrap();
    let names = Names::default();
    metrics::with_local_recorder(&names, || store.metrics().record());
    let names = names.0.into_inner();
    let documented = include_str!("../../metrics.rs");
    for name in &names {
        let short = name
            .trim_start_matches("outlast_")
            .trim_start_matches("appended");
        let row = documented.lines().any(|line| {
            line.contains("/// |") && (line.contains(name) || line.contains(&format!("_{short}`")))
        });
        assert!(row, "{name} is not documented");
    }
    assert!(names.len() > 30, "{names:?}");
}
