//! What a standby has heard of terms and protection, and what of it is noted durably.

use super::io::ReceiverOutput;
use crate::facts::StandbyFacts;
use crate::points::{ProtectionPoint, Term};

/// The highest term and the newest protection record. Neither ever goes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Note {
    heard: Term,
    protection: Option<ProtectionPoint>,
}

/// Invariant: noted ≤ in flight ≤ heard, part by part.
#[derive(Debug)]
pub(super) struct Notes {
    heard: Note,
    in_flight: Option<Note>,
    noted: Note,
}

impl Notes {
    pub(super) fn new(facts: &StandbyFacts) -> Self {
        let own = Term::of(&facts.log.history);
        assert!(
            !own.conflicts_with(&facts.heard),
            "a log of term {own} in a node that heard of {}",
            facts.heard
        );
        let noted = Note {
            heard: facts.heard.or_higher(own),
            protection: facts.protection,
        };
        Self {
            heard: noted,
            in_flight: None,
            noted,
        }
    }

    /// The highest term ever heard of.
    pub(super) const fn heard(&self) -> Term {
        self.heard.heard
    }

    /// The newest protection record that is noted durably.
    pub(super) const fn noted_protection(&self) -> Option<ProtectionPoint> {
        self.noted.protection
    }

    pub(super) fn hear_term(&mut self, term: Term) {
        self.heard.heard = self.heard.heard.or_higher(term);
    }

    pub(super) fn hear_protection(&mut self, point: Option<ProtectionPoint>) {
        self.heard.protection = self.heard.protection.max(point);
    }

    /// Whether the highest term heard of is noted, and a protection record as new as `point`.
    pub(super) fn cover(&self, point: Option<ProtectionPoint>) -> bool {
        self.noted.heard == self.heard.heard && self.noted.protection >= point
    }

    /// What to note now, if there is news and no note is under way.
    pub(super) fn next(&mut self) -> Option<ReceiverOutput> {
        if self.in_flight.is_some() || self.noted == self.heard {
            return None;
        }
        self.in_flight = Some(self.heard);
        Some(ReceiverOutput::Note {
            heard: self.heard.heard,
            protection: self.heard.protection,
        })
    }

    pub(super) fn on_noted(&mut self) {
        let Some(note) = self.in_flight.take() else {
            panic!("a note was made that nobody asked for");
        };
        self.noted = note;
    }
}
