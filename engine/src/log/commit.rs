//! Group commit: many callers, one write and one fsync.
//!
//! A blocking caller that finds no leader leads one group itself, so a lone writer never hands its
//! commit to another thread. It never leads a second one: the leadership goes to a caller of the
//! next group, who must wake anyway, or to the log's thread where only asynchronous callers wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::checked::{Check, Draft, Judged, judge};
use super::gate::{Admit, Waiting};
use super::lane::Reserve;
use super::levels::{CommitOptions, Finished, Level};
use super::pipeline::{Pipeline, Place};
use super::waiter::{CommitFuture, Outcome, Turn, Waiter};
use super::writer::{Unsynced, Writer};
use super::{FrameSink, Log, LogState};
use crate::batch::Needs;
use crate::error::{CommitError, Error, ErrorKind, Result};
use crate::format::{
    BATCH_HEADER_LEN, FRAME_HEADER_LEN, FrameHeader, FrameKind, Lsn, encoded_frame_len,
};
use crate::kill_points::{Point, pass};
use crate::planted::{Bug, on};
use crate::receipt::Receipt;

/// Commits that are in no frame yet.
///
/// Invariant: `led` while some thread is to take the next group, unless `stalled`; a caller in
/// `waiting` is therefore always waited for by a leader, or is one, or waits for the gate.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Pending>,
    led: bool,
    /// Nobody leads because the gate wants no more in the log; whoever asks it again looks after
    /// those that wait.
    pub(super) stalled: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn drain(&mut self) -> Vec<Pending> {
        self.waiting.drain(..).collect()
    }
}

/// One commit, or one control record, before it is in a frame.
pub(super) struct Pending {
    kind: FrameKind,
    /// The encoded batch, or the payload of the control record.
    pub(super) bytes: Vec<u8>,
    /// What must hold for it to get into a frame.
    pub(super) check: Option<Box<Check>>,
    needs: Needs,
    level: Level,
    waiter: Option<Arc<Waiter>>,
    /// Its place in the pipeline that it belongs to, if any.
    place: Option<Place>,
}

impl Pending {
    /// # Errors
    /// `Skipped` when a commit before it in its pipeline has failed.
    pub(super) fn in_place(&self) -> Result<()> {
        self.place.as_ref().map_or(Ok(()), Place::check)
    }

    /// # Errors
    /// Why it must not get into a frame whatever else is in it.
    fn may_be_formed(&self) -> Result<()> {
        self.in_place()?;
        self.needs.check()
    }

    /// Whether it has a frame of its own.
    fn is_alone(&self) -> bool {
        self.kind != FrameKind::Batches || self.needs.drops.is_some()
    }

    /// Counts it as failed for those behind it in its pipeline.
    pub(super) fn end_pipeline(&self) {
        if let Some(place) = &self.place {
            place.fail();
        }
    }

    pub(super) fn fail(self, error: &Error, finished: &mut Finished) {
        self.end_pipeline();
        if let Some(waiter) = self.waiter {
            finished.push(waiter, Err(CommitError::Failed(error.duplicate())));
        }
    }
}

/// Largest group that is synced while the next one is formed and written. Of a larger one it takes
/// as long as an fsync to wake the callers, and the next group is the larger for waiting for those.
const OVERLAP_MAX: usize = 24;

/// A group in its frame, and what of it does not last yet if it could be written.
type Written = (Formed, Result<Option<Unsynced>>);

/// A group in its frame.
pub(super) struct Formed {
    header: FrameHeader,
    pub(super) frame: Bytes,
    receipts: Vec<(Receipt, Level, Option<Arc<Waiter>>)>,
}

impl Log {
    /// Commits an encoded batch and waits for its level.
    ///
    /// # Errors
    /// [`CommitError::Failed`] when nothing was written, [`CommitError::Unknown`] when the batch is
    /// in a frame and its end is not known.
    pub(crate) fn commit(&self, draft: impl Into<Draft>, options: CommitOptions) -> Outcome {
        let kind = FrameKind::Batches;
        self.commit_blocking(kind, draft.into(), options)
    }

