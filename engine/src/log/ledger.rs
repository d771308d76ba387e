//! The ledger of unprotected time: every span for which nothing limited what could be lost, as the
//! records of the log tell it. So both nodes know it, and it outlives whoever was the primary.
//!
//! Times are those of the writers' wall clocks. A suspension counts from its record and to the
//! latest moment at which it can have ended by itself, so that no time is left out.

use serde::{Deserialize, Serialize};

use super::manifest::Protection;
use crate::format::limits::UNPROTECTED_SPANS_MAX;
use crate::format::{EpochReason, EpochRecord, History, Lsn, ProtectionStanding};

/// Why nothing limited what could be lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnprotectedBy {
    /// A new cluster begins so.
    NewCluster,
    /// A promoted node begins so.
    Promotion,
    /// So does one that was told not to wait for its standby.
    ResumeAlone,
    /// An operator suspended the bound.
    Suspension,
    /// The policy is `async`.
    Async,
    /// A bound was set while the standby lacked too much.
    NotYet,
}

/// A time for which nothing limited what could be lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnprotectedSpan {
    /// Its beginning, in milliseconds since 1970.
    pub since_ms: u64,
    /// Its end; `None` while it lasts, or until a record says that it ended.
    pub until_ms: Option<u64>,
    /// The latest moment at which it ends by itself, for a suspension.
    pub ends_by_ms: Option<u64>,
    /// Why.
    pub by: UnprotectedBy,
    /// What the operator said.
    pub note: String,
}

impl UnprotectedSpan {
    /// When it ended, or ends, seen from `now_ms`; `None` while it lasts.
    #[must_use]
    pub fn ended_ms(&self, now_ms: u64) -> Option<u64> {
        self.until_ms
            .or_else(|| self.ends_by_ms.filter(|ends_by| *ends_by <= now_ms))
    }

    /// How long it was, or has been at `now_ms`.
    #[must_use]
    pub fn lasted_ms(&self, now_ms: u64) -> u64 {
        let until = self.ended_ms(now_ms).unwrap_or(now_ms);
        until.saturating_sub(self.since_ms)
    }
}

/// All unprotected time of a log, in the order of the log. The newest spans are kept one by one;
/// of those before, how many there were and how long they took.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UnprotectedTime {
    /// What was entered last.
    through: Option<Order>,
    spans: Vec<UnprotectedSpan>,
    earlier: u64,
    earlier_ms: u64,
}

/// Where an entry stands: of two, the one of the later epoch is newer, whatever its LSN.
type Order = (u32, u32, Lsn);

