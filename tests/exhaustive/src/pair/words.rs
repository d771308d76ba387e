//! Steps in words.

use std::fmt;

use super::{Message, Step};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append => f.write_str("the primary makes a frame durable"),
            Self::ReadClock => f.write_str("the gate reads its clock, and is stopped"),
            Self::Answer => f.write_str("the primary answers the next commit OK"),
            Self::PrimaryTick => f.write_str("the primary's clock moves on"),
            Self::StandbyTick => f.write_str("the standby's clock moves on"),
            Self::Send(message) => write!(f, "the primary sends {message}"),
            Self::Arrive(message) => write!(f, "{message} arrives"),
            Self::ArriveTwice(message) => write!(f, "{message} arrives, and will again"),
            Self::Drop(message) => write!(f, "{message} is lost"),
            Self::Fsync => f.write_str("the standby fsyncs, and acknowledges"),
            Self::PrimaryCrash => f.write_str("the primary crashes and boots"),
            Self::Alone => f.write_str("the primary is told to go on alone"),
            Self::StandbyCrash => f.write_str("the standby crashes and boots"),
            Self::Withdraw => f.write_str("the standby withdraws"),
            Self::Promote => f.write_str("the standby is promoted"),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { session, stamp, .. } => write!(f, "hello {session} (of tick {stamp})"),
            Self::Welcome {
                session, durable, ..
            } => {
                write!(f, "the answer to hello {session} (durable {durable})")
            }
            Self::Data { session, end } => write!(f, "the log up to {end} (session {session})"),
            Self::Ack { session, durable } => {
                write!(f, "the acknowledgement of {durable} (session {session})")
            }
            Self::Heartbeat { session, stamp, .. } => {
                write!(f, "the heartbeat of tick {stamp} (session {session})")
            }
            Self::Echo { session, stamp, .. } => {
                write!(f, "the echo of tick {stamp} (session {session})")
            }
        }
    }
}
