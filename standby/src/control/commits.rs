//! Commits over the socket, and how far each has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Instant;

use outlast_engine::format::Lsn;
use outlast_engine::{
    Batch, CommitFuture, CommitOptions, Level, LogState, Pipeline, Receipt, Store,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::outbox::Outbox;
use super::protocol::{Answer, Failure, FailureKind, Reply, Stage, WireOp};
use crate::error::{Error, Result, commit_failure};

/// Begins a commit. It is in the queue of the log when this returns, so that commits of one client
/// keep their order.
pub(super) fn begin(
    store: &Store,
    keyspace: &str,
    ops: &[WireOp],
    pipeline: Option<&mut Pipeline>,
) -> Result<CommitFuture> {
    let keyspace = store.keyspace(keyspace)?;
    let mut batch = Batch::new();
    for op in ops {
        match op {
            WireOp::Put(key, value) => batch.put(&keyspace, key, value)?,
            WireOp::Delete(key) => batch.delete(&keyspace, key)?,
        }
    }
    // Further stages are watched here, so that one commit can report them all.
    let options = CommitOptions::default();
    Ok(match pipeline {
        Some(pipeline) => store.commit_behind(pipeline, batch, options),
        None => store.commit_async(batch, options),
    })
}

/// The last stage that a level waits for.
pub(super) const fn stage_of(level: Level) -> Stage {
    match level {
        Level::Local => Stage::Durable,
        Level::Replicated => Stage::Replicated,
        Level::Applied => Stage::Applied,
    }
}

/// A commit that is durable here and watched on.
pub(super) struct Watched {
    pub(super) id: u64,
    pub(super) receipt: Receipt,
    pub(super) since: Instant,
    /// Stages that are told, in order; the last one ends the watch.
    pub(super) stages: VecDeque<Stage>,
    pub(super) outbox: Outbox,
}

/// Commits whose further stages somebody waits for.
#[derive(Default)]
pub(super) struct Watch {
    waiting: Mutex<[VecDeque<(Lsn, Watched)>; 4]>,
    /// Commits between [`Watch::add`] and their last stage, those that are in no queue just now
    /// too.
    watched: AtomicUsize,
    pub(super) moved: Notify,
}

impl Watch {
    /// The store's positions moved. Wakes nobody while nothing is watched: a wake-up of this thread
    /// for every position of every commit costs more than the commit's own work.
    pub(super) fn tell(&self) {
        // A watcher counts itself and then looks at the positions; a position is published before
        // this. The fences order both, so that one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.watched.load(Ordering::Relaxed) > 0 {
            self.moved.notify_one();
        }
    }

    /// Watches a commit until its last stage.
    pub(super) fn add(&self, store: &Store, watched: Watched) {
        if watched.stages.is_empty() {
            return;
        }
        self.watched.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.put(watched);
        self.look(store);
    }

    fn put(&self, watched: Watched) {
        let Some(stage) = watched.stages.front() else {
            return;
        };
        let lsn = watched.receipt.lsn;
        let mut waiting = self.waiting.lock();
        if let Some(queue) = waiting.get_mut(*stage as usize) {
            // Nearly always at the end: futures of one log finish in its order.
            let at = queue.partition_point(|(other, _)| *other <= lsn);
            queue.insert(at, (lsn, watched));
        }
    }

    /// Tells what was reached, and ends what never will be.
    pub(super) fn look(&self, store: &Store) {
        let positions = store.positions();
        for (stage, reached) in [
            (Stage::Received, positions.replica_received.lsn),
            (Stage::Replicated, positions.replicated.lsn),
            (Stage::Applied, positions.replica_applied.lsn),
        ] {
            loop {
                let next = {
                    let mut waiting = self.waiting.lock();
                    waiting.get_mut(stage as usize).and_then(|queue| {
                        queue
                            .front()
                            .is_some_and(|(lsn, _)| *lsn <= reached)
                            .then(|| queue.pop_front())?
                    })
                };
                let Some((_, watched)) = next else { break };
                self.reached(watched, stage);
            }
        }
        if store.state() != LogState::Writing {
            self.abandon(&store.state());
        }
    }

    /// Tells one stage and goes on to the next.
    fn reached(&self, mut watched: Watched, stage: Stage) {
        watched.stages.pop_front();
        let after_us = u64::try_from(watched.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let reply = Reply::Reached {
            stage,
            receipt: watched.receipt,
            after_us,
        };
        let last = watched.stages.is_empty();
        watched.outbox.tell(Answer {
            id: watched.id,
            last,
            reply,
        });
        if last {
            self.watched.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.put(watched);
        }
    }

    fn abandon(&self, state: &LogState) {
        let all: Vec<_> = {
            let mut waiting = self.waiting.lock();
            waiting.iter_mut().flat_map(std::mem::take).collect()
        };
        self.watched.fetch_sub(all.len(), Ordering::Relaxed);
        for (_, watched) in all {
            let failure = Failure {
                kind: FailureKind::Unknown,
                what: format!("this node stopped writing ({state:?}) before the standby answered"),
                hint: Some("check the receipt later".to_owned()),
                receipt: Some(watched.receipt),
            };
            let reply = Reply::Failed(failure);
            watched.outbox.tell(Answer {
                id: watched.id,
                last: true,
                reply,
            });
        }
    }
}

/// A commit that has begun, and who waits for it.
pub(super) type Begun = (CommitFuture, Watched);

/// Follows the commits of one client, one behind the other: they end in the order of the log, and
/// are answered in it.
pub(super) async fn follow_all(store: Store, watch: Arc<Watch>, mut begun: mpsc::Receiver<Begun>) {
    while let Some((future, watched)) = begun.recv().await {
        follow_up(&store, &watch, future, watched).await;
    }
}

/// Waits for a commit to be durable here, tells it, and hands it to the watch for what follows.
async fn follow_up(store: &Store, watch: &Watch, future: CommitFuture, mut watched: Watched) {
    match future.await {
        Ok(receipt) => {
            watched.receipt = receipt;
            if watched.stages.front() == Some(&Stage::Durable) {
                watched.stages.pop_front();
                let after_us =
                    u64::try_from(watched.since.elapsed().as_micros()).unwrap_or(u64::MAX);
                let reply = Reply::Reached {
                    stage: Stage::Durable,
                    receipt,
                    after_us,
                };
                let last = watched.stages.is_empty();
                // A client that is gone waits for nothing.
                let _ = watched
                    .outbox
                    .send(Answer {
                        id: watched.id,
                        last,
                        reply,
                    })
                    .await;
            }
            watch.add(store, watched);
        }
        Err(error) => {
            let reply = Reply::Failed(commit_failure(&error));
            let _ = watched
                .outbox
                .send(Answer {
                    id: watched.id,
                    last: true,
                    reply,
                })
                .await;
        }
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_failure())
    }
}
