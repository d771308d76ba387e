//! Protection records: in the log, so that the standby has them; and in the manifest, so that a
//! node knows those that still count without reading its log.

use super::gate::Waiting;
use super::lane::Reserve;
use super::ledger::UnprotectedTime;
use super::levels::Finished;
use super::manifest::Protection;
use super::{Log, ProtectionMark};
use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::PROTECTIONS_MAX;
use crate::format::{
    Chain, EpochKey, EpochReason, EpochRecord, FrameHeader, FrameKind, FrameRun, History, Lsn,
    ProtectionRecord, encoded_frame_len,
};
use crate::log::LogState;
use crate::planted::{Bug, on};

impl Log {
    /// Appends a protection record, before whatever waits to be formed. It is durable, and known to
    /// the manifest, on return.
    pub(crate) fn append_protection(&self, record: &ProtectionRecord) -> Result<Protection> {
        if !record.within_limits() {
            let message = "a protection record with too many members, or too long a note";
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let payload = record.encode();
        let len = encoded_frame_len(payload.len());
        let mut writer = self.writer.lock();
        self.require(&LogState::Writing)?;
        let fields = writer.fields(self, FrameKind::Protection, 0);
        let Some(epoch) = writer.chain.epoch else {
            panic!("a writer in no epoch")
        };
        let protection = Protection {
            mark: mark(epoch, writer.chain.lsn.advance(len as u64)),
            record: record.clone(),
            wall_ms: fields.wall_ms,
        };
        // Where there is room, nothing but the disk's failure keeps it out of the log.
        self.make_room(&mut writer, len, Reserve::Usable)?;
        // Before its first byte is in the log: what lies there must not go unnoticed.
        self.note_protections(vec![protection.clone()])?;
        // Before anybody can be sent it: what the standby holds must bind here already.
        if let Some(gate) = self.gated.gate() {
            gate.record(&protection);
        }
        let form = |chain: &mut Chain, first_in_segment| {
            let fields = crate::format::FrameFields {
                first_in_segment,
                ..fields
            };
            chain.form(fields, [&*payload])
        };
        let (header, frame) = self.append_own(&mut writer, form, len)?;
        assert_eq!(header.end(), protection.mark.lsn, "it stands elsewhere");
        let sink = self.sink.lock();
        drop(writer);
        if let Some(sink) = &*sink {
            sink.apply(&header, &frame);
        }
        let mut finished = Finished::default();
        self.pass_gate(Some(Waiting::nobody(header.position())), &mut finished);
        drop(sink);
        finished.wake();
        self.cell.notify();
        Ok(protection)
    }

    /// The newest protection records of this log, in its order.
    pub(crate) fn protections(&self) -> Vec<Protection> {
        let end = self.cell.read().appended.lsn;
        self.with_history(|history| {
            let manifest = self.manifest.lock();
            let held = |noted: &&Protection| holds(history, end, &noted.mark);
            manifest.protections.iter().filter(held).cloned().collect()
        })
    }

    /// Where the newest protection record of this log stands. The start of an epoch in which
    /// nothing is promised counts as one: whoever knows only an older record must not rest on it.
    pub(crate) fn newest_protection(&self) -> Option<ProtectionMark> {
        let end = self.cell.read().appended.lsn;
        self.with_history(|history| {
            let manifest = self.manifest.lock();
            let mut marks = manifest.protections.iter().rev().map(|noted| noted.mark);
            let written = marks.find(|mark| holds(history, end, mark));
            let mut newest_first = history.epochs().iter().rev();
            let begun = newest_first.find(|epoch| epoch.reason != EpochReason::Restart);
            let begun = begun.filter(|_| !on(Bug::EpochStartNotTold)).map(beginning);
            let order = |mark: &ProtectionMark| (mark.term, mark.start, mark.lsn);
            [begun, written].into_iter().flatten().max_by_key(order)
        })
    }

    /// For how long, when and why nothing limited what could be lost, up to `end`.
    pub(super) fn unprotected_to(&self, end: Lsn) -> UnprotectedTime {
        self.with_history(|history| {
            let manifest = self.manifest.lock();
            let held = |noted: &&Protection| holds(history, end, &noted.mark);
            let records: Vec<_> = manifest.protections.iter().filter(held).cloned().collect();
            let mut unprotected = manifest.unprotected.clone();
            drop(manifest);
            unprotected.enter(&history.cut(end), &records, None);
            unprotected
        })
    }

    /// For how long, when and why nothing limited what could be lost.
    pub(crate) fn unprotected(&self) -> UnprotectedTime {
        self.unprotected_to(self.cell.read().appended.lsn)
    }

    /// The records in frames that are about to be appended are known to the manifest before.
    pub(super) fn learn_protections(&self, run: &FrameRun) -> Result<()> {
        let mut epochs = run.epochs().iter();
        let mut epoch = run.before().epoch;
        let mut noted = Vec::new();
        for (header, frame) in run.frames() {
            match header.kind {
                FrameKind::Epoch => epoch = epochs.next().map(EpochKey::from),
                FrameKind::Protection => noted.extend(read(epoch, header, &frame)),
                _ => {}
            }
        }
        if noted.is_empty() {
            return Ok(());
        }
        self.note_protections(noted)
    }

    fn note_protections(&self, noted: Vec<Protection>) -> Result<()> {
        let (history, end) = (self.history(), self.cell.read().appended.lsn);
        self.change_manifest(|manifest| {
            let protections = &mut manifest.protections;
            // One that was noted and is not in the log will never be, or comes again now.
            protections.retain(|other| holds(&history, end, &other.mark));
            protections.extend(noted);
            let surplus = protections.len().saturating_sub(PROTECTIONS_MAX);
            let forgotten: Vec<_> = protections.drain(..surplus).collect();
            if let Some(last) = forgotten.last() {
                let Protection { mark, .. } = last;
                let up_to = (mark.term, mark.start, mark.lsn);
                let unprotected = &mut manifest.unprotected;
                unprotected.enter(&manifest.history, &forgotten, Some(up_to));
            }
        })
    }
}

/// Where the frame that begins an epoch ends.
fn beginning(epoch: &EpochRecord) -> ProtectionMark {
    let len = encoded_frame_len(FrameHeader::epoch_payload_len(epoch));
    mark(EpochKey::from(epoch), epoch.fork.advance(len as u64))
}

/// A payload that does not decode is refused before it gets here.
fn read(epoch: Option<EpochKey>, header: &FrameHeader, frame: &[u8]) -> Option<Protection> {
    let record = ProtectionRecord::decode(header.payload(frame)).ok()?;
    let mark = mark(epoch?, header.end());
    let wall_ms = header.wall_ms;
    Some(Protection {
        mark,
        record,
        wall_ms,
    })
}

const fn mark(epoch: EpochKey, lsn: Lsn) -> ProtectionMark {
    ProtectionMark {
        term: epoch.term,
        start: epoch.start,
        lsn,
        epoch: epoch.id,
    }
}

/// Whether a log of this history that ends at `end` holds the record.
fn holds(history: &History, end: Lsn, mark: &ProtectionMark) -> bool {
    let left = history.end_of(mark.epoch, end);
    left.is_some_and(|left| mark.lsn <= left.min(end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::format::{ClusterId, EpochReason, ProtectionStanding};
    use crate::fs::MemFs;
    use crate::{Batch, CommitOptions, Config, InitOptions, Store};

    fn made(fs: &MemFs, follower: bool) -> Store {
        let options = InitOptions {
            segment_size: 64 << 10,
            cluster: ClusterId([9; 16]),
            has_peer: true,
            follower,
            ..InitOptions::new("a")
        };
        Store::init_on(fs, &options).unwrap();
        open(fs)
    }

    fn open(fs: &MemFs) -> Store {
        let config = Config {
            background: false,
            ..Config::default()
        };
        Store::open_on(Arc::new(fs.clone()), Arc::<SystemClock>::default(), config).unwrap()
    }

    fn record(commits: u64) -> ProtectionRecord {
        ProtectionRecord {
            bound_commits: Some(commits),
            lease_ms: Some(3000),
            standing: ProtectionStanding::InForce,
            ..ProtectionRecord::unbounded(Vec::new(), "test".to_owned())
        }
    }

    fn says(store: &Store) -> Vec<u64> {
        let noted = store.protections();
        let last = noted.last().map(|noted| noted.mark);
        let newest = store.newest_protection();
        // Or the start of an epoch with nothing promised yet, behind it.
        assert!(last == newest || last.map(|last| last.lsn) < newest.map(|newest| newest.lsn));
        let commits = |noted: Protection| noted.record.bound_commits.unwrap();
        noted.into_iter().map(commits).collect()
    }

    fn ship(from: &Store, to: &Store) {
        let mut cursor = from.log_cursor(to.chain().lsn).unwrap();
        let end = from.chain().lsn;
        while let Some(run) = cursor.next_up_to(end, 1 << 20).unwrap() {
            to.append_run(&run).unwrap();
        }
        to.sync().unwrap();
    }

    #[test]
    fn both_nodes_know_the_records_of_their_log_and_none_that_was_cut() {
        let (here, there) = (MemFs::new(), MemFs::new());
        let primary = made(&here, false);
        let standby = made(&there, true);
        primary.begin_epoch(EpochReason::Init, "").unwrap();
        standby.begin_following().unwrap();
        assert_eq!(says(&primary), []);
        for commits in 1..=2 {
            primary.append_protection(&record(commits)).unwrap();
            let batch = Batch::new();
            primary.commit(batch, CommitOptions::default()).unwrap();
        }
        ship(&primary, &standby);
        primary.append_protection(&record(3)).unwrap();
        assert_eq!(says(&primary), [1, 2, 3]);
        assert_eq!(says(&standby), [1, 2]);
        assert_eq!(primary.protections()[..2], standby.protections());
        drop((primary, standby));
        let (primary, standby) = (open(&here), open(&there));
        assert_eq!(says(&primary), [1, 2, 3]);
        standby.begin_following().unwrap();
        standby.begin_epoch(EpochReason::Promotion, "").unwrap();
        standby.append_protection(&record(4)).unwrap();
        assert_eq!(says(&standby), [1, 2, 4]);
        // What the old primary wrote behind the fork is not in this history.
        let fork = standby.history().last().unwrap().fork;
        primary.begin_following().unwrap();
        primary.quarantine(fork).unwrap();
        assert_eq!(says(&primary), [1, 2]);
        ship(&standby, &primary);
        assert_eq!(says(&primary), [1, 2, 4]);
    }

    #[test]
    fn both_nodes_and_what_is_made_of_a_backup_know_the_same_unprotected_time() {
        let (here, there) = (MemFs::new(), MemFs::new());
        let primary = made(&here, false);
        let standby = made(&there, true);
        primary.begin_epoch(EpochReason::Init, "").unwrap();
        standby.begin_following().unwrap();
        let suspended = ProtectionRecord {
            standing: ProtectionStanding::Suspended { lasts_ms: 60_000 },
            ..record(1)
        };
        primary.append_protection(&record(1)).unwrap();
        // So many that most are forgotten one by one.
        let suspensions = PROTECTIONS_MAX as u64;
        for _ in 0..suspensions {
            primary.append_protection(&suspended).unwrap();
            primary.append_protection(&record(1)).unwrap();
        }
        ship(&primary, &standby);
        let known = primary.unprotected();
        assert_eq!(known.count(), suspensions + 1);
        assert_eq!(known.open(u64::MAX), None);
        // They have forgotten different records one by one, and both the same.
        assert_eq!(standby.unprotected(), known);
        drop((primary, standby));
        let (primary, standby) = (open(&here), open(&there));
        assert_eq!(primary.unprotected(), known);
        assert_eq!(standby.unprotected(), known);
        let (backup, anew) = (MemFs::new(), MemFs::new());
        primary.begin_epoch(EpochReason::Restart, "").unwrap();
        let known = primary.unprotected();
        let held = primary.checkpoint_on(&backup).unwrap();
        assert_eq!(held.unprotected, known);
        crate::restore_on(&backup, &anew, &crate::RestoreOptions::new("c")).unwrap();
        assert_eq!(open(&anew).unprotected(), known);
        // A promotion there begins without protection, and says why.
        standby.begin_following().unwrap();
        let reason = EpochReason::Promotion;
        standby.begin_epoch(reason, "hall 3 burns").unwrap();
        let unprotected = standby.unprotected();
        let open_now = unprotected.open(u64::MAX).unwrap();
        assert_eq!(open_now.by, crate::UnprotectedBy::Promotion);
        assert_eq!(open_now.note, "hall 3 burns");
        assert_eq!(unprotected.count(), known.count() + 1);
    }

    #[test]
    fn an_epoch_that_begins_with_nothing_promised_is_newer_than_all_records_before() {
        let fs = MemFs::new();
        let store = made(&fs, false);
        let epoch = store.begin_epoch(EpochReason::Init, "").unwrap();
        let newest = store.newest_protection().unwrap();
        assert_eq!((newest.epoch, newest.lsn), (epoch.id, store.chain().lsn));
        let written = store.append_protection(&record(1)).unwrap();
        assert_eq!(store.newest_protection(), Some(written.mark));
        drop(store);
        for reason in [
            EpochReason::Restart,
            EpochReason::ResumeAlone,
            EpochReason::Restart,
        ] {
            let store = open(&fs);
            let before = store.newest_protection();
            let epoch = store.begin_epoch(reason, "").unwrap();
            let newest = store.newest_protection();
            if reason == EpochReason::Restart {
                assert_eq!(newest, before, "what stood before stands");
            } else {
                let newest = newest.map(|newest| (newest.epoch, newest.lsn));
                assert_eq!(newest, Some((epoch.id, store.chain().lsn)));
            }
        }
        let store = open(&fs);
        store.begin_epoch(EpochReason::Restart, "").unwrap();
        let written = store.append_protection(&record(2)).unwrap();
        assert_eq!(store.newest_protection(), Some(written.mark));
    }

    #[test]
    fn a_record_that_a_crash_kept_out_of_the_log_is_none() {
        let (mut kept, mut lost) = (0, 0);
        for operation in 0..20 {
            let fs = MemFs::new();
            let store = made(&fs, false);
            store.begin_epoch(EpochReason::Init, "").unwrap();
            store.append_protection(&record(1)).unwrap();
            fs.fail_from(fs.operations() + operation, std::io::ErrorKind::Other);
            let appended = store.append_protection(&record(2)).is_ok();
            drop(store);
            fs.heal();
            let store = open(&fs);
            // In the log and not known durable is in the log too.
            let end = store.chain().lsn;
            let before = says(&store);
            match &before[..] {
                [1] => lost += 1,
                [1, 2] => kept += 1,
                other => panic!("{other:?} after operation {operation}, which ends at {end}"),
            }
            assert!(!appended || before == [1, 2]);
            store.begin_epoch(EpochReason::Restart, "").unwrap();
            store.append_protection(&record(9)).unwrap();
            assert_eq!(says(&store), [&before[..], &[9]].concat());
        }
        assert!(kept > 0 && lost > 0, "{kept} {lost}");
    }

    #[test]
    fn only_the_newest_are_kept_in_mind_and_none_is_too_long() {
        let fs = MemFs::new();
        let store = made(&fs, false);
        store.begin_epoch(EpochReason::Init, "").unwrap();
        for commits in 0..PROTECTIONS_MAX as u64 + 3 {
            store.append_protection(&record(commits)).unwrap();
        }
        assert_eq!(says(&store).len(), PROTECTIONS_MAX);
        assert_eq!(says(&store).first(), Some(&3));
        let long = ProtectionRecord {
            note: "x".repeat(2000),
            ..record(1)
        };
        let error = store.append_protection(&long).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
    }
}