impl UnprotectedTime {
    /// That of a log that says nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            through: None,
            spans: Vec::new(),
            earlier: 0,
            earlier_ms: 0,
        }
    }

    /// The newest spans, oldest first. Only the last one may lack its end.
    #[must_use]
    pub fn spans(&self) -> &[UnprotectedSpan] {
        &self.spans
    }

    /// How many spans there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.earlier + self.spans.len() as u64
    }

    /// How long all of them took together, up to `now_ms`.
    #[must_use]
    pub fn total_ms(&self, now_ms: u64) -> u64 {
        let spans = self.spans.iter().map(|span| span.lasted_ms(now_ms));
        spans.fold(self.earlier_ms, u64::saturating_add)
    }

    /// The span that lasts at `now_ms`, if one does.
    #[must_use]
    pub fn open(&self, now_ms: u64) -> Option<&UnprotectedSpan> {
        self.spans
            .last()
            .filter(|last| last.ended_ms(now_ms).is_none())
    }

    /// Enters the starts of epochs and the records that are newer than what was entered last.
    /// Epochs behind `up_to` are left for later, where it is given.
    pub(super) fn enter(
        &mut self,
        history: &History,
        records: &[Protection],
        up_to: Option<Order>,
    ) {
        let newer = |order: Order| self.through < Some(order);
        let epochs = history.epochs().iter().map(|epoch| {
            let order = (epoch.term, epoch.start, epoch.fork);
            (order, Entry::Epoch(epoch))
        });
        let epochs = epochs.filter(|(order, _)| up_to.is_none_or(|up_to| *order < up_to));
        let records = records.iter().map(|record| {
            let mark = record.mark;
            ((mark.term, mark.start, mark.lsn), Entry::Record(record))
        });
        let mut entries: Vec<_> = epochs
            .chain(records)
            .filter(|(order, _)| newer(*order))
            .collect();
        entries.sort_by_key(|(order, _)| *order);
        for (order, entry) in entries {
            match entry {
                Entry::Epoch(epoch) => self.begin(epoch),
                Entry::Record(record) => self.record(record),
            }
            self.through = Some(order);
        }
    }

    fn begin(&mut self, epoch: &EpochRecord) {
        let by = match epoch.reason {
            EpochReason::Init => UnprotectedBy::NewCluster,
            EpochReason::Promotion => UnprotectedBy::Promotion,
            EpochReason::ResumeAlone => UnprotectedBy::ResumeAlone,
            EpochReason::Restart => {
                // What stood goes on, but for a suspension.
                if self.lasts_by() == Some(UnprotectedBy::Suspension) {
                    self.end(epoch.wall_ms);
                }
                return;
            }
        };
        self.end(epoch.wall_ms);
        self.start(epoch.wall_ms, by, &epoch.note, None);
    }

    fn record(&mut self, entry: &Protection) {
        let (at_ms, record) = (entry.wall_ms, &entry.record);
        let (by, ends_by_ms) = match (record.standing, record.lease_ms) {
            (ProtectionStanding::InForce, Some(_)) => return self.end(at_ms),
            (ProtectionStanding::Suspended { lasts_ms }, Some(lease_ms)) => {
                // It takes effect once the standby heard of it, or when the lease is out.
                let ends_by_ms = at_ms.saturating_add(lasts_ms).saturating_add(lease_ms);
                (UnprotectedBy::Suspension, Some(ends_by_ms))
            }
            (_, None) => (UnprotectedBy::Async, None),
            _ => match self.lasts_by() {
                Some(UnprotectedBy::Suspension | UnprotectedBy::Async) | None => {
                    (UnprotectedBy::NotYet, None)
                }
                // Off it was, and off it stays.
                Some(_) => return,
            },
        };
        self.end(at_ms);
        self.start(at_ms, by, &record.note, ends_by_ms);
    }

    fn lasts_by(&self) -> Option<UnprotectedBy> {
        let last = self.spans.last()?;
        last.until_ms.is_none().then_some(last.by)
    }

    fn end(&mut self, at_ms: u64) {
        if let Some(last) = self.spans.last_mut()
            && last.until_ms.is_none()
        {
            let until = last.ends_by_ms.map_or(at_ms, |ends_by| at_ms.min(ends_by));
            last.until_ms = Some(until.max(last.since_ms));
        }
    }

    fn start(&mut self, since_ms: u64, by: UnprotectedBy, note: &str, ends_by_ms: Option<u64>) {
        self.spans.push(UnprotectedSpan {
            since_ms,
            until_ms: None,
            ends_by_ms,
            by,
            note: note.to_owned(),
        });
        let surplus = self.spans.len().saturating_sub(UNPROTECTED_SPANS_MAX);
        for span in self.spans.drain(..surplus) {
            // All but the last have ended.
            let lasted = span.lasted_ms(span.since_ms);
            self.earlier += 1;
            self.earlier_ms = self.earlier_ms.saturating_add(lasted);
        }
    }
}

