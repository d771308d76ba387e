//! The control socket: how the command line and other programs talk to a running node.

mod client;
mod commits;
mod outbox;
pub mod protocol;
mod reads;
pub(crate) mod server;

pub use client::{Answers, Client, next};
pub use reads::digest;
