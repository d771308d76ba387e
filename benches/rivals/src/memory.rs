//! How much memory and disk is used, and limits to the former.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise, major, minor};

/// The most memory that this process had, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peak {
    /// Resident, with the pages of mapped files.
    pub(crate) resident: u64,
    /// Resident and its own: what the system cannot take away. Sampled.
    pub(crate) anonymous: u64,
}

const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// Runs `work` and watches the memory of this process meanwhile.
pub(crate) fn watched<T>(work: impl FnOnce() -> T) -> (T, Peak) {
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let mut peak = Peak::default();
            loop {
                peak.resident = status_bytes("VmHWM");
                peak.anonymous = peak.anonymous.max(status_bytes("RssAnon"));
                if wait.recv_timeout(SAMPLE_EVERY) == Err(mpsc::RecvTimeoutError::Disconnected) {
                    return peak;
                }
            }
        });
        let result = work();
        drop(done);
        let peak = watch
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, peak)
    })
}

fn status_bytes(name: &str) -> u64 {
    number("/proc/self/status", name) << 10
}

/// What this process has had written so far. Where the page cache has large folios, a small write
/// into one counts as all of it.
pub(crate) fn written_bytes() -> u64 {
    number("/proc/self/io", "write_bytes")
}

/// What everybody has written so far to the device of `dir`; none where the system does not tell.
pub(crate) fn device_written_bytes(dir: &Path) -> Option<u64> {
    const SECTORS_WRITTEN: usize = 6;
    const SECTOR_BYTES: u64 = 512;
    let device = dir.metadata().ok()?.dev();
    let file = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
    let text = fs::read_to_string(file).ok()?;
    let sectors: u64 = text.split_whitespace().nth(SECTORS_WRITTEN)?.parse().ok()?;
    Some(sectors * SECTOR_BYTES)
}

/// The first number behind `name:` in a file of the kernel's, 0 if there is none.
fn number(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| *found == name)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// What the files below `dir` take on the device, holes not counted.
pub(crate) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    each_file(dir, &mut |path| {
        // Background work may have removed it meanwhile.
        bytes += path.metadata().map_or(0, |file| file.blocks() * 512);
        Ok(())
    })?;
    Ok(bytes)
}

/// Takes the files below `dir` out of the page cache: pages that are in it already count as
/// nobody's, however small the memory of who reads them.
pub(crate) fn forget_cached(dir: &Path) -> io::Result<()> {
    each_file(dir, &mut |path| {
        let file = fs::File::open(path)?;
        file.sync_all()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}

fn each_file(dir: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            each_file(&path, visit)?;
        } else {
            visit(&path)?;
        }
    }
    Ok(())
}

/// A memory control group of Linux with a limit, gone with this value.
pub(crate) struct MemoryGroup {
    dir: PathBuf,
}

impl MemoryGroup {
    /// Makes one below `parent`, a directory of a control group in which this user may make others;
    /// of either version of control groups.
    pub(crate) fn create(parent: &Path, limit_bytes: u64) -> Result<Self> {
        let dir = parent.join(format!("rivals-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let own = Self { dir };
        let newer = own.set("memory.max", limit_bytes);
        newer.or_else(|_| own.set("memory.limit_in_bytes", limit_bytes))?;
        // Without a limit for swap the memory has none either; not every kernel counts it.
        own.set("memory.swap.max", 0).ok();
        own.set("memory.swappiness", 0).ok();
        Ok(own)
    }

    fn set(&self, name: &str, value: u64) -> Result<()> {
        let path = self.dir.join(name);
        anyhow::ensure!(path.exists(), "there is no {}", path.display());
        Ok(fs::write(path, value.to_string())?)
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves this process into the group in `dir`.
    pub(crate) fn enter(dir: &Path) -> Result<()> {
        let own = std::process::id().to_string();
        fs::write(dir.join("cgroup.procs"), own).context("cannot enter the memory group")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("{} stays behind: {error}", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_shows_while_it_is_used() {
        let bytes = 64 << 20;
        let (sum, peak) = watched(|| vec![1_u8; bytes].iter().map(|&b| u64::from(b)).sum::<u64>());
        assert_eq!(sum, bytes as u64);
        assert!(peak.resident >= sum, "{peak:?}");
    }

    #[test]
    fn files_count_with_what_they_take() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/full"), vec![1; 1 << 20]).unwrap();
        let hole = fs::File::create(dir.path().join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        forget_cached(dir.path()).unwrap();
        let bytes = disk_bytes(dir.path()).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_directory_that_is_no_control_group_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert!(MemoryGroup::create(dir.path(), 1 << 20).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
