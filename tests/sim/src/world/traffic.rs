//! What travels between the nodes, and what a node does with what arrives.

use bytes::Bytes;
use outlast_proto::{
    Hello, Meeting, Message, Nonce, ReceiverInput, Refuse, RunHeader, SenderInput, decode, encode,
};
use outlast_standby::drive;

use super::{Event, MS, World};
use crate::network::{Item, Kind, Link, LinkId, of};
use crate::process::Session;
use crate::violation::{Checked, Violation};

/// Messages of earlier sessions that are kept for later.
const OLD_MESSAGES_MAX: usize = 16;

impl World {
    /// A dialler's handshake is through, if there is somebody at the other end.
    pub(super) fn established(&mut self, node: usize) -> Checked {
        let peer = 1 - node;
        let reached = !self.is_cut() && self.node(peer).process.is_some();
        let lives = [self.node(node).life, self.node(peer).life];
        let nonce = Nonce(self.node(node).nonce());
        let peer_id = self.node(peer).id;
        let (link, life) = (self.links.len(), self.node(node).life);
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        if process.is_busy() {
            self.after(MS / 4, Event::Established { node, life });
            return Ok(());
        }
        process.dialling = false;
        if !reached {
            self.dial_later(node);
            return Ok(());
        }
        let Some(mode) = drive::dial_mode(&process.role()) else {
            return Ok(());
        };
        process.begin_session(link, peer_id, mode, nonce);
        if let Some(listener) = &mut self.node_mut(peer).process {
            listener.greeting.push(link);
        }
        self.links.push(Link::new([node, peer], lives));
        self.counts.links += 1;
        self.say(
            Some(node),
            format_args!("link {link} to the peer, {mode:?}"),
        );
        Ok(())
    }

    pub(super) fn dial_later(&mut self, node: usize) {
        let at_ns = self.now_ns + self.rng.u64(10 * MS..150 * MS);
        if let Some(process) = &mut self.node_mut(node).process {
            process.dial_ns = at_ns;
        }
    }

    pub(super) fn send_message(&mut self, node: usize, link: LinkId, message: Message) -> Checked {
        let bytes = encode(&message).map_err(|fault| Violation::new("I12", fault.to_string()))?;
        let message = decode(&bytes).map_err(|fault| Violation::new("I12", fault.to_string()))?;
        self.say(Some(node), format_args!("{link} ← {}", brief(&message)));
        if self.plan.replays {
            self.replay(node, link, &message);
        }
        self.send(node, link, Kind::Control, Item::Message(message));
        let wait_ns = self.rng.u64(1_000..2 * MS);
        if let Some(end) = self.links.get(link).map(|found| found.end_of(node)) {
            self.after(wait_ns, Event::Flushed { link, end });
        }
        Ok(())
    }

    /// Keeps some messages that name their session, and lets some of earlier ones turn up again.
    fn replay(&mut self, node: usize, link: LinkId, message: &Message) {
        let unnamed = matches!(
            message,
            Message::Hello(_) | Message::Welcome(_) | Message::Refuse(_)
        );
        let keep = self.rng.u8(..8) == 0 && !unnamed;
        let again = self.rng.u8(..30) == 0 && !unnamed;
        let [a, b] = &mut self.old_messages;
        let old = if node == 0 { a } else { b };
        if keep && old.len() < OLD_MESSAGES_MAX {
            old.push((link, message.clone()));
        }
        let earlier: Vec<_> = old.iter().filter(|(other, _)| *other != link).collect();
        if again && let Some((_, old)) = self.rng.choice(earlier).cloned() {
            self.say(Some(node), format_args!("{link} ← {} again", brief(&old)));
            self.send(node, link, Kind::Control, Item::Message(old));
        }
    }

