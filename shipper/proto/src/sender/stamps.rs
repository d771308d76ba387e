//! The heartbeats of one session that were not echoed yet.

use std::collections::VecDeque;

use crate::points::ProtectionPoint;
use crate::time::Stamp;

/// Heartbeats remembered. With the default interval, far longer than any session stays silent.
const OUTSTANDING_MAX: usize = 64;

/// Stamps handed out and not echoed. Invariant: strictly rising, all above the newest echoed one.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    outstanding: VecDeque<(Stamp, Option<ProtectionPoint>)>,
    newest_sent: Option<Stamp>,
    newest_echoed: Option<Stamp>,
}

/// What an echo is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EchoKind {
    /// It answers a heartbeat that no echo before it reached.
    New {
        /// The newest protection record that the heartbeat named.
        told: Option<ProtectionPoint>,
    },
    /// It is not newer than another one, or answers a heartbeat too old to be remembered.
    Stale,
    /// No heartbeat of this session had this stamp.
    NeverSent,
}

impl Stamps {
    pub(super) fn send(&mut self, stamp: Stamp, told: Option<ProtectionPoint>) {
        assert!(
            self.newest_sent.is_none_or(|newest| stamp > newest),
            "stamp {stamp:?} after {:?}",
            self.newest_sent
        );
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((stamp, told));
        self.newest_sent = Some(stamp);
    }

    pub(super) fn echo(&mut self, stamp: Stamp) -> EchoKind {
        let sent = self.outstanding.iter().find(|(other, _)| *other == stamp);
        if let Some((_, told)) = sent.copied() {
            self.outstanding.retain(|(other, _)| *other > stamp);
            self.newest_echoed = Some(stamp);
            return EchoKind::New { told };
        }
        let forgotten = self
            .outstanding
            .front()
            .is_some_and(|(oldest, _)| stamp < *oldest);
        if self.newest_echoed >= Some(stamp) || forgotten {
            EchoKind::Stale
        } else {
            EchoKind::NeverSent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_counts_and_only_forwards() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.echo(Stamp(5)), EchoKind::NeverSent);
        [10, 20, 30]
            .into_iter()
            .for_each(|at| stamps.send(Stamp(at), None));
        assert_eq!(stamps.echo(Stamp(20)), EchoKind::New { told: None });
        assert_eq!(stamps.echo(Stamp(20)), EchoKind::Stale);
        assert_eq!(stamps.echo(Stamp(10)), EchoKind::Stale);
        assert_eq!(stamps.echo(Stamp(31)), EchoKind::NeverSent);
        assert_eq!(stamps.echo(Stamp(30)), EchoKind::New { told: None });
        assert_eq!(stamps.echo(Stamp(31)), EchoKind::NeverSent);
    }

    #[test]
    fn memory_is_bounded_and_what_was_forgotten_is_stale() {
        let mut stamps = Stamps::default();
        (1..=1000).for_each(|at| stamps.send(Stamp(at), None));
        assert_eq!(stamps.outstanding.len(), OUTSTANDING_MAX);
        assert_eq!(stamps.echo(Stamp(7)), EchoKind::Stale);
        assert_eq!(stamps.echo(Stamp(999)), EchoKind::New { told: None });
    }
}
