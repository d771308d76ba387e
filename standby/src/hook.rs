//! An operator's command that is run when a node's role has changed, as to move an address: a
//! promotion that no client finds is none.
//!
//! It runs beside the node, on a thread of its own. It cannot hold a change of role up, and not
//! take it back: what it does and how it ends is told in the log and in the status, and that is
//! all.

use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use outlast_engine::format::EpochRecord;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::certificate::certificate_path;
use crate::config::OnRoleChange;
use crate::dir::NodeDir;
use crate::status::Role;

/// How much of what a command says is kept: its end, in bytes.
const OUTPUT_BYTES_MAX: usize = 4096;

/// How often is looked whether the command has ended, while it says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the role before the first one of a process is called.
const STARTING: &str = "starting";

/// What a node is, and the epoch that its log had reached when it became that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleNow {
    /// What it is.
    pub role: Role,
    /// The newest epoch of its log.
    pub epoch: Option<EpochRecord>,
    /// Where the certificate of the promotion is kept that began the newest term, if this node was
    /// promoted in it.
    pub certificate: Option<PathBuf>,
}

/// How the operator's command ended that was run for a change of role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookRun {
    /// The role that the command was told last, or `starting`.
    pub old_role: String,
    /// The role that it was told now.
    pub new_role: String,
    /// How it ended.
    pub end: HookEnd,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The end of what it said, on stdout and stderr.
    pub output: String,
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HookEnd {
    /// It has not ended yet.
    Running,
    /// With this exit code; 0 is success.
    Exited(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed, since its time was up.
    TimedOut,
    /// It could not be run, for this reason.
    NotRun(String),
}

impl HookRun {
    /// What an operator should see at once, if it did not go well.
    pub(crate) fn warning(&self) -> Option<String> {
        let end = match &self.end {
            HookEnd::Running | HookEnd::Exited(0) => return None,
            HookEnd::Exited(code) => format!("ended with {code}"),
            HookEnd::Signal(signal) => format!("was ended by signal {signal}"),
            HookEnd::TimedOut => format!("was killed after {} ms", self.took_ms),
            HookEnd::NotRun(why) => format!("could not be run ({why})"),
        };
        let last = self.output.trim().lines().last().unwrap_or_default();
        Some(format!(
            "the command of on_role_change {end}, told that this node went from {} to {}: do by \
             hand what it should have done; it last said: {last:?}",
            self.old_role, self.new_role
        ))
    }
}

/// Runs the command for one change after the other, the newest role only.
pub(crate) struct Hook {
    changes: mpsc::Sender<RoleNow>,
    last: Arc<Mutex<Option<HookRun>>>,
    stopping: Arc<AtomicBool>,
}

impl Hook {
    /// Starts the thread that runs `command`.
    pub(crate) fn start(dir: &NodeDir, name: String, command: OnRoleChange) -> io::Result<Self> {
        let (changes, told) = mpsc::channel();
        let last = Arc::new(Mutex::new(None));
        let stopping = Arc::new(AtomicBool::new(false));
        let runner = Runner {
            dir: dir.clone(),
            name,
            command,
            last: last.clone(),
            stopping: stopping.clone(),
        };
        // Nobody waits for its end: a command that cannot be killed must not keep a node from
        // closing.
        std::thread::Builder::new()
            .name("outlast-hook".to_owned())
            .spawn(move || runner.run(&told))?;
        Ok(Self {
            changes,
            last,
            stopping,
        })
    }

    /// Has the command told of a role. Never waits.
    pub(crate) fn tell(&self, now: RoleNow) {
        if self.changes.send(now).is_err() {
            tracing::error!("the thread that runs the command of on_role_change has ended");
        }
    }

    /// How it ended last.
    pub(crate) fn last(&self) -> Option<HookRun> {
        self.last.lock().clone()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

struct Runner {
    dir: NodeDir,
    name: String,
    command: OnRoleChange,
    last: Arc<Mutex<Option<HookRun>>>,
    stopping: Arc<AtomicBool>,
}

impl Runner {
    fn run(&self, told: &mpsc::Receiver<RoleNow>) {
        let mut old = STARTING;
        while let Ok(mut now) = told.recv() {
            // What has passed already is nobody's role any more: an address must not go there.
            while let Ok(newer) = told.try_recv() {
                now = newer;
            }
            let new = now.role.name();
            if new == old || self.stopping.load(Ordering::Relaxed) {
                continue;
            }
            self.run_one(old, &now);
            old = new;
        }
    }

    fn run_one(&self, old: &'static str, now: &RoleNow) {
        let new = now.role.name();
        let begun = Instant::now();
        let mut run = HookRun {
            old_role: old.to_owned(),
            new_role: new.to_owned(),
            end: HookEnd::Running,
            took_ms: 0,
            output: String::new(),
        };
        *self.last.lock() = Some(run.clone());
        tracing::info!(old, new, command = ?self.command.command, "on_role_change is run");
        let mut said = Vec::new();
        let ended = self.spawn(old, now).and_then(|(child, pipe)| {
            let deadline = begun + self.command.timeout;
            wait(child, pipe, &mut said, deadline, &self.stopping)
        });
        run.end = ended.unwrap_or_else(|error| HookEnd::NotRun(error.to_string()));
        run.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        run.output = String::from_utf8_lossy(&said).into_owned();
        let (end, output, took_ms) = (&run.end, &run.output, run.took_ms);
        if run.warning().is_some() {
            tracing::error!(old, new, ?end, took_ms, output, "on_role_change failed");
        } else {
            tracing::info!(old, new, ?end, took_ms, output, "on_role_change has ended");
        }
        *self.last.lock() = Some(run);
    }

    fn spawn(&self, old: &str, now: &RoleNow) -> io::Result<(Child, PipeReader)> {
        let (program, arguments) =
            self.command.command.split_first().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "no command was named")
            })?;
        let new = now.role.name();
        let epoch = now.epoch.as_ref().map_or_else(String::new, |epoch| {
            format!("{}.{}/{}", epoch.term, epoch.start, epoch.id)
        });
        let certificate = now.certificate.clone().unwrap_or_default();
        let (pipe, writer) = io::pipe()?;
        let child = Command::new(program)
            .args(arguments)
            .args([old, new, &epoch, &self.name])
            .arg(&certificate)
            .env("OUTLAST_OLD_ROLE", old)
            .env("OUTLAST_NEW_ROLE", new)
            .env("OUTLAST_EPOCH", &epoch)
            .env("OUTLAST_NODE", &self.name)
            .env("OUTLAST_CERTIFICATE", &certificate)
            .env("OUTLAST_DIR", self.dir.root())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            // So that all that it starts can be ended with it.
            .process_group(0)
            .spawn()?;
        Ok((child, pipe))
    }
}

