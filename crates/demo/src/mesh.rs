//! The demo's mesh: brought up in order, looked at, and taken down.

use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use meshwork_hub::Edge;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Mode;
use crate::demo::DemoError;
use crate::directory::Directory;
use crate::fetch::{self, FetchError};
use crate::plan::{Placement, Plan, SHOP, Way, Workload};
use crate::ports::Reservations;
use crate::screen::{Awaited, Screen};
use crate::shop::load;
use crate::supervisor::{Event, Supervisor};
use crate::{commands, hints};

/// How long a component may take to be ready; it takes a second in a release build on an idle machine.
const READY_DEADLINE: Duration = Duration::from_mins(1);
/// How often readiness is asked for.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// Config that does not change for so long has come to rest: it is published at once when a workload comes.
const SETTLED: Duration = Duration::from_millis(50);
/// How long processes may take to end before they are killed; a sidecar drains in this time.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How much longer the load may take to end than its last requests.
const LOAD_GRACE: Duration = Duration::from_secs(2);

/// A mesh of processes.
pub(crate) struct Mesh {
    pub(crate) directory: Directory,
    plan: Plan,
    supervisor: Supervisor,
    events: mpsc::Receiver<Event>,
    /// Held for as long as the processes live.
    _ports: Reservations,
}

/// The answer of `meshwork token create --output json`.
#[derive(Deserialize)]
struct Token {
    token: String,
}

/// What the control plane says of a sidecar, as far as it matters here.
#[derive(Deserialize)]
struct Proxy {
    connected: bool,
    /// Whether it has accepted all that it was given.
    current: bool,
    /// Whether its program takes requests.
    ready: bool,
    /// Of all that it was given.
    version: String,
}

/// The part of a component that answers whether it is ready.
#[derive(Clone, Copy)]
enum Probe {
    /// It listens.
    Listens(SocketAddr),
    /// A path answers 200.
    Answers(SocketAddr, &'static str),
}

impl Mesh {
    /// Makes the folder and reserves the ports; nothing runs yet.
    pub(crate) fn new(asked: Option<&std::path::Path>, mode: Mode) -> Result<Self, DemoError> {
        let directory = Directory::create(asked).map_err(DemoError::Directory)?;
        let mut ports = Reservations::default();
        let binary = std::env::current_exe().map_err(DemoError::Binary)?;
        let plan = Plan::reserve(binary.clone(), mode, &mut ports).map_err(DemoError::Ports)?;
        let (supervisor, events) = Supervisor::new(binary, directory.clone()).map_err(DemoError::Ports)?;
        Ok(Self { directory, plan, supervisor, events, _ports: ports })
    }

    /// Starts everything but the load and returns when all of it is ready.
    pub(crate) async fn start(&mut self, screen: &Screen, since: Instant) -> Result<(), DemoError> {
        let awaited = screen.wait_for(commands::CONTROL_PLANE);
        self.supervisor.start(commands::control_plane(&self.plan, &self.directory));
        let api = self.plan.control_plane.api;
        let ready =
            until_ready(commands::CONTROL_PLANE.to_owned(), vec![Probe::Answers(api, "/api/v1/proxies")]);
        unless_died(&mut self.events, &self.directory, ready).await?;
        screen.ready(awaited, &component("control plane", &format!("API on http://{api}"), since));
        let enrolling = self.write_tokens();
        enrolling.await?;
        self.start_workloads(screen, since).await
    }

    /// Starts the load; its counts come as events.
    pub(crate) fn start_load(&mut self, rate: u32) {
        let load = self.plan.placements.iter().find(|placement| placement.workload.name == commands::LOAD);
        if let Some(placement) = load {
            self.supervisor.start(commands::load(placement, &self.plan, &self.directory, rate));
        }
    }

