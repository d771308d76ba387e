//! Messages as bytes: they come back, damage is seen, and nothing is allocated for a lie.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use outlast_engine::format::{
    ClusterId, CommonPoint, Envelope, EnvelopeFault, EpochId, EpochReason, EpochRecord, History,
    Lsn, LsnRange, NodeId,
};
use outlast_proto::{
    Ack, AckMark, Binding, ByeReason, CodecFault, Features, HANDSHAKE_LEN_MAX, HEADER_LEN,
    Heartbeat, Hello, LogEnd, MESSAGE_LEN_MAX, Message, Mode, Nonce, Position, PrimaryState,
    PrimaryView, ProtectionPoint, Refuse, RefuseReason, RunHeader, SessionId, Stamp, Term,
    Versions, Welcome, announced_len, decode, decode_run, encode, encode_run,
};
use proptest::prelude::*;

const BINDING: Binding = Binding {
    session: SessionId {
        dialler: Nonce([1; 8]),
        listener: Nonce([2; 8]),
    },
    epoch: EpochId([3; 16]),
};

fn history(epochs: u32) -> History {
    let mut history = History::new();
    for start in 1..=epochs {
        let id = |n: u32| {
            let mut bytes = [0xee; 16];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            EpochId(bytes)
        };
        let parent = history.last().map_or(EpochId::NONE, |last| last.id);
        // Every third one raises the term.
        let term = start.div_ceil(3);
        let opener = id((term - 1) * 3 + 1);
        let record = EpochRecord {
            term,
            start,
            id: id(start),
            parent,
            opened_by: opener,
            fork: Lsn(u64::from(start - 1) << 44),
            node: NodeId([9; 16]),
            node_name: String::new(),
            reason: EpochReason::Restart,
            note: String::new(),
            wall_ms: 0,
        };
        history.push(record).unwrap();
    }
    history
}

fn log_end() -> LogEnd {
    LogEnd {
        lsn: Lsn(1 << 50),
        check: 7,
        epoch: Some((2, 5, EpochId([4; 16]))),
        next_commit: 1000,
        log_ms: 1,
        visible: Lsn(8),
        watermark: Lsn(16),
    }
}

fn view() -> PrimaryView {
    PrimaryView {
        appended: Position::new(Lsn(300), 3),
        durable: Position::new(Lsn(200), 2),
        visible: Position::new(Lsn(100), 1),
        protection: Some(ProtectionPoint {
            term: 1,
            start: 2,
            lsn: Lsn(80),
            epoch: EpochId([5; 16]),
        }),
        state: PrimaryState::DiskFull,
    }
}

fn hello(epochs: u32) -> Hello {
    Hello {
        versions: Versions {
            oldest: 1,
            newest: 2,
        },
        features: Features {
            known: u64::MAX,
            required: 1,
        },
        nonce: Nonce([7; 8]),
        mode: Mode::Ship,
        cluster: ClusterId([8; 16]),
        node: NodeId([9; 16]),
        name: "paul".into(),
        to: NodeId([10; 16]),
        segment_size: 64 << 20,
        heard: Term {
            number: 3,
            opened_by: EpochId([6; 16]),
        },
        history: history(epochs),
        end: log_end(),
        view: view(),
        remembered: Some(AckMark {
            epoch: EpochId([4; 16]),
            durable: Lsn(99),
        }),
    }
}

/// One of each kind.
fn messages() -> Vec<Message> {
    let position = Position::new(Lsn(12_345), 67);
    let binding = BINDING;
    vec![
        Message::Hello(Box::new(hello(7))),
        Message::Welcome(Box::new(Welcome {
            session: BINDING.session,
            version: 1,
            features: 5,
            node: NodeId([10; 16]),
            name: "susan".into(),
            heard: Term::NONE,
            history: history(2),
            end: log_end(),
            applied: position,
            visible_told: Lsn(3),
            protection: None,
            window_bytes: 8 << 20,
            acked_tail_lost: Some(LsnRange::new(Lsn(1), Lsn(2))),
        })),
        Message::Refuse(Refuse {
            dialler: Nonce([1; 8]),
            heard: Term::NONE,
            node: NodeId([10; 16]),
            reason: RefuseReason::Features { missing: 12 },
        }),
        Message::Diverged {
            binding,
            fork: CommonPoint {
                lsn: Lsn(8),
                epoch: EpochId([4; 16]),
            },
        },
        Message::CutDone {
            binding,
            end: log_end(),
        },
        Message::Attach {
            binding,
            resume: position,
        },
        Message::Heartbeat(Heartbeat {
            binding,
            stamp: Stamp(u64::MAX),
            term: Term::NONE,
            view: view(),
        }),
        Message::Positions {
            binding,
            view: view(),
        },
        Message::Echo {
            binding,
            stamp: Stamp(17),
        },
        Message::Ack(Ack {
            binding,
            received: position,
            durable: position,
            applied: position,
        }),
        Message::Fetch {
            binding,
            range: LsnRange::new(Lsn(8), Lsn(u64::MAX)),
        },
        Message::Bye {
            binding,
            reason: ByeReason::Withdrawn,
        },
    ]
}

