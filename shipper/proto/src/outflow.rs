//! From the log to the wire: reads, checks what was read, and hands it out within the window.

use bytes::Bytes;
use outlast_engine::format::{Chain, FrameFault, FrameRun, Lsn, to_usize};

use crate::points::Position;
use crate::window::Window;

/// Data on its way out. Catch-up and live tail are the same: whatever the log holds behind what was
/// sent is read, as soon as the window has room.
///
/// Memory: at most one read (`run_bytes`, or one longer frame) is held here; what was handed out is
/// bounded by the window.
#[derive(Debug)]
pub(crate) struct Outflow {
    chain: Chain,
    window: Window,
    run_bytes: usize,
    reading: bool,
    held: Option<FrameRun>,
}

impl Outflow {
    /// Begins behind `chain`, which is the peer's end.
    pub(crate) const fn new(chain: Chain, window_bytes: u64, run_bytes: usize) -> Self {
        Self {
            window: Window::new(window_bytes, chain.lsn),
            chain,
            run_bytes,
            reading: false,
            held: None,
        }
    }

    /// The end of what was handed out.
    pub(crate) const fn sent(&self) -> &Chain {
        &self.chain
    }

    /// The end of what was handed out, with its commit.
    pub(crate) fn sent_position(&self) -> Position {
        Position::from(&self.chain)
    }

    pub(crate) const fn window(&self) -> &Window {
        &self.window
    }

    /// Whether a read was asked for and not answered.
    pub(crate) const fn is_reading(&self) -> bool {
        self.reading
    }

    /// Whether all up to `end` was handed out.
    pub(crate) fn is_through(&self, end: Lsn) -> bool {
        self.chain.lsn >= end
    }

    /// The read to ask for next, if there is anything before `end` and the window has room for a
    /// whole run of it. Never asks for more than is before `end`.
    pub(crate) fn next_read(&mut self, end: Lsn) -> Option<(Lsn, usize)> {
        let left = to_usize(end.bytes_since(self.chain.lsn));
        let wanted = self.run_bytes.min(left);
        if self.reading || self.held.is_some() || wanted == 0 || !self.window.admits(wanted as u64)
        {
            return None;
        }
        self.reading = true;
        Some((self.chain.lsn, wanted))
    }

    /// Takes the answer to a read. Nothing unchecked is ever forwarded.
    ///
    /// # Errors
    /// When the bytes are not whole frames that continue the peer's log.
    pub(crate) fn accept_read(&mut self, from: Lsn, bytes: Bytes) -> Result<(), FrameFault> {
        assert!(
            self.reading && from == self.chain.lsn,
            "bytes from {from} where {} was asked for (reading: {})",
            self.chain.lsn,
            self.reading
        );
        self.reading = false;
        if bytes.is_empty() {
            let lsn = from;
            return Err(FrameFault::Zeros { lsn });
        }
        let run = FrameRun::check(&self.chain, bytes).map_err(|fault| fault.fault)?;
        self.held = Some(run);
        Ok(())
    }

    /// The data to hand out next, with the position of its first byte, if the window admits it.
    pub(crate) fn next_data(&mut self) -> Option<(Lsn, Bytes)> {
        let run = self.held.take_if(|run| {
            let len = run.range().len_bytes();
            self.window.admits(len)
        })?;
        self.window.send(run.range().len_bytes());
        self.chain = *run.after();
        Some((run.range().start, run.bytes().clone()))
    }

    /// The peer has written everything before `to`, which is not beyond [`Outflow::sent`].
    pub(crate) fn acknowledge(&mut self, to: Lsn) {
        self.window.acknowledge(to);
    }
}
