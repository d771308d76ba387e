//! What the clients write: each its own keys, in batches that can all be told apart.

use std::collections::BTreeMap;

use crate::load::{LoadBatch, Operation};
use crate::model::State;

/// Keys of a writer that come and go.
const KEYS: u64 = 16;
const VALUE_LEN_MAX: usize = 200;

/// Batch `number` of a writer. It counts up one key, so the state after each batch is another, and
/// puts and deletes a few more.
#[must_use]
pub fn batch(seed: u64, writer: usize, number: u64) -> LoadBatch {
    let mut random = fastrand::Rng::with_seed(seed ^ ((writer as u64) << 48) ^ (number << 8));
    let mut operations = vec![Operation::Put(key(writer, "count"), number.to_string())];
    for _ in 0..random.usize(0..4) {
        let key = key(writer, &random.u64(..KEYS).to_string());
        operations.push(if random.u8(..4) == 0 {
            Operation::Delete(key)
        } else {
            let len = random.usize(..VALUE_LEN_MAX);
            Operation::Put(key, format!("{number:0<len$}"))
        });
    }
    LoadBatch { number, operations }
}

/// Sorts a state by whose it is: the part of each of `writers`, and keys that are nobody's.
pub(super) fn part(state: &State, writers: usize) -> (Vec<State>, Vec<String>) {
    let mut parts = vec![State::new(); writers];
    let mut strange = Vec::new();
    let names: BTreeMap<String, usize> = (0..writers).map(|one| (name(one), one)).collect();
    for (key, value) in state {
        let of = key.split_once('/').and_then(|(name, _)| names.get(name));
        match of.and_then(|writer| parts.get_mut(*writer)) {
            Some(part) => {
                part.insert(key.clone(), value.clone());
            }
            None => strange.push(key.clone()),
        }
    }
    (parts, strange)
}

fn key(writer: usize, rest: &str) -> String {
    format!("{}/{rest}", name(writer))
}

fn name(writer: usize) -> String {
    format!("writer-{writer}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    #[test]
    fn a_state_of_several_writers_is_a_beginning_of_each() {
        let counts = [30, 0, 7];
        let all: Vec<Vec<LoadBatch>> = (0..3)
            .map(|writer| (0..40).map(|number| batch(5, writer, number)).collect())
            .collect();
        let mut state = State::new();
        for (batches, count) in all.iter().zip(counts) {
            state.extend(model::state(&batches[..count]));
        }
        state.insert("nobody".into(), "x".into());
        let (parts, strange) = part(&state, 3);
        for ((batches, part), count) in all.iter().zip(&parts).zip(counts) {
            assert_eq!(model::prefixes(batches, part), [count as u64]);
        }
        assert_eq!(strange, ["nobody"]);
    }

    #[test]
    fn one_seed_gives_one_load() {
        assert_eq!(batch(1, 2, 3), batch(1, 2, 3));
        assert_ne!(batch(1, 2, 3).operations, batch(2, 2, 3).operations);
    }
}
