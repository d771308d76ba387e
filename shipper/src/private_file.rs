//! Small files that decide who is trusted: made for their owner alone, and durable once written.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use thiserror::Error;
use zeroize::Zeroizing;

/// What went wrong with a key file or a peers file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// Nothing is overwritten implicitly.
    #[error("{} exists already and is not overwritten: move it away first", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// No such file.
    #[error("{} does not exist: make the node first, or name its directory", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link, a directory, a pipe: something that may lead elsewhere.
    #[error("{} is not a regular file: put the file itself there, not a link to it", .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may do what only the owner may.
    #[error("{} has mode {mode:04o}, which lets others {what} it: run `chmod 600 {}`", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What others may do with it.
        what: &'static str,
    },
    /// More than such a file ever holds.
    #[error("{} is {len_bytes} bytes long, and such a file has at most {len_max_bytes}: it is not what it should be", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len_bytes: u64,
        /// The longest length allowed, in bytes.
        len_max_bytes: u64,
    },
    /// The operating system refused.
    #[error("could not {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

/// What others than the owner must not be able to do with a file that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// It is a secret.
    Secret,
    /// It is no secret, but whoever writes it decides who is trusted.
    Unchanged,
}

/// Writes a new file of mode 0600, and returns when it and its name are durable.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let unnamed = Unnamed::write(path, bytes)?;
    // A hard link, unlike a rename, never replaces what is there.
    match fs::hard_link(&unnamed.path, path) {
        Ok(()) => {
            drop(unnamed);
            sync_directory(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(FileError::Exists {
            path: path.to_owned(),
        }),
        Err(source) => Err(failed("create", path, source)),
    }
}

/// Puts `bytes` in the place of what `path` holds, at once and durably, with mode 0600.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let unnamed = Unnamed::write(path, bytes)?;
    fs::rename(&unnamed.path, path).map_err(|source| failed("replace", path, source))?;
    sync_directory(path)
}

/// The content of a file of at most `len_max_bytes` that is a file and that others cannot misuse.
pub(crate) fn read(
    path: &Path,
    keep: Keep,
    len_max_bytes: u64,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let reading = |source| failed("read", path, source);
    // Non-blocking, because opening a pipe would otherwise wait for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => {
            return Err(FileError::Missing {
                path: path.to_owned(),
            });
        }
        Err(rustix::io::Errno::LOOP) => {
            return Err(FileError::NotAFile {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(reading(errno.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|errno| reading(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = stat.st_mode & 0o7777;
    let (forbidden, what) = match keep {
        Keep::Secret => (0o077, "use"),
        Keep::Unchanged => (0o022, "change"),
    };
    if mode & forbidden != 0 {
        return Err(FileError::Exposed {
            path: path.to_owned(),
            mode,
            what,
        });
    }
    let too_long = |len_bytes| FileError::TooLong {
        path: path.to_owned(),
        len_bytes,
        len_max_bytes,
    };
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len > len_max_bytes {
        return Err(too_long(len));
    }
    // Room for all of it at once: a buffer that grows leaves copies of a secret behind.
    let capacity = usize::try_from(len_max_bytes + 1).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let read = (&file)
        .take(len_max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(reading)? as u64;
    if read > len_max_bytes {
        return Err(too_long(read));
    }
    Ok(bytes)
}

/// A finished, synced file under a name of its own, which goes when this is dropped.
struct Unnamed {
    path: PathBuf,
}

impl Unnamed {
    fn write(beside: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let mut name = OsString::from(".");
        name.push(beside.file_name().unwrap_or_default());
        name.push(format!(".{:016x}.tmp", fastrand::u64(..)));
        let path = beside.with_file_name(name);

        let failed = |source: io::Error| failed("write", beside, source);
        let mode = Mode::RUSR | Mode::WUSR;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, mode).map_err(|errno| failed(errno.into()))?;
        let mut file = File::from(fd);
        let unnamed = Self { path };
        // The umask takes bits away from the mode asked for.
        rustix::fs::fchmod(&file, mode).map_err(|errno| failed(errno.into()))?;
        file.write_all(bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(unnamed)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // After a rename there is nothing left under this name.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_directory(of: &Path) -> Result<(), FileError> {
    let directory = match of.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| failed("make durable", of, source))
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_was_written_is_read_and_only_the_owner_may() {
        let dir = directory();
        let path = dir.path().join("file");
        create(&path, b"one").unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(*read(&path, Keep::Secret, 3).unwrap(), b"one");
        replace(&path, b"two").unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(*read(&path, Keep::Secret, 3).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left"
        );
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let dir = directory();
        let path = dir.path().join("file");
        create(&path, b"first").unwrap();
        assert!(matches!(
            create(&path, b"second"),
            Err(FileError::Exists { .. })
        ));
        assert_eq!(*read(&path, Keep::Secret, 9).unwrap(), b"first");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left"
        );
    }

    #[test]
    fn what_others_may_do_is_refused_with_the_way_to_mend_it() {
        let dir = directory();
        let path = dir.path().join("file");
        create(&path, b"x").unwrap();
        for bit in [
            0o040, 0o020, 0o010, 0o004, 0o002, 0o001, 0o044, 0o066, 0o077,
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | bit)).unwrap();
            let error = read(&path, Keep::Secret, 9).unwrap_err();
            assert!(
                matches!(error, FileError::Exposed { mode, .. } if mode == 0o600 | bit),
                "{error}"
            );
            assert!(error.to_string().contains("chmod 600"), "{error}");
            let writable = bit & 0o022 != 0;
            assert_eq!(
                read(&path, Keep::Unchanged, 9).is_err(),
                writable,
                "{bit:o}"
            );
        }
    }

    #[test]
    fn only_regular_files_of_the_right_size_are_read() {
        let dir = directory();
        let path = dir.path().join("file");
        create(&path, b"12345").unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(
            read(&link, Keep::Unchanged, 9),
            Err(FileError::NotAFile { .. })
        ));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        for not_a_file in [pipe.as_path(), dir.path()] {
            let error = read(not_a_file, Keep::Unchanged, 9).unwrap_err();
            assert!(matches!(error, FileError::NotAFile { .. }), "{error}");
        }
        assert!(matches!(
            read(&path, Keep::Secret, 4),
            Err(FileError::TooLong {
                len_bytes: 5,
                len_max_bytes: 4,
                ..
            })
        ));
        let missing = dir.path().join("missing");
        assert!(matches!(
            read(&missing, Keep::Secret, 4),
            Err(FileError::Missing { .. })
        ));
    }
}
