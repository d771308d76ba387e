//! Whether the files of a store fit into memory, as the operating system tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The files of a directory against the memory that there is for them.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    fits: AtomicBool,
    asked: AtomicU64,
}

/// How often the files are looked at anew: at the first few questions, and then each time that so
/// many were asked. A question is a file that is mapped.
const LOOK_EVERY: u64 = 64;
/// The files may take this part of the memory.
const PARTS: u64 = 2;

impl Room {
    pub(super) const fn new(root: PathBuf) -> Self {
        Self {
            root,
            fits: AtomicBool::new(true),
            asked: AtomicU64::new(0),
        }
    }

    /// Whether all files of the directory together fit into half of the memory.
    pub(super) fn fits(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked.is_power_of_two() || asked.is_multiple_of(LOOK_EVERY) {
            let files = len_of_files(&self.root, 2);
            let memory = memory_bytes();
            let fits = memory.is_none_or(|memory| files <= memory / PARTS);
            self.fits.store(fits, Ordering::Relaxed);
        }
        self.fits.load(Ordering::Relaxed)
    }
}

/// The length of all files in a directory, and in those in it as deep as `depth`.
fn len_of_files(dir: &Path, depth: u32) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let len = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 1 => len_of_files(&entry.path(), depth - 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) | Err(_) => 0,
    };
    entries.map(len).sum()
}

/// The memory that this process may have, cache included: the machine's, or less where a control
/// group has a limit.
fn memory_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups
        .lines()
        .filter_map(limit_files)
        .flatten()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(total_of);
    limits.chain(machine).min()
}

/// The memory of the machine, as `/proc/meminfo` tells it.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Where the limits of a control group and of those above it are told, by a line of
/// `/proc/self/cgroup`; `None` when it says nothing of memory.
fn limit_files(line: &str) -> Option<Vec<PathBuf>> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    let (base, name) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|one| one == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let own = Path::new(group.trim_start_matches('/'));
    let file = |group: &Path| Path::new(base).join(group).join(name);
    Some(own.ancestors().map(file).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_fits_until_it_is_larger_than_half_of_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path().to_owned());
        assert!(room.fits());
        let memory = memory_bytes().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        let file = fs::File::create(dir.path().join("log/large")).unwrap();
        // A file of holes, of which nothing is on the disk.
        file.set_len(memory / 2 + 1).unwrap();
        assert!(!room.fits(), "{memory} bytes of memory");
        file.set_len(0).unwrap();
        assert!(room.fits());
    }

    #[test]
    fn limits_are_looked_for_up_to_the_root_in_both_versions_of_control_groups() {
        let paths = |line| {
            let files = limit_files(line)?;
            Some(
                files
                    .iter()
                    .map(|file| file.display().to_string())
                    .collect(),
            )
        };
        let expected: Option<Vec<String>> = Some(vec![
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes".into(),
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes".into(),
            "/sys/fs/cgroup/memory/memory.limit_in_bytes".into(),
        ]);
        assert_eq!(paths("9:memory:/a/b"), expected);
        let newer: Option<Vec<String>> = Some(vec![
            "/sys/fs/cgroup/a/memory.max".into(),
            "/sys/fs/cgroup/memory.max".into(),
        ]);
        assert_eq!(paths("0::/a"), newer);
        assert_eq!(paths("3:cpu,cpuacct:/a"), None);
        assert_eq!(
            total_of("MemTotal:       2048 kB\nMemFree: 1 kB"),
            Some(2 << 20)
        );
    }
}
