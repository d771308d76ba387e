//! One session of a receiver.

use outlast_engine::format::EpochId;

use super::follow::Following;
use super::serve::Serving;
use crate::config::Config;
use crate::message::Hello;
use crate::points::Term;
use crate::session::{Binding, Nonce, SessionId};
use crate::time::MonoTime;

/// From its Hello to its end.
#[derive(Debug)]
pub(super) struct Session {
    /// What the primary said when it dialled.
    pub(super) hello: Box<Hello>,
    pub(super) binding: Binding,
    pub(super) phase: Phase,
    pub(super) control_busy: bool,
    /// When the primary was heard last, or this node finished what the primary waits for.
    pub(super) heard_at: MonoTime,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The term is being noted and the log fsynced.
    Preparing,
    /// Welcome is sent, or CutDone.
    Welcomed,
    /// The forked tail is being put aside.
    Cutting,
    Following(Box<Following>),
    Serving(Box<Serving>),
}

impl Session {
    pub(super) fn new(now: MonoTime, nonce: Nonce, hello: Box<Hello>) -> Self {
        let newest = hello.history.last();
        let binding = Binding {
            session: SessionId {
                dialler: hello.nonce,
                listener: nonce,
            },
            epoch: newest.map_or(EpochId::NONE, |epoch| epoch.id),
        };
        Self {
            hello,
            binding,
            phase: Phase::Preparing,
            control_busy: false,
            heard_at: now,
        }
    }

    /// The primary's term.
    pub(super) fn term(&self) -> Term {
        Term::of(&self.hello.history)
    }

    /// When the session is over if nothing is heard. While this node itself is at work for the
    /// primary, there is no limit here: the primary has its own.
    pub(super) fn deadline(&self, config: &Config) -> Option<MonoTime> {
        match &self.phase {
            Phase::Preparing | Phase::Cutting => None,
            Phase::Welcomed | Phase::Serving(_) => {
                Some(self.heard_at.after(config.handshake_timeout))
            }
            Phase::Following(_) => Some(self.heard_at.after(config.silence_max)),
        }
    }
}
