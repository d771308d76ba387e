//! Batches and the records in them: the payload of a [`FrameKind::Batches`] frame.
//!
//! ```text
//! batch:   0 records_len u32   bytes of the records that follow
//!          4 records     u32   how many
//!          8 records
//! record:  0 check       u32   CRC-32 of the body, or of the piece table behind it
//!          4 body:  op u8, flags u8 (0), key_len u16, value_len u32, keyspace u32, key, value
//!            piece table, where the body is longer than one piece
//! ```
//! What key and value are depends on the operation:
//!
//! | op | | key | value |
//! |---|---|---|---|
//! | 1 | put | the key | the value |
//! | 2 | delete | the key | empty |
//! | 3 | put that expires | the key | log time in ms from which on it has no value (u64), the value
//! |
//! | 4 | delete of a range | the first key that goes | the first that stays; empty: none does |
//! | 5 | drop of the keyspace | empty | empty |
//!
//! A record carries its own checksum and its own key, so that one positioned read of one value
//! proves both that it is undamaged and that it is the value asked for.
//!
//! [`FrameKind::Batches`]: super::FrameKind::Batches

use thiserror::Error;

use super::checksum;
use super::ids::{Lsn, LsnRange};
use super::limits::KEY_LEN_MAX;

/// Bytes of a batch before its first record.
pub const BATCH_HEADER_LEN: usize = 8;
const CHECK_LEN: usize = 4;
const BODY_HEADER_LEN: usize = 12;

/// What a record does to its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Op {
    /// Gives the key a value.
    Put = 1,
    /// Takes its value away.
    Delete = 2,
    /// Takes the values of a range of keys away.
    DeleteRange = 4,
    /// Takes the keyspace away, with all keys in it.
    DropKeyspace = 5,
}

/// The byte of a put that expires.
const PUT_EXPIRING: u8 = 3;
/// Length of the log time before the value of a put that expires.
const EXPIRY_LEN: usize = 8;

/// Bytes that are not a record, or not a batch.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordFault {
    /// The bytes end before the record does.
    #[error("a record ends behind the end of its batch")]
    Short,
    /// The checksum does not hold.
    #[error("a record's checksum does not hold")]
    Checksum,
    /// A field that no writer writes.
    #[error("a record's {0} is none that exists")]
    Field(&'static str),
}

/// One record where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordRef<'a> {
    /// What it does.
    pub op: Op,
    /// The keyspace's id.
    pub keyspace: u32,
    /// The key; of a range, the first one that goes.
    pub key: &'a [u8],
    /// The value; of a range, the first key that stays, or empty where all to the end go; else
    /// empty.
    pub value: &'a [u8],
    /// The log time, in milliseconds since 1970, from which on a put has no value any more.
    pub expires_ms: Option<u64>,
    /// Where the value begins within the record.
    pub value_offset: usize,
    /// Length of the whole record in bytes.
    pub len: usize,
}

/// Decodes and checks the record at the start of `bytes`, which may go on behind it.
///
/// # Errors
/// When the bytes are too short, damaged, or no record.
pub fn decode_record(bytes: &[u8]) -> Result<RecordRef<'_>, RecordFault> {
    let check = bytes.first_chunk::<4>().ok_or(RecordFault::Short)?;
    let body = bytes.get(CHECK_LEN..).ok_or(RecordFault::Short)?;
    let header = body
        .first_chunk::<BODY_HEADER_LEN>()
        .ok_or(RecordFault::Short)?;
    let [op, flags, k0, k1, v0, v1, v2, v3, s0, s1, s2, s3] = *header;
    let key_len = usize::from(u16::from_le_bytes([k0, k1]));
    let value_len = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
    let body_len = BODY_HEADER_LEN + key_len + value_len;
    let table_len = checksum::table_len(body_len);
    let rest = body.get(..body_len + table_len).ok_or(RecordFault::Short)?;
    let (body, table) = rest.split_at(body_len);
    if !checksum::holds(body, table, u32::from_le_bytes(*check)) {
        return Err(RecordFault::Checksum);
    }
    if flags != 0 {
        return Err(RecordFault::Field("flag"));
    }
    if key_len > KEY_LEN_MAX {
        return Err(RecordFault::Field("key length"));
    }
    let (key, value) = body
        .get(BODY_HEADER_LEN..)
        .unwrap_or_default()
        .split_at(key_len);
    let mut record = RecordRef {
        op: Op::Put,
        keyspace: u32::from_le_bytes([s0, s1, s2, s3]),
        key,
        value,
        expires_ms: None,
        value_offset: CHECK_LEN + BODY_HEADER_LEN + key_len,
        len: CHECK_LEN + body_len + table_len,
    };
    match op {
        1 => {}
        2 if value.is_empty() => record.op = Op::Delete,
        PUT_EXPIRING => {
            let (expires, value) = value.split_first_chunk().ok_or(RecordFault::Short)?;
            record.expires_ms = Some(u64::from_le_bytes(*expires));
            record.value = value;
            record.value_offset += EXPIRY_LEN;
        }
        4 if value.len() > KEY_LEN_MAX || !(value.is_empty() || key < value) => {
            return Err(RecordFault::Field("range"));
        }
        4 => record.op = Op::DeleteRange,
        5 if key.is_empty() && value.is_empty() => record.op = Op::DropKeyspace,
        _ => return Err(RecordFault::Field("operation")),
    }
    Ok(record)
}

