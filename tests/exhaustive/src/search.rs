//! Breadth-first search over states, which are told apart by fingerprints of 128 bits.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

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
    let mut seen = HashSet::from([fingerprint(&start)]);
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
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}
