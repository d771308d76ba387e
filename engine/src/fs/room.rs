//! Whether the files of a store fit into memory, as the operating system tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The files of a directory against the memory that there is for them.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    all_fit: AtomicBool,
    index_fits: AtomicBool,
    asked: AtomicU64,
}

/// How often the files are looked at anew: at the first few questions, and then each time that so
/// many were asked. A question is a file that is mapped.
const LOOK_EVERY: u64 = 64;
/// The files may take this part of the memory.
const PARTS: u64 = 2;
/// And those of the index alone this one. Each key that is looked for reads some of their pages, so
/// that they stay where they are, whatever else is read.
const INDEX_PARTS: u64 = 3;
/// Where the index is.
const INDEX: &str = "index";

impl Room {
    pub(super) const fn new(root: PathBuf) -> Self {
        Self {
            root,
            all_fit: AtomicBool::new(true),
            index_fits: AtomicBool::new(true),
            asked: AtomicU64::new(0),
        }
    }

    /// Whether the file `name` may be read with what lies around: all files of the directory fit
    /// into half of the memory, or it is the index's, and that fits into a third.
    pub(super) fn has_for(&self, name: &str) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked.is_power_of_two() || asked.is_multiple_of(LOOK_EVERY) {
            let memory = memory_bytes();
            let fit = |len, parts| memory.is_none_or(|memory| len <= memory / parts);
            let all = fit(len_of_files(&self.root, 2), PARTS);
            let index = fit(len_of_files(&self.root.join(INDEX), 1), INDEX_PARTS);
            self.all_fit.store(all, Ordering::Relaxed);
            self.index_fits.store(index, Ordering::Relaxed);
        }
        let is_index = Path::new(name).starts_with(INDEX);
        self.all_fit.load(Ordering::Relaxed) || is_index && self.index_fits.load(Ordering::Relaxed)
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
    fn there_is_room_until_files_are_larger_than_their_part_of_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path().to_owned());
        let has_for = || (room.has_for("log/1"), room.has_for("index/1"));
        assert_eq!(has_for(), (true, true));
        let memory = memory_bytes().unwrap();
        let made = |name: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::File::create(dir.path().join(name).join("large")).unwrap()
        };
        let (log, index) = (made("log"), made("index"));
        let look = || {
            for _ in 0..LOOK_EVERY {
                let _ = room.has_for("log/1");
            }
            has_for()
        };
        // Files of holes, of which nothing is on the disk.
        log.set_len(memory / 2 + 1).unwrap();
        assert_eq!(look(), (false, true), "{memory} bytes of memory");
        index.set_len(memory / 3 + 1).unwrap();
        assert_eq!(look(), (false, false));
        log.set_len(0).unwrap();
        assert_eq!(look(), (true, true));
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
