//! Levels against what they promise: order, no version lost, and an end to merging.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::format::Lsn;

const MIB: u64 = 1 << 20;

fn run(first: u32, last: u32, len_bytes: u64, check: u32) -> RunMeta {
    let key = |n: u32| RunKey {
        keyspace: 1,
        key: format!("{n:08}").into_bytes(),
    };
    RunMeta {
        entries: 1,
        deletes: 0,
        keys: 1,
        len_bytes,
        first: key(first),
        last: key(last),
        lowest: Lsn(u64::from(check) * 10),
        highest: Lsn(u64::from(check) * 10 + 9),
        check,
        ceiling: Lsn(u64::MAX),
        expires_last_ms: 0,
    }
}

fn checks(runs: &[RunMeta]) -> Vec<u32> {
    runs.iter().map(|run| run.check).collect()
}

#[test]
fn few_flushed_runs_are_left_and_the_fourth_sends_all_down_with_what_they_overlap() {
    let below = vec![
        run(0, 9, 8 * MIB, 1),
        run(20, 29, 8 * MIB, 2),
        run(50, 59, 8 * MIB, 3),
    ];
    let mut levels = Levels::new(vec![Vec::new(), below]);
    for check in 4..7 {
        assert_eq!(levels.pick(), None);
        levels = levels.with_flushed(run(5, 25, MIB, check));
    }
    assert_eq!(levels.pick(), None);
    let levels = levels.with_flushed(run(5, 25, MIB, 7));
    let job = levels.pick().unwrap();
    assert_eq!((job.from, checks(&job.upper)), (0, vec![7, 6, 5, 4]));
    assert_eq!(checks(&job.lower), [1, 2]);
    assert_eq!((job.moves, job.lowest), (false, true));

    // A flush while it is merged stays.
    let levels = levels.with_flushed(run(0, 70, MIB, 8));
    let merged = levels.with_merged(&job, vec![run(0, 18, 9 * MIB, 9), run(19, 29, 9 * MIB, 10)]);
    assert_eq!(checks(&merged.levels()[0]), [8]);
    assert_eq!(checks(&merged.levels()[1]), [9, 10, 3]);
    let found = |n: u32| {
        let key = format!("{n:08}");
        let level = &merged.levels()[1];
        Levels::run_for(level, 1, key.as_bytes()).map(|run| run.check)
    };
    assert_eq!(
        [found(0), found(18), found(25)],
        [Some(9), Some(9), Some(10)]
    );
    assert_eq!([found(40), found(59), found(60)], [None, Some(3), None]);
}

#[test]
fn runs_that_overlap_nothing_move_without_being_rewritten() {
    let mut levels = Levels::default();
    for n in 0..4 {
        levels = levels.with_flushed(run(n * 10, n * 10 + 9, MIB, n));
    }
    let job = levels.pick().unwrap();
    assert!(job.moves && job.lowest);
    let moved = levels.with_merged(&job, job.upper.clone());
    assert_eq!(checks(&moved.levels()[1]), [0, 1, 2, 3]);
    assert!(moved.levels()[0].is_empty());

    let overlapping = levels.with_flushed(run(35, 45, MIB, 4)).pick().unwrap();
    assert!(!overlapping.moves);
}

#[test]
fn a_full_level_gives_the_run_that_rewrites_least() {
    let level_1 = (0..9)
        .map(|n| run(n * 10, n * 10 + 9, 8 * MIB, n))
        .collect();
    let level_2 = vec![
        run(0, 34, 8 * MIB, 20),
        run(46, 65, 4 * MIB, 21),
        run(66, 99, 8 * MIB, 22),
    ];
    let level_3 = vec![run(68, 69, 8 * MIB, 30)];
    let levels = Levels::new(vec![Vec::new(), level_1, level_2, level_3]);
    let job = levels.pick().unwrap();
    assert_eq!(
        (job.from, checks(&job.upper), checks(&job.lower)),
        (1, vec![4], vec![21])
    );
    assert!(job.lowest && !job.moves);
}

