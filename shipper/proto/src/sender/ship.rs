//! A writer ships its log to a standby that is attached.

use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::{FrameFault, Lsn};
use outlast_engine::planted::{Bug, on};

use super::stamps::{EchoKind, Stamps};
use super::{Link, SenderEvent, SenderOutput, SenderPhase, SenderStatus};
use crate::close::CloseReason;
use crate::config::Config;
use crate::facts::{PrimaryFacts, PrimaryView};
use crate::message::{Ack, Heartbeat, Message, Welcome};
use crate::outflow::Outflow;
use crate::points::{Position, Term};
use crate::session::{Binding, RunHeader};
use crate::time::{MonoTime, Stamp};

/// The session behind Attach.
#[derive(Debug)]
pub(super) struct Shipping {
    binding: Binding,
    term: Term,
    heartbeat_interval: Duration,
    agreed: Agreed,
    outflow: Outflow,
    stamps: Stamps,
    contact: Option<MonoTime>,
    /// When the last heartbeat left.
    beat: Option<MonoTime>,
    /// What the last message said.
    told: PrimaryView,
    /// What the standby acknowledged; `None` until it has accepted the Attach.
    acked: Option<Acked>,
}

/// What both ends agreed on in the handshake.
#[derive(Debug)]
struct Agreed {
    name: String,
    resume: Position,
    version: u16,
    features: u64,
}

#[derive(Clone, Copy, Debug)]
struct Acked {
    received: Position,
    durable: Position,
    applied: Position,
}

impl Shipping {
    pub(super) fn new(
        config: &Config,
        facts: &PrimaryFacts,
        binding: Binding,
        welcome: &Welcome,
    ) -> Self {
        let chain = welcome.end.chain(facts.identity.cluster);
        let window_bytes = config.window_bytes.min(welcome.window_bytes);
        Self {
            binding,
            term: Term::of(&facts.log.history),
            heartbeat_interval: config.heartbeat_interval,
            agreed: Agreed {
                name: welcome.name.clone(),
                resume: Position::from(&chain),
                version: welcome.version,
                features: welcome.features,
            },
            outflow: Outflow::new(chain, window_bytes, config.run_bytes),
            stamps: Stamps::default(),
            contact: None,
            beat: None,
            told: PrimaryView::default(),
            acked: None,
        }
    }

    /// Where data begins: the standby's end, all of which is durable.
    pub(super) const fn resume(&self) -> Position {
        self.agreed.resume
    }

    /// Whether the standby has accepted the Attach.
    pub(super) const fn is_accepted(&self) -> bool {
        self.acked.is_some()
    }

    /// When the next heartbeat is due; `None` before the standby has accepted.
    pub(super) fn next_heartbeat(&self) -> Option<MonoTime> {
        self.acked?;
        let due = |beat: MonoTime| beat.after(self.heartbeat_interval);
        Some(self.beat.map_or_else(MonoTime::default, due))
    }

    pub(super) fn status(&self) -> SenderStatus {
        SenderStatus {
            phase: if self.is_accepted() {
                SenderPhase::Shipping
            } else {
                SenderPhase::Attaching
            },
            sent: self.outflow.sent().lsn,
            in_flight_bytes: self.outflow.window().in_flight_bytes(),
            received: self.acked.map(|acked| acked.received),
            replicated: self.acked.map(|acked| acked.durable),
            applied: self.acked.map(|acked| acked.applied),
            contact: self.contact,
            ..SenderStatus::default()
        }
    }

    pub(super) fn on_ack(&mut self, ack: &Ack, link: &mut Link) -> Result<(), CloseReason> {
        let before = self.acked.unwrap_or(Acked {
            received: self.agreed.resume,
            durable: self.agreed.resume,
            applied: Position::ZERO,
        });
        self.check_ack(ack, &before)
            .map_err(CloseReason::Impossible)?;
        self.outflow.acknowledge(ack.received.lsn);
        let first = self.acked.is_none();
        self.acked = Some(Acked {
            received: ack.received,
            durable: ack.durable,
            applied: ack.applied,
        });
        if first {
            link.event(SenderEvent::Attached {
                name: self.agreed.name.clone(),
                resume: self.agreed.resume,
                version: self.agreed.version,
                features: self.agreed.features,
            });
        }
        let received = on(Bug::ReplicatedOnReceive) && ack.received != before.received;
        if first || ack.durable != before.durable || received {
            let durable = if on(Bug::ReplicatedOnReceive) {
                ack.received
            } else {
                ack.durable
            };
            link.event(SenderEvent::Replicated(durable));
        }
        if first || ack.received != before.received {
            link.event(SenderEvent::Received(ack.received));
        }
        if first || ack.applied != before.applied {
            link.event(SenderEvent::Applied(ack.applied));
        }
        Ok(())
    }

