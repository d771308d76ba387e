//! Data of any length, in order, on streams of bounded length that follow one another.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use outlast_engine::format::{Envelope, EnvelopeFault, to_usize};
use quinn::{RecvStream, SendStream};

use super::failure;
use super::link::Shared;
use super::queue::ByteQueue;
use super::shield::Shield;
use super::transport::DATA_HEADER_BYTES;
use crate::config::{DATA_STREAM_BYTES, LinkConfig};
use crate::error::{DataFault, LinkError};
use crate::message::LINK_VERSION;

/// Pieces taken from a stream at a time: each is what one packet brought.
const PIECES_AT_ONCE: usize = 64;

/// How every stream of data begins; the body is its number in the link, counted from 0.
const HEADER: Envelope = Envelope {
    magic: *b"OLDS",
    version: LINK_VERSION,
    kind: 0,
    len_max: 8,
};
const HEADER_LEN: usize = Envelope::HEADER_LEN + 8;
const _: () = assert!(HEADER_LEN as u64 == DATA_HEADER_BYTES);

/// Sends data to the peer.
///
/// The bytes are cut into streams of [`DATA_STREAM_BYTES`]. A stream is written to as data comes,
/// so nothing waits for a stream to fill.
#[derive(Debug)]
pub struct DataSender {
    shared: Arc<Shared>,
    queue: ByteQueue,
    current: Option<Outgoing>,
    /// Streams that are written and not yet acknowledged as a whole.
    unacknowledged: VecDeque<Shield<SendStream>>,
    streams_max: usize,
    sequence: u64,
}

#[derive(Debug)]
struct Outgoing {
    stream: Shield<SendStream>,
    header: Bytes,
    left: usize,
}

impl DataSender {
    pub(super) fn new(shared: Arc<Shared>, config: &LinkConfig) -> Self {
        Self {
            shared,
            queue: ByteQueue::default(),
            current: None,
            unacknowledged: VecDeque::new(),
            streams_max: usize::try_from(config.data_streams_sent_max()).unwrap_or(usize::MAX),
            sequence: 0,
        }
    }

    /// Puts data in the queue, from which [`flush`](Self::flush) sends it. Nothing is copied.
    pub fn push(&mut self, data: Bytes) {
        self.queue.push(data);
    }

    /// Bytes that wait to be handed over, so that whoever pushes can stop in time. What was handed
    /// over and is under way comes on top, and is bounded by the link's settings.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queue.len()
    }

    /// Hands the whole queue to the transport; waits while as much is under way as the settings
    /// allow. May be dropped at any time: what is not yet handed over stays in the queue.
    ///
    /// # Errors
    /// When the link has ended, or the peer reads no data any more.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.queue.is_empty() {
            match &mut self.current {
                None => self.open().await?,
                Some(current) => {
                    let chunks = self.queue.front(current.left);
                    let written = current.write(chunks).await;
                    let written = written
                        .map_err(|error| self.shared.stream_failure(failure::of_write(error)))?;
                    self.queue.advance(written);
                    if current.left == 0 {
                        self.end_current();
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends data behind what is in the queue. If it is dropped, the rest stays in the queue.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn send(&mut self, data: impl IntoIterator<Item = Bytes>) -> Result<(), LinkError> {
        data.into_iter().for_each(|data| self.push(data));
        self.flush().await
    }

    async fn open(&mut self) -> Result<(), LinkError> {
        while self.unacknowledged.len() >= self.streams_max {
            let Some(oldest) = self.unacknowledged.front() else {
                break;
            };
            match oldest.stopped().await {
                Ok(None) => self.unacknowledged.pop_front(),
                Ok(Some(_)) => return Err(LinkError::NotRead),
                Err(error) => {
                    return Err(self.shared.stream_failure(failure::of_stopped(error)));
                }
            };
        }
        let opened = self.shared.connection.open_uni().await;
        let stream = opened.map_err(|error| self.shared.failure(error))?;
        // Earlier streams first, those that are sent again above all.
        let _ = stream.set_priority(priority(self.sequence));
        self.current = Some(Outgoing {
            stream: Shield::new(stream),
            header: HEADER.seal(&self.sequence.to_le_bytes()).into(),
            left: to_usize(DATA_STREAM_BYTES),
        });
        self.sequence += 1;
        Ok(())
    }

    fn end_current(&mut self) {
        if let Some(mut current) = self.current.take() {
            // Fails if the peer has stopped the stream, which the wait for its end will tell.
            let _ = current.stream.finish();
            self.unacknowledged.push_back(current.stream);
        }
    }
}

impl Outgoing {
    /// Writes the header, if it is not yet, and as much as there is room for; how much, without it.
    async fn write(&mut self, mut chunks: Vec<Bytes>) -> Result<usize, quinn::WriteError> {
        let header_len = self.header.len();
        chunks.insert(0, self.header.clone());
        let written = self.stream.write_chunks(&mut chunks).await?.bytes;
        let of_header = written.min(header_len);
        self.header = self.header.slice(of_header..);
        self.left -= written - of_header;
        Ok(written - of_header)
    }
}

/// Below that of messages, and lower with every stream. It comes round after two billion of them.
fn priority(sequence: u64) -> i32 {
    let round = i32::try_from(sequence % (1 << 31)).unwrap_or(0);
    i32::MAX - 1 - round
}

/// Receives data from the peer.
#[derive(Debug)]
pub struct DataReceiver {
    shared: Arc<Shared>,
    current: Option<Incoming>,
    sequence: u64,
}

#[derive(Debug)]
struct Incoming {
    stream: Shield<RecvStream>,
    header: BytesMut,
    left: usize,
}

impl DataReceiver {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            current: None,
            sequence: 0,
        }
    }

    /// The bytes that come next: as many as have arrived and fit in one piece of memory of modest
    /// size. Where they are cut means nothing. May be dropped at any time without losing anything.
    ///
    /// # Errors
    /// When the link has ended, or what arrived is not the data that comes next; the link is closed
    /// then.
    pub async fn next(&mut self) -> Result<Bytes, LinkError> {
        loop {
            let Some(current) = &mut self.current else {
                // quinn gives streams in the order of their numbers, not in that of their arrival.
                let accepted = self.shared.connection.accept_uni().await;
                let stream = accepted.map_err(|error| self.shared.failure(error))?;
                self.current = Some(Incoming {
                    stream: Shield::new(stream),
                    header: BytesMut::with_capacity(HEADER_LEN),
                    left: to_usize(DATA_STREAM_BYTES),
                });
                continue;
            };
            let mut pieces = [const { Bytes::new() }; PIECES_AT_ONCE];
            let read = current.stream.read_chunks(&mut pieces).await;
            let read = read.map_err(|error| {
                let sequence = self.sequence;
                let taken_back = LinkError::BadData(DataFault::Reset { sequence });
                self.shared
                    .stream_failure(failure::of_read(error, taken_back))
            })?;
            let taken = match read {
                Some(_) => current.take(&mut pieces, self.sequence).map(Some),
                None if current.header.len() < HEADER_LEN => Err(DataFault::Cut {
                    sequence: self.sequence,
                }
                .into()),
                None => Ok(None),
            };
            match taken.map_err(|error| self.shared.fail(error))? {
                Some(data) if data.is_empty() => {}
                Some(data) => return Ok(data),
                None => {
                    self.current = None;
                    self.sequence += 1;
                }
            }
        }
    }
}

