//! The two sides of a conversation about a repair, over a link.

use bytes::Bytes;
use outlast_engine::format::{Chain, Lsn};
use outlast_engine::{ErrorKind, Store};
use outlast_proto::{
    Asker, AskerInput, AskerOutput, Giver, GiverInput, GiverOutput, Hello, NotGiven, RepairEnd,
    RepairMessage,
};
use thiserror::Error;
use tokio::task::JoinHandle;

use super::boot_clock::boot_time;
use super::ship::sleep_until;
use super::wire::{KIND_PROTOCOL, Wire};
use crate::Link;
use crate::error::{CloseCode, LinkError};
use crate::message::Message as LinkMessage;

/// Kind of the link's messages that are about a repair.
const KIND_REPAIR: u16 = 2;

/// What a peer that made a link wants of it, by its first message.
pub enum Arrival {
    /// A session.
    Session(Box<Wire>, Box<Hello>),
    /// Frames of this node's log.
    Repair(Box<Link>, RepairMessage),
}

/// Waits for the first message of a link that a peer made.
///
/// # Errors
/// When the link ends before, or the message is another than one that may come first; the link is
/// closed then.
pub async fn arrival(mut link: Link) -> Result<Arrival, LinkError> {
    let first = link.messages_in.next().await?;
    let refuse = |link: &Link, reason: &str| {
        let code = CloseCode::BAD_MESSAGE;
        link.handle.close(code, reason);
        let reason = reason.to_owned();
        Err(LinkError::ClosedHere { code, reason })
    };
    match first {
        Some(message) if message.kind == KIND_PROTOCOL => {
            match outlast_proto::decode(&message.body) {
                Ok(outlast_proto::Message::Hello(hello)) => {
                    Ok(Arrival::Session(Box::new(Wire::new(link)), hello))
                }
                _ => refuse(&link, "a Hello was due"),
            }
        }
        Some(message) if message.kind == KIND_REPAIR => {
            match outlast_proto::decode_repair(&message.body) {
                Ok(ask) => Ok(Arrival::Repair(Box::new(link), ask)),
                Err(fault) => refuse(&link, &fault.to_string()),
            }
        }
        _ => refuse(&link, "neither a Hello nor an Ask"),
    }
}

/// Why a conversation about a repair came to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RepairFailure {
    /// The protocol ended it.
    #[error(transparent)]
    End(#[from] RepairEnd),
    /// The link under it went away.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Gives frames of `store` until the peer has enough. The first message came already.
pub async fn give(mut link: Link, first: RepairMessage, mut giver: Giver, store: Store) {
    giver.handle(boot_time(), GiverInput::Message(first));
    match giving(&mut link, giver, store).await {
        RepairFailure::End(end) => {
            tracing::info!(%end, "a repair of the peer is over");
            let words = link.messages_out.finish();
            // Whether they arrive or not, the link ends here.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), words).await;
            link.handle.close(CloseCode::DONE, &end.to_string());
        }
        RepairFailure::Link(error) => {
            tracing::info!(%error, "the link of a repair of the peer ended");
        }
    }
}

async fn giving(link: &mut Link, mut giver: Giver, store: Store) -> RepairFailure {
    let mut reading: Option<JoinHandle<Result<Bytes, NotGiven>>> = None;
    let (mut messages_due, mut data_due) = (false, false);
    loop {
        while let Some(output) = giver.poll_output() {
            match output {
                GiverOutput::Send(message) => {
                    if let Err(error) = push(link, &message) {
                        return error.into();
                    }
                    messages_due = true;
                }
                GiverOutput::Data(bytes) => {
                    link.data_out.push(bytes);
                    data_due = true;
                }
                GiverOutput::Read { at, len_max } => {
                    let store = store.clone();
                    // It may have to come from the disk, which no task of the network waits for.
                    let read = move || read(&store, &at, len_max);
                    reading = Some(tokio::task::spawn_blocking(read));
                }
                GiverOutput::Close(end) => return end.into(),
            }
        }
        let wake_at = giver.poll_timeout();
        let input = tokio::select! {
            flushed = link.messages_out.flush(), if messages_due => match flushed {
                Ok(()) => { messages_due = false; continue }
                Err(error) => return error.into(),
            },
            flushed = link.data_out.flush(), if data_due => match flushed {
                Ok(()) => { data_due = false; continue }
                Err(error) => return error.into(),
            },
            message = link.messages_in.next() => match message_of(link, message) {
                Ok(message) => GiverInput::Message(message),
                Err(error) => return error.into(),
            },
            data = link.data_in.next() => match data {
                Ok(_) => GiverInput::Data,
                Err(error) => return error.into(),
            },
            read = finished(&mut reading) => GiverInput::Read(read),
            () = sleep_until(wake_at) => GiverInput::Timeout,
        };
        giver.handle(boot_time(), input);
    }
}

fn read(store: &Store, at: &Chain, len_max: u64) -> Result<Bytes, NotGiven> {
    store.frames_behind(at, len_max).map_err(|error| {
        tracing::warn!(%error, at = %at.lsn, "the peer was not given what it lacks");
        match error.kind() {
            ErrorKind::NotHeld | ErrorKind::LogTruncated => NotGiven::NotHeld {
                durable: store.positions().durable.lsn,
            },
            ErrorKind::Conflict => NotGiven::OtherHistory,
            ErrorKind::Corrupt => NotGiven::Damaged,
            _ => NotGiven::Unreadable,
        }
    })
}

async fn finished(
    reading: &mut Option<JoinHandle<Result<Bytes, NotGiven>>>,
) -> Result<Bytes, NotGiven> {
    let Some(task) = reading else {
        return std::future::pending().await;
    };
    let read = task.await.unwrap_or(Err(NotGiven::Unreadable));
    *reading = None;
    read
}

/// A conversation in which this node asks.
pub struct Asking {
    link: Link,
    asker: Asker,
    durable: Lsn,
}

/// What the peer answers to one question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answered {
    /// Whole frames that continue what was asked for.
    Frames(Bytes),
    /// None, for this reason.
    Nothing(NotGiven),
}

