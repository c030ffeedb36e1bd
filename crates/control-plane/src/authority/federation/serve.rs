//! Our bundle endpoint: whoever asks gets our own bundle, and nothing else. It is public; who we are we prove by our SVID.
//!
//! Source: SPIFFE Federation §5.2.2, `https_spiffe`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use meshwork_identity::ClientCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::super::Authority;

/// Connections at once: each asks once a minute or so, and is closed then.
const MAX_CONNECTIONS: usize = 256;
/// How long one connection may last.
const WHOLE: Duration = Duration::from_secs(10);
/// A pause when the process is out of file descriptors: others may close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, authority: Arc<Authority>) {
    authority.federation.is_served.store(true, Ordering::Relaxed);
    let config = authority.identity().server_config(&[b"http/1.1"], ClientCertificate::None);
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (acceptor, authority) = (acceptor.clone(), Arc::clone(&authority));
        tokio::spawn(async move {
            match timeout(WHOLE, answer(stream, &acceptor, &authority)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, error, "a client of the bundle endpoint is gone"),
                Err(_) => debug!(%peer, "a client of the bundle endpoint took too long"),
            }
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, acceptor: &TlsAcceptor, authority: &Arc<Authority>) -> Result<(), String> {
    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(respond(&request, authority).await) });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(WHOLE)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| error.to_string())
}

async fn respond(request: &Request<Incoming>, authority: &Arc<Authority>) -> Response<Body> {
    let status = |status| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/" {
        return status(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let authority = Arc::clone(authority);
    match tokio::task::spawn_blocking(move || authority.own_document()).await {
        Ok(Ok(text)) => {
            let mut response = Response::new(Body::from(text));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        _ => status(StatusCode::SERVICE_UNAVAILABLE),
    }
}
