//! What a node states for later and elsewhere: bytes signed with its key, and the public key that
//! checks them without the node.

use rustls::SignatureScheme;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use crate::pin::Pin;

/// How a node's key signs: ECDSA over P-256 with SHA-256, the signature in DER.
pub const SIGNATURE_ALGORITHM: &str = "ecdsa-p256-sha256";

/// The scheme of that name: the one kind of signature that a node's key makes.
pub(crate) const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// What the DER of every P-256 key begins with; the point follows, 65 bytes.
const P256_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a signature does not hold.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureFault {
    /// No public key, or one of another kind.
    #[error("this is no ECDSA P-256 public key in PEM, which is what a node signs with")]
    NotAKey,
    /// The signature is of other bytes, or by another key.
    #[error("the signature does not belong to these bytes and this key")]
    Mismatch,
    /// The key could not sign.
    #[error("the key could not sign: {reason}")]
    Unsigned {
        /// What the cryptographic library said.
        reason: String,
    },
}

/// The public half of a node's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    info: Vec<u8>,
}

impl PublicKey {
    /// The key in a PEM of the kind `PUBLIC KEY`.
    ///
    /// # Errors
    /// When it is none, or of another kind.
    pub fn from_pem(pem: &str) -> Result<Self, SignatureFault> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| SignatureFault::NotAKey)?;
        let key = Self {
            info: info.to_vec(),
        };
        key.point()?;
        Ok(key)
    }

    /// By what a node with this key is known.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of(&self.info)
    }

    /// Checks that this key made `signature` over `message`.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureFault> {
        let point = self.point()?;
        let algorithms = default_provider().signature_verification_algorithms;
        let mut of_scheme = algorithms.mapping.iter().filter(|(it, _)| *it == SCHEME);
        // TLS 1.2 let one scheme stand for several curves; the point decides.
        let holds = of_scheme.any(|(_, algorithms)| {
            let mut algorithms = algorithms.iter();
            algorithms.any(|it| it.verify_signature(point, message, signature).is_ok())
        });
        holds.then_some(()).ok_or(SignatureFault::Mismatch)
    }

    fn point(&self) -> Result<&[u8], SignatureFault> {
        let point = self.info.strip_prefix(&P256_HEADER);
        let point = point.filter(|point| point.len() == 65);
        point.ok_or(SignatureFault::NotAKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    #[test]
    fn only_the_same_bytes_and_the_same_key_hold() {
        let (mine, other) = (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        );
        let key = PublicKey::from_pem(mine.public_key_pem()).unwrap();
        assert_eq!(key.pin(), mine.pin());
        let message = b"what was certified";
        let signature = mine.sign(message).unwrap();
        assert_eq!(key.verify(message, &signature), Ok(()));
        let refused = Err(SignatureFault::Mismatch);
        for at in 0..message.len() {
            let mut changed = message.to_vec();
            changed[at] ^= 1;
            assert_eq!(key.verify(&changed, &signature), refused, "byte {at}");
            assert_eq!(key.verify(&message[..at], &signature), refused, "cut {at}");
        }
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(key.verify(message, &changed), refused, "byte {at}");
            assert_eq!(key.verify(message, &signature[..at]), refused, "cut {at}");
        }
        let theirs = PublicKey::from_pem(other.public_key_pem()).unwrap();
        assert_eq!(theirs.verify(message, &signature), refused);
    }

    #[test]
    fn what_is_no_key_of_a_node_is_refused() {
        let pem = Identity::ephemeral().unwrap().public_key_pem().to_owned();
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        for text in [
            "",
            "hello",
            &pem[..pem.len() / 2],
            &ed25519.public_key_pem(),
        ] {
            assert_eq!(PublicKey::from_pem(text), Err(SignatureFault::NotAKey));
        }
    }
}