enum Entry<'a> {
    Epoch(&'a EpochRecord),
    Record(&'a Protection),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{EpochId, NodeId, ProtectionRecord};
    use crate::log::ProtectionMark;

    /// What a log may say of its protection.
    #[derive(Clone, Copy, Debug)]
    enum Said {
        Epoch(EpochReason),
        InForce,
        Off,
        Async,
        Suspended(u64),
    }

    const LEASE_MS: u64 = 3_000;

    /// A log in which things are said at these times.
    fn log(said: &[(u64, Said)]) -> (History, Vec<Protection>) {
        let mut history = History::new();
        let mut records = Vec::new();
        for (number, (wall_ms, said)) in (1u32..).zip(said) {
            let lsn = Lsn(u64::from(number) * 1000);
            let last = history.last().cloned();
            match said {
                Said::Epoch(reason) => {
                    let id = EpochId([u8::try_from(number).unwrap(); 16]);
                    let raises = *reason != EpochReason::Restart || last.is_none();
                    let term = last.as_ref().map_or(0, |last| last.term) + u32::from(raises);
                    let opened_by = match &last {
                        Some(last) if !raises => last.opened_by,
                        _ => id,
                    };
                    let epoch = EpochRecord {
                        term,
                        start: number,
                        id,
                        parent: last.as_ref().map_or(EpochId::NONE, |last| last.id),
                        opened_by,
                        fork: if last.is_some() { lsn } else { Lsn::ZERO },
                        node: NodeId::NONE,
                        node_name: "a".to_owned(),
                        reason: *reason,
                        note: String::new(),
                        wall_ms: *wall_ms,
                    };
                    history.push(epoch).unwrap();
                }
                said => {
                    let last = last.unwrap();
                    let none = ProtectionRecord::unbounded(Vec::new(), "said".to_owned());
                    let standing = match said {
                        Said::InForce => ProtectionStanding::InForce,
                        Said::Suspended(lasts_ms) => ProtectionStanding::Suspended {
                            lasts_ms: *lasts_ms,
                        },
                        _ => ProtectionStanding::Off,
                    };
                    let lease_ms = (!matches!(said, Said::Async)).then_some(LEASE_MS);
                    records.push(Protection {
                        mark: ProtectionMark {
                            term: last.term,
                            start: last.start,
                            lsn,
                            epoch: last.id,
                        },
                        record: ProtectionRecord {
                            lease_ms,
                            standing,
                            ..none
                        },
                        wall_ms: *wall_ms,
                    });
                }
            }
        }
        (history, records)
    }

    fn ledger(said: &[(u64, Said)]) -> UnprotectedTime {
        let (history, records) = log(said);
        let mut ledger = UnprotectedTime::default();
        ledger.enter(&history, &records, None);
        ledger
    }

    fn spans(ledger: &UnprotectedTime, now_ms: u64) -> Vec<(u64, Option<u64>, UnprotectedBy)> {
        let spans = ledger.spans().iter();
        spans
            .map(|span| (span.since_ms, span.ended_ms(now_ms), span.by))
            .collect()
    }

    #[test]
    fn each_span_has_its_beginning_its_end_and_its_reason() {
        use UnprotectedBy::{Async, NewCluster, NotYet, Promotion, ResumeAlone, Suspension};
        let said = [
            (100, Said::Epoch(EpochReason::Init)),
            (110, Said::Off),
            (500, Said::InForce),
            (600, Said::Epoch(EpochReason::Restart)),
            (1000, Said::Suspended(60_000)),
            (2000, Said::InForce),
            (3000, Said::Async),
            (4000, Said::Off),
            (4500, Said::InForce),
            (5000, Said::Epoch(EpochReason::ResumeAlone)),
            (6000, Said::Epoch(EpochReason::Restart)),
            (7000, Said::Epoch(EpochReason::Promotion)),
        ];
        let ledger = ledger(&said);
        let expected = [
            (100, Some(500), NewCluster),
            (1000, Some(2000), Suspension),
            (3000, Some(4000), Async),
            (4000, Some(4500), NotYet),
            (5000, Some(7000), ResumeAlone),
            (7000, None, Promotion),
        ];
        assert_eq!(spans(&ledger, 9000), expected);
        assert_eq!(ledger.total_ms(9000), 400 + 1000 + 1000 + 500 + 2000 + 2000);
        assert_eq!(ledger.open(9000).map(|open| open.by), Some(Promotion));
        // A clock that was set back takes nothing away from what has ended.
        assert_eq!(ledger.total_ms(10), 400 + 1000 + 1000 + 500 + 2000);
    }

    #[test]
    fn a_suspension_ends_by_itself_or_by_a_restart() {
        let mut said = vec![
            (100, Said::Epoch(EpochReason::Init)),
            (200, Said::InForce),
            (1000, Said::Suspended(10_000)),
        ];
        let ends_by = 1000 + 10_000 + LEASE_MS;
        let ledger_of = |said: &[(u64, Said)]| {
            let ledger = ledger(said);
            move |now_ms| spans(&ledger, now_ms).pop().unwrap().1
        };
        let open = ledger_of(&said);
        assert_eq!(open(ends_by - 1), None);
        assert_eq!(open(ends_by + 50), Some(ends_by));
        said.push((5000, Said::Epoch(EpochReason::Restart)));
        assert_eq!(ledger_of(&said)(99_999), Some(5000));
        said.pop();
        said.push((99_000, Said::InForce));
        assert_eq!(ledger_of(&said)(99_999), Some(ends_by), "not the record");
    }

    #[test]
    fn the_oldest_spans_are_added_up() {
        let mut said = vec![(0, Said::Epoch(EpochReason::Init)), (7, Said::InForce)];
        let suspensions = UNPROTECTED_SPANS_MAX as u64 + 5;
        for n in 1..=suspensions {
            said.push((n * 1000, Said::Suspended(60_000)));
            said.push((n * 1000 + n, Said::InForce));
        }
        let ledger = ledger(&said);
        assert_eq!(ledger.spans().len(), UNPROTECTED_SPANS_MAX);
        assert_eq!(ledger.count(), suspensions + 1);
        let total = 7 + (1..=suspensions).sum::<u64>();
        assert_eq!(ledger.total_ms(u64::MAX), total);
    }

    fn said() -> impl Strategy<Value = Vec<(u64, Said)>> {
        let one = prop_oneof![
            Just(Said::Epoch(EpochReason::Restart)),
            Just(Said::Epoch(EpochReason::Promotion)),
            Just(Said::Epoch(EpochReason::ResumeAlone)),
            Just(Said::InForce),
            Just(Said::Off),
            Just(Said::Async),
            (0..5_000u64).prop_map(Said::Suspended),
        ];
        proptest::collection::vec((0..3_000u64, one), 0..100).prop_map(|steps| {
            let mut now_ms = 0;
            let mut said = vec![(0, Said::Epoch(EpochReason::Init))];
            for (after_ms, one) in steps {
                now_ms += after_ms;
                said.push((now_ms, one));
            }
            said
        })
    }

    proptest! {
        #[test]
        fn entering_in_parts_changes_nothing(said in said(), parts in 1..9usize) {
            let (history, records) = log(&said);
            let mut by_parts = UnprotectedTime::default();
            for part in records.chunks(parts) {
                let mark = part.last().unwrap().mark;
                by_parts.enter(&history, part, Some((mark.term, mark.start, mark.lsn)));
            }
            by_parts.enter(&history, &[], None);
            prop_assert_eq!(&by_parts, &ledger(&said));
            let ended = by_parts.spans().split_last().map_or(&[][..], |(_, before)| before);
            prop_assert!(ended.iter().all(|span| span.until_ms.is_some()));
        }

        /// The total is what a clock would count that looks every millisecond.
        #[test]
        fn the_total_is_the_time_for_which_nothing_was_promised(said in said()) {
            let end_ms = said.last().unwrap().0 + 10_000;
            let mut off: Option<Option<u64>> = None;
            let mut total = 0;
            let mut next = said.iter().peekable();
            let mut suspended = false;
            for now_ms in 0..end_ms {
                while let Some((_, one)) = next.next_if(|(at_ms, _)| *at_ms <= now_ms) {
                    let was_suspended = suspended;
                    suspended = false;
                    match one {
                        Said::InForce => off = None,
                        Said::Epoch(EpochReason::Restart) if was_suspended => off = None,
                        Said::Epoch(EpochReason::Restart) => {}
                        Said::Suspended(lasts_ms) => {
                            suspended = true;
                            off = Some(Some(now_ms + lasts_ms + LEASE_MS));
                        }
                        _ => off = Some(None),
                    }
                }
                let lasts = off.is_some_and(|ends| ends.is_none_or(|ends| now_ms < ends));
                total += u64::from(lasts);
            }
            prop_assert_eq!(ledger(&said).total_ms(end_ms), total);
        }
    }
}
