//! One GET over TLS, of a bundle: bounded in time and length, without redirects and without a proxy.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use meshwork_identity::{Bundle, Revocations, SpiffeId, Trust, anonymous_client_config, context};
use meshwork_model::mesh::KeyUrl;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::ingest::federation::MAX_BUNDLE_BYTES;
use crate::translate::under_system_roots;

/// How long connecting to one address may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long all of it may take.
const WHOLE: Duration = Duration::from_secs(30);
/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 8;
/// Where systems keep the authorities that they trust: Debian, Alpine and Arch; Fedora; FreeBSD and others.
const SYSTEM_ROOTS: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Whoever proves this identity under that bundle, and is not revoked here. Source: SPIFFE Federation §5.2.2,
/// `https_spiffe`.
pub(super) fn by_identity(bundle: &Bundle, revoked: &Revocations, id: &SpiffeId) -> Arc<ClientConfig> {
    let trust = Trust::new(bundle.clone()).with_revoked(revoked.clone());
    let mut config = ClientConfig::clone(&anonymous_client_config(trust, id));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Whoever proves to be this host to what the system trusts. Source: SPIFFE Federation §5.2.1, `https_web`.
///
/// # Errors
/// The system trusts nobody.
pub(super) fn by_name(host: &Arc<str>) -> Result<Arc<ClientConfig>, String> {
    let read = |path: &&str| std::fs::read(path).ok();
    let roots = SYSTEM_ROOTS.iter().find_map(read);
    let roots = roots.ok_or_else(|| {
        format!("there is no file of authorities that this system trusts: {SYSTEM_ROOTS:?}")
    })?;
    by_name_under(host, &roots)
}

/// The same, under these roots, PEM.
///
/// # Errors
/// There is none among them.
pub(super) fn by_name_under(host: &Arc<str>, roots: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let client = under_system_roots(host);
    let rules = client.common.validation.as_ref().map(|validation| &*validation.fixed);
    let trust = rules.map(|rules| context::Trust::new(rules, Some(roots))).transpose();
    let trust = trust.map_err(|error| error.to_string())?;
    context::client_config(&client, None, trust.as_ref()).map_err(|error| error.to_string())
}

/// Asks, and waits for the whole text of the answer.
///
/// # Errors
/// In words: nobody was there, or could not prove who it is; the answer is no 200, too long, or no text.
pub(super) async fn get(url: &KeyUrl, tls: Arc<ClientConfig>) -> Result<String, String> {
    let answer = timeout(WHOLE, ask(url, tls)).await;
    answer.unwrap_or_else(|_| Err(format!("{url} did not answer within {} s", WHOLE.as_secs())))
}

async fn ask(url: &KeyUrl, tls: Arc<ClientConfig>) -> Result<String, String> {
    let stream = connect(&url.host, url.port).await?;
    let name =
        ServerName::try_from(url.host.to_string()).map_err(|_| format!("{} is no host's name", url.host))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("{url} cannot be believed: {error}"))?;
    let failed = |error: hyper::Error| format!("{url} answers no HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get(&*url.path)
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("meshwork/", env!("CARGO_PKG_VERSION")))
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(format!(
                    "{url} answers {status}, and redirects are not followed: name where it leads to"
                ));
            }
            status => return Err(format!("{url} answers {status}")),
        }
        let bytes = to_bytes(Body::new(response.into_body()), MAX_BUNDLE_BYTES).await;
        let bytes = bytes
            .map_err(|error| format!("{url} gives no bundle of {MAX_BUNDLE_BYTES} bytes at most: {error}"))?;
        String::from_utf8(bytes.into()).map_err(|_| format!("{url} answers no text"))
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    let mut is_open = true;
    loop {
        tokio::select! {
            answered = &mut exchange => return answered,
            // What was read of the answer is still there.
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| format!("{host} cannot be looked up: {error}"))?;
    let mut last = format!("{host} has no address");
    for address in addresses.take(MAX_ADDRESSES) {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = format!("{host} at {address}: {error}"),
            Err(_) => last = format!("{host} at {address}: no connection within {} s", CONNECT.as_secs()),
        }
    }
    Err(last)
}
