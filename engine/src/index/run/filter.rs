//! The filter: says of most keys that a run lacks that it lacks them, for one line of memory.
//!
//! A Bloom filter in lines of 64 bytes, as long as a line of the processor's cache. A key has one
//! line and [`PROBES`] bits in it. With 10 bits a key about one key in a hundred that is not there
//! passes.

use super::layout::BLOCK_LEN;

/// Bytes of a line.
pub(super) const LINE_LEN: usize = 64;

const BITS_PER_KEY: usize = 10;
const PROBES: u32 = 6;
/// Bits that choose one bit of a line.
const PROBE_BITS: u32 = 9;

// Odd numbers without a pattern: digits of the square roots of 2, 3, 5 and 7.
const K0: u64 = 0x6a09_e667_f3bc_c909;
const K1: u64 = 0xbb67_ae85_84ca_a73b;
const K2: u64 = 0x3c6e_f372_fe94_f82b;
const K3: u64 = 0xa54f_f53a_5f1d_36f1;

const _: () = assert!(LINE_LEN * 8 == 1 << PROBE_BITS);
const _: () = assert!(PROBES * PROBE_BITS <= 64);
const _: () = assert!(BLOCK_LEN.is_multiple_of(LINE_LEN));

/// The hash of a key with its keyspace before it. Part of the format.
pub(super) fn hash(key: &[u8]) -> u64 {
    let mut state = key.len() as u64 ^ K0;
    let (chunks, rest) = key.as_chunks::<8>();
    for chunk in chunks {
        state = fold(state ^ u64::from_le_bytes(*chunk), K2);
    }
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    // Once more: of keys that are numbered, one fold leaves the numbers in a lattice.
    fold(fold(state ^ u64::from_le_bytes(last), K3), K1)
}

/// Lines for so many keys.
pub(super) fn lines(keys: usize) -> usize {
    (keys * BITS_PER_KEY).div_ceil(LINE_LEN * 8).max(1)
}

/// Blocks that so many lines take.
pub(super) const fn blocks(lines: u32) -> usize {
    (lines as usize * LINE_LEN).div_ceil(BLOCK_LEN)
}

/// The line of a key.
pub(super) fn line_of(hash: u64, lines: u32) -> usize {
    let product = u128::from(hash) * u128::from(lines);
    crate::format::to_usize(high(product))
}

/// Whether a key may be among those of its line.
pub(super) fn holds(line: &[u8; LINE_LEN], hash: u64) -> bool {
    probes(hash).fold(true, |all, (byte, mask)| {
        all & line.get(byte).is_some_and(|byte| byte & mask != 0)
    })
}

/// Enters a key into its line.
pub(super) fn enter(line: &mut [u8], hash: u64) {
    for (byte, mask) in probes(hash) {
        if let Some(byte) = line.get_mut(byte) {
            *byte |= mask;
        }
    }
}

/// Byte and bit of each probe. The line was chosen by the highest bits of the hash, so the probes
/// are by others: those of another product.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let bits = hash.wrapping_mul(K2) ^ hash.rotate_right(32);
    (0..PROBES).map(move |probe| {
        let bit = bits >> (probe * PROBE_BITS) & ((1 << PROBE_BITS) - 1);
        (crate::format::to_usize(bit / 8), 1 << (bit % 8))
    })
}

/// Both halves of the product, folded into one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    high(product) ^ low(product)
}

const fn high(product: u128) -> u64 {
    (product >> 64) as u64
}

#[expect(clippy::cast_possible_truncation)]
const fn low(product: u128) -> u64 {
    product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_pass_and_about_one_in_a_hundred_others() {
        let count = 20_000;
        let lines = u32::try_from(lines(count)).unwrap();
        let mut filter = vec![0; lines as usize * LINE_LEN];
        let keys = |word: &'static str| (0..count).map(move |n| format!("{word}{n:011}"));
        let line = |hash| line_of(hash, lines) * LINE_LEN;
        for key in keys("user") {
            let hash = hash(&[b"\0\0\0\x01", key.as_bytes()].concat());
            enter(&mut filter[line(hash)..][..LINE_LEN], hash);
        }
        let passes = |keyspace: &[u8], key: String| {
            let hash = hash(&[keyspace, key.as_bytes()].concat());
            holds(filter[line(hash)..].first_chunk().unwrap(), hash)
        };
        assert!(keys("user").all(|key| passes(b"\0\0\0\x01", key)));
        for (keyspace, word) in [(b"\0\0\0\x02", "user"), (b"\0\0\0\x01", "item")] {
            let passed = keys(word)
                .filter(|key| passes(keyspace, key.clone()))
                .count();
            assert!(passed < count / 80, "{passed} of {count} pass");
        }
    }

    #[test]
    fn the_hash_is_the_one_on_disks() {
        let hashes = [
            hash(b""),
            hash(b"\0\0\0\x01mina"),
            hash(b"\0\0\0\x07mina/sailing/1"),
        ];
        assert_eq!(
            hashes,
            [
                15_604_590_813_234_759_894,
                8_695_261_288_857_613_871,
                12_030_245_185_456_293_309
            ]
        );
    }
}
