//! Control messages and run headers as bytes: an envelope with a length that is checked before
//! anything is allocated for it, and postcard inside.
//!
//! A reader of a stream takes [`HEADER_LEN`] bytes, asks [`announced_len`] how long the whole
//! message is, reads the rest and calls [`decode`].

use outlast_engine::format::{Envelope, EnvelopeFault, EpochId, Lsn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::message::Message;
use crate::repair::RepairMessage;
use crate::session::{Binding, Nonce, RunHeader, SessionId};

/// Bytes of a message before its body.
pub const HEADER_LEN: usize = Envelope::HEADER_LEN;
/// Longest body of a control message behind the handshake, in bytes.
pub const MESSAGE_LEN_MAX: u32 = 64 << 10;
/// Longest body of a Hello or Welcome in bytes: these carry the history of all epochs.
pub const HANDSHAKE_LEN_MAX: u32 = 6 << 20;
/// Length of an encoded [`RunHeader`] in bytes; every one has the same.
pub const RUN_HEADER_LEN: usize = HEADER_LEN + RUN_BODY_LEN as usize;

const MAGIC: [u8; 4] = *b"OLPM";
const RUN_MAGIC: [u8; 4] = *b"OLPR";
const FORMAT: u16 = 1;
/// Nonces and epoch by their bytes, and the position in eight more.
const RUN_BODY_LEN: u32 = 8 + 8 + 16 + 8;

const HANDSHAKE: Envelope = Envelope {
    magic: MAGIC,
    version: FORMAT,
    kind: 1,
    len_max: HANDSHAKE_LEN_MAX,
};
const CONTROL: Envelope = Envelope {
    magic: MAGIC,
    version: FORMAT,
    kind: 2,
    len_max: MESSAGE_LEN_MAX,
};
const REPAIR: Envelope = Envelope {
    magic: MAGIC,
    version: FORMAT,
    kind: 3,
    len_max: MESSAGE_LEN_MAX,
};
const RUN: Envelope = Envelope {
    magic: RUN_MAGIC,
    version: FORMAT,
    kind: 1,
    len_max: RUN_BODY_LEN,
};

/// Bytes that are no message, or a message that is too long. Close the connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecFault {
    /// Damage, another program, another version of the envelope, or too long.
    #[error("no message of this protocol: {0}")]
    Envelope(#[from] EnvelopeFault),
    /// A sound envelope around something else.
    #[error("a message does not decode: {what}")]
    Body {
        /// What the decoder says.
        what: String,
    },
    /// A message that must not be sent, since no peer would take it.
    #[error("a {name} of {len_bytes} bytes is over the limit of {len_max_bytes}")]
    TooLong {
        /// Which message.
        name: &'static str,
        /// Its length.
        len_bytes: usize,
        /// The limit.
        len_max_bytes: u32,
    },
}

/// The bytes of a message.
///
/// # Errors
/// [`CodecFault::TooLong`] when it is over its limit.
pub fn encode(message: &Message) -> Result<Vec<u8>, CodecFault> {
    let envelope = match message {
        Message::Hello(_) | Message::Welcome(_) => HANDSHAKE,
        _ => CONTROL,
    };
    let body = body(message)?;
    if body.len() > envelope.len_max as usize {
        return Err(CodecFault::TooLong {
            name: message.name(),
            len_bytes: body.len(),
            len_max_bytes: envelope.len_max,
        });
    }
    Ok(envelope.seal(&body))
}

/// Length in bytes of the whole message that begins with this header.
///
/// # Errors
/// When the header is none, or announces more than its kind of message may have.
pub fn announced_len(header: &[u8; HEADER_LEN]) -> Result<usize, CodecFault> {
    let body_len = envelope_of(header).body_len(header)?;
    Ok(HEADER_LEN + body_len)
}

/// The message in `bytes`, which end with it.
///
/// # Errors
/// When the bytes are anything else.
pub fn decode(bytes: &[u8]) -> Result<Message, CodecFault> {
    let envelope = envelope_of(bytes);
    let message: Message = open(&envelope, bytes)?;
    let is_handshake = matches!(message, Message::Hello(_) | Message::Welcome(_));
    if is_handshake != (envelope == HANDSHAKE) {
        return Err(fault("a message in the envelope of another kind"));
    }
    Ok(message)
}

/// The bytes of a message about a repair.
///
/// # Errors
/// When it cannot be encoded.
pub fn encode_repair(message: &RepairMessage) -> Result<Vec<u8>, CodecFault> {
    Ok(REPAIR.seal(&body(message)?))
}

/// The message about a repair in `bytes`, which end with it.
///
/// # Errors
/// When the bytes are anything else.
pub fn decode_repair(bytes: &[u8]) -> Result<RepairMessage, CodecFault> {
    open(&REPAIR, bytes)
}

/// The bytes of a run header.
#[must_use]
pub fn encode_run(header: &RunHeader) -> [u8; RUN_HEADER_LEN] {
    let session = &header.binding.session;
    let body = [
        &session.dialler.0[..],
        &session.listener.0[..],
        &header.binding.epoch.0[..],
        &header.first.0.to_le_bytes()[..],
    ];
    let mut out = [0; RUN_HEADER_LEN];
    out.copy_from_slice(&RUN.seal(&body.concat()));
    out
}

/// The run header in `bytes`.
///
/// # Errors
/// When the bytes are anything else.
pub fn decode_run(bytes: &[u8; RUN_HEADER_LEN]) -> Result<RunHeader, CodecFault> {
    let mut rest = RUN.open(bytes)?;
    let header = RunHeader {
        binding: Binding {
            session: SessionId {
                dialler: Nonce(take(&mut rest)?),
                listener: Nonce(take(&mut rest)?),
            },
            epoch: EpochId(take(&mut rest)?),
        },
        first: Lsn(u64::from_le_bytes(take(&mut rest)?)),
    };
    Ok(header)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CodecFault> {
    let (field, behind) = rest
        .split_first_chunk()
        .ok_or_else(|| fault("a run header that ends too early"))?;
    *rest = behind;
    Ok(*field)
}

fn envelope_of(bytes: &[u8]) -> Envelope {
    let kind = bytes.get(6..8);
    if kind == Some(&HANDSHAKE.kind.to_le_bytes()[..]) {
        HANDSHAKE
    } else {
        CONTROL
    }
}

fn body<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecFault> {
    postcard::to_stdvec(value).map_err(fault)
}

fn open<T: DeserializeOwned>(envelope: &Envelope, bytes: &[u8]) -> Result<T, CodecFault> {
    let body = envelope.open(bytes)?;
    if bytes.len() != HEADER_LEN + body.len() {
        return Err(fault("bytes behind its end"));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(fault(format_args!("{} bytes too many", rest.len()))),
        Err(error) => Err(fault(error)),
    }
}

fn fault(what: impl ToString) -> CodecFault {
    CodecFault::Body {
        what: what.to_string(),
    }
}
