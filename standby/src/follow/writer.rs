//! The threads that write and replay what a standby receives, so that no task of the network waits
//! for a disk.
//!
//! Whatever waits when the writing thread comes round is done as one: all runs appended, one fsync.
//! The more there is to do, the fewer fsyncs it costs. Replay has a thread of its own, so that a
//! standby that is behind is not held up by it: received and durable run ahead of applied.

use std::sync::mpsc;
use std::thread::JoinHandle;

use super::replay::Replay;
use outlast_engine::format::{FrameRun, Lsn, Position};
use outlast_engine::{LogView, ProtectionMark, Store, TermMark};
use tokio::sync::{mpsc as async_mpsc, oneshot};

/// What the thread is to do, in order.
pub(super) enum Job {
    /// Append checked frames.
    Append(FrameRun),
    /// Make everything that was appended durable.
    Sync,
    /// Show readers everything up to here.
    ApplyTo(Lsn),
    /// Note durably what was heard of.
    Note {
        heard: TermMark,
        protection: Option<ProtectionMark>,
    },
    /// Put the log's tail from here on aside, durably, and cut it off.
    Quarantine { from: Lsn },
    /// Say when everything before is done.
    Barrier(oneshot::Sender<()>),
}

/// What it has done.
pub(super) enum Done {
    Appended(Position),
    Durable(Position),
    Applied(Position),
    Noted,
    Quarantined(Box<LogView>),
    Failed(outlast_engine::Error),
}

/// The handle on the thread. Dropping it ends the thread once all jobs are done.
pub(super) struct LogWriter {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread; what it has done comes out of the receiver.
    pub(super) fn start(
        store: Store,
    ) -> std::io::Result<(Self, async_mpsc::UnboundedReceiver<Done>)> {
        let (jobs, to_do) = mpsc::channel();
        // Bounded by the jobs, and those by the window of the session.
        let (tell, done) = async_mpsc::unbounded_channel();
        let replay = Replay::start(store.clone(), tell.clone())?;
        let thread = std::thread::Builder::new()
            .name("outlast-follow".to_owned())
            .spawn(move || run(&store, &replay, &to_do, &tell))?;
        Ok((
            Self {
                jobs: Some(jobs),
                thread: Some(thread),
            },
            done,
        ))
    }

    /// Gives it a job.
    pub(super) fn give(&self, job: Job) {
        let given = self.jobs.as_ref().map(|jobs| jobs.send(job).is_ok());
        assert!(
            given == Some(true),
            "the thread that writes the log has ended early"
        );
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the log panicked");
        }
    }
}

fn run(
    store: &Store,
    replay: &Replay,
    jobs: &mpsc::Receiver<Job>,
    tell: &async_mpsc::UnboundedSender<Done>,
) {
    while let Ok(first) = jobs.recv() {
        let mut round = Round::default();
        let mut next = Some(first);
        while let Some(job) = next {
            let outcome = round.take(store, replay, job, tell);
            if let Err(error) = outcome {
                tracing::error!(%error, "the log of this standby failed");
                // Nobody listening means that the node is closing.
                let _ = tell.send(Done::Failed(error));
            }
            next = jobs.try_recv().ok();
        }
        if let Err(error) = round.finish(store, tell) {
            tracing::error!(%error, "the log of this standby failed");
            let _ = tell.send(Done::Failed(error));
        }
    }
}

/// What is put off until no more jobs wait.
#[derive(Default)]
struct Round {
    appended: bool,
    sync: bool,
    barriers: Vec<oneshot::Sender<()>>,
}

impl Round {
    fn take(
        &mut self,
        store: &Store,
        replay: &Replay,
        job: Job,
        tell: &async_mpsc::UnboundedSender<Done>,
    ) -> outlast_engine::Result<()> {
        match job {
            Job::Append(run) => {
                store.append_run(&run)?;
                self.appended = true;
            }
            Job::Sync => self.sync = true,
            Job::ApplyTo(lsn) => replay.to(lsn),
            Job::Note { heard, protection } => {
                store.note_term(heard)?;
                if let Some(protection) = protection {
                    store.note_protection(protection)?;
                }
                let _ = tell.send(Done::Noted);
            }
            Job::Quarantine { from } => {
                std::mem::take(self).finish(store, tell)?;
                store.quarantine(from)?;
                let _ = tell.send(Done::Quarantined(Box::new(store.log_view())));
            }
            Job::Barrier(barrier) => self.barriers.push(barrier),
        }
        Ok(())
    }

    fn finish(
        self,
        store: &Store,
        tell: &async_mpsc::UnboundedSender<Done>,
    ) -> outlast_engine::Result<()> {
        if self.appended {
            let _ = tell.send(Done::Appended(store.positions().appended));
        }
        if self.sync {
            store.sync()?;
            let _ = tell.send(Done::Durable(store.positions().durable));
        }
        for barrier in self.barriers {
            let _ = barrier.send(());
        }
        Ok(())
    }
}
