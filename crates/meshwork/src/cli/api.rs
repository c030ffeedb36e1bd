//! Asking the control plane's API: by its Unix socket, or by HTTP.
//!
//! One connection a request, a deadline, a limit. What the server refuses comes as a [`Refused`], which says what to do.

use std::fmt::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::folders;

/// Where the API is, unless something else is said and no socket is there.
const LOOPBACK: &str = "127.0.0.1:15040";
/// The socket's name in the control plane's state folder.
const SOCKET: &str = "api.sock";
/// How long an answer may take: a large config is read and translated whole before one comes.
const DEADLINE: Duration = Duration::from_mins(1);
/// The largest answer: a large mesh's config, before and after.
const MAX_BYTES: usize = 256 << 20;
/// The longest line of a watch: one resource.
const MAX_LINE_BYTES: usize = 16 << 20;
/// The resources of the mesh's own group.
pub(crate) const OWN: &str = "/apis/meshwork.dev/v1alpha1";

/// Where the control plane's API answers.
#[derive(clap::Args)]
pub(crate) struct Api {
    /// Where the control plane's API answers: unix:PATH or http://HOST:PORT; where it is left out, the socket in your
    /// default state folder where there is one, else `http://127.0.0.1:15040`
    #[arg(long = "api", value_name = "URL", env = "MESHWORK_API")]
    url: Option<String>,

    /// A token, for changes by HTTP; the Unix socket needs none
    #[arg(long, value_name = "TOKEN", env = "MESHWORK_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// A file with the token, such as api.token in the control plane's state folder
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Asks the API.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    place: Place,
    token: Option<String>,
}

/// What the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    message: String,
    /// The config's problems, as the API tells them, where it is the config that was refused.
    pub(crate) problems: Vec<Value>,
}

impl Api {
    /// Finds whom to ask.
    ///
    /// # Errors
    /// `--api` is no such address, or the token's file cannot be read.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let place = match &self.url {
            Some(text) => parse(text)?,
            None => default_socket().map_or_else(|| Place::Tcp(LOOPBACK.to_owned()), Place::Unix),
        };
        let token = match &self.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                Some(text.with_context(|| format!("cannot read the token in {}", file.display()))?)
            }
            None => self.token.clone(),
        };
        Ok(Client { place, token: token.map(|token| token.trim().to_owned()) })
    }

    /// GETs a path; gives the answer's text.
    ///
    /// # Errors
    /// Nobody answers there, or not with 200.
    pub(crate) async fn fetch(&self, path: &str) -> anyhow::Result<String> {
        self.client()?.text(path).await
    }
}

fn parse(text: &str) -> anyhow::Result<Place> {
    let expected = "expected unix:/path/api.sock or http://127.0.0.1:15040";
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Place::Unix(PathBuf::from(path.trim_start_matches("//"))));
    }
    if text.starts_with("https://") {
        bail!("{text:?}: the API speaks HTTP on loopback, and over a Unix socket; {expected}");
    }
    let host = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(Place::Tcp(host.to_owned()))
        }
        _ => bail!("{text:?} is not the address of a control plane's API; {expected}"),
    }
}

/// The socket of a control plane with the default state folder, where it is ours: another's could be a trap.
fn default_socket() -> Option<PathBuf> {
    let path = folders::control_plane().ok()?.join(SOCKET);
    is_ours(&path).then_some(path)
}

fn is_ours(path: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket() && m.uid() == ours)
}