    pub(super) fn send_data(
        &mut self,
        node: usize,
        link: LinkId,
        header: RunHeader,
        mut bytes: Bytes,
    ) {
        self.say(
            Some(node),
            format_args!("{link} ← {} bytes of log at {}", bytes.len(), header.first),
        );
        let first = self.links.get_mut(link).is_some_and(|found| {
            let end = found.end_of(node);
            found.begin_run(end)
        });
        if first {
            self.send(node, link, Kind::Data, Item::RunStart(header));
        }
        while !bytes.is_empty() {
            let len = match self.rng.u8(..3) {
                0 => self.rng.usize(1..=bytes.len()),
                _ => bytes.len(),
            };
            let piece = bytes.split_to(len);
            self.send(node, link, Kind::Data, Item::RunBytes(piece));
        }
    }

    /// Closes a link at one end; the other learns of it behind what was said before.
    pub(super) fn close(&mut self, node: usize, link: LinkId) {
        self.send(node, link, Kind::Control, Item::End);
        if let Some(found) = self.links.get_mut(link) {
            let end = found.end_of(node);
            found.shut(end);
        }
    }

    fn send(&mut self, node: usize, link: LinkId, kind: Kind, item: Item) {
        let jitter_ns = self.rng.u64(..=self.line.latency_ns / 2);
        let thin_ns = match (kind, self.plan.promise) {
            (Kind::Data, Some(promise)) => promise.thin_ns,
            _ => 0,
        };
        let ready_ns = self.now_ns + self.line.latency_ns + jitter_ns + thin_ns;
        let Some(found) = self.links.get_mut(link) else {
            return;
        };
        let end = found.end_of(node);
        if !found.is_open(end) {
            return;
        }
        found.channel(end, kind).push(ready_ns, item);
        self.look_at(link, end, kind);
    }

    /// Schedules a look at a channel, unless one is.
    fn look_at(&mut self, link: LinkId, from_end: usize, kind: Kind) {
        let Some(found) = self.links.get_mut(link) else {
            return;
        };
        let channel = found.channel(from_end, kind);
        if let Some(at_ns) = channel.next_ns()
            && !channel.scheduled
        {
            channel.scheduled = true;
            let data = kind == Kind::Data;
            let event = Event::Arrival {
                link,
                from_end,
                data,
            };
            self.at(at_ns.max(self.now_ns), event);
        }
    }

