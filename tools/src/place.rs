//! Where a node is: `--dir`, else `$OUTLAST_DIR`, else the configuration's `dir`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use outlast_tools::exit::Exit;
use serde::Deserialize;

use crate::failure::Failure;

/// Where the node is that a command is for.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The directory of the node
    #[arg(long, global = true, value_name = "DIR", env = "OUTLAST_DIR")]
    dir: Option<PathBuf>,

    /// The configuration, read if there is no --dir [default: /etc/outlast/outlast.toml]
    #[arg(long, global = true, value_name = "FILE", env = "OUTLAST_CONFIG")]
    config: Option<PathBuf>,
}

const USUAL_CONFIG: &str = "/etc/outlast/outlast.toml";

/// What the configuration says about the place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    dir: Option<PathBuf>,
}

impl Place {
    /// The directory, if anything names one.
    pub(crate) fn named_dir(&self) -> Result<Option<PathBuf>, Failure> {
        if self.dir.is_some() {
            return Ok(self.dir.clone());
        }
        let (path, must_exist) = match &self.config {
            Some(path) => (path.as_path(), true),
            None => (Path::new(USUAL_CONFIG), false),
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Ok(None);
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                let error =
                    error.context(format!("cannot read the configuration {}", path.display()));
                return Err(
                    Failure::new(Exit::Usage, error).hint("name the directory with --dir DIR")
                );
            }
        };
        let config: Result<Config, _> = toml::from_str(&text);
        let config = config.with_context(|| format!("{} is no configuration", path.display()));
        Ok(config
            .map_err(|error| Failure::new(Exit::Usage, error))?
            .dir)
    }
}
