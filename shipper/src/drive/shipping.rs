//! A session of a primary without its link: binds a [`Sender`] to the store. Whoever has a link, a
//! clock and a loop around it drives it; nothing here waits.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use outlast_engine::format::{FrameRun, Lsn, Position};
use outlast_engine::kill_points::{Point, pass};
use outlast_engine::{ErrorKind, LogState, ProtectionMark, ReplicaPositions, Result, Store};
use outlast_proto::{
    CloseReason, ConflictKind, Message, MonoTime, PrimaryState, PrimaryView, ProtectionPoint,
    RunHeader, Sender, SenderEvent, SenderInput, SenderOutput, SenderStatus, Term,
};

/// What a session asks of the node around it.
pub trait ShipHooks: Send + Sync {
    /// Fence this node durably before anything else: a higher term exists.
    fn fence(&self, term: Term);

    /// Stop acknowledging, durably: two histories contradict each other.
    fn conflict(&self, kind: &ConflictKind, heard: Term);

    /// Something worth knowing.
    fn event(&self, event: &SenderEvent);
}

/// What is left for whoever has the link.
#[derive(Debug)]
pub enum ShipOutput {
    /// As [`SenderOutput::Send`].
    Send(Message),
    /// As [`SenderOutput::Data`].
    Data(RunHeader, Bytes),
    /// Read the log, and answer with [`Shipping::read_done`]. At most one is under way.
    Read {
        /// Where to begin.
        from: Lsn,
        /// Most bytes, unless the first frame is longer.
        max_bytes: usize,
    },
    /// As [`SenderOutput::Close`]; the last output.
    Close(CloseReason),
}

/// One session, from its Hello to its Close.
///
/// **Law:** as that of [`Sender`]: after each call drain [`Shipping::poll_output`] to `None`, then
/// wait for the next input or for the moment of [`Shipping::poll_timeout`].
pub struct Shipping {
    sender: Sender,
    store: Store,
    hooks: Arc<dyn ShipHooks>,
    replica: ReplicaPositions,
    /// Whether `replica` says more than the store knows.
    learnt: bool,
    /// What was done at once and is told once all outputs are taken.
    answers: VecDeque<SenderInput>,
}

impl Shipping {
    /// Binds a sender that has just begun to a store.
    #[must_use]
    pub fn new(sender: Sender, store: Store, hooks: Arc<dyn ShipHooks>) -> Self {
        Self {
            sender,
            store,
            hooks,
            replica: ReplicaPositions::default(),
            learnt: false,
            answers: VecDeque::new(),
        }
    }

    /// Takes what happened at `now`.
    pub fn handle(&mut self, now: MonoTime, input: SenderInput) {
        self.sender.handle(now, input);
    }

    /// Takes the store's positions and state as they are now.
    pub fn look(&mut self, now: MonoTime) {
        self.handle(now, SenderInput::View(primary_view(&self.store)));
    }

    /// Takes what a read of the log from `from` on has given.
    pub fn read_done(&mut self, from: Lsn, bytes: Result<Bytes>) {
        self.answers.push_back(log_bytes(from, bytes));
    }

    /// Does what the protocol asks of the store, and answers with the next thing that it asks of
    /// the link; `None` when there is nothing to do before the next input.
    pub fn poll_output(&mut self, now: MonoTime) -> Option<ShipOutput> {
        loop {
            while let Some(output) = self.sender.poll_output() {
                if let Some(output) = self.obey(output) {
                    self.publish();
                    return Some(output);
                }
            }
            self.publish();
            let answer = self.answers.pop_front()?;
            self.sender.handle(now, answer);
        }
    }

