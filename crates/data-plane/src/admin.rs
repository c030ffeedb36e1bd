//! The admin interface, with Envoy's paths: readiness, config, metrics, and a few orders. On a thread of its own, so that
//! a slow scrape never stalls traffic.
//!
//! It has no authentication: it listens on loopback addresses. What changes something is asked for by POST, and not by
//! a page in a browser, which would say so by `Origin`. A page whose own name leads here (DNS rebinding) does not say so,
//! but names that as its host: on loopback no host is answered whose name has a dot. It shows no keys.
//!
//! Source: Envoy, "Administration interface"; what each page shows stands in [`pages`].

mod pages;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use meshwork_http1 as http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::limits::{ACCEPT_PAUSE, ADMIN_CONNECTIONS, ADMIN_HEAD_BYTES, ADMIN_REQUEST};
use crate::proxy::State;

/// The running interface; it ends when this is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

/// What is asked for.
struct Asked<'a> {
    method: &'a [u8],
    /// Path and query.
    path: &'a [u8],
    /// Whether a page in a browser asks.
    by_page: bool,
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

async fn serve(socket: std::net::TcpListener, state: Arc<State>) -> io::Result<Infallible> {
    let socket = TcpListener::from_std(socket)?;
    let mut open = VecDeque::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        open.retain(|task: &AbortHandle| !task.is_finished());
        // Who asks is answered in a moment; who stays silent keeps nobody from asking.
        if open.len() >= ADMIN_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let state = Arc::clone(&state);
        let answering = tokio::spawn(async move {
            match timeout(ADMIN_REQUEST, answer(stream, &state)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "admin request failed"),
                Err(_) => debug!("admin request took too long"),
            }
        });
        open.push_back(answering.abort_handle());
    }
}

/// Answers one request and closes.
async fn answer(mut stream: TcpStream, state: &State) -> io::Result<()> {
    let limits = http1::Limits {
        head_bytes: u32::try_from(ADMIN_HEAD_BYTES).unwrap_or(u32::MAX),
        ..http1::Limits::default()
    };
    let (mut bytes, mut fields) = (Vec::new(), Vec::new());
    let is_loopback = stream.local_addr()?.ip().is_loopback();
    let page = loop {
        match http1::parse_request(&bytes, &mut fields, &limits) {
            Ok(Some(_))
                if is_loopback
                    && fields
                        .iter()
                        .any(|field| names_another(field.name.of(&bytes), field.value.of(&bytes))) =>
            {
                break Page::text(403, "ask for this by an address or localhost\n".into());
            }
            Ok(Some(request)) => {
                let asked = Asked {
                    method: request.method.of(&bytes),
                    path: request.path_and_query(&bytes),
                    by_page: fields.iter().any(|field| field.name.of(&bytes).eq_ignore_ascii_case(b"origin")),
                };
                break pages::page(state, &asked);
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

/// Whether a field says that another host than this one is meant, by a name that strangers could have.
fn names_another(name: &[u8], value: &[u8]) -> bool {
    if !name.eq_ignore_ascii_case(b"host") {
        return false;
    }
    let Ok(host) = std::str::from_utf8(value) else { return true };
    let is_address = host.parse::<SocketAddr>().is_ok()
        || host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    let name = host.split_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    !is_address && name.contains('.') && !name.ends_with(".localhost")
}

impl Page {
    fn text(status: u16, text: String) -> Self {
        Self { status, media_type: b"text/plain; charset=utf-8", text }
    }

    fn json(text: String) -> Self {
        Self { status: 200, media_type: b"application/json", text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_strangers_could_have_are_told_from_ours() {
        for (host, is_another) in [
            ("127.0.0.1:15000", false),
            ("[::1]:15000", false),
            ("::1", false),
            ("localhost:15000", false),
            ("a.localhost", false),
            ("admin", false),
            ("", false),
            ("evil.example", true),
            ("evil.example.:15000", true),
            ("127.0.0.1.evil.example", true),
            ("localhost.evil.example", true),
        ] {
            assert_eq!(names_another(b"Host", host.as_bytes()), is_another, "{host}");
        }
        assert!(names_another(b"host", b"\xff"));
        assert!(!names_another(b"accept", b"evil.example"));
    }
}