impl Incoming {
    /// Takes the header off, if it is not yet, and joins the rest.
    fn take(&mut self, pieces: &mut [Bytes], sequence: u64) -> Result<Bytes, LinkError> {
        for piece in pieces.iter_mut() {
            let missing = HEADER_LEN - self.header.len();
            if missing == 0 {
                break;
            }
            let part = piece.split_to(piece.len().min(missing));
            self.header.extend_from_slice(&part);
            if self.header.len() == HEADER_LEN {
                check_header(&self.header, sequence)?;
            }
        }
        let len = pieces.iter().map(Bytes::len).sum();
        self.left = self
            .left
            .checked_sub(len)
            .ok_or(DataFault::TooLong { sequence })?;
        let mut filled = pieces.iter_mut().filter(|piece| !piece.is_empty());
        let Some(first) = filled.next() else {
            return Ok(Bytes::new());
        };
        let Some(second) = filled.next() else {
            return Ok(std::mem::take(first));
        };
        let mut joined = BytesMut::with_capacity(len);
        joined.extend_from_slice(first);
        joined.extend_from_slice(second);
        filled.for_each(|piece| joined.extend_from_slice(piece));
        Ok(joined.freeze())
    }
}

fn check_header(header: &[u8], expected: u64) -> Result<(), LinkError> {
    let body = HEADER.open(header).map_err(|fault| match fault {
        EnvelopeFault::Version { theirs, ours } => LinkError::Version { ours, theirs },
        fault => DataFault::Header(fault).into(),
    })?;
    let found = match body.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => return Err(DataFault::Header(EnvelopeFault::Magic).into()),
    };
    if found != expected {
        return Err(DataFault::Order { expected, found }.into());
    }
    Ok(())
}

impl From<DataFault> for LinkError {
    fn from(fault: DataFault) -> Self {
        Self::BadData(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_fall_and_stay_below_that_of_messages() {
        assert_eq!(priority(0), i32::MAX - 1);
        assert!(priority(1) < priority(0));
        assert!(priority((1 << 31) - 1) >= -1);
        assert_eq!(priority(1 << 31), priority(0));
    }

    #[test]
    fn a_stream_that_is_not_the_next_is_refused() {
        let header = |sequence: u64| HEADER.seal(&sequence.to_le_bytes());
        assert_eq!(check_header(&header(7), 7), Ok(()));
        let order = DataFault::Order {
            expected: 7,
            found: 8,
        };
        assert_eq!(check_header(&header(8), 7), Err(order.into()));
        let newer = Envelope {
            version: 2,
            ..HEADER
        };
        let version = LinkError::Version { ours: 1, theirs: 2 };
        assert_eq!(check_header(&newer.seal(&[0; 8]), 0), Err(version));
        let short = HEADER.seal(&[0; 4]);
        assert!(check_header(&short, 0).is_err());
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = header(7);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check_header(&bad, 7).is_err(), "bit {bit}");
        }
    }
}
