//! Commits that are durable and wait for a gate, or wait for it outside of the log.

use parking_lot::Mutex;

use super::*;
use crate::format::{Position, ProtectionRecord};
use crate::log::{Protection, ReplicaPositions};
use crate::{Admit, CommitError, CommitGate, Error, Level, TermMark};

/// A gate that does as it is told.
#[derive(Default)]
struct Told(Mutex<Rule>);

#[derive(Default)]
struct Rule {
    passes: bool,
    /// More than so many bytes wait outside of the log.
    window: Option<u64>,
    refuses: bool,
    is_cut_off: bool,
    holds: bool,
    records: Vec<Lsn>,
}

impl Told {
    fn set(&self, change: impl FnOnce(&mut Rule)) {
        change(&mut self.0.lock());
    }
}

impl CommitGate for Told {
    fn decide(
        &self,
        durable: Lsn,
        waiting: &mut dyn Iterator<Item = Position>,
    ) -> Option<Position> {
        let passes = self.0.lock().passes;
        waiting
            .take_while(|end| passes && end.lsn <= durable)
            .last()
    }

    fn holds(&self) -> bool {
        self.0.lock().holds
    }

    fn reads(&self) -> crate::Result<()> {
        match self.0.lock().is_cut_off {
            true => Err(Error::new(ErrorKind::NotCurrent, "told so")),
            false => Ok(()),
        }
    }

    fn admit(&self, appended: Lsn, visible: Lsn) -> crate::Result<Admit> {
        let rule = self.0.lock();
        if rule.refuses {
            return Err(Error::new(ErrorKind::OutOfBound, "told to refuse"));
        }
        let waiting = appended.bytes_since(visible);
        let full = rule.window.is_some_and(|most| waiting > most);
        Ok(if full { Admit::Wait } else { Admit::Go })
    }

    fn record(&self, protection: &Protection) {
        self.0.lock().records.push(protection.mark.lsn);
    }
}

fn gated() -> (MemFs, Store, Keyspace, Arc<Told>) {
    let (fs, store) = writer();
    let keyspace = store.keyspace("notes").unwrap();
    let gate = Arc::new(Told::default());
    store.set_gate(gate.clone());
    (fs, store, keyspace, gate)
}

fn note(keyspace: &Keyspace, key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(keyspace, key, vec![7; 100]).unwrap();
    batch
}

fn within(ms: u64) -> CommitOptions {
    CommitOptions {
        deadline: Some(Duration::from_millis(ms)),
        ..CommitOptions::default()
    }
}

#[test]
fn a_commit_is_neither_answered_nor_seen_before_the_gate_lets_it_pass() {
    let (_fs, store, keyspace, gate) = gated();
    let before = store.positions();
    let mut first = pin!(store.commit_async(note(&keyspace, "a"), CommitOptions::default()));
    let waker = Waker::noop();
    let mut context = Context::from_waker(waker);
    assert!(first.as_mut().poll(&mut context).is_pending());
    let held = store.positions();
    assert!(held.durable.lsn > before.durable.lsn);
    assert_eq!(held.visible, before.visible);
    assert_eq!(store.get(&keyspace, "a").unwrap(), None);
    // The next frame says what readers see, and not what is durable.
    drop(store.commit_async(note(&keyspace, "b"), CommitOptions::default()));
    assert_eq!(store.chain().visible, before.visible.lsn);
    gate.set(|rule| rule.passes = true);
    store.ask_gate();
    match first.as_mut().poll(&mut context) {
        Poll::Ready(outcome) => outcome.unwrap(),
        Poll::Pending => panic!("it passed"),
    };
    assert!(store.get(&keyspace, "b").unwrap().is_some());
    assert_eq!(store.positions().visible, store.positions().durable);
}

#[test]
fn what_may_have_been_replaced_is_read_from_a_snapshot_alone() {
    let (_fs, store, keyspace, gate) = gated();
    gate.set(|rule| rule.passes = true);
    store
        .commit(note(&keyspace, "a"), CommitOptions::default())
        .unwrap();
    gate.set(|rule| rule.is_cut_off = true);
    let refused = ErrorKind::NotCurrent;
    assert_eq!(kind(store.get(&keyspace, "a")), refused);
    assert_eq!(kind(store.multi_get(&keyspace, ["a"])), refused);
    assert_eq!(kind(store.get_entry(&keyspace, "a")), refused);
    assert_eq!(kind(block_on(store.get_async(&keyspace, "a"))), refused);
    let several = store.multi_get_async(&keyspace, ["a"]);
    assert_eq!(kind(block_on(several)), refused);
    assert_eq!(kind(store.confirm_current()), refused);
    assert!(store.snapshot().get(&keyspace, "a").unwrap().is_some());
    gate.set(|rule| rule.is_cut_off = false);
    assert!(store.get(&keyspace, "a").unwrap().is_some());
}

