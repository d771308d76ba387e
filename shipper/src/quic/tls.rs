//! Who is let in: TLS 1.3 on both sides, keys by their pins, and neither names nor dates nor
//! clocks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::format::NodeId;
use parking_lot::{Mutex, RwLock};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::Refusal;
use crate::identity::Identity;
use crate::peers::{Peer, Peers};
use crate::pin::Pin;
use crate::signature::SCHEME;

/// The protocol and its version, as TLS agrees on it.
pub(super) const ALPN: &[u8] = b"outlast/1";

/// The peers that are trusted at this moment.
#[derive(Debug)]
pub(super) struct Trust(RwLock<Arc<Peers>>);

impl Trust {
    pub(super) fn new(peers: Peers) -> Self {
        Self(RwLock::new(Arc::new(peers)))
    }

    pub(super) fn peers(&self) -> Arc<Peers> {
        self.0.read().clone()
    }

    pub(super) fn replace(&self, peers: Peers) {
        *self.0.write() = Arc::new(peers);
    }
}

/// Decides about the other side of one handshake, and remembers why.
pub(super) struct Judge {
    trust: Arc<Trust>,
    expected: Option<NodeId>,
    provider: Arc<CryptoProvider>,
    refusal: Mutex<Option<Refusal>>,
}

impl Judge {
    /// A judge who lets in any trusted peer, or only the one that is `expected`.
    pub(super) fn new(trust: Arc<Trust>, expected: Option<NodeId>) -> Arc<Self> {
        Arc::new(Self {
            trust,
            expected,
            provider: Arc::new(provider()),
            refusal: Mutex::new(None),
        })
    }

    /// Why the other side was refused, if it was this judge who did.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().clone()
    }

    /// The peer whose certificates these are.
    pub(super) fn peer(&self, certificates: &[CertificateDer<'_>]) -> Result<Peer, Refusal> {
        let [certificate] = certificates else {
            return Err(match certificates.len() {
                0 => Refusal::NoCertificate,
                count => Refusal::Certificates { count },
            });
        };
        let parsed =
            ParsedCertificate::try_from(certificate).map_err(|_| Refusal::NotACertificate)?;
        let pin = Pin::of(&parsed.subject_public_key_info());
        let peers = self.trust.peers();
        let peer = peers.by_pin(&pin).ok_or(Refusal::UnknownKey { pin })?;
        match self.expected {
            Some(expected) if expected != peer.node => Err(Refusal::OtherPeer {
                expected,
                node: peer.node,
                name: peer.name.clone(),
            }),
            _ => Ok(peer.clone()),
        }
    }

    fn judge_certificate(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let certificates: Vec<_> = std::iter::once(certificate)
            .chain(others)
            .cloned()
            .collect();
        self.remember(|| self.peer(&certificates).map(drop))
    }

    fn judge_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.remember(|| {
            if signed.scheme != SCHEME {
                return Err(Refusal::BadSignature);
            }
            verify_tls13_signature(message, certificate, signed, algorithms)
                .map_err(|_| Refusal::BadSignature)
        })
    }

    /// Runs a check under quinn's lock, where nothing may panic, and keeps the reason of a refusal.
    fn remember<T>(&self, check: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Error> {
        let checked = catch_unwind(AssertUnwindSafe(check));
        let refusal = match checked {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::NotACertificate,
        };
        let error = match refusal {
            Refusal::BadSignature => CertificateError::BadSignature,
            Refusal::NotACertificate => CertificateError::BadEncoding,
            // The peer learns that it is not trusted, and nothing of whom else we trust.
            _ => CertificateError::ApplicationVerificationFailure,
        };
        *self.refusal.lock() = Some(refusal);
        Err(error.into())
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// What a judge says of signatures is the same for both sides, of which each has a trait of its
/// own.
macro_rules! judge_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.remember(|| Err(Refusal::OldTls))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.judge_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SCHEME]
        }
    };
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge_certificate(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    judge_signatures!();
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge_certificate(end_entity, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    judge_signatures!();
}

/// The configuration of the side that is dialled.
pub(super) fn server(identity: &Identity, judge: Arc<Judge>) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_details(judge.provider.clone(), Arc::new(NoClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(judge)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every link is a whole handshake: what is resumed is not verified again, and what is sent
    // before the handshake ends can be played back by anybody.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The configuration of the side that dials.
pub(super) fn client(identity: &Identity, judge: Arc<Judge>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_details(judge.provider.clone(), Arc::new(NoClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled().tls12_resumption(Tls12Resumption::Disabled);
    config.enable_sni = false;
    Ok(config)
}

/// ring, with the fastest suite first. Named everywhere, so that the process's default is never
/// asked.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

/// Nothing here depends on what time it is, and a clock that is wrong must not keep anybody out.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::PeerIncompatible;

    fn judge() -> Arc<Judge> {
        Judge::new(Arc::new(Trust::new(Peers::default())), None)
    }

    #[test]
    fn nothing_is_resumed_and_nothing_sent_early() {
        let identity = Identity::ephemeral().unwrap();
        let server = server(&identity, judge()).unwrap();
        assert_eq!(
            (server.max_early_data_size, server.send_tls13_tickets),
            (0, 0)
        );
        assert!(!server.session_storage.can_cache());
        assert!(!server.ticketer.enabled());
        let client = client(&identity, judge()).unwrap();
        assert!(!client.enable_early_data);
        assert!(format!("{:?}", client.resumption).contains("NoClientSessionStorage"));
    }

    #[test]
    fn the_fastest_suite_stands_first() {
        let suites: Vec<_> = provider()
            .cipher_suites
            .iter()
            .map(|suite| suite.suite())
            .collect();
        assert_eq!(suites.first(), Some(&CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(suites.len(), 3);
    }

    #[test]
    fn a_hello_of_tls_1_2_is_refused() {
        let identity = Identity::ephemeral().unwrap();
        let config = server(&identity, judge()).unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        connection.read_tls(&mut &hello_of_tls_1_2()[..]).unwrap();
        let error = connection.process_new_packets().unwrap_err();
        let wanted = PeerIncompatible::SupportedVersionsExtensionRequired;
        assert_eq!(error, Error::PeerIncompatible(wanted));
    }

    /// A ClientHello as RFC 5246 has it: no list of supported versions, one suite.
    fn hello_of_tls_1_2() -> Vec<u8> {
        let len = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0xc0, 0x2b]);
        body.extend([1, 0]);
        // signature_algorithms and supported_groups, without which it would be refused for another
        // reason.
        let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 29];
        body.extend([0, len(&extensions)]);
        body.extend(extensions);
        let mut message = vec![1, 0, 0, len(&body)];
        message.extend(body);
        let mut record = vec![22, 3, 1, 0, len(&message)];
        record.extend(message);
        record
    }
}
