//! Threads that read from the disk for async callers, so that no runtime's thread waits for it.
//!
//! They are started when they are first needed, are never more than was asked for, and end with the
//! store.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};

/// For how long it counts whether the index was found in memory.
const RESIDENT_FOR: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// The threads of one store.
pub(crate) struct ReadPool {
    jobs: Arc<Jobs>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    threads_max: usize,
    /// Until when what `index_resident` says counts, in nanoseconds of the monotonic clock.
    resident_until_ns: AtomicU64,
    index_resident: AtomicBool,
}

#[derive(Default)]
struct Jobs {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    stop: bool,
}

impl ReadPool {
    pub(super) fn new(threads_max: usize) -> Self {
        Self {
            jobs: Arc::default(),
            threads: Mutex::default(),
            threads_max: threads_max.max(1),
            resident_until_ns: AtomicU64::new(0),
            index_resident: AtomicBool::new(false),
        }
    }

    /// Does `read` on one of the threads.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Reading<T> {
        let slot = Arc::new(Slot(Mutex::new(Stage::Waiting(None))));
        let promise = Promise(slot.clone());
        self.run(Box::new(move || promise.keep(read)));
        Reading(State::Waiting(slot))
    }

    fn run(&self, job: Job) {
        let mut queue = self.jobs.queue.lock();
        queue.waiting.push_back(job);
        let enough = queue.idle >= queue.waiting.len();
        drop(queue);
        self.jobs.more.notify_one();
        if !enough {
            self.start_another();
        }
    }

    fn start_another(&self) {
        let mut threads = self.threads.lock();
        if threads.len() >= self.threads_max {
            return;
        }
        let jobs = self.jobs.clone();
        let name = "outlast-read".to_owned();
        let started = std::thread::Builder::new()
            .name(name)
            .spawn(move || jobs.work());
        match started {
            Ok(thread) => threads.push(thread),
            // Those that run do the work; where none does, the caller of the last resort.
            Err(error) if threads.is_empty() => {
                tracing::warn!(%error, "no thread can be started that reads for async callers");
                let job = self.jobs.queue.lock().waiting.pop_front();
                drop(threads);
                if let Some(job) = job {
                    job();
                }
            }
            Err(_) => {}
        }
    }

    /// Whether the index was found in memory lately.
    pub(crate) fn index_is_resident(&self, now: Duration) -> bool {
        as_ns(now) < self.resident_until_ns.load(Ordering::Acquire)
            && self.index_resident.load(Ordering::Relaxed)
    }

    /// Looks whether the index is in memory, if that was not done lately.
    pub(crate) fn look_at_index(&self, now: Duration, look: impl FnOnce() -> bool) {
        let until = self.resident_until_ns.load(Ordering::Acquire);
        if as_ns(now) < until {
            return;
        }
        self.index_resident.store(look(), Ordering::Relaxed);
        self.resident_until_ns
            .store(as_ns(now + RESIDENT_FOR), Ordering::Release);
    }
}

fn as_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.jobs.queue.lock();
            queue.stop = true;
            std::mem::take(&mut queue.waiting)
        };
        drop(waiting);
        self.jobs.more.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            // The last handle on the store may be dropped by one of these threads itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread that reads for async callers panicked");
            }
        }
    }
}

impl Jobs {
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.waiting.pop_front() {
                drop(queue);
                // Its caller was answered when it unwound, and the next one needs this thread.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a read for an async caller panicked");
                }
                queue = self.queue.lock();
                continue;
            }
            if queue.stop {
                return;
            }
            queue.idle += 1;
            self.more.wait(&mut queue);
            queue.idle -= 1;
        }
    }
}

/// A read that is on its way, or answered already: a future for any runtime.
///
/// It is begun when it is made, whether it is polled or not. What lies in memory is answered at
/// once; the rest is read by threads of the store's own, and keeps the store open until it is read.
/// Dropping it loses nothing but the answer.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Reading<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T>>),
    Waiting(Arc<Slot<T>>),
}

struct Slot<T>(Mutex<Stage<T>>);

enum Stage<T> {
    Waiting(Option<Waker>),
    Done(Option<Result<T>>),
}

impl<T> Reading<T> {
    /// One that is answered already.
    pub(crate) const fn ready(answer: Result<T>) -> Self {
        Self(State::Ready(Some(answer)))
    }
}

impl<T> Unpin for Reading<T> {}

impl<T> Future for Reading<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let taken = match &mut self.0 {
            State::Ready(answer) => answer.take(),
            State::Waiting(slot) => match &mut *slot.0.lock() {
                Stage::Waiting(waker) => {
                    *waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Stage::Done(answer) => answer.take(),
            },
        };
        match taken {
            Some(answer) => Poll::Ready(answer),
            None => panic!("a read was polled after it had answered"),
        }
    }
}

impl<T> std::fmt::Debug for Reading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            State::Ready(_) => "Reading(answered)",
            State::Waiting(_) => "Reading",
        })
    }
}

/// The other end of a read. Dropped without an answer, it answers that there is none.
struct Promise<T>(Arc<Slot<T>>);

impl<T> Promise<T> {
    fn keep(self, read: impl FnOnce() -> Result<T>) {
        // Nobody waits for it any more.
        if Arc::strong_count(&self.0) > 1 {
            self.answer(read());
        }
    }

    fn answer(&self, answer: Result<T>) {
        let mut stage = self.0.0.lock();
        if let Stage::Waiting(waker) = &mut *stage {
            let waker = waker.take();
            *stage = Stage::Done(Some(answer));
            drop(stage);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let message = "this was not read to its end: a bug, unless the store ended meanwhile";
        self.answer(Err(Error::new(ErrorKind::Closed, message)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::store::tests::block_on;

    #[test]
    fn never_more_threads_read_than_were_asked_for_and_all_end_with_the_pool() {
        let pool = ReadPool::new(3);
        let (running, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let reads: Vec<_> = (0..20u64)
            .map(|n| {
                let (running, most, gate) = (running.clone(), most.clone(), gate.clone());
                pool.read(move || {
                    most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    gate.lock().recv().unwrap();
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(n)
                })
            })
            .collect();
        (0..20).for_each(|_| open.send(()).unwrap());
        for (n, read) in reads.into_iter().enumerate() {
            assert_eq!(block_on(read).unwrap(), n as u64);
        }
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        let jobs = Arc::downgrade(&pool.jobs);
        drop(pool);
        assert!(jobs.upgrade().is_none(), "a thread outlives the pool");
    }

    #[test]
    fn a_read_that_panics_or_never_begins_is_answered() {
        let pool = ReadPool::new(1);
        let panicked = pool.read::<()>(|| panic!("as a bug would"));
        let error = block_on(panicked).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(block_on(pool.read(|| Ok(7))).unwrap(), 7);
        let (open, gate) = mpsc::channel::<()>();
        let pool = ReadPool::new(1);
        let (begin, begun) = mpsc::channel::<()>();
        let first = pool.read(move || {
            begin.send(()).unwrap();
            Ok(gate.recv().is_err())
        });
        begun.recv().unwrap();
        let second = pool.read(|| Ok(()));
        let dropping = std::thread::spawn(move || drop(pool));
        assert_eq!(block_on(second).unwrap_err().kind(), ErrorKind::Closed);
        drop(open);
        assert!(block_on(first).unwrap());
        dropping.join().unwrap();
    }
}
