//! Work that a signal ends in an orderly way.

use std::thread;

use anyhow::Context;
use outlast_tools::exit::Exit;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Runs `play` on a thread of its own, until it ends or somebody wants it to.
pub(crate) fn until_signal<T: Send + 'static>(
    play: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (played, ended) = tokio::sync::oneshot::channel();
        thread::spawn(move || played.send(play()));
        tokio::select! {
            ended = ended => Ok(ended.context("it panicked")?),
            _ = terminate.recv() => Err(interrupted()),
            _ = interrupt.recv() => Err(interrupted()),
        }
    })
}

fn interrupted() -> Failure {
    Failure::new(
        Exit::Failure,
        anyhow::anyhow!("interrupted; the nodes are ended"),
    )
}
