//! Where a sender stands: plain data, for operators and tests.

use outlast_engine::format::Lsn;

use super::{Phase, Sender};
use crate::dropped::Dropped;
use crate::points::Position;
use crate::time::MonoTime;

/// Where a sender stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SenderStatus {
    /// What it is doing.
    pub phase: SenderPhase,
    /// End of the data handed out.
    pub sent: Lsn,
    /// Data handed out and not acknowledged as received, in bytes.
    pub in_flight_bytes: u64,
    /// What the standby acknowledged in this session, once it has.
    pub received: Option<Position>,
    /// What it has durable.
    pub replicated: Option<Position>,
    /// What its readers see.
    pub applied: Option<Position>,
    /// When the newest echoed heartbeat of this session was formed.
    pub contact: Option<MonoTime>,
    /// What was dropped.
    pub dropped: Dropped,
}

/// What a sender is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SenderPhase {
    /// It waits for the answer to its Hello.
    #[default]
    Greeting,
    /// The standby puts its forked tail aside.
    Cutting,
    /// The attachment is being noted here, or accepted there.
    Attaching,
    /// A standby is attached.
    Shipping,
    /// The lost tail is on its way back.
    Fetching,
    /// The session is over.
    Over,
}

impl Sender {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> SenderStatus {
        let idle = |phase| SenderStatus {
            phase,
            dropped: self.dropped,
            ..SenderStatus::default()
        };
        match &self.phase {
            Phase::Greeting => idle(SenderPhase::Greeting),
            Phase::Cutting(_) => idle(SenderPhase::Cutting),
            Phase::Noting(_) => idle(SenderPhase::Attaching),
            Phase::Fetching(_) => idle(SenderPhase::Fetching),
            Phase::Over => idle(SenderPhase::Over),
            Phase::Shipping(shipping) => SenderStatus {
                dropped: self.dropped,
                ..shipping.status()
            },
        }
    }
}
