//! `outlast bench`: measuring.

mod bound;
mod catch_up;
mod compare;
mod floors;
mod lag;

use clap::Subcommand;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;

/// Measure, and compare what was measured
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Lag(lag::Lag),
    CatchUp(catch_up::CatchUp),
    Bound(bound::BoundCost),
    Floors(floors::Floors),
    Compare(compare::Compare),
}

impl Bench {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Lag(lag) => lag.run(global),
            Self::CatchUp(catch_up) => catch_up.run(global),
            Self::Bound(bound) => bound.run(global),
            Self::Floors(floors) => floors.run(global),
            Self::Compare(compare) => compare.run(global),
        }
    }
}
