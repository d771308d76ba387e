//! A node's own key, made by the node itself and never leaving it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::pin::Pin;
use crate::private_file::{self, FileError, Keep};
use crate::signature::{SCHEME, SignatureFault};

/// The longest key file in bytes; a P-256 key takes about 240.
pub const KEY_FILE_BYTES_MAX: u64 = 16 << 10;

/// What went wrong with a node's key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a key, or one of another kind.
    #[error("{} holds no ECDSA P-256 key in PKCS#8 PEM: put the node's own key file back, or make a new key and have the peers trust its pin", .path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// No key could be made.
    #[error("could not make a key: {reason}")]
    Unmade {
        /// What the cryptographic library said.
        reason: String,
    },
}

/// A node's key, and the self-signed certificate that carries its public half in a handshake.
///
/// The key is ECDSA P-256: the one curve that every certificate authority and hardware module takes
/// as well, for sites that will want theirs beside the pins. The certificate is made anew at each
/// start and never stored; peers look at its public key alone, not at its names and dates.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    pin: Pin,
    public_key_pem: Arc<str>,
}

impl Identity {
    /// Makes a new key and writes it to `path` (PEM, mode 0600, durable on return).
    ///
    /// # Errors
    /// When the file exists already, or cannot be written.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let (identity, pem) = Self::make()?;
        private_file::create(path, pem.as_bytes())?;
        Ok(identity)
    }

    /// Reads the key at `path`.
    ///
    /// # Errors
    /// When it is missing, can be used by anybody but its owner, or is not such a key.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let pem = private_file::read(path, Keep::Secret, KEY_FILE_BYTES_MAX)?;
        let not_a_key = || IdentityError::NotAKey {
            path: path.to_owned(),
        };
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| not_a_key())?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        der.zeroize();
        Self::of(key.map_err(|_| not_a_key())?)
    }

    /// A new key that is stored nowhere: for measurements and drills.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Self::make().map(|(identity, _)| identity)
    }

    /// By what peers know this node.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// The public half, as PEM of the kind `PUBLIC KEY`; see [`PublicKey`](crate::PublicKey).
    #[must_use]
    pub fn public_key_pem(&self) -> &str {
        &self.public_key_pem
    }

    /// Signs `message` with this key. Whoever calls it must not let others choose the bytes from
    /// the first on: the same key proves who this node is in handshakes, and there what is signed
    /// begins with 64 spaces.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureFault> {
        let unsigned = |reason: String| SignatureFault::Unsigned { reason };
        let signer = self.certified.key.choose_scheme(&[SCHEME]);
        let signer = signer.ok_or_else(|| unsigned("it is of another kind".to_owned()))?;
        signer
            .sign(message)
            .map_err(|error| unsigned(error.to_string()))
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    fn make() -> Result<(Self, Zeroizing<String>), IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(unmade)?;
        let pem = Zeroizing::new(key.serialize_pem());
        Ok((Self::of(key)?, pem))
    }

    fn of(mut key: KeyPair) -> Result<Self, IdentityError> {
        let pin = Pin::of(&key.subject_public_key_info());
        let public_key_pem = key.public_key_pem().into();
        let mut params = CertificateParams::default();
        // The same name for every node: it says nothing about the site to whoever probes the port.
        params
            .distinguished_name
            .push(DnType::CommonName, "outlast");
        let certificate = params.self_signed(&key).map_err(unmade)?;

        let mut der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&der).map_err(unmade);
        der.zeroize();
        key.zeroize();
        let certified = CertifiedKey::new(vec![certificate.into()], signing?);
        Ok(Self {
            certified: Arc::new(certified),
            pin,
            public_key_pem,
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

fn unmade(error: impl fmt::Display) -> IdentityError {
    IdentityError::Unmade {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_keeps_its_pin_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = Identity::create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert_eq!(Identity::load(&path).unwrap().pin(), made.pin());
        assert_ne!(Identity::ephemeral().unwrap().pin(), made.pin());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_way_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        Identity::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(&path).unwrap_err();
        let IdentityError::File(FileError::Exposed { mode: 0o640, .. }) = &error else {
            panic!("{error}");
        };
        let mend = format!("chmod 600 {}", path.display());
        assert!(error.to_string().contains(&mend), "{error}");
    }

    #[test]
    fn only_a_p256_key_is_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let p256 = KeyPair::generate().unwrap().serialize_pem();
        let cut = p256[..p256.len() / 2].to_owned();
        let texts = [
            String::new(),
            "hello".to_owned(),
            cut,
            ed25519.serialize_pem(),
            p384.serialize_pem(),
        ];
        for (i, text) in texts.iter().enumerate() {
            let path = dir.path().join(i.to_string());
            private_file::create(&path, text.as_bytes()).unwrap();
            let error = Identity::load(&path).unwrap_err();
            assert!(matches!(error, IdentityError::NotAKey { .. }), "{error}");
        }
    }

    #[test]
    fn nothing_of_the_key_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let identity = Identity::create(&path).unwrap();
        let pem = fs::read_to_string(&path).unwrap();
        let shown = format!("{identity:?} {identity:#?}");
        for line in pem.lines().filter(|line| !line.starts_with('-')) {
            assert!(!shown.contains(line), "{shown}");
        }
        assert!(shown.contains(&identity.pin().to_string()));
    }
}
