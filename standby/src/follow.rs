//! Following: binds the one [`Receiver`] of this process to whatever link its primary has made.

pub(crate) mod following;
pub(crate) mod jobs;
mod no_room;
mod replay;
mod writer;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use outlast_engine::Store;
use outlast_engine::format::Lsn;
use outlast_engine::kill_points::{Point, pass};
use outlast_proto::{
    ConflictKind, Hello, Message, Nonce, Receiver, ReceiverEvent, ReceiverInput, Term,
};
use outlast_shipper::drive::{LogReads, Wire, WireEvent, boot_time};
use outlast_shipper::{CloseCode, LinkHandle};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use self::following::{FollowOutput, Following};
use self::jobs::Done;
use self::no_room::NoRoom;
use self::writer::LogWriter;
use crate::error::{Error, Result};

/// The name of the task that follows, by which its panic is reported.
pub(crate) const TASK: &str = "follow";

/// What a following node is told by the node around it.
pub(crate) enum Command {
    /// A primary has opened a session, and nothing speaks against it.
    Meet {
        wire: Box<Wire>,
        nonce: Nonce,
        hello: Box<Hello>,
    },
    /// A higher term exists whose writer cannot be followed.
    HeardTerm(Term),
    /// Promotion begins: accept, echo and acknowledge nothing any more. Answered once everything
    /// that was received before is in the log.
    Withdraw(std::sync::mpsc::Sender<()>),
    /// The promotion was given up.
    Reinstate,
}

/// What a following node tells the node around it.
pub(crate) trait FollowHooks: Send + Sync {
    /// Stop, durably: two histories contradict each other.
    fn conflict(&self, kind: &ConflictKind, heard: Term);
    /// Something worth knowing.
    fn event(&self, event: &ReceiverEvent);
    /// The link came or went.
    fn link(&self, link: Option<LinkHandle>, why: Option<String>);
}

/// The handle on the task that follows.
pub(crate) struct Follower {
    commands: mpsc::UnboundedSender<Command>,
    receiver: Arc<Mutex<Receiver>>,
    failure: Failure,
    no_room: NoRoom,
}

/// Why nothing more is followed, once that is so: the first reason stays.
type Failure = Arc<OnceLock<String>>;

impl Follower {
    /// Starts to follow. The task runs until the handle is dropped, and has said its last words
    /// when it ends.
    pub(crate) fn start(
        net: &outlast_shipper::NetHandle,
        store: &Store,
        config: outlast_proto::Config,
        hooks: Arc<dyn FollowHooks>,
    ) -> Result<(Self, JoinHandle<()>)> {
        let following = Following::start(boot_time(), config, store)?;
        let receiver = following.receiver().clone();
        let (writer, done) = LogWriter::start(store.clone())
            .map_err(|error| outlast_engine::Error::io("start a thread", error))?;
        let (commands, to_obey) = mpsc::unbounded_channel();
        let failure = Failure::default();
        let no_room = writer.no_room().clone();
        let task = Task {
            following,
            reads: LogReads::new(store.clone()),
            session: None,
            closing: JoinSet::new(),
            writer,
            hooks,
            failure: failure.clone(),
        };
        let task = net.spawn(TASK, task.run(to_obey, done));
        let follower = Self {
            commands,
            receiver,
            failure,
            no_room,
        };
        Ok((follower, task))
    }

    /// Tells the task.
    ///
    /// # Errors
    /// The command comes back when the task has ended.
    pub(crate) fn tell(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|unsent| unsent.0)
    }

    /// Why nothing more is followed, if so: the log failed, or its thread did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// Why nothing is received for now, if the disk is full.
    pub(crate) fn no_room(&self) -> Option<String> {
        self.no_room.why()
    }

    /// Whether the task has ended though this handle is there: it panicked.
    pub(crate) fn has_ended(&self) -> bool {
        self.commands.is_closed()
    }

    /// What speaks for or against following whoever says this Hello.
    pub(crate) fn meet(
        &self,
        peer: outlast_engine::format::NodeId,
        hello: &Hello,
    ) -> outlast_proto::Meeting {
        self.receiver.lock().meet(peer, hello)
    }

    /// How it stands.
    pub(crate) fn status(&self) -> outlast_proto::ReceiverStatus {
        self.receiver.lock().status()
    }

    /// How long nothing was echoed to a primary.
    pub(crate) fn silence(&self) -> Duration {
        self.receiver.lock().silence(boot_time())
    }

    /// The same follower, told by way of somebody else.
    #[cfg(test)]
    pub(crate) fn behind(&self, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            commands,
            receiver: self.receiver.clone(),
            failure: self.failure.clone(),
            no_room: self.no_room.clone(),
        }
    }

    /// Tells its receiver something behind the back of its task.
    #[cfg(test)]
    pub(crate) fn give(&self, input: ReceiverInput) {
        self.receiver.lock().handle(boot_time(), input);
    }
}

struct Task {
    following: Following,
    writer: LogWriter,
    reads: LogReads,
    session: Option<Session>,
    /// Links whose last words are on their way. Nothing waits for them but the end of this task.
    closing: JoinSet<()>,
    hooks: Arc<dyn FollowHooks>,
    failure: Failure,
}

