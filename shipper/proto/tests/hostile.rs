//! A peer that says anything at any time, with a valid key: both sides answer or close, and never
//! panic; what is in the log is always what its primary wrote.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what cannot be fails the test"
)]

mod support;

use std::time::Duration;

use outlast_engine::format::{CommonPoint, EpochId, Lsn, LsnRange, NodeId};
use outlast_proto::{
    Ack, AckMark, Binding, ByeReason, ConflictKind, Features, Heartbeat, LogEnd, Message, Mode,
    Nonce, Position, PrimaryState, PrimaryView, ProtectionPoint, Refuse, RefuseReason, RunHeader,
    Stamp, Term, Versions,
};
use proptest::prelude::*;
use support::world::World;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    Dial(Mode),
    Forge {
        to_standby: bool,
        what: Forged,
    },
    ForgeData {
        first: Lsn,
        len: u16,
        flip: Option<u16>,
        bound: bool,
    },
    AlterHello(Hello),
    AlterWelcome {
        end: Lsn,
        commit: u64,
        heard: Option<Term>,
        told: Lsn,
    },
    Deliver {
        to_standby: bool,
        data: bool,
    },
    Run,
    Write,
    Fsync,
    Tick(u16),
    Disconnect,
    RestartStandby,
}

#[derive(Clone, Debug)]
struct Hello {
    end: Option<Lsn>,
    heard: Option<Term>,
    remembered: Option<AckMark>,
    contact: bool,
    versions: u16,
    check: u32,
}

/// A message; `bound` ones name the session that is under way.
#[derive(Clone, Debug)]
struct Forged {
    bound: bool,
    message: Message,
}

fn lsn() -> impl Strategy<Value = Lsn> {
    prop::sample::select(vec![0, 1, 200, 400, 401, 600, 800, 1000, 65_536, u64::MAX]).prop_map(Lsn)
}

fn position() -> impl Strategy<Value = Position> {
    let commits = prop::sample::select(vec![0, 1, 2, 3, u64::MAX]);
    (lsn(), commits).prop_map(|(lsn, commit)| Position::new(lsn, commit))
}

fn epoch() -> impl Strategy<Value = EpochId> {
    prop::sample::select(vec![0u8, 1, 2, 9]).prop_map(|id| EpochId([id; 16]))
}

fn term() -> impl Strategy<Value = Term> {
    (0..4u32, epoch()).prop_map(|(number, opened_by)| Term { number, opened_by })
}

fn view() -> impl Strategy<Value = PrimaryView> {
    let point = (0..3u32, lsn(), epoch()).prop_map(|(term, lsn, epoch)| ProtectionPoint {
        term,
        start: 1,
        lsn,
        epoch,
    });
    (
        position(),
        position(),
        position(),
        proptest::option::of(point),
    )
        .prop_map(|(appended, durable, visible, protection)| PrimaryView {
            appended,
            durable,
            visible,
            protection,
            state: PrimaryState::Serving,
        })
}

fn end() -> impl Strategy<Value = LogEnd> {
    (position(), epoch(), any::<bool>()).prop_map(|(at, id, some)| LogEnd {
        lsn: at.lsn,
        check: 0,
        epoch: some.then_some((1, 1, id)),
        next_commit: at.commit,
        log_ms: 0,
        visible: at.lsn,
        watermark: Lsn(u64::MAX),
    })
}

