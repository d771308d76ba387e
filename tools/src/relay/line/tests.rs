//! Fates, exactly.

use super::*;
use crate::units::{Rate, Share};

fn line(settings: LineSettings) -> Line {
    Line::new(settings, Rng::with_seed(7))
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn arrival(fate: Fate) -> Duration {
    match fate {
        Fate::Delivered { at, .. } => at,
        Fate::Gone(cause) => panic!("gone: {cause:?}"),
    }
}

#[test]
fn plain_line_delivers_at_once() {
    let mut line = line(LineSettings::default());
    let fate = line.offer(ms(3), 1400);
    assert_eq!(
        fate,
        Fate::Delivered {
            at: ms(3),
            copy_at: None
        }
    );
}

#[test]
fn same_seed_same_fate() {
    let settings = LineSettings {
        delay: ms(10),
        jitter: ms(2),
        loss: Share::percent(10),
        duplicate: Share::percent(10),
        reorder: Share::percent(10),
        ..LineSettings::default()
    };
    let fates = |seed| {
        let mut line = Line::new(settings.clone(), Rng::with_seed(seed));
        (0..1000)
            .map(|n| line.offer(Duration::from_micros(n * 50), 100))
            .collect::<Vec<_>>()
    };
    assert_eq!(fates(1), fates(1));
    assert_ne!(fates(1), fates(2));
}

#[test]
fn directions_of_one_seed_differ() {
    let lossy = LineSettings {
        loss: Share::percent(50),
        ..LineSettings::default()
    };
    let (mut up, mut down) = Line::pair(lossy.clone(), lossy, 5);
    let fates = |line: &mut Line| (0..64).map(|_| line.offer(ms(0), 1)).collect::<Vec<_>>();
    assert_ne!(fates(&mut up), fates(&mut down));
}

#[test]
fn changing_one_setting_leaves_the_other_draws_alone() {
    let jittery = LineSettings {
        delay: ms(10),
        jitter: ms(5),
        ..LineSettings::default()
    };
    let steered = |steer: bool| {
        let mut line = line(jittery.clone());
        for n in 0..200_u64 {
            if steer && n == 50 {
                line.change(LineSettings {
                    loss: Share::ALL,
                    ..jittery.clone()
                });
            }
            if steer && n == 75 {
                line.change(LineSettings {
                    cut: true,
                    ..jittery.clone()
                });
            }
            if steer && n == 100 {
                line.change(jittery.clone());
            }
            if n < 100 {
                line.offer(ms(n * 100), 1);
            }
        }
        (100..200)
            .map(|n| line.offer(ms(n * 100), 1))
            .collect::<Vec<_>>()
    };
    assert_eq!(steered(false), steered(true));
}

#[test]
fn shares_come_out_as_asked() {
    let mut line = line(LineSettings {
        loss: Share::percent(20),
        duplicate: Share::percent(10),
        reorder: Share::percent(5),
        ..LineSettings::default()
    });
    for _ in 0..100_000 {
        line.offer(ms(0), 1);
    }
    let counts = line.counts();
    assert!((19_500..20_500).contains(&counts.lost), "{counts:?}");
    assert!(
        (7_700..8_300).contains(&counts.duplicated),
        "of 80,000: {counts:?}"
    );
    assert!(
        (3_800..4_200).contains(&counts.reordered),
        "of 80,000: {counts:?}"
    );
}

#[test]
fn jitter_stays_in_its_range_and_keeps_the_order() {
    let mut line = line(LineSettings {
        delay: ms(10),
        jitter: ms(4),
        ..LineSettings::default()
    });
    let mut apart = Vec::new();
    let mut last = Duration::ZERO;
    for n in 0..2000 {
        // Far apart first, so that the order limits nothing; then all at one time.
        let now = ms(if n < 1000 { n * 20 } else { 20_000 });
        let at = arrival(line.offer(now, 1));
        assert!(
            at >= last && (ms(6)..=ms(14)).contains(&(at - now)),
            "{n}: {:?}",
            at - now
        );
        last = at;
        apart.push(at - now);
    }
    assert!(
        apart[..1000].iter().min() < Some(&ms(7)) && apart[..1000].iter().max() > Some(&ms(13))
    );
}

#[test]
fn jitter_above_the_delay_never_travels_back_in_time() {
    let mut line = line(LineSettings {
        delay: ms(1),
        jitter: ms(4),
        ..LineSettings::default()
    });
    for n in 0..1000 {
        assert!(arrival(line.offer(ms(n * 20), 1)) >= ms(n * 20));
    }
}

#[test]
fn reordered_datagrams_are_overtaken() {
    let mut line = line(LineSettings {
        delay: ms(10),
        reorder: Share::percent(30),
        reorder_by: ms(2),
        ..LineSettings::default()
    });
    let arrivals: Vec<_> = (0..100).map(|n| arrival(line.offer(ms(n), 1))).collect();
    for (n, at) in (0..).zip(&arrivals) {
        assert!([ms(n + 10), ms(n + 12)].contains(at), "{n}: {at:?}");
    }
    assert!(!arrivals.is_sorted());
}

#[test]
fn a_shorter_delay_counts_at_once() {
    let mut line = line(LineSettings {
        delay: ms(10_000),
        ..LineSettings::default()
    });
    assert_eq!(arrival(line.offer(ms(0), 1)), ms(10_000));
    line.change(LineSettings {
        delay: ms(1),
        ..LineSettings::default()
    });
    assert_eq!(arrival(line.offer(ms(1), 1)), ms(2));
}

#[test]
fn a_copy_arrives_with_or_after_the_first() {
    let mut line = line(LineSettings {
        delay: ms(5),
        jitter: ms(5),
        duplicate: Share::ALL,
        ..LineSettings::default()
    });
    for n in 0..1000 {
        match line.offer(ms(n), 1) {
            Fate::Delivered {
                at,
                copy_at: Some(copy_at),
            } => assert!(copy_at >= at),
            other => panic!("not duplicated: {other:?}"),
        }
    }
}

#[test]
fn rate_spaces_datagrams_and_drops_the_tail() {
    let mut line = line(LineSettings {
        rate: Some(Rate::from_bits_per_s(8_000_000)), // 1,000 bytes a millisecond
        queue: Some(3_000),
        delay: ms(7),
        ..LineSettings::default()
    });
    let fates: Vec<_> = (0..5).map(|_| line.offer(ms(0), 1000)).collect();
    assert_eq!(arrival(fates[0]), ms(8));
    assert_eq!(arrival(fates[1]), ms(9));
    assert_eq!(arrival(fates[2]), ms(10));
    assert_eq!(fates[3], Fate::Gone(Cause::QueueFull));
    assert_eq!(fates[4], Fate::Gone(Cause::QueueFull));
    assert_eq!(
        arrival(line.offer(ms(1), 1000)),
        ms(11),
        "one left, so one fits"
    );
    assert_eq!(
        arrival(line.offer(ms(100), 500)),
        Duration::from_micros(107_500),
        "idle again"
    );
    assert_eq!(line.counts().queue_full, 2);
}

#[test]
fn a_queue_shorter_than_a_datagram_still_passes_one() {
    let rate = Rate::from_bits_per_s(8_000);
    let mut line = line(LineSettings {
        rate: Some(rate),
        queue: Some(0),
        ..LineSettings::default()
    });
    assert_eq!(arrival(line.offer(ms(0), 1000)), ms(1000));
    assert_eq!(line.offer(ms(1), 1000), Fate::Gone(Cause::QueueFull));
}

#[test]
fn the_default_queue_holds_fifty_milliseconds() {
    let rate = Rate::from_bits_per_s(200_000_000);
    let mut line = line(LineSettings {
        rate: Some(rate),
        ..LineSettings::default()
    });
    let accepted = (0..5000).filter(|_| matches!(line.offer(ms(0), 1250), Fate::Delivered { .. }));
    assert_eq!(accepted.count(), 1000);
}

#[test]
fn a_cut_line_carries_nothing() {
    let mut line = line(LineSettings {
        cut: true,
        ..LineSettings::default()
    });
    assert_eq!(line.offer(ms(0), 1), Fate::Gone(Cause::Cut));
    line.change(LineSettings::default());
    assert_eq!(arrival(line.offer(ms(1), 1)), ms(1));
    assert_eq!((line.counts().offered, line.counts().cut), (2, 1));
}
