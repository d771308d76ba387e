//! Steps in words.

use std::fmt;

use super::{Greeting, Log, Message, Step};

fn name(node: u8) -> &'static str {
    match node {
        0 => "A",
        1 => "B",
        _ => "C",
    }
}

impl fmt::Display for Log {
    /// The epoch of each frame.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.frames().is_empty() {
            return f.write_str("nothing");
        }
        f.write_str("epochs ")?;
        self.frames()
            .iter()
            .try_for_each(|epoch| write!(f, "{epoch}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Append { node } => write!(f, "{} forms a frame", name(node)),
            Self::Fsync { node } => write!(f, "{} fsyncs", name(node)),
            Self::Answer { node } => write!(f, "{} answers the next commit OK", name(node)),
            Self::Send(message) => write!(f, "{message} is sent"),
            Self::Arrive(message) => write!(f, "{message} arrives"),
            Self::Drop(message) => write!(f, "{message} is lost"),
            Self::Crash { node, kept } => {
                let what = if kept { "keeps" } else { "loses" };
                write!(
                    f,
                    "{} crashes, {what} what was not synced, and boots",
                    name(node)
                )
            }
            Self::Begin { node } => write!(f, "{} begins its epoch", name(node)),
            Self::Alone { node } => write!(f, "{} is told to go on alone", name(node)),
            Self::Promote { node } => write!(f, "{} is promoted", name(node)),
            Self::Restore { node, from } => {
                write!(
                    f,
                    "{} is made anew from a backup of {}",
                    name(node),
                    name(from)
                )
            }
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { to, greeting } => {
                let Greeting {
                    session, from, log, ..
                } = greeting;
                write!(
                    f,
                    "hello {session} from {} to {} ({log})",
                    name(*from),
                    name(*to)
                )
            }
            Self::Welcome {
                session, from, log, ..
            } => write!(f, "{}'s answer to hello {session} ({log})", name(*from)),
            Self::Refuse { session, from, .. } => {
                write!(f, "{}'s refusal of hello {session}", name(*from))
            }
            Self::Diverged { session, to } => {
                write!(
                    f,
                    "the proof for {} that the logs part (session {session})",
                    name(*to)
                )
            }
            Self::Data {
                session,
                to,
                resume,
                log,
            } => {
                let to = name(*to);
                write!(
                    f,
                    "the log for {to} from {resume} on ({log}, session {session})"
                )
            }
            Self::Ack {
                session,
                from,
                durable,
                ..
            } => write!(
                f,
                "{}'s acknowledgement of {durable} (session {session})",
                name(*from)
            ),
        }
    }
}
