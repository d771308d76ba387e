//! Certificates in a node's directory: each a file of its own, and beside it its signature.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use outlast_engine::format::EpochRecord;
use outlast_engine::kill_points::{Point, pass};
use outlast_shipper::Identity;

use super::Certificate;
use super::signed::{CertificateSignature, sign};
use crate::dir::NodeDir;

/// The longest certificate, or signature, that is read, in bytes.
pub const CERTIFICATE_BYTES_MAX: u64 = 1 << 20;

/// What is put behind a certificate's file name for that of its signature.
pub const SIGNATURE_SUFFIX: &str = ".sig";

/// A certificate that a node keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCertificate {
    /// Its file.
    pub path: PathBuf,
    /// The certificate; the reason where the file holds none.
    pub certificate: Result<Certificate, String>,
    /// Whether a signature lies beside it. It may not hold: see [`super::verify`].
    pub has_signature: bool,
}

/// Where the certificate of the promotion that began `epoch` is kept.
#[must_use]
pub fn certificate_path(dir: &NodeDir, epoch: &EpochRecord) -> PathBuf {
    let name = format!("cert-{}-{}.json", epoch.term, epoch.id.short());
    dir.promotions().join(name)
}

/// Where the signature of the certificate at `path` is kept.
#[must_use]
pub fn signature_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SIGNATURE_SUFFIX);
    name.into()
}

/// The certificates that the node in `dir` keeps, the oldest first.
///
/// # Errors
/// When the directory cannot be read. One that holds none is no error.
pub fn stored_certificates(dir: &NodeDir) -> io::Result<Vec<StoredCertificate>> {
    let entries = match fs::read_dir(dir.promotions()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.starts_with("cert-") && name.ends_with(".json")) {
            continue;
        }
        let certificate = read_certificate_file(&path).map_err(|error| error.to_string());
        let certificate = certificate.and_then(|bytes| {
            serde_json::from_slice(&bytes).map_err(|error| format!("no certificate: {error}"))
        });
        found.push(StoredCertificate {
            has_signature: signature_path(&path).exists(),
            path,
            certificate,
        });
    }
    let age = |stored: &StoredCertificate| match &stored.certificate {
        Ok(certificate) => (
            certificate.epoch.as_ref().map(EpochRecord::order),
            certificate.wall_ms,
        ),
        Err(_) => (None, 0),
    };
    found.sort_by_key(age);
    Ok(found)
}

/// The bytes of a certificate, or of its signature.
///
/// # Errors
/// When the file cannot be read, or is longer than [`CERTIFICATE_BYTES_MAX`].
pub fn read_certificate_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?.take(CERTIFICATE_BYTES_MAX + 1);
    io::BufReader::new(file).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CERTIFICATE_BYTES_MAX {
        let what = format!("longer than any certificate ({CERTIFICATE_BYTES_MAX} bytes)");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

impl Certificate {
    /// Keeps the certificate of a promotion, durably, and beside it its signature. A key that
    /// cannot be used leaves it without one: a promotion needs none.
    pub(crate) fn store(&self, dir: &NodeDir, key: Result<Identity, String>) -> io::Result<()> {
        let Some(epoch) = &self.epoch else {
            return Ok(());
        };
        let folder = dir.promotions();
        if !folder.exists() {
            fs::DirBuilder::new().mode(0o700).create(&folder)?;
            sync_dir(dir.root())?;
        }
        let path = certificate_path(dir, epoch);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_durably(&path, &text, || pass(Point::CertificateWritten))?;
        pass(Point::CertificateStored);
        let signed =
            key.and_then(|key| sign(&text, self.node, &key).map_err(|error| error.to_string()));
        match signed {
            Ok(signature) => write_signature(&path, &signature),
            Err(why) => {
                tracing::error!(%why, "the certificate is kept without a signature");
                Ok(())
            }
        }
    }
}

fn write_signature(certificate: &Path, signature: &CertificateSignature) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(signature).map_err(io::Error::other)?;
    write_durably(&signature_path(certificate), &text, || ())
}

/// Writes a file under its name only once it is whole and durable.
fn write_durably(path: &Path, bytes: &[u8], written: impl FnOnce()) -> io::Result<()> {
    let whole = path.with_extension("tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&whole)?;
    file.write_all(bytes)?;
    written();
    file.sync_all()?;
    fs::rename(&whole, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
