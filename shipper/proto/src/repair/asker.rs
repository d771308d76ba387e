//! The side that lacks frames.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use outlast_engine::format::limits::frame_len_max;
use outlast_engine::format::{Chain, ClusterId, FrameRun, Lsn, LsnRange, NodeId, to_usize};

use super::RepairEnd;
use super::message::{NotGiven, RepairAsk, RepairMessage};
use crate::config::Config;
use crate::points::LogEnd;
use crate::session::{Nonce, SessionId};
use crate::time::MonoTime;

/// What happens to an [`Asker`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskerInput {
    /// This node lacks the frames that continue `at`, up to `end`. Only after
    /// [`AskerOutput::Ready`], and after the answer to the one before.
    Want {
        /// The last sound frame before the damage.
        at: Chain,
        /// Up to where; at most a window of it is asked for.
        end: Lsn,
        /// Size of this node's segments in bytes, which bounds a frame.
        segment_size: u64,
    },
    /// A message came.
    Message(RepairMessage),
    /// Data came, cut anywhere.
    Data(Bytes),
    /// The moment of `poll_timeout` is there.
    Timeout,
}

/// What an [`Asker`] wants done, or has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskerOutput {
    /// Send a message.
    Send(RepairMessage),
    /// The peer answers; its log is durable up to here.
    Ready(Lsn),
    /// Whole frames that continue what was asked for, every checksum verified.
    Given(Bytes),
    /// The peer does not give what was asked for.
    Nothing(NotGiven),
    /// Close the connection. The last output.
    Close(RepairEnd),
}

/// Asks one peer for frames. Memory: what was asked for, or one longer frame.
#[derive(Debug)]
pub struct Asker {
    config: Config,
    nonce: Nonce,
    phase: Phase,
    deadline: MonoTime,
    out: VecDeque<AskerOutput>,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Ready(SessionId),
    Waiting(SessionId, Box<Waiting>),
    Closed,
}

/// An answer on its way. Message and data overtake each other.
#[derive(Debug)]
struct Waiting {
    at: Chain,
    len_max: u64,
    piece: Option<LsnRange>,
    data: BytesMut,
}

impl Asker {
    /// For a connection that was just made to node `to`. `nonce` is fresh.
    #[must_use]
    pub fn new(
        now: MonoTime,
        config: Config,
        cluster: ClusterId,
        to: NodeId,
        nonce: Nonce,
    ) -> Self {
        config.assert_sound();
        let ask = RepairAsk {
            versions: config.versions,
            nonce,
            cluster,
            to,
        };
        Self {
            deadline: now.after(config.handshake_timeout),
            config,
            nonce,
            phase: Phase::Opening,
            out: VecDeque::from([AskerOutput::Send(RepairMessage::Ask(ask))]),
        }
    }

    /// Takes up what happened.
    ///
    /// # Panics
    /// On a Want before [`AskerOutput::Ready`] or before the last one was answered.
    pub fn handle(&mut self, now: MonoTime, input: AskerInput) {
        let waits = matches!(self.phase, Phase::Opening | Phase::Waiting(..));
        let heard = matches!(input, AskerInput::Message(_) | AskerInput::Data(_));
        let result = match input {
            _ if matches!(self.phase, Phase::Closed) => Ok(()),
            AskerInput::Want {
                at,
                end,
                segment_size,
            } => {
                self.want(&at, end, segment_size);
                Ok(())
            }
            AskerInput::Message(message) => self.message(message),
            AskerInput::Data(bytes) => self.data(&bytes),
            AskerInput::Timeout if waits && now >= self.deadline => Err(RepairEnd::Silent),
            AskerInput::Timeout => Ok(()),
        };
        if heard || !waits {
            self.deadline = now.after(self.config.handshake_timeout);
        }
        if let Err(end) = result {
            self.phase = Phase::Closed;
            self.out.push_back(AskerOutput::Close(end));
        }
    }