    /// Whether an honest standby can have sent it.
    fn check_ack(&self, ack: &Ack, before: &Acked) -> Result<(), &'static str> {
        let require = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let sent = self.outflow.sent_position();
        let within = sent.covers(&ack.received);
        require(within, "an acknowledgement beyond what was sent")?;
        let commit_fits = ack.received.lsn < sent.lsn || ack.received.commit == sent.commit;
        require(commit_fits, "an acknowledgement with another commit number")?;
        let ordered = ack.received.covers(&ack.durable) && ack.durable.covers(&ack.applied);
        require(ordered, "positions out of order")?;
        let forwards = ack.received.covers(&before.received)
            && ack.durable.covers(&before.durable)
            && ack.applied.covers(&before.applied);
        require(forwards, "an acknowledgement that moves back")
    }

    /// Answers whether the echo was news.
    pub(super) fn on_echo(
        &mut self,
        now: MonoTime,
        stamp: Stamp,
        link: &mut Link,
    ) -> Result<bool, CloseReason> {
        match self.stamps.echo(stamp) {
            EchoKind::New { told } => {
                let contact = stamp.moment();
                assert!(contact <= now, "heartbeat of {contact} echoed at {now}");
                self.contact = Some(contact);
                link.event(SenderEvent::Contact { at: contact, told });
                Ok(true)
            }
            EchoKind::Stale => Ok(false),
            EchoKind::NeverSent => Err(CloseReason::Impossible(
                "an echo of a heartbeat that was never sent",
            )),
        }
    }

    pub(super) fn on_log_bytes(&mut self, from: Lsn, bytes: Bytes) -> Result<(), CloseReason> {
        let at_resume = from == self.agreed.resume.lsn;
        self.outflow
            .accept_read(from, bytes)
            .map_err(|fault| match fault {
                FrameFault::Order { what: "chain", .. } if at_resume => {
                    CloseReason::LogsDiffer { at: from }
                }
                fault => CloseReason::OwnLogDamaged(fault),
            })
    }

    /// Sends what may be sent now.
    pub(super) fn settle(&mut self, now: MonoTime, view: &PrimaryView, link: &mut Link) {
        if !self.is_accepted() {
            return;
        }
        if let Some((first, bytes)) = self.outflow.next_data() {
            let binding = self.binding;
            let header = RunHeader { binding, first };
            link.out.push_back(SenderOutput::Data(header, bytes));
        }
        if let Some((from, max_bytes)) = self.outflow.next_read(view.appended.lsn) {
            link.out.push_back(SenderOutput::Read { from, max_bytes });
        }
        if link.control_busy {
            return;
        }
        if self.next_heartbeat().is_some_and(|due| now >= due) {
            self.beat(now, view, link);
        } else if self.has_untold(view) {
            let binding = self.binding;
            link.send(Message::Positions {
                binding,
                view: *view,
            });
            self.told = *view;
        }
    }

    fn beat(&mut self, now: MonoTime, view: &PrimaryView, link: &mut Link) {
        let stamp = Stamp::of(now);
        self.stamps.send(stamp, view.protection);
        self.beat = Some(now);
        self.told = *view;
        link.send(Message::Heartbeat(Heartbeat {
            binding: self.binding,
            stamp,
            term: self.term,
            view: *view,
        }));
    }

    /// Whether the primary has moved in a way that the standby knows from no message and no frame,
    /// and that no frame is about to tell it.
    fn has_untold(&self, view: &PrimaryView) -> bool {
        if self.told.state != view.state || self.told.protection != view.protection {
            return true;
        }
        let sent = self.outflow.sent();
        let visible_told = self.told.visible.lsn.max(sent.visible);
        let durable_told = self.told.durable.lsn.max(sent.watermark);
        let moved = view.visible.lsn > visible_told || view.durable.lsn > durable_told;
        moved && self.outflow.is_through(view.appended.lsn)
    }
}
