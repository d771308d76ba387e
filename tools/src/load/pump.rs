//! The pump: one thread sends, one takes the answers.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use outlast_engine::{Level, Receipt};
use outlast_standby::Error as NodeError;
use outlast_standby::control::protocol::{Ask, Reply, WireOp};
use outlast_standby::control::{self, Answers, Client};

use super::gate::Gate;
use super::input::{InputError, LoadBatch, Operation};

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// The keyspace of all operations.
    pub keyspace: String,
    /// What each commit waits for.
    pub level: Level,
    /// Commits in flight at most; at least 1.
    pub in_flight: usize,
    /// Batches a second at most; as fast as they go without.
    pub rate_per_s: Option<f64>,
}

/// One commit that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// How many batches of the input come before it.
    pub batch: u64,
    /// How many operations it had.
    pub operations: usize,
    /// Names it.
    pub receipt: Receipt,
}

/// What came of it.
#[derive(Debug)]
pub struct Loaded {
    /// Batches that were sent.
    pub sent: u64,
    /// Batches that were acknowledged at the level asked for.
    pub acknowledged: u64,
    /// Operations in those.
    pub operations: u64,
    /// The first batch that was not acknowledged: where to resume.
    pub resume_at: u64,
    /// From the first batch to the last answer.
    pub elapsed: Duration,
    /// How it ended.
    pub end: End,
}

/// How loading ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// All of the input is loaded.
    Complete,
    /// The input is no batch there; all before it was answered.
    Input(InputError),
    /// The node did not take a batch.
    Refused {
        /// Which.
        batch: u64,
        /// Why.
        error: NodeError,
    },
    /// The node went away.
    Gone(io::Error),
    /// The acknowledgement could not be noted.
    Ledger(io::Error),
}

/// Sends `batches` to the node, the first of which is number `from`, and calls `acknowledged` for
/// each answer, on another thread.
pub fn load(
    node: Client,
    batches: impl Iterator<Item = Result<LoadBatch, InputError>>,
    from: u64,
    options: &Options,
    acknowledged: impl FnMut(&Acknowledged) -> io::Result<()> + Send,
) -> Loaded {
    let start = Instant::now();
    let gate = Gate::new(options.in_flight.max(1));
    let (sent, announced) = mpsc::channel();
    let split = node.split();
    let (sent_batches, sender_end, answered) = match split {
        Ok((node, answers)) => thread::scope(|scope| {
            let taker = Taker::new(from, &gate, acknowledged);
            let taker = scope.spawn(move || taker.take(answers, &announced));
            let (count, end) = send(node, batches, options, &gate, sent, start);
            let answered = taker
                .join()
                .expect("the thread that takes answers panicked");
            (count, end, answered)
        }),
        Err(error) => (0, End::Gone(error), Answered::new(from)),
    };
    Loaded {
        sent: sent_batches,
        acknowledged: answered.acknowledged,
        operations: answered.operations,
        resume_at: answered.resume_at,
        elapsed: start.elapsed(),
        // What the node said tells more than what became of the connection afterwards.
        end: answered.end.unwrap_or(sender_end),
    }
}

/// What was sent and has no answer yet.
struct Sent {
    id: u64,
    batch: u64,
    operations: usize,
}