fn message() -> impl Strategy<Value = Message> {
    let binding = Binding {
        session: outlast_proto::SessionId {
            dialler: Nonce([0; 8]),
            listener: Nonce([0; 8]),
        },
        epoch: EpochId::NONE,
    };
    let stamp = prop::sample::select(vec![0u64, 1, 1_000_000_000_000, u64::MAX]).prop_map(Stamp);
    let reason = prop::sample::select(vec![
        RefuseReason::HigherTerm,
        RefuseReason::Withdrawn,
        RefuseReason::OtherCluster,
        RefuseReason::Conflict(ConflictKind::EqualTerms),
    ]);
    prop_oneof![
        (term(), reason).prop_map(|(heard, reason)| Message::Refuse(Refuse {
            dialler: Nonce([0; 8]),
            heard,
            node: NodeId([0x0b; 16]),
            reason,
        })),
        (lsn(), epoch()).prop_map(move |(lsn, epoch)| Message::Diverged {
            binding,
            fork: CommonPoint { lsn, epoch },
        }),
        end().prop_map(move |end| Message::CutDone { binding, end }),
        position().prop_map(move |resume| Message::Attach { binding, resume }),
        (stamp.clone(), term(), view()).prop_map(move |(stamp, term, view)| {
            Message::Heartbeat(Heartbeat {
                binding,
                stamp,
                term,
                view,
            })
        }),
        view().prop_map(move |view| Message::Positions { binding, view }),
        stamp.prop_map(move |stamp| Message::Echo { binding, stamp }),
        (position(), position(), position()).prop_map(move |(received, durable, applied)| {
            Message::Ack(Ack {
                binding,
                received,
                durable,
                applied,
            })
        }),
        (lsn(), lsn()).prop_map(move |(start, end)| Message::Fetch {
            binding,
            range: LsnRange::new(start, end),
        }),
        Just(Message::Bye {
            binding,
            reason: ByeReason::Stopping,
        }),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    (
        proptest::option::of(lsn()),
        proptest::option::of(term()),
        proptest::option::of((lsn(), epoch())),
        any::<bool>(),
        1..3u16,
        0..2u32,
    )
        .prop_map(|(end, heard, remembered, contact, versions, check)| Hello {
            end,
            heard,
            remembered: remembered.map(|(durable, epoch)| AckMark { epoch, durable }),
            contact,
            versions,
            check,
        })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<bool>().prop_map(|ship| Op::Dial(if ship { Mode::Ship } else { Mode::Contact })),
        16 => (any::<bool>(), prop::bool::weighted(0.9), message()).prop_map(
            |(to_standby, bound, message)| Op::Forge {
                to_standby,
                what: Forged { bound, message },
            }
        ),
        4 => (lsn(), 0..900u16, proptest::option::of(0..900u16), prop::bool::weighted(0.9))
            .prop_map(|(first, len, flip, bound)| Op::ForgeData { first, len, flip, bound }),
        3 => hello().prop_map(Op::AlterHello),
        3 => (lsn(), 0..4u64, proptest::option::of(term()), lsn())
            .prop_map(|(end, commit, heard, told)| Op::AlterWelcome { end, commit, heard, told }),
        24 => (any::<bool>(), any::<bool>())
            .prop_map(|(to_standby, data)| Op::Deliver { to_standby, data }),
        6 => Just(Op::Run),
        3 => Just(Op::Write),
        3 => Just(Op::Fsync),
        3 => (0..4000u16).prop_map(Op::Tick),
        1 => Just(Op::Disconnect),
        2 => Just(Op::RestartStandby),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_peer_says_panics_or_reaches_the_log(
        attached in any::<bool>(),
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new();
        world.p.node.log.begin_epoch(1, 1, 1, world.p.node.id);
        world.p.node.log.append(112);
        world.p.node.log.durable = Lsn(400);
        world.start_standby();
        if attached {
            world.dial(Mode::Ship);
            world.run();
        }
        for op in &ops {
            apply(&mut world, op);
            let (p, s) = (world.p.node.log.bytes(), world.s.node.log.bytes());
            prop_assert!(p.starts_with(s), "the standby holds what the primary never wrote");
            prop_assert!(world.s.node.log.applied <= world.s.node.log.durable);
        }
    }
}

fn apply(world: &mut World, op: &Op) {
    world.take_out();
    match op {
        Op::Dial(mode) => world.dial(*mode),
        Op::Forge { to_standby, what } => forge(world, *to_standby, what),
        Op::ForgeData {
            first,
            len,
            flip,
            bound,
        } => {
            let end = world.p.node.log.end().lsn.0;
            let first = Lsn(first.0.min(end));
            let len = usize::from(*len).min(usize::try_from(end - first.0).unwrap());
            let mut binding = world.session();
            if !bound {
                binding.epoch = EpochId([9; 16]);
            }
            let flip = flip.map(usize::from).filter(|at| *at < len);
            world.forge_data(RunHeader { binding, first }, len, flip);
        }
        Op::AlterHello(it) => alter_hello(world, it),
        Op::AlterWelcome {
            end,
            commit,
            heard,
            told,
        } => {
            if let Some(welcome) = world.welcome_mut() {
                welcome.end.lsn = *end;
                welcome.end.next_commit = *commit;
                welcome.heard = heard.unwrap_or(welcome.heard);
                welcome.visible_told = *told;
            }
        }
        Op::Deliver { to_standby, data } => {
            world.deliver(if *to_standby { "s" } else { "p" }, *data);
        }
        Op::Run => world.run(),
        Op::Write => {
            world.p.node.log.append(112);
            world.tell_view();
        }
        Op::Fsync => {
            world.p.node.log.durable = world.p.node.log.end().lsn;
            world.p.node.log.applied = world.p.node.log.durable;
            world.tell_view();
        }
        Op::Tick(ms) => world.tick(Duration::from_millis(u64::from(*ms)), false),
        Op::Disconnect => world.disconnect(),
        Op::RestartStandby => world.start_standby(),
    }
}

fn forge(world: &mut World, to_standby: bool, what: &Forged) {
    let session = world.session();
    let mut message = what.message.clone();
    if what.bound {
        rebind(&mut message, session);
    }
    world.send_to(if to_standby { "s" } else { "p" }, message);
}

fn rebind(message: &mut Message, ours: Binding) {
    match message {
        Message::Hello(_) | Message::Welcome(_) => {}
        Message::Refuse(refuse) => refuse.dialler = ours.session.dialler,
        Message::Diverged { binding, .. }
        | Message::CutDone { binding, .. }
        | Message::Attach { binding, .. }
        | Message::Positions { binding, .. }
        | Message::Echo { binding, .. }
        | Message::Fetch { binding, .. }
        | Message::Bye { binding, .. } => *binding = ours,
        Message::Heartbeat(heartbeat) => heartbeat.binding = ours,
        Message::Ack(ack) => ack.binding = ours,
    }
}

fn alter_hello(world: &mut World, it: &Hello) {
    let Some(hello) = world.hello_mut() else {
        return;
    };
    if let Some(end) = it.end {
        hello.end.lsn = end;
        hello.view.appended.lsn = end;
    }
    hello.heard = it.heard.unwrap_or(hello.heard);
    hello.remembered = it.remembered;
    hello.end.check ^= it.check;
    hello.versions = Versions {
        oldest: 1,
        newest: it.versions,
    };
    hello.features = Features::default();
    if it.contact {
        hello.mode = Mode::Contact;
    }
}
