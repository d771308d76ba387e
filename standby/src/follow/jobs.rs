//! What a follower does to its log, job by job. Whatever waits is done as one: all runs appended,
//! one fsync. The more there is to do, the fewer fsyncs it costs. Replay goes beside it.

use std::fmt;

use outlast_engine::format::{FrameRun, Lsn, Position};
use outlast_engine::kill_points::{Point, pass};
use outlast_engine::planted::{Bug, on};
use outlast_engine::{ErrorKind, LogView, ProtectionMark, Result, Store, TermMark};

/// Something to do to the log of a follower; jobs are done in their order.
pub enum Job {
    /// Append checked frames.
    Append(FrameRun),
    /// Make everything that was appended durable.
    Sync,
    /// Show readers everything up to here.
    ApplyTo(Lsn),
    /// Note durably what was heard of.
    Note {
        /// The highest term.
        heard: TermMark,
        /// The newest protection record.
        protection: Option<ProtectionMark>,
    },
    /// Put the log's tail from here on aside, durably, and cut it off.
    Quarantine {
        /// The fork.
        from: Lsn,
    },
    /// Call this when everything before is done.
    Barrier(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append(run) => write!(f, "Append({})", run.range()),
            Self::Sync => f.write_str("Sync"),
            Self::ApplyTo(lsn) => write!(f, "ApplyTo({lsn})"),
            Self::Note { heard, .. } => write!(f, "Note(term {})", heard.term),
            Self::Quarantine { from } => write!(f, "Quarantine({from})"),
            Self::Barrier(_) => f.write_str("Barrier"),
        }
    }
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// The log ends here.
    Appended(Position),
    /// It is fsynced up to here.
    Durable(Position),
    /// Readers see up to here.
    Applied(Position),
    /// What was heard of is noted durably.
    Noted,
    /// The tail is cut off; the log is left as this.
    Quarantined(Box<LogView>),
    /// The log failed, for this reason.
    Failed(outlast_engine::Error),
}

/// The jobs that are done as one: what can be put off is done once, when no more wait.
#[derive(Default)]
pub struct Round {
    appended: bool,
    sync: bool,
    barriers: Vec<Box<dyn FnOnce() + Send>>,
}

impl Round {
    /// Does a job, or puts it off to the end of the round. What is to be shown goes to `replay`,
    /// which calls [`replay_to`] soon.
    ///
    /// # Errors
    /// Those of the store. Jobs go on after it: the store refuses what it can no longer do.
    pub fn take(
        &mut self,
        store: &Store,
        job: Job,
        replay: &mut dyn FnMut(Lsn),
        tell: &mut dyn FnMut(Done),
    ) -> Result<()> {
        match job {
            Job::Append(run) => {
                pass(Point::RunReceived);
                store.append_run(&run)?;
                pass(Point::RunAppended);
                self.appended = true;
            }
            Job::Sync => self.sync = true,
            Job::ApplyTo(lsn) => replay(lsn),
            Job::Note { heard, protection } => {
                store.note_term(heard)?;
                if let Some(protection) = protection {
                    store.note_protection(protection)?;
                }
                tell(Done::Noted);
            }
            Job::Quarantine { from } => {
                std::mem::take(self).finish(store, tell)?;
                store.quarantine(from)?;
                tell(Done::Quarantined(Box::new(store.log_view())));
            }
            Job::Barrier(barrier) => self.barriers.push(barrier),
        }
        Ok(())
    }

    /// Does what was put off.
    ///
    /// # Errors
    /// Those of the store; what comes behind is then left undone.
    pub fn finish(self, store: &Store, tell: &mut dyn FnMut(Done)) -> Result<()> {
        if self.appended {
            tell(Done::Appended(store.positions().appended));
        }
        if self.sync {
            if on(Bug::AckOnReceive) {
                tell(Done::Durable(store.positions().appended));
            } else {
                store.sync()?;
                pass(Point::RunSynced);
                tell(Done::Durable(store.positions().durable));
            }
        }
        for barrier in self.barriers {
            barrier();
        }
        Ok(())
    }
}

impl fmt::Debug for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            appended,
            sync,
            barriers,
        } = self;
        let barriers = barriers.len();
        write!(f, "Round({appended} {sync} {barriers})")
    }
}

/// Shows readers everything up to `lsn`. Answers with what was done, if that is anything.
pub fn replay_to(store: &Store, lsn: Lsn) -> Option<Done> {
    match store.apply_to(lsn) {
        Ok(position) => Some(Done::Applied(position)),
        // This node was promoted meanwhile, which has applied all that there was.
        Err(error) if error.kind() == ErrorKind::NotWriter => None,
        Err(error) => Some(Done::Failed(error)),
    }
}
