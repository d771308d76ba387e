//! A restarted primary takes back the tail that it lost and its standby kept.

use bytes::Bytes;
use outlast_engine::format::{Lsn, LsnRange};

use super::{Link, SenderOutput};
use crate::close::CloseReason;
use crate::config::Config;
use crate::facts::PrimaryFacts;
use crate::inflow::Inflow;
use crate::message::{Message, Welcome};
use crate::points::Position;
use crate::session::{Binding, RunHeader};

/// The session behind a Welcome whose log goes on where this one ends.
///
/// The tail is asked for in pieces of at most the window; the next piece is asked for when the last
/// one is written. It is complete when all of it is durable here.
#[derive(Debug)]
pub(super) struct Fetching {
    binding: Binding,
    inflow: Inflow,
    piece_bytes: u64,
    /// What was missing.
    range: LsnRange,
    /// What was asked for last.
    piece: LsnRange,
    visible_told: Lsn,
}

impl Fetching {
    pub(super) fn new(
        config: &Config,
        facts: &PrimaryFacts,
        binding: Binding,
        welcome: &Welcome,
        link: &mut Link,
    ) -> Self {
        let chain = facts.log.end;
        let mut fetching = Self {
            binding,
            inflow: Inflow::new(binding, chain, facts.identity.segment_size),
            piece_bytes: config.window_bytes.min(welcome.window_bytes),
            range: LsnRange::new(chain.lsn, welcome.end.lsn),
            piece: LsnRange::new(chain.lsn, chain.lsn),
            visible_told: welcome.visible_told,
        };
        fetching.ask(chain.lsn, link);
        fetching
    }

    /// The highest visible position that the standby was ever told.
    pub(super) const fn visible_told(&self) -> Lsn {
        self.visible_told
    }

    pub(super) fn on_run_start(&mut self, header: &RunHeader) -> Result<(), CloseReason> {
        self.inflow.begin_run(header).map(|_| ())
    }

    /// Answers whether the bytes belong to this session.
    pub(super) fn on_run_bytes(
        &mut self,
        bytes: Bytes,
        link: &mut Link,
    ) -> Result<bool, CloseReason> {
        if !self.inflow.in_bound_run() {
            return Ok(false);
        }
        let end = self.inflow.position().advance(bytes.len() as u64);
        let last_frame_end = self.piece.end.advance(self.inflow.frame_len_max());
        if end > last_frame_end.min(self.range.end) {
            return Err(CloseReason::Impossible("more than it was asked for"));
        }
        let runs = self.inflow.take(bytes).map_err(CloseReason::BadData)?;
        if runs.is_empty() {
            return Ok(true);
        }
        link.out.extend(runs.into_iter().map(SenderOutput::Append));
        link.out.push_back(SenderOutput::Sync);
        Ok(true)
    }

    /// The log ends at `position`: the next piece, if this one is complete.
    pub(super) fn on_appended(&mut self, position: Position, link: &mut Link) {
        if position.lsn >= self.piece.end && position.lsn < self.range.end {
            self.ask(position.lsn, link);
        }
    }

    /// What was fetched, once all of it is durable.
    pub(super) fn on_durable(&self, position: Position) -> Option<LsnRange> {
        (position.lsn >= self.range.end).then_some(self.range)
    }

    fn ask(&mut self, from: Lsn, link: &mut Link) {
        let end = self.range.end.min(from.advance(self.piece_bytes));
        self.piece = LsnRange::new(from, end);
        link.send(Message::Fetch {
            binding: self.binding,
            range: self.piece,
        });
    }
}
