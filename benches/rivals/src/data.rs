//! Keys and values that anybody can derive again, so that what is read can be checked.

/// The size of every key.
pub(crate) const KEY_BYTES: usize = 16;

/// A key of 16 bytes.
pub(crate) type Key = [u8; KEY_BYTES];

/// A key and its value.
pub(crate) type Pair = (Key, Vec<u8>);

/// Keys in an order of their own: `index` below 2^32.
///
/// Keys rise with their index, lie far apart and look like nothing that compresses.
pub(crate) fn key(index: u64) -> Key {
    let noise = mix(index);
    let front = index << 32 | noise >> 32;
    let mut key = [0; KEY_BYTES];
    let (first, second) = key.split_at_mut(8);
    // The most significant byte first, so that keys lie in the order of their indexes.
    first.copy_from_slice(&front.swap_bytes().to_le_bytes());
    second.copy_from_slice(&noise.to_le_bytes());
    key
}

/// The value that `version` of a key has: random bytes, which no engine can compress.
pub(crate) fn value(index: u64, version: u32, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    let seed = mix(index) ^ mix(u64::from(version) << 40 | bytes as u64);
    fastrand::Rng::with_seed(seed).fill(&mut value);
    value
}

/// A key with a version of its value.
pub(crate) fn pair(index: u64, version: u32, bytes: usize) -> Pair {
    (key(index), value(index, version, bytes))
}

/// The `nth` of the numbers below `count` in an arbitrary order that has each of them once.
pub(crate) fn scattered(nth: u64, count: u64) -> u64 {
    assert!(nth < count, "{nth} is not below {count}");
    let half_bits = (64 - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << half_bits) - 1;
    let mut number = nth;
    loop {
        // A Feistel network is a permutation of all numbers of its width; those that are not below
        // `count` are sent on.
        for round in 0..4 {
            let (left, right) = (number >> half_bits, number & mask);
            number = right << half_bits | (left ^ mix(right << 8 | round) & mask);
        }
        if number < count {
            return number;
        }
    }
}

/// The finalizer of SplitMix64: a permutation of all numbers in which every bit counts.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_rise_with_their_index() {
        let keys: Vec<_> = (0..1000).chain((1 << 32) - 3..1 << 32).map(key).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn values_tell_key_and_version_apart() {
        assert_eq!(value(7, 1, 128), value(7, 1, 128));
        assert_ne!(value(7, 1, 128), value(7, 2, 128));
        assert_ne!(value(7, 1, 128), value(8, 1, 128));
    }

    #[test]
    fn scattering_meets_every_number_once() {
        for count in [1, 2, 3, 100, 1000, 4097] {
            let mut met: Vec<_> = (0..count).map(|nth| scattered(nth, count)).collect();
            assert!(count < 100 || !met.is_sorted(), "{count}");
            met.sort_unstable();
            assert!(met.into_iter().eq(0..count), "{count}");
        }
    }
}