    /// When to give [`SenderInput::Timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        self.sender.poll_timeout()
    }

    /// How the session stands.
    #[must_use]
    pub fn status(&self) -> SenderStatus {
        self.sender.status()
    }

    fn obey(&mut self, output: SenderOutput) -> Option<ShipOutput> {
        match output {
            SenderOutput::Send(message) => return Some(ShipOutput::Send(message)),
            SenderOutput::Data(header, bytes) => return Some(ShipOutput::Data(header, bytes)),
            SenderOutput::Read { from, max_bytes } => {
                return Some(ShipOutput::Read { from, max_bytes });
            }
            SenderOutput::NoteAttached { .. } => {
                let noted = self.store.note_attached();
                self.answer(noted, |()| SenderInput::AttachmentNoted);
            }
            SenderOutput::Append(run) => {
                let appended = fetch(&self.store, &run);
                self.answer(appended, SenderInput::Appended);
            }
            SenderOutput::Sync => {
                let store = &self.store;
                let synced = store.sync().map(|_| store.positions().durable);
                self.answer(synced, SenderInput::Durable);
            }
            SenderOutput::Fence { term, told_by } => {
                tracing::warn!(%term, %told_by, "a higher term exists: this node fences itself");
                self.hooks.fence(term);
            }
            SenderOutput::Conflict { kind, with, heard } => {
                tracing::error!(?kind, %with, %heard, "conflict with the peer");
                self.hooks.conflict(&kind, heard);
            }
            SenderOutput::Event(event) => {
                self.learn(&event);
                self.hooks.event(&event);
            }
            SenderOutput::Close(reason) => return Some(ShipOutput::Close(reason)),
        }
        None
    }

    fn answer<T>(&mut self, outcome: Result<T>, input: impl FnOnce(T) -> SenderInput) {
        let input = match outcome {
            Ok(value) => input(value),
            Err(error) => {
                tracing::error!(%error, "the log failed under a session");
                SenderInput::LogFailed
            }
        };
        self.answers.push_back(input);
    }

    fn learn(&mut self, event: &SenderEvent) {
        match event {
            SenderEvent::Received(position) => self.replica.received = *position,
            SenderEvent::Replicated(position) => self.replica.durable = *position,
            SenderEvent::Applied(position) => self.replica.applied = *position,
            _ => return,
        }
        self.learnt = true;
    }

    /// Shows what the standby reported. Each part comes by an event of its own, and all parts of
    /// one report are shown as one: a session's first must not look like a standby that has applied
    /// nothing.
    fn publish(&mut self) {
        if std::mem::take(&mut self.learnt) {
            self.store.set_replica_positions(self.replica);
        }
    }
}

/// What a primary says of itself now.
#[must_use]
pub fn primary_view(store: &Store) -> PrimaryView {
    let positions = store.positions();
    let state = match store.state() {
        LogState::Poisoned(_) => PrimaryState::Poisoned,
        LogState::Closed => PrimaryState::Stopping,
        _ => PrimaryState::Serving,
    };
    PrimaryView {
        appended: positions.appended,
        durable: positions.durable,
        visible: positions.visible,
        protection: store.newest_protection().map(protection_point),
        state,
    }
}

/// Where a protection record stands, to the protocol.
#[must_use]
pub const fn protection_point(mark: ProtectionMark) -> ProtectionPoint {
    ProtectionPoint {
        term: mark.term,
        start: mark.start,
        lsn: mark.lsn,
        epoch: mark.epoch,
    }
}

/// Takes frames of this node's own lost tail back.
fn fetch(store: &Store, run: &FrameRun) -> Result<Position> {
    store.note_peer_holds(run.range().end);
    store.begin_following()?;
    store.note_fetched(run.range())?;
    store.append_run(run)?;
    pass(Point::FetchAppended);
    Ok(store.positions().appended)
}

fn log_bytes(from: Lsn, bytes: Result<Bytes>) -> SenderInput {
    match bytes {
        Ok(bytes) => SenderInput::LogBytes { from, bytes },
        Err(error) if error.kind() == ErrorKind::LogTruncated => {
            tracing::error!(%error, "the standby is further behind than the log is kept: make it \
                again with `outlast checkpoint` here and `outlast restore` there");
            SenderInput::LogTruncated
        }
        Err(error) => {
            tracing::error!(%error, "the log cannot be read for shipping");
            SenderInput::LogFailed
        }
    }
}
