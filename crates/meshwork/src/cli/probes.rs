//! Whether the program of a sidecar is well: asked by probes, told to the control plane and to the supervisor.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwork_agent::probe::{self, Check, Kind, Probe, Program, Status};
use meshwork_capture::{Supervisor, wire};
use meshwork_data_plane::WorkloadNetwork;
use meshwork_xds::client::Health;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::sync::watch::{Receiver, Sender};

/// How the program is asked whether it is well.
#[derive(clap::Args)]
pub(super) struct Probes {
    /// When the program takes requests: `http:PORT/PATH`, `tcp:PORT` or `exec:COMMAND`, with `,every=10s`,
    /// `,timeout=1s`, `,failures=3`, `,successes=1`, `,delay=0s` as needed; until then, and whenever it does not, nobody is sent to it
    #[arg(long, value_name = "PROBE")]
    readiness: Option<Probe>,

    /// Whether the program is alive: written as --readiness; `meshwork run` starts one anew that is not
    #[arg(long, value_name = "PROBE")]
    liveness: Option<Probe>,
}

/// A program that is asked.
#[derive(Clone)]
pub(super) enum Probed {
    /// One that shares this process's network.
    Beside,
    /// One in a network of its own, and whoever runs commands there.
    Captured(WorkloadNetwork, Arc<Commands>),
}

/// Commands that somebody else runs, and those who wait for how they end.
pub(super) struct Commands {
    supervisor: Arc<Supervisor>,
    next: AtomicU64,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Option<String>>>>>,
}

impl Probes {
    /// Whether a workload is not ready before its program has said so.
    pub(super) fn gate(&self) -> bool {
        self.readiness.is_some()
    }

    /// What this process starts programs for; a supervisor, where there is one, does that.
    pub(super) fn programs(&self) -> Option<&'static str> {
        let is_command = |probe: &Option<Probe>| {
            probe.as_ref().is_some_and(|probe| matches!(probe.check, Check::Exec { .. }))
        };
        let is_supervised = std::env::var_os(meshwork_capture::VARIABLE).is_some();
        let starts = !is_supervised && (is_command(&self.readiness) || is_command(&self.liveness));
        starts.then_some("probes by command")
    }

    /// Asks for ever: what readiness says goes to `health`, and `unwell` is called when the program is found dead.
    pub(super) async fn run(
        self,
        program: Probed,
        health: &Sender<Option<Health>>,
        unwell: impl Fn(&str),
    ) -> Infallible {
        let readiness =
            watch(Kind::Readiness, self.readiness, program.clone(), |status| tell(health, status));
        let liveness = watch(Kind::Liveness, self.liveness, program, |status| {
            if !status.well {
                unwell(&status.reason);
            }
        });
        tokio::select! {
            never = readiness => never,
            never = liveness => never,
        }
    }
}

/// Asks for ever, where there is a probe, and calls with what is known of the program.
async fn watch(kind: Kind, probe: Option<Probe>, program: Probed, note: impl Fn(&Status)) -> Infallible {
    let Some(probe) = probe else { return std::future::pending().await };
    let (status, asking) = probe::watch(kind, probe, program);
    tokio::select! {
        never = asking => never,
        never = follow(status, note) => never,
    }
}

/// Calls with each status, the first one included.
async fn follow(mut status: Receiver<Status>, note: impl Fn(&Status)) -> Infallible {
    loop {
        note(&status.borrow_and_update());
        if status.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Tells the control plane, but for a workload that has said that it leaves.
fn tell(health: &Sender<Option<Health>>, status: &Status) {
    health.send_if_modified(|health| {
        if *health == Some(Health::Leaving) {
            return false;
        }
        *health =
            Some(if status.well { Health::Ready } else { Health::Unready(status.reason.as_str().into()) });
        true
    });
}

impl Program for Probed {
    type Stream = TcpStream;

    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match self {
            Self::Beside => TcpStream::connect(address).await,
            Self::Captured(network, _) => network.connect(address).await,
        }
    }

    async fn run(&self, command: Vec<String>, timeout: Duration) -> Result<(), String> {
        match self {
            Self::Beside => run_here(&command, timeout).await,
            Self::Captured(_, commands) => commands.run(command, timeout).await,
        }
    }
}

async fn run_here(command: &[String], timeout: Duration) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("there is no command")?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let ended = tokio::time::timeout(timeout, command.kill_on_drop(true).status()).await;
    match ended.map_err(|_| format!("did not end within {timeout:?}"))? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ended with {status}")),
        Err(error) => Err(format!("cannot be run: {error}")),
    }
}

// === impl Commands ===

impl Commands {
    /// Has a supervisor run them, and begins to hear it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn of_supervisor(supervisor: Arc<Supervisor>) -> io::Result<Arc<Self>> {
        let stream = supervisor.stream()?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let commands = Arc::new(Self { supervisor, next: AtomicU64::new(0), waiting: Arc::default() });
        tokio::spawn(hear(stream, Arc::downgrade(&commands)));
        Ok(commands)
    }

    async fn run(&self, command: Vec<String>, timeout: Duration) -> Result<(), String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tell);
        let _forget = Forget { commands: self, id };
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let probe = wire::Probe { id, command, timeout_ms };
        self.supervisor.tell(&wire::FromSidecar::Probe(probe)).map_err(|e| format!("cannot be run: {e}"))?;
        match told.await {
            Ok(None) => Ok(()),
            Ok(Some(failure)) => Err(failure),
            Err(_) => Err("cannot be run: the supervisor is gone".to_owned()),
        }
    }

    fn heard(&self, line: &str) {
        // A line of a newer supervisor is none for us.
        let Ok(wire::ToSidecar::Probed { id, failure }) = serde_json::from_str(line) else { return };
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(tell) = waiting {
            // Who does not wait any more has given its own answer.
            let _ = tell.send(failure);
        }
    }
}

/// Nobody waits for a command any more when this is dropped.
struct Forget<'c> {
    commands: &'c Commands,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.commands.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn hear(stream: UnixStream, commands: std::sync::Weak<Commands>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(commands) = commands.upgrade() else { return };
        commands.heard(&line);
    }
}
