//! The ledger: what was acknowledged, one JSON line each, handed to the system before the next.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use outlast_engine::{Level, Receipt};
use serde::{Deserialize, Serialize};

/// One acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerLine {
    /// How many batches of the input come before this one.
    pub batch: u64,
    /// Names the commit, with `epoch` and `lsn`.
    pub commit: u64,
    /// Where the batch ends in the log.
    pub lsn: u64,
    /// The epoch that wrote it.
    pub epoch: String,
    /// What was acknowledged: fsynced here, on the standby too, or visible there too.
    pub level: Level,
}

/// A file of acknowledgements. It outlives the loader, not the machine.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// Appends to the file, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn append(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file })
    }

    /// Writes one line, by one call to the system.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, batch: u64, receipt: &Receipt, level: Level) -> io::Result<()> {
        let line = LedgerLine {
            batch,
            commit: receipt.commit,
            lsn: receipt.lsn.0,
            epoch: receipt.epoch.to_string(),
            level,
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.file.write_all(&text)
    }

    /// Reads a ledger. A last line that was not finished was not an acknowledgement anybody saw.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn read(path: &Path) -> io::Result<Vec<LedgerLine>> {
        let text = std::fs::read_to_string(path)?;
        let whole = text
            .rfind('\n')
            .map_or("", |end| text.get(..end).unwrap_or_default());
        whole
            .lines()
            .map(|line| serde_json::from_str(line).map_err(io::Error::from))
            .collect()
    }
}
