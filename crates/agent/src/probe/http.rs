//! One GET, of whose answer only the status counts.

use std::pin::pin;

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of the answer's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Bytes of its body that are read, so that a program which has little to say can say it. Source: Kubernetes, 10 KiB.
const BODY_BYTES: usize = 10 * 1024;

/// Whether it is answered with 200 to 399; either way in words.
pub(super) async fn ask<S>(stream: S, port: u16, path: &str) -> Result<String, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |what: &dyn std::fmt::Display| format!("http:{port}{path}: {what}");
    let request = Request::get(path)
        .header("host", format!("localhost:{port}"))
        .header("user-agent", concat!("meshwork-probe/", env!("CARGO_PKG_VERSION")))
        .header("accept", "*/*")
        .header("connection", "close")
        .body(String::new())
        .map_err(|error| told(&error))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let exchange = pin!(async {
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        let status = response.status();
        drain(response.into_body()).await;
        let said = told(&format_args!("it says {status}"));
        if status.is_success() || status.is_redirection() { Ok(said) } else { Err(said) }
    });
    // The connection ends with its last byte, which the exchange then still has to take.
    let connection = pin!(async {
        let _ = connection.await;
        std::future::pending().await
    });
    tokio::select! {
        answer = exchange => answer,
        never = connection => never,
    }
}

/// How the body ends says nothing that the status has not said.
async fn drain(mut body: Incoming) {
    let mut left = BODY_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length >= left {
            return;
        }
        left -= length;
    }
}
