//! What may happen next.

use super::log::FRAMES;
use super::{
    Certificate, Epoch, Greeting, Line, Log, Message, Node, Nodes, Role, Rule, State, Step, Why,
};
use crate::search::Model;

/// The nodes, by number.
const ALL: [u8; 3] = [0, 1, 2];

impl Nodes {
    pub(super) fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// The standbys of a primary.
    fn of(&self, node: u8) -> impl Iterator<Item = u8> {
        let bits = self.standbys[usize::from(node)];
        ALL.into_iter().filter(move |other| bits & 1 << other != 0)
    }

    /// Whether a primary that restarted has to hear from its standbys.
    fn waits(&self, node: &Node) -> bool {
        node.attached && self.on(Rule::RestartWaitsForStandby)
    }

    fn may_answer(&self, s: &State, node: u8) -> bool {
        let here = s.node(node);
        let end = here.answered + 1;
        let held = |standby: u8| here.lines[usize::from(standby)].replicated >= end;
        let held = if self.on(Rule::AllHoldIt) {
            self.of(node).all(held)
        } else {
            self.of(node).any(held)
        };
        let here_too = end <= here.durable || !self.on(Rule::DurableHereToo);
        here.role == Role::Primary && end <= here.log.end() && here_too && held
    }

    fn messages(&self, s: &State, node: u8) -> Vec<Message> {
        let here = s.node(node);
        let mut all = Vec::new();
        for to in self.of(node) {
            let line = here.lines[usize::from(to)];
            if s.sessions < self.sessions {
                let greeting = Greeting {
                    session: s.sessions + 1,
                    from: node,
                    contact: here.role == Role::Waiting,
                    log: here.log,
                    heard: here.heard,
                };
                all.push(Message::Hello { to, greeting });
            }
            if line.up && line.replicated < here.log.end() {
                all.push(Message::Data {
                    session: line.session,
                    to,
                    resume: line.replicated,
                    log: here.log,
                });
            }
        }
        all.retain(|message| !s.line.contains(message));
        all
    }

    fn writer(&self, s: &State, node: u8, add: &mut impl FnMut(Step, &dyn Fn(&mut State))) {
        let here = s.node(node);
        let room = usize::from(here.log.end()) < FRAMES;
        if here.role == Role::Primary && s.commits < self.commits && room {
            add(Step::Append { node }, &|s| {
                s.commits += 1;
                let here = s.node_mut(node);
                let epoch = here.log.last().expect("a writer has begun an epoch");
                here.log.push(epoch);
                if here.fenced {
                    s.fault = Some("FENCED, and it goes on writing");
                }
            });
        }
        if here.durable < here.log.end() {
            add(Step::Fsync { node }, &|s| {
                let here = s.node_mut(node);
                here.durable = here.log.end();
            });
        }
        if self.may_answer(s, node) {
            add(Step::Answer { node }, &|s| {
                let here = s.node_mut(node);
                here.answered += 1;
                let end = here.answered;
                let epoch = here.log.frames()[usize::from(end) - 1];
                if here.fenced {
                    s.fault = Some("FENCED, and it goes on answering");
                }
                s.epoch_mut(epoch).answered = end;
            });
        }
        if s.line.len() < self.under_way && matches!(here.role, Role::Primary | Role::Waiting) {
            for message in self.messages(s, node) {
                add(Step::Send(message), &|s| {
                    if let Message::Hello { to, greeting } = message {
                        s.sessions = greeting.session;
                        s.node_mut(node).lines[usize::from(to)] = Line {
                            session: greeting.session,
                            up: false,
                            ..s.node(node).lines[usize::from(to)]
                        };
                    }
                    s.line.push(message);
                });
            }
        }
        if here.role == Role::Waiting && room {
            let heard = |standby: u8| here.lines[usize::from(standby)].contacted;
            if !self.waits(here) || self.of(node).all(heard) {
                add(Step::Begin { node }, &|s| {
                    self.begin(s, node, Why::Restart);
                });
            } else if s.alone < self.alone {
                add(Step::Alone { node }, &|s| {
                    s.alone += 1;
                    self.begin(s, node, Why::Alone);
                });
            }
        }
    }

    fn operator(&self, s: &State, node: u8, add: &mut impl FnMut(Step, &dyn Fn(&mut State))) {
        let here = s.node(node);
        let held = here.log.end() > 0;
        if s.crashes < self.crashes && held {
            for kept in [false, true] {
                if !kept || here.durable < here.log.end() {
                    add(Step::Crash { node, kept }, &|s| crash(s, node, kept));
                }
            }
        }
        let room = usize::from(here.log.end()) < FRAMES;
        if here.role == Role::Standby && s.promotions < self.promotions && held && room {
            add(Step::Promote { node }, &|s| {
                s.promotions += 1;
                self.certify(s, node);
                self.begin(s, node, Why::Promotion);
            });
        }
        // Only a directory without the newest term is given up, for the sake of one that has it.
        let term = |node: u8| s.node(node).log.last().map_or(0, |e| s.epoch(e).term);
        let newest = ALL.into_iter().map(term).max().unwrap_or_default();
        for from in ALL {
            let writes = s.node(from).role == Role::Primary && term(from) == newest;
            if s.restores < self.restores && writes && term(node) < newest {
                add(Step::Restore { node, from }, &|s| {
                    s.restores += 1;
                    restore(s, node, from);
                });
            }
        }
    }

