//! A deterministic simulator of a pair, and the checkers that judge it.
//!
//! One seed, one thread. Two nodes run the real log, store, recovery, background steps, sender,
//! receiver, gate, promotion and fences; the disk, the line between them, their clocks and their
//! operators are simulated, and whatever can go wrong with those does, as drawn from the seed. The
//! same seed always does the same: a failing one is replayed by its number.
//!
//! In about half of the seeds something is promised about loss: operators set policies, tighten and
//! loosen them, suspend the promise and resume it, and promote the standby for a loss that they
//! accept, or at the first moment at which its silence fences the primary; processes stand still
//! for longer than the lease; and clocks run as wrong as a lease allows, but no more.
//! In every sixteenth seed the standby that takes over withdraws in one event and is promoted in
//! another, and the primary, which stood still, goes on in between.
//!
//! ```text
//! plan ─→ world ─┬→ node a: process (store, session, follower) ─→ disk in memory, own clocks
//!                ├→ line: links, latency, cuts
//!                ├→ node b
//!                └→ clients, readers, operators ─→ ledger
//! after every event: observer (frames ─→ oracle), reader (change feed ─→ model), positions
//! ```
//!
//! Simulated time goes from event to event. A seed has two phases: first faults under load, then
//! all faults stop and the pair must come to rest with equal logs and states (or stand fenced, or
//! in a conflict that an operator brought about).
//!
//! # Invariants and who checks them
//! | | where |
//! |---|---|
//! | I1 durability | `lives`: what was fsynced is there after every start; `ledger`: contents |
//! | I2 one history | `oracle`: every frame of every log against the one that its writer formed |
//! | I3 sync | `promise`: what is answered while nothing may be lost is durable on the standby |
//! | I4 bounded | `promise`: each answer, by what the standby really holds, and the lease |
//! | I5 certified | `promise`: what is lost, to a zombie too; FENCED; notes before echoes |
//! | I6 one writer | `settle`: who answers OK under which epoch, and nobody who is fenced |
//! | I7 whole batches | `reader`: the three keys of a profile are read as one |
//! | I8 determinism | opening twice gives the same; equal logs, equal states at the end |
//! | I9 real states | `reader`: every read against the state that the change feed describes |
//! | I10 no silent step back | `clients`: what a node says of a receipt is so |
//! | I12 checked bytes | `oracle`: no log holds a frame that its writer never formed |
//! | I13 one outcome | `ledger` |
//! | I14 nothing lost | `settle`: tails are cut only once kept aside, and for an operator's act |
//! | I15 liveness | `rest`: nothing is behind, writes go on, and what is promised stands again |
//! | I16 bounded | `promise`: what waits for the gate stays below its window |
//! | I17 no clock | the same seed under other dates takes the same decisions |

mod clock;
mod ledger;
mod network;
mod node;
mod observer;
mod oracle;
mod plan;
#[cfg(feature = "planted")]
pub mod planted;
mod process;
mod promise;
mod reader;
mod report;
mod trace;
mod violation;
mod world;

pub use report::{Counts, Options, Report, run};
pub use violation::Violation;
