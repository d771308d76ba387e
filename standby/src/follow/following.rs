//! Following without a link and without threads: binds the one [`Receiver`] of this process to the
//! store. Whoever has a link, a clock and something that does jobs drives it; nothing here waits.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use outlast_engine::format::Lsn;
use outlast_engine::{ProtectionMark, Store, TermMark};
use outlast_proto::{
    CloseReason, Config, ConflictKind, Message, MonoTime, Receiver, ReceiverEvent, ReceiverInput,
    ReceiverOutput, RunHeader, Term,
};
use parking_lot::Mutex;

use super::jobs::{Done, Job};
use crate::roles::{log_view, standby_facts};

/// What is left for whoever has the link.
#[derive(Debug)]
pub enum FollowOutput {
    /// As [`ReceiverOutput::Send`].
    Send(Message),
    /// As [`ReceiverOutput::Data`].
    Data(RunHeader, Bytes),
    /// Read the log, and answer with [`Following::read_done`]. At most one is under way.
    Read {
        /// Where to begin.
        from: Lsn,
        /// Most bytes, unless the first frame is longer.
        max_bytes: usize,
    },
    /// Do this to the log, and tell what was done by [`Following::done`].
    Job(Job),
    /// As [`ReceiverOutput::Conflict`].
    Conflict {
        /// Between what.
        kind: ConflictKind,
        /// The highest term that the peer knows.
        heard: Term,
    },
    /// Something worth knowing.
    Event(ReceiverEvent),
    /// As [`ReceiverOutput::Close`].
    Close(CloseReason),
}

/// A node that follows.
///
/// **Law:** as that of [`Receiver`]: after each call drain [`Following::poll_output`] to `None`,
/// then wait for the next input or for the moment of the receiver's timeout.
pub struct Following {
    receiver: Arc<Mutex<Receiver>>,
    /// Jobs that come behind those of the receiver's last outputs.
    behind: VecDeque<Job>,
    /// What was done at once and is told once all outputs are taken.
    answers: VecDeque<ReceiverInput>,
}

impl Following {
    /// Finishes the store's recovery and begins to follow at `now`.
    ///
    /// # Errors
    /// Those of [`Store::begin_following`].
    pub fn start(now: MonoTime, config: Config, store: &Store) -> outlast_engine::Result<Self> {
        store.begin_following()?;
        let receiver = Receiver::new(now, config, standby_facts(store));
        Ok(Self {
            receiver: Arc::new(Mutex::new(receiver)),
            behind: VecDeque::new(),
            answers: VecDeque::new(),
        })
    }

    /// The receiver, for whoever asks how it stands. Only this gives it inputs.
    #[must_use]
    pub fn receiver(&self) -> &Arc<Mutex<Receiver>> {
        &self.receiver
    }

    /// Takes what happened at `now`.
    pub fn handle(&mut self, now: MonoTime, input: ReceiverInput) {
        self.receiver.lock().handle(now, input);
    }

    /// Accepts, echoes and acknowledges nothing from here on. `barrier` is called once everything
    /// that was accepted before is appended, fsynced and counted.
    pub fn withdraw(&mut self, now: MonoTime, barrier: Box<dyn FnOnce() + Send>) {
        self.handle(now, ReceiverInput::Withdraw);
        self.behind.extend([Job::Sync, Job::Barrier(barrier)]);
    }

    /// Takes what was done to the log.
    pub fn done(&mut self, now: MonoTime, done: Done) {
        let input = match done {
            Done::Appended(position) => ReceiverInput::Appended(position),
            Done::Durable(position) => ReceiverInput::Durable(position),
            Done::Applied(position) => ReceiverInput::Applied(position),
            Done::Noted => ReceiverInput::Noted,
            Done::Quarantined(view) => ReceiverInput::Quarantined(Box::new(log_view(*view))),
            Done::Failed(error) => failed(&error),
        };
        self.handle(now, input);
    }

    /// Takes what a read of the log from `from` on has given.
    pub fn read_done(&mut self, from: Lsn, bytes: outlast_engine::Result<Bytes>) {
        self.answers.push_back(match bytes {
            Ok(bytes) => ReceiverInput::LogBytes { from, bytes },
            Err(error) => failed(&error),
        });
    }

    /// The next thing that the protocol asks for; `None` when there is nothing to do before the
    /// next input.
    pub fn poll_output(&mut self, now: MonoTime) -> Option<FollowOutput> {
        loop {
            let output = self.receiver.lock().poll_output();
            if let Some(output) = output {
                return Some(translate(output));
            }
            if let Some(job) = self.behind.pop_front() {
                return Some(FollowOutput::Job(job));
            }
            let answer = self.answers.pop_front()?;
            self.handle(now, answer);
        }
    }

    /// When to give [`ReceiverInput::Timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        self.receiver.lock().poll_timeout()
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Following({:?})", self.receiver.lock().status().phase)
    }
}

fn failed(error: &outlast_engine::Error) -> ReceiverInput {
    tracing::error!(%error, "the log of this standby failed");
    ReceiverInput::LogFailed
}

fn translate(output: ReceiverOutput) -> FollowOutput {
    match output {
        ReceiverOutput::Send(message) => FollowOutput::Send(message),
        ReceiverOutput::Data(header, bytes) => FollowOutput::Data(header, bytes),
        ReceiverOutput::Read { from, max_bytes } => FollowOutput::Read { from, max_bytes },
        ReceiverOutput::Append(run) => FollowOutput::Job(Job::Append(run)),
        ReceiverOutput::Sync => FollowOutput::Job(Job::Sync),
        ReceiverOutput::ApplyTo(lsn) => FollowOutput::Job(Job::ApplyTo(lsn)),
        ReceiverOutput::Note { heard, protection } => {
            let heard = TermMark {
                term: heard.number,
                opened_by: heard.opened_by,
            };
            let protection = protection.map(|point| ProtectionMark {
                term: point.term,
                start: point.start,
                lsn: point.lsn,
                epoch: point.epoch,
            });
            FollowOutput::Job(Job::Note { heard, protection })
        }
        ReceiverOutput::Quarantine { from } => FollowOutput::Job(Job::Quarantine { from }),
        ReceiverOutput::Conflict { kind, with, heard } => {
            tracing::error!(?kind, %with, %heard, "conflict with the peer");
            FollowOutput::Conflict { kind, heard }
        }
        ReceiverOutput::Event(event) => FollowOutput::Event(event),
        ReceiverOutput::Close(reason) => FollowOutput::Close(reason),
    }
}
