//! Reading a store that another process may have open, without its lock and without writing.

use std::path::Path;
use std::sync::Arc;

use super::{Opening, Store};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Fs, OsFs, ReadOnly};
use crate::keyspace::StoreTag;

/// How often files that change under the reader are read again before they count as damaged.
const ATTEMPTS: usize = 8;

impl Store {
    /// Opens the store in `dir` for reading alone, whether a process writes it meanwhile or nobody
    /// has it open. Takes no lock and writes no byte.
    ///
    /// It shows the state as it was visible and known to be durable when this was called, up to
    /// 50 ms behind a writer, and stays there until [`Store::refresh`]. What is not in the index on
    /// disk yet is kept in memory. All that writes is refused with `NotWriter`.
    ///
    /// The writer may take away files that this view has not read from yet. Then a read fails with
    /// `NotHeld`, never with other data: refresh, and read again.
    ///
    /// ```
    /// # use outlast_engine::{Batch, Config, EpochReason, InitOptions, Store};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// # Store::init(dir, &InitOptions::new("seoul-a"))?;
    /// # let store = Store::open(dir, Config::default())?;
    /// # store.begin_epoch(EpochReason::Init, "")?;
    /// # let users = store.keyspace("users")?;
    /// # let mut batch = Batch::new();
    /// # batch.put(&users, "mina", "sailing")?;
    /// # store.commit(batch, Default::default())?;
    /// # store.close()?;
    /// let mut view = Store::open_read_only(dir, Config::default())?;
    /// let users = view.find_keyspace("users")?;
    /// assert_eq!(view.get(&users, "mina")?.as_deref(), Some(&b"sailing"[..]));
    /// assert!(!view.refresh()?, "nobody has written since");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotInitialised`, `Corrupt` when bytes that were durable do not hold, `Incompatible`, `Io`.
    pub fn open_read_only(dir: &Path, config: Config) -> Result<Self> {
        let fs = Arc::new(OsFs::new(dir));
        Self::open_read_only_on(fs, Arc::<SystemClock>::default(), config)
    }

    /// [`Store::open_read_only`] on any files and clock.
    ///
    /// # Errors
    /// As [`Store::open_read_only`].
    pub fn open_read_only_on(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Self> {
        let config = Config {
            background: false,
            ..config
        };
        reopen(&(Arc::new(ReadOnly(fs)), clock, config), StoreTag::new())
    }

    /// Moves a store that was opened by [`Store::open_read_only`] on to what is visible and durable
    /// now; answers whether that is another position. Any other store shows the newest anyway, and
    /// stays as it is.
    ///
    /// Handles of keyspaces go on. Other clones, snapshots, ranges and tails stay where they are: a
    /// tail is gone on with by a new one at its [`position`](crate::Tail::position). After a
    /// writer's restart the position may be lower than before.
    ///
    /// # Errors
    /// As [`Store::open_read_only`]; it then stays as it is.
    pub fn refresh(&mut self) -> Result<bool> {
        if !self.log().is_read_only() {
            return Ok(false);
        }
        let before = self.log().visible();
        let tag = self.shared.state.catalogue.tag();
        *self = reopen(&self.log().opened_with(), tag)?;
        Ok(self.log().visible() != before)
    }
}

/// A writer that is under way leaves what looks like damage to whoever reads files one after the
/// other. What it leaves is gone when they are read again.
fn reopen(with: &(Arc<dyn Fs>, Arc<dyn Clock>, Config), tag: StoreTag) -> Result<Store> {
    let open = || {
        let (fs, clock, config) = with.clone();
        Store::open_as(Opening::ReadOnly, tag, fs, clock, config)
    };
    let mut opened = open();
    for _ in 1..ATTEMPTS {
        match &opened {
            Err(error) if may_pass(error) => opened = open(),
            _ => break,
        }
    }
    opened
}

fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io)
}
