//! Reading the log for a session, from where it read last.

use bytes::Bytes;
use outlast_engine::format::Lsn;
use outlast_engine::{LogCursor, Store};
use tokio::task::JoinHandle;

/// The reads of one session. At most one is under way.
///
/// What lies in memory is read at once; a sealed segment may have to come from the disk, which no
/// task of the network waits for.
pub struct LogReads {
    store: Store,
    cursor: Option<LogCursor>,
    under_way: Option<(Lsn, JoinHandle<Read>)>,
}

struct Read {
    cursor: Option<LogCursor>,
    bytes: outlast_engine::Result<Bytes>,
}

impl LogReads {
    /// Reads of `store`.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self {
            store,
            cursor: None,
            under_way: None,
        }
    }

    /// Reads whole frames from `from` on. Answers at once, or later by [`LogReads::finished`].
    pub fn read(&mut self, from: Lsn, max_bytes: usize) -> Option<outlast_engine::Result<Bytes>> {
        assert!(self.under_way.is_none(), "a second read at {from}");
        let cursor = self.cursor.take().filter(|cursor| cursor.lsn() == from);
        if cursor.as_ref().is_some_and(LogCursor::reads_memory) {
            self.cursor = cursor;
            return Some(read_frames(&self.store, &mut self.cursor, from, max_bytes));
        }
        let store = self.store.clone();
        let task = move || {
            let mut cursor = cursor;
            let bytes = read_frames(&store, &mut cursor, from, max_bytes);
            Read { cursor, bytes }
        };
        self.under_way = Some((from, tokio::task::spawn_blocking(task)));
        None
    }

    /// Whether a read is under way.
    #[must_use]
    pub const fn is_reading(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for the read that is under way; for ever if there is none. May be dropped at any time.
    pub async fn finished(&mut self) -> (Lsn, outlast_engine::Result<Bytes>) {
        let Some((from, task)) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let from = *from;
        let done = task.await;
        self.under_way = None;
        match done {
            Ok(read) => {
                self.cursor = read.cursor;
                (from, read.bytes)
            }
            Err(error) => {
                let error = outlast_engine::Error::new(
                    outlast_engine::ErrorKind::Io,
                    format!("reading the log at {from} came to nothing: {error}"),
                );
                (from, Err(error))
            }
        }
    }
}

/// Reads whole frames of the log from `from` on, at least one if there is any. `cursor` is where
/// the last read ended, and is left where this one does.
///
/// # Errors
/// Those of [`Store::log_cursor`] and [`LogCursor::next_up_to`].
pub fn read_frames(
    store: &Store,
    cursor: &mut Option<LogCursor>,
    from: Lsn,
    max_bytes: usize,
) -> outlast_engine::Result<Bytes> {
    let kept = cursor.take().filter(|cursor| cursor.lsn() == from);
    let cursor = cursor.insert(kept.map_or_else(|| store.log_cursor(from), Ok)?);
    let run = cursor.next_up_to(Lsn(u64::MAX), max_bytes as u64)?;
    Ok(run.map_or_else(Bytes::new, |run| run.bytes().clone()))
}
