//! The threads that write and replay what a standby receives, so that no task of the network waits
//! for a disk.
//!
//! Whatever waits when the writing thread comes round is done as one [`Round`]. Replay has a thread
//! of its own, so that a standby that is behind is not held up by it: received and durable run
//! ahead of applied.
//!
//! Whatever ends either thread early, a panic too, is told as [`Done::Failed`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::JoinHandle;

use outlast_engine::{ErrorKind, Store};
use tokio::sync::mpsc as async_mpsc;

use super::jobs::{Done, Job, Round};
use super::no_room::NoRoom;
use super::replay::Replay;

/// The handle on the threads. Dropping it ends them once all jobs are done.
pub(super) struct LogWriter {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    no_room: NoRoom,
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
        let no_room = NoRoom::default();
        let waits = no_room.clone();
        let thread = std::thread::Builder::new()
            .name("outlast-follow".to_owned())
            .spawn(move || {
                tell_panic("writes", &tell, || {
                    run(&store, &replay, &to_do, &tell, &waits);
                });
            })?;
        Ok((
            Self {
                jobs: Some(jobs),
                thread: Some(thread),
                no_room,
            },
            done,
        ))
    }

    /// Whether it waits for space.
    pub(super) const fn no_room(&self) -> &NoRoom {
        &self.no_room
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
    no_room: &NoRoom,
) {
    // Nobody listening means that the node is closing.
    let mut tell = |done| drop(tell.send(done));
    let mut replay = |lsn| replay.to(lsn);
    let mut waiting = VecDeque::new();
    while let Some(first) = waiting.pop_front().or_else(|| jobs.recv().ok()) {
        let mut round = Round::default();
        let mut next = Some(first);
        while let Some(job) = next {
            let taken = match job {
                Job::Append(run) => {
                    let mut take = |job| round.take(store, job, &mut replay, &mut tell);
                    no_room.append(store, run, jobs, &mut waiting, &mut take)
                }
                job => round.take(store, job, &mut replay, &mut tell),
            };
            if let Err(error) = taken {
                tell(Done::Failed(error));
            }
            next = waiting.pop_front().or_else(|| jobs.try_recv().ok());
        }
        if let Err(error) = round.finish(store, &mut tell) {
            tell(Done::Failed(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use outlast_engine::EpochReason;
    use outlast_engine::clock::SystemClock;
    use outlast_engine::format::{FrameRun, Lsn};
    use outlast_engine::fs::MemFs;
    use outlast_engine::{Batch, CommitOptions, Config, InitOptions};

    use super::*;

    const SEGMENT_SIZE: u64 = 64 << 10;

    /// A primary that has written more than its standby's segment holds, and that standby.
    fn pair() -> (Store, Arc<MemFs>, Store) {
        let open = |options: &InitOptions| {
            let fs = Arc::new(MemFs::new());
            Store::init_on(&*fs, options).unwrap();
            let clock = Arc::<SystemClock>::default();
            let store = Store::open_on(fs.clone(), clock, Config::default()).unwrap();
            (fs, store)
        };
        let options = InitOptions {
            segment_size: SEGMENT_SIZE,
            ..InitOptions::new("a")
        };
        let (_, primary) = open(&options);
        primary.begin_epoch(EpochReason::Init, "").unwrap();
        let keyspace = primary.keyspace("default").unwrap();
        for _ in 0..20 {
            let mut batch = Batch::new();
            batch.put(&keyspace, "key", vec![7; 8000]).unwrap();
            primary.commit(batch, CommitOptions::default()).unwrap();
        }
        let (fs, standby) = open(&InitOptions {
            cluster: primary.cluster(),
            follower: true,
            has_peer: true,
            segment_size: SEGMENT_SIZE,
            ..InitOptions::new("b")
        });
        standby.begin_following().unwrap();
        (primary, fs, standby)
    }

    /// Waits until the writer says that the disk is full. It was given all of the primary's log,
    /// most of it in one run.
    fn fill(primary: &Store, fs: &MemFs, standby: &Store, writer: &LogWriter) -> Lsn {
        let mut cursor = primary.log_cursor(Lsn::ZERO).unwrap();
        let first = cursor.next_up_to(Lsn(u64::MAX), 1).unwrap().unwrap();
        standby.append_run(&first).unwrap();
        let (start, mut bytes) = (*cursor.chain(), Vec::new());
        while let Some(run) = cursor.next_up_to(Lsn(u64::MAX), 1 << 20).unwrap() {
            bytes.extend_from_slice(run.bytes());
        }
        // Over several segments: a part of it fits.
        let run = FrameRun::check(&start, bytes.into()).unwrap();
        let end = run.range().end;
        fs.limit(Some(fs.used_bytes()));
        writer.give(Job::Append(run));
        writer.give(Job::Sync);
        let deadline = Instant::now() + Duration::from_secs(20);
        while writer.no_room().why().is_none() {
            assert!(Instant::now() < deadline, "it does not wait for space");
            std::thread::yield_now();
        }
        end
    }

    #[test]
    fn a_full_disk_is_waited_for_and_following_goes_on_by_itself() {
        let (primary, fs, standby) = pair();
        let (writer, mut done) = LogWriter::start(standby.clone()).unwrap();
        let end = fill(&primary, &fs, &standby, &writer);
        assert_eq!(standby.state(), outlast_engine::LogState::Following);
        // Heartbeats are echoed meanwhile, which needs a note.
        let heard = primary.term_heard().unwrap();
        writer.give(Job::Note {
            heard,
            protection: None,
        });
        let first = done.blocking_recv().unwrap();
        assert!(matches!(first, Done::Noted), "{first:?}");
        fs.limit(None);
        loop {
            match done.blocking_recv().unwrap() {
                Done::Durable(position) if position.lsn == end => break,
                Done::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert_eq!(writer.no_room().why(), None);
        assert_eq!(standby.chain().lsn, end);
    }

    #[test]
    fn a_full_disk_does_not_hold_a_promotion_up() {
        let (primary, fs, standby) = pair();
        let (writer, mut done) = LogWriter::start(standby.clone()).unwrap();
        fill(&primary, &fs, &standby, &writer);
        let (barrier, passed) = mpsc::channel();
        writer.give(Job::Sync);
        writer.give(Job::Barrier(Box::new(move || {
            let _ = barrier.send(());
        })));
        passed.recv().unwrap();
        let Done::Failed(error) = done.blocking_recv().unwrap() else {
            panic!("it did not say that something was given up")
        };
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        let positions = standby.positions();
        assert_eq!(positions.durable, positions.appended);
        assert_eq!(standby.state(), outlast_engine::LogState::Following);
    }

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
