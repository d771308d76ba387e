//! A quick range of seeds, and the simulator against itself.

// The helpers are part of the tests: what they did not expect fails the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU64, Ordering};

use outlast_sim::{Counts, Options, run};

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 400;

#[test]
fn every_invariant_holds_in_a_range_of_seeds() {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut counts = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return counts;
            }
            let report = run(seed, Options::default());
            if let Some(violation) = report.violation {
                panic!(
                    "seed {seed}: {violation}\nreplay: cargo run --release -p outlast-sim -- \
                     --seed {seed}"
                );
            }
            counts += report.counts;
        }
    };
    let counts = std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        let mut all = Counts::default();
        for worker in workers {
            all += worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        all
    });
    // What never happens is not tested either.
    for (name, count) in counts.rows() {
        let rare = ["conflicts", "quarantined", "time_confirmed"].contains(&name);
        assert!(rare || count > 0, "{name} never happened in {SEEDS} seeds");
    }
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in (0..SEEDS).step_by(25) {
        let options = Options {
            trace: true,
            ..Options::default()
        };
        let (one, other) = (run(seed, options), run(seed, options));
        assert_eq!(one.lines, other.lines, "seed {seed}");
        assert_eq!(one, other, "seed {seed}");
        let untraced = run(seed, Options::default());
        assert_eq!(one.trace_hash, untraced.trace_hash, "seed {seed}");
    }
}

#[test]
fn no_decision_depends_on_a_date() {
    let day_ms = 86_400_000;
    for seed in (3..SEEDS).step_by(20) {
        let [one, other] = [-400 * day_ms, 400 * day_ms].map(|wall_shift_ms| {
            let options = Options {
                wall_shift_ms,
                ..Options::default()
            };
            run(seed, options)
        });
        assert_eq!(one.decisions_hash, other.decisions_hash, "seed {seed}");
        assert_eq!(one.counts, other.counts, "seed {seed}");
    }
}

/// Each was a fault of the code under test once, as FOUND.md tells.
#[test]
fn what_was_found_once_stays_fixed() {
    for line in include_str!("../FOUND.md").lines() {
        let Some(seed) = line
            .strip_prefix("| ")
            .and_then(|rest| rest.split(" |").next())
            .and_then(|first| first.trim().parse::<u64>().ok())
        else {
            continue;
        };
        let report = run(seed, Options::default());
        assert_eq!(report.violation, None, "seed {seed}");
    }
}

#[cfg(feature = "planted")]
#[test]
fn planted_faults_are_found() {
    use outlast_sim::planted::{PLANTED, hunt};
    // The rest is hunted by the command that prints the table.
    let quick = PLANTED.iter().filter(|planted| planted.within <= 100);
    let mut hunted = 0;
    for planted in quick {
        assert!(hunt(planted, true).is_some(), "{planted:?} was not found");
        hunted += 1;
    }
    assert!(hunted >= 8, "only {hunted}");
}
