//! A load that runs in another process, which may be in another network: it takes orders on a Unix socket.
//!
//! An order is a line of JSON. The answer is a line when its connections are open, for which it waits to be answered
//! with a line, and a line with what was counted, or why that failed.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use super::{Done, Load, Request, runtime};

/// How much longer than its time an order may take.
const GRACE: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// Host and port.
    pub(crate) target: String,
    pub(crate) connections: usize,
    /// Whether each request has a connection of its own.
    pub(crate) is_new: bool,
    pub(crate) time: Duration,
}

/// Has an order done by whoever listens there; `ready` is called when connections that stay are open.
pub(crate) fn ask(
    socket: &Path,
    order: &Order,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Done> {
    let mut stream = UnixStream::connect(socket).context("no load listens")?;
    stream.set_read_timeout(Some(order.time + GRACE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    writeln!(stream, "{}", serde_json::to_string(order)?)?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    if line.trim() == "ready" {
        ready()?;
        writeln!(stream)?;
        line.clear();
        answers.read_line(&mut line)?;
    }
    let done: Result<Done, String> = serde_json::from_str(&line).context("the load has ended")?;
    done.map_err(|error| anyhow!(error))
}

/// Takes orders, one after the other, until this process is ended.
pub(crate) fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept()?;
        let mut orders = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        orders.read_line(&mut line)?;
        let done = obey(&serde_json::from_str(&line)?, &stream, &mut orders).map_err(|e| format!("{e:#}"));
        writeln!(&stream, "{}", serde_json::to_string(&done)?)?;
    }
}

fn obey(order: &Order, mut stream: &UnixStream, orders: &mut impl BufRead) -> anyhow::Result<Done> {
    let request = if order.is_new { Request::SmallOnNewConnection } else { Request::Small };
    let load = Load::Requests { connections: order.connections, request, tls: false };
    let address = runtime()?.block_on(resolve(&order.target))?;
    load.run(address, order.time, Path::new(""), || {
        writeln!(stream, "ready")?;
        orders.read_line(&mut String::new())?;
        Ok(())
    })
}

async fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(target).await.with_context(|| format!("no address of {target}"))?;
    found.into_iter().find(SocketAddr::is_ipv4).with_context(|| format!("no IPv4 address of {target}"))
}