    /// Appends a control record; durable and applied on return. Answers with its end.
    pub(crate) fn append_control(&self, kind: FrameKind, payload: Vec<u8>) -> Result<Lsn> {
        assert!(!matches!(kind, FrameKind::Batches | FrameKind::Epoch));
        match self.commit_blocking(kind, payload.into(), CommitOptions::default()) {
            Ok(receipt) => Ok(receipt.lsn),
            Err(CommitError::Failed(error) | CommitError::Unknown { error, .. }) => Err(error),
        }
    }

    /// Commits an encoded batch without blocking. It is on its way when this returns.
    pub(crate) fn commit_async(
        self: &Arc<Self>,
        draft: impl Into<Draft>,
        options: CommitOptions,
    ) -> CommitFuture {
        self.begin(draft.into(), options, None)
    }

    /// The same, unless a commit before it in its pipeline has failed.
    pub(crate) fn commit_behind(
        self: &Arc<Self>,
        pipeline: &mut Pipeline,
        draft: impl Into<Draft>,
        options: CommitOptions,
    ) -> CommitFuture {
        self.begin(draft.into(), options, Some(pipeline.take_place()))
    }

    fn begin(
        self: &Arc<Self>,
        draft: Draft,
        options: CommitOptions,
        place: Option<Place>,
    ) -> CommitFuture {
        let waiter = Waiter::polled();
        let pending = Pending {
            kind: FrameKind::Batches,
            bytes: draft.batch,
            check: draft.check,
            needs: draft.needs,
            level: options.level,
            waiter: Some(waiter.clone()),
            place: place.clone(),
        };
        match self.enqueue(pending) {
            Ok(true) => self.lead_elsewhere(),
            Ok(false) => {}
            Err(error) => {
                if let Some(place) = place {
                    place.fail();
                }
                waiter.finish(Err(CommitError::Failed(error)));
            }
        }
        CommitFuture::new(waiter, self.clone())
    }

    /// Queues an encoded batch for whoever calls [`Log::lead`].
    pub(crate) fn commit_queued(
        self: &Arc<Self>,
        draft: impl Into<Draft>,
        options: CommitOptions,
    ) -> CommitFuture {
        let draft = draft.into();
        let waiter = Waiter::polled();
        let pending = Pending {
            kind: FrameKind::Batches,
            bytes: draft.batch,
            check: draft.check,
            needs: draft.needs,
            level: options.level,
            waiter: Some(waiter.clone()),
            place: None,
        };
        match self.enqueue(pending) {
            // Nobody is told to lead: that is for the caller.
            Ok(true) => self.queue.lock().led = false,
            Ok(false) => {}
            Err(error) => waiter.finish(Err(CommitError::Failed(error))),
        }
        CommitFuture::new(waiter, self.clone())
    }

    /// The future of a commit that is refused before it is queued.
    pub(crate) fn refuse_async(self: &Arc<Self>, error: Error) -> CommitFuture {
        let waiter = Waiter::polled();
        waiter.finish(Err(CommitError::Failed(error)));
        CommitFuture::new(waiter, self.clone())
    }

    /// Appends a watermark frame, which vouches that all before it is durable. Nobody waits for it.
    pub(super) fn append_watermark(&self) {
        let pending = Pending {
            kind: FrameKind::Watermark,
            bytes: Vec::new(),
            check: None,
            needs: Needs::default(),
            level: Level::Local,
            waiter: None,
            place: None,
        };
        // One that cannot be queued is not needed: the log is no longer written.
        if let Ok(true) = self.enqueue(pending) {
            self.lead_group();
        }
    }

    /// Appends a watermark frame and waits for it.
    pub(super) fn append_watermark_and_wait(&self) -> Result<()> {
        self.append_control(FrameKind::Watermark, Vec::new())
            .map(|_| ())
    }

