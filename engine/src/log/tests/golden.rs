//! Manifest and mark as version 1 wrote them.

use super::*;

const MANIFEST: &[u8] = include_bytes!("../../../tests/golden/v1/node/manifest");
const MARK: &[u8] = include_bytes!("../../../tests/golden/v1/node/mark");

#[test]
fn the_control_files_of_version_1_are_written_as_they_were() {
    let fs = MemFs::new();
    for (name, bytes) in [("manifest", MANIFEST), ("mark", MARK)] {
        fs.create(name).unwrap().write_at(0, bytes).unwrap();
    }
    let manifest = Manifest::load(&fs).unwrap();
    assert_eq!(manifest.node_name, "golden");
    assert_eq!(manifest.history.epochs().len(), 2);
    manifest.store(&fs).unwrap();
    assert_eq!(read_all(&fs, "manifest").unwrap(), MANIFEST);
    assert_eq!(read_all(&fs, "manifest.copy").unwrap(), MANIFEST);
    let mut marks = MarkFile::open(&fs).unwrap();
    let mark = marks.newest().unwrap();
    assert_eq!(
        Some(mark.epoch),
        manifest.history.last().map(|last| last.id)
    );
    // Noted again over slots that were wiped, it is one of those that were there.
    fs.unlink("mark").unwrap();
    MarkFile::create(&fs).unwrap();
    marks.make_writable(&fs).unwrap();
    let sequence = marks.set_back_one();
    marks.note(mark).unwrap();
    let offset = to_usize(sequence % 2 * 4096);
    let noted = read_all(&fs, "mark").unwrap();
    assert_eq!(noted[offset..offset + 512], MARK[offset..offset + 512]);
}
