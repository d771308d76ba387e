//! The primary's side of one session: binds a [`Sender`] to a link and to the store.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::{LogState, ReplicaPositions, Store};

use outlast_proto::{
    CloseReason, ConflictKind, MonoTime, PrimaryState, PrimaryView, Sender, SenderEvent,
    SenderInput, SenderOutput, Term,
};
use tokio::sync::Notify;

use super::boot_clock::boot_time;
use super::reads::LogReads;
use super::wire::{Wire, WireEvent};
use crate::Link;
use crate::error::{CloseCode, LinkError};

/// What a session asks of the node around it. Called on the network's thread.
pub trait ShipHooks: Send + Sync {
    /// Fence this node durably before anything else: a higher term exists.
    fn fence(&self, term: Term);

    /// Stop acknowledging, durably: two histories contradict each other.
    fn conflict(&self, kind: &ConflictKind, heard: Term);

    /// Something worth knowing.
    fn event(&self, event: &SenderEvent);
}

/// What one session needs.
pub struct Shipment {
    /// The store whose log is shipped (or, before its epoch, whose tail is fetched back).
    pub store: Store,
    /// Told whenever the store's positions or state moved.
    pub changed: Arc<Notify>,
    /// Told when this node begins an epoch or stops: the session ends.
    pub ended: Arc<Notify>,
    /// The node.
    pub hooks: Arc<dyn ShipHooks>,
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
        protection: None,
        state,
    }
}

/// How a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The protocol ended it.
    Session(CloseReason),
    /// The link under it went away.
    Link(LinkError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(reason) => reason.fmt(f),
            Self::Link(error) => error.fmt(f),
        }
    }
}

/// Runs one session to its end.
pub async fn ship(link: Link, mut sender: Sender, shipment: Shipment) -> Ended {
    let mut session = Session {
        wire: Wire::new(link),
        reads: LogReads::new(shipment.store.clone()),
        replica: ReplicaPositions::default(),
        answers: VecDeque::new(),
        shipment,
    };
    loop {
        while let Some(output) = sender.poll_output() {
            if let Some(ended) = session.obey(output) {
                let reason = match ended {
                    Ended::Session(reason) => reason,
                    link => return link,
                };
                let code = match reason {
                    CloseReason::Ended(_) => CloseCode::STOPPING,
                    _ => CloseCode::DONE,
                };
                session.wire.close(code, &reason.to_string()).await;
                return Ended::Session(reason);
            }
        }
        if let Some(answer) = session.answers.pop_front() {
            sender.handle(boot_time(), answer);
            continue;
        }
        let wake_at = sender.poll_timeout();
        let input = tokio::select! {
            biased;
            () = session.shipment.ended.notified() => SenderInput::EpochBegins,
            event = session.wire.event() => match event {
                WireEvent::Message(message) => SenderInput::Message(message),
                WireEvent::RunStart(header) => SenderInput::RunStart(header),
                WireEvent::RunBytes(bytes) => SenderInput::RunBytes(bytes),
                WireEvent::MessagesFlushed => SenderInput::ControlFlushed,
                WireEvent::DataFlushed => continue,
                WireEvent::Ended(error) => {
                    sender.handle(boot_time(), SenderInput::Disconnected);
                    return Ended::Link(error);
                }
            },
            () = session.shipment.changed.notified() => {
                SenderInput::View(primary_view(&session.shipment.store))
            }
            (from, bytes) = session.reads.finished() => log_bytes(from, bytes),
            () = sleep_until(wake_at) => SenderInput::Timeout,
        };
        sender.handle(boot_time(), input);
    }
}

struct Session {
    wire: Wire,
    reads: LogReads,
    replica: ReplicaPositions,
    /// What was done at once and is told once all outputs are taken.
    answers: VecDeque<SenderInput>,
    shipment: Shipment,
}

impl Session {
    /// Does what the protocol asks; answers with the reason once the session is over.
    fn obey(&mut self, output: SenderOutput) -> Option<Ended> {
        let store = &self.shipment.store;
        match output {
            SenderOutput::Send(message) => {
                if let Err(error) = self.wire.push(&message) {
                    return Some(Ended::Link(error));
                }
            }
            SenderOutput::Data(header, bytes) => self.wire.push_data(&header, bytes),
            SenderOutput::Read { from, max_bytes } => {
                if let Some(bytes) = self.reads.read(from, max_bytes) {
                    self.answers.push_back(log_bytes(from, bytes));
                }
            }
            SenderOutput::NoteAttached { .. } => {
                let noted = store.note_attached();
                self.answer(noted, |()| SenderInput::AttachmentNoted);
            }
            SenderOutput::Append(run) => {
                let appended = fetch(store, &run);
                self.answer(appended, SenderInput::Appended);
            }
            SenderOutput::Sync => {
                let synced = store.sync().map(|_| store.positions().durable);
                self.answer(synced, SenderInput::Durable);
            }
            SenderOutput::Fence { term, told_by } => {
                tracing::warn!(%term, %told_by, "a higher term exists: this node fences itself");
                self.shipment.hooks.fence(term);
            }
            SenderOutput::Conflict { kind, with, heard } => {
                tracing::error!(?kind, %with, %heard, "conflict with the peer");
                self.shipment.hooks.conflict(&kind, heard);
            }
            SenderOutput::Event(event) => {
                self.learn(&event);
                self.shipment.hooks.event(&event);
            }
            SenderOutput::Close(reason) => return Some(Ended::Session(reason)),
        }
        None
    }

    fn answer<T>(
        &mut self,
        outcome: outlast_engine::Result<T>,
        input: impl FnOnce(T) -> SenderInput,
    ) {
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
        // A session may report less than the one before; each part is told by an event of its own.
        self.replica.received = self.replica.received.max(self.replica.durable);
        self.shipment.store.set_replica_positions(self.replica);
    }
}

/// Takes frames of this node's own lost tail back.
fn fetch(
    store: &Store,
    run: &outlast_engine::format::FrameRun,
) -> outlast_engine::Result<outlast_engine::format::Position> {
    store.begin_following()?;
    store.note_fetched(run.range())?;
    store.append_run(run)?;
    Ok(store.positions().appended)
}

fn log_bytes(
    from: outlast_engine::format::Lsn,
    bytes: outlast_engine::Result<bytes::Bytes>,
) -> SenderInput {
    match bytes {
        Ok(bytes) => SenderInput::LogBytes { from, bytes },
        Err(error) => {
            tracing::error!(%error, "the log cannot be read for shipping");
            SenderInput::LogFailed
        }
    }
}

/// Sleeps until a moment of the boot clock; for ever if there is none.
pub async fn sleep_until(at: Option<MonoTime>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(boot_time()).max(Duration::ZERO)).await,
        None => std::future::pending().await,
    }
}
