//! The bare group commit: many threads share durable appends, with nothing else to do.
//!
//! Whoever finds no leader leads one group: it takes what has gathered, appends it durably, hands
//! the lead to one of those that gathered meanwhile, and wakes its own followers, each by itself
//! and outside the lock.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::FloorSettings;
use super::appender::{Appender, Mode, ZeroedFile};
use crate::summary::{LatencySummary, latencies, record};

/// Durable commits of many threads that share their writes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GroupCommitFloor {
    /// How many threads commit, one commit at a time each.
    pub threads: usize,
    /// The size of each commit.
    pub record_bytes: usize,
    /// The way to the disk.
    pub mode: Mode,
    /// How many a second, all threads together.
    pub commits_per_s: f64,
    /// How long each takes.
    pub latency: LatencySummary,
}

pub(super) fn measure(
    file: &ZeroedFile,
    mode: Mode,
    settings: &FloorSettings,
) -> io::Result<GroupCommitFloor> {
    let log = SharedLog::new(file.appender(mode)?);
    let threads = settings.threads.max(1);
    let began = Instant::now();
    let deadline = began + settings.row_time;
    let histogram = thread::scope(|scope| {
        let writer = || commit_until(deadline, &log, settings.record_bytes);
        let writers: Vec<_> = (0..threads).map(|_| scope.spawn(writer)).collect();
        let mut all = latencies();
        for writer in writers {
            all += writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        io::Result::Ok(all)
    })?;
    let elapsed = began.elapsed().as_secs_f64();
    let latency = LatencySummary::of(&histogram);
    Ok(GroupCommitFloor {
        threads,
        record_bytes: settings.record_bytes,
        mode,
        commits_per_s: latency.count as f64 / elapsed,
        latency,
    })
}

fn commit_until(deadline: Instant, log: &SharedLog, bytes: usize) -> io::Result<Histogram<u64>> {
    let seat = Arc::new(Seat::of_this_thread());
    let data = vec![0xa5; bytes];
    let mut histogram = latencies();
    let mut last = Instant::now();
    while last < deadline {
        log.commit(&seat, &data)?;
        let now = Instant::now();
        record(&mut histogram, now - last);
        last = now;
    }
    Ok(histogram)
}

/// What all threads commit to.
struct SharedLog {
    forming: Mutex<Forming>,
    /// Only the leader asks for it.
    appender: Mutex<Appender>,
}

/// The next group.
#[derive(Default)]
struct Forming {
    bytes: Vec<u8>,
    followers: Vec<Arc<Seat>>,
    has_leader: bool,
}

impl SharedLog {
    fn new(appender: Appender) -> Self {
        Self {
            forming: Mutex::default(),
            appender: Mutex::new(appender),
        }
    }

    /// Returns when `data` is durable.
    fn commit(&self, seat: &Arc<Seat>, data: &[u8]) -> io::Result<()> {
        let mut forming = lock(&self.forming);
        forming.bytes.extend_from_slice(data);
        if !forming.has_leader {
            forming.has_leader = true;
            drop(forming);
            return self.lead();
        }
        forming.followers.push(Arc::clone(seat));
        drop(forming);
        match seat.wait() {
            Call::Done => Ok(()),
            Call::Lead => self.lead(),
            Call::Failed => Err(io::Error::other(
                "the write that this thread shared has failed",
            )),
        }
    }

    fn lead(&self) -> io::Result<()> {
        let (bytes, followers) = {
            let mut forming = lock(&self.forming);
            (
                std::mem::take(&mut forming.bytes),
                std::mem::take(&mut forming.followers),
            )
        };
        let result = lock(&self.appender).append(&bytes);
        let next = {
            let mut forming = lock(&self.forming);
            let next = forming.followers.pop();
            forming.has_leader = next.is_some();
            next
        };
        // First, so that the disk is not idle while the followers are woken.
        if let Some(next) = next {
            next.call(Call::Lead);
        }
        let call = if result.is_ok() {
            Call::Done
        } else {
            Call::Failed
        };
        followers.iter().for_each(|follower| follower.call(call));
        result
    }
}

/// A thread that panics leaves nothing half done under either lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a thread waits for its turn.
struct Seat {
    thread: Thread,
    call: AtomicU8,
}

/// What a waiting thread is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Call {
    Done = 1,
    Lead = 2,
    Failed = 3,
}

const NOT_CALLED: u8 = 0;

impl Seat {
    fn of_this_thread() -> Self {
        Self {
            thread: thread::current(),
            call: AtomicU8::new(NOT_CALLED),
        }
    }

    fn call(&self, call: Call) {
        self.call.store(call as u8, Ordering::Release);
        self.thread.unpark();
    }

    fn wait(&self) -> Call {
        loop {
            match self.call.swap(NOT_CALLED, Ordering::Acquire) {
                NOT_CALLED => thread::park(),
                call if call == Call::Done as u8 => return Call::Done,
                call if call == Call::Lead as u8 => return Call::Lead,
                _ => return Call::Failed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_commit_is_in_the_file_once() {
        const THREADS: u8 = 8;
        const COMMITS: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let file = ZeroedFile::create(dir.path(), 1).unwrap();
        let log = SharedLog::new(file.appender(Mode::Buffered).unwrap());
        let writer = |number| {
            let seat = Arc::new(Seat::of_this_thread());
            (0..COMMITS).for_each(|_| log.commit(&seat, &[number; 64]).unwrap());
        };
        thread::scope(|scope| {
            (1..=THREADS).for_each(|number| drop(scope.spawn(move || writer(number))));
        });
        let contents = file.contents(usize::from(THREADS) * COMMITS * 64 + 64);
        for number in 0..=THREADS {
            let found = contents
                .chunks(64)
                .filter(|record| *record == [number; 64])
                .count();
            let expected = if number == 0 { 1 } else { COMMITS };
            assert_eq!(found, expected, "records of thread {number}");
        }
    }

    #[test]
    fn a_failed_write_ends_no_commit_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("read-only");
        std::fs::write(&path, [0; 4096]).unwrap();
        let log = SharedLog::new(Appender::over(std::fs::File::open(&path).unwrap(), 4096));
        let writer = || log.commit(&Arc::new(Seat::of_this_thread()), &[1; 64]);
        thread::scope(|scope| {
            // The disk is busy until all but the leader wait for it.
            let busy = lock(&log.appender);
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(writer)).collect();
            let deadline = Instant::now() + Duration::from_secs(20);
            while lock(&log.forming).followers.len() < 7 {
                assert!(Instant::now() < deadline, "the writers do not gather");
                thread::yield_now();
            }
            drop(busy);
            for writer in writers {
                assert!(writer.join().unwrap().is_err());
            }
        });
    }
}
