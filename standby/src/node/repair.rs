//! Mending a node that runs.

use std::sync::Weak;

use outlast_engine::fs::OsFs;
use outlast_engine::{CopySource, FrameSource};

use super::Inner;
use crate::error::{Error, Result};
use crate::repair::{PeerSource, Repair, RepairFrom, RepairOptions};

impl Inner {
    /// Mends the sealed segments, with the frames of whom the options name.
    pub(crate) fn repair(&self, options: &RepairOptions) -> Result<Repair> {
        let Some(_mending) = self.mending.try_lock() else {
            return Err(Error::refused(
                "this node is being mended already; nothing was changed",
            ));
        };
        let mend = |from, source: Option<&mut dyn FrameSource>| {
            let report = self.store.repair_sealed(source, options.dry_run)?;
            Ok(Repair {
                running: true,
                dry_run: options.dry_run,
                from,
                report,
            })
        };
        match &options.from {
            RepairFrom::Nowhere => mend(None, None),
            RepairFrom::Copy(dir) => {
                let copy = OsFs::new(dir);
                mend(
                    Some(dir.display().to_string()),
                    Some(&mut CopySource::new(&copy)),
                )
            }
            RepairFrom::Peer => {
                let endpoint = self.endpoint.get().and_then(Weak::upgrade);
                let endpoint = endpoint.ok_or_else(|| {
                    let error = Error::refused("this node has no peer; nothing was changed");
                    error.hint("name a copy: outlast repair --from DIR")
                })?;
                let net = self.net.clone();
                let mut source = PeerSource::new(net, endpoint, self.peer(), self.protocol())?;
                source.meet(self.store.cluster())?;
                mend(Some(source.place()), Some(&mut source))
            }
        }
    }
}
