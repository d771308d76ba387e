//! From the wire to the log: cuts data into whole frames and checks them.

use bytes::{Bytes, BytesMut};
use outlast_engine::format::limits::frame_len_max;
use outlast_engine::format::{
    Chain, FRAME_HEADER_LEN, FrameFault, FrameHeader, FrameKind, FrameRun, Lsn, to_usize,
};

use crate::close::CloseReason;
use crate::session::{Binding, RunHeader};

/// Data on its way in.
///
/// Memory: less than one frame. A frame's header is checked before anything is allocated for the
/// rest of it, so nobody can announce a length that this cluster does not write.
#[derive(Debug)]
pub(crate) struct Inflow {
    binding: Binding,
    chain: Chain,
    frame_len_max: usize,
    partial: BytesMut,
    in_bound_run: bool,
}

impl Inflow {
    /// Expects data behind `chain`.
    pub(crate) fn new(binding: Binding, chain: Chain, segment_size: u64) -> Self {
        Self {
            binding,
            chain,
            frame_len_max: to_usize(frame_len_max(segment_size)),
            partial: BytesMut::new(),
            in_bound_run: false,
        }
    }

    /// Position of the next byte expected.
    pub(crate) fn position(&self) -> Lsn {
        self.chain.lsn.advance(self.partial.len() as u64)
    }

    /// Longest frame in bytes that this cluster writes.
    pub(crate) const fn frame_len_max(&self) -> u64 {
        self.frame_len_max as u64
    }

    /// A run begins. Answers whether it belongs here; bytes of one that does not are not wanted.
    ///
    /// # Errors
    /// When it belongs here and does not begin where the last one ended.
    pub(crate) fn begin_run(&mut self, header: &RunHeader) -> Result<bool, CloseReason> {
        self.in_bound_run = header.binding == self.binding;
        if !self.in_bound_run {
            return Ok(false);
        }
        let (expected, got) = (self.position(), header.first);
        if expected == got {
            Ok(true)
        } else {
            Err(CloseReason::Gap { expected, got })
        }
    }

    /// Whether bytes belong to a run of this session.
    pub(crate) const fn in_bound_run(&self) -> bool {
        self.in_bound_run
    }

    /// Takes bytes, cut anywhere, and answers with the frames that they complete: at most two runs,
    /// the second of which shares the memory of `bytes`.
    ///
    /// # Errors
    /// When they are not the log's next frames. Nothing more can be taken then.
    pub(crate) fn take(&mut self, mut bytes: Bytes) -> Result<Vec<FrameRun>, FrameFault> {
        let mut runs = Vec::new();
        if !self.partial.is_empty() {
            runs.extend(self.complete_partial(&mut bytes)?);
        }
        let whole_len = self.whole_frames_len(&bytes)?;
        if whole_len > 0 {
            let run = FrameRun::check(&self.chain, bytes.split_to(whole_len))
                .map_err(|fault| fault.fault)?;
            self.chain = *run.after();
            runs.push(run);
        }
        self.begin_partial(&bytes)?;
        Ok(runs)
    }

    /// Moves bytes behind the partial frame until it is whole or they are used up.
    fn complete_partial(&mut self, bytes: &mut Bytes) -> Result<Option<FrameRun>, FrameFault> {
        let header_missing = FRAME_HEADER_LEN.saturating_sub(self.partial.len());
        self.move_to_partial(bytes, header_missing);
        if self.partial.len() < FRAME_HEADER_LEN {
            return Ok(None);
        }
        let frame_len = self.check_header(&self.chain, &self.partial)?.frame_len();
        let missing = frame_len.saturating_sub(self.partial.len());
        self.partial.reserve(missing);
        self.move_to_partial(bytes, missing);
        if self.partial.len() < frame_len {
            return Ok(None);
        }
        let run = FrameRun::check(&self.chain, self.partial.split().freeze())
            .map_err(|fault| fault.fault)?;
        self.chain = *run.after();
        Ok(Some(run))
    }

    /// Keeps what is left when no whole frame is: nothing, or the beginning of one.
    fn begin_partial(&mut self, rest: &Bytes) -> Result<(), FrameFault> {
        if rest.is_empty() {
            return Ok(());
        }
        if rest.len() >= FRAME_HEADER_LEN {
            let frame_len = self.check_header(&self.chain, rest)?.frame_len();
            self.partial.reserve(frame_len);
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    fn move_to_partial(&mut self, bytes: &mut Bytes, len: usize) {
        let part = bytes.split_to(len.min(bytes.len()));
        self.partial.extend_from_slice(&part);
    }

    /// Length of the whole frames at the start of `bytes`. Looks at headers only, and at the record
    /// of a frame that begins an epoch, since that seeds the headers behind it.
    fn whole_frames_len(&self, bytes: &[u8]) -> Result<usize, FrameFault> {
        let mut chain = self.chain;
        let mut len = 0;
        if !self.partial.is_empty() {
            return Ok(0);
        }
        while let Some(rest) = bytes.get(len..)
            && rest.len() >= FRAME_HEADER_LEN
        {
            let header = self.check_header(&chain, rest)?;
            if rest.len() < header.frame_len() {
                break;
            }
            let epoch = match header.kind {
                FrameKind::Epoch => chain.check_frame(rest)?.1,
                _ => None,
            };
            chain = chain.after(&header, epoch.as_ref());
            len += header.frame_len();
        }
        Ok(len)
    }

    fn check_header(&self, chain: &Chain, bytes: &[u8]) -> Result<FrameHeader, FrameFault> {
        let header = chain.check_header(bytes)?;
        if header.frame_len() > self.frame_len_max {
            return Err(FrameFault::Header { lsn: chain.lsn });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
