//! Waiting until something about the store changes, with a thread or with a task.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Tells waiters of changes. Costs the commit path one load while nobody waits.
///
/// A waiter counts itself, then looks at what it waits for; a change is published, then the count
/// is looked at. The fences order both, so that one of the two sees the other.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    waiting: AtomicUsize,
    state: Mutex<Waiting>,
    changed: Condvar,
    next_task: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Raised by every change that is told.
    generation: u64,
    tasks: HashMap<u64, Waker>,
}

/// One waiter in the count.
struct Counted<'a>(&'a Changes);

impl Changes {
    /// Tells all waiters that something changed.
    pub(super) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.generation += 1;
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        self.changed.notify_all();
        tasks.into_values().for_each(Waker::wake);
    }

    /// Blocks until `look` answers, or the time is up. Looks at once, and after each change.
    pub(crate) fn wait<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        // A time too far off to be named is no deadline.
        let deadline = Instant::now().checked_add(timeout);
        let _counted = Counted::new(self);
        loop {
            let generation = self.state.lock().generation;
            if let Some(answer) = look() {
                return Some(answer);
            }
            let mut state = self.state.lock();
            while state.generation == generation {
                let late = match deadline {
                    Some(deadline) => self.changed.wait_until(&mut state, deadline).timed_out(),
                    None => {
                        self.changed.wait(&mut state);
                        false
                    }
                };
                if late {
                    drop(state);
                    return look();
                }
            }
        }
    }

    /// The same as a future, on any runtime, which sets its own deadline around it.
    pub(crate) fn until<T, L: FnMut() -> Option<T> + Unpin>(self: &Arc<Self>, look: L) -> Until<L> {
        Until {
            changes: self.clone(),
            task: None,
            look,
        }
    }

    fn count(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn uncount(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<'a> Counted<'a> {
    fn new(changes: &'a Changes) -> Self {
        changes.count();
        Self(changes)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.uncount();
    }
}

/// Ready once its closure answers; looks at each poll.
pub(crate) struct Until<L> {
    changes: Arc<Changes>,
    /// The number under which the task's waker is kept; counted while there is one.
    task: Option<u64>,
    look: L,
}

impl<T, L: FnMut() -> Option<T> + Unpin> Future for Until<L> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let task = *this.task.get_or_insert_with(|| {
            this.changes.count();
            this.changes.next_task.fetch_add(1, Ordering::Relaxed)
        });
        // The waker first: a change between the look and the return then finds it.
        let waker = context.waker().clone();
        this.changes.state.lock().tasks.insert(task, waker);
        match (this.look)() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl<L> Drop for Until<L> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.changes.state.lock().tasks.remove(&task);
            self.changes.uncount();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn two_threads_that_wait_for_each_other_never_miss_a_change() {
        const TURNS: u64 = 5_000;
        let changes = Changes::default();
        let turn = AtomicU64::new(0);
        let play = |player: u64| {
            for mine in (player..TURNS).step_by(2) {
                let began = Instant::now();
                let reached = || (turn.load(Ordering::Acquire) == mine).then_some(());
                assert!(changes.wait(LONG, reached).is_some(), "missed turn {mine}");
                assert!(
                    began.elapsed() < LONG,
                    "only the deadline ended the wait for {mine}"
                );
                turn.store(mine + 1, Ordering::Release);
                changes.notify();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| play(0));
            scope.spawn(|| play(1));
        });
        assert_eq!(changes.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(changes.wait(Duration::ZERO, || None::<()>), None);
    }

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn a_task_is_woken_by_a_change_and_forgotten_when_dropped() {
        let changes = Arc::new(Changes::default());
        let ready = AtomicBool::new(false);
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        let mut until = changes.until(|| ready.load(Ordering::Acquire).then_some(7));
        assert_eq!(Pin::new(&mut until).poll(&mut context), Poll::Pending);
        changes.notify();
        assert!(flag.0.swap(false, Ordering::AcqRel));
        assert_eq!(Pin::new(&mut until).poll(&mut context), Poll::Pending);
        ready.store(true, Ordering::Release);
        changes.notify();
        assert!(flag.0.load(Ordering::Acquire));
        assert_eq!(Pin::new(&mut until).poll(&mut context), Poll::Ready(7));
        drop(until);
        assert_eq!(changes.waiting.load(Ordering::Relaxed), 0);
        assert!(changes.state.lock().tasks.is_empty());
    }
}