/// Waits for the end of a command, and keeps the end of what it says.
fn wait(
    mut child: Child,
    pipe: PipeReader,
    said: &mut Vec<u8>,
    deadline: Instant,
    stopping: &AtomicBool,
) -> io::Result<HookEnd> {
    let mut pipe = Some(pipe);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        listen(&mut pipe, said, left.min(LOOK_EVERY))?;
        if let Some(status) = child.try_wait()? {
            // What it said last. Whoever it left behind may hold the pipe open, and is not waited
            // for.
            while listen(&mut pipe, said, Duration::ZERO)? {}
            return Ok(end_of(status));
        }
        if stopping.load(Ordering::Relaxed) {
            // The node closes; what was begun for it goes on.
            return Ok(HookEnd::Running);
        }
        if left.is_zero() {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
            return Ok(HookEnd::TimedOut);
        }
    }
}

/// Takes what is said within `wait`; answers whether anything was.
fn listen(pipe: &mut Option<PipeReader>, said: &mut Vec<u8>, wait: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
    let Some(reader) = pipe else {
        poll(&mut [], Some(&timeout))?;
        return Ok(false);
    };
    let mut ready = [PollFd::new(&*reader, PollFlags::IN)];
    match poll(&mut ready, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut bytes = [0; 1024];
    let read = reader.read(&mut bytes)?;
    if read == 0 {
        *pipe = None;
        return Ok(false);
    }
    said.extend_from_slice(bytes.get(..read).unwrap_or_default());
    let over = said.len().saturating_sub(OUTPUT_BYTES_MAX);
    said.drain(..over);
    Ok(true)
}

fn end_of(status: ExitStatus) -> HookEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => HookEnd::Exited(code),
        (None, signal) => HookEnd::Signal(signal.unwrap_or_default()),
    }
}

/// Where the certificate is kept of the promotion that opened the newest term of a log, if it is.
pub(crate) fn certificate_of(dir: &NodeDir, history: &[EpochRecord]) -> Option<PathBuf> {
    let opened_by = history.last()?.opened_by;
    let opened = history.iter().rev().find(|epoch| epoch.id == opened_by)?;
    let path = certificate_path(dir, opened);
    Path::exists(&path).then_some(path)
}

#[cfg(test)]
mod tests;
