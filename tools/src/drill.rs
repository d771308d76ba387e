//! Primaries that are lost under load, and what that cost against what was promised.
//!
//! A [`Drill`] plays rounds. Each makes a small pair whose line is a relay, promises something by
//! policy, lets several clients write, takes the primary away at a moment drawn from a seed (as
//! [`How`] says), promotes the standby with the binary, and lets the clients of the old primary go
//! on where it comes back. Meanwhile it notes what every client was told: a ledger outside of both
//! nodes. [`judge`] then compares that ledger, the promoted state and the certificate. It is pure,
//! knows nothing of the engine, and finds every way in which the three can disagree.

mod how;
mod judge;
mod line;
mod plan;
mod promise;
mod promotion;
mod round;
mod small_disk;
mod summary;
mod workload;
mod writers;

pub use how::How;
pub use judge::{Answered, Evidence, Loss, Promoted, Unit, Verdict, Violation, judge};
pub use promise::{Limits, Promise, PromiseError};
pub use promotion::can_do_without_network;
pub use round::{Drill, Played};
pub use summary::{FailedRound, LargestLoss, RoundSummary, Summary, Tightness, Times};
pub use workload::batch;