/// Makes the time that a put of [`BatchBuf::push_expiring`] lives into the log time at which it
/// expires. `batch` is finished; the record begins `offset` bytes into it.
///
/// # Panics
/// When no such record begins there, or this was done before and the sum is over all limits.
pub fn start_to_expire(batch: &mut [u8], offset: usize, log_ms: u64) {
    let record = batch
        .get_mut(offset..)
        .and_then(|record| record.split_at_mut_checked(CHECK_LEN));
    let Some((check, rest)) = record else {
        panic!("no record {offset} bytes into a batch")
    };
    let header = rest.first_chunk::<BODY_HEADER_LEN>().copied();
    let Some([PUT_EXPIRING, _, k0, k1, v0, v1, v2, v3, ..]) = header else {
        panic!("no put that expires {offset} bytes into a batch")
    };
    let key_end = BODY_HEADER_LEN + usize::from(u16::from_le_bytes([k0, k1]));
    let Some(place) = rest.get_mut(key_end..).and_then(<[u8]>::first_chunk_mut) else {
        panic!("a put that expires ends within its batch")
    };
    *place = u64::from_le_bytes(*place)
        .saturating_add(log_ms)
        .to_le_bytes();
    let body_len = key_end + u32::from_le_bytes([v0, v1, v2, v3]) as usize;
    let sum = checksum::reseal(rest, body_len);
    check.copy_from_slice(&sum.to_le_bytes());
}

/// Keyspace and key of the record at the start of `bytes`, which was checked before.
#[must_use]
pub fn key_of_record(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let body = bytes.get(CHECK_LEN..)?;
    let [_, _, k0, k1, _, _, _, _, s0, s1, s2, s3] = *body.first_chunk::<BODY_HEADER_LEN>()?;
    let key_len = usize::from(u16::from_le_bytes([k0, k1]));
    let key = body.get(BODY_HEADER_LEN..)?.get(..key_len)?;
    Some((u32::from_le_bytes([s0, s1, s2, s3]), key))
}

/// A batch while it is built: already the bytes that a frame will carry.
#[derive(Clone, Debug)]
pub struct BatchBuf {
    bytes: Vec<u8>,
    records: u32,
}

/// Bytes that a batch has room for at first: one short record, so that a commit of one allocates
/// once.
const BATCH_CAPACITY: usize = 256;

impl Default for BatchBuf {
    fn default() -> Self {
        let mut bytes = Vec::with_capacity(BATCH_CAPACITY);
        bytes.resize(BATCH_HEADER_LEN, 0);
        Self { bytes, records: 0 }
    }
}

impl BatchBuf {
    /// Adds a record.
    ///
    /// # Panics
    /// When the key or the value is over its limit; the caller has checked both.
    pub fn push(&mut self, op: Op, keyspace: u32, key: &[u8], value: &[u8]) {
        self.push_parts(op as u8, keyspace, key, [&[], value]);
    }

    /// Adds a put that expires `ttl_ms` after the log time of its commit, and answers where its
    /// record begins in the finished batch: for [`start_to_expire`], once that time is known.
    ///
    /// # Panics
    /// As [`BatchBuf::push`].
    pub fn push_expiring(&mut self, keyspace: u32, key: &[u8], value: &[u8], ttl_ms: u64) -> usize {
        let offset = self.bytes.len();
        let ttl = ttl_ms.to_le_bytes();
        self.push_parts(PUT_EXPIRING, keyspace, key, [&ttl, value]);
        offset
    }

