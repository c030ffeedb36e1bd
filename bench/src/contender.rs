//! The proxies under comparison: one process, or one for each hop.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::load::{Done, Load};
use crate::mesh::Mesh;
use crate::origin::Origin;
use crate::process::{Cpu, PROXY_CORE, Process};
use crate::scenario::Entry;
use crate::{certificates, template};

/// How long a program may take to listen.
const START: Duration = Duration::from_secs(20);

/// What a contender is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Program {
    Meshwork,
    Envoy,
    Nginx,
    Haproxy,
}

/// A build of ours.
#[derive(Clone, Debug)]
pub(crate) struct Binary {
    /// How results call it.
    pub(crate) label: String,
    pub(crate) path: PathBuf,
}

/// A contender that runs.
pub(crate) struct Contender {
    /// Where its first hop listens.
    pub(crate) address: SocketAddr,
    hops: Vec<Process>,
    /// Where its hops are sidecars.
    mesh: Option<Mesh>,
}

impl Contender {
    /// Starts the hops of an entry in front of the origin, the last one first.
    pub(crate) fn start(entry: &Entry, dir: &Path, origin: &Origin) -> anyhow::Result<Self> {
        if let Some(way) = entry.way {
            let mesh = Some(Mesh::start(&entry.file(), dir, way)?);
            return Ok(Self { address: local(0), hops: Vec::new(), mesh });
        }
        let mut targets = origin.ports(entry.hops.last().context("an entry without hops")?);
        let mut hops = Vec::new();
        for (index, flags) in entry.hops.iter().enumerate().rev() {
            let mut flags = flags.to_vec();
            flags.push(entry.program.name());
            if index + 1 < entry.hops.len() {
                flags.push("one");
            }
            let port = free_port()?;
            hops.push(start(entry, dir, &flags, port, targets)?);
            targets = [port; 2];
        }
        Ok(Self { address: local(targets[0]), hops, mesh: None })
    }

    /// Runs a load against it. `dir` has the TLS material; `ready` is called when connections that stay are open.
    pub(crate) fn run(
        &self,
        load: Load,
        time: Duration,
        dir: &Path,
        ready: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        match &self.mesh {
            Some(mesh) => mesh.run(load, time, ready),
            None => load.run(self.address, time, dir, ready),
        }
    }

    /// CPU time so far of the programs that load and origin are, where they are part of it.
    pub(crate) fn programs(&self) -> anyhow::Result<Option<Cpu>> {
        self.mesh.as_ref().map(Mesh::programs).transpose()
    }

    /// CPU time of all hops so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        match &self.mesh {
            Some(mesh) => mesh.cpu(),
            None => self.hops.iter().map(Process::cpu).sum(),
        }
    }

    /// Resident memory of all hops, KiB.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<f64> {
        match &self.mesh {
            Some(mesh) => mesh.memory_kib(),
            None => self.hops.iter().map(Process::memory_kib).sum(),
        }
    }
}

// === impl Program ===

impl Program {
    /// Its name, which is also the flag of its lines in shared templates.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meshwork => "meshwork",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    fn template(self, flags: &[&str]) -> &'static str {
        match self {
            Self::Meshwork | Self::Envoy if flags.contains(&"sidecar") => "sidecar.yaml",
            Self::Meshwork | Self::Envoy => "envoy.yaml",
            Self::Nginx => "nginx.conf",
            Self::Haproxy => "haproxy.conf",
        }
    }

    /// The program's file; ours comes with the entry.
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Meshwork => PathBuf::from("meshwork"),
            Self::Envoy => root().join("target/peers/venv/bin/envoy"),
            Self::Nginx => PathBuf::from("/usr/sbin/nginx"),
            Self::Haproxy => PathBuf::from("/usr/sbin/haproxy"),
        }
    }
}

// === impl Binary ===