#[test]
fn a_deadline_ends_as_unknown_in_the_log_and_as_failed_outside() {
    let (_fs, store, keyspace, gate) = gated();
    let late = store.commit(note(&keyspace, "in the log"), within(20));
    let Err(CommitError::Unknown { receipt, error }) = late else {
        panic!("{late:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    gate.set(|rule| rule.window = Some(0));
    let end = store.chain().lsn;
    let late = store.commit(note(&keyspace, "outside"), within(20));
    let Err(CommitError::Failed(error)) = late else {
        panic!("{late:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(store.chain().lsn, end, "nothing was appended");
    // A writer that waits outside goes on by itself once the gate lets the rest pass.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.commit(note(&keyspace, "patient"), within(60_000)));
        while !store.has_queued() {
            std::thread::yield_now();
        }
        gate.set(|rule| rule.passes = true);
        store.ask_gate();
        waiting.join().unwrap().unwrap();
    });
    assert!(store.get(&keyspace, "in the log").unwrap().is_some());
    assert_eq!(store.get(&keyspace, "outside").unwrap(), None);
    assert!(receipt.lsn <= store.positions().visible.lsn);
}

#[test]
fn what_is_refused_is_not_in_the_log() {
    let (_fs, store, keyspace, gate) = gated();
    gate.set(|rule| rule.refuses = true);
    let end = store.chain().lsn;
    let refused = store.commit(note(&keyspace, "a"), CommitOptions::default());
    let Err(CommitError::Failed(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(error.kind(), ErrorKind::OutOfBound);
    assert_eq!(store.chain().lsn, end);
    store.close().unwrap();
}

#[test]
fn a_protection_record_and_a_close_do_not_wait_for_the_gate() {
    let (_fs, store, keyspace, gate) = gated();
    let held = store.commit_async(note(&keyspace, "held"), CommitOptions::default());
    gate.set(|rule| rule.window = Some(0));
    let outside = store.commit_async(note(&keyspace, "outside"), CommitOptions::default());
    let record = ProtectionRecord::unbounded(Vec::new(), "loosened".to_owned());
    let written = store.append_protection(&record).unwrap();
    assert_eq!(gate.0.lock().records, [written.mark.lsn]);
    assert!(store.positions().visible.lsn < written.mark.lsn);
    store.keyspace("meanwhile").unwrap();
    store.close().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let outcome = |future: crate::CommitFuture| match pin!(future).poll(&mut context) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it has not ended"),
    };
    let [held, outside] = [held, outside].map(outcome);
    assert!(matches!(held, Err(CommitError::Unknown { .. })), "{held:?}");
    assert!(
        matches!(outside, Err(CommitError::Failed(_))),
        "{outside:?}"
    );
}

#[test]
fn a_fence_ends_what_the_gate_holds_back() {
    let (_fs, store, keyspace, _gate) = gated();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| store.commit(note(&keyspace, "a"), CommitOptions::default()));
        let before = store.positions().visible.lsn;
        while store.positions().durable.lsn == before {
            std::thread::yield_now();
        }
        let by = TermMark {
            term: 9,
            opened_by: crate::format::EpochId([9; 16]),
        };
        store.fence(by).unwrap();
        let ended = held.join().unwrap();
        let Err(CommitError::Unknown { error, .. }) = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(error.kind(), ErrorKind::Fenced);
    });
}

#[test]
fn a_higher_level_is_answered_only_while_the_gate_holds() {
    let (_fs, store, keyspace, gate) = gated();
    gate.set(|rule| rule.passes = true);
    let options = CommitOptions::at(Level::Replicated);
    let mut commit = pin!(store.commit_async(note(&keyspace, "a"), options));
    let mut context = Context::from_waker(Waker::noop());
    assert!(commit.as_mut().poll(&mut context).is_pending());
    let end = store.positions().appended;
    store.set_replica_positions(ReplicaPositions {
        received: end,
        durable: end,
        applied: Position::ZERO,
    });
    assert!(commit.as_mut().poll(&mut context).is_pending());
    gate.set(|rule| rule.holds = true);
    store.ask_gate();
    assert!(commit.as_mut().poll(&mut context).is_ready());
}

#[test]
fn many_writers_get_through_a_window_that_opens_and_closes() {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let (_fs, store, keyspace, gate) = gated();
    gate.set(|rule| rule.window = Some(300));
    let done = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, keyspace, done) = (&store, &keyspace, &done);
            scope.spawn(move || {
                for n in 0..EACH {
                    let batch = note(keyspace, &format!("{writer}/{n}"));
                    store.commit(batch, within(60_000)).unwrap();
                }
                done.fetch_add(1, std::sync::atomic::Ordering::Release);
            });
        }
        while done.load(std::sync::atomic::Ordering::Acquire) < WRITERS {
            for passes in [true, false] {
                gate.set(|rule| rule.passes = passes);
                store.ask_gate();
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(store.snapshot().iter(&keyspace).count(), WRITERS * EACH);
}