    fn push_parts(&mut self, op: u8, keyspace: u32, key: &[u8], value: [&[u8]; 2]) {
        assert!(key.len() <= KEY_LEN_MAX, "a key of {} bytes", key.len());
        let key_len = u16::try_from(key.len()).unwrap_or_else(|_| panic!("checked above"));
        let value_len: usize = value.iter().map(|part| part.len()).sum();
        let value_len = u32::try_from(value_len)
            .unwrap_or_else(|_| panic!("a value of {value_len} bytes is over every limit"));
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; CHECK_LEN]);
        let body = self.bytes.len();
        self.bytes.extend_from_slice(&[op, 0]);
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&value_len.to_le_bytes());
        self.bytes.extend_from_slice(&keyspace.to_le_bytes());
        self.bytes.extend_from_slice(key);
        value
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        let check = checksum::seal(&mut self.bytes, body);
        if let Some(place) = self.bytes.get_mut(start..body) {
            place.copy_from_slice(&check.to_le_bytes());
        }
        self.records += 1;
    }

    /// Number of records so far.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Bytes that the batch will take in its frame.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The finished batch.
    ///
    /// # Panics
    /// When it is over 4 GiB, which its writer has refused before.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.bytes.len() - BATCH_HEADER_LEN;
        let len = u32::try_from(len).unwrap_or_else(|_| panic!("a batch of {len} bytes"));
        if let Some(header) = self.bytes.first_chunk_mut::<BATCH_HEADER_LEN>() {
            header[..4].copy_from_slice(&len.to_le_bytes());
            header[4..].copy_from_slice(&self.records.to_le_bytes());
        }
        self.bytes
    }
}

/// One record of a payload with its place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed<'a> {
    /// The record.
    pub record: RecordRef<'a>,
    /// Where it begins: its address for life.
    pub lsn: Lsn,
    /// Which batch of the payload it belongs to, from 0.
    pub batch: u32,
    /// Where its batch ends: the position of the commit's receipt.
    pub batch_end: Lsn,
}

/// One batch where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchRef<'a> {
    /// The positions that it takes; its end is that of the commit's receipt.
    pub range: LsnRange,
    bytes: &'a [u8],
}

impl<'a> BatchRef<'a> {
    /// The records of this batch, in order.
    #[must_use]
    pub const fn records(&self) -> Records<'a> {
        Records::new(self.bytes, self.range.start, 1)
    }
}

/// The batches of a payload, in order, those without records included.
///
/// Ends after the first fault, as [`Records`] does.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    payload: &'a [u8],
    base: Lsn,
    left: u32,
}

impl<'a> Batches<'a> {
    /// Reads the `batches` batches of `payload`, whose first byte lies at `payload_lsn`.
    #[must_use]
    pub const fn new(payload: &'a [u8], payload_lsn: Lsn, batches: u32) -> Self {
        let (base, left) = (payload_lsn, batches);
        Self {
            payload,
            base,
            left,
        }
    }

    fn split(&mut self) -> Result<BatchRef<'a>, RecordFault> {
        let header = self
            .payload
            .first_chunk::<BATCH_HEADER_LEN>()
            .ok_or(RecordFault::Short)?;
        let [l0, l1, l2, l3, ..] = *header;
        let len = BATCH_HEADER_LEN + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (bytes, rest) = self
            .payload
            .split_at_checked(len)
            .ok_or(RecordFault::Short)?;
        let range = LsnRange::new(self.base, self.base.advance(len as u64));
        (self.payload, self.base, self.left) = (rest, range.end, self.left - 1);
        Ok(BatchRef { range, bytes })
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchRef<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match (self.left, self.payload) {
            (0, []) => return None,
            (0, _) => Err(RecordFault::Field("number of batches")),
            _ => self.split(),
        };
        if next.is_err() {
            (self.left, self.payload) = (0, &[]);
        }
        Some(next)
    }
}

/// The records of a payload of batches, in order.
///
/// Ends after the first fault. A payload whose frame was checked holds none, so a fault there is
/// damage in memory or a writer's bug.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    base: Lsn,
    at: usize,
    batch: u32,
    batch_end: usize,
    left_in_batch: u32,
    batches: u32,
}

