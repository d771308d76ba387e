//! Which pieces of the log are rewritten next.

use std::ops::Range;

/// What is known of one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Weight {
    /// Bytes on the disk that records could take.
    pub(crate) len: u64,
    /// Bytes of records that are still needed, as far as flushes and merges have counted.
    pub(crate) live: u64,
    /// Bytes of deletes in a piece that was rewritten before; `None` of one that never was.
    pub(crate) deletes: Option<u64>,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    /// What keeps the log from being much larger than what it must hold.
    Needed,
    /// The same on a full disk: what needs the least room.
    NeededOnFullDisk,
    /// All that can be given back.
    Reclaim,
    /// The same, and everything else put in the order of its keys.
    Order,
    /// What ordering takes, one by one in an order drawn from a seed.
    #[cfg(test)]
    Any(u64),
}

/// Sizes that limit a rewriting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of needed records in one sparse segment: about those of a segment.
    pub(crate) output: u64,
    /// Bytes of pieces that are rewritten as one.
    pub(crate) input: u64,
}

/// A quarter of the log may be waste before something is done by itself.
const WASTE_PARTS: u64 = 4;
/// From a third on it is done without rest.
const HASTE_PARTS: u64 = 3;
/// A neighbour is taken along from this part of waste on, and reclaiming begins there.
const NEIGHBOUR_PARTS: u64 = 16;

impl Weight {
    const fn waste(self) -> u64 {
        self.len.saturating_sub(self.live)
    }

    /// Waste in thousandths.
    fn share(self) -> u64 {
        self.waste() * 1000 / self.len.max(1)
    }

    const fn wastes(self, parts: u64) -> bool {
        self.waste() * parts >= self.len && self.waste() > 0
    }
}

/// Whether so much is waste that it must be given back in haste.
pub(crate) fn is_behind(pieces: &[Weight]) -> bool {
    let len: u64 = pieces.iter().map(|piece| piece.len).sum();
    let waste: u64 = pieces.iter().map(|piece| piece.waste()).sum();
    waste * HASTE_PARTS >= len && waste > 0
}

/// The pieces to be rewritten as one, of `pieces` in the order of the log; `None` when nothing is
/// to be done.
pub(crate) fn pick(pieces: &[Weight], aim: Aim, limits: Limits) -> Option<Range<usize>> {
    let seed = match aim {
        Aim::Needed | Aim::NeededOnFullDisk => {
            let len: u64 = pieces.iter().map(|piece| piece.len).sum();
            let waste: u64 = pieces.iter().map(|piece| piece.waste()).sum();
            if waste * WASTE_PARTS >= len && waste > 0 {
                emptiest(pieces)?
            } else {
                return blocking(pieces).map(|at| at..at + 1);
            }
        }
        Aim::Reclaim => pieces
            .iter()
            .position(|piece| piece.wastes(NEIGHBOUR_PARTS))?,
        Aim::Order => pieces
            .iter()
            .position(|piece| piece.deletes.is_none() || piece.wastes(NEIGHBOUR_PARTS))?,
        #[cfg(test)]
        Aim::Any(seed) => {
            let takes = |piece: &Weight| piece.deletes.is_none() || piece.wastes(NEIGHBOUR_PARTS);
            let numbered = pieces.iter().enumerate();
            let takes: Vec<_> = numbered.filter(|(_, piece)| takes(piece)).collect();
            let (at, _) = fastrand::Rng::with_seed(seed ^ takes.len() as u64).choice(takes)?;
            return Some(at..at + 1);
        }
    };
    if aim == Aim::NeededOnFullDisk {
        return Some(seed..seed + 1);
    }
    Some(widen(pieces, seed, aim, limits))
}

fn emptiest(pieces: &[Weight]) -> Option<usize> {
    let numbered = pieces.iter().enumerate();
    let emptiest = numbered.max_by_key(|(at, piece)| (piece.share(), std::cmp::Reverse(*at)))?;
    Some(emptiest.0)
}

/// A piece that was never rewritten, below deletes that weigh more than it: while it is as it is,
/// none of them may go.
fn blocking(pieces: &[Weight]) -> Option<usize> {
    let first = pieces.iter().position(|piece| piece.deletes.is_none())?;
    let live = pieces.get(first)?.live;
    let above = pieces.get(first + 1..).unwrap_or_default();
    let deletes: u64 = above.iter().filter_map(|piece| piece.deletes).sum();
    (deletes > live).then_some(first)
}

