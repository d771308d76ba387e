//! Going back to a fork: the tail that is not in the history this node joins is kept aside, and
//! cut.

use std::sync::Arc;

use super::mark::Mark;
use super::open::ASIDE;
use super::segment::{self, Segment, file_name};
use super::settle::replace_segment;
use super::walk::count_frames;
use super::writer::Active;
use super::{Log, LogState};
use crate::error::{Error, Result};
use crate::format::{Chain, Lsn};
use crate::kill_points::{Point, pass};

impl Log {
    /// Puts everything from `fork` on aside, durably, and cuts the log there. Only for a follower,
    /// and only above what its readers have seen. Answers with the file that keeps the bytes.
    ///
    /// A crash in between leaves the whole tail or a part of it; done again it ends the same.
    ///
    /// # Errors
    /// `NotHeld` when no frame begins at `fork`; `NotWriter` when this log does not follow; `Io`.
    pub(crate) fn quarantine(self: &Arc<Self>, fork: Lsn) -> Result<String> {
        let chain = *self.cursor(fork)?.chain();
        let aside = self.copy_aside(fork)?;
        pass(Point::ForkKept);
        let mut writer = self.writer();
        self.require(&LogState::Following)?;
        let visible = self.cell.visible();
        assert!(
            fork >= visible,
            "a cut at {fork} below {visible}, which readers have seen"
        );
        // The mark first: it must not vouch for bytes that are about to go.
        if let Some(epoch) = chain.epoch {
            self.mark.lock().note(Mark {
                epoch: epoch.id,
                lsn: fork,
            })?;
        }
        pass(Point::ForkUnmarked);
        let history = self.history().cut(fork);
        writer.active = None;
        let cut = self
            .cut_files(fork, &chain)
            .inspect_err(|error| self.poison(error))?;
        pass(Point::ForkCut);
        writer.active = cut;
        writer.chain = chain;
        self.change_manifest(|manifest| {
            manifest.history = history.clone();
            manifest.forget_received(fork);
        })?;
        *self.history.write() = history;
        self.cell.rewind(chain.position());
        drop(writer);
        self.lane.wake();
        tracing::warn!(%fork, %aside, "a forked tail was put aside");
        self.cell.notify();
        Ok(aside)
    }

    fn copy_aside(self: &Arc<Self>, fork: Lsn) -> Result<String> {
        let name = format!("{ASIDE}/fork-{fork}-{}", self.clock.wall_ms());
        let copying = |error| Error::io(format_args!("keep the forked tail in {name}"), error);
        let file = self.fs.create(&name).map_err(copying)?;
        let mut cursor = self.cursor(fork)?;
        let mut offset = 0;
        while let Some(run) = cursor.next_up_to(Lsn(u64::MAX), 4 << 20)? {
            file.write_at(offset, run.bytes()).map_err(copying)?;
            offset += run.range().len_bytes();
        }
        file.sync().map_err(copying)?;
        self.fs.sync_dir(ASIDE).map_err(copying)?;
        Ok(name)
    }

    /// Takes away the segments behind the fork, last first, and rewrites the one that holds it.
    fn cut_files(&self, fork: Lsn, chain: &Chain) -> Result<Option<Active>> {
        let fs = &*self.fs;
        let cutting = |error| Error::io(format_args!("cut the log at {fork}"), error);
        let _replacing = self.replacing.lock();
        // Held to the end, so that nothing is prepared behind a segment that goes.
        let mut ahead = self.preparation.lock();
        if let Some(prepared) = ahead.next.take() {
            fs.unlink(&file_name(prepared.ordinal())).map_err(cutting)?;
        }
        ahead.taken = 0;
        for segment in self.segments.all().iter().rev() {
            if segment.header.base() < fork {
                break;
            }
            fs.unlink(&file_name(segment.header.ordinal))
                .map_err(cutting)?;
            fs.sync_dir(segment::DIR).map_err(cutting)?;
            self.segments.remove(segment.header.base());
        }
        let Some(last) = self.segments.last() else {
            return Ok(None);
        };
        if last.range().end == fork && !last.in_memory() {
            // Sealed, and whole: the fork lies between two segments.
            return Ok(None);
        }
        let kept = last.read_whole(fs, fork)?;
        replace_segment(fs, &last.header, &kept, None).map_err(cutting)?;

        let segment = Arc::new(Segment::active(last.header.clone()));
        let base = last.header.base();
        if !kept.is_empty() {
            segment.push(base, kept.clone());
        }
        self.segments.remove(base);
        self.segments.insert(segment.clone());
        assert_eq!(
            segment.range().end,
            chain.lsn,
            "the cut segment ends elsewhere than the chain"
        );
        let blocks = self.blocks_at(&segment)?;
        let frames = count_frames(&kept);
        Ok(Some(Active {
            segment,
            blocks,
            frames,
        }))
    }
}

/// Files of a cut that a crash left behind.
pub(super) fn sweep(fs: &dyn crate::fs::Fs) -> std::io::Result<()> {
    for name in fs.list(segment::DIR)? {
        if name.ends_with(".tmp") {
            fs.unlink(&format!("{}/{name}", segment::DIR))?;
        }
    }
    Ok(())
}
