//! Running one seed, and what came of it.

use std::cell::RefCell;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::violation::Violation;
use crate::world::World;

/// How a seed is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Whether the lines of the trace are kept.
    pub trace: bool,
    /// How far off all dates are, in milliseconds. Decisions must not depend on it.
    pub wall_shift_ms: i64,
    /// The fault that is planted.
    #[cfg(feature = "planted")]
    pub bug: Option<outlast_engine::planted::Bug>,
}

/// What happened in a seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What did not hold, if anything.
    pub violation: Option<Violation>,
    /// A number of all that happened: equal when the same happened.
    pub trace_hash: u64,
    /// A number of all that was decided: outcomes, epochs, promotions.
    pub decisions_hash: u64,
    /// How often what happened.
    pub counts: Counts,
    /// What happened, line by line, if it was kept.
    pub lines: Vec<String>,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often what happened, in one seed or in many.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl Counts {
            /// Names and numbers, for a table.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counts! {
    /// Events that were handled.
    steps,
    /// Commits that were answered OK.
    commits_ok,
    /// Commits that failed.
    commits_failed,
    /// Commits whose end is unknown to their client.
    commits_unknown,
    /// Reads of a profile.
    reads,
    /// Reads of a profile that has expired.
    expired,
    /// Looks at states of the past.
    recalled,
    /// Ranges of keys that clients deleted.
    ranges_deleted,
    /// Keyspaces that were dropped.
    keyspaces_dropped,
    /// Backups of which a node was made.
    restored,
    /// Times when log time stood still, and an operator let it go on.
    time_confirmed,
    /// Losses of power.
    power_cuts,
    /// Losses of power while the node was starting.
    nested_cuts,
    /// Stretches of logs that were compacted.
    compactions,
    /// Starts without the index that there was.
    indexes_lost,
    /// Deaths of a process.
    kills,
    /// Starts of a process.
    starts,
    /// Errors of the disk that poisoned a log.
    poisoned,
    /// Links that came to be.
    links,
    /// Standbys that attached.
    attached,
    /// Tails that a restarted primary fetched back.
    fetched_back,
    /// Tails that were put aside.
    quarantined,
    /// Standbys that withdrew a while before they were promoted.
    withdrawn,
    /// Promotions.
    promoted,
    /// Promotions that were refused.
    refused,
    /// Epochs that an operator let begin without the standby.
    resumed_alone,
    /// Nodes that were fenced.
    fenced,
    /// Nodes that ended in a conflict.
    conflicts,
    /// Tails that a crash tore.
    torn_tails,
    /// Policies that an operator set.
    policies,
    /// Answers that a promise bound.
    bound_answers,
    /// Suspensions that took effect.
    suspended,
    /// Processes that stood still.
    pauses,
    /// Promotions that certified a bound.
    bounded,
    /// Promotions that called the primary fenced by its lease.
    fenced_by_lease,
    /// Logs in which a bit was flipped.
    rotten,
    /// Starts that were refused because of it.
    rot_refused,
    /// Starts that did not look at it, and a check that did.
    rot_checked,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed. A panic of the code under test is a violation like any other.
#[must_use]
pub fn run(seed: u64, options: Options) -> Report {
    catch_quietly();
    #[cfg(feature = "planted")]
    outlast_engine::planted::plant(options.bug);
    let mut world = World::new(seed, options);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    #[cfg(feature = "planted")]
    outlast_engine::planted::plant(None);
    let violation = match outcome {
        Ok(checked) => checked.err(),
        Err(_) => {
            let what = PANIC.take().unwrap_or_else(|| "no words".to_owned());
            Some(Violation::new("panic", what))
        }
    };
    let (counts, decisions_hash) = (world.counts, world.decisions);
    let trace = world.into_trace();
    Report {
        seed,
        violation,
        trace_hash: trace.hash(),
        decisions_hash,
        counts,
        lines: trace.into_lines(),
    }
}

/// Keeps what a panic says for the report, and prints nothing.
fn catch_quietly() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANIC.set(Some(info.to_string()));
        }));
    });
}
