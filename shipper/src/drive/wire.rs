//! A link as the protocol sees it: whole messages, and data with its run header taken off.

use bytes::{Bytes, BytesMut};
use outlast_proto::{HANDSHAKE_LEN_MAX, HEADER_LEN, Message, RUN_HEADER_LEN, RunHeader};

use crate::error::{CloseCode, LinkError};
use crate::message::{MESSAGE_BYTES_MAX, Message as LinkMessage};
use crate::{Link, LinkHandle};

/// Kind of the link's messages that carry the protocol's.
pub(super) const KIND_PROTOCOL: u16 = 1;

// The longest message of the protocol, envelope and all, fits in one of the link's.
const _: () = assert!(HANDSHAKE_LEN_MAX as usize + HEADER_LEN <= MESSAGE_BYTES_MAX as usize);

/// What happens on a link.
#[derive(Debug)]
pub enum WireEvent {
    /// A message came.
    Message(Message),
    /// A run of data begins.
    RunStart(RunHeader),
    /// Bytes of the run.
    RunBytes(Bytes),
    /// All messages that were pushed are handed over.
    MessagesFlushed,
    /// All data that was pushed is handed over.
    DataFlushed,
    /// The link is gone.
    Ended(LinkError),
}

/// One link and what is still to be written to it.
pub struct Wire {
    link: Link,
    /// Whether messages were pushed since the last [`WireEvent::MessagesFlushed`].
    messages_dirty: bool,
    data_dirty: bool,
    /// Bytes of the run header so far; `None` once it was taken off.
    header: Option<BytesMut>,
    /// Bytes that came in one piece with the header.
    behind_header: Option<Bytes>,
    /// Whether this side's run has begun.
    run_begun: bool,
}

impl Wire {
    /// Takes a link over.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self {
            link,
            messages_dirty: false,
            data_dirty: false,
            header: Some(BytesMut::new()),
            behind_header: None,
            run_begun: false,
        }
    }

    /// Who it is with, and by what it is closed.
    #[must_use]
    pub const fn handle(&self) -> &LinkHandle {
        &self.link.handle
    }

    /// Puts a message in the queue; [`Wire::event`] sends it.
    ///
    /// # Errors
    /// When it is over its limit, which closes the link.
    pub fn push(&mut self, message: &Message) -> Result<(), LinkError> {
        let body = outlast_proto::encode(message).map_err(|fault| self.fail(&fault))?;
        self.link.messages_out.push(&LinkMessage {
            kind: KIND_PROTOCOL,
            body: body.into(),
        });
        self.messages_dirty = true;
        Ok(())
    }

    /// Puts data in the queue. All of a session is one run, so only the first has its header
    /// written.
    pub fn push_data(&mut self, header: &RunHeader, bytes: Bytes) {
        if !std::mem::replace(&mut self.run_begun, true) {
            let header = outlast_proto::encode_run(header);
            self.link.data_out.push(Bytes::copy_from_slice(&header));
        }
        self.link.data_out.push(bytes);
        self.data_dirty = true;
    }

    /// The next thing that happens, sending meanwhile what was pushed. May be dropped at any time.
    pub async fn event(&mut self) -> WireEvent {
        if let Some(bytes) = self.behind_header.take() {
            return WireEvent::RunBytes(bytes);
        }
        loop {
            let Link {
                messages_out,
                messages_in,
                data_out,
                data_in,
                ..
            } = &mut self.link;
            let came = tokio::select! {
                biased;
                flushed = messages_out.flush(), if self.messages_dirty => {
                    self.messages_dirty = false;
                    flushed.map(|()| Came::Event(WireEvent::MessagesFlushed))
                }
                message = messages_in.next() => message.map(Came::Message),
                flushed = data_out.flush(), if self.data_dirty => {
                    self.data_dirty = false;
                    flushed.map(|()| Came::Event(WireEvent::DataFlushed))
                }
                data = data_in.next() => data.map(Came::Data),
            };
            let event = match came {
                Ok(Came::Event(event)) => Ok(Some(event)),
                Ok(Came::Message(message)) => self.message(message).map(Some),
                Ok(Came::Data(bytes)) => self.data(bytes),
                Err(error) => Err(error),
            };
            match event {
                Ok(Some(event)) => return event,
                Ok(None) => {}
                Err(error) => return WireEvent::Ended(error),
            }
        }
    }

    /// Sends what was pushed, waits a moment for the peer to have it, and closes.
    pub async fn close(mut self, code: CloseCode, reason: &str) {
        let last_words = self.link.messages_out.finish();
        // Whether they arrive or not, the link ends here.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), last_words).await;
        self.link.handle.close(code, reason);
    }

    fn message(&self, message: Option<LinkMessage>) -> Result<WireEvent, LinkError> {
        let Some(message) = message else {
            // The peer has no more to say and waits for this side to close.
            self.link
                .handle
                .close(CloseCode::DONE, "the peer ended its messages");
            return Err(LinkError::ClosedByPeer {
                code: CloseCode::DONE,
                reason: "it ended its messages".to_owned(),
            });
        };
        if message.kind != KIND_PROTOCOL {
            return Err(self.fail(&format_args!("a message of kind {}", message.kind)));
        }
        let decoded = outlast_proto::decode(&message.body).map_err(|fault| self.fail(&fault))?;
        Ok(WireEvent::Message(decoded))
    }

    fn data(&mut self, bytes: Bytes) -> Result<Option<WireEvent>, LinkError> {
        let Some(header) = &mut self.header else {
            return Ok(Some(WireEvent::RunBytes(bytes)));
        };
        let missing = RUN_HEADER_LEN - header.len();
        let mut bytes = bytes;
        header.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
        let Some(whole) = header.first_chunk::<RUN_HEADER_LEN>() else {
            return Ok(None);
        };
        let decoded = outlast_proto::decode_run(whole);
        let run = decoded.map_err(|fault| self.fail(&fault))?;
        self.header = None;
        if !bytes.is_empty() {
            self.behind_header = Some(bytes);
        }
        Ok(Some(WireEvent::RunStart(run)))
    }

    fn fail(&self, what: &dyn std::fmt::Display) -> LinkError {
        let reason = what.to_string();
        self.link.handle.close(CloseCode::BAD_MESSAGE, &reason);
        LinkError::ClosedHere {
            code: CloseCode::BAD_MESSAGE,
            reason,
        }
    }
}

enum Came {
    Event(WireEvent),
    Message(Option<LinkMessage>),
    Data(Bytes),
}
