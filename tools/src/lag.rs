//! How far a standby is behind, and what a commit costs at each level, under open-loop load.
//!
//! The load does not wait for answers: [`Schedule`] says when each commit is *meant* to begin, and
//! [`Latencies`] counts from that moment, so a stall shows in every commit that it delayed and not
//! in one alone. [`LagSeries`] holds what was seen in regular samples over the run. [`LagReport`]
//! is the whole, for reading by programs, and [`draw`] makes a picture of it.
//!
//! [`run`] puts the load on a primary in this process, for which a [`Bed`] makes the pair;
//! [`socket`] puts it on one that runs already. [`catch_up`] measures a standby that was away.

mod bed;
mod catch_up;
mod cost;
mod load;
mod picture;
mod recorder;
mod report;
mod schedule;
mod series;
pub mod socket;

pub use bed::{Bed, BedSettings, cut};
pub use catch_up::{CatchUp, CatchUpSettings, catch_up};
pub use cost::{Cost, CostRow, CostRun, CostSettings, cost};
pub use load::{Load, Measured, run};
pub use picture::draw;
pub use recorder::{Latencies, Stage};
pub use report::{Achieved, BoundSettings, LagReport, LagSettings, ProcessUse, StageLatency};
pub use schedule::{Arrivals, Schedule};
pub use series::{ExposureSpread, LagSample, LagSeries, Spread};

#[cfg(test)]
pub(crate) use report::tests;
