//! The node's side of the control socket: one thread, a task for each client.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use outlast_engine::format::{Envelope, Lsn};
use outlast_engine::{Level, Pipeline, Receipt, Store};
use outlast_proto::{Action, Bound, Policy};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::client::short_path;
use super::commits::{self, Begun, Watch, Watched};
use super::outbox::{Limits, Outbox};
use super::protocol::{self, Answer, Ask, Reply, Request, Stage};
use super::reads::{self, Readers};
use crate::error::{Error, Result};
use crate::node::Inner;

/// Answers that wait for one client to take them, before its next request is read.
const ANSWERS_MAX: usize = 65_536;
/// Bytes of them, unless one answer is longer: what one client can make this node hold.
const ANSWER_BYTES_MAX: u32 = 64 << 20;
/// Commits of one client that are not durable yet, before its next request is read.
const COMMITS_MAX: usize = 65_536;

/// The socket and its thread. Dropping it ends both; what clients asked for goes on.
pub(crate) struct ControlServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    path: std::path::PathBuf,
}

impl ControlServer {
    pub(crate) fn start(inner: &Arc<Inner>) -> Result<Self> {
        let path = inner.dir.socket();
        let making = |error| {
            let what = format!("make the socket {}", path.display());
            Error::from(outlast_engine::Error::io(what, error))
        };
        // The directory is locked, so a socket that is there belongs to nobody any more.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(making(error)),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(making)?;
        let listener = {
            let _inside = runtime.enter();
            let (_directory, short) = short_path(&path).map_err(making)?;
            UnixListener::bind(short).map_err(making)?
        };
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(making)?;
        let watch = Arc::new(Watch::default());
        let moved = watch.clone();
        inner.store.on_change(move || moved.tell());
        let (stop, stopped) = oneshot::channel::<()>();
        let (node, store) = (Arc::downgrade(inner), inner.store.clone());
        let thread = std::thread::Builder::new()
            .name("outlast-control".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(watch_commits(store, watch.clone()));
                    tokio::select! {
                        () = take_in(&listener, &node, &watch) => {}
                        _ = stopped => {}
                    }
                });
                // Requests under way on other threads end by themselves; nobody waits for them.
                runtime.shutdown_background();
            })
            .map_err(making)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            path,
        })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the control socket panicked");
        }
        // Left behind by a crash it is removed at the next start; here it only misleads.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn watch_commits(store: Store, watch: Arc<Watch>) {
    loop {
        watch.moved.notified().await;
        watch.look(&store);
    }
}

