//! A standby that is attached: frames and positions come in, acks and echoes go out.

use bytes::Bytes;
use outlast_engine::format::FrameRun;

use super::local::LocalLog;
use crate::close::CloseReason;
use crate::config::Config;
use crate::facts::PrimaryView;
use crate::inflow::Inflow;
use crate::message::{Ack, Heartbeat};
use crate::points::{Position, ProtectionPoint, Term};
use crate::session::{Binding, RunHeader};
use crate::time::Stamp;

/// The session behind Attach.
#[derive(Debug)]
pub(super) struct Following {
    binding: Binding,
    term: Term,
    window_bytes: u64,
    inflow: Inflow,
    /// What the primary said last.
    view: PrimaryView,
    newest: Option<Stamp>,
    /// The newest heartbeat, until it is echoed, and the record to be noted before that.
    echo_due: Option<(Stamp, Option<ProtectionPoint>)>,
    /// What was acknowledged last; `None` before the Attach is.
    acked: Option<[Position; 3]>,
}

impl Following {
    pub(super) fn new(
        config: &Config,
        binding: Binding,
        term: Term,
        log: &LocalLog,
        segment_size: u64,
    ) -> Self {
        let inflow = Inflow::new(binding, *log.end(), segment_size);
        Self {
            binding,
            term,
            window_bytes: config.window_bytes.max(inflow.frame_len_max()),
            inflow,
            view: PrimaryView::default(),
            newest: None,
            echo_due: None,
            acked: None,
        }
    }

    pub(super) fn on_run_start(&mut self, header: &RunHeader) -> Result<(), CloseReason> {
        self.inflow.begin_run(header).map(|_| ())
    }

    /// The frames that `bytes` completes, checked; `None` when they belong to a dropped run.
    pub(super) fn on_run_bytes(
        &mut self,
        bytes: Bytes,
        log: &LocalLog,
    ) -> Result<Option<Vec<FrameRun>>, CloseReason> {
        if !self.inflow.in_bound_run() {
            return Ok(None);
        }
        let end = self.inflow.position().advance(bytes.len() as u64);
        let unwritten_bytes = end.bytes_since(log.appended().lsn);
        if unwritten_bytes > self.window_bytes {
            return Err(CloseReason::WindowOverrun {
                unwritten_bytes,
                limit_bytes: self.window_bytes,
            });
        }
        self.inflow
            .take(bytes)
            .map(Some)
            .map_err(CloseReason::BadData)
    }

    /// Answers whether the heartbeat was news.
    pub(super) fn on_heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<bool, CloseReason> {
        if self.newest >= Some(heartbeat.stamp) {
            return Ok(false);
        }
        if heartbeat.term != self.term {
            return Err(CloseReason::Impossible("another term within a session"));
        }
        self.on_view(&heartbeat.view)?;
        self.newest = Some(heartbeat.stamp);
        self.echo_due = Some((heartbeat.stamp, heartbeat.view.protection));
        Ok(true)
    }

    pub(super) fn on_view(&mut self, view: &PrimaryView) -> Result<(), CloseReason> {
        if !view.in_order() {
            return Err(CloseReason::Impossible("positions out of order"));
        }
        let forwards = view.appended.covers(&self.view.appended)
            && view.durable.covers(&self.view.durable)
            && view.visible.covers(&self.view.visible);
        if !forwards {
            return Err(CloseReason::Impossible("positions that move back"));
        }
        self.view = *view;
        Ok(())
    }

    /// The record that must be noted before the echo that is due.
    pub(super) fn awaited_note(&self) -> Option<Option<ProtectionPoint>> {
        self.echo_due.map(|(_, protection)| protection)
    }

    pub(super) fn take_echo(&mut self) -> Option<Stamp> {
        self.echo_due.take().map(|(stamp, _)| stamp)
    }

    /// The ack that is due, if a position moved since the last one.
    pub(super) fn take_ack(&mut self, log: &LocalLog) -> Option<Ack> {
        let [received, durable, applied] = [log.appended(), log.durable(), log.applied()];
        let positions = Some([received, durable, applied]);
        if self.acked == positions {
            return None;
        }
        self.acked = positions;
        Some(Ack {
            binding: self.binding,
            received,
            durable,
            applied,
        })
    }
}
