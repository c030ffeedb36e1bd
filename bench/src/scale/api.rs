//! The control plane's API, as `meshwork apply` calls it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) struct Api {
    address: SocketAddr,
    token: String,
}

impl Api {
    pub(super) fn new(address: SocketAddr, state: &Path) -> anyhow::Result<Self> {
        let token = std::fs::read_to_string(state.join("api.token")).context("the API's token")?;
        Ok(Self { address, token: token.trim().to_owned() })
    }

    /// Writes resources, and returns when the control plane has taken them.
    pub(super) async fn apply(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let body = json!({"sources": [{"name": name, "text": text}], "note": ""}).to_string();
        let head = format!(
            "POST /apis/meshwork.dev/v1alpha1/apply HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            self.token,
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let is_good = answer.starts_with("HTTP/1.1 200");
        let start: String = answer.chars().take(1000).collect();
        ensure!(is_good, "{name} is not applied: {start}");
        Ok(())
    }
}
