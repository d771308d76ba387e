//! What a message does where it arrives.

use outlast_proto::Relation;

use super::cores::Verdict;
use super::{Greeting, Line, Log, Message, Nodes, Role, Rule, State, Why};

impl Nodes {
    pub(super) fn arrive(&self, s: &mut State, message: Message) {
        match message {
            Message::Hello { to, greeting } => self.hello(s, to, &greeting),
            Message::Welcome {
                session,
                from,
                to,
                log,
                heard,
            } => {
                if self.answers(s, session, from, to) && self.compare_terms(s, to, heard, false) {
                    self.welcome(s, from, to, &log);
                }
            }
            Message::Refuse {
                session,
                from,
                to,
                heard,
                conflict,
            } => {
                if s.node(to).lines[usize::from(from)].session == session {
                    self.compare_terms(s, to, heard, conflict);
                }
            }
            Message::Diverged { session, to } => {
                let here = s.node(to);
                if let Some(greeting) = here.following
                    && greeting.session == session
                    && let Relation::Forked(_) = self.relate(s, &greeting.log, &here.log)
                {
                    self.cut(s, to, &greeting);
                    self.agree(s, to, &greeting);
                }
            }
            Message::Data {
                session,
                to,
                resume,
                log,
            } => self.data(s, session, to, resume, &log),
            Message::Ack {
                session,
                from,
                to,
                durable,
            } => {
                let bound = self.on(Rule::AckOfThisSession);
                let node = s.node_mut(to);
                let writes = node.role == Role::Primary;
                let line = &mut node.lines[usize::from(from)];
                if writes && (line.session == session && line.up || !bound) {
                    line.replicated = line.replicated.max(durable);
                }
            }
        }
    }

    fn hello(&self, s: &mut State, to: u8, greeting: &Greeting) {
        let claimed = self.higher(s, greeting.log.last(), greeting.heard);
        let claimed = claimed.map(|epoch| self.opener(s, epoch));
        let verdict = self.meet(s, to, greeting);
        match verdict {
            Verdict::Follow => {
                self.hear(s, to, claimed);
                self.follow(s, to, greeting);
                return;
            }
            Verdict::Fence => self.fence(s, to, claimed),
            Verdict::Hear => {
                self.hear(s, to, claimed);
                s.node_mut(to).following = None;
            }
            Verdict::Conflict => self.conflict(s, to, claimed),
            Verdict::Refuse => {}
        }
        let conflict = s.node(to).role == Role::Conflict;
        s.line.push(Message::Refuse {
            session: greeting.session,
            from: to,
            to: greeting.from,
            heard: s.node(to).heard,
            conflict,
        });
    }

    fn hear(&self, s: &mut State, to: u8, claimed: Option<u8>) {
        let heard = self.higher(s, s.node(to).heard, claimed);
        let node = s.node_mut(to);
        node.heard = heard;
        if self.on(Rule::TermNotedFirst) {
            node.heard_durable = heard;
        }
    }

    fn follow(&self, s: &mut State, to: u8, greeting: &Greeting) {
        s.node_mut(to).following = Some(*greeting);
        let relation = self.relate(s, &greeting.log, &s.node(to).log);
        match relation {
            Relation::Prefix => {}
            _ if !self.on(Rule::CutOnProof) => self.cut(s, to, greeting),
            Relation::UnknownEpoch(_) => {
                let other = greeting.log.last();
                self.conflict(s, to, other);
                s.line.push(Message::Refuse {
                    session: greeting.session,
                    from: to,
                    to: greeting.from,
                    heard: s.node(to).heard,
                    conflict: true,
                });
                return;
            }
            Relation::StandbyAhead | Relation::Forked(_) => {}
        }
        self.agree(s, to, greeting);
    }

    /// Answers that it follows.
    fn agree(&self, s: &mut State, to: u8, greeting: &Greeting) {
        let under = greeting.log.last().map(|epoch| s.epoch(epoch).opener);
        self.serves(s, to, under);
        s.line.push(Message::Welcome {
            session: greeting.session,
            from: to,
            to: greeting.from,
            log: s.node(to).log,
            heard: s.node(to).heard,
        });
    }

    /// The node speaks under this term: never under a lower one than before.
    fn serves(&self, s: &mut State, to: u8, under: Option<u8>) {
        let number = |epoch: Option<u8>| epoch.map_or(0, |epoch| s.epoch(epoch).term);
        let told = s.node(to).told;
        if number(under) < number(told) {
            s.fault = Some("ONE TERM, and a standby serves a lower one than it did");
        }
        s.node_mut(to).told = under;
    }

