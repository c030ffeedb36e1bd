//! The proxies under comparison and the origin behind them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process::Process;

/// Who is measured, in the order of a round.
pub(crate) const NAMES: &[&str] = &["meshwork", "envoy", "nginx", "haproxy"];

/// Where the proxies run; load and origin run on the other core.
const PROXY_CORE: u32 = 0;
const OTHER_CORE: u32 = 1;
/// How long a program may take to listen.
const START: Duration = Duration::from_secs(20);

/// A proxy that runs.
pub(crate) struct Contender {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Process,
}

/// The origin: nginx on two ports.
pub(crate) struct Origin {
    /// Its two addresses.
    pub(crate) addresses: [SocketAddr; 2],
    _process: Process,
}

impl Contender {
    /// Starts a proxy in front of the origin.
    pub(crate) fn start(name: &str, dir: &Path, origin: [SocketAddr; 2]) -> anyhow::Result<Self> {
        let address = free()?;
        let (template, program) = match name {
            "meshwork" => ("envoy.yaml", meshwork()?),
            "envoy" => ("envoy.yaml", root().join("target/peers/venv/bin/envoy")),
            "nginx" => ("nginx.conf", PathBuf::from("/usr/sbin/nginx")),
            "haproxy" => ("haproxy.cfg", PathBuf::from("/usr/sbin/haproxy")),
            other => bail!("no proxy is called {other}"),
        };
        let file = write(
            dir,
            name,
            template,
            &[("$LISTEN", address), ("$ADMIN", free()?), ("$A", origin[0]), ("$B", origin[1])],
        )?;
        let file = file.to_string_lossy();
        let arguments: Vec<&str> = match name {
            "meshwork" => vec!["proxy", "-c", &file, "--workers", "1"],
            "envoy" => {
                vec!["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", &file]
            }
            "nginx" => vec!["-c", &file],
            _ => vec!["-db", "-f", &file],
        };
        let log = dir.join(format!("{name}.log"));
        let process = Process::start(PROXY_CORE, &program, &arguments, &log)?;
        listens(address)
            .with_context(|| format!("{name}: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self { address, process })
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.process.cpu()
    }

    /// Resident memory.
    pub(crate) fn memory_mib(&self) -> anyhow::Result<f64> {
        self.process.memory_mib()
    }
}

/// Starts the origin.
pub(crate) fn origin(dir: &Path) -> anyhow::Result<Origin> {
    let addresses = [free()?, free()?];
    let file = write(dir, "origin", "origin.conf", &[("$A", addresses[0]), ("$B", addresses[1])])?;
    let process = Process::start(
        OTHER_CORE,
        Path::new("/usr/sbin/nginx"),
        &["-c", &file.to_string_lossy()],
        &dir.join("origin.log"),
    )?;
    addresses.into_iter().try_for_each(listens)?;
    Ok(Origin { addresses, _process: process })
}

fn write(
    dir: &Path,
    name: &str,
    template: &str,
    addresses: &[(&str, SocketAddr)],
) -> anyhow::Result<PathBuf> {
    let mut text = std::fs::read_to_string(root().join("bench/peers").join(template))?;
    text = text.replace("$DIR", &dir.to_string_lossy());
    for (placeholder, address) in addresses {
        text = text.replace(&format!("{placeholder}_PORT"), &address.port().to_string());
    }
    let path = dir.join(format!("{name}.conf"));
    let path = if template.ends_with("yaml") { path.with_extension("yaml") } else { path };
    std::fs::write(&path, text)?;
    Ok(path)
}

fn meshwork() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("meshwork");
    anyhow::ensure!(path.exists(), "{} is missing: cargo build --profile dist", path.display());
    Ok(path)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn listens(address: SocketAddr) -> anyhow::Result<()> {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        anyhow::ensure!(start.elapsed() < START, "nobody listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