    fn commit_blocking(&self, kind: FrameKind, draft: Draft, options: CommitOptions) -> Outcome {
        let mut deadline = options.deadline.map(|after| Instant::now() + after);
        let waiter = Waiter::blocking(deadline);
        let pending = Pending {
            kind,
            bytes: draft.batch,
            check: draft.check,
            needs: draft.needs,
            level: options.level,
            waiter: Some(waiter.clone()),
            place: None,
        };
        match self.enqueue(pending) {
            Ok(true) => self.lead_group(),
            Ok(false) => {}
            Err(error) => return Err(CommitError::Failed(error)),
        }
        loop {
            match waiter.wait(deadline) {
                Turn::Lead => self.lead_group(),
                Turn::Done(outcome) => return outcome,
                Turn::Late(receipt) => {
                    let error = Error::new(ErrorKind::Timeout, "the deadline passed");
                    match receipt {
                        Some(receipt) => return Err(CommitError::Unknown { receipt, error }),
                        None if self.withdraw(&waiter) => return Err(CommitError::Failed(error)),
                        // A leader has taken it and forms its frame now.
                        None => deadline = Some(Instant::now() + Duration::from_millis(1)),
                    }
                }
            }
        }
    }

    /// Queues a commit. Answers whether somebody must lead now.
    fn enqueue(&self, pending: Pending) -> Result<bool> {
        let len = pending.bytes.len();
        if len > self.batch_len_max() {
            let message = format!(
                "a batch of {len} bytes: with segments of {} bytes the limit is {}; split it, or \
                 make the cluster with a larger segment_size",
                self.segment_size,
                self.batch_len_max()
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.admit(pending.kind)?;
        let mut queue = self.queue.lock();
        // Under the queue's lock, so that nothing is queued behind the drain of a dying log.
        self.require(&LogState::Writing)?;
        if pending.kind != FrameKind::Batches && self.gated.gate().is_some() {
            // It does not wait for those that the gate keeps outside.
            queue.waiting.push_front(pending);
        } else {
            queue.waiting.push_back(pending);
        }
        Ok(!std::mem::replace(&mut queue.led, true))
    }

    /// Takes a commit whose caller has given up back out of the queue, if it is still there.
    fn withdraw(&self, waiter: &Arc<Waiter>) -> bool {
        let mut queue = self.queue.lock();
        let own = |pending: &Pending| {
            pending
                .waiter
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, waiter))
        };
        let found = queue.waiting.iter().position(own);
        found.is_some_and(|index| queue.waiting.remove(index).is_some())
    }

    /// Leads one group, and further ones only where nobody else can.
    pub(super) fn lead_group(&self) {
        while !self.lead_one() {}
    }

    /// Leads one group: forms and writes it, hands the leadership on, makes it durable, answers.
    /// Says whether somebody took the leadership, or nobody need.
    fn lead_one(&self) -> bool {
        let mut finished = Finished::default();
        let mut writer = self.writer.lock();
        if self.stall(&mut finished) {
            drop(writer);
            finished.wake();
            return true;
        }
        let outcome = self.next_group(&mut writer, &mut finished).map(|formed| {
            let written = self.write(&mut writer, &formed.frame);
            (formed, written.map(|()| writer.unsynced()))
        });
        // Before the leadership goes, so that groups are synced one at a time and in their order.
        let syncing = self.syncing.lock();
        let small = |formed: &Formed| formed.receipts.len() <= OVERLAP_MAX;
        let leaves_early = self.past_cache.load(Ordering::Relaxed)
            && outcome.as_ref().is_none_or(|(formed, _)| small(formed));
        let (handed_over, outcome) = if leaves_early {
            drop(writer);
            let handed_over = self.hand_over();
            (handed_over, self.sync_group(outcome))
        } else {
            let outcome = self.sync_group(outcome);
            drop(writer);
            (self.hand_over(), outcome)
        };
        // Before the next one is synced, so that frames are applied in their order.
        let sink = self.sink.lock();
        drop(syncing);
        if let Some((formed, written)) = outcome {
            self.answer(formed, written, sink.as_deref(), &mut finished);
        }
        drop(sink);
        self.cell.notify();
        pass(Point::GroupShown);
        finished.wake();
        // The gate may have let pass what the next leader was held off by.
        let must_lead = self.gated.gate().is_some() && self.lead_again();
        handed_over && !must_lead
    }

