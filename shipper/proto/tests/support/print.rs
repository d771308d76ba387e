//! Messages, outputs and states as one short line each.

use std::fmt::Write as _;

use outlast_engine::format::{EpochId, History, NodeId};
use outlast_proto::{
    Ack, Binding, CloseReason, Hello, LogEnd, Meeting, Message, Nonce, PrimaryState, PrimaryView,
    ReceiverEvent, ReceiverOutput, ReceiverStatus, Refuse, RunHeader, SenderEvent, SenderOutput,
    SenderStatus, SessionId, Term, Welcome,
};

pub fn message(message: &Message) -> String {
    match message {
        Message::Hello(it) => hello(it),
        Message::Welcome(it) => welcome(it),
        Message::Refuse(it) => format!(
            "Refuse to {} heard {}: {:?}",
            nonce(it.dialler),
            term(it.heard),
            it.reason
        ),
        Message::Diverged { binding: b, fork } => {
            format!(
                "Diverged {} fork={} in {}",
                binding(b),
                fork.lsn,
                epoch(fork.epoch)
            )
        }
        Message::CutDone { binding: b, end } => {
            format!("CutDone {} end={}", binding(b), log_end(end))
        }
        Message::Attach { binding: b, resume } => format!("Attach {} resume={resume}", binding(b)),
        Message::Heartbeat(it) => format!(
            "Heartbeat {} stamp={} term={} {}",
            binding(&it.binding),
            it.stamp.moment(),
            term(it.term),
            view(&it.view)
        ),
        Message::Positions {
            binding: b,
            view: v,
        } => format!("Positions {} {}", binding(b), view(v)),
        Message::Echo { binding: b, stamp } => {
            format!("Echo {} stamp={}", binding(b), stamp.moment())
        }
        Message::Ack(it) => ack(it),
        Message::Fetch { binding: b, range } => format!("Fetch {} {range}", binding(b)),
        Message::Bye { binding: b, reason } => format!("Bye {} {reason:?}", binding(b)),
    }
}

fn hello(it: &Hello) -> String {
    let mut out = format!(
        "Hello {} {:?} heard={} end={} {} history={}",
        nonce(it.nonce),
        it.mode,
        term(it.heard),
        log_end(&it.end),
        view(&it.view),
        history(&it.history)
    );
    if let Some(mark) = it.remembered {
        let _ = write!(out, " remembered={}@{}", mark.durable, epoch(mark.epoch));
    }
    out
}

fn welcome(it: &Welcome) -> String {
    let mut out = format!(
        "Welcome {} v{} heard={} end={} applied={} told={} history={}",
        session(&it.session),
        it.version,
        term(it.heard),
        log_end(&it.end),
        it.applied,
        it.visible_told,
        history(&it.history)
    );
    if let Some(lost) = it.acked_tail_lost {
        let _ = write!(out, " ACKED TAIL LOST {lost}");
    }
    out
}

fn ack(it: &Ack) -> String {
    format!(
        "Ack {} received={} durable={} applied={}",
        binding(&it.binding),
        it.received,
        it.durable,
        it.applied
    )
}

pub fn meeting(meeting: &Meeting) -> String {
    let refuse = |it: &Refuse| message(&Message::Refuse(*it));
    match meeting {
        Meeting::Follow => "Follow".into(),
        Meeting::Refuse(it) => refuse(it),
        Meeting::Hear {
            term: of,
            refuse: it,
        } => format!("hear {}, {}", term(*of), refuse(it)),
        Meeting::Fence {
            term: of,
            refuse: it,
        } => format!("FENCE {}, {}", term(*of), refuse(it)),
        Meeting::Conflict { kind, refuse: it } => format!("CONFLICT {kind:?}, {}", refuse(it)),
    }
}

pub fn sender_output(output: &SenderOutput) -> String {
    match output {
        SenderOutput::Send(it) => format!("-> {}", message(it)),
        SenderOutput::Data(header, bytes) => data(header, bytes.len()),
        SenderOutput::Read { from, max_bytes } => format!("Read {from} max={max_bytes}"),
        SenderOutput::NoteAttached { standby } => format!("NoteAttached {}", node(*standby)),
        SenderOutput::Append(run) => format!("Append {}", run.range()),
        SenderOutput::Sync => "Sync".into(),
        SenderOutput::Fence { term: t, told_by } => {
            format!("FENCE term {} told by {}", term(*t), node(*told_by))
        }
        SenderOutput::Conflict { kind, with, heard } => {
            format!("CONFLICT {kind:?} with {} at {}", node(*with), term(*heard))
        }
        SenderOutput::Event(event) => format!("* {}", sender_event(event)),
        SenderOutput::Close(reason) => close(reason),
    }
}

pub fn receiver_output(output: &ReceiverOutput) -> String {
    match output {
        ReceiverOutput::Send(it) => format!("-> {}", message(it)),
        ReceiverOutput::Data(header, bytes) => data(header, bytes.len()),
        ReceiverOutput::Read { from, max_bytes } => format!("Read {from} max={max_bytes}"),
        ReceiverOutput::Append(run) => format!("Append {}", run.range()),
        ReceiverOutput::Sync => "Sync".into(),
        ReceiverOutput::ApplyTo(lsn) => format!("ApplyTo {lsn}"),
        ReceiverOutput::Note { heard, protection } => {
            let point = protection.map_or_else(
                || "none".into(),
                |p| format!("{}@{}", p.lsn, epoch(p.epoch)),
            );
            format!("Note heard={} protection={point}", term(*heard))
        }
        ReceiverOutput::Quarantine { from } => format!("Quarantine from {from}"),
        ReceiverOutput::Conflict { kind, with, heard } => {
            format!("CONFLICT {kind:?} with {} at {}", node(*with), term(*heard))
        }
        ReceiverOutput::Event(event) => format!("* {}", receiver_event(event)),
        ReceiverOutput::Close(reason) => close(reason),
    }
}

