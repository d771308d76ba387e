//! `outlast bench`: measuring.

mod compare;
mod floors;

use clap::Subcommand;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;

/// Measure, and compare what was measured
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Floors(floors::Floors),
    Compare(compare::Compare),
}

impl Bench {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Floors(floors) => floors.run(global),
            Self::Compare(compare) => compare.run(global),
        }
    }
}
