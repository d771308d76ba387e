//! Messages of a link's control stream: opaque bytes in an envelope.

use bytes::{Bytes, BytesMut};
use outlast_engine::format::{Envelope, EnvelopeFault};

/// The longest body of a message in bytes. Log data does not travel in messages, but the history of
/// all epochs does.
pub const MESSAGE_BYTES_MAX: u32 = 8 << 20;

/// Version of the envelopes of messages and of data streams.
pub const LINK_VERSION: u16 = 1;

/// Kind of the one message that each side sends first, of itself: that it took the other in.
pub(crate) const KIND_OPEN: u16 = 0;

/// What one side says to the other. Kind 0 is the link's own; what others mean is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What kind of message it is.
    pub kind: u16,
    /// Its body, at most [`MESSAGE_BYTES_MAX`] bytes.
    pub body: Bytes,
}

impl Message {
    /// The message with its envelope.
    ///
    /// # Panics
    /// When the body is over the limit; whoever made it has checked that.
    pub(crate) fn seal(&self) -> Bytes {
        envelope(self.kind).seal(&self.body).into()
    }
}

/// Puts messages together from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct MessageBuffer {
    bytes: BytesMut,
}

impl MessageBuffer {
    /// Adds bytes that arrived. The buffer grows with what has arrived, not with what was
    /// announced.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, or none while more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a message; there is no way on from there.
    pub(crate) fn take(&mut self) -> Result<Option<Message>, EnvelopeFault> {
        let Some(header) = self.bytes.first_chunk::<{ Envelope::HEADER_LEN }>() else {
            return Ok(None);
        };
        let [_, _, _, _, _, _, k0, k1, ..] = *header;
        let kind = u16::from_le_bytes([k0, k1]);
        match envelope(kind).open(&self.bytes) {
            Ok(body) => {
                let len = Envelope::HEADER_LEN + body.len();
                let body = self
                    .bytes
                    .split_to(len)
                    .freeze()
                    .split_off(Envelope::HEADER_LEN);
                Ok(Some(Message { kind, body }))
            }
            Err(EnvelopeFault::Short { .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Whether a message was begun and not finished.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn envelope(kind: u16) -> Envelope {
    Envelope {
        magic: *b"OLNK",
        version: LINK_VERSION,
        kind,
        len_max: MESSAGE_BYTES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, len: usize) -> Message {
        let body = (0..=250).cycle().take(len).collect();
        Message { kind, body }
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let messages = [message(1, 0), message(2, 5), message(u16::MAX, 300)];
        let bytes: Vec<u8> = messages.iter().flat_map(Message::seal).collect();
        for piece in [1, 2, 15, 16, 17, 100, bytes.len()] {
            let mut buffer = MessageBuffer::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(piece) {
                buffer.push(piece);
                while let Some(message) = buffer.take().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn the_largest_message_passes() {
        let largest = message(7, MESSAGE_BYTES_MAX as usize);
        let mut buffer = MessageBuffer::default();
        buffer.push(&largest.seal());
        assert_eq!(buffer.take(), Ok(Some(largest)));
    }

    #[test]
    fn a_bad_header_is_refused_before_its_body_arrives() {
        let good = message(7, 100).seal();
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good[..Envelope::HEADER_LEN].to_vec();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            let mut buffer = MessageBuffer::default();
            buffer.push(&bad);
            buffer.take()
        };
        assert_eq!(with(0, b"HTTP"), Err(EnvelopeFault::Magic));
        assert_eq!(
            with(4, &[2, 0]),
            Err(EnvelopeFault::Version {
                theirs: 2,
                ours: LINK_VERSION
            })
        );
        let over = MESSAGE_BYTES_MAX + 1;
        assert!(matches!(
            with(8, &over.to_le_bytes()),
            Err(EnvelopeFault::Length { .. })
        ));
        assert!(matches!(
            with(8, &u32::MAX.to_le_bytes()),
            Err(EnvelopeFault::Length { .. })
        ));
    }

    #[test]
    fn every_flipped_bit_is_refused_or_waits_for_bytes_that_were_not_announced() {
        let good = message(7, 40).seal();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut buffer = MessageBuffer::default();
            buffer.push(&bad);
            let taken = buffer.take();
            assert!(!matches!(taken, Ok(Some(_))), "bit {bit}: {taken:?}");
        }
    }
}