impl<'a> Records<'a> {
    /// Reads the `batches` batches of `payload`, whose first byte lies at `payload_lsn`.
    #[must_use]
    pub const fn new(payload: &'a [u8], payload_lsn: Lsn, batches: u32) -> Self {
        let base = payload_lsn;
        Self {
            payload,
            base,
            at: 0,
            batch: 0,
            batch_end: 0,
            left_in_batch: 0,
            batches,
        }
    }

    /// Enters the next batch that has records. `None` at the end of the payload.
    fn next_batch(&mut self) -> Option<Result<(), RecordFault>> {
        while self.left_in_batch == 0 {
            if self.at != self.batch_end {
                return Some(Err(RecordFault::Field("batch length")));
            }
            if self.batch == self.batches {
                let ends = self.at == self.payload.len();
                return (!ends).then_some(Err(RecordFault::Field("number of batches")));
            }
            let Some(header) = self
                .payload
                .get(self.at..)
                .and_then(<[u8]>::first_chunk::<BATCH_HEADER_LEN>)
            else {
                return Some(Err(RecordFault::Short));
            };
            let [l0, l1, l2, l3, n0, n1, n2, n3] = *header;
            self.at += BATCH_HEADER_LEN;
            self.batch_end = self.at + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            self.left_in_batch = u32::from_le_bytes([n0, n1, n2, n3]);
            self.batch += 1;
        }
        Some(Ok(()))
    }

