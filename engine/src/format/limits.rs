//! A limit on everything, by name.

/// Smallest size of a segment file in bytes.
pub const SEGMENT_SIZE_MIN: u64 = 64 << 10;
/// Largest size of a segment file in bytes. Keeps offsets inside a segment within 32 bits.
pub const SEGMENT_SIZE_MAX: u64 = 1 << 30;
/// Size of a segment file in bytes unless the cluster was made with another.
pub const SEGMENT_SIZE_DEFAULT: u64 = 64 << 20;
/// A segment's size is a multiple of this many bytes, so that its blocks stay aligned for direct
/// I/O.
pub const SEGMENT_SIZE_STEP: u64 = 4 << 10;
/// No frame is longer than this, whatever the size of a segment.
pub const FRAME_LEN_MAX: u64 = 16 << 20;
/// A frame takes at most this fraction of a segment, so that rotation wastes at most that much.
pub const FRAMES_PER_SEGMENT_MIN: u64 = 4;
/// Longest key in bytes. An index block of 4 KiB must hold one with room to spare.
pub const KEY_LEN_MAX: usize = 2048;
/// Longest name of a keyspace in bytes.
pub const KEYSPACE_NAME_LEN_MAX: usize = 255;
/// Keyspaces in one store.
pub const KEYSPACES_MAX: u32 = 65_536;
/// Longest name of a node in bytes.
pub const NODE_NAME_LEN_MAX: usize = 64;
/// Longest free text in a record (an operator's reason), in bytes.
pub const NOTE_LEN_MAX: usize = 1024;
/// Most standbys that a protection record names.
pub const MEMBERS_MAX: usize = 16;
/// Most protection records of which a node keeps in mind where they stand.
pub const PROTECTIONS_MAX: usize = 32;
/// Spans of unprotected time that are kept one by one.
pub const UNPROTECTED_SPANS_MAX: usize = 32;
/// Bytes covered by one checksum: CRC-32/ISO-HDLC detects any three flipped bits up to 11,450
/// bytes.
pub const PIECE_LEN: usize = 8 << 10;
/// Epochs that a history may hold.
pub const EPOCHS_MAX: usize = 100_000;

/// The longest frame that a segment of `segment_size` bytes may hold.
#[must_use]
pub const fn frame_len_max(segment_size: u64) -> u64 {
    let quarter = segment_size / FRAMES_PER_SEGMENT_MIN;
    if quarter < FRAME_LEN_MAX {
        quarter
    } else {
        FRAME_LEN_MAX
    }
}

/// The longest payload of a frame in a segment of `segment_size` bytes: its header, the checksums
/// of its pieces (4 bytes each) and its padding (less than 8 bytes) stay within the frame's limit.
#[must_use]
pub const fn payload_len_max(segment_size: u64) -> usize {
    let room = super::to_usize(frame_len_max(segment_size)) - super::FRAME_HEADER_LEN - 8;
    room - (room / PIECE_LEN + 1) * 4
}

const _: () = assert!(
    super::encoded_frame_len(payload_len_max(SEGMENT_SIZE_MIN)) as u64
        <= frame_len_max(SEGMENT_SIZE_MIN)
);
const _: () = assert!(
    super::encoded_frame_len(payload_len_max(SEGMENT_SIZE_MAX)) as u64
        <= frame_len_max(SEGMENT_SIZE_MAX)
);
const _: () = assert!(SEGMENT_SIZE_MIN.is_multiple_of(SEGMENT_SIZE_STEP));
const _: () = assert!(SEGMENT_SIZE_DEFAULT.is_multiple_of(SEGMENT_SIZE_STEP));
const _: () = assert!(FRAME_LEN_MAX < u32::MAX as u64);
const _: () = assert!(KEY_LEN_MAX <= u16::MAX as usize);
const _: () = assert!(PIECE_LEN < 11_450);
