//! Memory maps of sealed files: the only `unsafe` in the workspace.
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
    // segments are mapped; the engine never writes a sealed file in place and retires one by
    // unlinking it, and its lock keeps a second engine out of the directory. Another program that
    // writes there breaks the promise of the directory itself; an unreadable page ends the process.
    let map = unsafe { options.map(file)? };
    Ok(Bytes::from_owner(map))
}
