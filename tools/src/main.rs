//! `outlast`, the one binary: everything that an operator or somebody who measures needs.
//!
//! What a program reads goes to stdout, everything for people to stderr; [`Exit`] lists the
//! exit codes.

mod cmd;
mod failure;
mod logging;
mod node;
mod output;
mod place;
mod signals;

use std::process::ExitCode;

use clap::{Args, Parser};

use cmd::Command;
use logging::Logging;
use outlast_tools::exit::Exit;
use output::Output;
use place::Place;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.global.logging.start();
    let exit = match cli.command.run(&cli.global) {
        Ok(exit) => exit,
        Err(failure) => failure.report(),
    };
    exit.into()
}

/// A storage engine that outlasts the building it runs in.
#[derive(Debug, Parser)]
#[command(name = "outlast", version, after_help = Exit::HELP, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    logging: Logging,
}
