//! The threads that write and replay what a standby receives, so that no task of the network waits
//! for a disk.
//!
//! Whatever waits when the writing thread comes round is done as one [`Round`]. Replay has a thread
//! of its own, so that a standby that is behind is not held up by it: received and durable run
//! ahead of applied.
//!
//! Whatever ends either thread early, a panic too, is told as [`Done::Failed`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::JoinHandle;

use outlast_engine::{ErrorKind, Store};
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
            .spawn(move || {
                tell_panic("writes", &tell, || run(&store, &replay, &to_do, &tell));
            })?;
        Ok((
            Self {
                jobs: Some(jobs),
                thread: Some(thread),
            },
            done,
        ))
    }

    /// Gives it a job, which is left undone when the thread has ended: it has said why.
    pub(super) fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Does the work of a thread, and tells of its panic.
pub(super) fn tell_panic(
    what_it_does: &str,
    tell: &async_mpsc::UnboundedSender<Done>,
    work: impl FnOnce(),
) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        let said = outlast_shipper::panic_message(&*panic);
        let what = format!("the thread that {what_it_does} the log panicked: {said}");
        let error = outlast_engine::Error::new(ErrorKind::Poisoned, what);
        // Nobody listening means that the node is closing.
        let _ = tell.send(Done::Failed(error));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outlast_engine::clock::SystemClock;
    use outlast_engine::format::Lsn;
    use outlast_engine::fs::MemFs;
    use outlast_engine::{Batch, CommitOptions, Config, InitOptions};

    use super::*;

    #[test]
    fn a_panic_is_told_and_what_is_given_afterwards_is_left_undone() {
        let primary = Store::open_in_memory().unwrap();
        let mut batch = Batch::new();
        batch
            .put(&primary.keyspace("default").unwrap(), "key", "value")
            .unwrap();
        primary.commit(batch, CommitOptions::default()).unwrap();
        let fs = Arc::new(MemFs::new());
        let options = InitOptions {
            cluster: primary.cluster(),
            follower: true,
            has_peer: true,
            ..InitOptions::new("b")
        };
        Store::init_on(&*fs, &options).unwrap();
        let clock = Arc::<SystemClock>::default();
        let standby = Store::open_on(fs, clock, Config::default()).unwrap();
        standby.begin_following().unwrap();
        let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
        let run = cursor.next_up_to(Lsn(u64::MAX), 1 << 20).unwrap().unwrap();
        let end = run.range().end;

        let (writer, mut done) = LogWriter::start(standby).unwrap();
        writer.give(Job::Append(run));
        writer.give(Job::Sync);
        while !matches!(done.blocking_recv().unwrap(), Done::Durable(_)) {}
        writer.give(Job::ApplyTo(end));
        while !matches!(done.blocking_recv().unwrap(), Done::Applied(_)) {}
        // Nobody asks for this: readers have seen it.
        writer.give(Job::Quarantine { from: Lsn::ZERO });
        let Done::Failed(error) = done.blocking_recv().unwrap() else {
            panic!("it did not fail")
        };
        assert!(error.to_string().contains("readers have seen"), "{error}");
        let (barrier, passed) = mpsc::channel();
        writer.give(Job::Barrier(Box::new(move || {
            let _ = barrier.send(());
        })));
        assert!(passed.recv().is_err());
        assert!(done.blocking_recv().is_none());
    }
}
