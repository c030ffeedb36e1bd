//! A client and a server of TLS 1.3 that show what a test gives them, and take whoever is there.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureScheme, StreamOwned, SupportedProtocolVersion, version,
};

use crate::forge::Shown;
use crate::http::{Answer, Connection};

/// What sidecars call each other by.
pub const MESH: &[&[u8]] = &[b"istio-http/1.1", b"istio", b"http/1.1"];

/// How long a peer in such a test may be silent.
const SILENCE: Duration = Duration::from_mins(1);

/// A connection of TLS as a client.
pub type Client = StreamOwned<ClientConnection, TcpStream>;

/// Connects and shakes hands; shows a certificate where there is one.
///
/// # Errors
/// The handshake fails. With TLS 1.3 a server that refuses the client says so only when the client reads.
pub fn connect(address: SocketAddr, shown: Option<&Shown>, alpn: &[&[u8]]) -> io::Result<Client> {
    connect_with(address, config(shown, alpn, &[&version::TLS13], default_provider()))
}

/// The same with a configuration.
///
/// # Errors
/// As [`connect`]'s.
pub fn connect_with(address: SocketAddr, config: ClientConfig) -> io::Result<Client> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = stream;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// A client's configuration that takes every server.
pub fn config(
    shown: Option<&Shown>,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
    provider: CryptoProvider,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("known versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(certified(shown)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Without a look at whether they fit each other and are any good: the other side is the one to find out.
fn certified(shown: &Shown) -> Arc<SingleCertAndKey> {
    let key = default_provider().key_provider.load_private_key(shown.key()).expect("a key");
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(shown.chain.clone(), key)))
}

/// Asks one thing over a connection of its own, and gives the answer, or why there is none.
///
/// # Errors
/// The handshake fails, or the server ends the connection, in words.
pub fn ask(address: SocketAddr, shown: Option<&Shown>, request: &[u8]) -> Result<Answer, String> {
    let exchange = || {
        let mut connection = Connection::over(connect(address, shown, MESH)?);
        connection.send(request)?;
        connection.answer(false)
    };
    exchange().map_err(|error| error.to_string())
}

/// A server of TLS that shows a certificate to everybody, takes every client, and answers whatever comes.
pub struct Server {
    address: SocketAddr,
    shown: Arc<Mutex<Option<Arc<ServerConfig>>>>,
}

impl Server {
    /// Listens; it shows nothing until it is told what.
    pub fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shown: Arc<Mutex<Option<Arc<ServerConfig>>>> = Arc::default();
        let current = Arc::clone(&shown);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let Some(config) = config else { continue };
                std::thread::spawn(move || drop(serve(stream, config, answer)));
            }
        });
        Self { address, shown }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows this on connections from now on.
    pub fn show(&self, shown: &Shown) {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("a known version")
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_cert_resolver(certified(shown));
        config.alpn_protocols = MESH.iter().map(|name| name.to_vec()).collect();
        config.send_tls13_tickets = 0;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, answer: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..n]);
        if bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            bytes.clear();
            stream.write_all(answer)?;
            stream.flush()?;
        }
    }
}

/// Takes everybody who has the key of the certificate that is shown.
#[derive(Debug)]
pub(crate) struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