#[test]
fn what_a_lower_run_overlaps_below_counts_too() {
    let (level_1, level_2) = (vec![run(40, 49, 80 * MIB, 1)], vec![run(30, 60, MIB, 2)]);
    let level_3 = vec![run(55, 58, MIB, 3)];
    let job = Levels::new(vec![Vec::new(), level_1, level_2, level_3])
        .pick()
        .unwrap();
    assert!(
        !job.lowest,
        "the run of level 2 has keys that level 3 may hold, too"
    );
}

#[test]
#[should_panic(expected = "runs of a merge in level 0")]
fn a_merge_whose_runs_are_gone_is_a_bug() {
    let mut levels = Levels::default();
    for n in 0..4 {
        levels = levels.with_flushed(run(0, 9, MIB, n));
    }
    let job = levels.pick().unwrap();
    let made = vec![run(0, 9, 4 * MIB, 9)];
    let _ = levels
        .with_merged(&job, made.clone())
        .with_merged(&job, made);
}

/// What a merge of these makes: runs of 8 MiB over all their keys.
fn merge(job: &MergeJob<RunMeta>, check: &mut u32) -> Vec<RunMeta> {
    let all = || job.upper.iter().chain(&job.lower);
    let number = |key: &RunKey| {
        std::str::from_utf8(&key.key)
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let first = all().map(|run| number(&run.first)).min().unwrap();
    let last = all().map(|run| number(&run.last)).max().unwrap();
    let len_bytes: u64 = all().map(|run| run.len_bytes).sum();
    let count = (u32::try_from(len_bytes / (8 * MIB)).unwrap() + 1).min(last - first + 1);
    let edge = |n: u32| {
        first
            + u32::try_from(u64::from(last - first + 1) * u64::from(n) / u64::from(count)).unwrap()
    };
    let lowest = all().map(|run| run.lowest).min().unwrap();
    let highest = all().map(|run| run.highest).max().unwrap();
    let runs = (0..count).map(|n| {
        *check += 1;
        let run = run(
            edge(n),
            edge(n + 1) - 1,
            len_bytes / u64::from(count),
            *check,
        );
        RunMeta {
            lowest,
            highest,
            ..run
        }
    });
    runs.collect()
}

proptest! {
    #[test]
    fn merging_ends_loses_nothing_and_keeps_the_levels_in_bounds(
        flushes in vec((0u32..100_000, 0u32..50_000, 1u64..16), 1..120),
    ) {
        let mut levels = Levels::default();
        let mut check = 1000;
        let mut flushed = 0;
        for (first, width, mib) in flushes {
            flushed += mib * MIB;
            check += 1;
            levels = levels.with_flushed(run(first, first + width, mib * MIB, check));
            let mut merges = 0;
            while let Some(job) = levels.pick() {
                let upper: u64 = job.upper.iter().map(|run| run.len_bytes).sum();
                let before = levels.len_bytes();
                let made = if job.moves { job.upper.clone() } else { merge(&job, &mut check) };
                levels = levels.with_merged(&job, made);
                // But for what a division leaves over.
                prop_assert!(before - levels.len_bytes() < 1000 && upper > 0);
                merges += 1;
                prop_assert!(merges < 1000, "merging does not end");
            }
            prop_assert!(levels.levels()[0].len() < 4);
        }
        prop_assert!(flushed - levels.len_bytes() < MIB);
        while let Some(job) = levels.pick_to_compact() {
            let made = if job.moves { job.upper.clone() } else { merge(&job, &mut check) };
            levels = levels.with_merged(&job, made);
        }
        let filled = levels.levels().iter().filter(|level| !level.is_empty());
        prop_assert_eq!(filled.count(), 1);
        prop_assert!(levels.levels()[0].is_empty());
    }
}
