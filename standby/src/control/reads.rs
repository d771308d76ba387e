//! Reading requests: each reads on a thread where it may block, may answer in several pieces, and
//! waits, where it must, on none.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::format::{Lsn, Op};
use outlast_engine::{Receipt, Snapshot, Store, Tail};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::outbox::Outbox;
use super::protocol::{Answer, Ask, FailureKind, Reply, WireChange, WireDone};
use crate::error::{Error, Result};

/// About so many bytes of entries or changes go into one answer.
const PIECE_BYTES: usize = 256 << 10;
/// Requests that are read at once; others wait for their turn.
const READERS_MAX: usize = 64;
/// How often a reader that follows looks whether its client is still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The threads on which requests are read. They are less than the runtime has, so that what
/// changes the node always finds one.
#[derive(Clone)]
pub(super) struct Readers(Arc<Semaphore>);

impl Readers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }

    /// Reads on one of the threads, once one is free.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let turn = self.0.clone().acquire_owned().await;
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read()
        });
        let failed =
            |error| Error::new(FailureKind::Failed, "the reading thread failed").because(error);
        reading.await.map_err(failed)
    }
}

/// Answers one reading request. Blocks.
pub(super) fn answer(store: &Store, id: u64, ask: Ask, outbox: &Outbox) -> Result<()> {
    let tell = |reply, last| outbox.blocking_send(Answer { id, last, reply });
    match ask {
        Ask::Get { keyspace, key, at } => {
            let keyspace = store.find_keyspace(&keyspace)?;
            let value = snapshot(store, at)?.get(&keyspace, key)?;
            tell(Reply::Value(value.map(Into::into)), true);
        }
        Ask::Scan {
            keyspace,
            prefix,
            start,
            end,
            reverse,
            limit,
            at,
        } => {
            let keyspace = store.find_keyspace(&keyspace)?;
            let snapshot = snapshot(store, at)?;
            let start = start
                .filter(|start| *start > prefix)
                .unwrap_or_else(|| prefix.clone());
            let end = end.map_or(Bound::Unbounded, Bound::Excluded);
            let range = snapshot.range::<Vec<u8>>(&keyspace, (Bound::Included(start), end));
            // An error is inside too: it is what ends the answer.
            let inside = |entry: &outlast_engine::Result<(bytes::Bytes, bytes::Bytes)>| {
                let key = entry.as_ref().map(|(key, _)| key);
                key.map_or(true, |key| key.starts_with(&prefix))
            };
            let limit = limit.map_or(usize::MAX, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            });
            if reverse {
                let entries = range
                    .rev()
                    .skip_while(|entry| !inside(entry))
                    .take_while(inside);
                entries_of(entries.take(limit), &tell)?;
            } else {
                entries_of(range.take_while(inside).take(limit), &tell)?;
            }
        }
        Ask::Digest { keyspace, at } => {
            let keyspace = store.find_keyspace(&keyspace)?;
            // Position and number of one moment: commits go on meanwhile.
            let visible = store.positions().visible;
            let snapshot = store.snapshot_at(at.unwrap_or(visible.lsn))?;
            let commit = match at {
                Some(lsn) => last_commit(store, lsn)?.unwrap_or(visible.commit),
                None => visible.commit,
            };
            let (keys, sha256) = digest(&snapshot, &keyspace)?;
            tell(
                Reply::Digest {
                    keys,
                    sha256,
                    at: snapshot.lsn(),
                    commit,
                },
                true,
            );
        }
        Ask::Tail { from, .. } => tail(store, from, &tell)?,
        Ask::Receipt(receipt) => {
            tell(Reply::Receipt(store.receipt_status(&receipt)), true);
        }
        other => panic!("{other:?} is no reading request"),
    }
    Ok(())
}

fn snapshot(store: &Store, at: Option<Lsn>) -> Result<Snapshot> {
    Ok(match at {
        Some(lsn) => store.snapshot_at(lsn)?,
        None => store.snapshot(),
    })
}

/// The last commit that ends at or below `lsn`, unless it is the newest that readers see.
fn last_commit(store: &Store, lsn: Lsn) -> Result<Option<u64>> {
    let next = store.tail(lsn)?.poll()?;
    Ok(next.map(|next| next.commit.saturating_sub(1)))
}

