//! The thread that replays what a standby has made durable.

use std::sync::mpsc;
use std::thread::JoinHandle;

use outlast_engine::Store;
use outlast_engine::format::Lsn;
use tokio::sync::mpsc as async_mpsc;

use super::jobs::{Done, replay_to};
use super::writer::tell_panic;

/// The handle on the thread. Dropping it ends the thread once it has replayed what was asked for.
pub(super) struct Replay {
    targets: Option<mpsc::Sender<Lsn>>,
    thread: Option<JoinHandle<()>>,
}

impl Replay {
    /// Starts the thread, which tells by `tell` how far it has come.
    pub(super) fn start(
        store: Store,
        tell: async_mpsc::UnboundedSender<Done>,
    ) -> std::io::Result<Self> {
        let (targets, asked) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("outlast-replay".to_owned())
            .spawn(move || tell_panic("replays", &tell, || run(&store, &asked, &tell)))?;
        Ok(Self {
            targets: Some(targets),
            thread: Some(thread),
        })
    }

    /// Shows readers everything up to `lsn`, soon; not when the thread has ended, which has said
    /// why.
    pub(super) fn to(&self, lsn: Lsn) {
        if let Some(targets) = &self.targets {
            let _ = targets.send(lsn);
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        drop(self.targets.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, asked: &mpsc::Receiver<Lsn>, tell: &async_mpsc::UnboundedSender<Done>) {
    while let Ok(first) = asked.recv() {
        let target = asked.try_iter().fold(first, Lsn::max);
        if let Some(done) = replay_to(store, target) {
            // Nobody listening means that the node is closing.
            let _ = tell.send(done);
        }
    }
}
