//! The one stream of messages of a link.

use std::sync::Arc;

use outlast_engine::format::EnvelopeFault;
use quinn::{RecvStream, SendStream};

use super::failure;
use super::link::Shared;
use super::queue::ByteQueue;
use super::shield::Shield;
use crate::error::LinkError;
use crate::message::{MESSAGE_BYTES_MAX, Message, MessageBuffer};

/// Before any stream of data.
const PRIORITY: i32 = i32::MAX;

/// Bytes taken from the stream at a time.
const READ_BYTES: usize = 64 << 10;

/// Sends messages to the peer.
#[derive(Debug)]
pub struct MessageSender {
    shared: Arc<Shared>,
    stream: Shield<SendStream>,
    queue: ByteQueue,
}

impl MessageSender {
    pub(super) fn new(shared: Arc<Shared>, stream: SendStream) -> Self {
        // Fails for a stream that was finished, which a new one was not.
        let _ = stream.set_priority(PRIORITY);
        Self {
            shared,
            stream: Shield::new(stream),
            queue: ByteQueue::default(),
        }
    }

    /// Puts a message in the queue, from which [`flush`](Self::flush) sends it.
    ///
    /// # Panics
    /// When the message is over [`MESSAGE_BYTES_MAX`]: whoever makes messages keeps to the limit.
    pub fn push(&mut self, message: &Message) {
        assert!(
            message.body.len() <= MESSAGE_BYTES_MAX as usize,
            "a message of {} bytes",
            message.body.len()
        );
        self.queue.push(message.seal());
    }

    /// Bytes of messages that wait to be handed over, so that whoever pushes can stop in time.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queue.len()
    }

    /// Hands all messages of the queue to the transport. May be dropped at any time: what is not
    /// yet handed over stays in the queue, and no message is ever sent in part or twice.
    ///
    /// # Errors
    /// When the link has ended, or the peer reads no messages any more.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.queue.is_empty() {
            let mut chunks = self.queue.front(usize::MAX);
            let written = self.stream.write_chunks(&mut chunks).await;
            let written =
                written.map_err(|error| self.shared.stream_failure(failure::of_write(error)))?;
            self.queue.advance(written.bytes);
        }
        Ok(())
    }

    /// Sends one message, behind those in the queue. If it is dropped, the message stays in the
    /// queue.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        self.push(message);
        self.flush().await
    }

    /// Sends what is in the queue, says that no more messages will come, and waits until the peer's
    /// transport has them all. Whether the peer has read them, only the peer can say.
    ///
    /// # Errors
    /// When the link ends before that, or the peer reads no messages any more.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        self.flush().await?;
        // Fails when it was finished already, by a call that was dropped.
        let _ = self.stream.finish();
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(LinkError::NotRead),
            Err(error) => Err(self.shared.stream_failure(failure::of_stopped(error))),
        }
    }
}

/// Receives messages from the peer.
#[derive(Debug)]
pub struct MessageReader {
    shared: Arc<Shared>,
    stream: Shield<RecvStream>,
    buffer: MessageBuffer,
}

impl MessageReader {
    pub(super) fn new(shared: Arc<Shared>, stream: RecvStream) -> Self {
        Self {
            shared,
            stream: Shield::new(stream),
            buffer: MessageBuffer::default(),
        }
    }

    /// The next message; none once the peer has said that no more will come. May be dropped at any
    /// time without losing anything.
    ///
    /// # Errors
    /// When the link has ended, or what arrived is no message; the link is closed then.
    pub async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            if let Some(message) = self.buffer.take().map_err(|fault| self.bad(fault))? {
                return Ok(Some(message));
            }
            match self.stream.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => self.buffer.push(&chunk.bytes),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(self.shared.fail(LinkError::MessagesCut)),
                Err(error) => {
                    let told = failure::of_read(error, LinkError::MessagesCut);
                    return Err(self.shared.stream_failure(told));
                }
            }
        }
    }

    fn bad(&self, fault: EnvelopeFault) -> LinkError {
        self.shared.fail(match fault {
            EnvelopeFault::Version { theirs, ours } => LinkError::Version { ours, theirs },
            fault => LinkError::BadMessage(fault),
        })
    }
}
