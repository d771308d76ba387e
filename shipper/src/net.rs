//! The thread of the network, apart from those that write and sync the log.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long tasks may take to end when the thread is shut down.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A task of the network ended in a panic. The process goes on; what the task did is undone or
/// left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPanic {
    /// Which task.
    pub task: &'static str,
    /// What it said.
    pub message: String,
}

impl fmt::Display for TaskPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the network's task `{}` panicked: {}",
            self.task, self.message
        )
    }
}

type OnPanic = Arc<dyn Fn(TaskPanic) + Send + Sync>;

/// One thread with a runtime of its own, for everything that concerns the network.
///
/// Nothing that waits for a disk runs here, and nothing that waits for the network runs elsewhere.
/// Dropping it ends its tasks and joins the thread.
#[derive(Debug)]
pub struct NetThread {
    handle: NetHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl NetThread {
    /// Starts the thread. `on_panic` is told of each task that panics; it is called in that thread
    /// and must not block.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(
        name: &str,
        on_panic: impl Fn(TaskPanic) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(runtime, stopped))?;
        let handle = NetHandle {
            runtime: tasks,
            thread: thread.thread().id(),
            on_panic: Arc::new(on_panic),
        };
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// By which tasks are started on the thread.
    #[must_use]
    pub fn handle(&self) -> NetHandle {
        self.handle.clone()
    }
}

fn run(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    let _ = runtime.block_on(stopped);
    runtime.shutdown_timeout(SHUTDOWN);
}

impl Drop for NetThread {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // Its own thread cannot wait for itself; it ends once the task that drops this has.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Starts tasks on a [`NetThread`], from any thread.
#[derive(Clone)]
pub struct NetHandle {
    runtime: Handle,
    thread: ThreadId,
    on_panic: OnPanic,
}

impl NetHandle {
    /// Starts a task. If it panics, that is reported and the rest goes on.
    pub fn spawn(
        &self,
        task: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.runtime.spawn(Supervised {
            task,
            future: Some(Box::pin(future)),
            on_panic: self.on_panic.clone(),
        })
    }

    /// Runs a task on the network's thread and waits for its answer in another task; none if it
    /// panicked or the thread ended.
    pub async fn run<T: Send + 'static>(
        &self,
        task: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.spawn(task, async move {
            let _ = answer.send(future.await);
        });
        answered.await.ok()
    }

    /// Runs a task on the network's thread and waits for its answer on this one; none if it
    /// panicked or the thread ended. Blocks: a task of another runtime may call it where it may
    /// block.
    ///
    /// # Panics
    /// When called on the network's own thread, which would wait for itself.
    pub fn wait<T: Send + 'static>(
        &self,
        task: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        assert_ne!(
            thread::current().id(),
            self.thread,
            "the network's thread waits for its own task `{task}`"
        );
        let (answer, answered) = mpsc::channel();
        self.spawn(task, async move {
            let _ = answer.send(future.await);
        });
        answered.recv().ok()
    }
}

impl fmt::Debug for NetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetHandle").finish_non_exhaustive()
    }
}

/// A future whose panics end here, those of its destruction included.
struct Supervised {
    task: &'static str,
    future: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    on_panic: OnPanic,
}

impl Supervised {
    fn contain<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(value) => Some(value),
            Err(payload) => {
                let panic = TaskPanic {
                    task: self.task,
                    message: panic_message(&*payload),
                };
                tracing::error!(task = panic.task, message = %panic.message, "a task panicked");
                let _ = catch_unwind(AssertUnwindSafe(|| (self.on_panic)(panic)));
                None
            }
        }
    }

    fn end(&mut self) {
        self.contain(|this| drop(this.future.take()));
    }
}

impl Future for Supervised {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let polled = self.contain(|this| match &mut this.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Ready(()),
        });
        match polled {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(())) | None => {
                self.end();
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a panic said, from what it was caught with.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (NetThread, mpsc::Receiver<TaskPanic>) {
        let (report, reports) = mpsc::channel();
        let on_panic = move |panic| report.send(panic).unwrap();
        (NetThread::start("net-test", on_panic).unwrap(), reports)
    }

    #[test]
    fn a_panic_is_reported_and_the_rest_goes_on() {
        let (net, reports) = start();
        let handle = net.handle();
        for i in 0..100 {
            assert_eq!(
                handle.wait("bad", async move { assert!(i > 999, "at {i}") }),
                None
            );
            let report = reports.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!(report.task, "bad");
            assert!(report.message.contains(&format!("at {i}")), "{report}");
            assert_eq!(handle.wait("good", async { 7 }), Some(7));
        }
    }

    #[test]
    fn a_panic_while_a_task_is_let_go_is_reported_too() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("in drop");
            }
        }
        let (net, reports) = start();
        net.handle().spawn("bad", async {
            let _bad = Bad;
            std::future::pending::<()>().await;
        });
        assert_eq!(net.handle().wait("good", async { 7 }), Some(7));
        drop(net);
        let report = reports.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!((report.task, report.message.as_str()), ("bad", "in drop"));
    }

    #[test]
    fn shutting_down_ends_its_tasks_and_its_thread() {
        let (net, _reports) = start();
        let (ended, end) = mpsc::channel::<()>();
        let handle = net.handle();
        handle.spawn("waits for ever", async move {
            let _ended = ended;
            std::future::pending::<()>().await;
        });
        drop(net);
        // The task's end of the channel is gone, and with it the task.
        assert_eq!(end.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        assert_eq!(handle.wait("too late", async { 7 }), None);
    }

    #[test]
    fn the_thread_may_be_let_go_on_itself() {
        let (net, _reports) = start();
        let handle = net.handle();
        let (ended, end) = mpsc::channel::<()>();
        handle.spawn("lets go", async move {
            let _ended = ended;
            drop(net);
        });
        let end = end.recv_timeout(Duration::from_secs(5));
        assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
