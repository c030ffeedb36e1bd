//! One GET to a loopback address of the mesh's own APIs: a connection each, a deadline, a limit.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Largest answer: the edges and the diagram of a small mesh have some kilobytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no answer, in words.
#[derive(Debug, thiserror::Error)]
#[error("GET http://{address}{path}: {why}")]
pub struct FetchError {
    address: SocketAddr,
    path: String,
    why: String,
}

/// The text that a path of a mesh's API answers, by HTTP.
///
/// # Errors
/// Nobody answers in time, or not with 200.
///
/// # Cancel safety
/// Safe: the connection is closed, nothing is kept.
pub async fn text(address: SocketAddr, path: &str) -> Result<String, FetchError> {
    let fetched = tokio::time::timeout(DEADLINE, exchange(address, path)).await;
    let checked = match fetched {
        Ok(Ok((StatusCode::OK, body))) => String::from_utf8(body.into()).map_err(|error| error.to_string()),
        Ok(Ok((status, _))) => Err(format!("answered {status}")),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    checked.map_err(|why| FetchError { address, path: path.to_owned(), why })
}

/// The JSON that a path answers.
///
/// # Errors
/// As [`text`], or what is answered is not of the expected shape.
pub(crate) async fn json<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Result<T, FetchError> {
    let text = text(address, path).await?;
    serde_json::from_str(&text).map_err(|error| FetchError {
        address,
        path: path.to_owned(),
        why: error.to_string(),
    })
}

async fn exchange(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request =
        Request::get(path).header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answered = answer.as_mut() => answered,
        // The peer closed; what it sent before is still there to read.
        _ = connection => answer.await,
    }
}
