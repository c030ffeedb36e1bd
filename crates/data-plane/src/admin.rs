//! The admin interface: readiness, names and versions of the config, metrics. On a thread of its own, so that a slow
//! scrape never stalls traffic.
//!
//! `GET /ready`, `GET /config_dump`, `GET /stats/prometheus` (as Envoy) and `GET /metrics`. It changes nothing and
//! shows no keys: those are not in the config.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use meshwork_http1 as http1;
use meshwork_model::proxy::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::limits::{ACCEPT_PAUSE, ADMIN_CONNECTIONS, ADMIN_HEAD_BYTES, ADMIN_REQUEST};
use crate::proxy::State;

/// The running interface; it ends when this is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

/// What is answered.
struct Page {
    status: u16,
    media_type: &'static [u8],
    text: String,
}

impl Server {
    /// Binds and starts.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn start(address: SocketAddr, state: Arc<State>) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    error = serve(socket, state) => warn!(?error, "the admin interface ended"),
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, _stop: stop })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(socket: std::net::TcpListener, state: Arc<State>) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = socket.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            match timeout(ADMIN_REQUEST, answer(stream, &state)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "admin request failed"),
                Err(_) => debug!("admin request took too long"),
            }
            drop(place);
        });
    }
    Ok(())
}

/// Answers one request and closes.
async fn answer(mut stream: TcpStream, state: &State) -> io::Result<()> {
    let limits = http1::Limits {
        head_bytes: u32::try_from(ADMIN_HEAD_BYTES).unwrap_or(u32::MAX),
        ..http1::Limits::default()
    };
    let (mut bytes, mut fields) = (Vec::new(), Vec::new());
    let page = loop {
        match http1::parse_request(&bytes, &mut fields, &limits) {
            Ok(Some(request)) => {
                break page(state, request.method.of(&bytes), request.path_and_query(&bytes));
            }
            Ok(None) => {}
            Err(error) => break Page::text(error.status(), format!("{error}\n")),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let mut out = Vec::new();
    let line = http1::StatusLine { status: page.status, to: http1::RequestKind::Other };
    let head = [(&b"content-type"[..], page.media_type)];
    let length = http1::Framing::Length(page.text.len() as u64);
    http1::write_response_head(&mut out, line, head, length, http1::Connection::Close)
        .map_err(io::Error::other)?;
    out.extend_from_slice(page.text.as_bytes());
    stream.write_all(&out).await?;
    stream.shutdown().await
}

fn page(state: &State, method: &[u8], path: &[u8]) -> Page {
    if method != b"GET" {
        return Page::text(405, "only GET is answered\n".into());
    }
    let path = path.split(|b| *b == b'?').next().unwrap_or_default();
    match path {
        b"/ready" if state.is_ready() => Page::text(200, "ready\n".into()),
        b"/ready" => Page::text(503, "not ready: config is on its way, or draining\n".into()),
        b"/stats/prometheus" | b"/metrics" => Page {
            status: 200,
            media_type: b"text/plain; version=0.0.4; charset=utf-8",
            text: state.registry.prometheus_text(),
        },
        b"/config_dump" => {
            Page { status: 200, media_type: b"application/json", text: state.with_resources(dump) }
        }
        _ => Page::text(404, "/ready /config_dump /stats/prometheus /metrics\n".into()),
    }
}

impl Page {
    fn text(status: u16, text: String) -> Self {
        Self { status, media_type: b"text/plain; charset=utf-8", text }
    }
}

/// Names and versions, by kind.
fn dump(version: u64, resources: &mut dyn Iterator<Item = (Kind, &str, &str)>) -> String {
    let mut text = format!("{{\"version\":{version},\"resources\":[");
    for (at, (kind, name, version)) in resources.enumerate() {
        let separator = if at == 0 { "" } else { "," };
        let kind = match kind {
            Kind::Cluster => "cluster",
            Kind::Endpoints => "endpoints",
            Kind::Listener => "listener",
            Kind::Routes => "routes",
        };
        let _ = write!(
            text,
            "{separator}\n{{\"kind\":\"{kind}\",\"name\":{},\"version\":{}}}",
            quoted(name),
            quoted(version)
        );
    }
    text.push_str("\n]}\n");
    text
}

/// A JSON string. Source: RFC 8259 §7.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_json_whatever_the_names() {
        let resources = [(Kind::Cluster, "a\"\\\n", "1"), (Kind::Routes, "r", "")];
        let text = dump(3, &mut resources.into_iter());
        assert_eq!(
            text,
            "{\"version\":3,\"resources\":[\
             \n{\"kind\":\"cluster\",\"name\":\"a\\\"\\\\\\u000a\",\"version\":\"1\"},\
             \n{\"kind\":\"routes\",\"name\":\"r\",\"version\":\"\"}\n]}\n"
        );
    }
}
