//! Two workloads of a mesh, a load and an origin, each behind its sidecar with mTLS between them: by ports that the
//! programs are told ([`Way::Explicit`]), or each in a network namespace of its own ([`Way::Namespace`]).
//!
//! The sidecars run on the proxies' core, the programs on the load's. What is measured is the CPU of the sidecars, and
//! beside it that of the programs: a part of what capture costs is done by the kernel in their name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::contender::{config, free_port, listens};
use crate::load::remote::{self, Order};
use crate::load::{Done, Load, Request};
use crate::origin::SMALL;
use crate::process::{self, Cpu, LOAD_CORE, PROXY_CORE, Process};

/// The service's port, and the origin's in its own namespace.
const PORT: u16 = 8080;
const NAMESPACE: &str = "bench";
/// How long all of it may take to serve.
const START: Duration = Duration::from_secs(30);
/// The load that shows whether it serves.
const TRY: Duration = Duration::from_millis(50);

const CONFIG: &str = "apiVersion: v1
kind: Service
metadata: { name: origin, namespace: bench }
spec:
  selector: { app: origin }
  ports:
    - { name: http, port: 8080 }
";

/// How programs reach their sidecars.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Explicit,
    Namespace,
}

/// A running mesh.
pub(crate) struct Mesh {
    /// What the load calls.
    target: String,
    loader: PathBuf,
    sidecars: Vec<u32>,
    /// Those in front go first: workloads before the control plane.
    processes: Vec<Process>,
    dir: TempDir,
}

/// What all parts of a mesh's start need.
struct Site<'a> {
    binary: &'a Path,
    dir: &'a Path,
    control_plane: String,
}

impl Mesh {
    /// Starts control plane, sidecars and programs, and waits until requests pass.
    pub(crate) fn start(binary: &Path, dir: &Path, way: Way) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(dir)?;
        let (mut control_plane, address) = control_plane(binary, dir.path())?;
        listens(address, &mut control_plane).context("the control plane")?;
        let site = Site { binary, dir: dir.path(), control_plane: format!("127.0.0.1:{address}") };
        let loader = dir.path().join("loader.socket");
        let (target, sidecars, mut processes) = match way {
            Way::Explicit => site.explicit(&loader)?,
            Way::Namespace => site.namespaces(&loader)?,
        };
        processes.push(control_plane);
        let mut mesh = Self { target, loader, sidecars, processes, dir };
        mesh.serves()?;
        Ok(mesh)
    }

    /// Runs a load from the workload that calls.
    pub(crate) fn run(
        &self,
        load: Load,
        time: Duration,
        ready: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        let Load::Requests { connections, request, tls: false } = load else {
            anyhow::bail!("{load:?} is not for a mesh")
        };
        let is_new = matches!(request, Request::SmallOnNewConnection);
        remote::ask(&self.loader, &Order { target: self.target.clone(), connections, is_new, time }, ready)
    }

    /// CPU time of the sidecars so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        self.sidecars.iter().map(|id| process::cpu(*id)).sum()
    }

    /// CPU time so far of the programs, and of what keeps their namespaces.
    pub(crate) fn programs(&self) -> anyhow::Result<Cpu> {
        let workloads = self.processes.len() - 1;
        let all: BTreeSet<u32> = self.processes[..workloads].iter().flat_map(Process::descendants).collect();
        all.iter().filter(|id| !self.sidecars.contains(id)).map(|id| process::cpu(*id)).sum()
    }

    /// Resident memory of the sidecars, KiB.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<f64> {
        self.sidecars.iter().map(|id| process::memory_kib(*id)).sum()
    }

    fn serves(&mut self) -> anyhow::Result<()> {
        let load = Load::Requests { connections: 1, request: Request::Small, tls: false };
        let start = Instant::now();
        while let Err(error) = self.run(load, TRY, || Ok(())) {
            ensure!(start.elapsed() < START, "{error:#}; {}", self.logs());
            ensure!(!self.processes.iter_mut().any(Process::has_ended), "{error:#}; {}", self.logs());
            std::thread::sleep(TRY);
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        let logs = files.filter(|f| f.path().extension().is_some_and(|e| e == "log"));
        let text = logs.filter_map(|f| std::fs::read_to_string(f.path()).ok());
        text.filter_map(|t| t.lines().last().map(str::to_owned)).collect::<Vec<_>>().join("; ")
    }
}

type Started = (String, Vec<u32>, Vec<Process>);

