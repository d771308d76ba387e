//! What a state must be: a plain map over the batches of an input, which shares no code with the
//! engine.

use std::collections::BTreeMap;

use crate::load::{LoadBatch, Operation};

/// A state: keys and values.
pub type State = BTreeMap<String, String>;

/// All numbers of batches after which an empty map, given `batches` in order, equals `observed`.
/// None means that `observed` is no state that the input ever had.
pub fn prefixes<'a>(
    batches: impl IntoIterator<Item = &'a LoadBatch>,
    observed: &State,
) -> Vec<u64> {
    let mut state = State::new();
    // Keys in which the two differ: so each batch costs its own operations and no comparison of
    // all.
    let mut differing = observed.len();
    let mut equal = Vec::new();
    let mut count = 0;
    if differing == 0 {
        equal.push(count);
    }
    for batch in batches {
        for operation in &batch.operations {
            let (Operation::Put(key, _) | Operation::Delete(key)) = operation;
            differing += usize::from(state.get(key) == observed.get(key));
            apply(&mut state, operation);
            differing -= usize::from(state.get(key) == observed.get(key));
        }
        count += 1;
        if differing == 0 {
            equal.push(count);
        }
    }
    equal
}

/// The state after all of `batches`.
pub fn state<'a>(batches: impl IntoIterator<Item = &'a LoadBatch>) -> State {
    let mut state = State::new();
    for operation in batches.into_iter().flat_map(|batch| &batch.operations) {
        apply(&mut state, operation);
    }
    state
}

fn apply(state: &mut State, operation: &Operation) {
    match operation {
        Operation::Put(key, value) => state.insert(key.clone(), value.clone()),
        Operation::Delete(key) => state.remove(key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, batches: u64) -> Vec<LoadBatch> {
        let mut random = fastrand::Rng::with_seed(seed);
        let batch = |number| {
            let operations = (0..random.usize(0..4)).map(|_| {
                let key = random.u8(b'a'..b'h');
                match random.bool() {
                    true => Operation::Put(char::from(key).into(), random.u8(0..9).to_string()),
                    false => Operation::Delete(char::from(key).into()),
                }
            });
            LoadBatch {
                number,
                operations: operations.collect(),
            }
        };
        (0..batches).map(batch).collect()
    }

    #[test]
    fn the_prefixes_of_a_state_are_those_that_comparing_all_finds() {
        for seed in 0..20 {
            let batches = random(seed, 60);
            for n in [0, 1, 30, 60] {
                let observed = state(&batches[..n]);
                let slow = (0..=60).filter(|n| state(&batches[..*n]) == observed);
                let slow: Vec<u64> = slow.map(|n| n as u64).collect();
                assert_eq!(prefixes(&batches, &observed), slow);
                assert!(slow.contains(&(n as u64)));
            }
        }
    }

    #[test]
    fn a_state_with_a_change_more_or_less_is_no_prefix() {
        let batches = random(7, 60);
        let mut more = state(&batches);
        more.insert("z".into(), String::new());
        assert_eq!(prefixes(&batches, &more), [0; 0]);
        let mut other = state(&batches);
        let key = other.keys().next().unwrap().clone();
        other.insert(key, "another value".into());
        assert_eq!(prefixes(&batches, &other), [0; 0]);
    }
}
