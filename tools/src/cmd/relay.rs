//! `outlast relay`: a UDP line with faults, steered over stdin while it runs.

use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use outlast_tools::exit::Exit;
use outlast_tools::relay::{self, Command, LineCounts, Lines, RelayHandle, RelayStats, Settings};
use outlast_tools::report::SCHEMA;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::Global;
use crate::failure::Failure;

/// Put a bad line between two UDP endpoints: delay, loss, cuts, from a seed
///
/// Prints the address to send to as its first line, passes everything on to --to, and back to each
/// client. Up is towards --to. Every value can be given for one direction: --loss up=5%,down=1%.
/// While it runs, lines on stdin change it, and each is answered by a line: cut up, heal,
/// delay 20ms, loss down=5%, rate 50Mbit/s, stats, quit. It ends with its statistics, on quit,
/// SIGTERM or SIGINT.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outlast relay --to 127.0.0.1:7001 --delay 1ms --jitter 0.2ms --loss 0.1%
  outlast relay --to 127.0.0.1:7001 --listen 127.0.0.1:7000 --rate 200Mbit/s --cut up")]
pub(crate) struct Relay {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Where to pass on to
    #[arg(long, value_name = "ADDRESS")]
    to: SocketAddr,

    /// How long every datagram is under way, one way
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = setting("delay"))]
    delay: Command,

    /// The delay varies by up to this much either way; this alone reorders nothing
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = setting("jitter"))]
    jitter: Command,

    /// How many datagrams vanish
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = setting("loss"))]
    loss: Command,

    /// How many datagrams arrive twice
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = setting("duplicate"))]
    duplicate: Command,

    /// How many datagrams are held back, so that later ones overtake them
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = setting("reorder"))]
    reorder: Command,

    /// For how long those are held back
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = setting("reorder-by"))]
    reorder_by: Command,

    /// How fast the line is, as 200Mbit/s or 25MB/s of UDP payload
    #[arg(long, value_name = "RATE", default_value = "none", value_parser = setting("rate"))]
    rate: Command,

    /// How much may wait for a line with a rate; what does not fit is dropped; auto is 50 ms of it
    #[arg(long, value_name = "BYTES", default_value = "auto", value_parser = setting("queue"))]
    queue: Command,

    /// What is cut from the beginning: none, up, down or both
    #[arg(long, value_name = "WHICH", default_value = "none", value_parser = setting("cut"))]
    cut: Command,

    /// What the fate of each datagram is drawn from: the same seed gives the same fates
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// End when stdin ends
    #[arg(long)]
    until_eof: bool,
}

/// A value on the command line reads as the same value on stdin does.
fn setting(name: &'static str) -> impl Fn(&str) -> Result<Command, String> + Clone {
    move |value| {
        format!("{name} {value}")
            .parse()
            .map_err(|error: relay::CommandError| error.to_string())
    }
}

/// A line on stdout.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: u32,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// What it says.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'a> {
    /// The first.
    Listening {
        address: SocketAddr,
        to: SocketAddr,
        seed: u64,
        lines: &'a Lines,
    },
    /// The answer to a change.
    Changed { lines: &'a Lines },
    /// The answer to `stats`, and the last of all.
    Stats { stats: &'a RelayStats },
    /// The answer to what was not understood.
    Error { message: &'a str },
}

impl Event<'_> {
    fn text(&self) -> String {
        match self {
            Self::Listening { address, .. } => address.to_string(),
            Self::Changed { lines, .. } => format!("ok {lines}"),
            Self::Stats { stats, .. } => format!(
                "stats up {} under_way {} | down {} under_way {} | clients {} kernel_dropped {}",
                counts(&stats.up),
                stats.up_under_way,
                counts(&stats.down),
                stats.down_under_way,
                stats.clients,
                stats.kernel_dropped
            ),
            Self::Error { message, .. } => format!("error: {message}"),
        }
    }
}

fn counts(counts: &LineCounts) -> String {
    format!(
        "offered {} delivered {} lost {} cut {} queue_full {} duplicated {} reordered {} unsent {}",
        counts.offered,
        counts.delivered,
        counts.lost,
        counts.cut,
        counts.queue_full,
        counts.duplicated,
        counts.reordered,
        counts.unsent
    )
}

impl Relay {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let mut lines = Lines::default();
        let settings = [
            self.delay,
            self.jitter,
            self.loss,
            self.duplicate,
            self.reorder,
        ];
        let more = [self.reorder_by, self.rate, self.queue, self.cut];
        settings
            .into_iter()
            .chain(more)
            .for_each(|setting| setting.apply(&mut lines));
        let settings = Settings {
            listen: self.listen,
            to: self.to,
            seed: self.seed,
            lines,
        };
        let relay = relay::spawn(settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve(relay, global))
    }

    /// Obeys stdin until something ends it.
    async fn serve(&self, mut relay: RelayHandle, global: &Global) -> Result<Exit, Failure> {
        // First of all: whoever has read the address may end it.
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let (address, to, seed) = (relay.address(), self.to, self.seed);
        let lines = relay.lines();
        tell(
            global,
            &Event::Listening {
                address,
                to,
                seed,
                lines,
            },
        )?;
        let mut look = tokio::time::interval(LOOK);
        let mut stdin = Some(stdin_lines());
        loop {
            let next = async {
                match &mut stdin {
                    Some(lines) => lines.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = next => match line {
                    Some(line) => {
                        if obey(&line, &mut relay, global)? == Next::End {
                            break;
                        }
                    }
                    None if self.until_eof => break,
                    None => {
                        tracing::info!("stdin has ended; the relay goes on until SIGTERM");
                        stdin = None;
                    }
                },
                _ = terminated.recv() => break,
                _ = interrupted.recv() => break,
                // Fails once the relay has stopped by itself.
                _ = look.tick() => drop(relay.stats()?),
            }
        }
        tell(
            global,
            &Event::Stats {
                stats: &relay.stats()?,
            },
        )?;
        Ok(Exit::Ok)
    }
}

const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

fn obey(line: &str, relay: &mut RelayHandle, global: &Global) -> Result<Next, Failure> {
    match line.parse() {
        Ok(Command::Quit) => return Ok(Next::End),
        Ok(Command::Stats) => {
            tell(
                global,
                &Event::Stats {
                    stats: &relay.stats()?,
                },
            )?;
        }
        Ok(change) => {
            relay.change(|lines| change.apply(lines))?;
            tell(
                global,
                &Event::Changed {
                    lines: relay.lines(),
                },
            )?;
        }
        Err(error) => {
            tell(
                global,
                &Event::Error {
                    message: &error.to_string(),
                },
            )?;
        }
    }
    Ok(Next::GoOn)
}

fn tell(global: &Global, event: &Event<'_>) -> Result<(), Failure> {
    let schema = SCHEMA;
    global
        .output
        .event(&Line { schema, event }, || event.text())
}

/// The lines of stdin. Its thread may wait for ever, and ends with the process.
fn stdin_lines() -> mpsc::UnboundedReceiver<String> {
    let (lines, received) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let stdin = std::io::stdin().lock().lines();
        for line in stdin
            .map_while(Result::ok)
            .filter(|line| !line.trim().is_empty())
        {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    received
}
