//! Processes that end with the one that started them, however that ends.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Names, to a process that is started, the one that it must not outlive.
const PARENT: &str = "OUTLAST_PARENT";

/// Lets the process that `command` starts end with this one, by [`end_with_parent`].
///
/// To the system the parent is the thread that starts it: let that be one which lasts as long as
/// the process is needed.
pub fn end_with_this(command: &mut Command) -> &mut Command {
    command.env(PARENT, std::process::id().to_string())
}

/// Asks the system to end this process at once when its parent ends, if that was wished for.
///
/// # Errors
/// When the parent has ended already.
pub fn end_with_parent() -> Result<()> {
    let Some(parent) = std::env::var_os(PARENT) else {
        return Ok(());
    };
    let parent: i32 = parent
        .to_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("{PARENT} is the id of no process"))?;
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot be told when the parent ends")?;
    // One that ended before that sends no signal any more.
    let now = getppid().map(|parent| parent.as_raw_nonzero().get());
    ensure!(
        now == Some(parent),
        "process {parent}, which this one was started for ({PARENT}), has ended"
    );
    Ok(())
}
