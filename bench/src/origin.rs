//! What stands behind the proxies: nginx for HTTP, an echo of our own for TCP, both on the load's core.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::contender::{Program, config, free_port, listens};
use crate::load::runtime;
use crate::process::{LOAD_CORE, Process};

/// Bytes of the small answer.
pub(crate) const SMALL: usize = 1024;
/// Bytes of the large one.
pub(crate) const LARGE: usize = 1024 * 1024;
/// Bytes that the echo takes at once.
const ECHO_BYTES: usize = 64 * 1024;

/// The origin. It lives as long as this.
pub(crate) struct Origin {
    plain: [u16; 2],
    h2: [u16; 2],
    tls: [u16; 2],
    echo: [u16; 2],
    _nginx: Process,
}

impl Origin {
    /// Starts it, with what it serves below `dir`.
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        let two = || -> anyhow::Result<[u16; 2]> { Ok([free_port()?, free_port()?]) };
        let (plain, h2, tls) = (two()?, two()?, two()?);
        std::fs::create_dir_all(dir.join("www/put"))?;
        std::fs::File::create(dir.join("www/1m"))?.write_all(&vec![b'x'; LARGE])?;
        let mut values = vec![("BODY", "x".repeat(SMALL))];
        let names = ["PLAIN_A", "PLAIN_B", "H2_A", "H2_B", "TLS_A", "TLS_B"];
        for (name, port) in names.into_iter().zip([plain, h2, tls].concat()) {
            values.push((name, port.to_string()));
        }
        let file = config(dir, ("origin.conf", "origin.conf"), &[], &values)?;
        let log = dir.join("origin.log");
        let arguments = ["-c", &file.to_string_lossy()];
        let mut nginx = Process::start(LOAD_CORE, &Program::Nginx.path(), &arguments, &log)?;
        listens(plain[0], &mut nginx)
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())
            .context("the origin does not start")?;
        Ok(Self { plain, h2, tls, echo: [echo()?, echo()?], _nginx: nginx })
    }

    /// The two endpoints for a proxy whose last hop has these flags.
    pub(crate) fn ports(&self, flags: &[&str]) -> [u16; 2] {
        match flags {
            flags if flags.contains(&"tcp") => self.echo,
            flags if flags.contains(&"tls-out") => self.tls,
            flags if flags.contains(&"h2-out") => self.h2,
            _ => self.plain,
        }
    }
}

/// Sends back what it gets, until this program ends. Gives its port.
fn echo() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new().name("echo".to_owned()).spawn(move || -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(send_back(stream));
            }
        })
    })?;
    Ok(port)
}

async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; ECHO_BYTES];
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..got]).await?;
    }
}
