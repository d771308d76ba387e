//! Following: taking frames that another node formed, byte for byte.

use super::lane::Reserve;
use super::manifest::TailLost;
use super::{Log, LogState};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, EpochRecord, FrameRun, Lsn};
use crate::kill_points::{Point, pass};

impl Log {
    /// Finishes recovery and takes frames from now on. A log that takes frames already goes on.
    ///
    /// # Errors
    /// `Fenced`, `Poisoned`, `Closed`, `NotWriter` for a node that writes, `Io`.
    pub(crate) fn begin_following(&self) -> Result<()> {
        self.settle()?;
        let _writer = self.writer();
        let mut state = self.state.write();
        match &*state {
            LogState::Reading => *state = LogState::Following,
            LogState::Following => {}
            LogState::Writing => {
                let message = "this node writes its own log and cannot follow another";
                return Err(Error::new(ErrorKind::NotWriter, message));
            }
            LogState::Fenced(_)
            | LogState::Halted(_)
            | LogState::Poisoned(_)
            | LogState::ReadOnly
            | LogState::Closed => {
                drop(state);
                return Err(self.not_writing());
            }
        }
        drop(state);
        self.lane.wake();
        Ok(())
    }

    /// Stops taking frames; reads go on. What was taken stays.
    pub(crate) fn stop_following(&self) {
        let _writer = self.writer();
        let mut state = self.state.write();
        if *state == LogState::Following {
            *state = LogState::Reading;
        }
    }

    /// Appends checked frames where the log ends. They are durable after [`Log::sync`]. Answers
    /// with the new end.
    ///
    /// # Errors
    /// `NotHeld` when the run does not begin where this log ends; those of writing otherwise.
    pub(crate) fn append_run(&self, run: &FrameRun) -> Result<Lsn> {
        let mut writer = self.writer();
        self.check_continues(&writer, run)?;
        self.learn_epochs(run)?;
        self.learn_protections(run)?;
        let mut start = run.range().start;
        let mut chain = *run.before();
        let mut frames = 0;
        let mut epochs = run.epochs().iter();
        for (header, _) in run.frames() {
            if header.first_in_segment {
                self.append_piece(&mut writer, run, (start, &chain), frames)?;
                (start, frames) = (header.lsn, 0);
                if !writer
                    .active
                    .as_ref()
                    .is_some_and(|active| active.segment.range().is_empty())
                {
                    self.rotate(&mut writer, Reserve::Kept)?;
                }
            }
            let begins = header.kind == crate::format::FrameKind::Epoch;
            chain = chain.after(header, begins.then(|| epochs.next()).flatten());
            frames += 1;
        }
        self.append_piece(&mut writer, run, (start, &chain), frames)?;
        assert_eq!(
            writer.chain,
            *run.after(),
            "the log ends elsewhere than the run"
        );
        drop(writer);
        self.cell.notify();
        Ok(run.range().end)
    }

    /// Whether a run may be appended now; what it holds is not looked at.
    ///
    /// # Errors
    /// As [`Log::append_run`].
    pub(crate) fn takes(&self, run: &FrameRun) -> Result<()> {
        self.check_continues(&self.writer(), run)
    }

    fn check_continues(&self, writer: &super::Writer, run: &FrameRun) -> Result<()> {
        self.require(&LogState::Following)?;
        if *run.before() != writer.chain {
            let message = format!(
                "a run of frames at {} does not continue this log, which ends at {}",
                run.range(),
                writer.chain.lsn
            );
            return Err(Error::new(ErrorKind::NotHeld, message));
        }
        Ok(())
    }

    /// Appends the part of `run` from `start` up to where `chain` stands, which is one segment's.
    /// On an error before it is written, the log ends where it ended.
    fn append_piece(
        &self,
        writer: &mut super::Writer,
        run: &FrameRun,
        (start, chain): (Lsn, &Chain),
        frames: u64,
    ) -> Result<()> {
        if frames == 0 {
            return Ok(());
        }
        let bytes = run.slice(start, chain.lsn);
        let room = writer
            .active
            .as_ref()
            .map_or(0, |active| active.segment.room());
        if room < bytes.len() as u64 {
            let message = format!(
                "frames of {} bytes at {start} do not fit in the running segment, which has {room} \
                 left: the sender rotates elsewhere than this log",
                bytes.len()
            );
            return Err(Error::new(ErrorKind::Incompatible, message));
        }
        writer.chain = *chain;
        self.push(writer, start, bytes.clone(), frames);
        self.write(writer, &bytes)
    }

    /// Epochs are known to the manifest before their frames are in the log.
    fn learn_epochs(&self, run: &FrameRun) -> Result<()> {
        if run.epochs().is_empty() {
            return Ok(());
        }
        let mut history = self.history();
        for epoch in run.epochs() {
            // Known from a run that the disk had no room for: its frame is not in the log yet.
            if epoch.fork >= run.range().start && history.find(epoch.id) == Some(epoch) {
                continue;
            }
            history.push(epoch.clone()).map_err(|fault| {
                let message = format!("an epoch that does not follow this log's: {fault}");
                Error::new(ErrorKind::Incompatible, message)
            })?;
        }
        self.change_manifest(|manifest| manifest.history = history.clone())?;
        pass(Point::EpochLearnt);
        *self.history.write() = history;
        Ok(())
    }

    /// Makes everything that was appended durable. Answers with the durable end.
    pub(crate) fn sync(&self) -> Result<Lsn> {
        let writer = self.writer();
        self.require(&LogState::Following)?;
        if self.cell.durable() < writer.chain.lsn {
            self.sync_active(&writer)?;
        }
        self.find_lost_tail()?;
        drop(writer);
        self.cell.notify();
        Ok(self.cell.durable())
    }

    /// Notes durably that this node acknowledged up to `lsn` in `epoch` and does not hold that, as
    /// somebody else remembers. What it knows already of a longer one stays.
    pub(crate) fn note_tail_lost(&self, epoch: &EpochRecord, lsn: Lsn) -> Result<()> {
        let _writer = self.writer();
        let lost = TailLost::new(epoch, lsn);
        let known = self.manifest.lock().tail_lost;
        let lasts = lost.lasts(&self.history.read(), self.cell.durable());
        if !lasts || known.is_some_and(|known| known.lsn >= lsn) {
            return Ok(());
        }
        self.change_manifest(|manifest| manifest.tail_lost = Some(lost))?;
        self.recovered.lock().acked_tail_lost = Some(lsn);
        Ok(())
    }

    /// Says no longer that an acknowledged tail is lost, once it was sent again or it is certain
    /// that it is not in the history that is followed.
    fn find_lost_tail(&self) -> Result<()> {
        let Some(lost) = self.manifest.lock().tail_lost else {
            return Ok(());
        };
        if lost.lasts(&self.history.read(), self.cell.durable()) {
            return Ok(());
        }
        self.change_manifest(|manifest| manifest.tail_lost = None)?;
        self.recovered.lock().acked_tail_lost = None;
        tracing::info!(up_to = %lost.lsn, "the acknowledged tail that was lost is settled");
        Ok(())
    }
}
