//! The language of the golden scripts.
//!
//! | command | what it does |
//! |---|---|
//! | `epoch p id=1 term=1 start=1 [node=p]` | the node's log begins an epoch |
//! | `write p [frames=1] [bytes=112]` | its log gets frames, of 200 bytes by default; a sender is
//! told |
//! | `fsync p [durable=LSN] [visible=LSN] [quiet=1]` | they are durable and visible; a sender is
//! told |
//! | `copy p s [to=LSN] [durable=LSN] [applied=LSN]` | `s` gets `p`'s log, up to there |
//! | `cut p to=LSN` | the log loses what lies behind |
//! | `damage p at=LSN` | a bit of its log flips |
//! | `config p window=… run=… versions=1..2 known=… required=…` | settings of the next start |
//! | `facts p remembered=LSN@e1 heard=2:e9` | what is true at the next `dial` |
//! | `facts s told=LSN acked=LSN@e1 heard=2:e9` | what is true at the next `standby` |
//! | `protect p LSN@e1 term=1 start=1`, `state p poisoned` | what the primary says of itself |
//! | `standby` | the standby's process starts |
//! | `dial ship`, `dial contact` | the primary opens a connection |
//! | `alter hello key=value …`, `alter welcome …` | what is on its way says something else |
//! | `run`, `deliver s [n]`, `deliver s data [n]` | what is on the line arrives |
//! | `chunks 10` | data arrives in pieces of so many bytes |
//! | `hold s sync`, `release s sync` | the shell does not do what it is asked for; does it now |
//! | `tick 500ms [run]` | time passes, timeouts fall due (and everything arrives) |
//! | `disconnect` | the connection is gone |
//! | `forge s heartbeat …`, `forge p ack …`, `forge data …` | somebody sends this |
//! | `input s withdraw`, `input p epoch-begins` | the node does this |
//! | `meet primary heard=1:e1` | what a node in this role makes of the Hello on its way |
//! | `status p`, `same` | where a node stands; whether both logs are equal |

use outlast_engine::format::{Lsn, LsnRange};
use outlast_proto::{
    Ack, AckMark, Binding, ByeReason, Config, ConflictKind, Features, Heartbeat, Identity, Local,
    Message, Mode, Nonce, PrimaryState, PrimaryView, ProtectionPoint, ReceiverInput, Refuse,
    RefuseReason, Role, RunHeader, SenderInput, Stamp, Term, Versions, meet,
};

use super::args::{self, Args};
use super::log::CLUSTER;
use super::print;
use super::world::{SEGMENT_SIZE, World, epoch};

/// Runs a script and answers with its text, outputs replaced by what really came.
pub fn run(path: &str, text: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    let mut in_output = false;
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() {
            in_output = false;
            out.push('\n');
        } else if line == "---" {
            in_output = true;
            out.push_str("---\n");
            for line in world.take_out() {
                out.push_str(&line);
                out.push('\n');
            }
        } else if !in_output {
            out.push_str(line);
            out.push('\n');
            if !line.starts_with('#') {
                let at = format!("{path}:{}", number + 1);
                command(&mut world, line, &at);
            }
        }
    }
    assert!(
        world.take_out().is_empty(),
        "{path}: output behind the last `---`"
    );
    out
}