fn sender_event(event: &SenderEvent) -> String {
    match event {
        SenderEvent::Attached {
            name,
            resume,
            version,
            features,
        } => format!("Attached {name} at {resume} v{version} features={features:#b}"),
        SenderEvent::Received(at) => format!("Received {at}"),
        SenderEvent::Replicated(at) => format!("Replicated {at}"),
        SenderEvent::Applied(at) => format!("Applied {at}"),
        SenderEvent::Contact { at, .. } => format!("Contact {at}"),
        SenderEvent::ContactComplete {
            standby,
            fetched,
            visible_told,
        } => format!(
            "ContactComplete with {} fetched={fetched} told={visible_told}",
            node(*standby)
        ),
        SenderEvent::AckedTailLost(lost) => format!("AckedTailLost {lost}"),
        SenderEvent::CutAsked { fork, standby_end } => {
            format!("CutAsked at {fork} of {standby_end}")
        }
        other => format!("{other:?}"),
    }
}

fn receiver_event(event: &ReceiverEvent) -> String {
    match event {
        ReceiverEvent::Attached {
            primary,
            name,
            resume,
            term: of,
        } => format!(
            "Attached to {} {name} at {resume} term {}",
            node(*primary),
            term(*of)
        ),
        ReceiverEvent::AckedTailLost(lost) => format!("ACKED TAIL LOST {lost}"),
        ReceiverEvent::AckedTailRestored => "acked tail restored".into(),
        ReceiverEvent::TailServed(range) => format!("TailServed {range}"),
        other => format!("{other:?}"),
    }
}

pub fn sender_status(it: &SenderStatus) -> String {
    let show = |position: Option<outlast_proto::Position>| {
        position.map_or_else(|| "-".into(), |position| position.to_string())
    };
    format!(
        "{:?} sent={} in_flight={} received={} replicated={} applied={} contact={} dropped={}",
        it.phase,
        it.sent,
        it.in_flight_bytes,
        show(it.received),
        show(it.replicated),
        show(it.applied),
        it.contact.map_or_else(|| "-".into(), |at| at.to_string()),
        dropped(it.dropped)
    )
}

pub fn receiver_status(it: &ReceiverStatus) -> String {
    let mut out = format!(
        "{:?} received={} appended={} durable={} applied={} told={} heard={} settled={} dropped={}",
        it.phase,
        it.received,
        it.appended,
        it.durable,
        it.applied,
        it.visible_told,
        term(it.heard),
        it.is_settled,
        dropped(it.dropped)
    );
    if let Some(lost) = it.acked_tail_lost {
        let _ = write!(out, " ACKED TAIL LOST {lost}");
    }
    if let Some(told) = it.told {
        let _ = write!(out, " primary said {} at {}", view(&told.view), told.at);
    }
    out
}

fn data(header: &RunHeader, len: usize) -> String {
    format!(
        "=> data {} {} +{len}",
        binding(&header.binding),
        header.first
    )
}

fn close(reason: &CloseReason) -> String {
    let alarm = if reason.is_alarm() { " ALARM" } else { "" };
    format!("Close{alarm}: {reason}")
}

fn dropped(it: outlast_proto::Dropped) -> String {
    format!("{}/{}/{}", it.other_session, it.other_epoch, it.stale)
}

fn view(it: &PrimaryView) -> String {
    let mut out = format!("{}/{}/{}", it.appended, it.durable, it.visible);
    if let Some(point) = it.protection {
        let _ = write!(out, " protection={}@{}", point.lsn, epoch(point.epoch));
    }
    if it.state != PrimaryState::Serving {
        let _ = write!(out, " {:?}", it.state);
    }
    out
}

fn log_end(it: &LogEnd) -> String {
    let newest = it
        .epoch
        .map_or_else(|| "none".into(), |(_, _, id)| epoch(id));
    format!(
        "{}#{} in {newest}",
        it.lsn,
        it.next_commit.saturating_sub(1)
    )
}

fn history(it: &History) -> String {
    let epochs = it
        .epochs()
        .iter()
        .map(|record| format!("{}@{}", epoch(record.id), record.fork));
    format!("[{}]", epochs.collect::<Vec<_>>().join(" "))
}

pub fn term(it: Term) -> String {
    format!("{}({})", it.number, epoch(it.opened_by))
}

pub fn epoch(id: EpochId) -> String {
    format!("e{}", id.0[0])
}

pub fn node(id: NodeId) -> String {
    match id.0[0] {
        0x0a => "p".into(),
        0x0b => "s".into(),
        other => format!("n{other}"),
    }
}

fn binding(it: &Binding) -> String {
    format!("<{} {}>", session(&it.session), epoch(it.epoch))
}

fn session(it: &SessionId) -> String {
    format!("{}{}", nonce(it.dialler), nonce(it.listener))
}

fn nonce(it: Nonce) -> String {
    format!("{}{}", char::from(it.0[0]), it.0[1])
}
