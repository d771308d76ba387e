//! Looking at an index that nobody has open.

use super::manifest::{DIR, IndexManifest, NAME, file_number, ranges_name, run_name};
use super::run::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ChainRecord, ClusterId, NodeId};
use crate::fs::Fs;
use crate::log::{Fault, FaultKind, Remedy};

/// What a look at an index found.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    /// The replay point, if there is one to be believed.
    pub(crate) replay: Option<ChainRecord>,
    /// Whether some of it does not hold. It is derived: no data is lost.
    pub(crate) is_damaged: bool,
    pub(crate) faults: Vec<Fault>,
}

/// Checks every byte of the index in `fs`. Writes nothing.
///
/// # Errors
/// `Incompatible`, `Io`. Damage is no error.
pub(crate) fn inspect(fs: &dyn Fs, cluster: ClusterId, node: NodeId) -> Result<Inspection> {
    let mut found = Inspection::default();
    let manifest = match IndexManifest::load(fs) {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            found.damage(NAME, error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    // Another node's is not used, and replaced.
    let manifest = manifest.filter(|manifest| (manifest.cluster, manifest.node) == (cluster, node));
    let mut used = Vec::new();
    if let Some(manifest) = &manifest {
        found.replay = Some(manifest.replay);
        for entry in manifest.levels.iter().flatten() {
            let name = run_name(entry.number);
            used.push(entry.number);
            match Run::open(fs, &name, &entry.meta).and_then(|run| run.verify()) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => {
                    found.damage(&name, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(file) = manifest.ranges {
            used.push(file.number);
            match file.load(fs) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => {
                    found.damage(&ranges_name(file.number), error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
    }
    let names = match fs.list(DIR) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io(format_args!("list {}/{DIR}", fs.place()), error)),
    };
    for name in names.iter().map(|name| format!("{DIR}/{name}")) {
        let unused = file_number(&name).is_some_and(|number| !used.contains(&number));
        if unused || name.ends_with(".tmp") {
            let what = "a change of the index was interrupted here";
            found.fault(
                FaultKind::Leftover,
                &format!("{DIR}/{name}"),
                what.to_owned(),
            );
        }
    }
    Ok(found)
}

/// Takes the index away: the next start makes it again from the log.
///
/// # Errors
/// `Io`.
pub(crate) fn forget(fs: &dyn Fs) -> Result<()> {
    let forgetting = |error| Error::io(format_args!("unlink {}/{NAME}", fs.place()), error);
    match fs.unlink(NAME) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        unlinked => unlinked.and_then(|()| fs.sync_dir(DIR)).map_err(forgetting),
    }
}

impl Inspection {
    fn damage(&mut self, file: &str, what: String) {
        self.is_damaged = true;
        self.fault(FaultKind::Index, file, what);
    }

    fn fault(&mut self, kind: FaultKind, file: &str, what: String) {
        self.faults.push(Fault {
            kind,
            file: file.to_owned(),
            offset: 0,
            len_bytes: 0,
            range: None,
            what,
            remedy: match kind {
                FaultKind::Leftover => Remedy::Start,
                _ => Remedy::Repair,
            },
        });
    }
}
