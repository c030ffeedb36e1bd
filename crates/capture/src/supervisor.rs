//! `meshwork run`: the parent of a program's namespaces and of its sidecar.
//!
//! One thread and one loop. It waits for signals, for the first process of the namespaces ([`crate::init`]), for the
//! sidecar, and for times; each of them changes the state by one function here. The program starts when the sidecar is
//! ready, and the sidecar ends when the program has; whatever else dies, nothing of it is left.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use tracing::{error, info, warn};

use crate::descriptors;
use crate::init::{self, Program, timespec};
use crate::namespace::{self, CHILD_NAMESPACES, Entering};
use crate::orders::{Order, Report, Way};
use crate::outcome::Outcome;
use crate::privileges;
use crate::set_up::Plan;
use crate::sidecar::{Recipe, Sidecar, pause};
use crate::signals::{self, Before, Came, Signals};
use crate::sockets::{Held, is_reachable};
use crate::steps::{Missing, Step, Tried};
use crate::terminal::Terminal;
use crate::wire::{FromSidecar, Probe, ToSidecar};

/// After how long without a word from the sidecar its user is told what is waited for.
const NOTICE_AFTER: Duration = Duration::from_secs(2);
/// How long it may take to find out whether the control plane is there.
const REACH: Duration = Duration::from_millis(500);
/// What a sidecar gets beside its time to drain, to tell the control plane and end.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// How long a sidecar gets to end when there is nothing to drain.
const END_TIME: Duration = Duration::from_secs(2);

/// A program, its sidecar, and how long things may take.
#[derive(Clone, Debug)]
pub struct Run {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its variables, beside those of this process.
    pub environment: Vec<(OsString, OsString)>,
    /// The sidecar's program.
    pub sidecar: PathBuf,
    /// The sidecar's arguments.
    pub sidecar_arguments: Vec<OsString>,
    /// A file that names the sidecar's process while there is one.
    pub sidecar_pid: Option<PathBuf>,
    /// How many workers the sidecar has.
    pub workers: usize,
    /// Commands that the sidecar may have run beside the program: those of its probes, each a program and its arguments. It
    /// is closed in, and whoever takes it over is not to find a way out here.
    pub probes: Vec<Vec<String>>,
    /// The mesh's namespace, in which names are looked up first.
    pub namespace: String,
    /// Folders that the program does not see: those of private keys.
    pub hidden: Vec<PathBuf>,
    /// The control plane, to say whether it is there.
    pub control_plane: SocketAddr,
    /// How long the sidecar may take until it is ready for the first time.
    pub ready_timeout: Duration,
    /// How long the program may take to end after it was asked to.
    pub grace: Duration,
    /// How long the sidecar may take to end what has begun.
    pub drain_time: Duration,
    /// The variable that says that standard input is a lifeline: when it ends, so does the program. `None` where it is
    /// the program's own.
    pub lifeline: Option<OsString>,
}

/// Why a program was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system does not allow what it takes.
    #[error(transparent)]
    Missing(#[from] Box<Missing>),
    /// The program could not be started.
    #[error("cannot start {program}: {words}")]
    NotStarted {
        /// Which.
        program: String,
        /// Why.
        words: String,
        /// Whether there is no such program.
        missing: bool,
    },
    /// The sidecar ended before it was ready.
    #[error("the proxy ended before it was ready; what it said stands above")]
    ProxyEnded,
    /// The sidecar was not ready in time.
    #[error(
        "the proxy was not ready within {} s; {hint}, or give it longer by --ready-timeout",
        timeout.as_secs()
    )]
    NotReady {
        /// How long it had.
        timeout: Duration,
        /// What to do.
        hint: String,
    },
    /// The system failed on the way.
    #[error("{doing}")]
    System {
        /// At what.
        doing: &'static str,
        /// How.
        source: io::Error,
    },
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

