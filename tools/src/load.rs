//! Loading batches from JSON lines into a running node: many in flight, their order kept.

mod gate;
mod input;
mod ledger;
mod pump;

pub use input::{Batches, InputError, LoadBatch, Operation};
pub use ledger::{Ledger, LedgerLine};
pub use pump::{Acknowledged, End, Loaded, Options, load};