    /// The line works again: what waited on it goes on.
    pub(super) fn mend(&mut self) {
        self.line.cut = [false; 2];
        self.say(None, format_args!("the line works"));
        for link in 0..self.links.len() {
            for from_end in [0, 1] {
                self.look_at(link, from_end, Kind::Control);
                self.look_at(link, from_end, Kind::Data);
            }
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.line.cut.contains(&true)
    }

    pub(super) fn arrive(&mut self, link: LinkId, from_end: usize, kind: Kind) -> Checked {
        let now_ns = self.now_ns;
        let cut = self.line.cut;
        let Some(found) = self.links.get_mut(link) else {
            return Ok(());
        };
        let [from, to] = [found.node(from_end), found.node(1 - from_end)];
        let open = found.is_open(1 - from_end);
        let life = found.life(1 - from_end);
        let channel = found.channel(from_end, kind);
        channel.scheduled = false;
        if !open {
            channel.clear();
            return Ok(());
        }
        let due = channel.next_ns().is_some_and(|at| at <= now_ns);
        if of(cut, from) {
            return Ok(());
        }
        if !due {
            self.look_at(link, from_end, kind);
            return Ok(());
        }
        let harmless = matches!(
            channel.peek(),
            Some(Item::Message(Message::Ack(_) | Message::Echo { .. }))
        );
        let busy = self
            .node(to)
            .process
            .as_ref()
            .is_some_and(crate::process::Process::is_busy);
        if busy && !harmless {
            // What needs the log to itself waits for the group that has it.
            let data = kind == Kind::Data;
            if let Some(found) = self.links.get_mut(link) {
                found.channel(from_end, kind).scheduled = true;
            }
            let event = Event::Arrival {
                link,
                from_end,
                data,
            };
            self.after(MS / 4, event);
            return Ok(());
        }
        let item = self
            .links
            .get_mut(link)
            .and_then(|found| found.channel(from_end, kind).pop());
        self.look_at(link, from_end, kind);
        match item {
            Some(item) => self.alive(to, life, |world, to| world.take(to, link, item)),
            None => Ok(()),
        }
    }

    fn take(&mut self, node: usize, link: LinkId, item: Item) -> Checked {
        let item = match item {
            Item::RunBytes(bytes) if self.plan.flips && self.rng.u8(..60) == 0 => {
                self.say(Some(node), format_args!("a bit flips on link {link}"));
                Item::RunBytes(flipped(&bytes, self.rng.usize(..bytes.len() * 8)))
            }
            item => item,
        };
        if matches!(item, Item::End) {
            return self.hang_up(node, link);
        }
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let now = process.clock.now();
        if let Some(ship) = process.ship.as_mut().filter(|ship| ship.link == link) {
            let input = match item {
                Item::Message(message) => SenderInput::Message(message),
                Item::RunStart(header) => SenderInput::RunStart(header),
                Item::RunBytes(bytes) => SenderInput::RunBytes(bytes),
                Item::End => SenderInput::Disconnected,
            };
            ship.shipping.handle(now, input);
            return Ok(());
        }
        let followed = process
            .session
            .as_ref()
            .is_some_and(|session| session.link == link);
        if followed && let Some(following) = &mut process.following {
            let input = match item {
                Item::Message(message) => ReceiverInput::Message(message),
                Item::RunStart(header) => ReceiverInput::RunStart(header),
                Item::RunBytes(bytes) => ReceiverInput::RunBytes(bytes),
                Item::End => return Ok(()),
            };
            following.handle(now, input);
            return Ok(());
        }
        if process.greeting.contains(&link) {
            process.greeting.retain(|other| *other != link);
            if let Item::Message(Message::Hello(hello)) = item {
                return self.greet(node, link, *hello);
            }
            self.close(node, link);
        }
        Ok(())
    }

    /// The first words of a peer that dialled, as the shell's `greet` takes them.
    fn greet(&mut self, node: usize, link: LinkId, hello: Hello) -> Checked {
        let peer = self.node(1 - node).id;
        let nonce = Nonce(self.node(node).nonce());
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let now = process.clock.now();
        let meeting = match &process.following {
            Some(following) => following.receiver().lock().meet(peer, &hello),
            None => drive::meet(
                &process.store,
                process.config(),
                &process.role(),
                peer,
                &hello,
            ),
        };
        match (meeting, &mut process.following) {
            (Meeting::Follow | Meeting::Conflict { .. }, Some(following)) => {
                let old = process.session.replace(Session { link, nonce });
                if let Some(old) = &old {
                    let nonce = old.nonce;
                    following.handle(now, ReceiverInput::Disconnected { nonce });
                    process.pump();
                }
                if let Some(following) = &mut process.following {
                    let hello = Box::new(hello);
                    following.handle(now, ReceiverInput::Hello { nonce, peer, hello });
                }
                if let Some(old) = old {
                    self.close(node, old.link);
                }
                Ok(())
            }
            (Meeting::Follow, None) => {
                self.close(node, link);
                Ok(())
            }
            (Meeting::Refuse(refuse), _) => self.decline(node, link, refuse),
            (Meeting::Hear { term, refuse }, following) => {
                if let Some(following) = following {
                    following.handle(now, ReceiverInput::HeardTerm(term));
                }
                self.decline(node, link, refuse)
            }
            (Meeting::Fence { term, refuse }, _) => {
                process.gatekeeper.shut();
                drive::fence(&process.store, term);
                process.counts.fenced += 1;
                process.end_session();
                process.note(format_args!("fenced by term {}", term.number));
                self.decline(node, link, refuse)
            }
            (Meeting::Conflict { kind, refuse }, None) => {
                process.gatekeeper.shut();
                drive::halt(&process.store, &kind, refuse.heard);
                process.end_session();
                process.note(format_args!("conflict: {kind:?}"));
                self.decline(node, link, refuse)
            }
        }
    }

    fn decline(&mut self, node: usize, link: LinkId, refuse: Refuse) -> Checked {
        if self.node(node).has_lost_power() {
            return Ok(());
        }
        let message = Message::Refuse(refuse);
        self.told_term(node, &message);
        self.send_message(node, link, message)?;
        self.close(node, link);
        Ok(())
    }

    pub(super) fn flushed(&mut self, link: LinkId, end: usize) -> Checked {
        let Some(found) = self.links.get(link).filter(|found| found.is_open(end)) else {
            return Ok(());
        };
        let (node, life) = (found.node(end), found.life(end));
        self.alive(node, life, |world, node| {
            let Some(process) = &mut world.node_mut(node).process else {
                return Ok(());
            };
            let now = process.clock.now();
            if let Some(ship) = process.ship.as_mut().filter(|ship| ship.link == link) {
                ship.shipping.handle(now, SenderInput::ControlFlushed);
            } else if process
                .session
                .as_ref()
                .is_some_and(|session| session.link == link)
                && let Some(following) = &mut process.following
            {
                following.handle(now, ReceiverInput::ControlFlushed);
            }
            Ok(())
        })
    }

    /// One end finds that its link is dead.
    pub(super) fn die(&mut self, link: LinkId, end: usize) -> Checked {
        let Some(found) = self.links.get_mut(link).filter(|found| found.is_open(end)) else {
            return Ok(());
        };
        let (node, life) = (found.node(end), found.life(end));
        let busy = self
            .node(node)
            .process
            .as_ref()
            .is_some_and(crate::process::Process::is_busy);
        if busy {
            self.after(
                MS / 4,
                Event::Dead {
                    link,
                    end,
                    cuts: None,
                },
            );
            return Ok(());
        }
        self.say(Some(node), format_args!("finds link {link} dead"));
        self.alive(node, life, |world, node| world.hang_up(node, link))
    }

    fn hang_up(&mut self, node: usize, link: LinkId) -> Checked {
        if let Some(found) = self.links.get_mut(link) {
            let end = found.end_of(node);
            found.shut(end);
        }
        let Some(process) = &mut self.node_mut(node).process else {
            return Ok(());
        };
        let now = process.clock.now();
        process.greeting.retain(|other| *other != link);
        if let Some(session) = process.session.take_if(|session| session.link == link)
            && let Some(following) = &mut process.following
        {
            let nonce = session.nonce;
            following.handle(now, ReceiverInput::Disconnected { nonce });
        }
        if let Some(mut ship) = process.ship.take_if(|ship| ship.link == link) {
            process.attached = false;
            ship.shipping.handle(now, SenderInput::Disconnected);
            self.dial_later(node);
        }
        Ok(())
    }
}

/// A message in few words.
fn brief(message: &Message) -> String {
    match message {
        Message::Hello(hello) => format!(
            "Hello {:?} end {} term {}",
            hello.mode, hello.end.lsn, hello.heard.number
        ),
        Message::Welcome(welcome) => {
            format!(
                "Welcome end {} term {}",
                welcome.end.lsn, welcome.heard.number
            )
        }
        Message::Ack(ack) => format!("Ack {} {} {}", ack.received, ack.durable, ack.applied),
        Message::Heartbeat(beat) => format!("Heartbeat visible {}", beat.view.visible),
        Message::Positions { view, .. } => format!("Positions visible {}", view.visible),
        Message::Refuse(refuse) => {
            format!("Refuse {:?} term {}", refuse.reason, refuse.heard.number)
        }
        other => other.name().to_owned(),
    }
}

fn flipped(bytes: &Bytes, bit: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.into()
}