impl Site<'_> {
    fn explicit(&self, loader: &Path) -> anyhow::Result<Started> {
        let (application, inbound, outbound) = (free_port()?, free_port()?, free_port()?);
        let ports = format!("{PORT}=127.0.0.1:{inbound}>127.0.0.1:{application}");
        let calls = format!("origin.{NAMESPACE}:{PORT}=127.0.0.1:{outbound}");
        let sidecars = [
            self.start(PROXY_CORE, "origin-sidecar", &self.sidecar("origin", ["--inbound", &ports])?)?,
            self.start(PROXY_CORE, "load-sidecar", &self.sidecar("load", ["--outbound", &calls])?)?,
        ];
        let ids = sidecars.iter().map(Process::id).collect();
        let mut processes = vec![
            self.start(LOAD_CORE, "origin", &self.origin(application)?)?,
            self.start(LOAD_CORE, "load", &load(loader)?)?,
        ];
        processes.extend(sidecars);
        Ok((format!("127.0.0.1:{outbound}"), ids, processes))
    }

    fn namespaces(&self, loader: &Path) -> anyhow::Result<Started> {
        let programs = [("origin", self.origin(PORT)?), ("load", load(loader)?)];
        let mut processes = Vec::new();
        for (name, program) in &programs {
            let mut words = self.member("run", name, ["--name", name, "--namespace", NAMESPACE])?;
            let pid = self.dir.join(format!("{name}.pid"));
            words.extend(
                ["--service-account", name, "--sidecar-pid", &pid.to_string_lossy()].map(str::to_owned),
            );
            if *name == "origin" {
                words.extend(["--port".to_owned(), PORT.to_string()]);
            }
            words.extend(["--", "taskset", "-c", &LOAD_CORE.to_string()].map(str::to_owned));
            words.extend_from_slice(program);
            processes.push(self.start(PROXY_CORE, name, &words)?);
        }
        let names = programs.iter().map(|(name, _)| *name);
        let ids = names.zip(&mut processes).map(|(name, run)| self.pid(name, run));
        let ids = ids.collect::<anyhow::Result<_>>()?;
        Ok((format!("origin:{PORT}"), ids, processes))
    }

    /// The sidecar of a workload in a namespace, as soon as it is known.
    fn pid(&self, name: &str, run: &mut Process) -> anyhow::Result<u32> {
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.dir.join(format!("{name}.pid"))).unwrap_or_default();
            if let Ok(id) = text.trim().parse() {
                return Ok(id);
            }
            let log = || std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
            ensure!(start.elapsed() < START && !run.has_ended(), "no sidecar of {name}: {}", log());
            std::thread::sleep(TRY);
        }
    }

    fn sidecar(&self, name: &str, port: [&str; 2]) -> anyhow::Result<Vec<String>> {
        let mut words = self.member("sidecar", name, ["--workload", name, port[0], port[1]])?;
        words.extend(["--admin".to_owned(), format!("127.0.0.1:{}", free_port()?)]);
        Ok(words)
    }

    /// A command that makes a workload a member of the mesh.
    fn member(&self, command: &str, name: &str, own: [&str; 4]) -> anyhow::Result<Vec<String>> {
        let token = self.dir.join(format!("{name}.token"));
        let made = Command::new(self.binary)
            .args([
                "token",
                "create",
                "--namespace",
                NAMESPACE,
                "--service-account",
                name,
                "--workload",
                name,
            ])
            .args(["--label", &format!("app={name}"), "--state"])
            .args([&self.dir.join("state"), Path::new("--out"), &token])
            .status()?;
        ensure!(made.success(), "no token for {name}");
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let mut words = vec![self.binary.to_string_lossy().into_owned(), command.to_owned()];
        words.extend(own.map(str::to_owned));
        let bundle = path("state/bundle.pem");
        let (state, token) = (path(&format!("{name}.state")), token.to_string_lossy().into_owned());
        let member = ["--control-plane", &self.control_plane, "--trust-bundle", &bundle, "--state", &state];
        words.extend(member.map(str::to_owned));
        words.extend(["--token-file", &token, "--workers", "1"].map(str::to_owned));
        Ok(words)
    }

    fn origin(&self, port: u16) -> anyhow::Result<Vec<String>> {
        let values = [("PORT", port.to_string()), ("BODY", "x".repeat(SMALL))];
        let name = ("captured-origin.conf", "origin.conf");
        let file = config(self.dir, name, &[], &values)?.to_string_lossy().into_owned();
        Ok(["/usr/sbin/nginx", "-e", "stderr", "-c", &file].map(str::to_owned).into())
    }

    fn start(&self, core: usize, name: &str, words: &[String]) -> anyhow::Result<Process> {
        let (program, arguments) = words.split_first().context("no program")?;
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Process::start(core, Path::new(program), &arguments, &self.dir.join(format!("{name}.log")))
    }
}

/// The load's program: this one, which takes orders on a socket.
fn load(socket: &Path) -> anyhow::Result<Vec<String>> {
    let own = std::env::current_exe()?;
    Ok(vec![
        own.to_string_lossy().into_owned(),
        "--load-on".to_owned(),
        socket.to_string_lossy().into_owned(),
    ])
}

fn control_plane(binary: &Path, dir: &Path) -> anyhow::Result<(Process, u16)> {
    std::fs::create_dir(dir.join("config"))?;
    std::fs::write(dir.join("config/mesh.yaml"), CONFIG)?;
    let (listen, api) = (free_port()?, free_port()?);
    let [config, state] = ["config", "state"].map(|name| dir.join(name).to_string_lossy().into_owned());
    let (listen_on, api) = (format!("127.0.0.1:{listen}"), format!("127.0.0.1:{api}"));
    let arguments =
        ["control-plane", "--config", &config, "--state", &state, "--listen", &listen_on, "--api", &api];
    Ok((Process::start(LOAD_CORE, binary, &arguments, &dir.join("control-plane.log"))?, listen))
}
