//! Sender and receiver without sockets, files or clocks: what the protocol itself costs. Messages
//! are encoded and decoded, frames are checked on both sides, and the disks take no time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outlast_benches::{begun, fields};
use outlast_engine::format::{Chain, ClusterId, EpochRecord, FrameKind, History, Lsn, NodeId};
use outlast_proto::{
    Config, Identity, LogView, Message, Mode, MonoTime, Nonce, Position, PrimaryFacts,
    PrimaryState, Receiver, ReceiverInput, ReceiverOutput, Sender, SenderInput, SenderOutput,
    StandbyFacts, Term, decode, encode,
};

const SEGMENT_SIZE: u64 = 64 << 20;
const PRIMARY: NodeId = NodeId([1; 16]);
const STANDBY: NodeId = NodeId([2; 16]);
const LISTENER_NONCE: Nonce = Nonce([2; 8]);
/// What one piece of data brings over a link, about.
const PIECE_BYTES: usize = 90_000;
const CATCH_UP_BYTES: u64 = 32 << 20;

/// A log in memory, and where each of its frames ends.
struct Log {
    bytes: Bytes,
    ends: Vec<Chain>,
    epoch: EpochRecord,
}

impl Log {
    fn of(payload_len: usize, enough: impl Fn(Lsn, usize) -> bool) -> Self {
        let (mut chain, frame, epoch) = begun();
        let mut bytes = frame.to_vec();
        let mut ends = vec![chain];
        let payload = vec![0xab; payload_len];
        while !enough(chain.lsn, ends.len()) {
            let fields = fields(&chain, FrameKind::Batches, 1);
            bytes.extend_from_slice(&chain.form(fields, [payload.as_slice()]));
            ends.push(chain);
        }
        Self {
            bytes: bytes.into(),
            ends,
            epoch,
        }
    }

    /// The end of the last frame that ends at or below `lsn`.
    fn below(&self, lsn: Lsn) -> Chain {
        let after = self.ends.partition_point(|end| end.lsn <= lsn);
        let last = after.checked_sub(1).and_then(|index| self.ends.get(index));
        *last.expect("a frame before")
    }

    fn read(&self, from: Lsn, max_bytes: usize) -> Bytes {
        let end = self.below(from.advance(max_bytes as u64)).lsn;
        self.bytes.slice(at(from)..at(end))
    }
}

fn at(lsn: Lsn) -> usize {
    usize::try_from(lsn.0).expect("a log in memory")
}

/// Both sides of one session, and what their shells would do for them.
struct Pair<'a> {
    log: &'a Log,
    sender: Sender,
    receiver: Receiver,
    to_sender: VecDeque<SenderInput>,
    to_receiver: VecDeque<ReceiverInput>,
    run_begun: bool,
    applied: Position,
}

impl<'a> Pair<'a> {
    /// A standby that has nothing, and a primary that has `log` up to `end`, attached.
    fn attached(log: &'a Log, end: &Chain) -> Self {
        let end_position = Position::from(end);
        let now = MonoTime::new(Duration::ZERO);
        let cluster = ClusterId([7; 16]);
        let identity = |node| Identity {
            cluster,
            node,
            name: "bench".to_owned(),
            segment_size: SEGMENT_SIZE,
        };
        let mut history = History::new();
        history.push(log.epoch.clone()).expect("a first epoch");
        let view = LogView {
            end: *end,
            history: history.clone(),
            durable: end_position,
            applied: end_position,
        };
        let primary = PrimaryFacts {
            identity: identity(PRIMARY),
            peer: STANDBY,
            heard: Term::of(&history),
            log: view,
            protection: None,
            state: PrimaryState::Serving,
            remembered: None,
        };
        let standby = StandbyFacts {
            identity: identity(STANDBY),
            heard: Term::NONE,
            protection: None,
            log: LogView {
                end: Chain::origin(cluster),
                history: History::new(),
                durable: Position::default(),
                applied: Position::default(),
            },
            visible_told: Lsn::ZERO,
            acked: None,
        };
        let config = Config::default();
        let dialler = Nonce([1; 8]);
        let mut pair = Self {
            log,
            sender: Sender::new(now, config.clone(), primary, Mode::Ship, dialler),
            receiver: Receiver::new(now, config, standby),
            to_sender: VecDeque::new(),
            to_receiver: VecDeque::new(),
            run_begun: false,
            applied: Position::default(),
        };
        pair.run();
        assert_eq!(pair.applied, end_position, "the standby has all");
        pair
    }

