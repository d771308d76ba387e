//! What was dropped because it named something else.

use crate::message::Message;
use crate::session::Binding;

/// Messages and runs that were dropped without effect. They are expected after a reconnect or a
/// new epoch; many of them at other times mean that somebody replays old traffic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Dropped {
    /// Messages and runs of another session.
    pub other_session: u64,
    /// Messages and runs of this session under another epoch.
    pub other_epoch: u64,
    /// Heartbeats and echoes that are not newer than one that was heard before.
    pub stale: u64,
}

impl Dropped {
    /// Whether a message is bound as it must be. Counts it if not. Handshakes are not bound.
    pub(crate) fn admits(&mut self, message: &Message, binding: Option<&Binding>) -> bool {
        match (message.binding(), binding) {
            (None, _) => true,
            (Some(got), Some(ours)) => self.admits_binding(got, ours),
            (Some(_), None) => {
                self.other_session += 1;
                false
            }
        }
    }

    /// Whether `got` is what it must be. Counts it if not.
    pub(crate) fn admits_binding(&mut self, got: &Binding, ours: &Binding) -> bool {
        if got.session != ours.session {
            self.other_session += 1;
        } else if got.epoch != ours.epoch {
            self.other_epoch += 1;
        }
        got == ours
    }
}
