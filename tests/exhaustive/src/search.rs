//! Breadth-first search over states, which are told apart by fingerprints of 128 bits.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// What is searched.
pub trait Model {
    /// All that decides what may happen next.
    type State: Clone + Hash;
    /// What may happen, as it is told in a trace.
    type Step: Clone;

    /// Where everything begins.
    fn start(&self) -> Self::State;
    /// Each thing that may happen now, and what is then.
    fn next(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;
    /// What promise is broken, if one is.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
}

/// A broken promise and the shortest way to it.
#[derive(Clone, Debug)]
pub struct Found<S> {
    /// The promise.
    pub broken: &'static str,
    /// What happened, in order.
    pub trace: Vec<S>,
}

/// What a search has seen.
#[derive(Clone, Debug)]
pub struct Searched<S> {
    /// Different states.
    pub states: usize,
    /// Steps of the longest of the shortest ways.
    pub depth: usize,
    /// What was found, if anything; the search ends there.
    pub found: Option<Found<S>>,
    /// Whether every reachable state was visited.
    pub complete: bool,
}

/// Visits all states, or at most about `most`, until a promise is broken.
pub fn search<M: Model>(model: &M, most: usize) -> Searched<M::Step> {
    let start = model.start();
    let mut seen: HashSet<u128, BuildHasherDefault<Taken>> = HashSet::default();
    seen.insert(fingerprint(&start));
    // The step that led to each state, and the index of where it was taken.
    let mut links: Vec<Option<(usize, M::Step)>> = vec![None];
    let mut level = vec![(0, start)];
    let mut depth = 0;
    while !level.is_empty() {
        let mut deeper = Vec::new();
        for (at, state) in &level {
            for (step, next) in model.next(state) {
                if !seen.insert(fingerprint(&next)) {
                    continue;
                }
                let index = links.len();
                links.push(Some((*at, step)));
                if let Some(broken) = model.broken(&next) {
                    let trace = trace(&links, index);
                    let found = Some(Found { broken, trace });
                    return Searched {
                        states: seen.len(),
                        depth: depth + 1,
                        found,
                        complete: false,
                    };
                }
                deeper.push((index, next));
            }
            if seen.len() >= most {
                return Searched {
                    states: seen.len(),
                    depth,
                    found: None,
                    complete: false,
                };
            }
        }
        if !deeper.is_empty() {
            depth += 1;
        }
        level = deeper;
    }
    Searched {
        states: seen.len(),
        depth,
        found: None,
        complete: true,
    }
}

fn trace<S: Clone>(links: &[Option<(usize, S)>], mut index: usize) -> Vec<S> {
    let mut trace = Vec::new();
    while let Some(Some((from, step))) = links.get(index) {
        trace.push(step.clone());
        index = *from;
    }
    trace.reverse();
    trace
}

fn fingerprint(state: &impl Hash) -> u128 {
    let mut lanes = Lanes([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
    state.hash(&mut lanes);
    // Twice more, so that what came last is spread as well.
    lanes.write_u64(0);
    lanes.write_u64(0);
    let [a, b] = lanes.0;
    u128::from(a) << 64 | u128::from(b)
}

/// Two hashes in one pass: each takes in a number by a multiplication whose halves are folded.
struct Lanes([u64; 2]);

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let number = chunk.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
            self.write_u64(number);
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let [a, b] = self.0;
        let a = fold(a ^ number, 0xa076_1d64_78bd_642f);
        let b = fold(b ^ number.rotate_left(32), 0xe703_7ed1_a0b4_28db);
        // A product of nothing would forget what came before.
        self.0 = [a.wrapping_add(0x8ebc_6af0_9c88_c6e3), b ^ a.rotate_left(17)];
    }

    fn finish(&self) -> u64 {
        let [a, b] = self.0;
        a ^ b
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let (high, low) = (product >> 64, product & u128::from(u64::MAX));
    u64::try_from(high ^ low).unwrap_or_default()
}

/// What is told apart by fingerprints needs no other hash.
#[derive(Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are numbers");
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = u64::try_from(number >> 64).unwrap_or_default();
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