    /// The primary has one more frame, up to `end`, which its readers see.
    fn commit(&mut self, end: Position) {
        let view = outlast_proto::PrimaryView {
            appended: end,
            durable: end,
            visible: end,
            protection: None,
            state: PrimaryState::Serving,
        };
        self.to_sender.push_back(SenderInput::View(view));
        self.run();
        assert_eq!(self.applied, end, "the commit is applied");
    }

    /// Until nothing is under way.
    fn run(&mut self) {
        let now = MonoTime::new(Duration::ZERO);
        loop {
            while let Some(output) = self.sender.poll_output() {
                self.obey_sender(output);
            }
            while let Some(output) = self.receiver.poll_output() {
                self.obey_receiver(output);
            }
            if let Some(input) = self.to_receiver.pop_front() {
                self.receiver.handle(now, input);
            } else if let Some(input) = self.to_sender.pop_front() {
                self.sender.handle(now, input);
            } else {
                return;
            }
        }
    }

    fn obey_sender(&mut self, output: SenderOutput) {
        match output {
            SenderOutput::Send(message) => {
                self.to_receiver.push_back(match over_the_line(&message) {
                    Message::Hello(hello) => ReceiverInput::Hello {
                        nonce: LISTENER_NONCE,
                        peer: PRIMARY,
                        hello,
                    },
                    message => ReceiverInput::Message(message),
                });
                self.to_sender.push_back(SenderInput::ControlFlushed);
            }
            SenderOutput::Data(header, mut bytes) => {
                if !std::mem::replace(&mut self.run_begun, true) {
                    self.to_receiver.push_back(ReceiverInput::RunStart(header));
                }
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
                    self.to_receiver.push_back(ReceiverInput::RunBytes(piece));
                }
            }
            SenderOutput::Read { from, max_bytes } => {
                let bytes = self.log.read(from, max_bytes);
                self.to_sender
                    .push_back(SenderInput::LogBytes { from, bytes });
            }
            SenderOutput::NoteAttached { .. } => {
                self.to_sender.push_back(SenderInput::AttachmentNoted);
            }
            SenderOutput::Event(_) => {}
            other => panic!("not in this benchmark: {other:?}"),
        }
    }

    fn obey_receiver(&mut self, output: ReceiverOutput) {
        match output {
            ReceiverOutput::Send(message) => {
                let message = over_the_line(&message);
                self.to_sender.push_back(SenderInput::Message(message));
                self.to_receiver.push_back(ReceiverInput::ControlFlushed);
            }
            ReceiverOutput::Append(run) => {
                let end = Position::from(run.after());
                self.to_receiver.push_back(ReceiverInput::Appended(end));
                self.to_receiver.push_back(ReceiverInput::Durable(end));
            }
            ReceiverOutput::Sync | ReceiverOutput::Event(_) => {}
            ReceiverOutput::ApplyTo(lsn) => {
                self.applied = Position::from(&self.log.below(lsn));
                self.to_receiver
                    .push_back(ReceiverInput::Applied(self.applied));
            }
            ReceiverOutput::Note { .. } => self.to_receiver.push_back(ReceiverInput::Noted),
            other => panic!("not in this benchmark: {other:?}"),
        }
    }
}

fn over_the_line(message: &Message) -> Message {
    let bytes = encode(message).expect("a message within its limit");
    decode(&bytes).expect("what was encoded")
}

/// A session from its first message until a standby without anything has 32 MiB.
fn catch_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol/catch up with 32 MiB");
    for payload_len in [128, 4096, 256 << 10] {
        let log = Log::of(payload_len, |lsn, _| lsn.0 >= CATCH_UP_BYTES);
        let end = log.below(Lsn(u64::MAX));
        group.throughput(Throughput::Bytes(end.lsn.0));
        group.bench_function(BenchmarkId::from_parameter(payload_len), |bencher| {
            bencher.iter(|| Pair::attached(&log, &end));
        });
    }
    group.finish();
}

/// One frame in an idle session, until the sender knows it applied.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol/commit");
    for payload_len in [128, 4096] {
        group.bench_function(BenchmarkId::from_parameter(payload_len), |bencher| {
            bencher.iter_custom(|commits| {
                let frames = usize::try_from(commits).expect("a count") + 1;
                let log = Log::of(payload_len, |_, count| count >= frames);
                let (first, rest) = log.ends.split_first().expect("an epoch");
                let mut pair = Pair::attached(&log, first);
                let began = Instant::now();
                for end in rest {
                    pair.commit(Position::from(end));
                }
                began.elapsed()
            });
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = short(); targets = catch_up, commit }
criterion_main!(benches);
