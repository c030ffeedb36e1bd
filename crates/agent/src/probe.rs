//! Whether a program is well, as its operator defines it: HTTP, TCP and command probes.
//!
//! A [`Probe`] is what people write (`http:8080/healthz,every=5s`), [`Health`] is the state machine behind it, and
//! [`watch()`] asks a [`Program`] again and again and tells whoever listens. Readiness and liveness are the same but for where
//! they begin and what their listener does: this module decides nothing about traffic, and ends nothing.
//!
//! Defaults and thresholds are those of Kubernetes' probes, with one difference: until a program has been ready once, it is
//! asked ten times a second at least, so that a start takes no longer than it has to.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

mod http;
mod spec;
#[cfg(test)]
mod tests;

pub use spec::{Check, Probe, ProbeError};

/// How often a program that has not been ready yet is asked at least.
const STARTING: Duration = Duration::from_millis(100);
/// What a command may take longer than its time-out, for whoever runs it to end it and to say so.
const RUNNER_GRACE: Duration = Duration::from_secs(1);

/// A program, wherever it runs: it may live in a network of its own.
pub trait Program: Send + Sync {
    /// A connection to it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to one of its ports.
    fn connect(&self, port: u16) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Runs a command beside it, and ends that when it takes longer than the time-out. `Err` says in words why it failed: its
    /// code, its signal, or that it took too long.
    fn run(&self, command: Vec<String>, timeout: Duration)
    -> impl Future<Output = Result<(), String>> + Send;
}

/// What a probe is for, which says what holds before it has been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whether it takes traffic: not before it says so.
    Readiness,
    /// Whether it is to be started anew: not before it fails.
    Liveness,
}

/// What is known of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Ready, or alive.
    pub well: bool,
    /// Why it is thought so, for people: what the last answer was that counted.
    pub reason: String,
}

/// Thresholds: what the last answers make of a program. Pure.
#[derive(Debug)]
pub struct Health {
    well: bool,
    /// Answers in a row that speak against `well`.
    against: u32,
    failures: u32,
    successes: u32,
}

impl Health {
    /// What holds before the first answer.
    pub fn new(kind: Kind, probe: &Probe) -> Self {
        let (failures, successes) = (probe.failures, probe.successes);
        Self { well: kind == Kind::Liveness, against: 0, failures, successes }
    }

    /// Takes an answer in; says whether the program is well now.
    pub fn observe(&mut self, success: bool) -> bool {
        self.against = if success == self.well { 0 } else { self.against.saturating_add(1) };
        if self.against >= if self.well { self.failures } else { self.successes } {
            self.well = success;
            self.against = 0;
        }
        self.well
    }
}

/// Asks a program again and again, for ever, and tells what is known of it when that changes.
///
/// The future asks; it is for the caller to run it.
///
/// # Cancel safety
///
/// Dropping the future ends the probes, and with them the receiver.
pub fn watch(
    kind: Kind,
    probe: Probe,
    program: impl Program,
) -> (Receiver<Status>, impl Future<Output = Infallible> + Send) {
    let reason = format!("{} has not been asked yet", probe.check);
    let (tell, told) = watch::channel(Status { well: kind == Kind::Liveness, reason });
    (told, ask_for_ever(kind, probe, program, tell))
}

async fn ask_for_ever(kind: Kind, probe: Probe, program: impl Program, tell: Sender<Status>) -> Infallible {
    let mut health = Health::new(kind, &probe);
    let mut starting = kind == Kind::Readiness;
    sleep(probe.delay).await;
    loop {
        let asked = Instant::now();
        let answer = ask(&probe, &program).await;
        let well = health.observe(answer.is_ok());
        starting &= !well;
        if let Err(reason) = &answer {
            debug!("{kind} probe: {reason}");
        }
        tell.send_if_modified(|status| take(status, kind, well, &answer));
        if kind == Kind::Liveness && !well {
            // Whoever listens starts it anew, and it counts as alive until it fails as often again.
            sleep(probe.delay.max(probe.every)).await;
            health = Health::new(kind, &probe);
            tell.send_modify(|status| status.well = true);
            continue;
        }
        let pause = if starting { probe.every.min(STARTING) } else { probe.every };
        sleep_until(asked + pause).await;
    }
}

/// Takes an answer into the status; says whether that is news. An answer that does not count yet is none.
fn take(status: &mut Status, kind: Kind, well: bool, answer: &Result<String, String>) -> bool {
    let turned = status.well != well;
    let (Ok(reason) | Err(reason)) = answer;
    if well != answer.is_ok() || (!turned && status.reason == *reason) {
        return false;
    }
    if turned {
        let (ready, alive) = if well { ("ready", "alive") } else { ("not ready", "not alive") };
        info!("the program is {}: {reason}", if kind == Kind::Readiness { ready } else { alive });
    }
    status.well = well;
    status.reason.clone_from(reason);
    true
}

/// Asks once; either way the answer says in words what there was.
async fn ask(probe: &Probe, program: &impl Program) -> Result<String, String> {
    let connect = async |port| {
        program.connect(port).await.map_err(|error| format!("port {port} cannot be reached: {error}"))
    };
    let late = || Err(format!("{}: no answer within {:?}", probe.check, probe.timeout));
    match &probe.check {
        Check::Tcp { port } => {
            let asked = async { connect(*port).await.map(|_| format!("port {port} takes connections")) };
            timeout(probe.timeout, asked).await.unwrap_or_else(|_| late())
        }
        Check::Http { port, path } => {
            let asked = async { http::ask(connect(*port).await?, *port, path).await };
            timeout(probe.timeout, asked).await.unwrap_or_else(|_| late())
        }
        Check::Exec { .. } => {
            let command = probe.check.command().unwrap_or_default();
            match timeout(probe.timeout + RUNNER_GRACE, program.run(command, probe.timeout)).await {
                Ok(Ok(())) => Ok(format!("{}: code 0", probe.check)),
                Ok(Err(why)) => Err(format!("{}: {why}", probe.check)),
                Err(_) => late(),
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        })
    }
}
