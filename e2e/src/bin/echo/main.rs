//! A workload that tells what reached it, and asks others for what it is told to.
//!
//! `e2e-echo NAME NAMESPACE PORT…` serves HTTP/1.1, HTTP/2 and gRPC on each port, told apart by what comes first. Each
//! line of its input is a task in JSON ([`client::Task`]); each is answered by a line of JSON.

mod client;
mod server;
mod wire;

use std::io::{BufRead, Write};
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::json;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, namespace, ports @ ..] = arguments.as_slice() else {
        bail!("e2e-echo NAME NAMESPACE PORT…")
    };
    let state = Arc::new(server::State::new(name, namespace));
    let mut listeners = Vec::new();
    for port in ports {
        let listener =
            TcpListener::bind(format!("0.0.0.0:{port}")).with_context(|| format!("port {port}"))?;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    let served = Arc::clone(&state);
    let server = runtime()?;
    std::thread::spawn(move || server.block_on(server::serve(listeners, served)));
    let client = runtime()?;
    let (input, mut output) = (std::io::stdin(), std::io::stdout());
    for line in input.lock().lines() {
        let answer = match serde_json::from_str(&line?) {
            Ok(task) => client.block_on(client::perform(task, &state)),
            Err(error) => json!({ "wrong": error.to_string() }),
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
