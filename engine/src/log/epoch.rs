//! Epochs: beginning one, hearing of others, being fenced by one.

use super::commit::Pending;
use super::gate::Waiting;
use super::manifest::{ProtectionMark, TailLost, TermMark};
use super::{Finished, Log, LogState};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    EpochId, EpochReason, EpochRecord, FrameHeader, FrameKind, LsnRange, encoded_frame_len,
};
use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};

impl Log {
    /// Makes this node the writer: appends the frame that begins an epoch and answers once that is
    /// durable. `raise_term` is for a change of roles; a restart keeps the term.
    ///
    /// # Errors
    /// `Fenced` when a newer term exists, `Poisoned`, `Closed`, `DiskFull`, `Io`.
    pub(crate) fn begin_epoch(
        &self,
        reason: EpochReason,
        note: &str,
        raise_term: bool,
    ) -> Result<EpochRecord> {
        self.settle()?;
        let mut writer = self.writer();
        match &*self.state.read() {
            LogState::Reading | LogState::Following => {}
            LogState::Writing => {
                let message = "an epoch has begun already: this node is writing";
                return Err(Error::new(ErrorKind::NotWriter, message));
            }
            LogState::Fenced(_)
            | LogState::Halted(_)
            | LogState::Poisoned(_)
            | LogState::ReadOnly
            | LogState::Closed => {
                return Err(self.not_writing());
            }
        }
        self.sync_active(&writer)?;
        // What was received so far is vouched for by the mark alone, and an epoch stands on it.
        self.note_mark().inspect_err(|error| self.poison(error))?;
        let record = self.next_epoch(&writer.chain, reason, note, raise_term)?;
        let mut fields = writer.fields(self, FrameKind::Epoch, 0);
        let base = self.time_base(&writer, fields.wall_ms);
        self.set_time_base(&mut writer, base);
        fields.log_ms = writer
            .log_base
            .log_ms(fields.wall_ms, self.now_ns(), writer.chain.log_ms);
        let mut history = self.history();
        history.push(record.clone()).map_err(|fault| {
            Error::new(
                ErrorKind::Limit,
                format!("no epoch can follow here: {fault}"),
            )
        })?;
        // Known to the manifest before its first byte is in the log.
        self.change_manifest(|manifest| {
            manifest.history = history.clone();
            manifest.forget_received(writer.chain.lsn);
            manifest.term_given = manifest.term_given.max(record.term);
            manifest.start_given = manifest.start_given.max(record.start);
            // Who begins one has left the conflict that there may have been.
            manifest.halted = None;
            if raise_term {
                manifest.attached_in = None;
            }
        })?;
        pass(Point::EpochNoted);
        let payload_len = FrameHeader::epoch_payload_len(&record);
        let len = encoded_frame_len(payload_len);
        let form = |chain: &mut crate::format::Chain, first_in_segment| {
            chain.form_epoch(
                crate::format::FrameFields {
                    first_in_segment,
                    ..fields
                },
                &record,
            )
        };
        let (header, frame) = self.append_own(&mut writer, form, len)?;
        writer.recent.begin(header.end());
        pass(Point::EpochFramed);
        *self.history.write() = history;
        *self.state.write() = LogState::Writing;
        let sink = self.sink.lock();
        drop(writer);
        if let Some(sink) = &*sink {
            sink.apply(&header, &frame);
        }
        let mut finished = Finished::default();
        self.pass_gate(Some(Waiting::nobody(header.position())), &mut finished);
        drop(sink);
        finished.wake();
        pass(Point::EpochOpen);
        self.cell.notify();
        self.lane.wake();
        Ok(record)
    }

