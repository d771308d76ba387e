//! What is promised about loss: a policy, who holds the copies, and whether the promise stands.

use std::time::Duration;

use outlast_engine::format::NodeId;
use thiserror::Error;

/// Least [`Bound::lease`] and least [`Bound::time`].
pub const BOUND_TIME_MIN: Duration = Duration::from_millis(1);
/// Longest [`Bound::lease`], [`Bound::time`] and suspension.
pub const BOUND_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Default of [`Bound::lease`].
pub const LEASE_DEFAULT: Duration = Duration::from_secs(3);

/// The exposure that is allowed: the most that can be lost if this building burns now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bound {
    /// Most acknowledged bytes of log that the standbys may lack; `None` for no such limit.
    pub bytes: Option<u64>,
    /// Most acknowledged commits that they may lack.
    pub commits: Option<u64>,
    /// Longest time between the answers of the oldest and the newest commit that they may lack.
    pub time: Option<Duration>,
    /// How long after the last echoed heartbeat commits may be answered.
    pub lease: Duration,
}

/// How much may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    /// No bound, and no fence by silence.
    Async,
    /// No more than this.
    Bounded(Bound),
}

impl Policy {
    /// Nothing may be lost: a commit is answered once the standbys have it.
    #[must_use]
    pub const fn sync(lease: Duration) -> Self {
        Self::Bounded(Bound {
            bytes: Some(0),
            commits: Some(0),
            time: None,
            lease,
        })
    }

    /// Its name in settings and output.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Bounded(Bound {
                bytes: Some(0),
                commits: Some(0),
                ..
            }) => "sync",
            Self::Bounded(_) => "bounded",
        }
    }
}

/// What becomes of new commits while the bound is used up or the lease is out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Action {
    /// They wait, as long as their deadlines allow.
    #[default]
    Stall,
    /// They fail before they are in the log.
    Refuse,
}

/// Whether a promise stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// Not yet, or not any more.
    Off,
    /// It does.
    InForce,
    /// An operator suspended it; it stands again after this time by itself.
    Suspended {
        /// For how long.
        lasts: Duration,
    },
}

/// A protection record: complete, so that the newest one says all.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Protection {
    /// How much may be lost.
    pub policy: Policy,
    /// What becomes of new commits meanwhile.
    pub action: Action,
    /// The standbys.
    pub members: Vec<NodeId>,
    /// How many of them must hold what is acknowledged.
    pub copies: u32,
    /// Whether the promise stands.
    pub standing: Standing,
}

/// A promise that cannot be kept, or contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProtectionFault {
    /// Nothing is bounded.
    #[error("a bound of nothing: say bytes, commits or time, or choose the policy async")]
    NoBound,
    /// A time or a lease out of its limits.
    #[error(
        "{what} of {is:?}: choose one from {BOUND_TIME_MIN:?} to {} h",
        BOUND_TIME_MAX.as_secs() / 3600
    )]
    Time {
        /// Which one.
        what: &'static str,
        /// What it is.
        is: Duration,
    },
    /// Somebody must hold what is acknowledged.
    #[error("a bound without a standby: add one, or choose the policy async")]
    NoMembers,
    /// A standby is named twice.
    #[error("standby {0} is named twice")]
    Twice(NodeId),
    /// Fewer copies than standbys: which of them holds what would be known to none of them.
    #[error(
        "{copies} of {members} standbys: this version asks all of them to hold what is \
         acknowledged; set copies to {members}"
    )]
    Copies {
        /// How many were to hold it.
        copies: u32,
        /// How many there are.
        members: usize,
    },
    /// Written by a newer version.
    #[error("a promise that this version does not know: run the same version on both nodes")]
    NotKnown,
    /// What is not promised cannot be suspended or in force.
    #[error("the policy async promises nothing: it is neither in force nor suspended")]
    NothingPromised,
}

impl Protection {
    /// No promise: what a cluster begins with, and an epoch that was begun by a promotion.
    #[must_use]
    pub const fn none(members: Vec<NodeId>) -> Self {
        Self {
            policy: Policy::Async,
            action: Action::Stall,
            members,
            copies: 0,
            standing: Standing::Off,
        }
    }

