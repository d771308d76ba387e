//! The gate of a node between its store, its sessions and its clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outlast_engine::format::{EpochReason, Lsn, NodeId, Position};
use outlast_engine::planted::{Bug, on};
use outlast_engine::{Admit, CommitGate, Error, ErrorKind, Result, Store};
use outlast_proto::{
    Admission, Gate, GateConfig, GateStart, GateStatus, Held, Lease, MonoTime, PeakExposure, Peaks,
    Protection, ProtectionPoint,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shipping::protection_point;

type Clock = Box<dyn Fn() -> MonoTime + Send + Sync>;

/// A node's gate: one for the life of its process, whatever its role is. Before
/// [`Gatekeeper::begin`] nothing is promised.
pub struct Gatekeeper {
    inner: Mutex<Inner>,
    config: GateConfig,
    clock: Clock,
    /// Whether anything is promised: while not, no commit asks before it is appended.
    promises: AtomicBool,
    /// The last moment, in nanoseconds of the clock, at which what is visible may be shown as what
    /// holds now, as far as was known when the gate was last asked.
    reads_until_ns: AtomicU64,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    gate: Option<Gate>,
    again_at: Option<MonoTime>,
    shut: bool,
    /// Whether this node was the writer and has not heard from its peer in this process.
    unconfirmed: bool,
    /// The worst of each second.
    peaks: Peaks,
}

impl Gatekeeper {
    /// The gate of a node whose boot clock `clock` reads.
    #[must_use]
    pub fn new(clock: impl Fn() -> MonoTime + Send + Sync + 'static) -> Arc<Self> {
        Self::with(GateConfig::default(), clock)
    }

    /// The same, working as `config` says.
    #[must_use]
    pub fn with(
        config: GateConfig,
        clock: impl Fn() -> MonoTime + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner::default()),
            config,
            clock: Box::new(clock),
            promises: AtomicBool::new(false),
            reads_until_ns: AtomicU64::new(u64::MAX),
            changed: Notify::new(),
        })
    }

    /// This node was the writer, and waits to hear from its peer before it begins an epoch: until
    /// then nobody knows whether what it shows is what holds.
    pub fn await_contact(&self) {
        self.inner.lock().unconfirmed = true;
        self.reads_until_ns.store(0, Ordering::Release);
    }

    /// An epoch of this node is about to begin, for this reason. One that goes on after a restart
    /// goes on with what was promised; any other begins with nothing.
    pub fn begin(&self, store: &Store, reason: EpochReason, members: Vec<NodeId>) {
        let later = match reason {
            EpochReason::Restart if !on(Bug::RestartLiftsPromise) => promised(store),
            _ => Vec::new(),
        };
        let start = GateStart {
            base: Protection::none(members),
            later,
            recovered: store.positions().appended,
        };
        let mut inner = self.inner.lock();
        let now = (self.clock)();
        let mut gate = Gate::new(now, self.config, start);
        self.promises.store(gate.promises(), Ordering::Release);
        self.note_lease(gate.lease_at(now));
        inner.gate = Some(gate);
        inner.unconfirmed = false;
    }

    /// A standby reported what it has durable. The store is told next, and asks again.
    pub fn on_replicated(&self, node: NodeId, replicated: Position) {
        self.tell(|gate, now| gate.on_replicated(now, node, replicated));
    }

    /// A standby echoed a heartbeat of its session. The store is to be asked again.
    pub fn on_echo(&self, node: NodeId, stamp: MonoTime, told: Option<ProtectionPoint>) {
        self.tell(|gate, now| gate.on_echo(now, node, stamp, told));
    }

    /// A standby has withdrawn in order to be promoted.
    pub fn on_withdrawn(&self, node: NodeId) {
        self.tell(|gate, now| gate.on_withdrawn(now, node));
    }

    /// The wall clock jumped against the boot clock.
    pub fn on_clock_jump(&self) {
        self.tell(|gate, now| gate.on_clock_jump(now));
    }

    /// Answers nothing any more, and shows nothing as what holds, whatever the store still does.
    pub fn shut(&self) {
        let mut inner = self.inner.lock();
        inner.shut = true;
        self.reads_until_ns.store(0, Ordering::Release);
        if let Some(gate) = &mut inner.gate {
            gate.shut();
        }
    }

    /// Answers again: an operator has chosen this node to go on from a conflict, which had shut it.
    /// The epoch that is begun next brings a gate of its own.
    pub fn open_again(&self) {
        let mut inner = self.inner.lock();
        inner.gate = None;
        inner.shut = false;
    }

    /// How the promise stands; `None` before an epoch of this process.
    #[must_use]
    pub fn status(&self) -> Option<GateStatus> {
        self.tell(Gate::status)
    }

    /// What is exposed now counts among what was exposed in this second. Each answer counts by
    /// itself: to be called now and then, for the time between answers.
    pub fn sample(&self) {
        let mut inner = self.inner.lock();
        let now = (self.clock)();
        let inner = &mut *inner;
        if let Some(gate) = &inner.gate {
            inner.peaks.note(now, gate.exposure());
        }
    }

    /// What was exposed in the last hour.
    #[must_use]
    pub fn exposed(&self) -> PeakExposure {
        let inner = self.inner.lock();
        inner.peaks.seen((self.clock)())
    }

    /// The newest record, to be written again as in force, if its promise stands not and may.
    #[must_use]
    pub fn to_engage(&self) -> Option<Protection> {
        self.tell(|gate, now| gate.to_engage(now)).flatten()
    }

    /// When the store is to be asked again because time has passed, for whoever waits by itself.
    #[must_use]
    pub fn again_at(&self) -> Option<MonoTime> {
        self.inner.lock().again_at
    }

    /// Whether that moment has come; answers so once.
    pub fn take_due(&self) -> bool {
        let mut inner = self.inner.lock();
        let now = (self.clock)();
        inner.again_at.take_if(|at| *at <= now).is_some()
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

    fn tell<T>(&self, act: impl FnOnce(&mut Gate, MonoTime) -> T) -> Option<T> {
        let mut inner = self.inner.lock();
        let now = (self.clock)();
        let gate = inner.gate.as_mut()?;
        let done = act(gate, now);
        self.note_lease(gate.lease_at(now));
        Some(done)
    }

    fn note_lease(&self, lease: Lease) {
        let until = match lease {
            Lease::NotAsked => None,
            Lease::Holds { until } => Some(until),
            Lease::Out { .. } => Some(MonoTime::default()),
        };
        let until_ns = until.map(|until| until.as_duration().as_nanos());
        let until_ns = until_ns.map_or(u64::MAX, |ns| u64::try_from(ns).unwrap_or(u64::MAX));
        self.reads_until_ns.store(until_ns, Ordering::Release);
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
        let inner = &mut *inner;
        let Some(gate) = &mut inner.gate else {
            return waiting.take_while(|end| end.lsn <= durable).last();
        };
        // After the positions were captured: what is decided is decided no earlier.
        let now = (self.clock)();
        let decision = gate.decide(now, durable, waiting);
        self.promises.store(gate.promises(), Ordering::Release);
        self.note_lease(gate.lease_at(now));
        if decision.passed.is_some() {
            inner.peaks.note(now, gate.exposure());
        }
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
        let lease = self.tell(Gate::lease_at);
        !lease.is_some_and(|lease| lease.is_out())
    }

    fn reads(&self) -> Result<()> {
        let until_ns = self.reads_until_ns.load(Ordering::Acquire);
        if until_ns == u64::MAX || (self.clock)() <= MonoTime::new(Duration::from_nanos(until_ns)) {
            return Ok(());
        }
        let (shut, unconfirmed) = {
            let inner = self.inner.lock();
            (inner.shut, inner.unconfirmed)
        };
        if shut {
            let message = "another node has taken this one's place, or claims to: ask that one, or read a \
                           snapshot to see what was here";
            return Err(Error::new(ErrorKind::NotCurrent, message));
        }
        if unconfirmed {
            let message = "this node was the primary and has not heard from its standby since it \
                           was started: it may have been replaced meanwhile. Wait for the standby \
                           or ask the other node, or read a snapshot to see what was here";
            return Err(Error::new(ErrorKind::NotConfirmed, message));
        }
        let asked = self.tell(|gate, now| (gate.lease_at(now), now));
        let Some((Lease::Out { since }, now)) = asked else {
            return Ok(());
        };
        let cut_off = match since {
            Some(since) => format!("its lease ran out {} ms ago", now.since(since).as_millis()),
            None => "it was not heard since this node began to write".to_owned(),
        };
        let message = format!(
            "the standby does not answer ({cut_off}) and may have been promoted, so this node may \
             show what no longer holds: ask the other node, or read a snapshot to see it all the \
             same"
        );
        Err(Error::new(ErrorKind::NotCurrent, message))
    }

    fn admit(&self, appended: Lsn, visible: Lsn) -> Result<Admit> {
        if !self.promises.load(Ordering::Acquire) {
            return Ok(Admit::Go);
        }
        match self.tell(|gate, now| gate.admit(now, appended, visible)) {
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
                self.tell(|gate, _| gate.on_record(point, promise));
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
