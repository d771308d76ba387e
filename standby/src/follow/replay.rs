//! The thread that replays what a standby has made durable.

use std::sync::mpsc;
use std::thread::JoinHandle;

use outlast_engine::Store;
use outlast_engine::format::Lsn;
use tokio::sync::mpsc as async_mpsc;

use super::jobs::{Done, replay_to};

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
            .spawn(move || run(&store, &asked, &tell))?;
        Ok(Self {
            targets: Some(targets),
            thread: Some(thread),
        })
    }

    /// Shows readers everything up to `lsn`, soon.
    pub(super) fn to(&self, lsn: Lsn) {
        let asked = self
            .targets
            .as_ref()
            .map(|targets| targets.send(lsn).is_ok());
        assert!(asked == Some(true), "the thread that replays has ended");
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        drop(self.targets.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that replays panicked");
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
