//! On what something was measured: processor, memory, kernel and file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The machine that a report was made on. What the system does not tell is empty or 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// What the processor calls itself.
    pub cpu_model: String,
    /// Main memory.
    pub memory_bytes: u64,
    /// The version of the Linux kernel.
    pub kernel: String,
    /// Where the files were.
    pub file_system: FileSystem,
}

/// A mounted file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Its kind, for example `ext4`.
    pub kind: String,
    /// What it is on.
    pub device: String,
    /// What it is mounted with; some options cost much, `discard` for one.
    pub options: String,
}

impl Machine {
    /// Describes this machine and the file system that holds `dir`.
    pub fn describe(dir: &Path) -> io::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu_model: value_of(&read("/proc/cpuinfo"), "model name").to_owned(),
            memory_bytes: kibibytes(value_of(&read("/proc/meminfo"), "MemTotal")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: holding(&fs::canonicalize(dir)?, &read("/proc/self/mountinfo")),
        })
    }
}

/// How many threads wanted a processor over the last minute, by the kernel's average; 0 if it does
/// not tell. Taken before a run: with another load than one's own, figures say little.
pub fn load_1min() -> f64 {
    let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    average
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or_default()
}

/// The value of the first line `key : value`.
pub(crate) fn value_of<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map_or("", |(_, value)| value.trim())
}

/// Reads `123 kB`, as the files under /proc write it, into bytes; 0 if it is anything else.
pub(crate) fn kibibytes(text: &str) -> u64 {
    let number = text
        .strip_suffix("kB")
        .map(str::trim)
        .and_then(|n| n.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}

/// The file system that holds `path`, from the kernel's table of mounts.
fn holding(path: &Path, mounts: &str) -> FileSystem {
    let holds = |line: &str| {
        let (point, file_system) = mount(line)?;
        path.starts_with(&point)
            .then_some((point.components().count(), file_system))
    };
    // Of equal depth the later one counts: it was mounted over the other.
    let deepest = mounts
        .lines()
        .filter_map(holds)
        .max_by_key(|(depth, _)| *depth);
    deepest
        .map(|(_, file_system)| file_system)
        .unwrap_or_default()
}

/// One line: `36 35 98:0 /root /point options … - kind device super-options`.
fn mount(line: &str) -> Option<(PathBuf, FileSystem)> {
    const POINT: usize = 4;
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(POINT);
    let point = unescape(left.next()?);
    let options = left.next()?;
    let mut right = right.split(' ');
    let (kind, device) = (right.next()?.to_owned(), unescape(right.next()?));
    let mut options: Vec<_> = options.split(',').collect();
    for option in right.next()?.split(',') {
        if !options.contains(&option) {
            options.push(option);
        }
    }
    Some((
        PathBuf::from(point),
        FileSystem {
            kind,
            device,
            options: options.join(","),
        },
    ))
}

/// The table writes blanks in names as octal.
fn unescape(name: &str) -> String {
    name.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard,errors=remount-ro
30 22 0:26 / /tmp rw,nosuid shared:9 - tmpfs tmpfs rw,size=1024k
31 22 8:1 / /mnt/two\\040words ro - xfs /dev/sdb ro
32 22 8:2 / /mnt/two\\040words rw,noatime - btrfs /dev/sdc rw";

    #[test]
    fn the_deepest_and_latest_mount_holds_a_path() {
        let kind = |path: &str| holding(Path::new(path), MOUNTS).kind;
        assert_eq!(kind("/var/lib"), "ext4");
        assert_eq!(kind("/tmp/x"), "tmpfs");
        assert_eq!(kind("/tmpx"), "ext4");
        assert_eq!(kind("/mnt/two words/x"), "btrfs");
        let root = holding(Path::new("/"), MOUNTS);
        assert_eq!(root.device, "/dev/vda1");
        assert_eq!(root.options, "rw,relatime,discard,errors=remount-ro");
        assert_eq!(holding(Path::new("/"), "nonsense"), FileSystem::default());
    }

    #[test]
    fn this_machine_has_a_processor_memory_and_a_kernel() {
        let machine = Machine::describe(Path::new(".")).unwrap();
        assert!(
            machine.cores > 0 && machine.memory_bytes > 1 << 20,
            "{machine:?}"
        );
        assert!(
            !machine.kernel.is_empty() && !machine.file_system.kind.is_empty(),
            "{machine:?}"
        );
        assert!(Machine::describe(Path::new("/does/not/exist")).is_err());
    }

    #[test]
    fn sizes_under_proc_are_in_kibibytes() {
        assert_eq!(kibibytes("12 kB"), 12 * 1024);
        assert_eq!(kibibytes("12"), 0);
        assert_eq!(kibibytes(value_of("A:  1 kB\nB:\t7 kB\n", "B")), 7 * 1024);
    }
}
