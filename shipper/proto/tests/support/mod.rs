//! What the tests share: a log in memory, and a table with a primary and a standby on it.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a script that is wrong fails its test"
)]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

pub mod args;
pub mod log;
pub mod print;
pub mod script;
pub mod world;