#[test]
fn every_message_comes_back() {
    for message in messages() {
        let bytes = encode(&message).unwrap();
        let header = bytes.first_chunk::<HEADER_LEN>().unwrap();
        assert_eq!(announced_len(header), Ok(bytes.len()), "{}", message.name());
        assert_eq!(decode(&bytes), Ok(message));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_seen() {
    for message in messages() {
        let bytes = encode(&message).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit} of {}", message.name());
        }
        for len in 0..bytes.len() {
            assert!(
                decode(&bytes[..len]).is_err(),
                "{len} bytes of {}",
                message.name()
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(decode(&longer).is_err(), "a byte behind {}", message.name());
    }
}

#[test]
fn texts_of_epochs_are_not_sent_and_what_tells_them_apart_is() {
    let mut records: Vec<EpochRecord> = history(4).into();
    for record in &mut records {
        record.node_name = "a name".into();
        record.note = "a note".into();
        record.wall_ms = 1_700_000_000_000;
    }
    let named = Hello {
        history: History::try_from(records).unwrap(),
        ..hello(0)
    };
    let bytes = encode(&Message::Hello(Box::new(named))).unwrap();
    assert_eq!(decode(&bytes), Ok(Message::Hello(Box::new(hello(4)))));
}

#[test]
fn a_history_that_holds_no_water_does_not_decode() {
    let bytes = encode(&Message::Hello(Box::new(hello(2)))).unwrap();
    // The second epoch's fork becomes 0: it would begin before its parent.
    let fork = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x04];
    let at = bytes
        .windows(fork.len())
        .position(|window| window == fork)
        .unwrap();
    let mut body = bytes[HEADER_LEN..].to_vec();
    body[at - HEADER_LEN + 6] = 0x00;
    let sealed = HANDSHAKE.seal(&body);
    assert!(matches!(decode(&sealed), Err(CodecFault::Body { .. })));
}

#[test]
fn long_histories_cost_what_the_limit_was_computed_from() {
    let len = |epochs| {
        encode(&Message::Hello(Box::new(hello(epochs))))
            .unwrap()
            .len()
    };
    let per_epoch = (len(1000) - len(0)) as f64 / 1000.0;
    assert!(per_epoch <= 53.0, "{per_epoch} bytes an epoch");
}

#[test]
fn announced_lengths_are_limited_by_kind() {
    let lie = |envelope: Envelope, len: u32| {
        let mut bytes = envelope.seal(&[0; 16]);
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        announced_len(bytes.first_chunk::<HEADER_LEN>().unwrap())
    };
    let over = |len_bytes, len_max_bytes| {
        Err(CodecFault::Envelope(EnvelopeFault::Length {
            len_bytes,
            len_max_bytes,
        }))
    };
    assert_eq!(
        lie(CONTROL, MESSAGE_LEN_MAX),
        Ok(HEADER_LEN + MESSAGE_LEN_MAX as usize)
    );
    assert_eq!(
        lie(CONTROL, MESSAGE_LEN_MAX + 1),
        over(MESSAGE_LEN_MAX + 1, MESSAGE_LEN_MAX)
    );
    assert_eq!(
        lie(HANDSHAKE, HANDSHAKE_LEN_MAX + 1),
        over(HANDSHAKE_LEN_MAX + 1, HANDSHAKE_LEN_MAX)
    );
}

#[test]
fn a_control_message_does_not_come_in_the_large_envelope() {
    let bytes = encode(&messages()[8]).unwrap();
    let sealed = HANDSHAKE.seal(&bytes[HEADER_LEN..]);
    assert!(matches!(decode(&sealed), Err(CodecFault::Body { .. })));
}

#[test]
fn run_headers_come_back_and_every_flipped_bit_is_seen() {
    let header = RunHeader {
        binding: BINDING,
        first: Lsn(0x0102_0304_0506_0708),
    };
    let bytes = encode_run(&header);
    assert_eq!(decode_run(&bytes), Ok(header));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_run(&bad).is_err(), "bit {bit}");
    }
}

/// As FORMAT of the messages says.
const HANDSHAKE: Envelope = Envelope {
    magic: *b"OLPM",
    version: 1,
    kind: 1,
    len_max: HANDSHAKE_LEN_MAX,
};
const CONTROL: Envelope = Envelope {
    kind: 2,
    len_max: MESSAGE_LEN_MAX,
    ..HANDSHAKE
};

proptest! {
    #[test]
    fn bytes_of_a_stranger_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = decode(&HANDSHAKE.seal(&bytes));
        let _ = decode(&CONTROL.seal(&bytes));
    }

    #[test]
    fn damaged_bodies_under_a_sound_checksum_never_panic(
        which in 0..12usize,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let bytes = encode(&messages()[which]).unwrap();
        let mut body = bytes[HEADER_LEN..].to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let envelope = if which < 2 { HANDSHAKE } else { CONTROL };
        let _ = decode(&envelope.seal(&body));
    }
}