async fn take_in(listener: &UnixListener, node: &Weak<Inner>, watch: &Arc<Watch>) {
    let readers = Readers::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match admit(&stream) {
                Ok(()) => {
                    let serving = serve(stream, node.clone(), watch.clone(), readers.clone());
                    tokio::spawn(serving);
                }
                Err(who) => tracing::warn!(uid = who, "a stranger was turned away at the socket"),
            },
            Err(error) => {
                tracing::error!(%error, "the control socket takes nobody in");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Only the user that the node runs as, and root, may speak to it.
fn admit(stream: &UnixStream) -> std::result::Result<(), u32> {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => Ok(()),
        Ok(peer) => Err(peer.uid()),
        Err(_) => Err(u32::MAX),
    }
}

async fn serve(stream: UnixStream, node: Weak<Inner>, watch: Arc<Watch>, readers: Readers) {
    let (reader, writer) = stream.into_split();
    let outbox = Outbox::open(
        writer,
        Limits {
            answers: ANSWERS_MAX,
            bytes: ANSWER_BYTES_MAX,
        },
    );
    let Some(store) = node.upgrade().map(|node| node.store.clone()) else {
        return;
    };
    let (begun, to_follow) = mpsc::channel(COMMITS_MAX);
    tokio::spawn(commits::follow_all(store, watch, to_follow));
    let client = Client {
        outbox,
        readers,
        begun,
        pipeline: Pipeline::default(),
    };
    if let Err(error) = read_requests(reader, &node, client).await {
        tracing::info!(%error, "a client of the control socket was cut off");
    }
}

/// What serves one client.
struct Client {
    outbox: Outbox,
    readers: Readers,
    /// Commits that have begun, in their order: they are answered in it too.
    begun: mpsc::Sender<Begun>,
    /// The commits that ask for it.
    pipeline: Pipeline,
}

async fn read_requests(
    mut reader: OwnedReadHalf,
    node: &Weak<Inner>,
    mut client: Client,
) -> io::Result<()> {
    let mut buffer = bytes::BytesMut::with_capacity(64 << 10);
    loop {
        while buffer.len() >= Envelope::HEADER_LEN {
            let len = protocol::announced_len(&buffer)?;
            if buffer.len() < len {
                break;
            }
            let message = buffer.split_to(len);
            let request: Request = protocol::decode(&message)?;
            let Some(node) = node.upgrade() else {
                return Ok(());
            };
            handle(&node, request, &mut client).await;
        }
        let read = tokio::select! {
            read = reader.read_buf(&mut buffer) => read?,
            // It takes no answers, so it gets no more.
            () = client.outbox.closed() => return Ok(()),
        };
        if read == 0 {
            return Ok(());
        }
    }
}

async fn handle(node: &Arc<Inner>, request: Request, client: &mut Client) {
    let outbox = &client.outbox.clone();
    let Request { id, ask } = request;
    match ask {
        Ask::Status => {
            let reply = Reply::Status(Box::new(node.status()));
            let _ = outbox
                .send(Answer {
                    id,
                    last: true,
                    reply,
                })
                .await;
        }
        Ask::Commit {
            keyspace,
            ops,
            level,
            trace,
            pipelined,
        } => {
            let since = Instant::now();
            let mut pipeline = pipelined.then_some(&mut client.pipeline);
            let begun = if level != Level::Local && node.config.peer.is_none() {
                let what = "this node has no peer, so no commit of it is ever replicated";
                Err(Error::refused(what).hint("commit at level local"))
            } else {
                let pipeline = pipeline.as_deref_mut();
                commits::begin(&node.store, &keyspace, &ops, pipeline)
            };
            let stages = stages(commits::stage_of(level), trace);
            match begun {
                Ok(future) => {
                    // Filled in once the commit is in the log.
                    let receipt = Receipt {
                        epoch: outlast_engine::format::EpochId::NONE,
                        lsn: Lsn::ZERO,
                        commit: 0,
                    };
                    let outbox = outbox.clone();
                    let watched = Watched {
                        id,
                        receipt,
                        since,
                        stages,
                        outbox,
                    };
                    // Waits while too many are unanswered, and with it the client's next request.
                    let _ = client.begun.send((future, watched)).await;
                }
                Err(error) => {
                    if let Some(pipeline) = pipeline {
                        pipeline.fail();
                    }
                    let _ = outbox
                        .send(Answer {
                            id,
                            last: true,
                            reply: error.into(),
                        })
                        .await;
                }
            }
        }
        Ask::Promote(options) => {
            let promote =
                move |node: &Inner| node.promote(&options).map(|c| Reply::Promoted(Box::new(c)));
            answer_by(node, id, outbox, promote);
        }
        Ask::Resolve(options) => answer_by(node, id, outbox, move |node| {
            node.resolve(&options)
                .map(|done| Reply::Resolved(Box::new(done)))
        }),
        Ask::Repair(options) => answer_by(node, id, outbox, move |node| {
            node.repair(&options)
                .map(|done| Reply::Repaired(Box::new(done)))
        }),
        Ask::Checkpoint { to } => answer_by(node, id, outbox, move |node| {
            let made = node.store.checkpoint(&to)?;
            Ok(Reply::Checkpoint(Box::new(made)))
        }),
        Ask::ConfirmClock => answer_by(node, id, outbox, |node| {
            node.store.confirm_log_time()?;
            Ok(Reply::Done)
        }),
        Ask::SetPolicy {
            bound_bytes: bytes,
            bound_commits: commits,
            bound_ms,
            lease_ms,
            refuses,
            reason,
            dry_run,
        } => {
            let time = bound_ms.map(Duration::from_millis);
            let bound = lease_ms.map(|lease_ms| Bound {
                bytes,
                commits,
                time,
                lease: Duration::from_millis(lease_ms),
            });
            let policy = bound.map_or(Policy::Async, Policy::Bounded);
            let action = if refuses {
                Action::Refuse
            } else {
                Action::Stall
            };
            let set = move |node: &Inner| {
                let set = node.set_policy(policy, action, &reason, dry_run)?;
                Ok(Reply::Protection(Box::new(set.to_record(reason))))
            };
            answer_by(node, id, outbox, set);
        }
        Ask::SuspendProtection {
            lasts_ms,
            reason,
            dry_run,
        } => answer_by(node, id, outbox, move |node| {
            let lasts = Duration::from_millis(lasts_ms);
            let written = node.suspend_protection(lasts, &reason, dry_run)?;
            Ok(Reply::Protection(Box::new(written.to_record(reason))))
        }),
        Ask::ResumeProtection { reason, dry_run } => answer_by(node, id, outbox, move |node| {
            let written = node.resume_protection(&reason, dry_run)?;
            Ok(Reply::Protection(Box::new(written.to_record(reason))))
        }),
        Ask::ResumeAlone { reason } => answer_by(node, id, outbox, move |node| {
            node.resume_alone(&reason)
                .map(|epoch| Reply::Epoch(Box::new(epoch)))
        }),
        reading => {
            let reading = read(node.store.clone(), id, reading, client);
            tokio::spawn(reading);
        }
    }
}

/// Answers a request that changes nothing.
fn read(store: Store, id: u64, ask: Ask, client: &Client) -> impl Future<Output = ()> + use<> {
    let (outbox, readers) = (client.outbox.clone(), client.readers.clone());
    async move {
        let last = true;
        let answered = match ask {
            Ask::Tail { from, follow: true } => {
                reads::follow(store, &readers, from, id, &outbox).await
            }
            Ask::WaitApplied {
                receipt,
                timeout_ms,
            } => {
                let timeout = Duration::from_millis(timeout_ms);
                let applied = reads::wait_applied(store, receipt, timeout).await;
                if applied.is_ok() {
                    let reply = Reply::Done;
                    outbox.send(Answer { id, last, reply }).await;
                }
                applied
            }
            ask => {
                let outbox = outbox.clone();
                let read = readers.read(move || reads::answer(&store, id, ask, &outbox));
                read.await.and_then(|answered| answered)
            }
        };
        if let Err(error) = answered {
            let reply = error.into();
            outbox.send(Answer { id, last, reply }).await;
        }
    }
}

/// Answers a request that changes the node, on a thread where it may block.
fn answer_by(
    node: &Arc<Inner>,
    id: u64,
    outbox: &Outbox,
    act: impl FnOnce(&Inner) -> Result<Reply> + Send + 'static,
) {
    let (node, outbox) = (node.clone(), outbox.clone());
    tokio::task::spawn_blocking(move || {
        let reply = act(&node).unwrap_or_else(Into::into);
        let _ = outbox.blocking_send(Answer {
            id,
            last: true,
            reply,
        });
    });
}

fn stages(last: Stage, trace: bool) -> VecDeque<Stage> {
    let all = [
        Stage::Durable,
        Stage::Received,
        Stage::Replicated,
        Stage::Applied,
    ];
    all.into_iter()
        .filter(|stage| trace || *stage == last)
        .collect()
}