/// Runs a program in the mesh, to its end. No thread may have been started.
///
/// # Errors
/// The program could not be started, for one of the reasons of [`RunError`]. Nothing is left of it then.
pub fn run(run: &Run) -> Result<Outcome, RunError> {
    let terminal = Terminal::here();
    descriptors::keep_inherited().map_err(failed("cannot close what this process was started with"))?;
    let before = signals::hold().map_err(failed("cannot hold signals back"))?;
    let mut tried = Vec::new();
    let entered = namespace::enter(|step, outcome| {
        tried.push(Tried::new(step.into(), &outcome));
        outcome
    });
    refuse(&tried)?;
    entered.map_err(failed("cannot enter a user namespace"))?;
    let (pid, way) = start_init(run, before)?;
    let mut watch = Watch::new(run, pid, way, before)?;
    let outcome = watch.work();
    watch.end();
    terminal.take_back();
    outcome
}

impl From<Entering> for Step {
    fn from(step: Entering) -> Self {
        match step {
            Entering::Namespace => Self::UserNamespace,
            Entering::Ids => Self::Ids,
        }
    }
}

fn refuse(tried: &[Tried]) -> Result<(), RunError> {
    Missing::first(tried).map_or(Ok(()), |missing| Err(Box::new(missing).into()))
}

fn start_init(run: &Run, before: Before) -> Result<(Pid, Way), RunError> {
    let (ours, theirs) = Way::open().map_err(failed("cannot make a socket"))?;
    let forked = namespace::fork(CHILD_NAMESPACES);
    refuse(&[Tried::new(Step::Namespaces, &forked)])?;
    if let Some(pid) = forked.map_err(failed("cannot fork"))? {
        return Ok((pid, ours));
    }
    drop(ours);
    let plan = Plan { workers: run.workers, namespace: run.namespace.clone(), hidden: run.hidden.clone() };
    let mut environment: BTreeMap<_, _> =
        run.environment.iter().cloned().map(|(name, value)| (name, Some(value))).collect();
    environment.extend(run.lifeline.clone().map(|variable| (variable, None)));
    let program = Program {
        path: run.program.clone(),
        arguments: run.arguments.clone(),
        environment,
        no_input: run.lifeline.is_some(),
    };
    std::process::exit(init::run(theirs, &plan, program, before))
}

/// Where the program is in its life.
#[derive(Debug)]
enum Phase {
    /// It waits for the sidecar.
    Waiting,
    /// It runs.
    Running,
    /// It has ended, or never started; the sidecar ends what has begun.
    Ending(Result<Outcome, RunError>),
}

/// When something is to happen. `None`: never.
#[derive(Debug, Default)]
struct Times {
    notice: Option<Instant>,
    give_up: Option<Instant>,
    start_sidecar: Option<Instant>,
    kill_program: Option<Instant>,
    kill_sidecar: Option<Instant>,
}

impl Times {
    fn next(&self) -> Option<Instant> {
        let all = [self.notice, self.give_up, self.start_sidecar, self.kill_program, self.kill_sidecar];
        all.into_iter().flatten().min()
    }
}

/// Whether a time has come; it is over then.
fn due(time: &mut Option<Instant>, now: Instant) -> bool {
    time.take_if(|time| *time <= now).is_some()
}

struct Watch<'r> {
    run: &'r Run,
    signals: Signals,
    init: Pid,
    way: Way,
    held: Held,
    recipe: Recipe,
    sidecar: Option<Sidecar>,
    /// How often the sidecar has ended since it was ready.
    failures: u32,
    phase: Phase,
    times: Times,
    lifeline: bool,
    /// The workload's own addresses, as the sidecar has named them.
    addresses: Vec<IpAddr>,
    /// Whether the program is started anew when it has ended.
    anew: bool,
    /// Whether the namespace's first process is gone: it says nothing more.
    is_deaf: bool,
}

impl<'r> Watch<'r> {
    fn new(run: &'r Run, init: Pid, way: Way, before: Before) -> Result<Self, RunError> {
        let held = receive_sockets(&way).inspect_err(|_| end_init(init))?;
        let system = || {
            privileges::give_up()?;
            // Where the program sees the host's /proc it must not find the workload's sockets in it.
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            Signals::open()
        };
        let signals =
            system().map_err(failed("cannot give up privileges")).inspect_err(|_| end_init(init))?;
        let recipe = Recipe {
            program: run.sidecar.clone(),
            arguments: run.sidecar_arguments.clone(),
            without: run.lifeline.iter().cloned().collect(),
            before,
        };
        let now = Instant::now();
        let times = Times {
            notice: now.checked_add(NOTICE_AFTER),
            give_up: now.checked_add(run.ready_timeout),
            start_sidecar: Some(now),
            ..Times::default()
        };
        let (phase, lifeline) = (Phase::Waiting, run.lifeline.is_some());
        Ok(Self {
            run,
            signals,
            init,
            way,
            held,
            recipe,
            sidecar: None,
            failures: 0,
            phase,
            times,
            lifeline,
            addresses: Vec::new(),
            anew: false,
            is_deaf: false,
        })
    }

