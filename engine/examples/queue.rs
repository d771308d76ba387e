//! A queue with several consumers: each job is done exactly once by one of them, whatever stops
//! when.
//!
//! ```text
//! cargo run -p outlast-engine --example queue            # in memory
//! cargo run -p outlast-engine --example queue -- DIR     # in a directory, again and again
//! ```
//!
//! A consumer reads the change feed of the jobs. What it makes of a job and how far it has come are
//! one batch, so both are there after a crash, or neither is: it goes on where it was.

use std::path::Path;
use std::time::Duration;

use outlast_engine::{
    Batch, CommitOptions, Config, EpochReason, ErrorKind, InitOptions, Keyspace, Lsn, Op, Store,
    Tail,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Consumers that share the jobs.
const CONSUMERS: u64 = 3;

fn main() -> Outcome<()> {
    let store = match std::env::args().nth(1) {
        Some(dir) => open_or_make(Path::new(&dir))?,
        None => Store::open_in_memory()?,
    };
    run(&store)?;
    store.close()?;
    Ok(())
}

fn run(store: &Store) -> Outcome<()> {
    let queue = Queue::new(store)?;
    for number in 0..30 {
        queue.add(&format!("mail {number}"))?;
    }
    // One consumer stops in the middle of its work, and another one goes on for it.
    let stopped = queue.consume(0, Some(4))?;
    println!("a consumer stopped after {stopped} jobs");
    let done = std::thread::scope(|scope| {
        let queue = &queue;
        let consumers: Vec<_> = (0..CONSUMERS)
            .map(|number| scope.spawn(move || queue.consume(number, None)))
            .collect();
        consumers.into_iter().try_fold(0, |done, consumer| {
            let by_one = consumer.join().map_err(|_| "a consumer panicked")??;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(done + by_one)
        })
    })?;
    let (jobs, results) = queue.counts();
    println!("{done} more jobs were done: {results} results of {jobs} jobs");
    Ok(())
}

/// Opens the store in `dir` and makes it first if there is none: only this call ever does.
fn open_or_make(dir: &Path) -> Outcome<Store> {
    let (store, reason) = match Store::open(dir, Config::default()) {
        Err(error) if error.kind() == ErrorKind::NotInitialised => {
            Store::init(dir, &InitOptions::new("queue"))?;
            (Store::open(dir, Config::default())?, EpochReason::Init)
        }
        opened => (opened?, EpochReason::Restart),
    };
    store.begin_epoch(reason, "")?;
    Ok(store)
}

struct Queue {
    store: Store,
    /// By number: what is to be done.
    jobs: Keyspace,
    /// By job: what came of it.
    results: Keyspace,
    /// By consumer: the position behind the last job that it has done.
    positions: Keyspace,
}

impl Queue {
    fn new(store: &Store) -> Outcome<Self> {
        Ok(Self {
            store: store.clone(),
            jobs: store.keyspace("jobs")?,
            results: store.keyspace("results")?,
            positions: store.keyspace("positions")?,
        })
    }

    /// Adds a job behind all others. Two that add at once get different numbers.
    fn add(&self, job: &str) -> Outcome<()> {
        self.store.transact(Default::default(), |tx| {
            let last = tx.iter(&self.jobs).keys().next_back().transpose()?;
            let last = last.and_then(|key| std::str::from_utf8(&key).ok()?.parse::<u64>().ok());
            let number = last.map_or(0, |last| last + 1);
            tx.put(&self.jobs, format!("{number:012}"), job)?;
            Ok::<_, outlast_engine::CommitError>(())
        })?;
        Ok(())
    }

    /// Does the jobs of one consumer until none is left, or as many as it is told. Answers how
    /// many.
    fn consume(&self, consumer: u64, limit: Option<usize>) -> Outcome<usize> {
        let mut tail = self.resume(consumer)?;
        let mut done = 0;
        while limit.is_none_or(|limit| done < limit) {
            // A service would wait for as long as it takes: `tail.next().await`.
            let Some(commit) = tail.next_timeout(Duration::from_millis(50))? else {
                break;
            };
            let mut batch = Batch::new();
            for change in &commit.changes {
                if change.op == Op::Put && share_of(&change.key) == consumer {
                    let result = format!("{}: sent by consumer {consumer}", utf8(&change.value)?);
                    batch.put(&self.results, &change.key, result)?;
                    done += 1;
                }
            }
            if !batch.is_empty() {
                let position = tail.position().0.to_le_bytes();
                batch.put(&self.positions, consumer.to_le_bytes(), position)?;
                self.store.commit(batch, CommitOptions::default())?;
            }
        }
        Ok(done)
    }

    /// The feed of the jobs, from where the consumer has come to.
    fn resume(&self, consumer: u64) -> Outcome<Tail> {
        let noted = self.store.get(&self.positions, consumer.to_le_bytes())?;
        let from = match noted {
            Some(position) => Lsn(u64::from_le_bytes(position.as_ref().try_into()?)),
            None => Lsn::ZERO,
        };
        Ok(self.store.tail_of([&self.jobs], from)?)
    }

    /// How many jobs and how many results there are.
    fn counts(&self) -> (usize, usize) {
        let snapshot = self.store.snapshot();
        let count = |keyspace| snapshot.iter(keyspace).keys().count();
        (count(&self.jobs), count(&self.results))
    }
}

/// Which consumer does a job.
fn share_of(key: &[u8]) -> u64 {
    key.iter().map(|byte| u64::from(*byte)).sum::<u64>() % CONSUMERS
}

fn utf8(bytes: &[u8]) -> Outcome<&str> {
    Ok(std::str::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs() {
        run(&Store::open_in_memory().unwrap()).unwrap();
    }

    #[test]
    fn every_job_is_done_exactly_once_whoever_stops() {
        let store = Store::open_in_memory().unwrap();
        let queue = Queue::new(&store).unwrap();
        for round in 0..5 {
            for number in 0..12 {
                queue.add(&format!("job {round}.{number}")).unwrap();
            }
            let mut done = 0;
            for limit in [Some(1), Some(2), None] {
                for consumer in 0..CONSUMERS {
                    done += queue.consume(consumer, limit).unwrap();
                }
            }
            assert_eq!(done, 12);
            assert_eq!(queue.counts(), (12 * (round + 1), 12 * (round + 1)));
        }
    }
}
