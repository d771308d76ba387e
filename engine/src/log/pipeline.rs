//! Commits that are begun one behind the other and end as a prefix.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Commits that one caller begins one behind the other, without waiting: once one of them has
/// failed, all that were begun after it fail too. What gets into the log is a prefix of them,
/// whatever the reason was and however soon it passed.
///
/// ```
/// # use outlast_engine::{Batch, CommitOptions, Pipeline, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open_in_memory()?;
/// let notes = store.keyspace("notes")?;
/// let mut pipeline = Pipeline::default();
/// for n in 0..3 {
///     let mut batch = Batch::new();
///     batch.put(&notes, format!("note {n}"), "text")?;
///     let commit = store.commit_behind(&mut pipeline, batch, CommitOptions::default());
/// #   drop(commit);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Pipeline {
    begun: u64,
    failed: Arc<FirstFailed>,
}

/// The number of the first commit that failed.
#[derive(Debug)]
struct FirstFailed(AtomicU64);

impl Default for FirstFailed {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// One commit's place in its pipeline.
#[derive(Clone, Debug)]
pub(super) struct Place {
    number: u64,
    failed: Arc<FirstFailed>,
}

impl Pipeline {
    /// Counts a commit as failed that its caller did not even begin.
    pub fn fail(&mut self) {
        self.take_place().fail();
    }

    pub(super) fn take_place(&mut self) -> Place {
        self.begun += 1;
        Place {
            number: self.begun,
            failed: self.failed.clone(),
        }
    }
}

impl Place {
    pub(super) fn fail(&self) {
        self.failed.0.fetch_min(self.number, Ordering::AcqRel);
    }

    /// # Errors
    /// `Skipped` when a commit before this one has failed.
    pub(super) fn check(&self) -> Result<()> {
        if self.failed.0.load(Ordering::Acquire) >= self.number {
            return Ok(());
        }
        let message = "a commit before it in its pipeline failed, so this one was not tried: mend \
                       the cause, then begin again with the first that failed";
        Err(Error::new(ErrorKind::Skipped, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_first_that_failed_none_is_tried_and_before_it_all_are() {
        let mut pipeline = Pipeline::default();
        let places: Vec<_> = (0..4).map(|_| pipeline.take_place()).collect();
        places[2].fail();
        places[3].fail();
        let tried: Vec<_> = places.iter().map(|place| place.check().is_ok()).collect();
        assert_eq!(tried, [true, true, true, false]);
        places[1].fail();
        assert!(places[0].check().is_ok() && places[2].check().is_err());
        assert!(pipeline.take_place().check().is_err());
        assert!(Pipeline::default().take_place().check().is_ok());
    }
}
