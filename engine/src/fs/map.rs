//! Memory maps of sealed files, and hints about them: the only `unsafe` in the workspace.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::MmapOptions;

use super::MapPages;

/// Maps a whole file for reading. The map lives as long as the answer or any slice of it.
pub(super) fn map(file: &File, pages: MapPages) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    let mut options = MmapOptions::new();
    if pages == MapPages::Now {
        options.populate();
    }
    // SAFETY: a map is sound while nobody shortens or writes the file under it. Only sealed
    // segments and finished runs are mapped; the engine never writes one in place and retires it by
    // unlinking, and its lock keeps a second engine out of the directory. Another program that
    // writes there breaks the promise of the directory itself; an unreadable page ends the process.
    let map = unsafe { options.map(file)? };
    Ok(Bytes::from_owner(map))
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
