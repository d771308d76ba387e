//! Keeps one panic from becoming the end of the process.
//!
//! quinn guards each connection by a standard mutex and unwraps it, in destructors too. A panic
//! under that mutex therefore makes every later touch of the connection panic; and when that
//! happens in a destructor while a task already unwinds, the process is aborted, and the store with
//! it.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// Something of quinn's, whose destructor never runs while a panic unwinds and never starts one.
///
/// What is not destroyed leaks: a few kilobytes of a connection that is lost anyway.
#[derive(Debug)]
pub(super) struct Shield<T>(Option<T>);

impl<T> Shield<T> {
    pub(super) const fn new(inner: T) -> Self {
        Self(Some(inner))
    }
}

impl<T> Deref for Shield<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(inner) => inner,
            None => unreachable!("only the destructor empties it"),
        }
    }
}

impl<T> DerefMut for Shield<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(inner) => inner,
            None => unreachable!("only the destructor empties it"),
        }
    }
}

impl<T> Drop for Shield<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        if thread::panicking() {
            mem::forget(inner);
        } else {
            // The panic hook has printed what there is to say.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(inner)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bad;

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }

    #[test]
    fn a_destructor_that_panics_is_harmless_in_peace_and_in_a_panic() {
        drop(Shield::new(Bad));
        let unwound = catch_unwind(|| {
            let _bad = Shield::new(Bad);
            panic!("at work");
        });
        let payload = unwound.unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"at work"));
    }
}
