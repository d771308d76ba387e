//! The whole API against plain maps: every write, every read, every state that may be asked for,
//! with flushes, merges, compactions, crashes, restarts, lost indexes and clocks that move in
//! between.
//!
//! `OUTLAST_MODEL_CASES` says how many cases are tried. With the feature `planted` the model itself
//! is graded: by faults that it must find.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod clock;
mod model;
#[cfg(feature = "planted")]
mod planted;
mod run;
mod steps;

use proptest::collection::vec;
use proptest::prelude::*;

use run::{Case, Setting};
use steps::{Step, step};

/// Cases that are tried where nobody says how many.
const CASES: u32 = 5_000;

fn cases() -> u32 {
    let told = std::env::var("OUTLAST_MODEL_CASES");
    told.map_or(CASES, |told| told.parse().expect("a number of cases"))
}

fn setting() -> impl Strategy<Value = Setting> {
    let flush_after_entries = 1..12usize;
    let history_log_bytes = proptest::sample::select(&[0u64, 1_000, 20_000, 1 << 30][..]);
    let value_len = proptest::sample::select(&[1usize, 1, 800, 2_500][..]);
    (flush_after_entries, history_log_bytes, value_len).prop_map(
        |(flush_after_entries, history_log_bytes, value_len)| Setting {
            flush_after_entries,
            history_log_bytes,
            value_len,
        },
    )
}

fn case() -> impl Strategy<Value = (Setting, Vec<Step>)> {
    (setting(), vec(step(), 1..70))
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 5_000,
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases())
    })]

    #[test]
    fn whatever_happens_every_read_is_that_of_the_maps((setting, steps) in case()) {
        Case::run(setting, &steps);
    }
}