impl Binary {
    /// The build beside this program.
    pub(crate) fn built() -> anyhow::Result<Self> {
        let path = std::env::current_exe()?.with_file_name("meshwork");
        Ok(Self { label: "meshwork".to_owned(), path })
    }
}

impl FromStr for Binary {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = text.split_once('=').unwrap_or(("other", text));
        Ok(Self { label: format!("meshwork {name}"), path: path.into() })
    }
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// A template of `bench/peers`, filled and written.
pub(crate) fn config(
    dir: &Path,
    (template, name): (&str, &str),
    flags: &[&str],
    values: &[(&str, String)],
) -> anyhow::Result<PathBuf> {
    let source = root().join("bench/peers").join(template);
    let text =
        std::fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let mut values = values.to_vec();
    values.push(("DIR", dir.display().to_string()));
    values.push(("ID", certificates::ID.to_owned()));
    values.push(("RULES", rules(flags)));
    let path = dir.join(name);
    std::fs::write(&path, template::render(&text, flags, &values))?;
    Ok(path)
}

/// As many policies as a flag `rules-N` says, one for each path that nobody asks for and a last one that allows the load's.
fn rules(flags: &[&str]) -> String {
    let count = flags.iter().find_map(|flag| flag.strip_prefix("rules-")?.parse::<usize>().ok()).unwrap_or(1);
    let policy = |name: &str, path: &str| {
        let method = r#"{ header: { name: ":method", string_match: { exact: GET } } }"#;
        let path = format!("{{ url_path: {{ path: {{ prefix: {path} }} }} }}");
        format!(
            "{name}: {{ permissions: [{{ and_rules: {{ rules: [{method}, {path}] }} }}], principals: [{{ any: true }}] }}"
        )
    };
    let others = (1..count).map(|at| policy(&format!("p{at:05}"), &format!("/tenants/{at}/")));
    let all: Vec<String> = others.chain([policy("q", "/1k")]).collect();
    format!("{{ {} }}", all.join(", "))
}

/// A port that is free now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens.
pub(crate) fn listens(port: u16, process: &mut Process) -> anyhow::Result<()> {
    let start = Instant::now();
    while TcpStream::connect(local(port)).is_err() {
        ensure!(!process.has_ended(), "it has ended");
        ensure!(start.elapsed() < START, "it does not listen on {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn start(entry: &Entry, dir: &Path, flags: &[&str], port: u16, targets: [u16; 2]) -> anyhow::Result<Process> {
    let values = [
        ("LISTEN", port.to_string()),
        ("ADMIN", free_port()?.to_string()),
        ("A", targets[0].to_string()),
        ("B", targets[1].to_string()),
    ];
    let template = entry.program.template(flags);
    let file = config(dir, (template, &format!("{port}-{template}")), flags, &values)?;
    let mut arguments = arguments(entry.program, dir, flags);
    arguments.push(file.display().to_string());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let log = dir.join(format!("{port}.log"));
    let mut process = Process::start(PROXY_CORE, &entry.file(), &arguments, &log)?;
    listens(port, &mut process)
        .with_context(|| std::fs::read_to_string(&log).unwrap_or_default().trim().to_owned())?;
    Ok(process)
}

/// All arguments before the config's path.
fn arguments(program: Program, dir: &Path, flags: &[&str]) -> Vec<String> {
    let text = match program {
        Program::Meshwork if flags.iter().any(|flag| flag.starts_with("tls")) => format!(
            "proxy --workers 1 --certificate {dir}/chain.pem --private-key {dir}/key.pem \
             --trust-bundle {dir}/bundle.pem -c",
            dir = dir.display()
        ),
        Program::Meshwork => "proxy --workers 1 -c".to_owned(),
        Program::Envoy => "--concurrency 1 --disable-hot-restart --log-level error -c".to_owned(),
        Program::Nginx => "-c".to_owned(),
        Program::Haproxy => "-db -f".to_owned(),
    };
    text.split_whitespace().map(str::to_owned).collect()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
