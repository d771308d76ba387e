//! Records by their address: one positioned read, proven by checksum and key.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Lsn, Op, RecordFault, RecordRef, decode_record, to_usize};
use crate::index::Version;
use crate::log::{Log, damage_hint};

/// The bytes of a record, not looked at yet.
pub(crate) fn read(log: &Log, version: Version) -> Result<Bytes> {
    log.read(version.lsn, to_usize(u64::from(version.len)))
}

/// Key and value of the put that `bytes` must be, sharing its memory.
///
/// # Errors
/// As [`check`].
pub(crate) fn verify(
    log: &Log,
    bytes: &Bytes,
    keyspace: u32,
    key: &[u8],
    lsn: Lsn,
) -> Result<(Bytes, Bytes)> {
    let record = check(log, bytes, keyspace, key, lsn)?;
    Ok((bytes.slice_ref(record.key), bytes.slice_ref(record.value)))
}

/// The put that `bytes` must be.
///
/// # Errors
/// `Corrupt` when the record is damaged, or another one than was asked for: a disk that answers
/// with bytes of another place is caught by the key.
#[inline]
pub(crate) fn check<'a>(
    log: &Log,
    bytes: &'a [u8],
    keyspace: u32,
    key: &[u8],
    lsn: Lsn,
) -> Result<RecordRef<'a>> {
    prove(bytes, keyspace, key).map_err(|what| does_not_hold(log, lsn, &what))
}

#[cold]
fn does_not_hold(log: &Log, lsn: Lsn, what: &str) -> Error {
    let hint = damage_hint(&log.place());
    let message = format!("the record at {lsn} does not hold ({what}): {hint}");
    log.of_a_view(Error::new(ErrorKind::Corrupt, message))
}

#[inline]
fn prove<'a>(bytes: &'a [u8], keyspace: u32, key: &[u8]) -> Result<RecordRef<'a>, String> {
    let record = decode_record(bytes).map_err(|fault: RecordFault| fault.to_string())?;
    if record.op != Op::Put || record.keyspace != keyspace || record.key != key {
        return Err("it is not the one that the index names".to_owned());
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BatchBuf;

    #[test]
    fn a_record_that_is_damaged_or_another_one_is_refused() {
        let mut batch = BatchBuf::default();
        batch.push(Op::Put, 7, b"key", b"value");
        let record = Bytes::from(batch.finish()).slice(8..);
        let put = prove(&record, 7, b"key").unwrap();
        assert_eq!((put.key, put.value), (&b"key"[..], &b"value"[..]));

        let mut flipped = record.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        let short = record.slice(..record.len() - 1);
        for (bytes, keyspace, key) in [
            (Bytes::from(flipped), 7, &b"key"[..]),
            (short, 7, b"key"),
            (record.clone(), 8, b"key"),
            (record.clone(), 7, b"kez"),
        ] {
            assert!(prove(&bytes, keyspace, key).is_err());
        }
        let mut delete = BatchBuf::default();
        delete.push(Op::Delete, 7, b"key", b"");
        let record = Bytes::from(delete.finish()).slice(8..);
        assert!(prove(&record, 7, b"key").is_err());
    }
}
