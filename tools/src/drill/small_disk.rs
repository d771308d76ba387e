//! A small file system of its own, which can be filled to the last byte. Needs root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Room for a small node, its reserve and a few segments.
const LEN: u64 = 48 << 20;

/// An ext4 in a file, mounted; it is unmounted when this is dropped.
pub(super) struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Makes one below `root`, and `root/name` a directory on it.
    pub(super) fn make(root: &Path, name: &str) -> Result<Self> {
        let (image, mount) = (root.join("disk.image"), root.join("disk"));
        File::create_new(&image)?.set_len(LEN)?;
        fs::create_dir(&mount)?;
        run("mkfs.ext4", [OsStr::new("-qFm0"), image.as_os_str()])?;
        run(
            "mount",
            [OsStr::new("-oloop"), image.as_os_str(), mount.as_os_str()],
        )?;
        let disk = Self { mount };
        let there = disk.mount.join(name);
        fs::DirBuilder::new().mode(0o700).create(&there)?;
        symlink(&there, root.join(name))?;
        Ok(disk)
    }

    /// Whether one can be made here.
    pub(super) fn is_possible(root: &Path) -> Result<()> {
        let dir = tempfile::tempdir_in(root)?;
        Self::make(dir.path(), "b").map(drop)
    }

    /// Leaves no byte free.
    pub(super) fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler())?;
        for len in [1 << 20, 4096, 1] {
            let zeros = vec![0; len];
            while filler.write_all(&zeros).is_ok() {}
        }
        // Space that is allocated late would be missing late.
        filler.sync_all().context("the filler was not kept")
    }

    /// Gives the room back.
    pub(super) fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    /// Unmounts the one below `root`, if there is one.
    pub(super) fn unmount_below(root: &Path) {
        let mount = root.join("disk");
        if mount.join("lost+found").exists() {
            drop(Self { mount });
        }
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    /// Lazily: a node that still ends holds it a little longer.
    fn drop(&mut self) {
        if let Err(error) = run("umount", [OsStr::new("-l"), self.mount.as_os_str()]) {
            tracing::error!(%error, mount = %self.mount.display(), "a small disk stays mounted");
        }
    }
}

fn run<const N: usize>(program: &str, arguments: [&OsStr; N]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}
