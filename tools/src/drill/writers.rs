//! The clients of the old primary, and the ledger of what they were told.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use outlast_engine::Level;
use outlast_standby::control::Client;
use outlast_standby::control::protocol::{Ask, Reply, WireOp};

use super::judge::Answered;
use super::workload::batch;
use crate::load::Operation;

/// All clients of one round. Each writes as fast as it is answered, some batches ahead, until it is
/// refused or its node is gone.
pub(super) struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<u64>>>,
}

struct Shared {
    seed: u64,
    in_flight: usize,
    start: Instant,
    answers: AtomicU64,
    ledger: Mutex<Vec<Answered>>,
}

/// What the clients saw.
pub(super) struct Ledger {
    /// All that was answered OK.
    pub(super) answered: Vec<Answered>,
    /// How many batches each of them sent.
    pub(super) sent: Vec<u64>,
}

impl Writers {
    /// None yet; each will have so many batches in flight. Times count from `start`.
    pub(super) fn new(seed: u64, in_flight: usize, start: Instant) -> Self {
        let shared = Shared {
            seed,
            in_flight,
            start,
            answers: AtomicU64::new(0),
            ledger: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
        }
    }

    /// One more begins to write.
    pub(super) fn begin(&mut self, client: Client) {
        let number = self.threads.len();
        let shared = self.shared.clone();
        let write = move || Writer::new(number, client, &shared).write();
        self.threads.push(thread::spawn(write));
    }

    /// How many answers came so far.
    pub(super) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Acquire)
    }

    /// Whether the newest has ended.
    pub(super) fn newest_has_ended(&self) -> bool {
        self.threads.last().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until all have ended, which they do when their node is gone.
    pub(super) fn end(self) -> Result<Ledger> {
        let mut sent = Vec::new();
        for thread in self.threads {
            let count = thread.join().map_err(|_| anyhow!("a writer panicked"))?;
            sent.push(count?);
        }
        let mut ledger = self.shared.ledger.lock();
        let answered = ledger.as_mut().unwrap_or_else(|error| error.get_mut());
        let answered = std::mem::take(&mut **answered);
        Ok(Ledger { answered, sent })
    }
}

struct Writer<'a> {
    number: usize,
    client: Client,
    shared: &'a Shared,
    sent: u64,
    waiting: HashMap<u64, (u64, Duration)>,
}

impl<'a> Writer<'a> {
    fn new(number: usize, client: Client, shared: &'a Shared) -> Self {
        Self {
            number,
            client,
            shared,
            sent: 0,
            waiting: HashMap::new(),
        }
    }

    /// Answers with how many batches were sent.
    fn write(mut self) -> io::Result<u64> {
        loop {
            while self.waiting.len() < self.shared.in_flight {
                if !self.send()? {
                    // What was answered before it went away can still be read.
                    while self.take()? {}
                    return Ok(self.sent);
                }
            }
            if !self.take()? {
                return Ok(self.sent);
            }
        }
    }

    /// Sends the next batch; `false` when the node is gone.
    fn send(&mut self) -> io::Result<bool> {
        let batch = batch(self.shared.seed, self.number, self.sent);
        let ask = Ask::Commit {
            keyspace: "default".to_owned(),
            ops: batch.operations.into_iter().map(wire).collect(),
            level: Level::Local,
            trace: false,
            // So that what is there of this client is a beginning of it, whatever is refused.
            pipelined: true,
        };
        let now = self.shared.start.elapsed();
        // One that went away in the middle may have been read by the node all the same.
        self.sent += 1;
        match self.client.send(ask) {
            Ok(id) => {
                self.waiting.insert(id, (batch.number, now));
                Ok(true)
            }
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes one answer; `false` when there will be no further one.
    fn take(&mut self) -> io::Result<bool> {
        let answer = match self.client.answer() {
            Ok(answer) => answer,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some((batch, sent)) = self.waiting.remove(&answer.id) else {
            return Err(io::Error::other("an answer to what was not asked"));
        };
        match answer.reply {
            Reply::Reached { receipt, .. } => {
                let answered = Answered {
                    writer: self.number,
                    batch,
                    commit: receipt.commit,
                    lsn: receipt.lsn.0,
                    sent,
                    answered: self.shared.start.elapsed(),
                };
                let ledger = self.shared.ledger.lock();
                ledger
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(answered);
                self.shared.answers.fetch_add(1, Ordering::Release);
                Ok(true)
            }
            // It is refused from here on; what was answered before is in the ledger.
            Reply::Failed(_) => Ok(false),
            other => Err(io::Error::other(format!("the node answered {other:?}"))),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn wire(operation: Operation) -> WireOp {
    match operation {
        Operation::Put(key, value) => WireOp::Put(key.into(), value.into()),
        Operation::Delete(key) => WireOp::Delete(key.into()),
    }
}
