//! The client's side: blocking, for command lines and tests.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{self, Answer, Ask, Failure, FailureKind, Reply, Request};
use crate::dir::NodeDir;
use crate::error::{Error, Result};
use crate::status::Status;

/// A node says at once how it is, whatever its disks do: one that does not is stopped, or hangs.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a running node.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    next_id: u64,
}

/// The part of a connection that answers come from.
pub type Answers = BufReader<UnixStream>;

impl Client {
    /// Connects to the node that runs in `dir`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when none runs there.
    pub fn connect(dir: &Path) -> io::Result<Self> {
        let stream = connect(&NodeDir::new(dir).socket())?;
        let reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        Ok(Self {
            stream,
            reader,
            next_id: 1,
        })
    }

    /// Sends a request and answers with its number. Answers come by [`Client::answer`].
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self, ask: Ask) -> io::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.stream
            .write_all(&protocol::encode(&Request { id, ask })?)?;
        Ok(id)
    }

    /// The next answer to any request.
    ///
    /// # Errors
    /// `UnexpectedEof` when the node went away.
    pub fn answer(&mut self) -> io::Result<Answer> {
        next(&mut self.reader)
    }

    /// Sends a request and gives each answer to `each` until the last. A failure ends it as an
    /// error.
    ///
    /// # Errors
    /// What the node answers, or that it went away.
    pub fn ask(&mut self, ask: Ask, mut each: impl FnMut(Reply) -> Result<()>) -> Result<()> {
        let id = self.send(ask).map_err(gone)?;
        loop {
            let answer = self.answer().map_err(gone)?;
            if answer.id != id {
                continue;
            }
            match answer.reply {
                Reply::Failed(failure) => return Err(failure.into()),
                reply => each(reply)?,
            }
            if answer.last {
                return Ok(());
            }
        }
    }

    /// Sends a request that has one answer.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_one(&mut self, ask: Ask) -> Result<Reply> {
        let mut only = None;
        self.ask(ask, |reply| {
            only = Some(reply);
            Ok(())
        })?;
        only.ok_or_else(|| Error::new(FailureKind::Failed, "the node answered with nothing"))
    }

    /// How the node is.
    ///
    /// # Errors
    /// As [`Client::ask`]; `Timeout` when it does not say so within 10 s.
    pub fn status(&mut self) -> Result<Status> {
        self.stream
            .set_read_timeout(Some(STATUS_TIMEOUT))
            .map_err(gone)?;
        let reply = self.ask_one(Ask::Status)?;
        self.stream.set_read_timeout(None).map_err(gone)?;
        match reply {
            Reply::Status(status) => Ok(*status),
            other => {
                let what = format!("asked how it is, the node answered {other:?}");
                Err(Error::new(FailureKind::Failed, what))
            }
        }
    }

    /// Parts the connection in two, so that one thread can send while another takes answers. The
    /// sender goes on with [`Client::send`].
    ///
    /// # Errors
    /// When the system gives no second handle.
    pub fn split(self) -> io::Result<(Self, Answers)> {
        let spare = BufReader::with_capacity(1, self.stream.try_clone()?);
        let Self {
            stream,
            reader,
            next_id,
        } = self;
        Ok((
            Self {
                stream,
                reader: spare,
                next_id,
            },
            reader,
        ))
    }
}

/// The next answer from the answering half of a connection.
///
/// # Errors
/// `UnexpectedEof` when the node went away.
pub fn next(answers: &mut Answers) -> io::Result<Answer> {
    protocol::read(answers)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Connects to a socket whose path may be longer than a socket's address.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = short_path(path)?;
    UnixStream::connect(short)
}

/// A path of at most a few bytes to `path`, by way of an open handle on its directory: an address
/// of a unix socket has 107 bytes. The handle must live as long as the path is used.
pub(super) fn short_path(path: &Path) -> io::Result<(std::fs::File, PathBuf)> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = std::fs::File::open(parent.unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let short = Path::new("/proc/self/fd")
        .join(number.to_string())
        .join(name);
    Ok((directory, short))
}

fn gone(error: io::Error) -> Error {
    // What a read that took too long ends with.
    if error.kind() == io::ErrorKind::WouldBlock {
        let what = format!(
            "the node runs, but did not answer within {} s",
            STATUS_TIMEOUT.as_secs()
        );
        return Error::new(FailureKind::Timeout, what)
            .hint("its process is stopped, or hangs: look at it, or end it by its pid");
    }
    Error::new(FailureKind::Failed, "the connection to the node was lost").because(error)
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let own = Self::new(failure.kind, failure.what);
        match failure.hint {
            Some(hint) => own.hint(hint),
            None => own,
        }
    }
}