fn command(world: &mut World, line: &str, at: &str) {
    let (name, mut args) = Args::parse(line);
    match name {
        "epoch" => {
            let on = args.need();
            let node = args.node("node").unwrap_or_else(|| args::node(on));
            let [id, term, start] = ["id", "term", "start"].map(|key| args.get(key).unwrap());
            let log = &mut world.node(on).log;
            log.begin_epoch(id, u32::from(term), u32::from(start), node);
            if on == "p" {
                world.tell_view();
            }
        }
        "write" => {
            let on = args.need();
            let (frames, bytes) = (args.or("frames", 1), args.or("bytes", 112));
            for _ in 0..frames {
                world.node(on).log.append(bytes);
            }
            if on == "p" {
                world.tell_view();
            }
        }
        "fsync" => {
            let on = args.need();
            let log = &mut world.node(on).log;
            let end = log.end().lsn;
            log.durable = args.lsn("durable").unwrap_or(end);
            log.applied = args.lsn("visible").unwrap_or(log.durable);
            let quiet = args.text("quiet").is_some();
            if on == "p" && !quiet {
                world.tell_view();
            }
        }
        "copy" => {
            let log = world.node(args.need()).log.clone();
            let node = world.node(args.need());
            node.log = log;
            let end = args.lsn("to").unwrap_or_else(|| node.log.end().lsn);
            node.log.cut(end);
            node.log.durable = args.lsn("durable").unwrap_or(end);
            node.log.applied = args.lsn("applied").unwrap_or(node.log.durable);
        }
        "cut" => {
            let node = world.node(args.need());
            node.log.cut(args.lsn("to").unwrap());
        }
        "damage" => {
            let node = world.node(args.need());
            node.log.flip(args.lsn("at").unwrap());
        }
        "config" => config(world, &mut args),
        "facts" => facts(world, &mut args),
        "protect" => {
            let _ = args.need();
            world.p.protection = Some(point(&mut args));
            world.tell_view();
        }
        "state" => {
            let _ = args.need();
            world.p.state = match args.need() {
                "serving" => PrimaryState::Serving,
                "poisoned" => PrimaryState::Poisoned,
                other => panic!("no state {other}"),
            };
            world.tell_view();
        }
        "standby" => world.start_standby(),
        "dial" => world.dial(match args.need() {
            "ship" => Mode::Ship,
            "contact" => Mode::Contact,
            other => panic!("no mode {other}"),
        }),
        "alter" => match args.need() {
            "hello" => alter_hello(world, &mut args),
            "welcome" => alter_welcome(world, &mut args),
            other => panic!("{at}: no {other} is on its way"),
        },
        "run" => world.run(),
        "deliver" => {
            let to = args.need();
            let data = line.contains(" data");
            if data {
                args.need();
            }
            let count: usize = args.word().map_or(1, |word| word.parse().unwrap());
            for _ in 0..count {
                assert!(world.deliver(to, data), "{at}: nothing to deliver");
            }
        }
        "chunks" => world.chunk_len = args.need().parse().unwrap(),
        "hold" => {
            let node = world.node(args.need());
            node.held.insert(args.need().to_owned());
        }
        "release" => {
            let on = args.need();
            let job = args.need();
            assert!(world.node(on).held.remove(job), "{at}: {job} is not held");
            world.work_p();
            world.work_s();
        }
        "tick" => {
            let wait = args::duration(args.need());
            let deliver = args.word() == Some("run");
            world.tick(wait, deliver);
        }
        "disconnect" => world.disconnect(),
        "forge" => forge(world, &mut args),
        "input" => input(world, &mut args),
        "meet" => meet_as(world, &mut args),
        "status" => world.status(args.need()),
        "same" => {
            let (p, s) = (
                world.p.node.log.bytes().len(),
                world.s.node.log.bytes().len(),
            );
            let same = world.p.node.log.bytes() == world.s.node.log.bytes();
            let verdict = if same {
                "the logs are equal"
            } else {
                "THE LOGS DIFFER"
            };
            world.say(&format!("{verdict}: {p} and {s} bytes"));
        }
        other => panic!("{at}: no command {other}"),
    }
    args.done();
}

fn config(world: &mut World, args: &mut Args<'_>) {
    let node = world.node(args.need());
    let old = node.config.clone();
    let versions = args.text("versions").map_or(old.versions, |text| {
        let (oldest, newest) = text.split_once("..").unwrap();
        Versions {
            oldest: oldest.parse().unwrap(),
            newest: newest.parse().unwrap(),
        }
    });
    node.config = Config {
        versions,
        features: Features {
            known: args.or("known", old.features.known),
            required: args.or("required", old.features.required),
        },
        window_bytes: args.or("window", old.window_bytes),
        run_bytes: args.or("run", old.run_bytes),
        heartbeat_interval: args.time("heartbeat").unwrap_or(old.heartbeat_interval),
        silence_max: args.time("silence").unwrap_or(old.silence_max),
        ..old
    };
}

