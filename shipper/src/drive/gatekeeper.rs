//! The gate of a node between its store, its sessions and its clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outlast_engine::format::{EpochReason, Lsn, NodeId, Position};
use outlast_engine::{Admit, CommitGate, Error, ErrorKind, Result, Store};
use outlast_proto::{
    Admission, Gate, GateConfig, GateStart, GateStatus, Held, MonoTime, Protection, ProtectionPoint,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shipping::protection_point;

type Clock = Box<dyn Fn() -> MonoTime + Send + Sync>;

/// A node's gate: one for the life of its process, whatever its role is. Before
/// [`Gatekeeper::begin`] nothing is promised.
pub struct Gatekeeper {
    inner: Mutex<Inner>,
    clock: Clock,
    /// Whether anything is promised: while not, no commit asks before it is appended.
    promises: AtomicBool,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    gate: Option<Gate>,
    again_at: Option<MonoTime>,
    shut: bool,
}

impl Gatekeeper {
    /// The gate of a node whose boot clock `clock` reads.
    #[must_use]
    pub fn new(clock: impl Fn() -> MonoTime + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner::default()),
            clock: Box::new(clock),
            promises: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// An epoch of this node is about to begin, for this reason. One that goes on after a restart
    /// goes on with what was promised; any other begins with nothing.
    pub fn begin(&self, store: &Store, reason: EpochReason, members: Vec<NodeId>) {
        let later = match reason {
            EpochReason::Restart => promised(store),
            _ => Vec::new(),
        };
        let start = GateStart {
            base: Protection::none(members),
            later,
            recovered: store.positions().appended,
        };
        let mut inner = self.inner.lock();
        let gate = Gate::new((self.clock)(), GateConfig::default(), start);
        self.promises.store(gate.promises(), Ordering::Release);
        inner.gate = Some(gate);
    }

    /// A standby reported what it has durable. The store is told next, and asks again.
    pub fn on_replicated(&self, node: NodeId, replicated: Position) {
        self.with(|gate, now| gate.on_replicated(now, node, replicated));
    }

    /// A standby echoed a heartbeat of its session. The store is to be asked again.
    pub fn on_echo(&self, node: NodeId, stamp: MonoTime, told: Option<ProtectionPoint>) {
        self.with(|gate, now| gate.on_echo(now, node, stamp, told));
    }

    /// A standby has withdrawn in order to be promoted.
    pub fn on_withdrawn(&self, node: NodeId) {
        self.with(|gate, now| gate.on_withdrawn(now, node));
    }

    /// The wall clock jumped against the boot clock.
    pub fn on_clock_jump(&self) {
        self.with(|gate, now| gate.on_clock_jump(now));
    }

    /// Answers nothing any more, whatever the store still does.
    pub fn shut(&self) {
        let mut inner = self.inner.lock();
        inner.shut = true;
        if let Some(gate) = &mut inner.gate {
            gate.shut();
        }
    }

    /// How the promise stands; `None` before an epoch of this process.
    #[must_use]
    pub fn status(&self) -> Option<GateStatus> {
        self.with(Gate::status)
    }

    /// The newest record, to be written again as in force, if its promise stands not and may.
    #[must_use]
    pub fn to_engage(&self) -> Option<Protection> {
        self.with(|gate, now| gate.to_engage(now)).flatten()
    }

    /// Waits until the store is to be asked again because time has passed.
    pub async fn due(&self) {
        loop {
            let again_at = self.inner.lock().again_at;
            tokio::select! {
                () = self.changed.notified() => {}
                () = super::ship::sleep_until(again_at) => {
                    self.inner.lock().again_at = None;
                    return;
                }
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Gate, MonoTime) -> T) -> Option<T> {
        let mut inner = self.inner.lock();
        let now = (self.clock)();
        inner.gate.as_mut().map(|gate| act(gate, now))
    }
}

impl CommitGate for Gatekeeper {
    fn decide(
        &self,
        durable: Lsn,
        waiting: &mut dyn Iterator<Item = Position>,
    ) -> Option<Position> {
        let mut inner = self.inner.lock();
        if inner.shut {
            return None;
        }
        let Some(gate) = &mut inner.gate else {
            return waiting.take_while(|end| end.lsn <= durable).last();
        };
        // After the positions were captured: what is decided is decided no earlier.
        let now = (self.clock)();
        let decision = gate.decide(now, durable, waiting);
        self.promises.store(gate.promises(), Ordering::Release);
        if inner.again_at != decision.again_at {
            inner.again_at = decision.again_at;
            self.changed.notify_one();
        }
        decision.passed
    }

    fn holds(&self) -> bool {
        if self.inner.lock().shut {
            return false;
        }
        let lease = self.with(Gate::lease_at);
        !lease.is_some_and(|lease| lease.is_out())
    }

    fn admit(&self, appended: Lsn, visible: Lsn) -> Result<Admit> {
        if !self.promises.load(Ordering::Acquire) {
            return Ok(Admit::Go);
        }
        match self.with(|gate, now| gate.admit(now, appended, visible)) {
            None | Some(Admission::Go) => Ok(Admit::Go),
            Some(Admission::Wait(_)) => Ok(Admit::Wait),
            Some(Admission::Refuse(why)) => {
                let message = format!(
                    "{}, and new commits are refused then: bring the standby back, or lift the \
                     bound for a while with `outlast protect suspend`",
                    why_held(why)
                );
                Err(Error::new(ErrorKind::OutOfBound, message))
            }
        }
    }

    fn record(&self, protection: &outlast_engine::Protection) {
        let point = protection_point(protection.mark);
        // Whoever writes one has checked it.
        match Protection::try_from(&protection.record) {
            Ok(promise) => {
                self.with(|gate, _| gate.on_record(point, promise));
                self.promises.store(true, Ordering::Release);
            }
            Err(fault) => tracing::error!(%fault, "a protection record that promises nothing"),
        }
    }
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gatekeeper")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Why an answer is held back, for people.
#[must_use]
pub const fn why_held(held: Held) -> &'static str {
    match held {
        Held::Bytes => "the standby lacks as many bytes as may be lost",
        Held::Commits => "the standby lacks as many commits as may be lost",
        Held::Time => "the standby lacks commits that were answered too long ago",
        Held::Lease => "the standby was not heard for as long as the lease",
        Held::Slope => "the bound is near",
        Held::Shut => "this node answers nothing any more",
        _ => "the promise about loss could not be kept",
    }
}

/// The records of the log that count in an epoch that goes on after a restart.
fn promised(store: &Store) -> Vec<(ProtectionPoint, Protection)> {
    let history = store.history();
    let began = history.epochs().iter().rev();
    let from = began
        .into_iter()
        .find(|epoch| epoch.reason != EpochReason::Restart)
        .map_or(Lsn::ZERO, |epoch| epoch.fork);
    let records = store.protections().into_iter();
    records
        .filter(|protection| protection.mark.lsn > from)
        .filter_map(|protection| {
            let promise = Protection::try_from(&protection.record);
            let promise = promise.inspect_err(|fault| {
                tracing::error!(%fault, "a protection record is not known here");
            });
            Some((protection_point(protection.mark), promise.ok()?))
        })
        .collect()
}