    /// Syncs a group that was written, unless that failed, or the group before did.
    fn sync_group(&self, outcome: Option<Written>) -> Option<(Formed, Result<()>)> {
        let (formed, written) = outcome?;
        let sync = |unsynced: Option<Unsynced>| match unsynced {
            Some(unsynced) => self
                .require_sound()
                .and_then(|()| self.sync_written(&unsynced)),
            None => Ok(()),
        };
        Some((formed, written.and_then(sync)))
    }

    /// Forms the group that waits, if one does. The sender may take its frame from here on, while
    /// it is being written here.
    pub(super) fn next_group(
        &self,
        writer: &mut Writer,
        finished: &mut Finished,
    ) -> Option<Formed> {
        // As late as possible: whoever queued while the last group was synced is in this one.
        let group = self.take_group();
        let formed = self.form(writer, group, finished)?;
        self.cell.notify();
        Some(formed)
    }

    /// Applies and shows a group that is durable, and answers its callers; those of one that is not
    /// learn that its end is unknown.
    pub(super) fn answer(
        &self,
        formed: Formed,
        written: Result<()>,
        sink: Option<&dyn FrameSink>,
        finished: &mut Finished,
    ) {
        let Err(error) = written else {
            if let Some(sink) = sink {
                sink.apply(&formed.header, &formed.frame);
            }
            let mut group = Waiting {
                end: formed.header.position(),
                receipts: formed.receipts,
            };
            if formed.header.kind != FrameKind::Batches {
                for (receipt, _, waiter) in group.receipts.drain(..) {
                    finished.extend(waiter.map(|waiter| (waiter, Ok(receipt))));
                }
            }
            self.pass_gate(Some(group), finished);
            return;
        };
        for (receipt, _, waiter) in formed.receipts {
            let error = error.duplicate();
            let outcome = if on(Bug::UnknownAsFailed) {
                CommitError::Failed(error)
            } else {
                CommitError::Unknown { receipt, error }
            };
            if let Some(waiter) = waiter {
                finished.push(waiter, Err(outcome));
            }
        }
    }

    /// Whether the gate wants no more in the log for now. Nobody leads then until it is asked
    /// again. What is to be refused ends here.
    pub(super) fn stall(&self, finished: &mut Finished) -> bool {
        let mut queue = self.queue.lock();
        let Some(first) = queue.waiting.front() else {
            return false;
        };
        match self.admit(first.kind) {
            Ok(Admit::Go) => false,
            Ok(Admit::Wait) => {
                queue.led = false;
                queue.stalled = true;
                true
            }
            Err(refusal) => {
                let refused = queue.drain();
                queue.led = false;
                let refused = refused.into_iter();
                refused.for_each(|pending| pending.fail(&refusal, finished));
                true
            }
        }
    }

    /// Goes on with what waits outside of the log, if the gate was what it waited for. Answers
    /// whether this thread must lead, since nobody else can.
    pub(super) fn lead_again(&self) -> bool {
        let mut queue = self.queue.lock();
        if !std::mem::take(&mut queue.stalled) || queue.led || queue.waiting.is_empty() {
            return false;
        }
        queue.led = true;
        drop(queue);
        !self.hand_over()
    }

