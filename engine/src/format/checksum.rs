//! Checksums over bytes of any length without losing the guarantee that CRC-32 gives short ones.
//!
//! `crc32fast` computes CRC-32/ISO-HDLC (the IEEE polynomial), which detects any three flipped bits
//! in up to 11,450 bytes and misses some beyond. Longer bodies are therefore cut into pieces of
//! [`PIECE_LEN`], and the pieces' checksums stand in a table behind the body.

use super::limits::PIECE_LEN;

/// Bytes of the table behind a body of `body_len` bytes: none while one checksum is enough.
pub(super) const fn table_len(body_len: usize) -> usize {
    if body_len <= PIECE_LEN {
        0
    } else {
        body_len.div_ceil(PIECE_LEN) * 4
    }
}

/// Appends the table of the body that starts at `start` in `out`, and returns the checksum that
/// stands for the body: its own while it is one piece, else that of the table.
pub(super) fn seal(out: &mut Vec<u8>, start: usize) -> u32 {
    let body_len = out.len() - start;
    let table = table_len(body_len);
    if table == 0 {
        return crc32fast::hash(out.get(start..).unwrap_or_default());
    }
    let table_start = out.len();
    let mut pieces = Vec::with_capacity(table);
    for piece in out.get(start..).unwrap_or_default().chunks(PIECE_LEN) {
        pieces.extend_from_slice(&crc32fast::hash(piece).to_le_bytes());
    }
    out.extend_from_slice(&pieces);
    crc32fast::hash(out.get(table_start..).unwrap_or_default())
}

/// Makes the table of a body that was changed in its place again, and returns the checksum that
/// stands for the body. `rest` begins with the body, its table behind it.
pub(super) fn reseal(rest: &mut [u8], body_len: usize) -> u32 {
    let (body, behind) = rest.split_at_mut(body_len);
    let table = behind.get_mut(..table_len(body_len)).unwrap_or_default();
    if table.is_empty() {
        return crc32fast::hash(body);
    }
    for (piece, entry) in body.chunks(PIECE_LEN).zip(table.chunks_mut(4)) {
        entry.copy_from_slice(&crc32fast::hash(piece).to_le_bytes());
    }
    crc32fast::hash(table)
}

/// Whether `body` and the `table` behind it agree with each other and with `checksum`.
pub(super) fn holds(body: &[u8], table: &[u8], checksum: u32) -> bool {
    if table.len() != table_len(body.len()) {
        return false;
    }
    if table.is_empty() {
        return crc32fast::hash(body) == checksum;
    }
    crc32fast::hash(table) == checksum
        && body
            .chunks(PIECE_LEN)
            .zip(table.chunks(4))
            .all(|(piece, entry)| crc32fast::hash(piece).to_le_bytes() == entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_around_the_piece_length_hold_and_any_flip_is_seen() {
        for len in [
            0,
            1,
            PIECE_LEN - 1,
            PIECE_LEN,
            PIECE_LEN + 1,
            3 * PIECE_LEN + 17,
        ] {
            let mut bytes: Vec<u8> = (0u8..251).cycle().take(len).collect();
            let checksum = seal(&mut bytes, 0);
            assert_eq!(bytes.len(), len + table_len(len));
            assert!(holds(&bytes[..len], &bytes[len..], checksum), "len {len}");
            for at in (0..bytes.len())
                .step_by(977)
                .chain(bytes.len().checked_sub(1))
            {
                bytes[at] ^= 0x10;
                assert!(
                    !holds(&bytes[..len], &bytes[len..], checksum),
                    "flip at {at} of {len}"
                );
                bytes[at] ^= 0x10;
            }
        }
    }
}
