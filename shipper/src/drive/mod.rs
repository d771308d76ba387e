//! The shell around the protocol's pure state machines: links below, a store behind, a clock
//! beside.

mod boot_clock;
mod reads;
mod ship;
mod wire;

pub use boot_clock::boot_time;
pub use reads::LogReads;
pub use ship::{Ended, ShipHooks, Shipment, primary_view, ship, sleep_until};
pub use wire::{Wire, WireEvent};
