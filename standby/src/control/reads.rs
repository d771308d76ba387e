//! Reading requests: each runs on a thread of its own and may answer in several pieces.

use std::ops::Bound;
use std::time::Duration;

use outlast_engine::format::{Lsn, Op};
use outlast_engine::{Receipt, Snapshot, Store};
use sha2::{Digest, Sha256};

use super::outbox::Outbox;
use super::protocol::{Answer, Ask, Reply, WireChange, WireOp};
use crate::error::Result;

/// About so many bytes of entries or changes go into one answer.
const PIECE_BYTES: usize = 256 << 10;
/// How often a reader that follows looks whether its client is still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
        Ask::Tail { from, follow } => tail(store, from, follow, &tell)?,
        Ask::Receipt(receipt) => {
            tell(Reply::Receipt(store.receipt_status(&receipt)), true);
        }
        Ask::WaitApplied {
            receipt,
            timeout_ms,
        } => {
            wait(store, &receipt, timeout_ms)?;
            tell(Reply::Done, true);
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

fn wait(store: &Store, receipt: &Receipt, timeout_ms: u64) -> Result<()> {
    Ok(store.wait_applied(receipt, Duration::from_millis(timeout_ms))?)
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

fn tail(store: &Store, from: Lsn, follow: bool, tell: &dyn Fn(Reply, bool) -> bool) -> Result<()> {
    let mut tail = store.tail(from)?;
    let mut piece = Vec::new();
    let mut bytes = 0;
    loop {
        let next = if follow && piece.is_empty() {
            tail.next_timeout(LOOK_EVERY)?
        } else {
            tail.poll()?
        };
        match next {
            Some(commit) => {
                bytes += 64;
                let ops = commit.changes.iter().map(|change| {
                    bytes += change.key.len() + change.value.len();
                    let op = match change.op {
                        Op::Put => WireOp::Put(change.key.to_vec(), change.value.to_vec()),
                        _ => WireOp::Delete(change.key.to_vec()),
                    };
                    (change.keyspace.name().to_owned(), op)
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
                if bytes >= PIECE_BYTES {
                    bytes = 0;
                    if !tell(Reply::Changes(std::mem::take(&mut piece)), false) {
                        return Ok(());
                    }
                }
            }
            None if !follow => {
                tell(Reply::Changes(piece), true);
                return Ok(());
            }
            None => {
                bytes = 0;
                // Also told when empty: that is how a client that is gone is noticed.
                if !tell(Reply::Changes(std::mem::take(&mut piece)), false) {
                    return Ok(());
                }
            }
        }
    }
}