impl Client {
    /// GETs a path's JSON.
    ///
    /// # Errors
    /// Nobody answers in time, or not with success.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.text(path).await?)?)
    }

    /// GETs a path's text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn text(&self, path: &str) -> anyhow::Result<String> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// POSTs JSON, and gives the answer's.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let text = self.exchange(Method::POST, path, serde_json::to_vec(body)?.into()).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// DELETEs what is at a path, and gives the answer's JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.exchange(Method::DELETE, path, Bytes::new()).await?)?)
    }

    /// Hands over each line of a watch, until the server ends it.
    ///
    /// # Errors
    /// Nobody answers, the stream breaks, or a line cannot be handled.
    pub(crate) async fn watch(
        &self,
        path: &str,
        mut each: impl FnMut(Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        if !answer.status().is_success() {
            return Err(self.refused(answer).await);
        }
        let mut body = answer.into_body();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if line.len() > 1 {
                    each(serde_json::from_slice(&line)?)?;
                }
            }
            if rest.len() > MAX_LINE_BYTES {
                bail!("the watch sent a line of more than {MAX_LINE_BYTES} bytes");
            }
        }
        Ok(())
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<String> {
        let exchange = async {
            let answer = self.send(method, path, body).await?;
            if !answer.status().is_success() {
                return Err(self.refused(answer).await);
            }
            text_of(answer).await
        };
        let late = || format!("{self} gave no answer within {} s", DEADLINE.as_secs());
        tokio::time::timeout(DEADLINE, exchange).await.with_context(late)?
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let cannot = || format!("no control plane answers on {self}; start one, or say where it is by --api");
        match &self.place {
            Place::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.with_context(cannot)?;
                self.send_on(stream, "localhost", method, path, body).await
            }
            Place::Tcp(host) => {
                let stream = TcpStream::connect(host).await.with_context(cannot)?;
                self.send_on(stream, host, method, path, body).await
            }
        }
    }

    async fn send_on(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the answer; what is wrong with it the answer says, too.
        tokio::spawn(async { drop(connection.await) });
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    async fn refused(&self, answer: Response<Incoming>) -> anyhow::Error {
        let status = answer.status();
        let text = text_of(answer).await.unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let said = [&value["error"], &value["message"]].into_iter().find_map(Value::as_str);
        let message = self.words(status, said.unwrap_or_else(|| text.trim()));
        let problems = value["problems"].as_array().cloned().unwrap_or_default();
        anyhow::Error::new(Refused { status, message, problems })
    }

    /// Whether nothing says who asks.
    fn is_nobody(&self) -> bool {
        self.token.is_none() && matches!(self.place, Place::Tcp(_))
    }

    /// What a refusal comes to, and what to do.
    fn words(&self, status: StatusCode, said: &str) -> String {
        match status {
            StatusCode::UNAUTHORIZED if self.token.is_some() => {
                format!("{self} does not know this token; the right one is in api.token of its state folder")
            }
            // Who comes by HTTP without one may read.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.is_nobody() => format!(
                "{self} takes this only with a token; on the control plane's host use its socket: --api \
                 unix:STATE/{SOCKET}, or hand in the token: --token-file STATE/api.token (STATE is its --state)"
            ),
            StatusCode::FORBIDDEN => format!("this is not allowed: {said}"),
            StatusCode::UNPROCESSABLE_ENTITY if said.starts_with('{') || said.is_empty() => {
                "the config has errors; nothing was changed".to_owned()
            }
            _ if said.is_empty() => format!("{self} answers {status}"),
            _ => said.to_owned(),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
            Place::Tcp(host) => write!(f, "http://{host}"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

/// A value as it stands in a path or a query. Source: RFC 3986 §2.1, §2.3.
pub(crate) fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

async fn text_of(answer: Response<Incoming>) -> anyhow::Result<String> {
    let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error)).context("the answer broke off")?;
    Ok(String::from_utf8(body.to_bytes().into())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn addresses_are_sockets_and_urls() {
        let check = |text: &str, expected: Option<Place>| assert_eq!(parse(text).ok(), expected, "{text}");
        check("unix:/run/api.sock", Some(Place::Unix("/run/api.sock".into())));
        check("unix:///run/api.sock", Some(Place::Unix("/run/api.sock".into())));
        check("http://127.0.0.1:15040/", Some(Place::Tcp("127.0.0.1:15040".to_owned())));
        check("localhost:15040", Some(Place::Tcp("localhost:15040".to_owned())));
        check("http://127.0.0.1", None);
        check("https://mesh:443", None);
        check("", None);
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(encoded("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(encoded("spiffe://a/b"), "spiffe%3A%2F%2Fa%2Fb");
        assert_eq!(encoded("a b&c=d#ä"), "a%20b%26c%3Dd%23%C3%A4");
    }

    /// A server that answers one request so, and gives what it was asked.
    async fn answer_once(answer: &'static str) -> (Client, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = Place::Tcp(listener.local_addr().expect("an address").to_string());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut bytes = vec![0; 4096];
            let n = stream.read(&mut bytes).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("taken");
            String::from_utf8_lossy(&bytes[..n]).into_owned()
        });
        (Client { place, token: Some("secret".to_owned()) }, asked)
    }

    #[tokio::test]
    async fn an_answer_is_json_and_the_token_is_sent() {
        let (client, asked) =
            answer_once("HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"revision\":1}").await;
        assert_eq!(client.get("/x").await.expect("an answer")["revision"], 1);
        assert!(asked.await.expect("asked").contains("authorization: Bearer secret"));
    }

    #[tokio::test]
    async fn a_refusal_carries_its_problems() {
        let body = "HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 37\r\n\r\n{\"problems\":[{\"message\":\"a b c de\"}]}";
        let (client, _asked) = answer_once(body).await;
        let error = client.post("/x", &serde_json::json!({})).await.expect_err("refused");
        let refused = error.downcast_ref::<Refused>().expect("a refusal");
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.problems.len(), 1);
        assert!(refused.to_string().contains("nothing was changed"), "{refused}");
    }

    #[tokio::test]
    async fn a_missing_token_is_told_with_what_to_do() {
        let (mut client, _asked) =
            answer_once("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
        client.token = None;
        let error = client.post("/x", &serde_json::json!({})).await.expect_err("refused").to_string();
        assert!(error.contains("--token-file") && error.contains("unix:STATE/api.sock"), "{error}");
    }

    #[tokio::test]
    async fn a_watch_hands_over_each_line() {
        let (client, _asked) =
            answer_once("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"a\":1}\n\n{\"a\":2}\n").await;
        let mut seen = Vec::new();
        let watched = client.watch("/x", |value| {
            seen.push(value["a"].as_i64());
            Ok(())
        });
        watched.await.expect("watched");
        assert_eq!(seen, [Some(1), Some(2)]);
    }
}