impl Asking {
    /// Opens the conversation over a link that this node has made.
    ///
    /// # Errors
    /// When the peer refuses, is silent, or the link ends.
    pub async fn open(link: Link, asker: Asker) -> Result<Self, RepairFailure> {
        let mut asking = Self {
            link,
            asker,
            durable: Lsn::ZERO,
        };
        match asking.run().await? {
            AskerOutput::Ready(durable) => asking.durable = durable,
            other => panic!("{other:?} before the conversation was opened"),
        }
        Ok(asking)
    }

    /// How far the peer's log was durable when the conversation began.
    #[must_use]
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// Asks for the frames that continue `at`, up to `end` or a part of the way.
    ///
    /// # Errors
    /// When the conversation or the link ends; neither can be used again then.
    pub async fn want(
        &mut self,
        at: Chain,
        end: Lsn,
        segment_size: u64,
    ) -> Result<Answered, RepairFailure> {
        let want = AskerInput::Want {
            at,
            end,
            segment_size,
        };
        self.asker.handle(boot_time(), want);
        Ok(match self.run().await? {
            AskerOutput::Given(frames) => Answered::Frames(frames),
            AskerOutput::Nothing(why) => Answered::Nothing(why),
            other => panic!("{other:?} is no answer"),
        })
    }

    /// Runs until there is something to tell.
    async fn run(&mut self) -> Result<AskerOutput, RepairFailure> {
        let link = &mut self.link;
        loop {
            while let Some(output) = self.asker.poll_output() {
                match output {
                    AskerOutput::Send(message) => push(link, &message)?,
                    AskerOutput::Close(end) => {
                        link.handle.close(CloseCode::DONE, &end.to_string());
                        return Err(end.into());
                    }
                    told => return Ok(told),
                }
            }
            let wake_at = self.asker.poll_timeout();
            let due = link.messages_out.queued_bytes() > 0;
            let input = tokio::select! {
                flushed = link.messages_out.flush(), if due => { flushed?; continue }
                message = link.messages_in.next() => {
                    AskerInput::Message(message_of(link, message)?)
                }
                data = link.data_in.next() => AskerInput::Data(data?),
                () = sleep_until(wake_at) => AskerInput::Timeout,
            };
            self.asker.handle(boot_time(), input);
        }
    }

    /// Ends the conversation.
    pub fn close(self) {
        self.link
            .handle
            .close(CloseCode::DONE, "the repair is done");
    }
}

fn push(link: &mut Link, message: &RepairMessage) -> Result<(), LinkError> {
    let body = outlast_proto::encode_repair(message).map_err(|fault| bad(link, &fault))?;
    link.messages_out.push(&LinkMessage {
        kind: KIND_REPAIR,
        body: body.into(),
    });
    Ok(())
}

fn message_of(
    link: &Link,
    message: Result<Option<LinkMessage>, LinkError>,
) -> Result<RepairMessage, LinkError> {
    match message? {
        Some(message) if message.kind == KIND_REPAIR => {
            outlast_proto::decode_repair(&message.body).map_err(|fault| bad(link, &fault))
        }
        Some(message) => Err(bad(
            link,
            &format_args!("a message of kind {}", message.kind),
        )),
        None => Err(bad(link, &"the end of the peer's messages")),
    }
}

fn bad(link: &Link, what: &dyn std::fmt::Display) -> LinkError {
    let (code, reason) = (CloseCode::BAD_MESSAGE, what.to_string());
    link.handle.close(code, &reason);
    LinkError::ClosedHere { code, reason }
}
