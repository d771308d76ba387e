//! The signature of a certificate: made with the node's key over the exact bytes of the file, and
//! checked anywhere by whoever knows that key's pin.

use outlast_engine::format::{ClusterId, NodeId};
use outlast_shipper::{Identity, Pin, PublicKey, SIGNATURE_ALGORITHM, SignatureFault};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Certificate;
use crate::dir::NodeDir;
use crate::error::Result as NodeResult;
use crate::init::{Card, card};
use crate::node::load_peers;

/// What stands in the file beside a certificate. `"schema": 1`; fields are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CertificateSignature {
    /// Version of this layout.
    pub schema: u32,
    /// How it was signed: `ecdsa-p256-sha256`.
    pub algorithm: String,
    /// The node that signed.
    pub node: NodeId,
    /// Its public key, in PEM. Trust it by its pin, and not because it stands here.
    pub public_key: String,
    /// The signature over the bytes of the certificate's file: DER, in hexadecimal digits.
    pub signature: String,
}

/// Whose signature is trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signer {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The pin of its key.
    pub pin: Pin,
}

impl From<Card> for Signer {
    fn from(card: Card) -> Self {
        Self {
            node: card.node,
            name: card.name,
            cluster: card.cluster,
            pin: card.pin,
        }
    }
}

/// Whom the node in `dir` knows: itself, and the peers that it trusts. Needs no running node.
///
/// # Errors
/// When there is no node, or its files cannot be read.
pub fn known_signers(dir: &NodeDir) -> NodeResult<Vec<Signer>> {
    let own = card(dir.root())?;
    let peers = load_peers(dir)?;
    let cluster = own.cluster;
    let peers = peers.iter().map(|peer| Signer {
        node: peer.node,
        name: peer.name.clone(),
        cluster,
        pin: peer.pin,
    });
    Ok(std::iter::once(own.into()).chain(peers).collect())
}

/// A certificate that is what a trusted node signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// The certificate.
    pub certificate: Certificate,
    /// Who signed it.
    pub signer: Signer,
}

/// Why a certificate is not valid.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateFault {
    /// The signature's file is not one.
    #[error(
        "the signature cannot be read ({why}): fetch both files again from the node's directory"
    )]
    NoSignature {
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are not what was signed.
    #[error(
        "the certificate is not what the key {pin} signed: it was changed or cut short, or this \
         is another certificate's signature"
    )]
    Changed {
        /// The key that the signature names.
        pin: Pin,
    },
    /// What was signed is whole, and nobody vouches for the key.
    #[error(
        "the certificate is whole, but its signer {pin} is not known here: compare this pin with \
         `outlast pin show` of the node, and give that line with --trust"
    )]
    UnknownSigner {
        /// The key that signed.
        pin: Pin,
    },
    /// What was signed is no certificate of this version.
    #[error("what {signer} signed is no certificate that this version reads: {why}")]
    NoCertificate {
        /// Who signed.
        signer: String,
        /// What is wrong with it.
        why: String,
    },
    /// A trusted node signed what is not its own.
    #[error(
        "node {signer} signed it, and it states the promotion of node {node} in cluster {cluster}: \
         no node certifies another one's"
    )]
    Foreign {
        /// Who signed.
        signer: String,
        /// The node that the certificate is about.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
    },
}

/// Signs the bytes of a certificate's file. They begin with `{`, as nothing does that the same key
/// signs elsewhere.
pub(crate) fn sign(
    certificate: &[u8],
    node: NodeId,
    key: &Identity,
) -> Result<CertificateSignature, SignatureFault> {
    assert_eq!(certificate.first(), Some(&b'{'), "only JSON is signed");
    let signature = key.sign(certificate)?;
    Ok(CertificateSignature {
        schema: 1,
        algorithm: SIGNATURE_ALGORITHM.to_owned(),
        node,
        public_key: key.public_key_pem().to_owned(),
        signature: signature.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Checks the bytes of a certificate's file against those of its signature's: that nothing was
/// changed since the node that was promoted signed it, and that this node is one of `trusted`.
///
/// # Errors
/// Says what is wrong. No bytes panic.
pub fn verify(
    certificate: &[u8],
    signature: &[u8],
    trusted: &[Signer],
) -> Result<Verified, CertificateFault> {
    let unreadable = |why: String| CertificateFault::NoSignature { why };
    let signature: CertificateSignature =
        serde_json::from_slice(signature).map_err(|error| unreadable(error.to_string()))?;
    if signature.algorithm != SIGNATURE_ALGORITHM {
        let why = format!("this version knows {SIGNATURE_ALGORITHM} alone");
        return Err(unreadable(why));
    }
    let key = PublicKey::from_pem(&signature.public_key);
    let key = key.map_err(|error| unreadable(error.to_string()))?;
    let der = from_hex(&signature.signature);
    let der =
        der.ok_or_else(|| unreadable("it is not written in hexadecimal digits".to_owned()))?;
    let pin = key.pin();
    key.verify(certificate, &der)
        .map_err(|_| CertificateFault::Changed { pin })?;
    let mut of_key = trusted.iter().filter(|signer| signer.pin == pin);
    let known = of_key.clone().next();
    let known = known.ok_or(CertificateFault::UnknownSigner { pin })?;
    let parsed = serde_json::from_slice(certificate);
    let certificate: Certificate = parsed.map_err(|error| CertificateFault::NoCertificate {
        signer: known.name.clone(),
        why: error.to_string(),
    })?;
    let (node, cluster) = (certificate.node, certificate.cluster);
    let signer = of_key.find(|signer| signer.node == node && signer.cluster == cluster);
    let signer = signer.ok_or_else(|| CertificateFault::Foreign {
        signer: known.name.clone(),
        node,
        cluster,
    })?;
    Ok(Verified {
        signer: signer.clone(),
        certificate,
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| match std::str::from_utf8(pair) {
        Ok(pair) if pair.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u8::from_str_radix(pair, 16).ok()
        }
        _ => None,
    };
    digits.map(byte).collect()
}