    /// The next group: the longest run of batches that fits in one frame, or one control record, or
    /// one batch that drops a keyspace: what comes behind that is checked against it.
    fn take_group(&self) -> Vec<Pending> {
        let mut queue = self.queue.lock();
        let mut len = 0;
        let mut count = 0;
        for pending in &queue.waiting {
            len += pending.bytes.len();
            let alone = pending.is_alone();
            if count > 0 && (alone || len > self.batch_len_max()) {
                break;
            }
            count += 1;
            if alone {
                break;
            }
        }
        queue.waiting.drain(..count).collect()
    }

    /// Forms the group's frame and shows it to readers of the tail. `None` when there is none to
    /// write: the group is empty, or could not be formed, or lost to others, and was told so.
    fn form(
        &self,
        writer: &mut Writer,
        group: Vec<Pending>,
        finished: &mut Finished,
    ) -> Option<Formed> {
        let group = may_be_formed(group, finished);
        let kind = group.first()?.kind;
        let first_batch = writer.chain.lsn.advance(FRAME_HEADER_LEN as u64);
        let Judged {
            kept: mut group,
            lost,
            writes,
        } = judge(group, &mut writer.recent, first_batch);
        let payload_len: usize = group.iter().map(|pending| pending.bytes.len()).sum();
        let ready = if group.is_empty() {
            Ok(None)
        } else {
            self.require(&LogState::Writing)
                .and_then(|()| {
                    self.make_room(writer, encoded_frame_len(payload_len), Reserve::Kept)
                })
                .map(Some)
        };
        let first_in_segment = match ready {
            Ok(first) => {
                // Who lost to another of the group lost to what gets into the log.
                lost.into_iter()
                    .for_each(|(pending, error)| pending.fail(&error, finished));
                first?
            }
            Err(error) => {
                let lost = lost.into_iter().map(|(pending, _)| pending);
                group
                    .into_iter()
                    .chain(lost)
                    .for_each(|pending| pending.fail(&error, finished));
                return None;
            }
        };
        let batches = if kind == FrameKind::Batches {
            group.len()
        } else {
            0
        };
        let batches = u32::try_from(batches).unwrap_or_else(|_| panic!("{batches} batches"));
        let mut fields = writer.fields(self, kind, batches);
        fields.first_in_segment = first_in_segment;
        let before = writer.chain;
        let log_ms = fields.log_ms.max(before.log_ms);
        for pending in group.iter_mut().filter(|pending| pending.needs.expires()) {
            pending.needs.start(&mut pending.bytes, log_ms);
        }
        let frame = writer
            .chain
            .form(fields, group.iter().map(|pending| &*pending.bytes));
        let header = match before.check_header(&frame) {
            Ok(header) => header,
            Err(fault) => panic!("formed a frame that does not check: {fault}"),
        };
        let Some(epoch) = before.epoch else {
            panic!("formed a frame in no epoch")
        };
        let mut lsn = header.payload_lsn();
        let mut receipts = Vec::with_capacity(group.len());
        for (commit, pending) in (header.first_commit..).zip(group) {
            if let Some(keyspace) = &pending.needs.drops {
                // Whatever is formed behind this meets it.
                keyspace.mark_dropped(lsn.advance(BATCH_HEADER_LEN as u64));
            }
            lsn = lsn.advance(pending.bytes.len() as u64);
            // A control record is durable with its frame, and has no number of its own.
            let end = if kind == FrameKind::Batches {
                lsn
            } else {
                header.end()
            };
            let receipt = Receipt {
                epoch: epoch.id,
                lsn: end,
                commit,
            };
            if let Some(waiter) = &pending.waiter {
                waiter.formed(receipt);
            }
            receipts.push((receipt, pending.level, pending.waiter));
        }
        self.push(writer, before.lsn, frame.clone(), 1);
        self.counters.formed_bytes.add(frame.len() as u64);
        self.counters.commits.add(u64::from(batches));
        if kind == FrameKind::Batches {
            self.counters.groups.add(1);
            writer.recent.push(header, frame.clone(), writes);
        }
        Some(Formed {
            header,
            frame,
            receipts,
        })
    }