    fn want(&mut self, at: &Chain, end: Lsn, segment_size: u64) {
        let Phase::Ready(session) = self.phase else {
            panic!("frames at {} are wanted in {:?}", at.lsn, self.phase);
        };
        let end = end.min(at.lsn.advance(self.config.window_bytes));
        assert!(end > at.lsn, "no frames are wanted: [{}, {end})", at.lsn);
        let waiting = Waiting {
            at: *at,
            len_max: end.bytes_since(at.lsn).max(frame_len_max(segment_size)),
            piece: None,
            data: BytesMut::new(),
        };
        self.phase = Phase::Waiting(session, Box::new(waiting));
        let at = LogEnd::from(at);
        self.out
            .push_back(AskerOutput::Send(RepairMessage::Want { session, at, end }));
    }

    fn message(&mut self, message: RepairMessage) -> Result<(), RepairEnd> {
        match (&mut self.phase, message) {
            (
                Phase::Opening,
                RepairMessage::Ready {
                    session,
                    version,
                    durable,
                },
            ) => {
                let spoken = self.config.versions;
                if session.dialler != self.nonce {
                    return Err(RepairEnd::Impossible("the name of another conversation"));
                }
                if version < spoken.oldest || version > spoken.newest {
                    return Err(RepairEnd::Impossible("a version that was not offered"));
                }
                self.phase = Phase::Ready(session);
                self.out.push_back(AskerOutput::Ready(durable));
                Ok(())
            }
            (Phase::Opening, RepairMessage::Refuse { asker, reason }) => {
                Err(if asker == self.nonce {
                    RepairEnd::Refused(reason)
                } else {
                    RepairEnd::Impossible("the name of another conversation")
                })
            }
            (Phase::Waiting(ours, waiting), RepairMessage::Piece { session, range }) => {
                if session != *ours || waiting.piece.is_some() {
                    return Err(RepairEnd::Impossible("an answer to something else"));
                }
                if range.start != waiting.at.lsn || range.is_empty() {
                    return Err(RepairEnd::Impossible("another piece than was asked for"));
                }
                if range.len_bytes() > waiting.len_max {
                    return Err(RepairEnd::Impossible("more than it was asked for"));
                }
                waiting.piece = Some(range);
                self.complete()
            }
            (Phase::Waiting(ours, waiting), RepairMessage::Nothing { session, at, why }) => {
                if session != *ours || at != waiting.at.lsn || !waiting.data.is_empty() {
                    return Err(RepairEnd::Impossible("an answer to something else"));
                }
                self.phase = Phase::Ready(session);
                self.out.push_back(AskerOutput::Nothing(why));
                Ok(())
            }
            (_, message) => Err(RepairEnd::Unexpected(message.name())),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), RepairEnd> {
        let Phase::Waiting(_, waiting) = &mut self.phase else {
            return Err(RepairEnd::Unexpected("data"));
        };
        let allowed = waiting
            .piece
            .map_or(waiting.len_max, |piece| piece.len_bytes());
        if (waiting.data.len() + bytes.len()) as u64 > allowed {
            return Err(RepairEnd::Impossible("more than it was asked for"));
        }
        waiting.data.extend_from_slice(bytes);
        self.complete()
    }

    /// Hands the frames out once all bytes of them are here.
    fn complete(&mut self) -> Result<(), RepairEnd> {
        let Phase::Waiting(session, waiting) = &mut self.phase else {
            return Ok(());
        };
        let Some(len) = waiting.piece.map(|piece| to_usize(piece.len_bytes())) else {
            return Ok(());
        };
        if waiting.data.len() < len {
            return Ok(());
        }
        if waiting.data.len() > len {
            return Err(RepairEnd::Impossible("more than it announced"));
        }
        let at = waiting.at.lsn;
        let data = std::mem::take(&mut waiting.data).freeze();
        let run = FrameRun::check(&waiting.at, data).map_err(|fault| RepairEnd::BadData {
            at,
            fault: fault.fault,
        })?;
        self.phase = Phase::Ready(*session);
        self.out.push_back(AskerOutput::Given(run.bytes().clone()));
        Ok(())
    }

    /// What is to be done or told next.
    pub fn poll_output(&mut self) -> Option<AskerOutput> {
        self.out.pop_front()
    }

    /// When to say [`AskerInput::Timeout`], if nothing happens before. None while this node asks
    /// for nothing.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<MonoTime> {
        match self.phase {
            Phase::Opening | Phase::Waiting(..) => Some(self.deadline),
            Phase::Ready(_) | Phase::Closed => None,
        }
    }
}