    /// What happened to a process.
    ///
    /// # Cancel safety
    /// Safe: an event is taken or not.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// What happened and was not told yet.
    pub(crate) fn pending_event(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Ends the load, which finishes what it has begun.
    pub(crate) async fn stop_load(&mut self) {
        self.supervisor.stop(commands::LOAD, load::FINISH + LOAD_GRACE).await;
    }

    /// Ends all processes; returns how many there were.
    pub(crate) async fn stop(&mut self) -> usize {
        let count = self.supervisor.count();
        self.supervisor.stop_all(GRACE).await;
        count
    }

    /// Who calls whom, as the control plane knows it; callers in the order in which traffic meets them.
    pub(crate) fn edges(&self) -> impl Future<Output = Result<Vec<Edge>, FetchError>> + Send + use<> {
        let edges = fetch::json::<Vec<Edge>>(self.plan.control_plane.api, "/api/v1/edges");
        async {
            let mut edges = edges.await?;
            // Strangers, such as a foreign data plane that joined, come last.
            edges.sort_by_key(|edge| {
                SHOP.iter().position(|workload| workload.name == edge.from).unwrap_or(SHOP.len())
            });
            Ok(edges)
        }
    }

    /// The diagram as Mermaid text, from the control plane.
    pub(crate) fn diagram(&self) -> impl Future<Output = Result<String, FetchError>> + Send + use<> {
        fetch::text(self.plan.control_plane.api, "/api/v1/diagram")
    }

    /// What a person can try next.
    pub(crate) fn hints(&self) -> String {
        hints::hints(&self.plan, &self.directory)
    }

    /// Makes a join token for each workload.
    async fn write_tokens(&self) -> Result<(), DemoError> {
        let mut tokens = JoinSet::new();
        for workload in &SHOP {
            let mut command = Command::new(&self.plan.binary);
            command.args(commands::token(workload, &self.directory)).stdin(Stdio::null()).kill_on_drop(true);
            tokens.spawn(async move { (workload, command.output().await) });
        }
        while let Some(joined) = tokens.join_next().await {
            let Ok((workload, output)) = joined else { continue };
            let output = output.map_err(DemoError::Binary)?;
            let token = serde_json::from_slice::<Token>(&output.stdout).map_err(|_| DemoError::Token {
                workload: workload.name,
                why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            })?;
            self.directory.write_token(workload.name, &token.token).map_err(DemoError::Directory)?;
        }
        Ok(())
    }

    async fn start_workloads(&mut self, screen: &Screen, since: Instant) -> Result<(), DemoError> {
        let mut awaited = Vec::new();
        let mut ready = JoinSet::new();
        for (index, placement) in self.plan.placements.iter().enumerate() {
            let programs = commands::programs(placement, &self.plan, &self.directory);
            if programs.is_empty() {
                awaited.push(None);
                continue;
            }
            awaited.push(Some(screen.wait_for(placement.workload.name)));
            for program in programs {
                self.supervisor.start(program);
            }
            let waiting = placement_ready(placement);
            ready.spawn(async move { waiting.await.map(|()| index) });
        }
        let (plan, directory) = (&self.plan, &self.directory);
        let members = ready.len();
        let all = async {
            while let Some(joined) = ready.join_next().await {
                let Ok(index) = joined else { continue };
                let index = index?;
                if let Some(awaited) = awaited[index].take() {
                    show_ready(screen, awaited, &plan.placements[index], since);
                }
            }
            Ok(())
        };
        unless_died(&mut self.events, directory, all).await?;
        let current = until_current(plan.control_plane.api, members);
        unless_died(&mut self.events, directory, current).await
    }
}

/// Completes when all sidecars have accepted what the control plane gave them, and that has come to rest: the first
/// ones were ready before the last ones were there to be called.
async fn until_current(api: SocketAddr, members: usize) -> Result<(), String> {
    let all = async {
        let mut before = None;
        loop {
            let now = fetch::json::<Vec<Proxy>>(api, "/api/v1/proxies").await.ok();
            let now = now.and_then(|proxies| versions(proxies, members));
            if now.is_some() && now == before {
                return;
            }
            before = now;
            tokio::time::sleep(SETTLED).await;
        }
    };
    let late = |_| commands::CONTROL_PLANE.to_owned();
    tokio::time::timeout(READY_DEADLINE, all).await.map_err(late)
}

/// The versions of the config of all sidecars, where as many as are expected are there and up to date.
fn versions(proxies: Vec<Proxy>, members: usize) -> Option<Vec<String>> {
    let current = proxies.len() == members
        && proxies.iter().all(|proxy| proxy.connected && proxy.current && proxy.ready);
    current.then(|| proxies.into_iter().map(|proxy| proxy.version).collect())
}

/// Waits for a sidecar that runs its config and for its program; in a namespace the sidecar's readiness is both.
fn placement_ready(placement: &Placement) -> impl Future<Output = Result<(), String>> + Send + use<> {
    let workload = placement.workload;
    let sidecar = match &placement.way {
        Way::Ports { .. } => commands::sidecar_name(workload),
        Way::Namespace => workload.name.to_owned(),
    };
    let sidecar = until_ready(sidecar, vec![Probe::Answers(placement.admin, "/ready")]);
    let listens = placement.inbound().map(|inbound| Probe::Listens(inbound.application));
    let application = until_ready(workload.name.to_owned(), listens.into_iter().collect());
    async move {
        application.await?;
        sidecar.await
    }
}

fn show_ready(screen: &Screen, awaited: Awaited, placement: &Placement, since: Instant) {
    let Workload { name, app, inbound, .. } = placement.workload;
    let what = match (&placement.way, inbound) {
        (Way::Ports { inbound: Some(inbound), .. }, _) => {
            format!("{app} behind its sidecar on {}", inbound.bind)
        }
        (Way::Ports { .. }, _) => format!("the sidecar of the {app}"),
        (Way::Namespace, Some(port)) => format!("{app} on port {port} of its own namespace"),
        (Way::Namespace, None) => format!("the {app} in its own namespace"),
    };
    screen.ready(awaited, &component(name, &what, since));
}

/// A line of progress.
fn component(name: &str, what: &str, since: Instant) -> String {
    format!("{name:<14}{what:<48}{:>6.2} s", since.elapsed().as_secs_f64())
}

/// Completes when all probes of a process hold; else names the process that was not ready in time.
async fn until_ready(process: String, probes: Vec<Probe>) -> Result<(), String> {
    let all = async {
        for probe in probes {
            while !probe.holds().await {
                tokio::time::sleep(READY_PAUSE).await;
            }
        }
    };
    tokio::time::timeout(READY_DEADLINE, all).await.map_err(|_| process)
}

impl Probe {
    async fn holds(self) -> bool {
        match self {
            Self::Listens(address) => TcpStream::connect(address).await.is_ok(),
            Self::Answers(address, path) => fetch::text(address, path).await.is_ok(),
        }
    }
}

/// Waits for readiness, and gives up at once when a process ends: restarting would not help it.
async fn unless_died(
    events: &mut mpsc::Receiver<Event>,
    directory: &Directory,
    ready: impl Future<Output = Result<(), String>>,
) -> Result<(), DemoError> {
    let died = async {
        while let Some(event) = events.recv().await {
            if let Event::Died { name, how } = event {
                return (name, how);
            }
        }
        std::future::pending().await
    };
    let (name, how) = tokio::select! {
        ready = ready => match ready {
            Ok(()) => return Ok(()),
            Err(name) => (name, format!("was not ready after {} s", READY_DEADLINE.as_secs())),
        },
        died = died => died,
    };
    Err(DemoError::Component { how, log: directory.log(&name), tail: directory.tail(&name), name })
}
