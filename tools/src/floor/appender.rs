//! Durable appends to a file of zeros, through the page cache or around it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// The way to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Through the page cache.
    Buffered,
    /// Around it (`O_DIRECT`), in whole blocks.
    Direct,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffered => "buffered",
            Self::Direct => "direct",
        })
    }
}

/// A file without a name, filled with zeros and synced, so that overwriting it changes no metadata.
pub(super) struct ZeroedFile {
    file: File,
    bytes: u64,
}

const CHUNK_BYTES: usize = 1 << 20;

impl ZeroedFile {
    /// As large as asked for, rounded up to whole MiB.
    pub(super) fn create(dir: &Path, bytes: u64) -> io::Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        let chunks = bytes.div_ceil(CHUNK_BYTES as u64).max(1);
        let zeros = vec![0; CHUNK_BYTES];
        for chunk in 0..chunks {
            file.write_all_at(&zeros, chunk * CHUNK_BYTES as u64)?;
        }
        file.sync_all()?;
        Ok(Self {
            file,
            bytes: chunks * CHUNK_BYTES as u64,
        })
    }

    /// Appends from the beginning of the file on.
    pub(super) fn appender(&self, mode: Mode) -> io::Result<Appender> {
        let file = match mode {
            Mode::Buffered => self.file.try_clone()?,
            // The same file once more: the flag belongs to an opening, and it has no name.
            Mode::Direct => OpenOptions::new()
                .write(true)
                .custom_flags(OFlags::DIRECT.bits().cast_signed())
                .open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?,
        };
        Ok(Appender {
            file,
            mode,
            file_bytes: self.bytes,
            end: 0,
            blocks: Blocks::default(),
        })
    }
}

/// Appends to a [`ZeroedFile`], and begins again at its start when it is full.
pub(super) struct Appender {
    file: File,
    mode: Mode,
    file_bytes: u64,
    end: u64,
    blocks: Blocks,
}

/// The unit of writes with `O_DIRECT`, of their place in the file and in memory.
const BLOCK: usize = 4096;

impl Appender {
    /// Appends `data` and returns when it is durable.
    pub(super) fn append(&mut self, data: &[u8]) -> io::Result<()> {
        let length = data.len() as u64;
        assert!(
            length <= self.file_bytes,
            "{length} B do not fit into {} B",
            self.file_bytes
        );
        if self.end + length > self.file_bytes {
            self.end = 0;
            self.blocks = Blocks::default();
        }
        match self.mode {
            Mode::Buffered => self.file.write_all_at(data, self.end)?,
            Mode::Direct => {
                let from = self.end - self.blocks.filled as u64;
                let blocks = self.blocks.append(data);
                write_at_once(&self.file, blocks, from)?;
                self.blocks.keep_partial();
            }
        }
        self.file.sync_data()?;
        self.end += length;
        Ok(())
    }
}

/// What remains of a direct write that fell short would no longer be aligned.
fn write_at_once(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let written = file.write_at(bytes, offset)?;
    if written == bytes.len() {
        return Ok(());
    }
    let message = format!("only {written} of {} B were written", bytes.len());
    Err(io::Error::new(io::ErrorKind::WriteZero, message))
}

/// The last, partly filled block and what is appended to it, aligned as `O_DIRECT` wants it.
#[derive(Default)]
struct Blocks {
    memory: Vec<u8>,
    /// Where in `memory` the aligned part begins.
    aligned: usize,
    /// Bytes in use from there on.
    filled: usize,
}

impl Blocks {
    /// Adds `data`; returns everything in whole blocks, the last one filled up with zeros.
    fn append(&mut self, data: &[u8]) -> &[u8] {
        let end = self.filled + data.len();
        let whole = end.next_multiple_of(BLOCK);
        self.reserve(whole);
        let (_, blocks) = self.memory.split_at_mut(self.aligned);
        let (_, free) = blocks.split_at_mut(self.filled);
        let (place, after) = free.split_at_mut(data.len());
        place.copy_from_slice(data);
        let (rest_of_block, _) = after.split_at_mut(whole - end);
        rest_of_block.fill(0);
        self.filled = end;
        blocks.split_at(whole).0
    }

    /// Makes room for `bytes` from an aligned address on, and keeps what is filled.
    fn reserve(&mut self, bytes: usize) {
        if self.memory.len() >= self.aligned + bytes {
            return;
        }
        let (_, blocks) = self.memory.split_at(self.aligned);
        let (kept, _) = blocks.split_at(self.filled);
        let mut memory = vec![0; bytes + BLOCK];
        let aligned = memory.as_ptr().align_offset(BLOCK);
        assert!(aligned < BLOCK, "no aligned address within {BLOCK} B");
        memory
            .split_at_mut(aligned)
            .1
            .split_at_mut(kept.len())
            .0
            .copy_from_slice(kept);
        self.memory = memory;
        self.aligned = aligned;
    }

    /// Moves the last block to the front, unless it is full.
    fn keep_partial(&mut self) {
        let partial = self.filled % BLOCK;
        let from = self.aligned + self.filled - partial;
        self.memory.copy_within(from..from + partial, self.aligned);
        self.filled = partial;
    }
}

#[cfg(test)]
impl ZeroedFile {
    pub(super) fn contents(&self, bytes: usize) -> Vec<u8> {
        let mut contents = vec![0; bytes];
        self.file.read_exact_at(&mut contents, 0).unwrap();
        contents
    }
}

#[cfg(test)]
impl Appender {
    pub(super) fn over(file: File, file_bytes: u64) -> Self {
        Self {
            file,
            mode: Mode::Buffered,
            file_bytes,
            end: 0,
            blocks: Blocks::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Mode; 2] = [Mode::Buffered, Mode::Direct];

    fn direct_or_buffered(file: &ZeroedFile, mode: Mode) -> Option<Appender> {
        let appender = file.appender(mode).ok();
        assert!(
            appender.is_some() || mode == Mode::Direct,
            "buffered always works"
        );
        appender
    }

    #[test]
    fn both_modes_write_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let pieces: Vec<Vec<u8>> = [
            (1, 1),
            (2, 127),
            (3, 4096),
            (4, 3968),
            (5, 10_000),
            (6, 4096),
        ]
        .map(|(byte, count)| vec![byte; count])
        .to_vec();
        let expected = pieces.concat();
        for mode in MODES {
            let file = ZeroedFile::create(dir.path(), 1).unwrap();
            let Some(mut appender) = direct_or_buffered(&file, mode) else {
                return;
            };
            for piece in &pieces {
                appender.append(piece).unwrap();
            }
            assert!(file.contents(expected.len()) == expected, "{mode}");
        }
    }

    #[test]
    fn a_full_file_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        for mode in MODES {
            let file = ZeroedFile::create(dir.path(), 1).unwrap();
            let Some(mut appender) = direct_or_buffered(&file, mode) else {
                return;
            };
            appender.append(&vec![1; CHUNK_BYTES - 100]).unwrap();
            appender.append(&[2; 200]).unwrap();
            assert_eq!(file.contents(200), [2; 200], "{mode}");
            appender.append(&[3; 50]).unwrap();
            assert_eq!(file.contents(250)[200..], [3; 50], "{mode}");
        }
    }
}