fn send(
    mut node: Client,
    batches: impl Iterator<Item = Result<LoadBatch, InputError>>,
    options: &Options,
    gate: &Gate,
    announce: Sender<Sent>,
    start: Instant,
) -> (u64, End) {
    let mut count = 0_u64;
    for batch in batches {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return (count, End::Input(error)),
        };
        if let Some(rate) = options.rate_per_s {
            let due = Duration::try_from_secs_f64(count as f64 / rate).unwrap_or(Duration::MAX);
            if start.checked_add(due).is_some_and(|due| !gate.until(due)) {
                break;
            }
        }
        let operations = batch.operations.len();
        if !gate.enter() {
            break;
        }
        let ask = Ask::Commit {
            keyspace: options.keyspace.clone(),
            ops: batch.operations.into_iter().map(wire).collect(),
            level: options.level,
            trace: false,
            // What is loaded is a prefix of the input, whatever is refused and why.
            pipelined: true,
        };
        let id = match node.send(ask) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let error = InputError::Line {
                    line: batch.number + 1,
                    what: error.to_string(),
                };
                return (count, End::Input(error));
            }
            Err(error) => return (count, End::Gone(error)),
        };
        count += 1;
        let batch = batch.number;
        let announced = announce.send(Sent {
            id,
            batch,
            operations,
        });
        if announced.is_err() {
            break;
        }
    }
    (count, End::Complete)
}

fn wire(operation: Operation) -> WireOp {
    match operation {
        Operation::Put(key, value) => WireOp::Put(key.into(), value.into()),
        Operation::Delete(key) => WireOp::Delete(key.into()),
    }
}

/// What the answers came to.
struct Answered {
    acknowledged: u64,
    operations: u64,
    resume_at: u64,
    /// Acknowledged beyond `resume_at`: answers may overtake each other.
    beyond: BTreeSet<u64>,
    end: Option<End>,
}

impl Answered {
    fn new(from: u64) -> Self {
        Self {
            acknowledged: 0,
            operations: 0,
            resume_at: from,
            beyond: BTreeSet::new(),
            end: None,
        }
    }

    fn count(&mut self, sent: &Sent) {
        self.acknowledged += 1;
        self.operations += sent.operations as u64;
        self.beyond.insert(sent.batch);
        while self.beyond.remove(&self.resume_at) {
            self.resume_at += 1;
        }
    }
}

struct Taker<'a, F> {
    gate: &'a Gate,
    acknowledged: F,
    waiting: HashMap<u64, Sent>,
    answered: Answered,
}

impl<'a, F: FnMut(&Acknowledged) -> io::Result<()>> Taker<'a, F> {
    fn new(from: u64, gate: &'a Gate, acknowledged: F) -> Self {
        Self {
            gate,
            acknowledged,
            waiting: HashMap::new(),
            answered: Answered::new(from),
        }
    }

    /// Takes answers until everything that was sent has its own, or the node is gone.
    fn take(mut self, mut answers: Answers, announced: &Receiver<Sent>) -> Answered {
        loop {
            if self.waiting.is_empty() {
                // The sender is at its end when it has dropped its half.
                let Ok(sent) = announced.recv() else { break };
                self.waiting.insert(sent.id, sent);
            }
            let answer = match control::next(&mut answers) {
                Ok(answer) => answer,
                Err(error) => {
                    self.answered.end.get_or_insert(End::Gone(error));
                    break;
                }
            };
            while !self.waiting.contains_key(&answer.id) {
                let Ok(sent) = announced.recv() else { break };
                self.waiting.insert(sent.id, sent);
            }
            if let Some(sent) = self.waiting.remove(&answer.id) {
                self.answer(&sent, answer.reply);
                self.gate.leave();
            }
        }
        self.gate.close();
        self.answered
    }

    fn answer(&mut self, sent: &Sent, reply: Reply) {
        let end = match reply {
            Reply::Reached { receipt, .. } => {
                let acknowledged = Acknowledged {
                    batch: sent.batch,
                    operations: sent.operations,
                    receipt,
                };
                match (self.acknowledged)(&acknowledged) {
                    Ok(()) => return self.answered.count(sent),
                    Err(error) => End::Ledger(error),
                }
            }
            Reply::Failed(failure) => End::Refused {
                batch: sent.batch,
                error: failure.into(),
            },
            other => {
                let message = format!("the node answered something else: {other:?}");
                End::Gone(io::Error::other(message))
            }
        };
        self.gate.close();
        self.answered.end.get_or_insert(end);
    }
}
