//! Bytes that wait to be handed to a stream.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Chunks that are worth joining are joined up to this length: the transport searches what is under
/// way from its beginning for every packet, so many small chunks would cost more than one copy.
const JOINED_BYTES_MAX: usize = 64 << 10;

/// Buffers handed over at a time.
const CHUNKS_AT_ONCE: usize = 16;

#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl ByteQueue {
    pub(super) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Bytes in the queue.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What stands at the front, at most `len_max` bytes of it, without taking it out: whoever
    /// hands it over may be stopped before it is known how much was taken.
    pub(super) fn front(&mut self, len_max: usize) -> Vec<Bytes> {
        if self.chunks.len() > CHUNKS_AT_ONCE {
            self.join_small();
        }
        let mut left = len_max;
        let mut front = Vec::with_capacity(CHUNKS_AT_ONCE.min(self.chunks.len()));
        for chunk in self.chunks.iter().take(CHUNKS_AT_ONCE) {
            if left == 0 {
                break;
            }
            let part = chunk.slice(..chunk.len().min(left));
            left -= part.len();
            front.push(part);
        }
        front
    }

    /// Takes `len` bytes out at the front.
    pub(super) fn advance(&mut self, len: usize) {
        assert!(len <= self.len, "{len} bytes of {} taken", self.len);
        self.len -= len;
        let mut left = len;
        while left > 0 {
            let Some(front) = self.chunks.front_mut() else {
                unreachable!("{left} bytes are missing in the queue");
            };
            let part = front.len().min(left);
            front.advance(part);
            left -= part;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    fn join_small(&mut self) {
        let mut joined: VecDeque<Bytes> = VecDeque::new();
        let mut small = BytesMut::new();
        for chunk in self.chunks.drain(..) {
            let fits = small.len() + chunk.len() <= JOINED_BYTES_MAX;
            if !fits && !small.is_empty() {
                joined.push_back(small.split().freeze());
            }
            if chunk.len() > JOINED_BYTES_MAX / 4 && small.is_empty() {
                joined.push_back(chunk);
            } else {
                small.extend_from_slice(&chunk);
            }
        }
        if !small.is_empty() {
            joined.push_back(small.freeze());
        }
        self.chunks = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_whatever_the_cuts() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut queue = ByteQueue::default();
            let mut expected = Vec::new();
            let mut got = Vec::new();
            while expected.len() < 300_000 {
                for _ in 0..rng.usize(..40) {
                    let len = *rng.choice(&[0, 1, 100, 5_000, 20_000, 100_000]).unwrap();
                    let chunk: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
                    expected.extend_from_slice(&chunk);
                    queue.push(chunk.into());
                }
                assert_eq!(queue.len(), expected.len() - got.len());
                let len_max = rng.usize(1..200_000);
                let front = queue.front(len_max).concat();
                assert!(front.len() <= len_max);
                assert_eq!(front.is_empty(), queue.is_empty());
                let taken = rng.usize(..=front.len());
                got.extend_from_slice(&front[..taken]);
                queue.advance(taken);
            }
            while !queue.is_empty() {
                let front = queue.front(usize::MAX).concat();
                got.extend_from_slice(&front);
                queue.advance(front.len());
            }
            assert!(got == expected);
        }
    }

    #[test]
    fn one_chunk_is_handed_over_as_it_is_and_many_small_ones_together() {
        let mut queue = ByteQueue::default();
        let chunk = Bytes::from(vec![1; 100]);
        queue.push(chunk.clone());
        assert_eq!(queue.front(200)[0].as_ptr(), chunk.as_ptr());
        for _ in 0..1000 {
            queue.push(chunk.clone());
        }
        let front = queue.front(usize::MAX);
        assert_eq!((front.len(), queue.len()), (2, 100_100));
    }
}
