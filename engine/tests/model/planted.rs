//! Faults that are planted to grade this test, the same cases in every run.

use std::cell::Cell;

use outlast_engine::planted::{Bug, plant};
use proptest::test_runner::{Config, TestRng, TestRunner};

use crate::case;
use crate::run::Case;

const PLANTED: &[Bug] = &[
    Bug::FlushLosesSome,
    Bug::NewestRunLast,
    Bug::SnapshotsForgotten,
    Bug::HorizonTooHigh,
    Bug::CompactionLosesNewest,
    Bug::DeleteLeavesEarly,
    Bug::DeleteGone,
    Bug::RangeDeleteForgotten,
    Bug::RangeDeleteGone,
    Bug::DropKeepsKeys,
    Bug::ExpiryByWallClock,
    Bug::ExpiryLate,
    Bug::ExpiredDropped,
];
const WITHIN: u32 = 2_000;

/// How many cases it takes to find a fault, the same in every run.
fn hunt(bug: Bug) -> Option<u32> {
    let config = Config {
        cases: WITHIN,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let tried = Cell::new(0);
    let outcome = TestRunner::new_with_rng(config, rng).run(&case(), |(setting, steps)| {
        tried.set(tried.get() + 1);
        plant(Some(bug));
        Case::run(setting, &steps);
        Ok(())
    });
    plant(None);
    outcome.is_err().then(|| tried.get())
}

#[test]
fn each_planted_fault_is_found() {
    let mut missed = Vec::new();
    for bug in PLANTED {
        match hunt(*bug) {
            Some(cases) => eprintln!("{bug:?}: found by case {cases}"),
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "not found within {WITHIN} cases: {missed:?}"
    );
}
