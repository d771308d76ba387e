//! How a primary is lost.

use std::fmt;

use clap::ValueEnum;
use fastrand::Rng;
use serde::Serialize;

/// How a primary is lost, and what comes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum How {
    /// SIGKILL, with the line cut before it, with it, or not at all
    Kill,
    /// SIGKILL, and somebody starts it again after the promotion
    Restart,
    /// SIGSTOP, and SIGCONT after the promotion
    Stop,
    /// The line is cut, both ways or one way; the primary and its clients go on
    Cut,
    /// The building is gone: SIGKILL, its directory deleted, the line cut
    Gone,
    /// SIGKILL, when the standby's disk has become full; needs root
    Full,
}

impl How {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Kill,
        Self::Restart,
        Self::Stop,
        Self::Cut,
        Self::Gone,
        Self::Full,
    ];

    /// One of `among`.
    pub(super) fn draw(among: &[Self], random: &mut Rng) -> Self {
        let place = random.usize(..among.len().max(1));
        among.get(place).copied().unwrap_or(Self::Kill)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::Gone => "gone",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
