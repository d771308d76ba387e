use std::time::Duration;

use bytes::Bytes;
use outlast_engine::clock::SystemClock;
use outlast_engine::format::{Chain, ClusterId, EpochReason, Lsn, LsnRange, NodeId};
use outlast_engine::fs::MemFs;
use outlast_engine::{Batch, CommitOptions, InitOptions, Store};

use super::*;
use crate::config::Config;
use crate::message::Versions;
use crate::points::LogEnd;
use crate::session::{Nonce, SessionId};
use crate::time::MonoTime;
use crate::{decode_repair, encode_repair};

const SMALL: u64 = 64 << 10;
const PEER: NodeId = NodeId([9; 16]);
const ASKER: Nonce = Nonce([1; 8]);
const GIVER: Nonce = Nonce([2; 8]);
const SESSION: SessionId = SessionId {
    dialler: ASKER,
    listener: GIVER,
};

fn at(ms: u64) -> MonoTime {
    MonoTime::new(Duration::from_millis(ms))
}

/// A log of a few segments.
fn store() -> Store {
    let fs = std::sync::Arc::new(MemFs::new());
    let options = InitOptions {
        segment_size: SMALL,
        ..InitOptions::new("giver")
    };
    Store::init_on(&*fs, &options).unwrap();
    let clock = std::sync::Arc::new(SystemClock::default());
    let store = Store::open_on(fs, clock, outlast_engine::Config::default()).unwrap();
    store.begin_epoch(EpochReason::Init, "").unwrap();
    let keyspace = store.keyspace("k").unwrap();
    for n in 0..40u8 {
        let mut batch = Batch::new();
        batch.put(&keyspace, [n], vec![n; 4000]).unwrap();
        store.commit(batch, CommitOptions::default()).unwrap();
    }
    store
}

fn config() -> Config {
    Config::default()
}

fn giver(store: &Store) -> Giver {
    let durable = store.positions().durable.lsn;
    Giver::new(
        at(0),
        config(),
        (store.cluster(), PEER),
        durable,
        false,
        GIVER,
    )
}

fn asker(store: &Store) -> Asker {
    Asker::new(at(0), config(), store.cluster(), PEER, ASKER)
}

fn outputs(giver: &mut Giver) -> Vec<GiverOutput> {
    std::iter::from_fn(|| giver.poll_output()).collect()
}

fn told(asker: &mut Asker) -> Vec<AskerOutput> {
    std::iter::from_fn(|| asker.poll_output()).collect()
}

fn read(store: &Store, at: &Chain, len_max: u64) -> Result<Bytes, NotGiven> {
    let durable = store.positions().durable.lsn;
    store
        .frames_behind(at, len_max)
        .map_err(|error| match error.kind() {
            outlast_engine::ErrorKind::NotHeld => NotGiven::NotHeld { durable },
            outlast_engine::ErrorKind::Conflict => NotGiven::OtherHistory,
            _ => NotGiven::Damaged,
        })
}

/// Carries everything between the two until both are quiet; every message as its bytes, data in
/// pieces and before its message where `overtake` says so.
fn carry(store: &Store, asker: &mut Asker, giver: &mut Giver, overtake: bool) -> Vec<AskerOutput> {
    let mut heard = Vec::new();
    loop {
        let mut quiet = true;
        for output in told(asker) {
            quiet = false;
            match output {
                AskerOutput::Send(message) => {
                    let message = decode_repair(&encode_repair(&message).unwrap()).unwrap();
                    giver.handle(at(1), GiverInput::Message(message));
                }
                other => heard.push(other),
            }
        }
        let mut inputs = Vec::new();
        while let Some(output) = giver.poll_output() {
            quiet = false;
            match output {
                GiverOutput::Send(message) => inputs.push(AskerInput::Message(message)),
                GiverOutput::Data(bytes) => {
                    inputs.extend(
                        bytes
                            .chunks(1000)
                            .map(|piece| AskerInput::Data(Bytes::copy_from_slice(piece))),
                    );
                }
                GiverOutput::Read { at: chain, len_max } => {
                    giver.handle(at(1), GiverInput::Read(read(store, &chain, len_max)));
                }
                GiverOutput::Close(_) => {}
            }
        }
        if overtake {
            inputs.reverse();
            inputs.sort_by_key(|input| !matches!(input, AskerInput::Data(_)));
            let data = inputs.partition_point(|input| matches!(input, AskerInput::Data(_)));
            inputs[..data].reverse();
        }
        inputs
            .into_iter()
            .for_each(|input| asker.handle(at(1), input));
        if quiet {
            return heard;
        }
    }
}

fn want(asker: &mut Asker, chain: &Chain, end: Lsn) {
    asker.handle(
        at(1),
        AskerInput::Want {
            at: *chain,
            end,
            segment_size: SMALL,
        },
    );
}

