//! The commands, one module each.

mod bench;
mod relay;

use clap::Subcommand;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Relay(Box<relay::Relay>),
    #[command(subcommand)]
    Bench(bench::Bench),
}

impl Command {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Relay(relay) => relay.run(global),
            Self::Bench(bench) => bench.run(global),
        }
    }
}