fn facts(world: &mut World, args: &mut Args<'_>) {
    let on = args.need();
    let heard = args.text("heard").map(term);
    if on == "p" {
        world.p.heard = heard.or(world.p.heard);
        world.p.remembered = args.text("remembered").map(mark).or(world.p.remembered);
    } else {
        world.s.heard = heard.unwrap_or(world.s.heard);
        world.s.told = args.lsn("told").unwrap_or(world.s.told);
        world.s.acked = args.text("acked").map(mark).or(world.s.acked);
    }
}

fn alter_welcome(world: &mut World, args: &mut Args<'_>) {
    let welcome = world.welcome_mut().expect("a Welcome on its way");
    welcome.node = args.node("node").unwrap_or(welcome.node);
    welcome.version = args.or("version", welcome.version);
    welcome.features = args.or("features", welcome.features);
    welcome.window_bytes = args.or("window", welcome.window_bytes);
    welcome.heard = args.text("heard").map_or(welcome.heard, term);
    welcome.end.lsn = args.lsn("end").unwrap_or(welcome.end.lsn);
    welcome.applied = args.position("applied").unwrap_or(welcome.applied);
    if args.text("session") == Some("other") {
        welcome.session.dialler = Nonce([b'x'; 8]);
    }
}

fn alter_hello(world: &mut World, args: &mut Args<'_>) {
    let hello = world.hello_mut().expect("a Hello on its way");
    hello.cluster = args.cluster("cluster").unwrap_or(hello.cluster);
    hello.node = args.node("node").unwrap_or(hello.node);
    hello.to = args.node("to").unwrap_or(hello.to);
    hello.segment_size = args.or("segment_size", hello.segment_size);
    hello.heard = args.text("heard").map_or(hello.heard, term);
    hello.end.lsn = args.lsn("end").unwrap_or(hello.end.lsn);
    hello.end.check = args.or("check", hello.end.check);
}

fn input(world: &mut World, args: &mut Args<'_>) {
    match (args.need(), args.need()) {
        ("p", "epoch-begins") => world.input_p(SenderInput::EpochBegins),
        ("p", "old-view") => world.input_p(SenderInput::View(PrimaryView::default())),
        ("p", "stop") => world.input_p(SenderInput::Stop),
        ("p", "log-failed") => world.input_p(SenderInput::LogFailed),
        ("s", "withdraw") => world.input_s(ReceiverInput::Withdraw),
        ("s", "reinstate") => world.input_s(ReceiverInput::Reinstate),
        ("s", "heard-term") => {
            let heard = term(args.text("heard").expect("heard="));
            world.input_s(ReceiverInput::HeardTerm(heard));
        }
        ("s", "stop") => world.input_s(ReceiverInput::Stop),
        ("s", "log-failed") => world.input_s(ReceiverInput::LogFailed),
        other => panic!("no input {other:?}"),
    }
}

fn forge(world: &mut World, args: &mut Args<'_>) {
    let Some(Message::Attach { binding, resume }) = world.p.last_attach.clone() else {
        return forge_unattached(world, args);
    };
    let binding = other_binding(binding, args);
    let what = args.need();
    if what == "data" {
        let first = args.lsn("first").unwrap();
        let header = RunHeader { binding, first };
        let (len, flip) = (args.get("len").unwrap(), args.get("flip"));
        world.forge_data(header, len, flip);
        return;
    }
    let to = what;
    let view = world.view();
    let message = match args.need() {
        "refuse" => Message::Refuse(Refuse {
            dialler: binding.session.dialler,
            heard: term(args.text("heard").expect("heard=")),
            node: args::node("s"),
            reason: RefuseReason::HigherTerm,
        }),
        "ack" => Message::Ack(Ack {
            binding,
            received: args.position("received").unwrap_or(resume),
            durable: args.position("durable").unwrap_or(resume),
            applied: args.position("applied").unwrap_or(resume),
        }),
        "echo" => Message::Echo {
            binding,
            stamp: stamp(args),
        },
        "heartbeat" => Message::Heartbeat(Heartbeat {
            binding,
            stamp: stamp(args),
            term: args
                .text("term")
                .map_or(Term::of(world.p.node.log.history()), term),
            view: forged_view(view, args),
        }),
        "positions" => Message::Positions {
            binding,
            view: forged_view(view, args),
        },
        "attach" => Message::Attach {
            binding,
            resume: args.position("resume").unwrap(),
        },
        "bye" => Message::Bye {
            binding,
            reason: ByeReason::Stopping,
        },
        other => panic!("no message {other}"),
    };
    world.send_to(to, message);
}

