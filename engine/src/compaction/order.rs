//! All records of some pieces in the order of their keys, without copying them: where each lies is
//! noted, a chunk of notes is sorted at a time, and the chunks are merged.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::format::{Lsn, key_of_record};
use crate::log::PLACES_AT;

/// Notes that are sorted at a time: a few milliseconds of work.
const CHUNK_LEN: usize = 16 << 10;

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    keyspace: u32,
    /// Which file.
    source: u32,
    /// The key's first bytes, which decide most comparisons.
    head: [u8; 8],
    pub(super) lsn: Lsn,
    at: u32,
}

/// Records while they are collected.
#[derive(Default)]
pub(super) struct Collected {
    sources: Vec<Bytes>,
    chunk: Vec<Place>,
    chunks: Vec<Vec<Place>>,
}

impl Collected {
    /// What is noted from here on lies in `file`.
    pub(super) fn begin_source(&mut self, file: Bytes) {
        self.sources.push(file);
    }

    /// Notes a record that lies `at` bytes behind the header of the file.
    pub(super) fn note(&mut self, keyspace: u32, key: &[u8], lsn: Lsn, at: u32) {
        let source = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
        self.chunk.push(Place {
            keyspace,
            source: source.saturating_sub(1),
            head: head(key),
            lsn,
            at,
        });
        if self.chunk.len() >= CHUNK_LEN {
            self.end_chunk();
        }
    }

    fn end_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.chunk);
        let sources = &self.sources;
        chunk.sort_unstable_by(|one, other| compare(sources, one, other));
        self.chunks.push(chunk);
    }

    /// All of them in order.
    pub(super) fn ordered(mut self) -> Ordered {
        self.end_chunk();
        let mut chunks: Vec<_> = self.chunks.into_iter().map(Vec::into_iter).collect();
        let sources = self.sources;
        let mut heads: Vec<(Place, usize)> = Vec::with_capacity(chunks.len());
        for (number, chunk) in chunks.iter_mut().enumerate() {
            heads.extend(chunk.next().map(|place| (place, number)));
        }
        heads.sort_unstable_by(|one, other| compare(&sources, &other.0, &one.0));
        Ordered {
            sources,
            chunks,
            heads,
        }
    }
}

/// Records in the order keyspace, key, newest first.
pub(super) struct Ordered {
    sources: Vec<Bytes>,
    chunks: Vec<std::vec::IntoIter<Place>>,
    /// The first note that is left of each chunk, with the chunk's number; the next one last.
    heads: Vec<(Place, usize)>,
}

impl Ordered {
    /// The bytes from a record's first on.
    pub(super) fn bytes(&self, place: &Place) -> &[u8] {
        bytes(&self.sources, place)
    }

    fn replace_last(&mut self, next: Place, number: usize) {
        let sources = &self.sources;
        let at = self
            .heads
            .partition_point(|(head, _)| compare(sources, head, &next).is_gt());
        self.heads.insert(at, (next, number));
    }
}

impl Iterator for Ordered {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let (place, number) = self.heads.pop()?;
        if let Some(next) = self.chunks.get_mut(number).and_then(Iterator::next) {
            self.replace_last(next, number);
        }
        Some(place)
    }
}

fn bytes<'a>(sources: &'a [Bytes], place: &Place) -> &'a [u8] {
    let file = sources.get(place.source as usize);
    file.and_then(|file| file.get(PLACES_AT + place.at as usize..))
        .unwrap_or_default()
}

fn compare(sources: &[Bytes], one: &Place, other: &Place) -> Ordering {
    let key = |place| key_of_record(bytes(sources, place)).map(|(_, key)| key);
    (one.keyspace, one.head)
        .cmp(&(other.keyspace, other.head))
        .then_with(|| key(one).cmp(&key(other)))
        .then_with(|| other.lsn.cmp(&one.lsn))
}

fn head(key: &[u8]) -> [u8; 8] {
    let mut head = [0; 8];
    head.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    head
}