struct Session {
    wire: Wire,
    nonce: Nonce,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut done: mpsc::UnboundedReceiver<Done>,
    ) {
        loop {
            self.obey_all();
            let wake_at = self.following.poll_timeout();
            let next = {
                let session = &mut self.session;
                tokio::select! {
                    biased;
                    command = commands.recv() => match command {
                        Some(command) => Next::Command(command),
                        None => return self.stop().await,
                    },
                    done = done.recv() => match done {
                        Some(done) => Next::Done(done),
                        None => return self.stop().await,
                    },
                    event = event(session) => Next::Wire(event),
                    (from, bytes) = self.reads.finished() => {
                        self.read_done(from, bytes);
                        continue;
                    }
                    () = outlast_shipper::drive::sleep_until(wake_at) => {
                        Next::Timeout
                    }
                }
            };
            match next {
                Next::Done(done) => {
                    if let Done::Failed(error) = &done {
                        self.note_failure(error);
                    }
                    self.following.done(boot_time(), done);
                }
                Next::Timeout => self.give(ReceiverInput::Timeout),
                Next::Wire(event) => self.wire(event),
                Next::Command(command) => self.command(command),
            }
        }
    }

    fn give(&mut self, input: ReceiverInput) {
        self.following.handle(boot_time(), input);
    }

    fn read_done(&mut self, from: Lsn, bytes: outlast_engine::Result<Bytes>) {
        if let Err(error) = &bytes {
            self.note_failure(error);
        }
        self.following.read_done(from, bytes);
    }

    fn note_failure(&self, error: &outlast_engine::Error) {
        self.failure
            .get_or_init(|| Error::from(error.duplicate()).to_failure().what);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Meet { wire, nonce, hello } => {
                if let Some(old) = self.session.take() {
                    let handle = old.wire.handle();
                    handle.close(CloseCode::REPLACED, "a newer session took its place");
                    self.give(ReceiverInput::Disconnected { nonce: old.nonce });
                    self.obey_all();
                }
                let handle = wire.handle().clone();
                let peer = handle.peer().node;
                self.hooks.link(Some(handle), None);
                self.session = Some(Session { wire: *wire, nonce });
                self.give(ReceiverInput::Hello { nonce, peer, hello });
            }
            Command::HeardTerm(term) => self.give(ReceiverInput::HeardTerm(term)),
            Command::Withdraw(barrier) => {
                let barrier = move || {
                    let _ = barrier.send(());
                };
                self.following.withdraw(boot_time(), Box::new(barrier));
            }
            Command::Reinstate => self.give(ReceiverInput::Reinstate),
        }
    }

    fn wire(&mut self, event: WireEvent) {
        let Some(session) = &self.session else { return };
        let input = match event {
            WireEvent::Message(message) => ReceiverInput::Message(message),
            WireEvent::RunStart(header) => ReceiverInput::RunStart(header),
            WireEvent::RunBytes(bytes) => ReceiverInput::RunBytes(bytes),
            WireEvent::MessagesFlushed => ReceiverInput::ControlFlushed,
            WireEvent::DataFlushed => return,
            WireEvent::Ended(error) => {
                tracing::info!(%error, "the link to the primary ended");
                let nonce = session.nonce;
                self.session = None;
                self.hooks.link(None, Some(error.to_string()));
                ReceiverInput::Disconnected { nonce }
            }
        };
        self.give(input);
    }

    /// Does what the protocol asks until it asks nothing.
    fn obey_all(&mut self) {
        while let Some(output) = self.following.poll_output(boot_time()) {
            self.obey(output);
        }
    }

    fn obey(&mut self, output: FollowOutput) {
        match output {
            FollowOutput::Send(message) => {
                if let Some(session) = &mut self.session
                    && let Err(error) = session.wire.push(&message)
                {
                    tracing::error!(%error, "a message could not be sent");
                }
                if matches!(message, Message::Ack(_)) {
                    pass(Point::Reported);
                }
            }
            FollowOutput::Data(header, bytes) => {
                if let Some(session) = &mut self.session {
                    session.wire.push_data(&header, bytes);
                }
            }
            FollowOutput::Read { from, max_bytes } => {
                if let Some(bytes) = self.reads.read(from, max_bytes) {
                    self.read_done(from, bytes);
                }
            }
            FollowOutput::Job(job) => self.writer.give(job),
            FollowOutput::Conflict { kind, heard } => self.hooks.conflict(&kind, heard),
            FollowOutput::Event(event) => self.hooks.event(&event),
            FollowOutput::Close(reason) => {
                if let Some(session) = self.session.take() {
                    tracing::info!(%reason, "the session with the primary is over");
                    self.hooks.link(None, Some(reason.to_string()));
                    self.close(session, CloseCode::DONE, reason.to_string());
                }
            }
        }
    }

    /// Lets the last words of a session go. A peer that takes none holds nothing up meanwhile, a
    /// withdrawal least of all.
    fn close(&mut self, session: Session, code: CloseCode, reason: String) {
        while self.closing.try_join_next().is_some() {}
        let wire = session.wire;
        self.closing
            .spawn(async move { wire.close(code, &reason).await });
    }

    async fn stop(mut self) {
        self.give(ReceiverInput::Stop);
        self.obey_all();
        if let Some(session) = self.session.take() {
            self.close(session, CloseCode::STOPPING, "the node is closing".into());
        }
        while self.closing.join_next().await.is_some() {}
    }
}

enum Next {
    Done(Done),
    Timeout,
    Wire(WireEvent),
    Command(Command),
}

async fn event(session: &mut Option<Session>) -> WireEvent {
    match session {
        Some(session) => session.wire.event().await,
        None => std::future::pending().await,
    }
}
