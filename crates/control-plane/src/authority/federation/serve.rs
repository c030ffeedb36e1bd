//! Our bundle endpoint: whoever asks gets our own bundle, and nothing else. It is public; who we are we prove by our SVID.
//!
//! Source: SPIFFE Federation §5.2.2, `https_spiffe`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use meshwork_identity::ClientCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::super::Authority;
use crate::limits::{ACCEPT_PAUSE, BUNDLE_CONNECTION};
use crate::room::{Rooms, source};

/// Serves for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, authority: Arc<Authority>, rooms: Arc<Rooms>) {
    authority.federation.is_served.store(true, Ordering::Relaxed);
    let config = authority.identity().server_config(&[b"http/1.1"], ClientCertificate::None);
    let acceptor = TlsAcceptor::from(config);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Who finds none is closed at once.
        let Some(place) = rooms.bundle.enter(source(peer)) else { continue };
        let (acceptor, authority, rooms) = (acceptor.clone(), Arc::clone(&authority), Arc::clone(&rooms));
        tokio::spawn(async move {
            let answered = tokio::select! {
                answered = timeout(BUNDLE_CONNECTION, answer(stream, &acceptor, &authority)) => answered,
                () = place.displaced() => return,
            };
            match answered {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, error, "a client of the bundle endpoint is gone"),
                Err(_) => {
                    rooms.note_overdue();
                    debug!(%peer, "a client of the bundle endpoint took too long");
                }
            }
        });
    }
}

async fn answer(stream: TcpStream, acceptor: &TlsAcceptor, authority: &Arc<Authority>) -> Result<(), String> {
    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(respond(&request, authority).await) });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(BUNDLE_CONNECTION)
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
