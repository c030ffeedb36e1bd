//! The demo's processes: started, watched, started again when they die, and ended.
//!
//! Each process is kept by one task. Its standard input is the demo's lifeline, its output goes to its log, and it
//! leads a process group of its own, so that Ctrl-C on a terminal reaches the demo alone, which ends the others in
//! order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::directory::Directory;
use crate::lifeline::{self, Lifeline};

/// Events that wait to be shown; there are some a second at worst.
const MAX_EVENTS: usize = 256;
/// How soon a process that died is started again, the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long the pause grows while a process keeps dying.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that lived so long starts over with the first pause.
const STABLE: Duration = Duration::from_secs(10);

/// A process to be kept running.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Unique name; its log and its pid file are named so.
    pub(crate) name: String,
    /// The binary's arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Whether the lines of its standard output are [`Event::Line`]s; else they go to its log.
    pub(crate) talks: bool,
}

/// What happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It wrote a line.
    Line {
        /// The process.
        name: String,
        /// Without its end.
        line: String,
    },
    /// It ended, or could not be started, and nobody asked it to.
    Died {
        /// The process.
        name: String,
        /// How, in words.
        how: String,
    },
    /// It was started again.
    Restarted {
        /// The process.
        name: String,
        /// Its new id.
        pid: u32,
    },
}

/// What a keeper is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    Stop,
    Kill,
}

/// The demo's processes. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    orders: BTreeMap<String, watch::Sender<Order>>,
    keepers: JoinSet<()>,
}

/// What all keepers need.
#[derive(Debug)]
struct Shared {
    binary: PathBuf,
    directory: Directory,
    lifeline: Lifeline,
    events: mpsc::Sender<Event>,
}

impl Supervisor {
    /// A supervisor of processes of a binary, and what happens to them.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn new(
        binary: PathBuf,
        directory: Directory,
    ) -> std::io::Result<(Self, mpsc::Receiver<Event>)> {
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let shared = Arc::new(Shared { binary, directory, lifeline: Lifeline::open()?, events });
        Ok((Self { shared, orders: BTreeMap::new(), keepers: JoinSet::new() }, receiver))
    }

    /// Starts a process and keeps it running.
    pub(crate) fn start(&mut self, program: Program) {
        let (order, orders) = watch::channel(Order::Run);
        self.orders.insert(program.name.clone(), order);
        self.keepers.spawn(keep(Arc::clone(&self.shared), program, orders));
    }

    /// Asks a process to end, kills it after `grace`, and returns when it is gone.
    pub(crate) async fn stop(&mut self, name: &str, grace: Duration) {
        if let Some(order) = self.orders.remove(name) {
            end(order, grace).await;
        }
    }

    /// Ends all processes at once, as [`Supervisor::stop`] does one.
    pub(crate) async fn stop_all(&mut self, grace: Duration) {
        let mut ends = JoinSet::new();
        for order in std::mem::take(&mut self.orders).into_values() {
            ends.spawn(end(order, grace));
        }
        ends.join_all().await;
    }

    /// How many processes are kept running.
    pub(crate) fn count(&self) -> usize {
        self.orders.len()
    }
}

/// Sees a process to its end; its keeper lets go of the order then.
async fn end(order: watch::Sender<Order>, grace: Duration) {
    order.send_replace(Order::Stop);
    if tokio::time::timeout(grace, order.closed()).await.is_err() {
        order.send_replace(Order::Kill);
        order.closed().await;
    }
}

/// Keeps a process running until it is told otherwise.
async fn keep(shared: Arc<Shared>, program: Program, mut orders: watch::Receiver<Order>) {
    let (mut pause, mut first) = (FIRST_PAUSE, true);
    loop {
        let started = Instant::now();
        let how = match shared.spawn(&program) {
            Ok(mut child) => {
                if let (Some(pid), false) = (child.id(), first) {
                    shared.tell(Event::Restarted { name: program.name.clone(), pid });
                }
                match shared.run(&program, &mut child, &mut orders).await {
                    Some(status) => in_words(status),
                    None => return,
                }
            }
            Err(error) => format!("cannot be started: {error}"),
        };
        shared.tell(Event::Died { name: program.name.clone(), how });
        first = false;
        if started.elapsed() > STABLE {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ordered(&mut orders, Order::Stop) => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Completes when the order is at least this one; a supervisor that is gone orders to kill.
async fn ordered(orders: &mut watch::Receiver<Order>, least: Order) {
    let _ = orders.wait_for(|order| *order >= least).await;
}

impl Shared {
    fn spawn(&self, program: &Program) -> std::io::Result<Child> {
        let log = self.directory.log(&program.name);
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let stdout = if program.talks { Stdio::piped() } else { Stdio::from(log.try_clone()?) };
        let child = Command::new(&self.binary)
            .args(&program.arguments)
            .env(lifeline::VARIABLE, lifeline::STDIN)
            // Logs are files: escapes would only be in the way.
            .env("NO_COLOR", "1")
            .stdin(self.lifeline.stdin()?)
            .stdout(stdout)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(pid) = child.id() {
            std::fs::write(self.directory.pid(&program.name), format!("{pid}\n"))?;
        }
        Ok(child)
    }

    /// Waits for a process and all that it says; `None` where it was told to end, and did.
    async fn run(
        &self,
        program: &Program,
        child: &mut Child,
        orders: &mut watch::Receiver<Order>,
    ) -> Option<ExitStatus> {
        let (pid, said) = (child.id(), child.stdout.take());
        let listen = self.listen(&program.name, said);
        let stopping = async {
            tokio::select! {
                status = child.wait() => return status.ok(),
                () = ordered(orders, Order::Stop) => {}
            }
            terminate(pid);
            tokio::select! {
                _ = child.wait() => {}
                () = ordered(orders, Order::Kill) => {
                    // Killing fails only where the process is gone already.
                    let _ = child.kill().await;
                }
            }
            None
        };
        tokio::join!(stopping, listen).0
    }

    async fn listen(&self, name: &str, stdout: Option<ChildStdout>) {
        let Some(stdout) = stdout else { return };
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.tell(Event::Line { name: name.to_owned(), line });
        }
    }

    fn tell(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::warn!("more happens than can be shown: {event:?}");
        }
    }
}

/// Asks a process to end. It is not reaped yet, so its id is its own.
fn terminate(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It fails only where the process is gone already.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// How a process ended.
fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests;
