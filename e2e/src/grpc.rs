//! A client of gRPC that shows what certificate it is told, for a control plane's port: calls of one message each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version;

use crate::forge::Shown;
use crate::tls;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_mins(1);

/// A connection to a gRPC server.
pub struct Channel {
    runtime: Runtime,
    send: SendRequest<Bytes>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status, by gRPC's numbers; none where the connection failed.
    pub code: Option<u32>,
    /// The server's words, or those of what failed.
    pub words: String,
}

impl Refusal {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self { code: None, words: error.to_string() }
    }
}

impl Channel {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// The handshake fails; of a certificate that is refused one hears at the first call.
    pub fn open(address: SocketAddr, shown: Option<&Shown>) -> Result<Self, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Refusal::broken)?;
        let send = runtime.block_on(within(connect(address, shown)))?;
        Ok(Self { runtime, send })
    }

    /// Calls a method, and gives its answer.
    ///
    /// # Errors
    /// What the server says no with; the connection ends.
    pub fn call<M: Message + Default>(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        message: &impl Message,
    ) -> Result<M, Refusal> {
        let bytes = self.runtime.block_on(within(call(&mut self.send, path, metadata, message)))?;
        let message = bytes.get(5..).ok_or_else(|| Refusal::broken("an answer without a message"))?;
        M::decode(message).map_err(Refusal::broken)
    }
}

async fn within<T>(what: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let timed = tokio::time::timeout(WITHIN, what).await;
    timed.unwrap_or_else(|_| Err(Refusal::broken("no answer in time")))
}

async fn connect(address: SocketAddr, shown: Option<&Shown>) -> Result<SendRequest<Bytes>, Refusal> {
    let stream = TcpStream::connect(address).await.map_err(Refusal::broken)?;
    let config = tls::config(shown, &[b"h2"], &[&version::TLS13], default_provider());
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(Refusal::broken)?;
    let (send, connection) = h2::client::handshake(stream).await.map_err(Refusal::broken)?;
    tokio::spawn(connection);
    Ok(send)
}

async fn call(
    send: &mut SendRequest<Bytes>,
    path: &str,
    metadata: &[(&str, &str)],
    message: &impl Message,
) -> Result<Bytes, Refusal> {
    let mut request = http::Request::post(format!("https://control-plane{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let request = request.body(()).map_err(Refusal::broken)?;
    let mut ready = send.clone().ready().await.map_err(|error| broken(&error))?;
    let (response, mut body) = ready.send_request(request, false).map_err(|error| broken(&error))?;
    body.send_data(framed(message), true).map_err(|error| broken(&error))?;
    let response = response.await.map_err(|error| broken(&error))?;
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| broken(&error))?;
        drop(body.flow_control().release_capacity(chunk.len()));
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(|error| broken(&error))?;
    let fields = trailers.as_ref().filter(|t| t.contains_key("grpc-status")).unwrap_or(&head.headers);
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status").parse() {
        Ok(0) => Ok(bytes.freeze()),
        Ok(code) => Err(Refusal { code: Some(code), words: unescaped(text("grpc-message")) }),
        Err(_) => Err(Refusal::broken(format!("no status: {head:?} {trailers:?}"))),
    }
}

/// What a TLS alert says is in the cause.
fn broken(error: &h2::Error) -> Refusal {
    let cause = error.get_io().map(io::Error::to_string);
    Refusal::broken(cause.unwrap_or_else(|| error.to_string()))
}

fn framed(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(body.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).expect("a small message"));
    frame.put_slice(&body);
    frame.freeze()
}

/// Source: gRPC over HTTP/2, `Status-Message` is percent-encoded.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks for a path by HTTP/2 over mTLS, whatever bytes it has; gives the status.
///
/// # Errors
/// The connection or the stream ends.
pub fn ask_path(address: SocketAddr, shown: &Shown, host: &str, path: &[u8]) -> Result<u16, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Refusal::broken)?.block_on(within(async {
        let mut send = connect(address, Some(shown)).await?;
        let uri = http::Uri::builder().scheme("http").authority(host);
        let uri = uri.path_and_query(path).build().map_err(Refusal::broken)?;
        let request = http::Request::get(uri).body(()).map_err(Refusal::broken)?;
        let (response, _) = send.send_request(request, true).map_err(|error| broken(&error))?;
        Ok(response.await.map_err(|error| broken(&error))?.status().as_u16())
    }))
}
