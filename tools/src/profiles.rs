//! The workload of profiles: one batch writes a user's profile, who may see it, and their version.
//!
//! A reader that ever finds two of the three at different versions has seen a state that never was:
//! a profile shown to people it was not meant for.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::load::{LoadBatch, Operation};
use crate::model::State;

const USERS: u32 = 200;
const VIEWERS_MAX: u32 = 12;
/// One in so many batches takes a user's profile away.
const WITHDRAWN_ONE_IN: u32 = 12;

/// `count` batches from a seed.
pub fn batches(seed: u64, count: u64) -> Vec<LoadBatch> {
    let mut random = Rng::with_seed(seed);
    (0..count)
        .map(|number| LoadBatch {
            number,
            operations: batch(&mut random, number + 1),
        })
        .collect()
}

fn batch(random: &mut Rng, version: u64) -> Vec<Operation> {
    let user = random.u32(0..USERS);
    let key = |part: &str| format!("user/{user:05}/{part}");
    if random.u32(0..WITHDRAWN_ONE_IN) == 0 {
        return PARTS.map(|part| Operation::Delete(key(part))).to_vec();
    }
    let mut viewers: Vec<_> = (0..random.u32(0..VIEWERS_MAX))
        .map(|_| random.u32(0..USERS).to_string())
        .collect();
    viewers.sort();
    let words = random.usize(4..40);
    let text: String = (0..words).map(|_| random.lowercase()).collect();
    PARTS
        .map(|part| {
            let content = match part {
                "profile" => text.clone(),
                "viewers" => viewers.join(" "),
                _ => String::new(),
            };
            Operation::Put(key(part), format!("{version} {content}"))
        })
        .to_vec()
}

const PARTS: [&str; 3] = ["profile", "version", "viewers"];

/// Batches as lines of an input.
pub fn to_lines(batches: &[LoadBatch]) -> String {
    let mut text = String::new();
    for batch in batches {
        let operations: Vec<_> = batch
            .operations
            .iter()
            .map(|operation| match operation {
                Operation::Put(key, value) => serde_json::json!(["put", key, value]),
                Operation::Delete(key) => serde_json::json!(["delete", key]),
            })
            .collect();
        text += &serde_json::json!({ "ops": operations }).to_string();
        text.push('\n');
    }
    text
}

/// How many users a state shows, if each of them is shown at one version; else what is mixed.
pub fn unmixed(state: &State) -> Result<u64, String> {
    let mut users: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (key, value) in state {
        let Some((user, part)) = key.rsplit_once('/') else {
            return Err(format!("{key} is no key of this workload"));
        };
        let version = value.split(' ').next().unwrap_or_default();
        users.entry(user).or_default().insert(part, version);
    }
    for (user, versions) in &users {
        let parts: Vec<_> = versions.keys().copied().collect();
        let first = versions.values().next();
        if parts != PARTS || versions.values().any(|version| Some(version) != first) {
            return Err(format!("{user} is a mixture of versions: {versions:?}"));
        }
    }
    Ok(users.len() as u64)
}

/// That no user is shown at an older version than before.
pub fn not_older(before: &State, after: &State) -> Result<(), String> {
    let version = |value: &String| {
        value
            .split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok())
    };
    for (key, value) in after.iter().filter(|(key, _)| key.ends_with("/version")) {
        if let Some(older) = before.get(key)
            && version(value) < version(older)
        {
            return Err(format!("{key} went back from {older} to {value}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Batches;
    use crate::model::state;

    #[test]
    fn every_prefix_is_unmixed_and_a_part_of_a_batch_is_not() {
        let batches = batches(1, 900);
        for n in [0, 1, 450, 900] {
            assert!(unmixed(&state(&batches[..n])).is_ok());
        }
        let whole = state(&batches);
        assert!(unmixed(&whole).unwrap() > 50);
        let overwritten = batches[800..].iter().any(|last| {
            let mut part = last.clone();
            part.operations.truncate(1);
            unmixed(&state(batches[..800].iter().chain([&part]))).is_err()
        });
        assert!(overwritten);
    }

    #[test]
    fn lines_read_back_as_the_same_batches() {
        let batches = batches(2, 50);
        let lines = std::io::Cursor::new(to_lines(&batches).into_bytes());
        let back: Vec<_> = Batches::read(lines).map(Result::unwrap).collect();
        assert_eq!(back, batches);
    }
}
