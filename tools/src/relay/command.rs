//! The lines that steer a running relay: `cut up`, `loss 5%`, `delay down=20ms`, `stats`.

use std::str::FromStr;
use std::time::Duration;

use super::settings::{LineSettings, Lines};
use crate::units::{PerDirection, Rate, Share, parse_bytes, parse_time};

/// What a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Which directions are cut; the others are not.
    Cut {
        /// From the clients to the destination.
        up: bool,
        /// From the destination to the clients.
        down: bool,
    },
    /// Another delay.
    Delay(PerDirection<Duration>),
    /// Another jitter.
    Jitter(PerDirection<Duration>),
    /// Another loss.
    Loss(PerDirection<Share>),
    /// Another share of copies.
    Duplicate(PerDirection<Share>),
    /// Another share of held-back datagrams.
    Reorder(PerDirection<Share>),
    /// How long those are held back.
    ReorderBy(PerDirection<Duration>),
    /// Another rate, or none.
    Rate(PerDirection<Option<Rate>>),
    /// Another queue in bytes, or the one that suits the rate.
    Queue(PerDirection<Option<u64>>),
    /// Says what has become of all datagrams so far.
    Stats,
    /// Ends the relay.
    Quit,
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommandError(String);

const COMMANDS: &str = "cut none|up|down|both, heal, delay TIME, jitter TIME, loss PERCENT, \
    duplicate PERCENT, reorder PERCENT, reorder-by TIME, rate RATE|none, queue BYTES|auto, stats, \
    quit (a value can be given for one direction: up=VALUE)";

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        let line = line.trim();
        let (verb, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim();
        let command = match (verb, value) {
            ("heal", "") => Ok(Self::Cut {
                up: false,
                down: false,
            }),
            ("stats", "") => Ok(Self::Stats),
            ("quit", "") => Ok(Self::Quit),
            ("heal" | "stats" | "quit", _) => Err(format!("`{verb}` takes no value")),
            ("cut", _) => parse_cut(value),
            ("delay", _) => PerDirection::parse(value, parse_delay).map(Self::Delay),
            ("jitter", _) => PerDirection::parse(value, parse_delay).map(Self::Jitter),
            ("loss", _) => PerDirection::parse(value, str::parse).map(Self::Loss),
            ("duplicate", _) => PerDirection::parse(value, str::parse).map(Self::Duplicate),
            ("reorder", _) => PerDirection::parse(value, str::parse).map(Self::Reorder),
            ("reorder-by", _) => PerDirection::parse(value, parse_delay).map(Self::ReorderBy),
            ("rate", _) => PerDirection::parse(value, parse_rate).map(Self::Rate),
            ("queue", _) => PerDirection::parse(value, parse_queue).map(Self::Queue),
            _ => Err(format!("`{verb}` is no command; there are: {COMMANDS}")),
        };
        command.map_err(CommandError)
    }
}

impl Command {
    /// Makes `lines` behave so; [`Command::Stats`] and [`Command::Quit`] change nothing.
    pub fn apply(self, lines: &mut Lines) {
        match self {
            Self::Cut { up, down } => {
                lines.up.cut = up;
                lines.down.cut = down;
            }
            Self::Delay(delay) => each(lines, delay, |line, delay| line.delay = delay),
            Self::Jitter(jitter) => each(lines, jitter, |line, jitter| line.jitter = jitter),
            Self::Loss(loss) => each(lines, loss, |line, loss| line.loss = loss),
            Self::Duplicate(share) => each(lines, share, |line, share| line.duplicate = share),
            Self::Reorder(share) => each(lines, share, |line, share| line.reorder = share),
            Self::ReorderBy(time) => each(lines, time, |line, time| line.reorder_by = time),
            Self::Rate(rate) => each(lines, rate, |line, rate| line.rate = rate),
            Self::Queue(bytes) => each(lines, bytes, |line, bytes| line.queue = bytes),
            Self::Stats | Self::Quit => {}
        }
    }
}

fn each<T>(lines: &mut Lines, values: PerDirection<T>, set: impl Fn(&mut LineSettings, T)) {
    if let Some(value) = values.up {
        set(&mut lines.up, value);
    }
    if let Some(value) = values.down {
        set(&mut lines.down, value);
    }
}

fn parse_cut(value: &str) -> Result<Command, String> {
    let (up, down) = match value {
        "none" => (false, false),
        "up" => (true, false),
        "down" => (false, true),
        "both" => (true, true),
        _ => return Err("cut what? write cut none, cut up, cut down or cut both".to_owned()),
    };
    Ok(Command::Cut { up, down })
}

/// No line keeps anything for longer.
const DELAY_MAX: Duration = Duration::from_secs(3600);

fn parse_delay(text: &str) -> Result<Duration, String> {
    let delay = parse_time(text)?;
    if delay > DELAY_MAX {
        return Err(format!("`{text}` is longer than an hour"));
    }
    Ok(delay)
}

fn parse_rate(text: &str) -> Result<Option<Rate>, String> {
    if text == "none" {
        Ok(None)
    } else {
        text.parse().map(Some)
    }
}

fn parse_queue(text: &str) -> Result<Option<u64>, String> {
    if text == "auto" {
        Ok(None)
    } else {
        parse_bytes(text).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(commands: &[&str]) -> Lines {
        let mut lines = Lines::default();
        for command in commands {
            command.parse::<Command>().unwrap().apply(&mut lines);
        }
        lines
    }

    #[test]
    fn commands_set_both_directions_or_one() {
        let lines = after(&[
            "delay 20ms",
            "  loss   up=5%,down=1%  ",
            "rate down=200Mbit/s",
            "queue 64KiB",
            "queue up=auto",
            "jitter 1ms",
            "jitter 0ms",
            "reorder 2%",
            "reorder-by up=3ms",
            "duplicate down=1%",
        ]);
        assert_eq!(
            lines.to_string(),
            "up delay 20ms loss 5% reorder 2% by 3ms | \
             down delay 20ms loss 1% duplicate 1% reorder 2% by 1ms rate 200Mbit/s queue 64.0 KiB"
        );
        assert_eq!(after(&["rate 1Mbit/s", "rate none"]), Lines::default());
    }

    #[test]
    fn a_cut_says_the_whole_and_heal_ends_it() {
        let cuts = |commands: &[&str]| {
            let lines = after(commands);
            (lines.up.cut, lines.down.cut)
        };
        assert_eq!(cuts(&["cut up"]), (true, false));
        assert_eq!(cuts(&["cut up", "cut down"]), (false, true));
        assert_eq!(cuts(&["cut both"]), (true, true));
        assert_eq!(cuts(&["cut both", "heal"]), (false, false));
        assert_eq!(cuts(&["cut both", "cut none"]), (false, false));
    }

    #[test]
    fn what_is_no_command_says_what_is() {
        let error = |line: &str| line.parse::<Command>().unwrap_err().to_string();
        assert!(error("cut").contains("cut both"));
        assert!(error("heal up").contains("takes no value"));
        assert!(error("loss 5").contains("percent"));
        assert!(error("delay 2h").contains("hour"));
        assert!(error("explode").contains("stats"));
        assert!(error("").contains("stats"));
    }
}