    fn next_record(&mut self) -> Option<Result<Placed<'a>, RecordFault>> {
        if let Err(fault) = self.next_batch()? {
            return Some(Err(fault));
        }
        let Some(bytes) = self.payload.get(self.at..self.batch_end) else {
            return Some(Err(RecordFault::Short));
        };
        let record = match decode_record(bytes) {
            Ok(record) => record,
            Err(fault) => return Some(Err(fault)),
        };
        let lsn = self.base.advance(self.at as u64);
        self.at += record.len;
        self.left_in_batch -= 1;
        let batch_end = self.base.advance(self.batch_end as u64);
        Some(Ok(Placed {
            record,
            lsn,
            batch: self.batch - 1,
            batch_end,
        }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Placed<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_record();
        if matches!(next, Some(Err(_))) {
            // Nothing behind a fault can be placed.
            *self = Self::new(&[], self.base, 0);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::super::ids::to_usize;
    use super::*;

    type Given<'a> = (Op, &'a [u8], &'a [u8]);

    fn payload(batches: &[&[Given<'_>]]) -> Vec<u8> {
        let mut out = Vec::new();
        for records in batches {
            let mut batch = BatchBuf::default();
            for (op, key, value) in *records {
                batch.push(*op, 7, key, value);
            }
            out.extend(batch.finish());
        }
        out
    }

    #[test]
    fn records_come_back_with_their_places() {
        let long = vec![3; 20_000];
        let payload = payload(&[
            &[(Op::Put, b"a", b"1"), (Op::Delete, b"b", b"")],
            &[],
            &[(Op::Put, b"", &long)],
        ]);
        let all: Vec<_> = Records::new(&payload, Lsn(1000), 3)
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(
            (all[0].record.key, all[0].record.value),
            (&b"a"[..], &b"1"[..])
        );
        assert_eq!((all[1].record.op, all[1].batch), (Op::Delete, 0));
        assert_eq!((all[2].record.value, all[2].batch), (&long[..], 2));
        assert_eq!(all[0].batch_end, all[1].batch_end);
        assert_eq!(all[2].batch_end, Lsn(1000 + payload.len() as u64));
        for placed in &all {
            let at = to_usize(placed.lsn.bytes_since(Lsn(1000)));
            assert_eq!(decode_record(&payload[at..]).unwrap(), placed.record);
            let key = (placed.record.keyspace, placed.record.key);
            assert_eq!(key_of_record(&payload[at..]), Some(key));
        }
    }

    #[test]
    fn a_put_that_expires_is_told_its_log_time_once_that_is_known() {
        for value in [vec![], vec![3; 9], vec![3; 20_000]] {
            let mut batch = BatchBuf::default();
            batch.push(Op::Put, 7, b"a", b"1");
            let offset = batch.push_expiring(7, b"key", &value, 50);
            batch.push(Op::Put, 7, b"b", b"2");
            let mut bytes = batch.finish();
            start_to_expire(&mut bytes, offset, 1_000);
            let all: Vec<_> = Records::new(&bytes, Lsn(0), 1)
                .collect::<Result<_, _>>()
                .unwrap();
            let put = all[1].record;
            assert_eq!(
                (put.op, put.key, put.value),
                (Op::Put, &b"key"[..], &*value)
            );
            assert_eq!(put.expires_ms, Some(1_050));
            assert_eq!(&bytes[offset + put.value_offset..][..value.len()], value);
            assert_eq!(all[2].record.expires_ms, None);
        }
    }

    #[test]
    fn ranges_and_drops_that_no_writer_forms_are_refused() {
        let decoded = |op, key: &[u8], value: &[u8]| {
            let mut batch = BatchBuf::default();
            batch.push(op, 7, key, value);
            let bytes = batch.finish();
            decode_record(&bytes[BATCH_HEADER_LEN..]).map(|record| record.op)
        };
        let range = Op::DeleteRange;
        for (key, value) in [
            (&b"a"[..], &b"b"[..]),
            (b"a", b"a\0"),
            (b"", b""),
            (b"z", b""),
        ] {
            assert_eq!(decoded(range, key, value), Ok(range));
        }
        let long = vec![9; KEY_LEN_MAX + 1];
        for (key, value) in [(&b"b"[..], &b"a"[..]), (b"a", b"a"), (b"", &long)] {
            assert_eq!(decoded(range, key, value), Err(RecordFault::Field("range")));
        }
        assert_eq!(decoded(Op::DropKeyspace, b"", b""), Ok(Op::DropKeyspace));
        for (op, key, value) in [
            (Op::DropKeyspace, &b"a"[..], &b""[..]),
            (Op::DropKeyspace, b"", b"1"),
            (Op::Delete, b"a", b"1"),
        ] {
            assert_eq!(
                decoded(op, key, value),
                Err(RecordFault::Field("operation"))
            );
        }
    }

    #[test]
    fn batches_come_back_with_the_records_that_the_whole_payload_gives() {
        let payload = payload(&[
            &[(Op::Put, b"a", b"1"), (Op::Delete, b"b", b"")],
            &[],
            &[(Op::Put, b"c", b"2")],
        ]);
        let batches: Vec<_> = Batches::new(&payload, Lsn(1000), 3)
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(batches.len(), 3);
        assert_eq!(batches[1].range.len_bytes(), BATCH_HEADER_LEN as u64);
        assert!(batches.is_sorted_by(|a, b| a.range.end == b.range.start));
        let end = Lsn(1000 + payload.len() as u64);
        assert_eq!(
            (batches[0].range.start, batches[2].range.end),
            (Lsn(1000), end)
        );
        let records = batches.iter().flat_map(|batch| {
            let ends = batch.range.end;
            batch.records().map(move |placed| {
                let placed = placed.unwrap();
                assert_eq!(placed.batch_end, ends);
                (placed.lsn, placed.record)
            })
        });
        let whole = Records::new(&payload, Lsn(1000), 3)
            .map(Result::unwrap)
            .map(|placed| (placed.lsn, placed.record));
        assert!(records.eq(whole));
    }

    #[test]
    fn batches_that_do_not_fill_their_payload_end_in_a_fault_and_then_in_nothing() {
        let payload = payload(&[&[(Op::Put, b"a", b"1")], &[(Op::Put, b"b", b"2")]]);
        for (bytes, batches) in [
            (&payload[..], 1),
            (&payload[..], 3),
            (&payload[..payload.len() - 1], 2),
            (&payload[1..], 2),
        ] {
            let mut batches = Batches::new(bytes, Lsn::ZERO, batches);
            assert!(batches.any(|batch| batch.is_err()));
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let payload = payload(&[&[(Op::Put, b"key", b"value")]]);
        let record = &payload[BATCH_HEADER_LEN..];
        assert!(decode_record(record).is_ok());
        for bit in 0..record.len() * 8 {
            let mut bad = record.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn damaged_batch_headers_end_in_a_fault_and_then_in_nothing() {
        let payload = payload(&[&[(Op::Put, b"a", b"1")], &[(Op::Put, b"b", b"2")]]);
        for (at, batches) in [(0, 2), (4, 2), (5, 2)] {
            let mut bad = payload.clone();
            bad[at] ^= 1;
            let mut records = Records::new(&bad, Lsn::ZERO, batches);
            assert!(records.any(|r| r.is_err()), "byte {at}");
            assert!(records.next().is_none());
        }
        for batches in [1, 3] {
            assert!(Records::new(&payload, Lsn::ZERO, batches).any(|r| r.is_err()));
        }
    }
}