/// Waits until a commit is visible here. No thread waits meanwhile.
pub(super) async fn wait_applied(store: Store, receipt: Receipt, timeout: Duration) -> Result<()> {
    let applied = store.wait_applied_async(receipt);
    let in_time = tokio::time::timeout(timeout, applied).await;
    // A last look, which says what is missing.
    Ok(in_time.unwrap_or_else(|_| store.wait_applied(&receipt, Duration::ZERO))?)
}

fn entries_of(
    entries: impl Iterator<Item = outlast_engine::Result<(bytes::Bytes, bytes::Bytes)>>,
    tell: &dyn Fn(Reply, bool) -> bool,
) -> Result<()> {
    let mut piece = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let (key, value) = entry?;
        bytes += key.len() + value.len();
        piece.push((key.into(), value.into()));
        if bytes >= PIECE_BYTES {
            if !tell(Reply::Entries(std::mem::take(&mut piece)), false) {
                return Ok(());
            }
            bytes = 0;
        }
    }
    tell(Reply::Entries(piece), true);
    Ok(())
}

/// Count and SHA-256 of the live entries of a keyspace, as lines `key TAB value LF` in key order.
///
/// # Errors
/// When the log cannot be read.
pub fn digest(
    snapshot: &Snapshot,
    keyspace: &outlast_engine::Keyspace,
) -> outlast_engine::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut keys = 0;
    for entry in snapshot.iter(keyspace) {
        let (key, value) = entry?;
        for part in [&key[..], b"\t", &value[..], b"\n"] {
            hash.update(part);
        }
        keys += 1;
    }
    let hex = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    Ok((keys, hex))
}

/// Answers with the changes from a position on, as they come, until the client is gone. No thread
/// waits meanwhile.
pub(super) async fn follow(
    store: Store,
    readers: &Readers,
    from: Lsn,
    id: u64,
    outbox: &Outbox,
) -> Result<()> {
    let tell = async |changes| {
        let reply = Reply::Changes(changes);
        let last = false;
        outbox.send(Answer { id, last, reply }).await
    };
    let mut tail = readers.read(move || store.tail(from)).await??;
    loop {
        let reading = move || {
            let piece = piece(&mut tail);
            (tail, piece)
        };
        let (read, piece) = readers.read(reading).await?;
        let (changes, more) = piece?;
        tail = read;
        if !tell(changes).await {
            return Ok(());
        }
        if more {
            continue;
        }
        loop {
            match tokio::time::timeout(LOOK_EVERY, tail.ready()).await {
                Ok(ready) => {
                    ready?;
                    break;
                }
                // Told though it is empty: that is how a client that is gone is noticed.
                Err(_) if tell(Vec::new()).await => {}
                Err(_) => return Ok(()),
            }
        }
    }
}

fn tail(store: &Store, from: Lsn, tell: &dyn Fn(Reply, bool) -> bool) -> Result<()> {
    let mut tail = store.tail(from)?;
    loop {
        let (changes, more) = piece(&mut tail)?;
        if !tell(Reply::Changes(changes), !more) || !more {
            return Ok(());
        }
    }
}

/// The next changes that go into one answer, and whether there may be more by now.
fn piece(tail: &mut Tail) -> Result<(Vec<WireChange>, bool)> {
    let mut piece = Vec::new();
    let mut bytes = 0;
    while bytes < PIECE_BYTES {
        let commit = match tail.poll() {
            Ok(Some(commit)) => commit,
            Ok(None) => return Ok((piece, false)),
            // What was read before the fault is still told.
            Err(_) if !piece.is_empty() => break,
            Err(error) => return Err(error.into()),
        };
        bytes += 64;
        let ops = commit.changes.iter().map(|change| {
            bytes += change.key.len() + change.value.len();
            let (key, value) = (change.key.to_vec(), change.value.to_vec());
            let done = match change.op {
                Op::Put => WireDone::Put {
                    key,
                    value,
                    expires_ms: change.expires_ms,
                },
                Op::Delete => WireDone::Delete { key },
                Op::DeleteRange => WireDone::DeleteRange {
                    start: key,
                    end: (!value.is_empty()).then_some(value),
                },
                Op::DropKeyspace => WireDone::DropKeyspace,
                op => panic!("the change feed tells of {op:?}"),
            };
            (change.keyspace.name().to_owned(), done)
        });
        let ops = ops.collect();
        let receipt = Receipt {
            epoch: commit.epoch,
            lsn: commit.lsn,
            commit: commit.commit,
        };
        piece.push(WireChange {
            receipt,
            log_ms: commit.log_ms,
            ops,
        });
    }
    Ok((piece, true))
}