    /// The same promise, standing like this.
    #[must_use]
    pub fn standing(&self, standing: Standing) -> Self {
        Self {
            standing,
            ..self.clone()
        }
    }

    /// Checks that it can be kept.
    ///
    /// # Errors
    /// Says why it cannot.
    pub fn check(&self) -> Result<(), ProtectionFault> {
        for (index, member) in self.members.iter().enumerate() {
            if self.members.iter().skip(index + 1).any(|m| m == member) {
                return Err(ProtectionFault::Twice(*member));
            }
        }
        let Policy::Bounded(bound) = &self.policy else {
            return match self.standing {
                Standing::Off => Ok(()),
                _ => Err(ProtectionFault::NothingPromised),
            };
        };
        if bound.bytes.is_none() && bound.commits.is_none() && bound.time.is_none() {
            return Err(ProtectionFault::NoBound);
        }
        check_time("a lease", bound.lease)?;
        if let Some(time) = bound.time {
            check_time("a bound of time", time)?;
        }
        if let Standing::Suspended { lasts } = self.standing {
            check_time("a suspension", lasts)?;
        }
        let (copies, members) = (self.copies, self.members.len());
        if members == 0 {
            return Err(ProtectionFault::NoMembers);
        }
        if copies as usize != members {
            return Err(ProtectionFault::Copies { copies, members });
        }
        Ok(())
    }
}

fn check_time(what: &'static str, is: Duration) -> Result<(), ProtectionFault> {
    if (BOUND_TIME_MIN..=BOUND_TIME_MAX).contains(&is) {
        Ok(())
    } else {
        Err(ProtectionFault::Time { what, is })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounded() -> Protection {
        Protection {
            policy: Policy::Bounded(Bound {
                bytes: None,
                commits: Some(100),
                time: None,
                lease: LEASE_DEFAULT,
            }),
            action: Action::Stall,
            members: vec![NodeId([1; 16])],
            copies: 1,
            standing: Standing::InForce,
        }
    }

    #[test]
    fn a_promise_that_cannot_be_kept_is_refused_with_its_reason() {
        let with = |change: fn(&mut Protection)| {
            let mut protection = bounded();
            change(&mut protection);
            protection.check()
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|p| p.policy = Policy::sync(LEASE_DEFAULT)), Ok(()));
        assert_eq!(with(|p| p.members.clear()), Err(ProtectionFault::NoMembers));
        assert_eq!(
            with(|p| p.members = vec![NodeId([1; 16]); 2]),
            Err(ProtectionFault::Twice(NodeId([1; 16])))
        );
        let fewer = with(|p| p.members.push(NodeId([2; 16])));
        let (copies, members) = (1, 2);
        assert_eq!(fewer, Err(ProtectionFault::Copies { copies, members }));
        assert_eq!(
            with(|p| p.policy = Policy::Async),
            Err(ProtectionFault::NothingPromised)
        );
        let bound = |change: fn(&mut Bound)| {
            let mut protection = bounded();
            if let Policy::Bounded(bound) = &mut protection.policy {
                change(bound);
            }
            protection.check()
        };
        assert_eq!(bound(|b| b.commits = None), Err(ProtectionFault::NoBound));
        for is in [Duration::ZERO, BOUND_TIME_MAX * 2] {
            let mut protection = bounded();
            protection.policy = Policy::sync(is);
            let what = "a lease";
            assert_eq!(protection.check(), Err(ProtectionFault::Time { what, is }));
            let mut protection = bounded();
            protection.standing = Standing::Suspended { lasts: is };
            let what = "a suspension";
            assert_eq!(protection.check(), Err(ProtectionFault::Time { what, is }));
        }
    }

    #[test]
    fn sync_is_a_bound_of_nothing_at_all() {
        assert_eq!(Policy::Async.name(), "async");
        assert_eq!(Policy::sync(LEASE_DEFAULT).name(), "sync");
        assert_eq!(bounded().policy.name(), "bounded");
    }
}
