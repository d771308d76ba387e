//! The line between the two nodes: whichever dials the other, a cut is a cut.

use std::time::Duration;

use anyhow::Result;

use crate::pair::Pair;
use crate::relay::{self, Lines, RelayHandle, Settings};

/// Which way nothing passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Neither way.
    Both,
    /// From the first node to the second: its log and its heartbeats.
    ToSecond,
    /// From the second node to the first: acknowledgements and echoes.
    ToFirst,
}

/// Two relays: the first node dials the second through one, the second the first through the other.
pub(super) struct Line {
    from_first: RelayHandle,
    from_second: RelayHandle,
}

impl Line {
    /// A line of this delay each way between the nodes of a pair, which must not run yet.
    pub(super) fn between(pair: &Pair, delay: Duration, seed: u64) -> Result<Self> {
        let mut lines = Lines::default();
        (lines.up.delay, lines.down.delay) = (delay, delay);
        let relay = |to| {
            let lines = lines.clone();
            relay::spawn(Settings {
                lines,
                seed,
                ..Settings::plain(to)
            })
        };
        let (from_first, from_second) = (relay(pair.b.address())?, relay(pair.a.address())?);
        pair.reach(&pair.a, from_first.address())?;
        pair.reach(&pair.b, from_second.address())?;
        Ok(Self {
            from_first,
            from_second,
        })
    }

    /// Nothing passes this way any more when this returns, not even what is under way.
    pub(super) fn cut(&mut self, cut: Cut) -> Result<()> {
        let to_second = matches!(cut, Cut::Both | Cut::ToSecond);
        let to_first = matches!(cut, Cut::Both | Cut::ToFirst);
        self.set(to_second, to_first)
    }

    /// All passes again.
    pub(super) fn heal(&mut self) -> Result<()> {
        self.set(false, false)
    }

    fn set(&mut self, to_second: bool, to_first: bool) -> Result<()> {
        self.from_first
            .change(|lines| (lines.up.cut, lines.down.cut) = (to_second, to_first))?;
        self.from_second
            .change(|lines| (lines.up.cut, lines.down.cut) = (to_first, to_second))?;
        Ok(())
    }
}
