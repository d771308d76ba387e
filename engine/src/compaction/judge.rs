//! Which records are still needed: a pure function of what the index knows.

use crate::format::{Lsn, Op};
use crate::index::Keep;

/// What the index knows of the record that is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Witness {
    /// Whether it holds this very version.
    pub(crate) held: bool,
    /// The next newer version of the key, or the next range delete over it, whichever is older. For
    /// the record of a range delete: nothing newer, while it is held.
    pub(crate) newer: Option<Lsn>,
}

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is kept. Where a newer one exists below the horizon, somebody looks at a state in
    /// between.
    Keep { superseded_by: Option<Lsn> },
    /// Nobody will ask for it again.
    Drop,
    /// The index does not know of a record that nothing took the place of.
    Unknown,
}

/// Judges the record of `op` at `lsn`. Deletes below `settled` hide nothing in the log.
///
/// A put goes only if something newer is known that took its place: an index that has lost a key
/// never makes the log lose it too.
pub(crate) fn judge(lsn: Lsn, op: Op, witness: Witness, keep: &Keep, settled: Lsn) -> Verdict {
    match witness.newer {
        // Once it takes nothing away any more, the index lets it go. A keyspace stays dropped.
        _ if op == Op::DeleteRange && !witness.held => Verdict::Drop,
        _ if matches!(op, Op::DeleteRange | Op::DropKeyspace) => Verdict::Keep {
            superseded_by: None,
        },
        Some(newer) if !keep.is_seen(lsn, newer) => Verdict::Drop,
        Some(newer) => Verdict::Keep {
            superseded_by: (newer < keep.horizon).then_some(newer),
        },
        None if op == Op::Delete && lsn < settled => Verdict::Drop,
        None if op == Op::Put && !witness.held => Verdict::Unknown,
        None => Verdict::Keep {
            superseded_by: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_decided() {
        let keep = Keep {
            horizon: Lsn(100),
            snapshots: vec![Lsn(50)],
            settled: Lsn::ZERO,
            expired_ms: 0,
        };
        let kept = |superseded_by| Verdict::Keep { superseded_by };
        let put = |lsn, held, newer: Option<u64>| {
            let newer = newer.map(Lsn);
            judge(Lsn(lsn), Op::Put, Witness { held, newer }, &keep, Lsn(90))
        };
        // The newest of its key.
        assert_eq!(put(10, true, None), kept(None));
        assert_eq!(put(10, false, None), Verdict::Unknown);
        // Superseded: for all readers, for all but a snapshot, for none below the horizon.
        assert_eq!(put(60, true, Some(70)), Verdict::Drop);
        assert_eq!(put(60, false, Some(70)), Verdict::Drop);
        assert_eq!(put(10, true, Some(70)), kept(Some(Lsn(70))));
        assert_eq!(put(10, true, Some(50)), kept(Some(Lsn(50))));
        assert_eq!(put(10, true, Some(49)), Verdict::Drop);
        assert_eq!(put(50, true, Some(60)), Verdict::Drop);
        assert_eq!(put(60, true, Some(100)), kept(None));
        let delete = |lsn, newer: Option<u64>| {
            let newer = newer.map(Lsn);
            let witness = Witness { held: true, newer };
            judge(Lsn(lsn), Op::Delete, witness, &keep, Lsn(90))
        };
        // A delete may hide a put that the log still holds, until that is settled.
        assert_eq!(delete(89, None), Verdict::Drop);
        assert_eq!(delete(90, None), kept(None));
        assert_eq!(delete(95, Some(99)), Verdict::Drop);

        let range = |op, held| {
            let newer = Some(Lsn(70));
            judge(Lsn(60), op, Witness { held, newer }, &keep, Lsn(90))
        };
        assert_eq!(range(Op::DeleteRange, true), kept(None));
        assert_eq!(range(Op::DeleteRange, false), Verdict::Drop);
        assert_eq!(range(Op::DropKeyspace, false), kept(None));
    }
}
