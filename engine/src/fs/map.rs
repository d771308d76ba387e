//! Memory maps, of sealed files and of no file, and what is asked and hinted about them: the only
//! `unsafe` in the workspace.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use memmap2::{Advice, MmapMut, MmapOptions};

use super::MapPages;

/// Maps a whole file for reading. The map lives as long as the answer or any slice of it.
///
/// Unless those `around` it are to be read too, a page that is not in memory is read alone. Whoever
/// reads in order says so by [`will_need`].
pub(super) fn map(file: &File, pages: MapPages, around: bool) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    let mut options = MmapOptions::new();
    if pages == MapPages::Now {
        options.populate();
    }
    // SAFETY: a map is sound while nobody shortens or writes the file under it. Only sealed
    // segments and finished runs are mapped whole; the engine never writes one in place and retires
    // it by unlinking, and its lock keeps a second engine out of the directory. Another program
    // that writes there breaks the promise of the directory itself; an unreadable page ends the
    // process.
    let map = unsafe { options.map(file)? };
    if !around {
        // A hint: without it all is read as well.
        let _ = map.advise(Advice::Random);
    }
    Ok(Bytes::from_owner(map))
}

/// Maps a part of a file that may be written elsewhere. The map lives as long as the answer or any
/// slice of it.
pub(super) fn map_part(
    file: &File,
    (offset, len): (u64, usize),
    pages: MapPages,
    around: bool,
) -> io::Result<Bytes> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    if file.metadata()?.len() < offset.saturating_add(len as u64) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut options = MmapOptions::new();
    options.offset(offset).len(len);
    if pages == MapPages::Now {
        options.populate();
    }
    // SAFETY: as for `map`, and of a file that is still written only blocks that nobody writes
    // again: those of a running segment that lie well before its durable end.
    let map = unsafe { options.map(file)? };
    if !around {
        // A hint: without it all is read as well.
        let _ = map.advise(Advice::Random);
    }
    Ok(Bytes::from_owner(map))
}

/// Zeroed memory for much that is read at once, in large pages where there are any: in small ones,
/// finding each costs as much as filling it. What is not touched costs nothing.
pub(crate) fn zeroed(len: usize) -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon(len)?;
    #[cfg(target_os = "linux")]
    {
        // A hint: without it pages are small.
        let _ = memory.advise(Advice::HugePage);
    }
    Ok(memory)
}

/// Lets the operating system begin to write a part of a file to the disk, and does not wait for it:
/// a sync that follows finds little left to do. A hint, whatever comes of it.
pub(super) fn begin_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    // SAFETY: it touches no memory of this process.
    let _ = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// Pages whose residency is asked for at a time.
const PAGES_AT_ONCE: usize = 64;
/// Where pages are larger, the question is refused, and the answer is no.
const PAGE_LEN: usize = 4096;

/// Whether all of `bytes` lies in memory, so that reading it waits for no disk. What the operating
/// system does not tell counts as not.
pub(crate) fn is_resident(bytes: &[u8]) -> bool {
    let ahead = bytes.as_ptr().addr() % PAGE_LEN;
    let pages = (ahead + bytes.len()).div_ceil(PAGE_LEN);
    let first = bytes.as_ptr().wrapping_sub(ahead);
    (0..pages).step_by(PAGES_AT_ONCE).all(|page| {
        let count = PAGES_AT_ONCE.min(pages - page);
        let mut resident = [0u8; PAGES_AT_ONCE];
        let from = first.wrapping_add(page * PAGE_LEN).cast_mut().cast();
        // SAFETY: mincore reads no memory at the address that it is given, and answers with an
        // error for one that is not mapped or not at a page's beginning. It writes one byte a page,
        // and there is room for `count` of them.
        let asked = unsafe { libc::mincore(from, count * PAGE_LEN, resident.as_mut_ptr()) };
        let resident = resident.get(..count).unwrap_or_default();
        asked == 0 && resident.iter().all(|page| page & 1 == 1)
    })
}

/// Lets the operating system begin to read the pages of `bytes` that are not in memory, and does
/// not wait for them. A hint, whatever comes of it.
pub(crate) fn will_need(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let ahead = bytes.as_ptr().addr() % PAGE_LEN;
    let from = bytes.as_ptr().wrapping_sub(ahead).cast_mut().cast();
    // SAFETY: this advice changes nothing of the memory that it names, and is refused where nothing
    // is mapped or pages are larger.
    let _ = unsafe { libc::madvise(from, ahead + bytes.len(), libc::MADV_WILLNEED) };
}

/// Begins to bring the memory at the beginning of `bytes` nearer to the processor, and goes on. A
/// page that is not in memory is left where it is.
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing that a program sees and faults nowhere, whatever the
        // address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
