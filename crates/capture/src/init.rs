//! The first process of a workload's namespaces: sets them up, starts the program, reaps, and supplies fresh sockets.
//!
//! It is a fork without exec, has one thread, and ends with its supervisor, however that ends; with it ends everything in
//! its process namespace. Signals reach it only as things to read: those of the terminal are for the program.

mod probes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};

use crate::orders::{Order, Report, Way};
use crate::outcome::Outcome;
use crate::privileges;
use crate::set_up::{self, Plan};
use crate::signals::{Before, Signals};
use crate::steps::{Step, Tried};
use crate::stock::Supply;

use probes::Probes;

/// After how long sockets are tried to be made again that could not be made: descriptors may be free again then.
const SUPPLY_AGAIN: Duration = Duration::from_secs(1);

/// The program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// Variables that it has beside those of this process; `None` where it has not one that this process has.
    pub(crate) environment: BTreeMap<OsString, Option<OsString>>,
    /// Whether its standard input is empty, not this process's.
    pub(crate) no_input: bool,
}

impl Program {
    /// Gives a command the program's variables, and has it be as this process was before.
    #[expect(unsafe_code, reason = "the mask of signals can only be set in the child")]
    fn dress(&self, command: &mut Command, before: Before) {
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // SAFETY: system calls only, none of which allocates or locks.
        unsafe { command.pre_exec(move || before.restore()) };
    }
}

struct Init {
    supervisor: Way,
    signals: Signals,
    before: Before,
    supplies: [Supply; 2],
    program: Program,
    running: Option<Pid>,
    /// Whether a program was started before.
    prepared: bool,
    probes: Probes,
}

/// Is the first process, until there is nothing to do any more. Returns the code to end with.
pub(crate) fn run(supervisor: Way, plan: &Plan, program: Program, before: Before) -> i32 {
    i32::from(serve(supervisor, plan, program, before).is_err())
}

fn serve(supervisor: Way, plan: &Plan, program: Program, before: Before) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let (mut tried, made) = set_up::set_up(plan);
    let hidden = hide();
    tried.push(Tried::new(Step::Privileges, &hidden));
    let Some(made) = made.filter(|_| hidden.is_ok()) else {
        return supervisor.send(&Report::SetUp { tried, sockets: None }, &[]);
    };
    let (numbers, descriptors) = made.sockets.hand_out(made.refused, made.stock);
    supervisor.send(&Report::SetUp { tried, sockets: Some(numbers) }, &descriptors)?;
    drop(descriptors);
    let signals = Signals::open()?;
    let (supplies, probes) = (made.supplies, Probes::default());
    Init { supervisor, signals, before, supplies, program, running: None, prepared: false, probes }.work()
}

/// The program, under the same user, shall not look into this process, whose descriptors lead out.
fn hide() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

impl Init {
    fn work(mut self) -> io::Result<()> {
        loop {
            let [order, signal, v4, v6] = self.wait()?;
            if order {
                let Some((order, _)) = self.supervisor.receive()? else { return Ok(()) };
                self.follow(order)?;
            }
            if signal {
                while self.signals.next()?.is_some() {}
                self.reap()?;
            }
            for (asked, supply) in [v4, v6].into_iter().zip(&self.supplies) {
                if asked || supply.is_short() {
                    supply.replace()?;
                }
            }
            self.probes.kill_late(Instant::now());
        }
    }

    /// Waits for something to do: an order, a signal, a stock of either IP version, or a probe's deadline.
    fn wait(&self) -> io::Result<[bool; 4]> {
        let [v4, v6] = &self.supplies;
        let mut polled = [
            PollFd::new(&self.supervisor, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(v4, PollFlags::IN),
            PollFd::new(v6, PollFlags::IN),
        ];
        let deadline = self.probes.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let again = self.supplies.iter().any(Supply::is_short).then_some(SUPPLY_AGAIN);
        let timeout = deadline.into_iter().chain(again).min().map(timespec);
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, timeout.as_ref()))?;
        Ok(polled.map(|polled| !polled.revents().is_empty()))
    }

    fn follow(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Go { addresses } => self.start(&addresses),
            Order::Signal(number) => {
                if let (Some(program), Some(signal)) = (self.running, Signal::from_named_raw(number)) {
                    // It may just have ended.
                    let _ = rustix::process::kill_process(program, signal);
                }
                Ok(())
            }
            Order::Probe(probe) => {
                let id = probe.id;
                if self.running.is_none() {
                    let failure = Some("the program does not run".to_owned());
                    return self.supervisor.send(&Report::Probed { id, failure }, &[]);
                }
                match self.probes.start(&probe, &self.program, self.before, Instant::now()) {
                    Ok(()) => Ok(()),
                    Err(why) => self.supervisor.send(&Report::Probed { id, failure: Some(why) }, &[]),
                }
            }
        }
    }

    fn start(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        match self.prepare(addresses).and_then(|()| self.command().spawn()) {
            Ok(child) => self.running = i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            Err(error) => {
                let missing = error.kind() == io::ErrorKind::NotFound;
                self.supervisor.send(&Report::NotStarted { words: error.to_string(), missing }, &[])?;
            }
        }
        Ok(())
    }

    /// Takes the workload's addresses and gives up what that took; before a program is started anew, ends what is left of
    /// the last one.
    fn prepare(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        if std::mem::replace(&mut self.prepared, true) {
            // Everything in the process namespace but this process. There may be nothing.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
            return Ok(());
        }
        // Connections are steered by where they go: an address that the kernel does not take only shows less.
        let _ = set_up::own(addresses);
        privileges::give_up()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.arguments);
        self.program.dress(&mut command, self.before);
        if self.program.no_input {
            command.stdin(Stdio::null());
        }
        command
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            let waited = rustix::process::wait(WaitOptions::NOHANG);
            let (pid, status) = match waited {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let Some(outcome) = Outcome::of(status.exit_status(), status.terminating_signal()) else {
                continue;
            };
            if self.running == Some(pid) {
                self.running = None;
                self.supervisor.send(&Report::Ended(outcome), &[])?;
            } else if let Some((id, failure)) = self.probes.ended(pid, outcome) {
                self.supervisor.send(&Report::Probed { id, failure }, &[])?;
            }
        }
    }
}

/// A duration as poll(2) takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    // A duration that is too long for the kernel is as good as the longest.
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
