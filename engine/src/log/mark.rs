//! The durable mark: how far this node has fsynced what it received, in a file of its own.
//!
//! Two slots written in turn, so that a torn write leaves the older one. The positions that a
//! primary sends are never evidence of what *this* disk holds; this is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Envelope, EnvelopeFault, EpochId, Lsn};
use crate::fs::{Access, File, Fs};
use crate::kill_points::{Point, pass};

pub(super) const NAME: &str = "mark";
const SLOT_LEN: u64 = 4096;
const ENVELOPE: Envelope = Envelope {
    magic: *b"OLMK",
    version: 1,
    kind: 1,
    len_max: 256,
};

/// A position in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) epoch: EpochId,
    pub(super) lsn: Lsn,
}

#[derive(Debug, Serialize, Deserialize)]
struct Slot {
    sequence: u64,
    mark: Mark,
}

#[derive(Debug)]
pub(super) struct MarkFile {
    file: Arc<dyn File>,
    place: String,
    sequence: u64,
    newest: Option<Mark>,
    /// Where a slot that does not hold begins.
    damaged: Option<u64>,
}

impl MarkFile {
    pub(super) fn create(fs: &dyn Fs) -> Result<()> {
        let create = || {
            let file = fs.create(NAME)?;
            // Room that is there, so that a mark can be noted on a full disk.
            file.write_at(0, &[0; 2 * crate::format::to_usize(SLOT_LEN)])?;
            file.sync()
        };
        create().map_err(|error| Error::io(format_args!("create {}/{NAME}", fs.place()), error))
    }

    /// Opens the file. One damaged slot is what a crash leaves; two are not.
    pub(super) fn open(fs: &dyn Fs) -> Result<Self> {
        let place = format!("{}/{NAME}", fs.place());
        let reading = |error| Error::io(format_args!("read {place}"), error);
        let file = fs.open(NAME, Access::Read).map_err(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                return reading(error);
            }
            let message = format!(
                "{place} is gone: what this disk had acknowledged cannot be judged; nothing was \
                 touched. `outlast repair --dir {}` makes it again from where the log ends",
                fs.place()
            );
            Error::new(ErrorKind::Corrupt, message)
        })?;
        let mut slots = Vec::new();
        let mut damaged = Vec::new();
        for offset in [0, SLOT_LEN] {
            let mut bytes = [0; 512];
            let read = file.read_at(offset, &mut bytes).map_err(reading)?;
            match decode(bytes.get(..read).unwrap_or_default()) {
                Ok(slot) => slots.extend(slot),
                Err(()) => damaged.push(offset),
            }
        }
        if damaged.len() == 2 {
            let message = format!(
                "both slots of {place} are damaged: what this disk had acknowledged cannot be \
                 judged; nothing was touched. `outlast repair --dir {}` makes it again from where \
                 the log ends",
                fs.place()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let newest = slots.iter().max_by_key(|slot| slot.sequence);
        let (sequence, newest) = newest.map_or((0, None), |slot| (slot.sequence, Some(slot.mark)));
        Ok(Self {
            file,
            place,
            sequence,
            newest,
            damaged: damaged.first().copied(),
        })
    }

    /// Makes the file again, in the place of one that tells nothing any more.
    pub(super) fn make_again(fs: &dyn Fs, mark: Option<Mark>) -> Result<()> {
        let mut bytes = vec![0; 2 * crate::format::to_usize(SLOT_LEN)];
        if let Some(mark) = mark {
            let slot = encode(0, mark);
            bytes.iter_mut().zip(slot).for_each(|(to, from)| *to = from);
        }
        crate::fs::replace(fs, "", NAME, &bytes)
            .map_err(|error| Error::io(format_args!("write {}/{NAME}", fs.place()), error))
    }

    /// Where slots that do not hold begin: at most one, and a crash may have left it so.
    pub(super) fn damaged_slots(&self) -> impl Iterator<Item = u64> {
        self.damaged.into_iter()
    }

    /// From here on marks can be noted.
    pub(super) fn make_writable(&mut self, fs: &dyn Fs) -> Result<()> {
        let opened = fs.open(NAME, Access::Write);
        self.file =
            opened.map_err(|error| Error::io(format_args!("open {}", self.place), error))?;
        Ok(())
    }

    pub(super) const fn newest(&self) -> Option<Mark> {
        self.newest
    }

    /// Forgets that the newest mark was noted, and answers with the number that it had.
    #[cfg(test)]
    pub(super) fn set_back_one(&mut self) -> u64 {
        self.newest = None;
        self.sequence -= 1;
        self.sequence + 1
    }

    /// Notes `mark` durably.
    pub(super) fn note(&mut self, mark: Mark) -> Result<()> {
        if self.newest == Some(mark) {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        let slot = encode(sequence, mark);
        pass(Point::MarkBegins);
        let write = || {
            self.file.write_at((sequence % 2) * SLOT_LEN, &slot)?;
            pass(Point::MarkWritten);
            self.file.sync()
        };
        write().map_err(|error| Error::io(format_args!("write {}", self.place), error))?;
        pass(Point::MarkSynced);
        (self.sequence, self.newest) = (sequence, Some(mark));
        Ok(())
    }
}

fn encode(sequence: u64, mark: Mark) -> Vec<u8> {
    let body = postcard::to_stdvec(&Slot { sequence, mark })
        .unwrap_or_else(|error| panic!("a mark always encodes: {error}"));
    ENVELOPE.seal(&body)
}

fn decode(bytes: &[u8]) -> Result<Option<Slot>, ()> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let body = ENVELOPE.open(bytes).map_err(|_: EnvelopeFault| ())?;
    postcard::from_bytes(body).map(Some).map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Crash, MemFs};

    #[test]
    fn the_newest_mark_survives_and_a_torn_write_leaves_the_older_one() {
        let fs = MemFs::new();
        MarkFile::create(&fs).unwrap();
        fs.sync_dir("").unwrap();
        let mut marks = MarkFile::open(&fs).unwrap();
        assert_eq!(marks.newest(), None);
        let mark = |lsn| Mark {
            epoch: EpochId([1; 16]),
            lsn: Lsn(lsn),
        };
        for lsn in [8, 16, 24] {
            marks.note(mark(lsn)).unwrap();
            let found = MarkFile::open(&fs.crash(Crash::LoseUnsynced)).unwrap();
            assert_eq!(found.newest(), Some(mark(lsn)));
        }
        fs.rot(NAME, 4096 + 20, 1).unwrap();
        assert_eq!(MarkFile::open(&fs).unwrap().newest(), Some(mark(16)));
        fs.rot(NAME, 20, 1).unwrap();
        assert_eq!(MarkFile::open(&fs).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
