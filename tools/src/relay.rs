//! A UDP line with faults: it delays, loses, duplicates, reorders, slows down and cuts.
//!
//! Each client that sends to the relay's address gets a socket of its own towards the destination,
//! so several connections can share the line. *Up* is from the clients to the destination, *down*
//! is back. The fate of every datagram is decided by a [`Line`], which is pure: the same seed, the
//! same settings and the same order of datagrams give the same fates. Around it is one thread with
//! sockets and a heap of what is under way.
//!
//! ```no_run
//! # use outlast_tools::{relay, units::Share};
//! # fn main() -> Result<(), relay::RelayError> {
//! let mut relay = relay::spawn(relay::Settings::plain("127.0.0.1:7001".parse().expect("address")))?;
//! println!("connect to {}", relay.address());
//! relay.change(|lines| lines.up.cut = true)?; // from here on nothing reaches the destination
//! relay.change(|lines| lines.up.cut = false)?;
//! relay.change(|lines| lines.down.loss = Share::percent(5))?;
//! # Ok(())
//! # }
//! ```

mod clients;
mod command;
mod handle;
mod held;
mod line;
mod settings;
mod shell;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

pub use command::{Command, CommandError};
pub use handle::{RelayError, RelayHandle, spawn};
pub use line::{Cause, Fate, Line, LineCounts};
pub use settings::{LineSettings, Lines, Settings};
pub use shell::RelayStats;
