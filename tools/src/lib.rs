//! What the `outlast` binary measures and breaks things with, callable in process.
//!
//! - [`relay`]: a UDP line that delays, loses, duplicates, reorders and cuts, from a seed.
//! - [`floor`]: what the disk under a directory can do at best, whatever the engine.
//! - [`lag`]: open-loop load, the recorders for its latency and lag, report and picture.
//! - [`report`]: reports on disk and the comparison of two of them.
//! - [`machine`], [`process`], [`summary`] and [`units`]: what they share.
//! - [`exit`]: the exit codes of the binary, for programs that start it.

pub mod exit;
pub mod floor;
pub mod lag;
pub mod machine;
pub mod process;
pub mod relay;
pub mod report;
pub mod summary;
pub mod units;
