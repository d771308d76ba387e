//! The threads that write and replay what a standby receives, so that no task of the network waits
//! for a disk.
//!
//! Whatever waits when the writing thread comes round is done as one [`Round`]. Replay has a thread
//! of its own, so that a standby that is behind is not held up by it: received and durable run
//! ahead of applied.

use std::sync::mpsc;
use std::thread::JoinHandle;

use outlast_engine::Store;
use tokio::sync::mpsc as async_mpsc;

use super::jobs::{Done, Job, Round};
use super::replay::Replay;

/// The handle on the threads. Dropping it ends them once all jobs are done.
pub(super) struct LogWriter {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the threads; what they have done comes out of the receiver.
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
    // Nobody listening means that the node is closing.
    let mut tell = |done| drop(tell.send(done));
    let mut replay = |lsn| replay.to(lsn);
    while let Ok(first) = jobs.recv() {
        let mut round = Round::default();
        let mut next = Some(first);
        while let Some(job) = next {
            if let Err(error) = round.take(store, job, &mut replay, &mut tell) {
                tell(Done::Failed(error));
            }
            next = jobs.try_recv().ok();
        }
        if let Err(error) = round.finish(store, &mut tell) {
            tell(Done::Failed(error));
        }
    }
}
