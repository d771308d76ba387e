use outlast_engine::format::{ClusterId, NodeId};
use outlast_shipper::Identity;
use proptest::prelude::*;

use super::signed::sign;
use super::*;

fn certificate(node: NodeId, cluster: ClusterId) -> Certificate {
    let unknown = || "nothing was heard".to_owned();
    Certificate {
        schema: 1,
        outcome: Outcome::Promoted,
        cluster,
        node,
        node_name: "pangyo-b".into(),
        policy: "async".into(),
        fencing: Fencing::Stated,
        silence_ms: Finding::Known(4000),
        positions: StandbyPositions {
            received: Position::default(),
            durable: Position::default(),
            applied: Position::default(),
        },
        primary: Finding::NotAvailable(unknown()),
        measured_loss: Finding::NotAvailable(unknown()),
        bound: Finding::NotAvailable("the policy async has none".into()),
        chain_verified_to: Finding::Known(Lsn(100)),
        state_audit: Finding::NotAvailable(unknown()),
        scrub: Finding::NotAvailable(unknown()),
        acked_tail_lost: None,
        epoch: None,
        took_ms: 7,
        wall_ms: 1_600_000_000_000,
        conditions: vec!["the operator states that the old primary is down".into()],
    }
}

/// A node with a key, and what it signed.
struct Signed {
    signer: Signer,
    key: Identity,
    text: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    fn new() -> Self {
        let (node, cluster) = (NodeId::random(), ClusterId::random());
        let key = Identity::ephemeral().unwrap();
        let text = serde_json::to_vec_pretty(&certificate(node, cluster)).unwrap();
        let signature = sign(&text, node, &key).unwrap();
        let signer = Signer {
            node,
            name: "pangyo-b".into(),
            cluster,
            pin: key.pin(),
        };
        Self {
            signer,
            key,
            text,
            signature: serde_json::to_vec_pretty(&signature).unwrap(),
        }
    }

    fn verify(&self, text: &[u8]) -> Result<Verified, CertificateFault> {
        verify(text, &self.signature, std::slice::from_ref(&self.signer))
    }
}

#[test]
fn what_a_trusted_node_signed_is_valid() {
    let signed = Signed::new();
    let verified = signed.verify(&signed.text).unwrap();
    assert_eq!(verified.signer, signed.signer);
    assert_eq!(verified.certificate.node, signed.signer.node);
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let signed = Signed::new();
    for at in 0..signed.text.len() {
        let mut changed = signed.text.clone();
        changed[at] ^= 1;
        for text in [&changed[..], &signed.text[..at]] {
            let fault = signed.verify(text).unwrap_err();
            assert!(
                matches!(fault, CertificateFault::Changed { .. }),
                "{at}: {fault}"
            );
        }
    }
    let longer = [&signed.text[..], b"\n"].concat();
    let fault = signed.verify(&longer).unwrap_err();
    assert!(matches!(fault, CertificateFault::Changed { .. }), "{fault}");
    for at in 0..signed.signature.len() {
        let cut = verify(
            &signed.text,
            &signed.signature[..at],
            std::slice::from_ref(&signed.signer),
        );
        let fault = cut.unwrap_err();
        assert!(
            matches!(fault, CertificateFault::NoSignature { .. }),
            "{at}: {fault}"
        );
    }
}

#[test]
fn a_signer_is_known_by_its_pin_and_signs_for_itself_alone() {
    let (signed, other) = (Signed::new(), Signed::new());
    let unknown = [&[][..], std::slice::from_ref(&other.signer)];
    for trusted in unknown {
        let fault = verify(&signed.text, &signed.signature, trusted).unwrap_err();
        let named =
            matches!(fault, CertificateFault::UnknownSigner { pin } if pin == signed.key.pin());
        assert!(named, "{fault}");
    }
    // Another trusted node states what it is not: with its own key, by its own name in the file.
    let forged = sign(&signed.text, signed.signer.node, &other.key).unwrap();
    let forged = serde_json::to_vec(&forged).unwrap();
    let both = [signed.signer.clone(), other.signer.clone()];
    let fault = verify(&signed.text, &forged, &both).unwrap_err();
    assert!(matches!(fault, CertificateFault::Foreign { .. }), "{fault}");
    // Another cluster's node of the same id is another node.
    let elsewhere = Signer {
        cluster: ClusterId::random(),
        ..signed.signer.clone()
    };
    let fault = verify(&signed.text, &signed.signature, &[elsewhere]).unwrap_err();
    assert!(matches!(fault, CertificateFault::Foreign { .. }), "{fault}");
    // Another certificate's signature.
    let fault = verify(&other.text, &signed.signature, &both).unwrap_err();
    assert!(matches!(fault, CertificateFault::Changed { .. }), "{fault}");
}

#[test]
fn what_is_signed_and_no_certificate_is_none() {
    let signed = Signed::new();
    let text = b"{}";
    let signature = sign(text, signed.signer.node, &signed.key).unwrap();
    let signature = serde_json::to_vec(&signature).unwrap();
    let fault = verify(text, &signature, &[signed.signer]).unwrap_err();
    assert!(
        matches!(fault, CertificateFault::NoCertificate { .. }),
        "{fault}"
    );
}

#[test]
fn another_algorithm_or_no_key_is_refused() {
    let signed = Signed::new();
    let whole: CertificateSignature = serde_json::from_slice(&signed.signature).unwrap();
    let faulty = [
        CertificateSignature {
            algorithm: "none".into(),
            ..whole.clone()
        },
        CertificateSignature {
            public_key: String::new(),
            ..whole.clone()
        },
        CertificateSignature {
            signature: "0".into(),
            ..whole.clone()
        },
        CertificateSignature {
            signature: "+0".into(),
            ..whole
        },
    ];
    for signature in faulty {
        let signature = serde_json::to_vec(&signature).unwrap();
        let trusted = std::slice::from_ref(&signed.signer);
        let fault = verify(&signed.text, &signature, trusted).unwrap_err();
        assert!(
            matches!(fault, CertificateFault::NoSignature { .. }),
            "{fault}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(
        text in proptest::collection::vec(any::<u8>(), 0..200),
        signature in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(verify(&text, &signature, &[]).is_err());
    }

    #[test]
    fn no_text_in_the_fields_panics(
        text in proptest::collection::vec(any::<u8>(), 0..200),
        known in any::<bool>(),
        public_key in ".{0,200}",
        signature in "(\\PC|[0-9a-f]){0,200}",
    ) {
        let node = NodeId::random();
        let algorithm = if known { "ecdsa-p256-sha256" } else { "rsa" };
        let (algorithm, schema) = (algorithm.to_owned(), 1);
        let whole = CertificateSignature { schema, algorithm, node, public_key, signature };
        let whole = serde_json::to_vec(&whole).unwrap();
        prop_assert!(verify(&text, &whole, &[]).is_err());
    }

    #[test]
    fn pieces_of_a_whole_one_put_together_never_panic_and_never_hold(
        cut in 0_usize..600, more in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let signed = Signed::new();
        let at = cut.min(signed.signature.len());
        let spliced = [&signed.signature[..at], &more[..], &signed.signature[at..]].concat();
        if let Ok(verified) = verify(&signed.text, &spliced, std::slice::from_ref(&signed.signer)) {
            // White space, or a field that nobody asks for: the bytes that were signed are whole.
            prop_assert_eq!(verified.signer, signed.signer);
        }
    }
}
