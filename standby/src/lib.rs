//! A node of a pair: following, replay, promotion, fencing, status and the control socket.
//!
//! This is the one crate that a service adds: it re-exports the engine.

// So that tests inside and outside share what they need.
#[cfg(test)]
extern crate self as outlast_standby;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

mod backup;
pub mod certificate;
pub mod config;
pub mod control;
mod dir;
pub mod drive;
mod error;
mod follow;
mod hook;
mod http;
mod init;
mod lag;
mod node;
mod promise;
mod promotion;
mod repair;
mod resolve;
mod roles;
pub mod status;
pub mod testing;

pub use backup::{checkpoint_offline, restore};
pub use dir::NodeDir;
pub use error::{Error, Result};
pub use hook::{HookEnd, HookRun, RoleNow};
pub use init::{Card, NewNode, card, init};
pub use node::{Node, promote_offline};
pub use outlast_engine as engine;
pub use outlast_proto as proto;
pub use repair::{Repair, RepairFrom, RepairOptions, repair_offline};
pub use resolve::{Resolution, ResolveOptions, ResolveOutcome};
