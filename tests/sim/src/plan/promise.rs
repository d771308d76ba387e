//! What is to become of the promise about loss, drawn beside the rest from numbers of its own: a
//! seed without a promise does what it did before there was any.

use std::time::Duration;

use fastrand::Rng;
use outlast_proto::{Action, Bound, Policy};

use super::{Act, MS, Plan};
use crate::clock::RATE_ONE_PPM;

/// How far a clock may run wrong where a lease rests on it, in parts per million.
const RATE_ERROR_PPM: u64 = 1_000;
/// Keeps these numbers apart from those that the rest is drawn from.
const SALT: u64 = 0x5afe_b0bd_1ea5_e5ed;

/// How gates work in a seed, and how long leases are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PromisePlan {
    /// Most bytes of log that wait for the gate.
    pub(crate) window_bytes: u64,
    /// Whether answers are slowed down as the bound comes near.
    pub(crate) slope: bool,
    /// How much longer data is on its way than messages: a thin line, on which they go first.
    pub(crate) thin_ns: u64,
    /// Whether the standby withdraws in one moment and is promoted in another, and the primary
    /// stands still meanwhile instead of being cut off.
    pub(crate) withdraws_first: bool,
    pub(crate) lease: Duration,
}

/// Which loss an operator accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accept {
    /// Whatever it is.
    Anything,
    /// What the node's log proves, if anything.
    Proven,
}

/// Draws whether something is promised in this seed, and what happens about it.
pub(super) fn add(seed: u64, plan: &mut Plan) {
    let rng = &mut Rng::with_seed(seed ^ SALT);
    if !plan.pair || rng.u8(..100) >= 55 {
        return;
    }
    let lease_ms = *rng
        .choice(&[200, 250, 400, 400, 1_000, 2_000])
        .unwrap_or(&400);
    let promise = PromisePlan {
        window_bytes: *rng.choice(&[2_000, 8_000, 40_000]).unwrap_or(&8_000),
        slope: rng.bool(),
        thin_ns: *rng.choice(&[0, 0, 20, 150]).unwrap_or(&0) * MS,
        // Not drawn, so that all other seeds do what they did before.
        withdraws_first: seed % 16 == 11,
        lease: Duration::from_millis(lease_ms),
    };
    let worst = [RATE_ONE_PPM - RATE_ERROR_PPM, RATE_ONE_PPM + RATE_ERROR_PPM];
    plan.rates_ppm = match rng.u8(..4) {
        0 | 1 => worst,
        2 => [worst[1], worst[0]],
        _ => [0; 2].map(|_| rng.u64(worst[0]..=worst[1])),
    };
    if rng.bool() {
        plan.latency_ns = rng.u64(50_000..MS);
    }
    let chaos_ns = plan.chaos_ns;
    let first = rng.u64(5 * MS..150 * MS);
    let loose = rng.u8(..4) == 0;
    let set = if loose {
        promise.set_loose()
    } else {
        promise.set(rng)
    };
    plan.acts.push((first, set));
    let most = if loose { 2 } else { 6 };
    for _ in 0..rng.u8(..most) {
        let at = rng.u64(first..chaos_ns);
        let act = promise.act(rng);
        plan.acts.push((at, act));
    }
    let at = rng.u64(first + 100 * MS..first + 700 * MS);
    let taken_at = match rng.u8(..8) {
        0 => {
            let lasts_ms = rng.u64(50..400);
            plan.acts.push((at, Act::Suspend { lasts_ms }));
            Some(at + rng.u64(1..150) * MS)
        }
        1 => {
            plan.acts.push((at, Act::ResumeAlone(0)));
            Some(at + rng.u64(400..1_200) * MS)
        }
        2..6 => Some(at),
        _ => None,
    };
    if let Some(taken_at) = taken_at {
        plan.acts.push((taken_at, PromisePlan::take_over(rng)));
        // Long enough for any lease to run out.
        plan.chaos_ns = chaos_ns.max(taken_at + lease_ms * MS * 5 / 4 + 100 * MS);
    }
    plan.acts.sort_by_key(|(at, _)| *at);
    plan.promise = Some(promise);
}

impl PromisePlan {
    fn act(&self, rng: &mut Rng) -> Act {
        let lease_ns = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        match rng.u8(..14) {
            0..4 => self.set(rng),
            4..6 => Act::Suspend {
                lasts_ms: rng.u64(5..400),
            },
            6 => Act::ResumeProtection,
            7..9 => Act::Pause {
                node: rng.usize(..2),
                for_ns: rng.u64(lease_ns / 8..lease_ns * 2),
            },
            9..12 => Act::Cut {
                from: *rng
                    .choice(&[[true, false], [false, true], [true, true]])
                    .unwrap_or(&[true; 2]),
                for_ns: rng.u64(lease_ns / 4..lease_ns * 2),
            },
            _ => Act::PromoteFor {
                accept: *rng
                    .choice(&[Accept::Anything, Accept::Proven])
                    .unwrap_or(&Accept::Proven),
                down: rng.u8(..4) == 0,
                sick: rng.bool(),
            },
        }
    }

    fn take_over(rng: &mut Rng) -> Act {
        if rng.u8(..4) == 0 {
            return Act::PromoteFor {
                accept: Accept::Anything,
                down: false,
                sick: true,
            };
        }
        let from = *rng
            .choice(&[[true, true], [true, false], [false, true]])
            .unwrap_or(&[true; 2]);
        Act::TakeOver { from }
    }

    /// A bound that is never used up: the lease alone ends what is answered.
    fn set_loose(&self) -> Act {
        let policy = Policy::Bounded(Bound {
            bytes: None,
            commits: Some(1_000_000),
            time: None,
            lease: self.lease,
        });
        let action = Action::Stall;
        Act::SetPolicy { policy, action }
    }

    fn set(&self, rng: &mut Rng) -> Act {
        let policy = match rng.u8(..10) {
            0..2 => Policy::sync(self.lease),
            2 => Policy::Async,
            _ => Policy::Bounded(self.bound(rng)),
        };
        let action = if rng.u8(..4) == 0 {
            Action::Refuse
        } else {
            Action::Stall
        };
        Act::SetPolicy { policy, action }
    }

    fn bound(&self, rng: &mut Rng) -> Bound {
        let bytes = [0, 1, 300, 2_000, 20_000, 200_000];
        let commits = [0, 1, 2, 5, 40, 2_000];
        let times_ms = [1, 10, 50, 200];
        let which = rng.u8(1..8);
        let bytes = rng.choice(bytes).filter(|_| which & 1 > 0);
        let commits = rng.choice(commits).filter(|_| which & 2 > 0);
        let time = rng.choice(times_ms).filter(|_| which & 4 > 0);
        let lease = match rng.u8(..4) {
            0 => self.lease / 2,
            _ => self.lease,
        };
        Bound {
            bytes,
            commits,
            time: time.map(Duration::from_millis),
            // Twice the interval of heartbeats is the least that a node takes.
            lease: lease.max(Duration::from_millis(200)),
        }
    }
}
