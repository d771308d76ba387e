use std::ops::ControlFlow;

use super::*;
use crate::data::pair;

const CACHE_BYTES: u64 = 8 << 20;
const BYTES: usize = 128;

fn contents(engine: &dyn Engine) -> Vec<Pair> {
    let mut found = Vec::new();
    let mut reader = engine.reader().unwrap();
    let mut collect = |key: &[u8], value: &[u8]| {
        found.push((key.try_into().unwrap(), value.to_vec()));
        ControlFlow::Continue(())
    };
    reader.scan(&[0; 16], &mut collect).unwrap();
    found
}

/// The same calls on every engine, and the same answers.
#[test]
fn every_engine_keeps_what_it_is_given() {
    for kind in Kind::value_variants() {
        let dir = tempfile::tempdir().unwrap();
        let open = || kind.open(dir.path(), CACHE_BYTES, false).unwrap();
        let mut engine = open();
        assert_eq!(contents(&*engine), [], "{kind:?}");
        engine
            .load(&mut [5, 3, 9].map(|n| pair(n, 0, BYTES)).into_iter())
            .unwrap();
        let (key, value) = pair(3, 1, BYTES);
        engine.put(&key, &value).unwrap();
        engine
            .put_batch(&[pair(7, 0, BYTES), pair(1, 0, BYTES)])
            .unwrap();
        let expected = [(1, 0), (3, 1), (5, 0), (7, 0), (9, 0)].map(|(n, v)| pair(n, v, BYTES));
        assert_eq!(contents(&*engine), expected, "{kind:?}");
        engine.compact().unwrap();
        engine.close().unwrap();

        let engine = open();
        assert_eq!(contents(&*engine), expected, "{kind:?} opened again");
        let mut reader = engine.reader().unwrap();
        let mut shown = Vec::new();
        let mut show = |value: &[u8]| shown.push(value.to_vec());
        assert!(reader.get(&expected[2].0, &mut show).unwrap());
        assert!(!reader.get(&pair(4, 0, BYTES).0, &mut show).unwrap());
        let keys = [expected[0].0, pair(4, 0, BYTES).0, expected[1].0];
        reader.multi_get(&keys, &mut show).unwrap();
        assert_eq!(
            shown,
            [2, 0, 1].map(|at| expected[at].1.clone()),
            "{kind:?}"
        );
    }
}

#[test]
fn loading_in_order_gives_the_same() {
    for kind in Kind::value_variants() {
        let dir = tempfile::tempdir().unwrap();
        let engine = kind.open(dir.path(), CACHE_BYTES, false).unwrap();
        let pairs: Vec<_> = (0..3000).map(|n| pair(n, 0, BYTES)).collect();
        engine.load_sorted(&mut pairs.clone().into_iter()).unwrap();
        assert!(contents(&*engine) == pairs, "{kind:?}");
        engine.close().unwrap();
        let engine = kind.open(dir.path(), CACHE_BYTES, false).unwrap();
        assert!(contents(&*engine) == pairs, "{kind:?} opened again");
    }
}

#[test]
fn every_engine_has_a_version() {
    for kind in Kind::value_variants() {
        assert!(!kind.version().contains('?'), "{}", kind.version());
    }
}
