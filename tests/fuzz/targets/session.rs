//! Both sides of a session against a peer that says anything at any time: the handshake, the flow
//! of data, and the closes. Neither panics, and the standby holds only what its primary wrote.

#![no_main]

#[path = "../../../shipper/proto/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use outlast_engine::format::{EpochId, Lsn};
use outlast_proto::{Message, Mode, RunHeader, decode};
use support::world::World;

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    world.p.node.log.begin_epoch(1, 1, 1, world.p.node.id);
    world.p.node.log.append(112);
    world.p.node.log.durable = Lsn(400);
    world.start_standby();
    let mut rest = data;
    let mut steps = 0;
    while let Some((op, after)) = rest.split_first() {
        rest = step(&mut world, *op, after);
        let (p, s) = (world.p.node.log.bytes(), world.s.node.log.bytes());
        assert!(
            p.starts_with(s),
            "the standby holds what the primary never wrote"
        );
        assert!(world.s.node.log.applied <= world.s.node.log.durable);
        world.take_out();
        steps += 1;
        if steps > 200 {
            return;
        }
    }
});

/// Does what `op` says and answers with the bytes that it did not need.
fn step<'a>(world: &mut World, op: u8, rest: &'a [u8]) -> &'a [u8] {
    let mut byte = {
        let mut rest = rest.iter();
        move || *rest.next().unwrap_or(&0)
    };
    let used = match op % 16 {
        0 => {
            world.dial(Mode::Ship);
            0
        }
        1 => {
            world.dial(Mode::Contact);
            0
        }
        2..=5 => {
            let (to, data) = (op & 16 == 0, op & 32 == 0);
            world.deliver(if to { "s" } else { "p" }, data);
            0
        }
        6 => {
            world.run();
            0
        }
        7 => {
            world.p.node.log.append(112);
            world.tell_view();
            0
        }
        8 => {
            world.p.node.log.durable = world.p.node.log.end().lsn;
            world.p.node.log.applied = world.p.node.log.durable;
            world.tell_view();
            0
        }
        9 => {
            world.tick(Duration::from_millis(u64::from(byte()) * 20), false);
            1
        }
        10 => {
            world.disconnect();
            0
        }
        11 => {
            world.start_standby();
            0
        }
        12 => {
            let end = world.p.node.log.end().lsn.0;
            let first = u64::from(byte()) * 8 % (end + 1);
            let len = usize::from(byte()) * 4;
            let len = len.min(usize::try_from(end - first).unwrap_or(0));
            let flip = usize::from(byte());
            let mut binding = world.session();
            if op & 16 != 0 {
                binding.epoch = EpochId([9; 16]);
            }
            let header = RunHeader {
                binding,
                first: Lsn(first),
            };
            world.forge_data(header, len, Some(flip).filter(|at| *at < len));
            3
        }
        _ => {
            let (kind, len) = (byte(), usize::from(byte()));
            let body = rest.get(2..2 + len).unwrap_or_default();
            forge(world, op & 16 == 0, kind, body);
            2 + len
        }
    };
    rest.get(used..).unwrap_or_default()
}

/// Sends a message whose body is `body`, under the session that is on.
fn forge(world: &mut World, to_standby: bool, kind: u8, body: &[u8]) {
    let mut model = outlast_proto::encode(&Message::Bye {
        binding: world.session(),
        reason: outlast_proto::ByeReason::Stopping,
    })
    .expect("a message");
    model[6] = kind;
    let Some(bytes) = outlast_fuzz::sealed_like(&model, body) else {
        return;
    };
    if let Ok(mut message) = decode(&bytes) {
        rebind(&mut message, world);
        world.send_to(if to_standby { "s" } else { "p" }, message);
    }
}

fn rebind(message: &mut Message, world: &World) {
    let ours = world.session();
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
