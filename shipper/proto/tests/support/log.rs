//! A log in memory, made of real frames.

use bytes::Bytes;
use outlast_engine::format::{
    Chain, ClusterId, EpochId, EpochReason, EpochRecord, FrameFields, FrameKind, FrameRun, History,
    Lsn, NodeId, to_usize,
};
use outlast_proto::{LogView, Position};

pub const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

/// A log that can be cut and read anywhere, with the positions that a store would keep.
#[derive(Clone)]
pub struct FakeLog {
    bytes: Vec<u8>,
    /// The chain behind each frame, and the origin before the first.
    chains: Vec<Chain>,
    history: History,
    pub durable: Lsn,
    pub applied: Lsn,
}

impl FakeLog {
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            chains: vec![Chain::origin(CLUSTER)],
            history: History::new(),
            durable: Lsn::ZERO,
            applied: Lsn::ZERO,
        }
    }

    pub fn end(&self) -> Chain {
        *self.chains.last().unwrap()
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins an epoch at the end, written by `node`.
    pub fn begin_epoch(&mut self, id: u8, term: u32, start: u32, node: NodeId) {
        let mut chain = self.end();
        let last = self.history.last();
        let id = EpochId([id; 16]);
        let record = EpochRecord {
            term,
            start,
            id,
            parent: last.map_or(EpochId::NONE, |last| last.id),
            opened_by: last
                .filter(|last| last.term == term)
                .map_or(id, |last| last.opened_by),
            fork: chain.lsn,
            node,
            // Makes the frame as long as those of the default batch, for round positions in
            // scripts.
            node_name: "n".repeat(38),
            reason: EpochReason::Restart,
            note: String::new(),
            wall_ms: 0,
        };
        let frame = chain.form_epoch(self.fields(FrameKind::Epoch, 0), &record);
        self.history.push(record).unwrap();
        self.push(&frame, chain);
    }

    /// Appends a frame of one batch with this many bytes in it.
    pub fn append(&mut self, payload_len: usize) {
        let mut chain = self.end();
        let payload = vec![0xab; payload_len];
        let fields = self.fields(FrameKind::Batches, 1);
        let frame = chain.form(fields, [payload.as_slice()]);
        self.push(&frame, chain);
    }

    /// Appends frames that were checked elsewhere.
    pub fn append_run(&mut self, run: &FrameRun) {
        assert_eq!(run.before(), &self.end());
        for record in run.epochs() {
            self.history.push(record.clone()).unwrap();
        }
        let mut chain = self.end();
        for (_, frame) in run.frames() {
            let (header, epoch) = chain.check_frame(&frame).unwrap();
            chain = chain.after(&header, epoch.as_ref());
            self.push(&frame, chain);
        }
    }

    /// Cuts the log at the end of a frame.
    pub fn cut(&mut self, end: Lsn) {
        self.chains.retain(|chain| chain.lsn <= end);
        self.bytes.truncate(to_usize(self.end().lsn.0));
        self.history = self.history.cut(end);
        self.durable = self.durable.min(self.end().lsn);
        self.applied = self.applied.min(self.end().lsn);
    }

    /// A bit of the byte at `at` flips.
    pub fn flip(&mut self, at: Lsn) {
        self.bytes[to_usize(at.0)] ^= 1;
    }

    /// Whole frames from `from` on, as the store reads them.
    pub fn read(&self, from: Lsn, max_bytes: usize) -> Bytes {
        let start = self.index_of(from);
        let longest = from.advance(max_bytes as u64);
        let end = self.chains[start + 1..]
            .iter()
            .enumerate()
            .take_while(|(i, chain)| *i == 0 || chain.lsn <= longest)
            .last()
            .map_or(from, |(_, chain)| chain.lsn);
        Bytes::copy_from_slice(&self.bytes[to_usize(from.0)..to_usize(end.0)])
    }

    /// The end of the last frame that ends at or below `lsn`.
    pub fn frame_end(&self, lsn: Lsn) -> Lsn {
        let below = |chain: &&Chain| chain.lsn <= lsn;
        self.chains.iter().rfind(below).unwrap().lsn
    }

    pub fn position(&self, lsn: Lsn) -> Position {
        Position::from(&self.chains[self.index_of(lsn)])
    }

    pub fn view(&self) -> LogView {
        LogView {
            end: self.end(),
            history: self.history.clone(),
            durable: self.position(self.durable),
            applied: self.position(self.applied),
        }
    }

    fn index_of(&self, lsn: Lsn) -> usize {
        self.chains
            .iter()
            .position(|chain| chain.lsn == lsn)
            .unwrap_or_else(|| panic!("no frame ends at {lsn}"))
    }

    /// What a writer would put into its next frame: it may carry what is durable and applied by
    /// now.
    fn fields(&self, kind: FrameKind, batches: u32) -> FrameFields {
        FrameFields {
            kind,
            first_in_segment: false,
            batches,
            wall_ms: 0,
            log_ms: 0,
            visible: self.applied.max(self.end().visible),
            watermark: self.durable.max(self.end().watermark),
        }
    }

    fn push(&mut self, frame: &[u8], chain: Chain) {
        self.bytes.extend_from_slice(frame);
        self.chains.push(chain);
    }
}