/// Messages of a session that never attached: those of a contact.
fn forge_unattached(world: &mut World, args: &mut Args<'_>) {
    let session = world.session();
    let binding = other_binding(session, args);
    match (args.need(), args.word()) {
        ("data", None) => {
            let first = args.lsn("first").unwrap();
            let header = RunHeader { binding, first };
            let (len, flip) = (args.get("len").unwrap(), args.get("flip"));
            world.forge_data(header, len, flip);
        }
        (to, Some("fetch")) => {
            let (start, end) = args.text("range").unwrap().split_once("..").unwrap();
            let range = LsnRange::new(start.parse().unwrap(), end.parse().unwrap());
            world.send_to(to, Message::Fetch { binding, range });
        }
        (to, Some("attach")) => {
            let resume = args.position("resume").unwrap();
            world.send_to(to, Message::Attach { binding, resume });
        }
        (to, Some("diverged")) => {
            let (lsn, id) = at_epoch(args.text("fork").unwrap());
            let fork = outlast_engine::format::CommonPoint {
                lsn,
                epoch: epoch(id),
            };
            world.send_to(to, Message::Diverged { binding, fork });
        }
        other => panic!("no message {other:?} in a session that has not attached"),
    }
}

fn other_binding(mut binding: Binding, args: &mut Args<'_>) -> Binding {
    binding.epoch = args.epoch("epoch").unwrap_or(binding.epoch);
    if args.text("session") == Some("other") {
        binding.session.dialler = Nonce([b'x'; 8]);
    }
    binding
}

fn forged_view(view: PrimaryView, args: &mut Args<'_>) -> PrimaryView {
    PrimaryView {
        appended: args.position("appended").unwrap_or(view.appended),
        durable: args.position("durable").unwrap_or(view.durable),
        visible: args.position("visible").unwrap_or(view.visible),
        ..view
    }
}

/// What a node that is no standby makes of the Hello on its way.
fn meet_as(world: &mut World, args: &mut Args<'_>) {
    let role = match args.need() {
        "primary" => Role::Primary,
        "fenced" => Role::Fenced,
        "standby" => Role::Standby,
        "withdrawn" => Role::Withdrawn,
        "conflict" => Role::Conflict(ConflictKind::EqualTerms),
        other => panic!("no role {other}"),
    };
    let heard = args.text("heard").map(term).unwrap();
    let identity = Identity {
        cluster: CLUSTER,
        node: args::node("s"),
        name: "susan".into(),
        segment_size: SEGMENT_SIZE,
    };
    let local = Local {
        identity: &identity,
        role,
        heard,
    };
    let peer = args.node("key").unwrap_or_else(|| args::node("p"));
    let hello = world.hello_mut().expect("a Hello on its way");
    let meeting = meet(&Config::default(), &local, peer, hello);
    let verdict = print::meeting(&meeting);
    world.say(&format!("{role:?} at {}: {verdict}", print::term(heard)));
}

fn stamp(args: &mut Args<'_>) -> Stamp {
    let at = args.time("stamp").unwrap();
    Stamp(u64::try_from(at.as_nanos()).unwrap())
}

/// `2:e9`
fn term(text: &str) -> Term {
    let (number, opener) = text.split_once(':').unwrap();
    Term {
        number: number.parse().unwrap(),
        opened_by: epoch(opener.strip_prefix('e').unwrap().parse().unwrap()),
    }
}

/// `176@e1`
fn mark(text: &str) -> AckMark {
    let (durable, id) = at_epoch(text);
    AckMark {
        epoch: epoch(id),
        durable,
    }
}

fn at_epoch(text: &str) -> (Lsn, u8) {
    let (lsn, id) = text.split_once('@').unwrap();
    (
        lsn.parse().unwrap(),
        id.strip_prefix('e').unwrap().parse().unwrap(),
    )
}

fn point(args: &mut Args<'_>) -> ProtectionPoint {
    let (lsn, id) = at_epoch(args.need());
    ProtectionPoint {
        term: args.or("term", 1),
        start: args.or("start", 1),
        lsn,
        epoch: epoch(id),
    }
}
