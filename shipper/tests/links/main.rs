//! Links between real endpoints on loopback: what arrives, what is held back, and who is let in.

// What helpers of a test unwrap, index and cast is known to hold, as in the tests themselves.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod canary;
mod floors;
mod harness;
mod lifetime;
mod lossy;
mod pressure;
mod rogue;
mod transfer;
mod trust;
