//! Looks at the node for whoever asks, one look at a time, and waits for none that hangs.

use std::sync::Arc;
use std::time::Duration;

use outlast_engine::Metrics;
use tokio::sync::{Semaphore, watch};

use crate::status::Status;

/// How long a look may take before the node counts as one that does not answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A node as it was at one moment.
pub(crate) struct Look {
    pub(crate) status: Status,
    pub(crate) metrics: Metrics,
}

/// Looks at the node; may block. `None` once it is closed.
pub(crate) type Source = Arc<dyn Fn() -> Option<Look> + Send + Sync>;

pub(super) struct Lookout {
    source: Source,
    /// Held while a look is under way.
    looking: Arc<Semaphore>,
    newest: watch::Sender<Option<Arc<Look>>>,
}

impl Lookout {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            looking: Arc::new(Semaphore::new(1)),
            newest: watch::Sender::new(None),
        }
    }

    /// How the node is now.
    ///
    /// # Errors
    /// Says so when it does not answer in time.
    pub(super) async fn look(&self) -> Result<Arc<Look>, String> {
        let mut newest = self.newest.subscribe();
        newest.mark_unchanged();
        if let Ok(turn) = self.looking.clone().try_acquire_owned() {
            let (source, newest) = (self.source.clone(), self.newest.clone());
            tokio::task::spawn_blocking(move || {
                let look = source().map(Arc::new);
                drop(turn);
                newest.send_replace(look);
            });
        }
        match tokio::time::timeout(LOOK_TIMEOUT, newest.changed()).await {
            Ok(Ok(())) => newest
                .borrow()
                .clone()
                .ok_or_else(|| "the node is closing".to_owned()),
            _ => Err(format!(
                "the node did not say how it is within {LOOK_TIMEOUT:?}: a disk may hang"
            )),
        }
    }
}