/// Takes neighbours along while what is left of all fits in one file.
fn widen(pieces: &[Weight], seed: usize, aim: Aim, limits: Limits) -> Range<usize> {
    let mut range = seed..seed + 1;
    let sum = |range: &Range<usize>, of: fn(Weight) -> u64| -> u64 {
        let within = pieces.get(range.clone()).unwrap_or_default();
        within.iter().map(|piece| of(*piece)).sum()
    };
    let worth = |piece: &Weight| {
        let small = piece.len * 8 < limits.output;
        let unordered = aim == Aim::Order && piece.deletes.is_none();
        small || unordered || piece.wastes(NEIGHBOUR_PARTS)
    };
    loop {
        let wider = [
            (range.start > 0).then(|| range.start - 1..range.end),
            (range.end < pieces.len()).then(|| range.start..range.end + 1),
        ];
        // What is put in order is so over as long a stretch as may be read at once.
        let output = match aim {
            Aim::Order => limits.input,
            _ => limits.output,
        };
        let fits = |wider: &Range<usize>| {
            sum(wider, |piece| piece.live) <= output
                && sum(wider, |piece| piece.len) <= limits.input
        };
        let gains = |wider: &Range<usize>| {
            let added = if wider.start < range.start {
                wider.start
            } else {
                range.end
            };
            pieces.get(added).is_some_and(worth)
        };
        let best = wider
            .into_iter()
            .flatten()
            .filter(|wider| fits(wider) && gains(wider))
            .max_by_key(|wider| sum(wider, Weight::waste));
        match best {
            Some(wider) => range = wider,
            None => return range,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        output: 1000,
        input: 4000,
    };

    fn whole(live: u64) -> Weight {
        Weight {
            len: 1000,
            live,
            deletes: None,
        }
    }

    fn sparse(len: u64, live: u64, deletes: u64) -> Weight {
        Weight {
            len,
            live,
            deletes: Some(deletes),
        }
    }

    #[test]
    fn nothing_is_rewritten_while_little_is_wasted() {
        assert_eq!(pick(&[], Aim::Needed, LIMITS), None);
        let pieces = [whole(900), whole(600), whole(800)];
        assert_eq!(pick(&pieces, Aim::Needed, LIMITS), None);
        assert_eq!(pick(&[whole(1000); 4], Aim::Reclaim, LIMITS), None);
        // A count may be too high for a while.
        assert_eq!(pick(&[whole(2000); 4], Aim::Needed, LIMITS), None);
    }

    #[test]
    fn the_emptiest_goes_first_with_neighbours_as_long_as_the_rest_fits() {
        let pieces = [whole(950), whole(600), whole(100), whole(300), whole(990)];
        assert_eq!(pick(&pieces, Aim::Needed, LIMITS), Some(1..4));
        assert_eq!(pick(&pieces, Aim::NeededOnFullDisk, LIMITS), Some(2..3));
        // No more is read at once than may be.
        assert_eq!(pick(&[whole(0); 9], Aim::Needed, LIMITS), Some(0..4));
    }

    #[test]
    fn reclaiming_goes_on_until_nothing_is_left_and_ordering_takes_all_once() {
        let mut pieces = vec![whole(950), whole(930), sparse(700, 700, 0), whole(990)];
        let picked = pick(&pieces, Aim::Reclaim, LIMITS);
        assert_eq!(picked, Some(1..2));
        pieces[1] = sparse(930, 930, 0);
        assert_eq!(pick(&pieces, Aim::Reclaim, LIMITS), None);
        assert_eq!(pick(&pieces, Aim::Order, LIMITS), Some(0..1));
        pieces[0] = sparse(950, 950, 0);
        assert_eq!(pick(&pieces, Aim::Order, LIMITS), Some(3..4));
        pieces[3] = sparse(990, 990, 0);
        assert_eq!(pick(&pieces, Aim::Order, LIMITS), None);
        assert_eq!(pick(&[whole(900); 6], Aim::Order, LIMITS), Some(0..4));
    }

    #[test]
    fn what_alone_keeps_many_deletes_is_rewritten_for_their_sake() {
        let pieces = [sparse(500, 500, 0), whole(900), sparse(1000, 1000, 950)];
        assert_eq!(pick(&pieces, Aim::Needed, LIMITS), Some(1..2));
        let pieces = [sparse(500, 500, 0), whole(960), sparse(1000, 1000, 950)];
        assert_eq!(pick(&pieces, Aim::Needed, LIMITS), None);
    }
}
