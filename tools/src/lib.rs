//! What the `outlast` binary measures and breaks things with, callable in process.
//!
//! - [`relay`]: a UDP line that delays, loses, duplicates, reorders and cuts, from a seed.
//! - [`floor`]: what the disk under a directory can do at best, whatever the engine.
//! - [`lag`]: open-loop load, the recorders for its latency and lag, report and picture.
//! - [`load`]: batches from JSON lines into a running node.
//! - [`pair`]: two nodes as processes of their own on this machine, and what is done to them.
//! - [`drill`]: primaries that are lost under load, and what that cost against what was promised.
//! - [`model`], [`profiles`]: what a state must be, told without any code of the engine.
//! - [`report`]: reports on disk and the comparison of two of them.
//! - [`child`], [`machine`], [`process`], [`summary`] and [`units`]: what they share.
//! - [`exit`]: the exit codes of the binary, for programs that start it.

pub mod child;
pub mod drill;
pub mod exit;
pub mod floor;
pub mod lag;
pub mod load;
pub mod machine;
pub mod model;
pub mod pair;
pub mod process;
pub mod profiles;
pub mod relay;
pub mod report;
pub mod summary;
pub mod units;
