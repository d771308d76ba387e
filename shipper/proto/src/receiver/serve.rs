//! A restarted primary takes its lost tail back from this standby.

use bytes::Bytes;
use outlast_engine::format::{ClusterId, Lsn, LsnRange};

use super::io::ReceiverOutput;
use crate::close::CloseReason;
use crate::config::Config;
use crate::message::Hello;
use crate::outflow::Outflow;
use crate::session::{Binding, RunHeader};

/// Answers to Fetch, one piece after the other. Invariant: pieces follow each other from the
/// primary's end to this log's, and none is longer than the window.
#[derive(Debug)]
pub(super) struct Serving {
    binding: Binding,
    outflow: Outflow,
    window_bytes: u64,
    /// All that the primary lacks.
    range: LsnRange,
    /// Where the piece that was asked for last ends.
    piece_end: Lsn,
}

impl Serving {
    pub(super) fn new(
        config: &Config,
        cluster: ClusterId,
        binding: Binding,
        hello: &Hello,
        own_end: Lsn,
    ) -> Self {
        let chain = hello.end.chain(cluster);
        Self {
            binding,
            outflow: Outflow::new(chain, config.window_bytes, config.run_bytes),
            window_bytes: config.window_bytes,
            range: LsnRange::new(chain.lsn, own_end),
            piece_end: chain.lsn,
        }
    }

    pub(super) const fn is_reading(&self) -> bool {
        self.outflow.is_reading()
    }

    /// All that the primary lacked, once the last of it was handed out.
    pub(super) fn served(&self) -> Option<LsnRange> {
        self.outflow
            .is_through(self.range.end)
            .then_some(self.range)
    }

    /// The primary asks for a piece, and has written everything before it.
    pub(super) fn on_fetch(&mut self, piece: &LsnRange) -> Result<(), CloseReason> {
        let follows = self.outflow.is_through(self.piece_end)
            && piece.start == self.outflow.sent().lsn
            && !piece.is_empty();
        if !follows {
            return Err(CloseReason::Impossible("a fetch out of order"));
        }
        if piece.end > self.range.end {
            return Err(CloseReason::Impossible("a fetch beyond the end"));
        }
        if piece.len_bytes() > self.window_bytes {
            return Err(CloseReason::Impossible("a fetch over the window"));
        }
        self.outflow.acknowledge(piece.start);
        self.piece_end = piece.end;
        Ok(())
    }

    pub(super) fn on_log_bytes(&mut self, from: Lsn, bytes: Bytes) -> Result<(), CloseReason> {
        self.outflow
            .accept_read(from, bytes)
            .map_err(CloseReason::OwnLogDamaged)
    }

    /// The data that may leave now.
    pub(super) fn next_data(&mut self) -> Option<ReceiverOutput> {
        let (first, bytes) = self.outflow.next_data()?;
        let binding = self.binding;
        Some(ReceiverOutput::Data(RunHeader { binding, first }, bytes))
    }

    /// The read that is due now.
    pub(super) fn next_read(&mut self) -> Option<ReceiverOutput> {
        let (from, max_bytes) = self.outflow.next_read(self.piece_end)?;
        Some(ReceiverOutput::Read { from, max_bytes })
    }
}
