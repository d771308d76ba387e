//! The side that gives: a node in any role, from its own log, read only.

use std::collections::VecDeque;

use bytes::Bytes;
use outlast_engine::format::{Chain, ClusterId, FrameRun, Lsn, NodeId};

use super::RepairEnd;
use super::message::{NotGiven, RepairAsk, RepairMessage, RepairRefusal};
use crate::config::Config;
use crate::session::{Nonce, SessionId};
use crate::time::MonoTime;

/// What happens to a [`Giver`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GiverInput {
    /// A message came.
    Message(RepairMessage),
    /// The read that was asked for: whole frames that continue what it named, at least one.
    Read(Result<Bytes, NotGiven>),
    /// Data came, which nobody sends to this side.
    Data,
    /// The moment of `poll_timeout` is there.
    Timeout,
}

/// What a [`Giver`] wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GiverOutput {
    /// Send a message.
    Send(RepairMessage),
    /// Send data.
    Data(Bytes),
    /// Read durable frames that continue `at`, as many whole ones as fit in `len_max` bytes but at
    /// least one. Answered by [`GiverInput::Read`].
    Read {
        /// What they must continue. It is the peer's word: nothing else is taken from it.
        at: Chain,
        /// Most bytes, unless one frame is longer.
        len_max: u64,
    },
    /// Close the connection, once all before is sent. The last output.
    Close(RepairEnd),
}

/// Answers one node that mends its log. Holds no frames but those on their way out: a window at
/// most, or one longer frame.
#[derive(Debug)]
pub struct Giver {
    config: Config,
    cluster: ClusterId,
    node: NodeId,
    nonce: Nonce,
    /// How far the log is durable when the conversation begins.
    durable: Lsn,
    /// Whether another conversation is under way.
    busy: bool,
    phase: Phase,
    deadline: MonoTime,
    out: VecDeque<GiverOutput>,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Waiting(SessionId),
    Reading(SessionId, Chain),
    Closed,
}

impl Giver {
    /// For a connection that was just made, from this node's facts. `nonce` is fresh.
    #[must_use]
    pub fn new(
        now: MonoTime,
        config: Config,
        (cluster, node): (ClusterId, NodeId),
        durable: Lsn,
        busy: bool,
        nonce: Nonce,
    ) -> Self {
        config.assert_sound();
        Self {
            deadline: now.after(config.handshake_timeout),
            config,
            cluster,
            node,
            nonce,
            durable,
            busy,
            phase: Phase::Opening,
            out: VecDeque::new(),
        }
    }

    /// Takes up what happened.
    pub fn handle(&mut self, now: MonoTime, input: GiverInput) {
        match (&self.phase, input) {
            (Phase::Closed, _) => {}
            (_, GiverInput::Data) => self.close(RepairEnd::Unexpected("data")),
            (Phase::Reading(..), GiverInput::Timeout) => {}
            (_, GiverInput::Timeout) => {
                if now >= self.deadline {
                    self.close(RepairEnd::Silent);
                }
            }
            (Phase::Opening, GiverInput::Message(RepairMessage::Ask(ask))) => self.ask(now, &ask),
            (
                Phase::Waiting(ours),
                GiverInput::Message(RepairMessage::Want { session, at, end }),
            ) => {
                let ours = *ours;
                let len_max = end.bytes_since(at.lsn);
                if session != ours {
                    return self.close(RepairEnd::Impossible("the name of another conversation"));
                }
                if len_max == 0 {
                    return self.close(RepairEnd::Impossible("a request for nothing"));
                }
                if len_max > self.config.window_bytes {
                    return self.close(RepairEnd::Impossible("a request over the window"));
                }
                let at = at.chain(self.cluster);
                self.phase = Phase::Reading(ours, at);
                self.out.push_back(GiverOutput::Read { at, len_max });
            }
            (Phase::Reading(session, at), GiverInput::Read(read)) => {
                let (session, at) = (*session, *at);
                self.phase = Phase::Waiting(session);
                self.deadline = now.after(self.config.handshake_timeout);
                self.answer(session, &at, read);
            }
            (_, GiverInput::Message(message)) => {
                self.close(RepairEnd::Unexpected(message.name()));
            }
            (phase, GiverInput::Read(_)) => panic!("a read that was not asked for in {phase:?}"),
        }
    }

    fn ask(&mut self, now: MonoTime, ask: &RepairAsk) {
        let version = self.config.versions.agree(&ask.versions);
        let refusal = if ask.cluster != self.cluster {
            Some(RepairRefusal::OtherCluster)
        } else if ask.to != self.node {
            Some(RepairRefusal::OtherNode)
        } else if self.busy {
            Some(RepairRefusal::Busy)
        } else {
            None
        };
        let session = SessionId {
            dialler: ask.nonce,
            listener: self.nonce,
        };
        match (refusal, version) {
            (None, Some(version)) => {
                self.phase = Phase::Waiting(session);
                self.deadline = now.after(self.config.handshake_timeout);
                self.send(RepairMessage::Ready {
                    session,
                    version,
                    durable: self.durable,
                });
            }
            (refusal, _) => {
                let reason = refusal.unwrap_or(RepairRefusal::Version(self.config.versions));
                let asker = ask.nonce;
                self.send(RepairMessage::Refuse { asker, reason });
                self.close(RepairEnd::Declined(reason));
            }
        }
    }

    fn answer(&mut self, session: SessionId, at: &Chain, read: Result<Bytes, NotGiven>) {
        // Checked here too: damage on this disk never goes further.
        let run = read.and_then(|bytes| {
            let run = FrameRun::check(at, bytes).map_err(|_| NotGiven::Damaged)?;
            let durable = self.durable;
            (!run.bytes().is_empty())
                .then_some(run)
                .ok_or(NotGiven::NotHeld { durable })
        });
        match run {
            Ok(run) => {
                let range = run.range();
                self.send(RepairMessage::Piece { session, range });
                self.out.push_back(GiverOutput::Data(run.bytes().clone()));
            }
            Err(why) => self.send(RepairMessage::Nothing {
                session,
                at: at.lsn,
                why,
            }),
        }
    }

    fn send(&mut self, message: RepairMessage) {
        self.out.push_back(GiverOutput::Send(message));
    }

    fn close(&mut self, end: RepairEnd) {
        self.phase = Phase::Closed;
        self.out.push_back(GiverOutput::Close(end));
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<GiverOutput> {
        self.out.pop_front()
    }

    /// When to say [`GiverInput::Timeout`], if nothing happens before. None while the disk reads.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<MonoTime> {
        match self.phase {
            Phase::Opening | Phase::Waiting(_) => Some(self.deadline),
            Phase::Reading(..) | Phase::Closed => None,
        }
    }
}