    /// The loop.
    fn work(&mut self) -> Result<Outcome, RunError> {
        loop {
            self.on_times(Instant::now());
            if let Some(outcome) = self.finished() {
                return outcome;
            }
            let [signal, report, word, lifeline] = self.wait().map_err(failed("cannot wait"))?;
            if signal {
                self.on_signals().map_err(failed("cannot read signals"))?;
            }
            if report {
                self.on_report().map_err(failed("cannot hear the namespace's first process"))?;
            }
            if word {
                self.on_words();
            }
            if lifeline {
                self.on_lifeline();
            }
        }
    }

    /// How it all ended, once nothing is left to wait for.
    fn finished(&mut self) -> Option<Result<Outcome, RunError>> {
        if self.sidecar.is_some() || !matches!(self.phase, Phase::Ending(_)) {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Ending(outcome) => Some(outcome),
            Phase::Waiting | Phase::Running => None,
        }
    }

    /// Waits for a signal, a report, a word of the sidecar, or the lifeline's end.
    fn wait(&self) -> io::Result<[bool; 4]> {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let way = (!self.is_deaf).then(|| {
            polled.push(PollFd::new(&self.way, PollFlags::IN));
            polled.len() - 1
        });
        let sidecar = self.sidecar.as_ref().map(|sidecar| {
            polled.push(PollFd::new(sidecar.stream(), PollFlags::IN));
            polled.len() - 1
        });
        let stdin = io::stdin();
        let lifeline = self.lifeline.then(|| {
            polled.push(PollFd::new(&stdin, PollFlags::IN));
            polled.len() - 1
        });
        let timeout = self.times.next().map(|at| timespec(at.saturating_duration_since(Instant::now())));
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, timeout.as_ref()))?;
        let ready = |at: usize| !polled[at].revents().is_empty();
        Ok([ready(0), way.is_some_and(ready), sidecar.is_some_and(ready), lifeline.is_some_and(ready)])
    }

    fn on_times(&mut self, now: Instant) {
        if due(&mut self.times.start_sidecar, now) {
            self.start_sidecar();
        }
        if due(&mut self.times.notice, now) {
            warn!("waiting for {}", self.waited_for());
        }
        if due(&mut self.times.give_up, now) {
            let hint =
                format!("waited for {}: start it, or name another by --control-plane", self.waited_for());
            let error = RunError::NotReady { timeout: self.run.ready_timeout, hint };
            self.ending(Err(error), END_TIME);
        }
        if due(&mut self.times.kill_program, now) {
            warn!("the program did not end within {} s: it is killed", self.run.grace.as_secs());
            self.signal_program(Signal::KILL.as_raw());
        }
        if due(&mut self.times.kill_sidecar, now) {
            self.kill_sidecar();
        }
    }

    fn waited_for(&self) -> String {
        let address = self.run.control_plane;
        if is_reachable(address, REACH) {
            format!("the proxy; the control plane at {address} is there")
        } else {
            format!("the control plane at {address}, which does not answer")
        }
    }

    fn start_sidecar(&mut self) {
        let started = if self.failures > 0 { self.held.renew_stock() } else { Ok(()) };
        match started.and_then(|()| Sidecar::start(&self.recipe, &self.held)) {
            Ok(sidecar) => {
                self.note_pid(&sidecar);
                self.sidecar = Some(sidecar);
            }
            Err(error) => {
                error!(%error, "cannot start the proxy");
                self.start_sidecar_again();
            }
        }
    }

    fn note_pid(&self, sidecar: &Sidecar) {
        let Some(path) = &self.run.sidecar_pid else { return };
        if let Err(error) = fs::write(path, sidecar.id().to_string()) {
            warn!(path = %path.display(), %error, "cannot write down the proxy's process");
        }
    }

    fn start_sidecar_again(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.times.start_sidecar = Instant::now().checked_add(pause(self.failures));
    }

    fn kill_sidecar(&mut self) {
        if let Some(sidecar) = self.sidecar.take() {
            warn!("the proxy is killed: what had begun is broken off");
            sidecar.kill();
        }
    }

    fn on_signals(&mut self) -> io::Result<()> {
        while let Some(came) = self.signals.next()? {
            match Signal::from_named_raw(came.number) {
                Some(Signal::CHILD) => self.on_child()?,
                Some(Signal::TERM) => self.on_terminate(came.number),
                Some(signal @ (Signal::INT | Signal::QUIT | Signal::HUP)) => self.on_key(signal, came),
                _ => self.signal_program(came.number),
            }
        }
        Ok(())
    }

    fn on_terminate(&mut self, number: i32) {
        // Also where it was to be started anew.
        let again = !std::mem::take(&mut self.anew) && self.times.kill_program.is_some();
        match &self.phase {
            Phase::Running if !again => self.ask_to_end(number),
            Phase::Running => self.signal_program(Signal::KILL.as_raw()),
            Phase::Waiting => self.ending(Ok(Outcome::Signal(number)), END_TIME),
            Phase::Ending(_) => self.kill_sidecar(),
        }
    }

    fn ask_to_end(&mut self, number: i32) {
        self.signal_program(number);
        self.times.kill_program = Instant::now().checked_add(self.run.grace);
    }

    /// What a key of the terminal sends, or its loss, reaches the program by itself.
    fn on_key(&mut self, signal: Signal, came: Came) {
        if std::mem::take(&mut self.anew) {
            // Who wants it to end does not want it anew.
            return self.ask_to_end(came.number);
        }
        match &self.phase {
            Phase::Running if came.from_process => self.signal_program(came.number),
            Phase::Running => {}
            Phase::Waiting => self.ending(Ok(Outcome::Signal(came.number)), END_TIME),
            Phase::Ending(_) if signal == Signal::HUP => {}
            Phase::Ending(_) => self.kill_sidecar(),
        }
    }

    fn signal_program(&mut self, number: i32) {
        // A namespace that is gone is told by the kernel.
        let _ = self.way.send(&Order::Signal(number), &[]);
    }

    fn on_child(&mut self) -> io::Result<()> {
        if let Some(sidecar) = &mut self.sidecar
            && let Some(outcome) = sidecar.ended()?
        {
            // What it said last.
            self.on_words();
            self.sidecar = None;
            self.on_sidecar_ended(outcome);
        }
        Ok(())
    }

    fn on_sidecar_ended(&mut self, outcome: Outcome) {
        match &self.phase {
            Phase::Ending(_) => {}
            // Trying again would not help one that has said why it gave up.
            Phase::Waiting
                if matches!(outcome, Outcome::Code(_)) && is_reachable(self.run.control_plane, REACH) =>
            {
                self.ending(Err(RunError::ProxyEnded), END_TIME);
            }
            Phase::Waiting => self.start_sidecar_again(),
            Phase::Running => {
                warn!(?outcome, "the proxy ended; it is started again");
                self.start_sidecar_again();
            }
        }
    }

    fn on_report(&mut self) -> io::Result<()> {
        match self.way.receive::<Report>()? {
            Some((Report::Ended(outcome), _)) if self.anew => self.on_ended_to_start_anew(outcome),
            Some((Report::Ended(outcome), _)) => self.ending(Ok(outcome), self.run.drain_time + DRAIN_MARGIN),
            Some((Report::NotStarted { words, missing }, _)) => {
                let program = self.run.program.display().to_string();
                self.ending(Err(RunError::NotStarted { program, words, missing }), END_TIME);
            }
            Some((Report::Probed { id, failure }, _)) => {
                if let Some(sidecar) = &mut self.sidecar {
                    // One that is gone asks again when it is back.
                    let _ = sidecar.tell(&ToSidecar::Probed { id, failure });
                }
            }
            Some((Report::SetUp { .. }, _)) => {}
            // Killed, with everything in the namespace.
            None => {
                self.is_deaf = true;
                if !matches!(self.phase, Phase::Ending(_)) {
                    self.ending(Ok(Outcome::Signal(Signal::KILL.as_raw())), END_TIME);
                }
            }
        }
        Ok(())
    }

    fn on_words(&mut self) {
        let Some(sidecar) = &mut self.sidecar else { return };
        let words = sidecar.hear().unwrap_or_else(|error| {
            error!(%error, "the proxy is killed");
            sidecar.signal(Signal::KILL);
            Vec::new()
        });
        for word in words {
            match word {
                FromSidecar::Ready { addresses } => self.on_ready(addresses),
                FromSidecar::Unwell { reason } => self.on_unwell(&reason),
                FromSidecar::Probe(probe) => self.on_probe(probe),
            }
        }
    }

    fn on_probe(&mut self, probe: Probe) {
        if self.run.probes.contains(&probe.command) {
            // A namespace that is gone is told by the kernel.
            let _ = self.way.send(&Order::Probe(probe), &[]);
            return;
        }
        warn!("the proxy asks for a command that is none of its probes, and is refused");
        let failure = Some("it is none of the commands that this workload is probed by".to_owned());
        if let Some(sidecar) = &mut self.sidecar {
            // One that is gone asks again when it is back.
            let _ = sidecar.tell(&ToSidecar::Probed { id: probe.id, failure });
        }
    }

    /// One that is not alive is ended as if it had been asked to from outside, and started anew.
    fn on_unwell(&mut self, reason: &str) {
        if matches!(self.phase, Phase::Running) && self.times.kill_program.is_none() {
            warn!(reason, "the program is not well: it is ended and started anew");
            self.anew = true;
            self.ask_to_end(Signal::TERM.as_raw());
        }
    }

    fn on_ended_to_start_anew(&mut self, outcome: Outcome) {
        info!(?outcome, "the program ended; it is started anew");
        self.anew = false;
        self.times.kill_program = None;
        // A namespace that is gone is told by the kernel.
        let _ = self.way.send(&Order::Go { addresses: self.addresses.clone() }, &[]);
    }

    fn on_ready(&mut self, addresses: Vec<IpAddr>) {
        self.failures = 0;
        self.addresses.clone_from(&addresses);
        if matches!(self.phase, Phase::Waiting) {
            self.phase = Phase::Running;
            (self.times.notice, self.times.give_up) = (None, None);
            // A namespace that is gone is told by the kernel.
            let _ = self.way.send(&Order::Go { addresses }, &[]);
        }
    }

    /// Whoever started this is gone: nobody is left to wait for more than the end.
    fn on_lifeline(&mut self) {
        self.lifeline = false;
        self.on_terminate(Signal::TERM.as_raw());
    }

    /// The program is not there any more, or never will be: the sidecar ends next.
    fn ending(&mut self, outcome: Result<Outcome, RunError>, sidecar_time: Duration) {
        self.phase = Phase::Ending(outcome);
        self.times = Times { kill_sidecar: Instant::now().checked_add(sidecar_time), ..Times::default() };
        if let Some(sidecar) = &self.sidecar {
            sidecar.signal(Signal::TERM);
        }
    }

    /// Ends what is left.
    fn end(&mut self) {
        if let Some(sidecar) = self.sidecar.take() {
            sidecar.kill();
        }
        if let Some(path) = &self.run.sidecar_pid {
            // One that was never written is not there.
            let _ = fs::remove_file(path);
        }
        end_init(self.init);
    }
}

/// Ends the first process, and by that everything in its namespaces; they are gone when this returns.
fn end_init(init: Pid) {
    let _ = rustix::process::kill_process(init, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(init), WaitOptions::empty()));
}

fn receive_sockets(way: &Way) -> Result<Held, RunError> {
    let doing = "the namespace cannot be set up";
    let Some((Report::SetUp { tried, sockets }, descriptors)) = way.receive().map_err(failed(doing))? else {
        return Err(failed(doing)(io::ErrorKind::BrokenPipe.into()));
    };
    refuse(&tried)?;
    for (step, failure) in tried.iter().filter_map(|tried| Some((tried.step, tried.failure.as_ref()?))) {
        warn!("{step}: {}: {}", failure.words, step.without().unwrap_or_default());
    }
    let sockets = sockets.ok_or(io::ErrorKind::InvalidData.into()).map_err(failed(doing))?;
    Held::new(sockets, descriptors).map_err(failed(doing))
}
