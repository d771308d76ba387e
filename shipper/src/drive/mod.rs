//! The shell around the protocol's pure state machines: links below, a store behind, a clock
//! beside.

mod boot_clock;
mod gatekeeper;
mod reads;
mod repair;
mod ship;
mod shipping;
mod wire;

pub use boot_clock::boot_time;
pub use gatekeeper::{Gatekeeper, why_held};
pub use reads::{LogReads, read_frames};
pub use repair::{Answered, Arrival, Asking, RepairFailure, arrival, give};
pub use ship::{Ended, SessionEnd, Shipment, ship, sleep_until};
pub use shipping::{ShipHooks, ShipOutput, Shipping, primary_view, protection_point};
pub use wire::{Wire, WireEvent};
