//! What the program tells people while it runs: tracing, on stderr.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

/// How much it tells, and how.
#[derive(Debug, Args)]
pub(crate) struct Logging {
    /// Tell more; -vv and -vvv tell still more. RUST_LOG says it exactly
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Tell errors only, and show no progress
    #[arg(long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// The form of what is told on stderr
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        env = "OUTLAST_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

impl Logging {
    /// From here on, what the crates trace appears.
    pub(crate) fn start(&self) {
        let default = Directive::from(self.level());
        let filter = EnvFilter::builder()
            .with_default_directive(default)
            .from_env_lossy();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(colours(&io::stderr()))
            // A closed stderr is no reason to fail.
            .log_internal_errors(false);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
    }

    /// Whether to show progress; only a terminal ever does.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    fn level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::ERROR,
            (false, 0) => Level::WARN,
            (false, 1) => Level::INFO,
            (false, 2) => Level::DEBUG,
            (false, _) => Level::TRACE,
        }
    }
}

/// Only a terminal gets colours, and not if NO_COLOR is set to anything.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
