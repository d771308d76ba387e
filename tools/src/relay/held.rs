//! The datagrams of one direction that are under way, in the order in which they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use quinn_udp::EcnCodepoint;

/// A datagram under way.
#[derive(Debug)]
pub(super) struct Datagram {
    /// The client that it comes from or goes to.
    pub(super) client: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: Bytes,
}

/// What is under way in one direction; at most [`HELD_MAX_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Held {
    heap: BinaryHeap<Reverse<Entry>>,
    next_ordinal: u64,
    bytes: usize,
}

/// A line of 1 Gbit/s with a delay of two seconds fits in.
pub(super) const HELD_MAX_BYTES: usize = 256 << 20;

/// What the heap spends on a datagram beside its payload.
const ENTRY_BYTES: usize = 128;

#[derive(Debug)]
struct Entry {
    due: Duration,
    /// Equal times leave in the order in which they came.
    ordinal: u64,
    datagram: Datagram,
}

impl Held {
    /// Keeps the datagram until it is due; gives it back if too much is under way already.
    pub(super) fn push(&mut self, due: Duration, datagram: Datagram) -> Result<(), Datagram> {
        let bytes = datagram.bytes.len() + ENTRY_BYTES;
        if self.bytes + bytes > HELD_MAX_BYTES {
            return Err(datagram);
        }
        self.bytes += bytes;
        self.heap.push(Reverse(Entry {
            due,
            ordinal: self.next_ordinal,
            datagram,
        }));
        self.next_ordinal += 1;
        Ok(())
    }

    /// The next datagram that is due at `now`, if any.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Datagram> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.bytes -= entry.datagram.bytes.len() + ENTRY_BYTES;
        Some(entry.datagram)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Loses all of them, and says how many there were.
    pub(super) fn clear(&mut self) -> usize {
        let gone = self.heap.len();
        self.heap.clear();
        self.bytes = 0;
        gone
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.ordinal) == (other.due, other.ordinal)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.ordinal).cmp(&(other.due, other.ordinal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(bytes: &'static [u8]) -> Datagram {
        let client = SocketAddr::from(([127, 0, 0, 1], 1));
        Datagram {
            client,
            ecn: None,
            bytes: Bytes::from_static(bytes),
        }
    }

    #[test]
    fn leaves_by_time_and_then_by_arrival() {
        let mut held = Held::default();
        for (due, bytes) in [(5, b"c"), (1, b"a"), (5, b"d"), (2, b"b")] {
            held.push(Duration::from_secs(due), datagram(bytes))
                .unwrap();
        }
        assert!(held.pop_due(Duration::ZERO).is_none());
        let mut order = Vec::new();
        while let Some(datagram) = held.pop_due(Duration::from_secs(5)) {
            order.extend_from_slice(&datagram.bytes);
        }
        assert_eq!(order, b"abcd");
    }

    #[test]
    fn holds_no_more_than_its_cap() {
        static LARGE: [u8; 60_000] = [0; 60_000];
        let mut held = Held::default();
        while held.push(Duration::ZERO, datagram(&LARGE)).is_ok() {}
        assert!(held.bytes <= HELD_MAX_BYTES && held.bytes > HELD_MAX_BYTES - 70_000);
        let full = held.len();
        assert!(held.pop_due(Duration::ZERO).is_some());
        assert!(
            held.push(Duration::ZERO, datagram(&LARGE)).is_ok(),
            "room again"
        );
        assert_eq!(held.clear(), full);
        assert_eq!((held.len(), held.bytes), (0, 0));
    }
}