    /// Cuts the log to what it shares with the writer's.
    fn cut(&self, s: &mut State, to: u8, greeting: &Greeting) {
        let log = s.node(to).log;
        let shared = log.shared(&greeting.log);
        let gone = (shared..).zip(&log.frames()[usize::from(shared)..]);
        let answered = gone.map(|(at, epoch)| at < s.epoch(*epoch).answered);
        if answered.into_iter().any(|answered| answered) {
            s.fault = Some("ANSWERED, and a standby cuts it");
        }
        let parted = greeting.log.frames().get(usize::from(shared));
        match parted.map(|epoch| s.epoch(*epoch).why) {
            Some(Why::Promotion | Why::Alone) => {}
            _ => {
                s.fault = s
                    .fault
                    .or(Some("KEPT, and no operator's act made a standby cut it"))
            }
        }
        let node = s.node_mut(to);
        node.log = log.cut(shared);
        node.durable = shared;
    }

    /// Whether an answer is one to a question of this process.
    fn answers(&self, s: &State, session: u8, from: u8, to: u8) -> bool {
        let node = s.node(to);
        let line = node.lines[usize::from(from)];
        let asks = matches!(node.role, Role::Primary | Role::Waiting);
        asks && (line.session == session || !self.on(Rule::HandshakeOfThisSession) && !line.up)
    }

    /// What a term means for a primary; whether it may go on.
    fn compare_terms(&self, s: &mut State, to: u8, heard: Option<u8>, conflict: bool) -> bool {
        if !matches!(s.node(to).role, Role::Primary | Role::Waiting) {
            return false;
        }
        let (theirs, ours) = (self.term(s, heard), self.term(s, s.node(to).heard));
        if theirs.number > ours.number {
            self.fence(s, to, heard);
            return false;
        }
        let equal = theirs.conflicts_with(&ours) && self.on(Rule::EqualTermsConflict);
        if equal || conflict {
            self.conflict(s, to, heard);
            return false;
        }
        true
    }

    fn welcome(&self, s: &mut State, from: u8, to: u8, theirs: &Log) {
        let relation = self.relate(s, &s.node(to).log, theirs);
        let noted = self.on(Rule::AttachmentNoted);
        let fetches = self.on(Rule::FetchBack);
        let writes = s.node(to).role == Role::Primary;
        let node = s.node_mut(to);
        let line = &mut node.lines[usize::from(from)];
        match (writes, relation) {
            (_, Relation::UnknownEpoch(_)) => self.conflict(s, to, theirs.last()),
            (false, Relation::StandbyAhead) if fetches => {
                line.contacted = true;
                node.log = *theirs;
                node.durable = theirs.end();
            }
            (false, _) => line.contacted = true,
            (true, Relation::StandbyAhead) => {}
            (true, Relation::Prefix) => {
                line.up = true;
                line.replicated = theirs.end();
                node.attached = true;
                node.attached_durable |= noted;
            }
            (true, Relation::Forked(_)) => {
                let session = line.session;
                s.line.push(Message::Diverged { session, to: from });
            }
        }
    }

    fn data(&self, s: &mut State, session: u8, to: u8, resume: u8, frames: &Log) {
        let here = s.node(to);
        let Some(greeting) = here
            .following
            .filter(|greeting| greeting.session == session)
        else {
            return;
        };
        if here.role != Role::Standby || here.log.end() != resume {
            return;
        }
        let under = greeting.log.last().map(|epoch| s.epoch(epoch).opener);
        self.serves(s, to, under);
        let node = s.node_mut(to);
        for frame in frames.frames().iter().skip(usize::from(resume)) {
            node.log.push(*frame);
        }
        node.durable = node.log.end();
        let durable = node.durable;
        s.line.push(Message::Ack {
            session,
            from: to,
            to: greeting.from,
            durable,
        });
    }

    fn fence(&self, s: &mut State, to: u8, claimed: Option<u8>) {
        let durable = self.on(Rule::FenceDurable);
        let stops = self.on(Rule::FenceAtHigherTerm);
        let node = s.node_mut(to);
        node.fenced = true;
        if stops {
            node.role = Role::Fenced;
            node.heard = claimed;
            node.fence_durable = durable;
            if durable {
                node.heard_durable = claimed;
            }
            node.lines = [Line::default(); 3];
        }
    }

    fn conflict(&self, s: &mut State, to: u8, with: Option<u8>) {
        if let (Some(one), Some(other)) = (s.node(to).heard, with) {
            let (one, other) = (s.epoch(one).opener, s.epoch(other).opener);
            let knew = |one: u8, other| s.epoch(one).knew == Some(other);
            if one != other && (knew(one, other) || knew(other, one)) {
                s.fault = Some("ORDER, and two promotions of which one knew the other conflict");
            }
        }
        let node = s.node_mut(to);
        node.role = Role::Conflict;
        node.following = None;
        node.lines = [Line::default(); 3];
    }
}