    /// The promoted node states what its log proves of the term that it belongs to.
    fn certify(&self, s: &mut State, node: u8) {
        let here = s.node(node);
        let Some(term) = here.log.last().map(|epoch| self.opener(s, epoch)) else {
            return;
        };
        let mut of = self.of(s.epoch(term).node);
        let newest = self.opener_number(s, here.heard) <= self.opener_number(s, Some(term));
        if newest && of.any(|standby| standby == node) {
            let log = here.log;
            let term = s.epoch(term).opener;
            s.certificates.push(Certificate { term, log });
        }
    }

    fn opener_number(&self, s: &State, epoch: Option<u8>) -> u8 {
        epoch.map_or(0, |epoch| self.number(s, epoch))
    }

    fn begin(&self, s: &mut State, node: u8, why: Why) {
        let id = u8::try_from(s.epochs.len()).expect("there are few");
        let here = *s.node(node);
        let parent = *s.epoch(here.log.last().expect("it holds something"));
        let promoted = why == Why::Promotion;
        let heard = here.heard.map_or(0, |epoch| s.epoch(epoch).term);
        let above = if self.on(Rule::TermAboveHeard) {
            heard.max(parent.term)
        } else {
            parent.term
        };
        if here.fenced && !promoted {
            s.fault = Some("FENCED, and it begins another epoch");
        }
        s.epochs.push(Epoch {
            term: if promoted { above + 1 } else { parent.term },
            start: parent.start + 1,
            opener: if promoted { id } else { parent.opener },
            node,
            why,
            answered: 0,
            knew: if promoted { here.told } else { parent.knew },
        });
        let durable = self.on(Rule::EpochDurableFirst) || !promoted;
        let opener = self.opener(s, id);
        let here = s.node_mut(node);
        here.log.push(id);
        here.role = Role::Primary;
        here.heard = Some(opener);
        here.answered = here.log.end();
        here.following = None;
        here.lines = [Line::default(); 3];
        if durable {
            here.durable = here.log.end();
            here.heard_durable = here.heard;
        }
        if promoted {
            (here.attached, here.attached_durable) = (false, false);
            (here.told, here.fenced) = (None, false);
        }
    }
}

fn crash(s: &mut State, node: u8, kept: bool) {
    s.crashes += 1;
    let here = s.node(node);
    let log = if kept {
        here.log
    } else {
        here.log.cut(here.durable)
    };
    let wrote = log.last().is_some_and(|epoch| s.epoch(epoch).node == node);
    let role = match here.role {
        Role::Fenced if here.fence_durable => Role::Fenced,
        Role::Conflict => Role::Conflict,
        Role::Standby => Role::Standby,
        _ if wrote => Role::Waiting,
        _ => Role::Standby,
    };
    *s.node_mut(node) = Node {
        role,
        log,
        durable: log.end(),
        answered: 0,
        heard: here.heard_durable,
        attached: here.attached_durable,
        following: None,
        lines: [Line::default(); 3],
        ..*here
    };
}

fn restore(s: &mut State, node: u8, from: u8) {
    let there = s.node(from);
    let log = there.log.cut(there.answered);
    let heard = there.log.last().map(|epoch| s.epoch(epoch).opener);
    *s.node_mut(node) = Node {
        log,
        durable: log.end(),
        heard,
        heard_durable: heard,
        ..Node::new(Role::Standby)
    };
}

impl Node {
    /// One without anything.
    fn new(role: Role) -> Self {
        Self {
            role,
            log: Log::default(),
            durable: 0,
            answered: 0,
            heard: None,
            heard_durable: None,
            fence_durable: false,
            attached: false,
            attached_durable: false,
            following: None,
            lines: [Line::default(); 3],
            told: None,
            fenced: false,
        }
    }
}

impl Model for Nodes {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let mut log = Log::default();
        log.push(0);
        let held = Node {
            log,
            durable: 1,
            heard: Some(0),
            heard_durable: Some(0),
            ..Node::new(Role::Standby)
        };
        let mut nodes = [Node::new(Role::Standby); 3];
        for standby in self.of(0) {
            nodes[usize::from(standby)] = held;
        }
        nodes[0] = Node {
            role: Role::Primary,
            answered: 1,
            ..held
        };
        State {
            nodes,
            epochs: vec![Epoch {
                term: 1,
                start: 1,
                opener: 0,
                node: 0,
                why: Why::Init,
                answered: 0,
                knew: None,
            }],
            line: Vec::new(),
            certificates: Vec::new(),
            commits: 0,
            sessions: 0,
            promotions: 0,
            crashes: 0,
            restores: 0,
            alone: 0,
            fault: None,
        }
    }

    fn next(&self, state: &State) -> Vec<(Step, State)> {
        let mut all = Vec::new();
        let mut add = |step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            next.line.sort_unstable();
            next.line.dedup();
            all.push((step, next));
        };
        for node in ALL {
            self.writer(state, node, &mut add);
            self.operator(state, node, &mut add);
        }
        for &message in &state.line {
            let take = |s: &mut State| s.line.retain(|other| *other != message);
            add(Step::Drop(message), &take);
            add(Step::Arrive(message), &|s| {
                take(s);
                self.arrive(s, message);
            });
        }
        all
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        state.judge()
    }
}
