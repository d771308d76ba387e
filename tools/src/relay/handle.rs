//! Starting a relay and steering it while it runs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use super::settings::{Lines, Settings};
use super::shell::{RelayStats, Request, Shell};
use super::socket::Socket;

/// Why a relay could not be started or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// Its address could not be bound.
    #[error("cannot listen on {address}; choose another with --listen, port 0 takes a free one")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Its thread could not be started.
    #[error("cannot start the relay's thread")]
    Start(#[source] io::Error),
    /// Its thread has ended, because of an error of the system that it has logged.
    #[error("the relay has stopped by itself; its log says why; start another")]
    Stopped,
}

/// A running relay. It stops when this is dropped.
#[derive(Debug)]
pub struct RelayHandle {
    address: SocketAddr,
    lines: Lines,
    requests: mpsc::Sender<Request>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a relay on a thread of its own.
pub fn spawn(settings: Settings) -> Result<RelayHandle, RelayError> {
    let address = settings.listen;
    let listen = |source| RelayError::Listen { address, source };
    let socket = Socket::bind(address).map_err(listen)?;
    let address = socket.local_addr().map_err(listen)?;
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let wake = eventfd(0, flags).map_err(|errno| RelayError::Start(errno.into()))?;
    let wake = Arc::new(wake);
    let (requests, inbox) = mpsc::channel();
    let shell = Shell::new(&settings, socket, inbox, Arc::clone(&wake));
    let body = move || {
        if let Err(error) = shell.run() {
            tracing::error!(%error, "the relay stops");
        }
    };
    let thread = std::thread::Builder::new()
        .name("relay".to_owned())
        .spawn(body);
    let thread = Some(thread.map_err(RelayError::Start)?);
    Ok(RelayHandle {
        address,
        lines: settings.lines,
        requests,
        wake,
        thread,
    })
}

impl RelayHandle {
    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How both directions behave now.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Changes how the directions behave. When this returns, every datagram that comes in from now
    /// on is treated so, and of a direction that was cut nothing is delivered any more.
    pub fn change(&mut self, change: impl FnOnce(&mut Lines)) -> Result<(), RelayError> {
        let mut lines = self.lines.clone();
        change(&mut lines);
        let (done, answer) = mpsc::channel();
        self.ask(Request::Change(lines.clone(), done))?;
        answer.recv().map_err(|_| RelayError::Stopped)?;
        self.lines = lines;
        Ok(())
    }

    /// What has become of all datagrams so far.
    pub fn stats(&self) -> Result<RelayStats, RelayError> {
        let (answer, stats) = mpsc::channel();
        self.ask(Request::Stats(answer))?;
        stats.recv().map_err(|_| RelayError::Stopped)
    }

    fn ask(&self, request: Request) -> Result<(), RelayError> {
        self.requests
            .send(request)
            .map_err(|_| RelayError::Stopped)?;
        // It fails only when the counter is full, and then the thread wakes anyway.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_le_bytes());
        Ok(())
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        // Both fail only when the thread has ended already.
        let _ = self.ask(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
