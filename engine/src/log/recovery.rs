//! Recovery: what a crash leaves, told apart from what rot leaves.
//!
//! The log is read up to X, where the first bytes lie that are not the next frame. What is done
//! about them depends on two thresholds. **L** is the highest position that something vouches was
//! durable *here*: a crash never takes away what was fsynced, so a fault below L is damage, and one
//! at or above L is a tail that the crash tore. **P** is what the peer has: where it has more than
//! this disk, the tail is not gone but lost, and comes back from there.

use crate::format::{Lsn, LsnRange};
use crate::planted::{Bug, on};

/// P, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    /// There is none, or nobody waits for it: a single node, or an operator said so.
    None,
    /// It has not answered this process yet.
    NotHeard,
    /// Its log holds this much of this one's history.
    Has(Lsn),
}

/// What this node was when it last wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It formed the last frames itself. Another node may hold them, and can be asked.
    Writer,
    /// It received them. It may be all that is left, and is sent again what it lacks.
    Follower,
}

/// What the scan of a log found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    /// X: end of the last frame before which all holds.
    pub(super) end: Lsn,
    /// L: highest position vouched durable here.
    pub(super) vouched: Lsn,
    /// Whether anything but zeros lies behind X.
    pub(super) litter: bool,
    pub(super) role: Role,
    pub(super) peer: Peer,
}

/// What to do before the log goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Damage below L on a writer: touch nothing, name the range and its repair.
    Refuse(LsnRange),
    /// The peer may hold more: write nothing before it was heard.
    Wait,
    /// Go on from X. Where `cut`, keep a copy of what lies behind X and zero it.
    Go {
        /// Whether there is anything to cut.
        cut: bool,
        /// What the log lacks behind X.
        missing: Missing,
    },
}

/// What a log lacks behind X.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    /// Nothing that anybody was promised.
    Nothing,
    /// A lost tail: the peer was faster than this disk, and gives it back.
    Fetch(LsnRange),
    /// Bytes that this node had acknowledged: until they were sent again it says so.
    Acked(LsnRange),
}

/// The decision, for every combination of facts.
pub(super) fn plan(facts: Facts) -> Plan {
    let Facts {
        end,
        vouched,
        litter: cut,
        role,
        peer,
    } = facts;
    let missing = |missing| Plan::Go { cut, missing };
    if on(Bug::CutInMidLog) && cut {
        return missing(Missing::Nothing);
    }
    match (end < vouched, role, peer) {
        (true, Role::Writer, _) => Plan::Refuse(LsnRange::new(end, vouched)),
        (true, Role::Follower, _) => missing(Missing::Acked(LsnRange::new(end, vouched))),
        // Two nodes that start together never wait for each other: a follower does not ask.
        (false, Role::Follower, _) | (false, Role::Writer, Peer::None) => missing(Missing::Nothing),
        (false, Role::Writer, Peer::NotHeard) => Plan::Wait,
        (false, Role::Writer, Peer::Has(lsn)) if lsn > end => {
            missing(Missing::Fetch(LsnRange::new(end, lsn)))
        }
        (false, Role::Writer, Peer::Has(_)) => missing(Missing::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `FORMAT.md`, line by line, over every input.
    #[test]
    fn every_combination_of_facts_has_its_plan() {
        let mut seen = 0;
        for (x, l) in [(0, 0), (8, 0), (8, 8), (8, 16), (0, 8)] {
            let (end, vouched) = (Lsn(x), Lsn(l));
            let peers = [0, x.saturating_sub(8), x, x + 8, x + 80].map(|p| Peer::Has(Lsn(p)));
            for peer in peers.into_iter().chain([Peer::None, Peer::NotHeard]) {
                for role in [Role::Writer, Role::Follower] {
                    for litter in [false, true] {
                        let facts = Facts {
                            end,
                            vouched,
                            litter,
                            role,
                            peer,
                        };
                        assert_eq!(plan(facts), expected(facts), "{facts:?}");
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 5 * 7 * 2 * 2);
    }

    fn expected(facts: Facts) -> Plan {
        let lost = LsnRange::new(facts.end, facts.vouched);
        let damaged = facts.end < facts.vouched;
        let cut = facts.litter;
        if facts.role == Role::Follower {
            let missing = if damaged {
                Missing::Acked(lost)
            } else {
                Missing::Nothing
            };
            return Plan::Go { cut, missing };
        }
        if damaged {
            return Plan::Refuse(lost);
        }
        match facts.peer {
            Peer::NotHeard => Plan::Wait,
            Peer::Has(p) if p > facts.end => Plan::Go {
                cut,
                missing: Missing::Fetch(LsnRange::new(facts.end, p)),
            },
            Peer::None | Peer::Has(_) => Plan::Go {
                cut,
                missing: Missing::Nothing,
            },
        }
    }
}