#[test]
fn a_whole_log_is_read_piece_by_piece() {
    let store = store();
    let end = store.positions().durable.lsn;
    for overtake in [false, true] {
        let (mut asker, mut giver) = (asker(&store), giver(&store));
        let heard = carry(&store, &mut asker, &mut giver, overtake);
        assert_eq!(heard, [AskerOutput::Ready(end)]);
        let mut chain = Chain::origin(store.cluster());
        let mut pieces = 0;
        while chain.lsn < end {
            want(&mut asker, &chain, chain.lsn.advance(10_000));
            let heard = carry(&store, &mut asker, &mut giver, overtake);
            let [AskerOutput::Given(frames)] = &heard[..] else {
                panic!("{heard:?}")
            };
            let run = outlast_engine::format::FrameRun::check(&chain, frames.clone()).unwrap();
            assert!(run.range().len_bytes() <= 10_000);
            chain = *run.after();
            pieces += 1;
        }
        assert!(pieces > 10, "{pieces}");
        want(&mut asker, &chain, chain.lsn.advance(1));
        let heard = carry(&store, &mut asker, &mut giver, overtake);
        let why = NotGiven::NotHeld { durable: end };
        assert_eq!(heard, [AskerOutput::Nothing(why)]);
        // One that is of another history, and one that is nowhere.
        for chain in [
            Chain {
                check: chain.check ^ 1,
                ..Chain::origin(store.cluster())
            },
            Chain {
                lsn: Lsn(96),
                ..chain
            },
        ] {
            want(&mut asker, &chain, chain.lsn.advance(5000));
            let heard = carry(&store, &mut asker, &mut giver, overtake);
            assert_eq!(heard, [AskerOutput::Nothing(NotGiven::OtherHistory)]);
        }
    }
}

#[test]
fn strangers_are_refused_and_told_nothing() {
    let store = store();
    let durable = store.positions().durable.lsn;
    let ask = RepairAsk {
        versions: config().versions,
        nonce: ASKER,
        cluster: store.cluster(),
        to: PEER,
    };
    let newer = Versions {
        oldest: 7,
        newest: 9,
    };
    for (ask, busy, reason) in [
        (
            RepairAsk {
                cluster: ClusterId([3; 16]),
                ..ask
            },
            false,
            RepairRefusal::OtherCluster,
        ),
        (
            RepairAsk {
                to: NodeId([3; 16]),
                ..ask
            },
            false,
            RepairRefusal::OtherNode,
        ),
        (
            RepairAsk {
                versions: newer,
                ..ask
            },
            false,
            RepairRefusal::Version(config().versions),
        ),
        (ask, true, RepairRefusal::Busy),
    ] {
        let ids = (store.cluster(), PEER);
        let mut giver = Giver::new(at(0), config(), ids, durable, busy, GIVER);
        giver.handle(at(0), GiverInput::Message(RepairMessage::Ask(ask)));
        let refuse = RepairMessage::Refuse {
            asker: ASKER,
            reason,
        };
        let close = GiverOutput::Close(RepairEnd::Declined(reason));
        assert_eq!(
            outputs(&mut giver),
            [GiverOutput::Send(refuse.clone()), close]
        );
        assert_eq!(giver.poll_timeout(), None);
        let mut asker = asker(&store);
        told(&mut asker);
        asker.handle(at(0), AskerInput::Message(refuse));
        assert_eq!(
            told(&mut asker),
            [AskerOutput::Close(RepairEnd::Refused(reason))]
        );
    }
}

#[test]
fn a_giver_closes_on_what_no_honest_asker_sends() {
    let store = store();
    let chain = LogEnd::from(&Chain::origin(store.cluster()));
    let want = |session, end| RepairMessage::Want {
        session,
        at: chain,
        end,
    };
    let window = config().window_bytes;
    let other = SessionId {
        listener: Nonce([8; 8]),
        ..SESSION
    };
    let impossible = RepairEnd::Impossible;
    let cases = [
        (
            want(other, Lsn(100)),
            impossible("the name of another conversation"),
        ),
        (want(SESSION, Lsn(0)), impossible("a request for nothing")),
        (
            want(SESSION, Lsn(window + 1)),
            impossible("a request over the window"),
        ),
        (
            want(SESSION, Lsn(u64::MAX)),
            impossible("a request over the window"),
        ),
        (
            RepairMessage::Piece {
                session: SESSION,
                range: LsnRange::new(Lsn(0), Lsn(8)),
            },
            RepairEnd::Unexpected("Piece"),
        ),
    ];
    for (message, end) in cases {
        let (mut asker, mut giver) = (asker(&store), giver(&store));
        // Before it was opened.
        let mut early = self::giver(&store);
        early.handle(at(0), GiverInput::Message(message.clone()));
        let close = GiverOutput::Close(RepairEnd::Unexpected(message.name()));
        assert_eq!(outputs(&mut early), [close]);
        carry(&store, &mut asker, &mut giver, false);
        giver.handle(at(2), GiverInput::Message(message));
        assert_eq!(outputs(&mut giver), [GiverOutput::Close(end)]);
        // And is closed for good.
        giver.handle(at(2), GiverInput::Message(want(SESSION, Lsn(100))));
        assert_eq!(outputs(&mut giver), []);
    }
    let (mut asker, mut giver) = (asker(&store), giver(&store));
    carry(&store, &mut asker, &mut giver, false);
    giver.handle(at(2), GiverInput::Message(want(SESSION, Lsn(100))));
    assert!(matches!(
        outputs(&mut giver)[..],
        [GiverOutput::Read { .. }]
    ));
    assert_eq!(giver.poll_timeout(), None, "a disk may be slow");
    giver.handle(at(2), GiverInput::Message(want(SESSION, Lsn(100))));
    let close = GiverOutput::Close(RepairEnd::Unexpected("Want"));
    assert_eq!(outputs(&mut giver), [close]);
    let mut giver = self::giver(&store);
    giver.handle(at(0), GiverInput::Data);
    let close = GiverOutput::Close(RepairEnd::Unexpected("data"));
    assert_eq!(outputs(&mut giver), [close]);
}

