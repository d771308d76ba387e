//! Reaching a node: the one that runs in a directory, or the directory itself.

use std::io;
use std::path::{Path, PathBuf};

use outlast_standby::Error as NodeError;
use outlast_standby::control::Client;
use outlast_standby::control::protocol::FailureKind;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;

impl Global {
    /// The directory of the node that the command is for.
    pub(crate) fn dir(&self) -> Result<PathBuf, Failure> {
        self.place.named_dir()?.ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                anyhow::anyhow!("no directory of a node was named"),
            )
            .hint("name it with --dir DIR or $OUTLAST_DIR")
        })
    }

    /// The node that runs in the directory, if one does.
    pub(crate) fn running(&self) -> Result<Option<Client>, Failure> {
        let dir = self.dir()?;
        match Client::connect(&dir) {
            Ok(client) => Ok(Some(client)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => {
                let error = anyhow::Error::new(error)
                    .context(format!("cannot reach the node in {}", dir.display()));
                Err(Failure::new(Exit::NotReachable, error))
            }
        }
    }

    /// The node that runs in the directory.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        match self.running()? {
            Some(client) => Ok(client),
            None => Err(not_running(&self.dir()?)),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn not_running(dir: &Path) -> Failure {
    let error = anyhow::anyhow!("no node runs in {}", dir.display());
    let failure = Failure::new(Exit::NotReachable, error);
    failure.hint(format_args!(
        "start it with: outlast serve --dir {}",
        dir.display()
    ))
}

/// What a node answered, as the command line ends.
pub(crate) fn failed(error: NodeError) -> Failure {
    let exit = match error.kind() {
        FailureKind::Usage => Exit::Usage,
        FailureKind::Refused => Exit::Refused,
        FailureKind::Corrupt => Exit::Corruption,
        FailureKind::Timeout => Exit::Timeout,
        FailureKind::NotReachable => Exit::NotReachable,
        _ => Exit::Failure,
    };
    let hint = error.to_failure().hint;
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A reply that does not answer what was asked.
pub(crate) fn unexpected(reply: &impl std::fmt::Debug) -> Failure {
    Failure::from(anyhow::anyhow!(
        "the node answered something else: {reply:?}"
    ))
}
