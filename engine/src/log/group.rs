//! One group, led step by step: for whoever drives a store without threads, and decides what else
//! happens between the steps.

use std::fmt;
use std::sync::Arc;

use parking_lot::{ArcMutexGuard, RawMutex};

use super::Log;
use super::commit::Formed;
use super::levels::Finished;
use super::writer::Writer;
use crate::error::Result;

/// A group of commits on its way, from [`Store::lead`](crate::Store::lead): call
/// [`Group::write`], [`Group::sync`] and [`Group::finish`], in this order.
///
/// Whatever waits for a group in flight (a fence, an epoch, a handshake, closing) waits for this
/// one: on the thread that holds it, it waits for ever. One that is dropped before it is finished
/// answers nobody.
pub struct Group {
    log: Arc<Log>,
    writer: ArcMutexGuard<RawMutex, Writer>,
    formed: Option<Formed>,
    written: Result<()>,
    finished: Finished,
}

impl Log {
    /// Whether any commit waits for a group.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    /// Forms the next group, if any commit waits for one.
    pub(crate) fn lead(self: &Arc<Self>) -> Option<Group> {
        if !self.has_queued() {
            return None;
        }
        let mut writer = self.writer.lock_arc();
        drop(self.syncing.lock());
        let mut finished = Finished::default();
        if self.stall(&mut finished) {
            // Whoever leads step by step looks again by itself.
            self.queue.lock().stalled = false;
            drop(writer);
            finished.wake();
            return None;
        }
        let formed = self.next_group(&mut writer, &mut finished);
        Some(Group {
            log: self.clone(),
            writer,
            formed,
            written: Ok(()),
            finished,
        })
    }
}

impl Group {
    /// Writes the group's frame.
    pub fn write(&mut self) {
        if let Some(formed) = &self.formed {
            self.written = self.log.write(&mut self.writer, &formed.frame);
        }
    }

    /// Makes it durable, unless the write failed.
    pub fn sync(&mut self) {
        if self.formed.is_some() && self.written.is_ok() {
            self.written = self.log.sync_active(&self.writer);
        }
    }

    /// Applies it, shows it to readers and answers its callers.
    pub fn finish(self) {
        let Self {
            log,
            writer,
            formed,
            written,
            mut finished,
        } = self;
        let sink = log.sink.lock();
        drop(writer);
        if let Some(formed) = formed {
            log.answer(formed, written, sink.as_deref(), &mut finished);
        }
        drop(sink);
        log.cell.notify();
        finished.wake();
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.formed.as_ref().map_or(0, |formed| formed.frame.len());
        write!(f, "Group({bytes} bytes)")
    }
}