#[test]
fn an_asker_closes_on_what_no_honest_giver_sends() {
    let store = store();
    let origin = Chain::origin(store.cluster());
    let range = |start, end| LsnRange::new(Lsn(start), Lsn(end));
    let piece = |session, range| AskerInput::Message(RepairMessage::Piece { session, range });
    let data = |len| AskerInput::Data(Bytes::from(vec![0xab; len]));
    let other = SessionId {
        dialler: Nonce([8; 8]),
        ..SESSION
    };
    let longest = usize::try_from(config().window_bytes).unwrap();
    let nothing = RepairMessage::Nothing {
        session: SESSION,
        at: Lsn(8),
        why: NotGiven::Damaged,
    };
    let cases: Vec<Vec<AskerInput>> = vec![
        vec![piece(other, range(0, 800))],
        vec![piece(SESSION, range(8, 800))],
        vec![piece(SESSION, range(0, 0))],
        vec![piece(SESSION, range(800, 0))],
        vec![piece(SESSION, range(0, 1 << 40))],
        vec![piece(SESSION, range(0, 800)), piece(SESSION, range(0, 800))],
        vec![piece(SESSION, range(0, 800)), data(801)],
        vec![data(801), piece(SESSION, range(0, 800))],
        vec![data(longest + 1)],
        vec![piece(SESSION, range(0, 800)), data(800)],
        vec![AskerInput::Message(nothing)],
    ];
    for inputs in cases {
        let (mut asker, mut giver) = (asker(&store), giver(&store));
        carry(&store, &mut asker, &mut giver, false);
        want(&mut asker, &origin, Lsn(u64::MAX));
        told(&mut asker);
        let what = format!("{:.200}", format!("{inputs:?}"));
        inputs
            .into_iter()
            .for_each(|input| asker.handle(at(2), input));
        let told = told(&mut asker);
        let closed = matches!(
            told[..],
            [AskerOutput::Close(
                RepairEnd::Impossible(_) | RepairEnd::BadData { .. }
            )]
        );
        assert!(closed, "{what}: {told:?}");
        assert_eq!(asker.poll_timeout(), None);
    }
    // Data and answers that nobody asked for.
    for input in [data(1), piece(SESSION, range(0, 800))] {
        let (mut asker, mut giver) = (asker(&store), giver(&store));
        carry(&store, &mut asker, &mut giver, false);
        asker.handle(at(2), input);
        let told = told(&mut asker);
        assert!(
            matches!(told[..], [AskerOutput::Close(RepairEnd::Unexpected(_))]),
            "{told:?}"
        );
    }
}

#[test]
fn silence_ends_it_on_either_side() {
    let store = store();
    let limit = u64::try_from(config().handshake_timeout.as_millis()).unwrap();
    let (mut asker, mut giver) = (asker(&store), giver(&store));
    assert_eq!(giver.poll_timeout(), Some(at(limit)));
    assert_eq!(asker.poll_timeout(), Some(at(limit)));
    carry(&store, &mut asker, &mut giver, false);
    assert_eq!(asker.poll_timeout(), None, "it may take its time");
    assert_eq!(giver.poll_timeout(), Some(at(limit + 1)));
    giver.handle(at(limit), GiverInput::Timeout);
    assert_eq!(outputs(&mut giver), []);
    giver.handle(at(limit + 1), GiverInput::Timeout);
    assert_eq!(outputs(&mut giver), [GiverOutput::Close(RepairEnd::Silent)]);
    asker.handle(at(50_000), AskerInput::Timeout);
    want(&mut asker, &Chain::origin(store.cluster()), Lsn(100));
    told(&mut asker);
    let due = asker.poll_timeout().unwrap();
    asker.handle(due, AskerInput::Timeout);
    assert_eq!(told(&mut asker), [AskerOutput::Close(RepairEnd::Silent)]);
}

#[test]
fn no_flipped_bit_of_a_message_is_taken_for_another() {
    let message = RepairMessage::Want {
        session: SESSION,
        at: LogEnd::from(&Chain::origin(ClusterId([7; 16]))),
        end: Lsn(4096),
    };
    let bytes = encode_repair(&message).unwrap();
    assert_eq!(decode_repair(&bytes).unwrap(), message);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_repair(&bad).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(decode_repair(&bytes[..len]).is_err(), "{len} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(decode_repair(&longer).is_err());
    assert!(
        crate::decode(&bytes).is_err(),
        "it is no message of a session"
    );
}