    /// Ends this thread's leadership, unless nobody can take it: only asynchronous callers wait,
    /// and the log has no thread.
    fn hand_over(&self) -> bool {
        let mut queue = self.queue.lock();
        if queue.waiting.is_empty() {
            queue.led = false;
            return true;
        }
        let blocking = queue.waiting.iter().find_map(|pending| {
            pending
                .waiter
                .as_ref()
                .filter(|waiter| waiter.is_blocking())
                .cloned()
        });
        match blocking {
            // Under the queue's lock, so that it cannot withdraw in between.
            Some(waiter) => {
                waiter.lead();
                true
            }
            None => {
                drop(queue);
                self.lane.lead()
            }
        }
    }

    /// Lets the log's thread lead, or this one where there is none.
    fn lead_elsewhere(&self) {
        if !self.lane.lead() {
            self.lead_group();
        }
    }
}

/// Those of a group before which no commit of their pipeline has failed, and whose keyspaces are
/// there. Groups are formed one at a time and in the order of the queue, so what came before has
/// its fate by now.
fn may_be_formed(group: Vec<Pending>, finished: &mut Finished) -> Vec<Pending> {
    if group.iter().all(|pending| pending.may_be_formed().is_ok()) {
        return group;
    }
    let mut kept = Vec::with_capacity(group.len());
    for pending in group {
        match pending.may_be_formed() {
            Ok(()) => kept.push(pending),
            Err(error) => pending.fail(&error, finished),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::clock::SystemClock;
    use crate::format::EpochReason;
    use crate::fs::MemFs;
    use crate::{Batch, Config, InitOptions, Store};

    const VALUE_LEN: usize = 12_000;

    fn outcome(future: CommitFuture) -> Result<Receipt, CommitError> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => panic!("it has not ended"),
        }
    }

    #[test]
    fn a_pipeline_ends_with_its_first_failure_though_the_cause_has_passed() {
        let fs = MemFs::new();
        let options = InitOptions {
            segment_size: 64 << 10,
            ..InitOptions::new("a")
        };
        Store::init_on(&fs, &options).unwrap();
        let config = Config {
            background: false,
            ..Config::default()
        };
        let store =
            Store::open_on(Arc::new(fs.clone()), Arc::<SystemClock>::default(), config).unwrap();
        store.begin_epoch(EpochReason::Init, "").unwrap();
        let keyspace = store.keyspace("default").unwrap();
        let batch = || {
            let mut batch = Batch::new();
            batch.put(&keyspace, "key", vec![7; VALUE_LEN]).unwrap();
            batch
        };
        let log = &store.shared.log;
        while log.segments.last().unwrap().room() > 2 * VALUE_LEN as u64 {
            store.commit(batch(), CommitOptions::default()).unwrap();
        }
        // All are in the queue before the first of them is formed; two do not fit in a frame.
        log.queue.lock().led = true;
        let mut pipeline = Pipeline::default();
        let mut behind = || store.commit_behind(&mut pipeline, batch(), CommitOptions::default());
        let (fits, refused, skipped) = (behind(), behind(), behind());
        let other = store.commit_async(batch(), CommitOptions::default());
        // The first one's write and fsync, then the making of the next segment.
        fs.fail_at(fs.operations() + 3, std::io::ErrorKind::StorageFull);
        log.lead_group();
        let late = behind();

        let fits = outcome(fits).unwrap();
        let kinds = [refused, skipped, late].map(|future| match outcome(future) {
            Err(CommitError::Failed(error)) => error.kind(),
            other => panic!("{other:?}"),
        });
        let skipped = ErrorKind::Skipped;
        assert_eq!(kinds, [ErrorKind::DiskFull, skipped, skipped]);
        assert_eq!(outcome(other).unwrap().commit, fits.commit + 1);
    }
}
