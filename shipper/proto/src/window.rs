//! Flow control: how much data may be under way to a peer that has not written it yet.

use outlast_engine::format::Lsn;

/// Data in flight: sent, and not acknowledged as received.
///
/// Invariants: acknowledged ≤ sent; what is in flight never exceeds the limit, except that a single
/// piece longer than the limit goes when nothing else is in flight. A full window is a state and
/// no error: whoever sends waits for [`Window::acknowledge`].
#[derive(Clone, Debug)]
pub(crate) struct Window {
    limit_bytes: u64,
    acknowledged: Lsn,
    sent: Lsn,
}

impl Window {
    pub(crate) const fn new(limit_bytes: u64, at: Lsn) -> Self {
        Self {
            limit_bytes,
            acknowledged: at,
            sent: at,
        }
    }

    /// Bytes sent and not acknowledged.
    pub(crate) const fn in_flight_bytes(&self) -> u64 {
        self.sent.bytes_since(self.acknowledged)
    }

    /// Whether a piece of this length may go now.
    pub(crate) const fn admits(&self, len_bytes: u64) -> bool {
        let in_flight = self.in_flight_bytes();
        in_flight == 0 || in_flight.saturating_add(len_bytes) <= self.limit_bytes
    }

    /// A piece has been sent.
    pub(crate) fn send(&mut self, len_bytes: u64) {
        assert!(
            self.admits(len_bytes),
            "{len_bytes} bytes sent into a window with {} of {} in flight",
            self.in_flight_bytes(),
            self.limit_bytes
        );
        self.sent = self.sent.advance(len_bytes);
    }

    /// The peer has written everything before `to`.
    pub(crate) fn acknowledge(&mut self, to: Lsn) {
        assert!(
            self.acknowledged <= to && to <= self.sent,
            "acknowledged {to} with {} acknowledged and {} sent",
            self.acknowledged,
            self.sent
        );
        self.acknowledged = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_limit_except_one_long_piece_alone() {
        let mut window = Window::new(100, Lsn(1000));
        window.send(60);
        assert!(window.admits(40) && !window.admits(41));
        window.send(40);
        assert!(window.in_flight_bytes() == 100 && !window.admits(1));
        window.acknowledge(Lsn(1060));
        assert!(window.admits(60) && !window.admits(61));
        window.acknowledge(Lsn(1100));
        assert!(window.admits(5000));
        window.send(5000);
        assert!(!window.admits(1));
    }

    #[test]
    #[should_panic(expected = "acknowledged 2000")]
    fn an_acknowledgement_beyond_what_was_sent_is_the_callers_to_refuse() {
        Window::new(100, Lsn(1000)).acknowledge(Lsn(2000));
    }
}
