//! Sparse segments between the others: their headers say where the log stands before and behind
//! them, and what is missing in them is missing on purpose.

use super::Surveyor;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ChainRecord, EpochId, EpochRecord, FrameKind, LsnRange, SparseHeader};
use crate::log::fault::{Fault, FaultKind, Remedy};
use crate::log::segment::file_name;
use crate::log::sparse::{self, Sparse};

impl Surveyor<'_> {
    /// Reads the header of the sparse segment for these ordinals.
    pub(super) fn read_sparse(&mut self, (first, last): (u64, u64)) -> Result<()> {
        let name = sparse::file_name(first, last);
        self.ordinal_max = self.ordinal_max.max(last);
        let read = sparse::read_header(self.fs, &name);
        let what = match read.map_err(|error| self.reading(&name, error))? {
            Ok(header) if self.is_of_here(&header, first, last) => {
                // Of two that begin alike the one that stands for more was made last.
                let other = self.found.stretches.insert(first, header);
                if let Some(other) = other.filter(|other| other.last > last) {
                    self.found.stretches.insert(first, other);
                }
                return Ok(());
            }
            Ok(_) => "it is of another cluster, or of another place in the log".to_owned(),
            Err(fault) if sparse::is_newer(&fault) => {
                let message = format!("{}/{name}: {fault}", self.fs.place());
                return Err(Error::new(ErrorKind::Incompatible, message));
            }
            Err(fault) => fault.to_string(),
        };
        self.unsound.push((first, last, what));
        Ok(())
    }

    fn is_of_here(&self, header: &SparseHeader, first: u64, last: u64) -> bool {
        header.cluster == self.known.cluster && (header.first, header.last) == (first, last)
    }

    /// Leaves out the files in whose place a sparse segment stands.
    pub(super) fn find_replaced(&mut self) {
        let mut behind = 0;
        let mut replaced = Vec::new();
        self.found.stretches.retain(|first, header| {
            let within = *first <= behind;
            behind = behind.max(header.last);
            if within {
                replaced.push(sparse::file_name(header.first, header.last));
            }
            !within
        });
        let stood_for = |ordinal: u64| {
            let (_, header) = self.found.stretches.range(..=ordinal).next_back()?;
            (ordinal <= header.last).then_some(())
        };
        let names = self.fs.list(super::DIR).unwrap_or_default();
        for name in names {
            match (super::ordinal_of(&name), sparse::ordinals_of(&name)) {
                (Some(ordinal), _) if stood_for(ordinal).is_some() => {
                    self.found.headers.remove(&ordinal);
                    replaced.push(file_name(ordinal));
                }
                // One that begins where a longer one does.
                (None, Some((first, last)))
                    if self
                        .found
                        .stretches
                        .get(&first)
                        .is_some_and(|one| one.last > last) =>
                {
                    replaced.push(sparse::file_name(first, last));
                }
                _ => {}
            }
        }
        // One that is on its way out may be shorter than it was.
        for (first, last, what) in std::mem::take(&mut self.unsound) {
            let file = sparse::file_name(first, last);
            let stretch = self.found.stretches.range(..=first).next_back();
            if stretch.is_some_and(|(_, stretch)| last <= stretch.last) {
                replaced.push(file);
                continue;
            }
            self.found.faults.push(Fault {
                kind: FaultKind::Sparse,
                file,
                offset: 0,
                len_bytes: 0,
                range: None,
                what,
                remedy: Remedy::Restore,
            });
        }
        replaced.sort();
        replaced.dedup();
        for name in &replaced {
            self.leftover(
                name.clone(),
                "a compaction took its place, and was interrupted",
            );
        }
        self.found.replaced = replaced;
    }

    /// Takes up a stretch of the log of which only a part is left.
    pub(super) fn take_sparse(&mut self, header: SparseHeader) -> Result<()> {
        let name = sparse::file_name(header.first, header.last);
        let continues = self
            .before
            .is_none_or(|before| ChainRecord::new(&before) == header.start);
        if !continues {
            let start = header.start.lsn;
            self.found.faults.push(Fault {
                kind: FaultKind::Misplaced,
                file: name.clone(),
                offset: 0,
                len_bytes: 0,
                range: Some(LsnRange::new(start, start)),
                what: "it does not continue the segment before it".to_owned(),
                remedy: Remedy::Restore,
            });
            self.holding = false;
        }
        // It was made of what was durable here.
        let end = header.end.chain(self.known.cluster);
        self.found.vouched = self.found.vouched.max(end.lsn);
        self.before = Some(end);
        if !self.holding {
            self.found.behind.push(name);
            return Ok(());
        }
        if !self.knows(&header.end) {
            self.learn_epochs(&header)?;
        }
        self.found.replay_holds |= self
            .replay
            .is_some_and(|replay| *replay == header.end || *replay == header.start);
        self.found.end = end;
        self.found.ends = vec![end.position()];
        self.found.last = None;
        self.found.sparse.push(header);
        Ok(())
    }

    /// Takes up the epochs that a manifest does not name, being an older copy or a guess.
    fn learn_epochs(&mut self, header: &SparseHeader) -> Result<()> {
        let controls = Sparse::new(header.clone()).controls(self.fs)?;
        for kept in controls {
            if FrameKind::from_byte(kept.kind) == Some(FrameKind::Epoch)
                && let Ok(epoch) = EpochRecord::decode(&kept.payload)
                && epoch.id != EpochId::NONE
            {
                self.epochs.learn(&epoch);
                self.found.epochs.push(epoch);
            }
        }
        Ok(())
    }
}
