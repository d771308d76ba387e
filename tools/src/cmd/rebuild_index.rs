//! `outlast rebuild-index`: making the index again from the log.

use clap::Args;
use outlast_engine::Config;
use outlast_tools::exit::Exit;
use serde_json::json;

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;

/// Make the index of a node that does not run again from its log
///
/// The index says which record of the log holds a key's value. It is derived: nothing is lost when
/// it is damaged or gone, and the log is not touched here. A node that finds its index gone makes
/// it again by itself when it starts; this does it beforehand.
///
/// Exits with 4 while the node runs.
#[derive(Debug, Args)]
pub(crate) struct RebuildIndex {}

impl RebuildIndex {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let dir = global.dir()?;
        let size = outlast_engine::rebuild_index(&dir, Config::default())
            .map_err(|error| failed(error.into()))?;
        let value = json!({
            "schema": 1,
            "dir": dir,
            "versions": size.versions,
            "disk_bytes": size.disk_bytes,
        });
        global.output.result(&value, || {
            format!(
                "{}: an index of {} versions, {} bytes on the disk",
                dir.display(),
                size.versions,
                size.disk_bytes
            )
        })?;
        Ok(Exit::Ok)
    }
}
