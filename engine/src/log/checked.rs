//! Commits that hold only as long as what they have read does.
//!
//! Checked by whoever forms their frame, against all that is in the log by then and against those
//! before them in the same group.

use super::commit::Pending;
use super::{Log, LogState};
use crate::batch::Needs;
use crate::conflict::{ReadSet, Recent, Writes};
use crate::error::{Error, Result};
use crate::format::Lsn;

/// What a commit stands on.
pub(crate) struct Check {
    pub(crate) reads: ReadSet,
    /// The reads were found to hold below this, which was the end of what the state held when this
    /// node was the writer already.
    pub(crate) from: Lsn,
}

/// A batch as encoded, with what it stands on, if that must still hold.
pub(crate) struct Draft {
    pub(crate) batch: Vec<u8>,
    pub(crate) needs: Needs,
    pub(crate) check: Option<Box<Check>>,
}

impl From<(Vec<u8>, Needs)> for Draft {
    fn from((batch, needs): (Vec<u8>, Needs)) -> Self {
        Self {
            batch,
            needs,
            check: None,
        }
    }
}

impl From<Vec<u8>> for Draft {
    fn from(batch: Vec<u8>) -> Self {
        Self::from((batch, Needs::default()))
    }
}

impl Check {
    /// # Errors
    /// `TransactionConflict`.
    fn holds(&self, group: &Writes, recent: &mut Recent) -> Result<()> {
        let lost = self.reads.lost_to(group, self.from);
        match lost.or_else(|| recent.lost_to(&self.reads, self.from)) {
            Some(lost) => Err(lost.into()),
            None => Ok(()),
        }
    }
}

impl Log {
    /// # Errors
    /// Why no commit can be taken now.
    pub(crate) fn require_writing(&self) -> Result<()> {
        self.require(&LogState::Writing)
    }
}

/// A group, with the first of its batches at a given position.
pub(super) struct Judged {
    /// Those whose reads hold there.
    pub(super) kept: Vec<Pending>,
    /// Those that lost, to what is in the log or to one that is kept; none of them was told.
    pub(super) lost: Vec<(Pending, Error)>,
    /// What the kept ones write, if there was anything to check.
    pub(super) writes: Option<Writes>,
}

/// Checks a group whose first batch will lie at `lsn`. Costs nothing where nobody read.
pub(super) fn judge(group: Vec<Pending>, recent: &mut Recent, lsn: Lsn) -> Judged {
    let mut judged = Judged {
        kept: Vec::new(),
        lost: Vec::new(),
        writes: None,
    };
    if group.iter().all(|pending| pending.check.is_none()) {
        judged.kept = group;
        return judged;
    }
    let (mut writes, mut end) = (Writes::default(), lsn);
    for pending in group {
        // One of its own pipeline may just have lost.
        let verdict = pending.in_place().and_then(|()| match &pending.check {
            Some(check) => check.holds(&writes, recent),
            None => Ok(()),
        });
        match verdict {
            Ok(()) => {
                writes.add(&pending.bytes, end, 1);
                end = end.advance(pending.bytes.len() as u64);
                judged.kept.push(pending);
            }
            Err(error) => {
                pending.end_pipeline();
                judged.lost.push((pending, error));
            }
        }
    }
    judged.writes = Some(writes);
    judged
}
