//! Ends of connections that do what our own never would.

use std::net::SocketAddr;
use std::sync::Arc;

use outlast_engine::format::Envelope;
use outlast_shipper::{LINK_VERSION, Pin};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::harness::{anywhere, within};

pub(crate) const ALPN: &[u8] = b"outlast/1";

/// What a rogue shows of itself.
#[derive(Debug)]
pub(crate) struct Papers {
    pub(crate) key: Option<Arc<CertifiedKey>>,
    pub(crate) pin: Pin,
    pub(crate) alpn: Vec<Vec<u8>>,
}

impl Papers {
    /// A key of its own, and a certificate for it made from `params`.
    pub(crate) fn made_from(params: &CertificateParams) -> Self {
        Self::signed_with(params, &KeyPair::generate().unwrap())
    }

    pub(crate) fn new() -> Self {
        Self::made_from(&CertificateParams::default())
    }

    pub(crate) fn signed_with(params: &CertificateParams, key: &KeyPair) -> Self {
        let certificate = params.self_signed(key).unwrap();
        Self::showing(vec![certificate.into()], key)
    }

    /// These certificates, whoever they belong to, with signatures by `key`.
    pub(crate) fn showing(certificates: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signing = rustls::crypto::ring::sign::any_supported_type(&der).unwrap();
        Self {
            key: Some(Arc::new(CertifiedKey::new(certificates, signing))),
            pin: Pin::of(&key.subject_public_key_info()),
            alpn: vec![ALPN.to_vec()],
        }
    }

    pub(crate) fn nothing() -> Self {
        Self {
            key: None,
            ..Self::new()
        }
    }

    pub(crate) fn speaking(mut self, alpn: &[&[u8]]) -> Self {
        self.alpn = alpn.iter().map(|name| name.to_vec()).collect();
        self
    }
}

#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// Lets in whoever comes.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The TLS settings of a rogue that dials; tests spoil them further.
pub(crate) fn client_tls(papers: &Papers) -> rustls::ClientConfig {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(Arc::new(Shown(papers.key.clone())));
    tls.alpn_protocols.clone_from(&papers.alpn);
    tls
}

pub(crate) fn endpoint() -> quinn::Endpoint {
    quinn::Endpoint::client(anywhere()).unwrap()
}

pub(crate) fn connecting(
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
    tls: rustls::ClientConfig,
) -> quinn::Connecting {
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    endpoint.connect_with(config, address, "rogue").unwrap()
}

/// Dials, and if the handshake passes at this end, waits for what the node makes of it.
pub(crate) async fn knock(address: SocketAddr, papers: &Papers) -> ConnectionError {
    let endpoint = endpoint();
    match within(connecting(&endpoint, address, client_tls(papers))).await {
        Ok(connection) => within(connection.closed()).await,
        Err(error) => error,
    }
}

/// A connection that the node has let in, with its stream of messages open on both sides.
pub(crate) struct Inside {
    _endpoint: quinn::Endpoint,
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    _recv: RecvStream,
}

impl Inside {
    pub(crate) async fn enter(address: SocketAddr, papers: &Papers) -> Self {
        let endpoint = endpoint();
        let connection = within(connecting(&endpoint, address, client_tls(papers)))
            .await
            .unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&message(LINK_VERSION, 0, &[]))
            .await
            .unwrap();
        let mut answer = [0; Envelope::HEADER_LEN];
        within(recv.read_exact(&mut answer)).await.unwrap();
        Self {
            _endpoint: endpoint,
            connection,
            send,
            _recv: recv,
        }
    }

    /// Sends a stream of data that consists of these bytes, and returns it unfinished.
    pub(crate) async fn data(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }
}

/// A message as links have them, of any version.
pub(crate) fn message(version: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    let envelope = Envelope {
        magic: *b"OLNK",
        version,
        kind,
        len_max: u32::MAX,
    };
    envelope.seal(body)
}

/// The beginning of a stream of data as links have them, of any version.
pub(crate) fn data_header(version: u16, sequence: u64) -> Vec<u8> {
    let envelope = Envelope {
        magic: *b"OLDS",
        version,
        kind: 0,
        len_max: 8,
    };
    envelope.seal(&sequence.to_le_bytes())
}

/// A server that takes everybody and lets the test see what becomes of the first connection.
pub(crate) struct Server {
    endpoint: quinn::Endpoint,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(papers: &Papers) -> Self {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(papers.key.clone())));
        tls.alpn_protocols.clone_from(&papers.alpn);
        // Tempts whoever dials to come back without a whole handshake.
        tls.max_early_data_size = u32::MAX;
        tls.send_tls13_tickets = 4;
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, anywhere()).unwrap();
        Self {
            address: endpoint.local_addr().unwrap(),
            endpoint,
        }
    }

    /// What the next to dial makes of this server.
    pub(crate) async fn verdict(&self) -> ConnectionError {
        let incoming = within(self.endpoint.accept()).await.unwrap();
        match within(async { incoming.await }).await {
            Ok(connection) => within(connection.closed()).await,
            Err(error) => error,
        }
    }
}