    fn next_epoch(
        &self,
        chain: &crate::format::Chain,
        reason: EpochReason,
        note: &str,
        raise_term: bool,
    ) -> Result<EpochRecord> {
        let history = self.history.read();
        let manifest = self.manifest.lock();
        let newest = history.last();
        let heard = manifest.term_heard.map_or(0, |heard| heard.term);
        let raise = raise_term || newest.is_none();
        let next = |number: u32| {
            number
                .checked_add(1)
                .ok_or_else(|| Error::new(ErrorKind::Limit, "no higher term or start can be given"))
        };
        let known = newest.map_or(0, |epoch| epoch.term);
        let term = if raise {
            next(known.max(heard).max(manifest.term_given))?
        } else {
            known
        };
        let start = next(
            newest
                .map_or(0, |epoch| epoch.start)
                .max(manifest.start_given),
        )?;
        let id = EpochId(self.entropy.lock().id());
        let record = EpochRecord {
            term,
            start,
            id,
            parent: newest.map_or(EpochId::NONE, |epoch| epoch.id),
            opened_by: newest
                .filter(|_| !raise)
                .map_or(id, |epoch| epoch.opened_by),
            fork: chain.lsn,
            node: self.node,
            node_name: manifest.node_name.clone(),
            reason,
            note: note.to_owned(),
            wall_ms: self.clock.wall_ms(),
        };
        if !record.within_limits() {
            let message = format!(
                "a reason of {} bytes: at most {} are kept",
                note.len(),
                crate::format::limits::NOTE_LEN_MAX
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(record)
    }

    /// The highest term that this node ever heard of, its own included. One that it was about to
    /// open counts once its epoch is in the log: a crash before that has opened nothing.
    pub(crate) fn term_heard(&self) -> Option<TermMark> {
        let noted = self.manifest.lock().term_heard;
        let own = self.history.read().last().map(|epoch| TermMark {
            term: epoch.term,
            opened_by: epoch.opened_by,
        });
        match (noted, own) {
            (Some(noted), Some(own)) if noted.term < own.term => Some(own),
            (noted, own) => noted.or(own),
        }
    }

    /// Notes durably that a term exists, if it is the highest so far.
    pub(crate) fn note_term(&self, mark: TermMark) -> Result<()> {
        if self
            .term_heard()
            .is_some_and(|heard| heard.term >= mark.term)
        {
            return Ok(());
        }
        self.change_manifest(|manifest| {
            // Another one may have been noted since.
            if manifest
                .term_heard
                .is_none_or(|heard| heard.term < mark.term)
            {
                manifest.term_heard = Some(mark);
            }
        })?;
        pass(Point::TermNoted);
        Ok(())
    }

    /// Ends this node's right to write, durably, before anything else: a newer term exists. What
    /// waits ends as unknown. Reads go on.
    pub(crate) fn fence(&self, by: TermMark) -> Result<()> {
        let writer = self.writer();
        pass(Point::FenceBegins);
        self.change_manifest(|manifest| {
            manifest.fenced_by = Some(by);
            // An operator has chosen the other history.
            manifest.halted = None;
            if manifest.term_heard.is_none_or(|heard| heard.term < by.term) {
                manifest.term_heard = Some(by);
            }
        })?;
        pass(Point::FenceNoted);
        self.stop_writing(LogState::Fenced(by));
        drop(writer);
        self.cell.notify();
        Ok(())
    }

    /// Stands still, durably, until an operator has chosen between two histories. What waits ends
    /// as unknown. Reads go on.
    pub(crate) fn halt(&self, why: &str) -> Result<()> {
        let writer = self.writer();
        self.change_manifest(|manifest| manifest.halted = Some(why.to_owned()))?;
        self.stop_writing(LogState::Halted(why.to_owned()));
        drop(writer);
        self.cell.notify();
        Ok(())
    }

    /// Lets an epoch begin that ends a conflict. Durable is only that epoch: a crash before it
    /// leaves the conflict as it was. Answers with what it was about.
    pub(crate) fn leave_conflict(&self) -> Result<String> {
        let _writer = self.writer();
        let mut state = self.state.write();
        let LogState::Halted(why) = &*state else {
            let message = "this node stands in no conflict";
            return Err(Error::new(ErrorKind::NotWriter, message));
        };
        let why = why.clone();
        *state = LogState::Reading;
        self.levels.begin_again();
        Ok(why)
    }

    /// No epoch could begin: the conflict is what it was.
    pub(crate) fn return_to_conflict(&self, why: &str) {
        if self.state() != LogState::Reading {
            return;
        }
        // The epoch may be noted already, and with it that the conflict is left.
        if self.halt(why).is_err() {
            self.stop_writing(LogState::Halted(why.to_owned()));
        }
    }

    /// The newest protection record that this node ever heard of.
    pub(crate) fn protection_heard(&self) -> Option<ProtectionMark> {
        self.manifest.lock().protection_heard
    }

    /// Notes durably that a protection record exists.
    pub(crate) fn note_protection(&self, mark: ProtectionMark) -> Result<()> {
        self.change_manifest(|manifest| manifest.protection_heard = Some(mark))
    }

    /// Leaves the writing state. What waits ends as failed or unknown.
    pub(super) fn stop_writing(&self, state: LogState) {
        let mut finished = Finished::default();
        let waiting = {
            let mut queue = self.queue.lock();
            *self.state.write() = state;
            queue.drain()
        };
        let error = self.not_writing();
        waiting
            .into_iter()
            .for_each(|pending: Pending| pending.fail(&error, &mut finished));
        self.gated.abandon(&error, &mut finished);
        self.levels.abandon(&error, &mut finished);
        finished.wake();
    }

    /// Whether a standby has attached to this node in its term.
    pub(crate) fn is_attached(&self) -> bool {
        let term = self.history.read().term();
        self.manifest.lock().attached_in == Some(term)
    }

    /// Notes durably that a standby attaches, before it is answered: from now on another node may
    /// be promoted in this one's absence.
    pub(crate) fn note_attached(&self) -> Result<()> {
        let term = self.history.read().term();
        if self.is_attached() {
            return Ok(());
        }
        self.change_manifest(|manifest| manifest.attached_in = Some(term))?;
        pass(Point::AttachmentNoted);
        Ok(())
    }

    /// Notes durably that `range` is received from the peer though this node's own epochs cover it:
    /// the watermarks in it do not vouch for this disk.
    pub(crate) fn note_fetched(&self, range: LsnRange) -> Result<()> {
        self.change_manifest(|manifest| match manifest.received.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => manifest.received.push(range),
        })?;
        pass(Point::FetchNoted);
        Ok(())
    }

    /// Writes the manifest as it stands once more, before anything new is written: what was read
    /// may lie in the page cache alone, and it may name an epoch that a crash kept out of the log
    /// and that must not be taken for one of it once the log has grown.
    pub(super) fn settle_manifest(&self, tail_lost: Option<TailLost>) -> Result<()> {
        let _changing = self.manifest_changes.lock();
        let mut settled = self.manifest.lock().clone();
        settled.history = self.history();
        settled.tail_lost = tail_lost;
        self.with_reserve(|| settled.store(&*self.fs))?;
        *self.manifest.lock() = settled;
        Ok(())
    }

    /// Changes what this node knows of itself: durable on return, and seen by nobody before. Who
    /// reads the manifest meanwhile sees what it was, and does not wait for the disk.
    pub(super) fn change_manifest(
        &self,
        change: impl FnOnce(&mut super::manifest::Manifest),
    ) -> Result<()> {
        let _changing = self.manifest_changes.lock();
        let known = self.manifest.lock().clone();
        let mut changed = known.clone();
        change(&mut changed);
        if changed != known {
            let forgotten = (on(Bug::FenceNotDurable) && changed.fenced_by != known.fenced_by)
                || (on(Bug::TermNotNoted) && changed.term_heard != known.term_heard)
                || (on(Bug::EpochNotDurable) && changed.history != known.history);
            if !forgotten {
                self.with_reserve(|| changed.store(&*self.fs))?;
            }
            *self.manifest.lock() = changed;
        }
        Ok(())
    }

    /// Closes cleanly: everything that was written is durable and vouched for.
    pub(crate) fn close(&self) -> Result<()> {
        if self.state() == LogState::Writing {
            self.append_watermark_and_wait()?;
        }
        let writer = self.writer();
        match self.state() {
            LogState::Following => {
                self.sync_active(&writer)?;
                self.note_mark()?;
            }
            LogState::Writing => self.note_mark()?,
            _ => {}
        }
        self.stop_writing(LogState::Closed);
        drop(writer);
        self.lane.stop();
        self.cell.notify();
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lane.stop();
    }
}
