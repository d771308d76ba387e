//! How many commits are in flight, and who waits for that to change.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lets a commit in while fewer than `max` are in flight; closed, it lets none in.
pub(super) struct Gate {
    max: usize,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    closed: bool,
}

impl Gate {
    pub(super) fn new(max: usize) -> Self {
        let (state, moved) = Default::default();
        Self { max, state, moved }
    }

    /// Waits for room. `false` once it is closed.
    pub(super) fn enter(&self) -> bool {
        let full = |state: &mut State| state.in_flight >= self.max && !state.closed;
        let waited = self.moved.wait_while(self.lock(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        state.in_flight += 1;
        true
    }

    /// Waits until `moment`. `false` once it is closed.
    pub(super) fn until(&self, moment: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if state.closed || left == Duration::ZERO {
                return !state.closed;
            }
            let waited = self.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One commit has been answered.
    pub(super) fn leave(&self) {
        self.lock().in_flight -= 1;
        self.moved.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
